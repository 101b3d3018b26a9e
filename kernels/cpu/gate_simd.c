#include "kernels/cpu/simd_impl.h"

#include "kernels/cpu/gate_impl.h"
#include "kernels/cpu/math_impl.h"

static const float *row_of(struct tensor t, int32_t r)
{
    return (const float *)t.data + r * t.stride;
}

/* sum of a . b, n values */
static float dot(const float *a, const float *b, int32_t n)
{
    struct vec sum = vec_zero();
    for (int32_t i = 0; i < n; i += VEC) {
        int lanes = vec_left(n - i);
        sum = vec_fma(vec_load_n(a + i, lanes), vec_load_n(b + i, lanes), sum);
    }
    return vec_sum(sum);
}

/* status[r] of new + old. Item = row. */
void SIMD(gate_status)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct gate_job *job = arg;
    const struct cpu_gate *w = job->gate;
    for (int32_t r = first; r < last; r++) {
        const float *old = row_of(job->old, r), *new_ = row_of(job->new_, r);
        struct vec sum = vec_zero();
        for (int32_t i = 0; i < w->dim; i += VEC) {
            int lanes = vec_left(w->dim - i);
            struct vec both = vec_add(vec_load_n(new_ + i, lanes), vec_load_n(old + i, lanes));
            sum = w->status_w ? vec_fma(both, vec_load_n(w->status_w + i, lanes), sum)
                              : vec_add(sum, both);
        }
        float total = vec_sum(sum);
        job->status[r] = w->status_w ? total + w->status_b : total / (float)w->dim;
    }
}

/* status -> z where one number serves all slots. Item = memory. */
void SIMD(gate_memories)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct gate_job *job = arg;
    const struct cpu_gate *w = job->gate;
    for (int32_t m = first; m < last; m++) {
        float *status = job->status + (int64_t)m * w->n_slot;
        if (w->kind == GATE_LINEAR) {
            status[0] = dot(w->w, status, w->n_slot) + w->b[0];
            continue;
        }
        struct vec sum = vec_zero();
        for (int32_t s = 0; s < w->n_slot; s += VEC)
            sum = vec_add(sum, vec_load_n(status + s, vec_left(w->n_slot - s)));
        status[0] = w->g[0] * (vec_sum(sum) / (float)w->n_slot);
    }
}

/* z of a row. */
static float gate_input(const struct gate_job *job, int32_t r)
{
    const struct cpu_gate *w = job->gate;
    int32_t slot = r % w->n_slot;
    if (w->kind == GATE_STATIC)
        return w->g[w->per_slot ? slot : 0];
    const float *status = job->status + (r - slot);
    if (!w->per_slot)
        return status[0];
    if (w->kind == GATE_ELEMENTWISE)
        return w->g[slot] * status[slot];
    return dot(w->w + (int64_t)slot * w->n_slot, status, w->n_slot) + w->b[slot];
}

/* out = take new + keep old. Item = row. */
void SIMD(gate_blend)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct gate_job *job = arg;
    const struct cpu_gate *w = job->gate;
    for (int32_t r = first; r < last; r++) {
        struct vec one = vec_set(1.0f), take = one, keep = one; /* GATE_ADD */
        if (w->kind != GATE_REPLACE && w->kind != GATE_ADD) {
            struct vec z = vec_set(gate_input(job, r));
            struct vec g = w->tanh ? vec_tanh(z) : vec_sigmoid(z);
            take = w->tanh ? vec_add(one, g) : g;
            keep = vec_sub(one, g);
        }
        const float *old = row_of(job->old, r), *new_ = row_of(job->new_, r);
        float *out = (float *)job->out.data + r * job->out.stride; // out[r,:]
        for (int32_t i = 0; i < w->dim; i += VEC) {
            int lanes = vec_left(w->dim - i);
            struct vec y = vec_load_n(new_ + i, lanes);
            if (w->kind != GATE_REPLACE)
                y = vec_fma(take, y, vec_mul(keep, vec_load_n(old + i, lanes)));
            vec_store_n(out + i, y, lanes);
        }
    }
}
