#include "tests/ref/memory_attention.h"

#include <assert.h>
#include <stdlib.h>

static float *floats(int n)
{
    float *x = calloc((size_t)n, sizeof *x);
    assert(x);
    return x;
}

/* u [S,D] = Attn(q = x [S,D], kv = y [n_key,D]); the keys rotated by angle if there is one. */
static void attend(enum ref_mode mode, float *u, const struct ref_memory_attention *a,
                   const struct ref_projections *p, const float *x, const float *y, int n_key,
                   const float *angle)
{
    int n_q = p->heads.n_q * p->heads.dim, n_kv = p->heads.n_kv * p->heads.dim;
    int n_out = n_q > n_kv ? n_q : n_kv;
    float *q = floats(a->n_slot * n_q), *context = floats(a->n_slot * n_out);
    float *k = floats(n_key * n_kv), *v = floats(n_key * n_kv);
    ref_linear(mode, q, x, a->n_slot, &p->q, NULL);
    ref_linear(mode, k, y, n_key, &p->k, NULL);
    ref_linear(mode, v, y, n_key, &p->v, NULL);
    ref_attention(mode, context,
                  &(struct ref_attention){
                      .heads = p->heads,
                      .n_row = a->n_slot,
                      .n_key = n_key,
                      .q = q,
                      .k = k,
                      .v = v,
                      .angle_k = angle,
                  });
    ref_linear(mode, u, context, a->n_slot, &p->out, &p->bias);
    free(q);
    free(k);
    free(v);
    free(context);
}

/* m [S,D] = norm_m(mean_j M_j), j the layers of the group of layer i: all of them where there is
 * one group. */
static void group_mean(enum ref_mode mode, float *m, const struct ref_memory_attention *a, int i,
                       const float *stm)
{
    int size = a->n_layer / a->n_group, first = i - i % size, n = a->n_slot * a->dim;
    const float **member = calloc((size_t)size, sizeof *member);
    float *mean = floats(n);
    assert(member);
    for (int j = 0; j < size; j++)
        member[j] = stm + (first + j) * n;
    ref_mean(mode, mean, member, size, n);
    ref_norm(mode, m, mean, a->n_slot, &a->norm_m);
    free(member);
    free(mean);
}

/* x [S,D] = what the variant gives to main, by the table of spec 2.7. */
static void input_of_main(enum ref_mode mode, float *x, const struct ref_memory_attention *a, int i,
                          const float *stm)
{
    const struct ref_memory_layer *w = &a->layer[i];
    int n = a->n_slot * a->dim;
    const float *old = stm + i * n;
    float *normed = floats(n), *u = floats(n), *m = floats(n), *c = floats(n);
    switch (a->variant) {
    case REF_SIMPLE:
        for (int k = 0; k < n; k++)
            x[k] = old[k];
        break;
    case REF_SELF:
        ref_norm(mode, normed, old, a->n_slot, &w->norm_self);
        attend(mode, u, a, &w->self, normed, normed, a->n_slot, NULL);
        ref_gate(mode, x, old, u, &w->gate_self);
        break;
    case REF_INTERLAYER:
        ref_norm(mode, normed, old, a->n_slot, &w->norm_mean);
        group_mean(mode, m, a, i, stm);
        attend(mode, u, a, &w->mean, normed, m, a->n_slot, NULL);
        ref_gate(mode, x, old, u, &w->gate_mean);
        break;
    case REF_SELF_INTERLAYER:
    case REF_GROUPED_SELF_INTERLAYER:
        ref_norm(mode, normed, old, a->n_slot, &w->norm_mean);
        group_mean(mode, m, a, i, stm);
        ref_gate(mode, c, normed, m, &w->gate_interlayer);
        attend(mode, u, a, &w->mean, normed, c, a->n_slot, NULL);
        ref_gate(mode, x, old, u, &w->gate_mean);
        break;
    }
    free(normed);
    free(u);
    free(m);
    free(c);
}

void ref_memory_attention(enum ref_mode mode, float *out, const struct ref_memory_attention *a,
                          const float *stm, const float *ed, int n_token)
{
    int n = a->n_slot * a->dim;
    float *x = floats(n), *asked = floats(n), *u = floats(n), *told = floats(n_token * a->dim);
    for (int i = 0; i < a->n_layer; i++) {
        const struct ref_memory_layer *w = &a->layer[i];
        input_of_main(mode, x, a, i, stm);
        ref_norm(mode, asked, x, a->n_slot, &w->norm_mem);
        ref_norm(mode, told, ed + i * n_token * a->dim, n_token, &w->norm_input);
        attend(mode, u, a, &w->main, asked, told, n_token, a->angle);
        ref_gate(mode, out + i * n, x, u, &w->gate);
    }
    free(x);
    free(asked);
    free(u);
    free(told);
}
