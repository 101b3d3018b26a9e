#include "tests/stm/memory_case.h"

#include "stm/stm_impl.h"
#include "tests/lib/test.h"

#include <math.h>

/* ---- weights ---------------------------------------------------------------------------- */

/* SplitMix64, uniform: a test makes some 20 million numbers, normal ones would take most of it. */
float *case_numbers(int n, int number, float scale)
{
    float *x = calloc((size_t)n, sizeof *x);
    assert_non_null(x);
    for (int i = 0; i < n; i++) {
        uint64_t z = ((uint64_t)number << 32) + (uint64_t)i * 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        x[i] = scale * 1.7320508f * ((float)(z >> 40) / 0x1p23f - 1);
    }
    return x;
}

/* n new weights around `centre`, kept by the case. */
static const float *numbers(struct memory_case *c, int n, float centre, float scale)
{
    assert_in_range(c->n_numbers, 0, 1023);
    float *x = case_numbers(n, 1000 + c->n_numbers, scale);
    for (int i = 0; i < n; i++)
        x[i] += centre;
    c->numbers[c->n_numbers++] = x;
    return x;
}

static struct host_vector vector(struct memory_case *c, int n, float centre, float scale)
{
    return (struct host_vector){numbers(c, n, centre, scale), DTYPE_F32, n};
}

static struct weight *keep(struct memory_case *c, struct weight *w)
{
    assert_in_range(c->n_owned, 0, 255);
    c->owned[c->n_owned++] = w;
    return w;
}

static struct host_matrix matrix(struct memory_case *c, int rows, int cols)
{
    return (struct host_matrix){.data = numbers(c, rows * cols, 0, 1.5f / sqrtf(CASE_DIM)),
                                .dtype = DTYPE_F32,
                                .rows = rows,
                                .cols = cols};
}

static struct weight *linear(struct memory_case *c, int n_part, const struct host_matrix *part,
                             const struct host_vector *bias)
{
    struct weight *w = NULL;
    assert_ok(weight_linear(&w, c->be, part, bias, n_part, DTYPE_F32));
    return keep(c, w);
}

static void attention(struct memory_case *c, struct stm_attention *a, struct ref_projections *ref,
                      int n_q, int n_kv)
{
    int dim = 8, n_out = (n_q > n_kv ? n_q : n_kv) * dim;
    *ref = (struct ref_projections){
        .heads = {.n_q = n_q, .n_kv = n_kv, .dim = dim},
        .q = matrix(c, n_q * dim, CASE_DIM),
        .k = matrix(c, n_kv * dim, CASE_DIM),
        .v = matrix(c, n_kv * dim, CASE_DIM),
        .out = matrix(c, CASE_DIM, n_out),
        .bias = vector(c, CASE_DIM, 0, 0.2f),
    };
    a->heads = ref->heads;
    a->q = linear(c, 1, &ref->q, NULL);
    a->kv = linear(c, 2, (const struct host_matrix[]){ref->k, ref->v}, NULL);
    a->out = linear(c, 1, &ref->out, &ref->bias);
}

static struct weight *norm(struct memory_case *c, struct norm_desc *d, const struct case_kind *kind)
{
    *d = (struct norm_desc){.kind = kind->norm, .dim = CASE_DIM};
    switch (kind->norm) {
    case NORM_LAYER: /* no memory norm is of this kind alone */
    case NORM_MIX_LAYER:
        d->bias = vector(c, CASE_DIM, 0, 0.2f);
        [[fallthrough]];
    case NORM_RMS:
        d->weight = vector(c, CASE_DIM, 1, 0.2f);
        break;
    case NORM_MIX_SLOT:
        d->ema_rms = vector(c, CASE_SLOTS, 0, 0.5f);
        for (int i = 0; i < CASE_SLOTS; i++)
            c->numbers[c->n_numbers - 1][i] = fabsf(((const float *)d->ema_rms.data)[i]) + 0.5f;
        break;
    case NORM_MIX_RMS:
        break;
    }
    if (kind->norm != NORM_RMS) {
        bool by_slot = kind->norm == NORM_MIX_SLOT;
        d->scale_by_slot = by_slot && kind->scale_by_slot;
        d->scale = vector(c, d->scale_by_slot ? CASE_SLOTS : CASE_DIM, 1, 0.2f);
        d->gate = vector(c, by_slot ? CASE_SLOTS : 1, 0.5f, 1);
    }
    struct weight *w = NULL;
    assert_ok(weight_norm(&w, c->be, d));
    return keep(c, w);
}

static struct weight *gate(struct memory_case *c, struct gate_desc *d, const struct case_kind *kind)
{
    int n = kind->per_slot ? CASE_SLOTS : 1;
    *d = (struct gate_desc){
        .kind = kind->gate,
        .tanh = kind->tanh,
        .per_slot = kind->per_slot,
        .n_slot = CASE_SLOTS,
        .dim = CASE_DIM,
    };
    if (kind->gate == GATE_STATIC || kind->gate == GATE_ELEMENTWISE)
        d->g = kind->g != 0 ? vector(c, n, kind->g, 0) : vector(c, n, 0.3f, 1);
    if (kind->gate == GATE_LINEAR) {
        d->w = (struct host_matrix){.data = numbers(c, n * CASE_SLOTS, 0, 0.4f),
                                    .dtype = DTYPE_F32,
                                    .rows = n,
                                    .cols = CASE_SLOTS};
        d->b = vector(c, n, 0, 0.5f);
    }
    if (kind->linear_status && (kind->gate == GATE_ELEMENTWISE || kind->gate == GATE_LINEAR)) {
        d->status_w = vector(c, CASE_DIM, 0, 0.2f);
        d->status_b = vector(c, 1, 0, 0.5f);
    }
    struct weight *w = NULL;
    assert_ok(weight_gate(&w, c->be, d));
    return keep(c, w);
}

/* theta[p,i] of spec 2.3. */
static struct weight *rope(struct memory_case *c, const float **angle, int half)
{
    float *a = calloc((size_t)(CASE_TOKENS * half), sizeof *a);
    assert_non_null(a);
    c->numbers[c->n_numbers++] = a;
    for (int p = 0; p < CASE_TOKENS; p++)
        for (int i = 0; i < half; i++)
            a[p * half + i] = (float)p / (float)pow(10000, (double)i / half);
    *angle = a;
    struct weight *w = NULL;
    assert_ok(weight_rope(&w, c->be, a, CASE_TOKENS, half));
    return keep(c, w);
}

void case_open(struct memory_case *c, struct backend *be, const struct case_kind *kind)
{
    static const enum ref_variant same[] = {
        [STM_SIMPLE] = REF_SIMPLE,
        [STM_SELF] = REF_SELF,
        [STM_INTERLAYER] = REF_INTERLAYER,
        [STM_SELF_INTERLAYER] = REF_SELF_INTERLAYER,
        [STM_GROUPED_SELF_INTERLAYER] = REF_GROUPED_SELF_INTERLAYER,
    };
    const struct case_kind input_norm = {.norm = NORM_RMS};
    bool self = kind->variant == STM_SELF, mean = kind->variant >= STM_INTERLAYER;
    bool mixed = kind->variant >= STM_SELF_INTERLAYER;
    int n_group = kind->variant == STM_GROUPED_SELF_INTERLAYER ? CASE_GROUPS : 1;
    *c = (struct memory_case){.be = be};
    c->cfg = (struct stm_config){
        .n_layer = CASE_LAYERS, .n_slot = CASE_SLOTS, .embed_dim = CASE_DIM, .dtype = DTYPE_F32};
    c->weights = (struct stm_weights){
        .variant = kind->variant, .n_layer = CASE_LAYERS, .n_group = n_group, .layer = c->layer};
    c->ref = (struct ref_memory_attention){.variant = same[kind->variant],
                                           .n_layer = CASE_LAYERS,
                                           .n_slot = CASE_SLOTS,
                                           .dim = CASE_DIM,
                                           .n_group = n_group,
                                           .layer = c->ref_layer};
    if (mean)
        c->weights.norm_m = norm(c, &c->ref.norm_m, kind);
    if (!kind->no_rope)
        c->weights.rope = rope(c, &c->ref.angle, 4);
    for (int i = 0; i < CASE_LAYERS; i++) {
        struct stm_layer_weights *w = &c->layer[i];
        struct ref_memory_layer *r = &c->ref_layer[i];
        attention(c, &w->main, &r->main, 4, 2);
        w->norm_input = norm(c, &r->norm_input, &input_norm);
        w->norm_mem = norm(c, &r->norm_mem, kind);
        w->gate = gate(c, &r->gate, kind);
        if (self) {
            attention(c, &w->self, &r->self, 2, 2);
            w->norm_self = norm(c, &r->norm_self, kind);
            w->gate_self = gate(c, &r->gate_self, kind);
        }
        if (mean) { /* more key than query heads: reverse SQA */
            attention(c, &w->mean, &r->mean, 2, 4);
            w->norm_mean = norm(c, &r->norm_mean, kind);
            w->gate_mean = gate(c, &r->gate_mean, kind);
        }
        if (mixed)
            w->gate_interlayer = gate(c, &r->gate_interlayer, kind);
    }
}

void case_close(struct memory_case *c)
{
    for (int i = 0; i < c->n_owned; i++)
        weight_destroy(c->be, &c->owned[i]);
    for (int i = 0; i < c->n_numbers; i++)
        free(c->numbers[i]);
    *c = (struct memory_case){0};
}

/* ---- what an update runs on ------------------------------------------------------------- */

struct lane *case_lane(const struct memory_case *c, int n_memory)
{
    struct lane_limits limits;
    stm_lane_limits(&c->cfg, &c->weights, n_memory, n_memory * CASE_TOKENS, &limits);
    struct lane *ln = NULL;
    assert_ok(lane_create(&ln, c->be, LANE_MEMORY, &limits));
    return ln;
}

struct stm *case_memory(const struct memory_case *c, struct lane *ln, enum dtype dtype,
                        const float *values)
{
    struct stm_config cfg = c->cfg;
    cfg.dtype = dtype;
    cfg.stored = values;
    cfg.stored_dtype = DTYPE_F32;
    struct stm *m = NULL;
    assert_ok(stm_create(&m, ln, &cfg, STM_CHECKPOINT, 0));
    return m;
}

static void *stored(struct lane *ln, const struct stm_config *cfg, const void *values)
{
    void *out = malloc(stm_bytes(cfg));
    assert_non_null(out);
    assert_ok(lane_download(ln, out, values, stm_bytes(cfg)));
    return out;
}

void *case_stored(struct lane *ln, const struct stm *m)
{
    return stored(ln, &m->cfg, m->values);
}

void *case_spare_stored(struct lane *ln, const struct stm_spare *s)
{
    return stored(ln, &s->cfg, s->values);
}

void case_ed_open(struct case_ed *e, struct lane *ln, int n, const int *rows, float *const *ed)
{
    *e = (struct case_ed){.be = lane_backend(ln)};
    assert_in_range(n, 1, 16);
    for (int i = 0; i < n; i++)
        e->offset[i + 1] = e->offset[i] + rows[i];
    e->rows = (struct ragged){.n_seq = n, .offset = e->offset};
    size_t row = CASE_DIM * sizeof(float);
    for (int l = 0; l < CASE_LAYERS; l++) {
        char *data = backend_alloc(e->be, (size_t)e->offset[n] * row);
        assert_non_null(data);
        e->ed[l] = (struct tensor){.data = data,
                                   .dtype = DTYPE_F32,
                                   .rows = e->offset[n],
                                   .cols = CASE_DIM,
                                   .stride = CASE_DIM};
        for (int i = 0; i < n; i++)
            assert_ok(lane_upload(ln, data + (size_t)e->offset[i] * row,
                                  ed[i] + l * rows[i] * CASE_DIM, (size_t)rows[i] * row));
    }
}

void case_ed_close(struct case_ed *e)
{
    for (int l = 0; l < CASE_LAYERS; l++)
        backend_free(e->be, e->ed[l].data);
}

/* ---- batches ---------------------------------------------------------------------------- */

void inputs_open(struct inputs *in)
{
    for (int i = 0; i < 16; i++) {
        in->rows[i] = 1 + (i * 7 + 22) % CASE_TOKENS; /* 23, 6, 13, 20, 3, ... */
        in->values[i] = case_numbers(CASE_VALUES, i, 1);
        in->ed[i] = case_numbers(CASE_LAYERS * in->rows[i] * CASE_DIM, 100 + i, 1.5f);
        in->dtype[i] = i % 3 == 1 ? DTYPE_BF16 : DTYPE_F32;
    }
}

void inputs_close(struct inputs *in)
{
    for (int i = 0; i < 16; i++) {
        free(in->values[i]);
        free(in->ed[i]);
    }
}

void batch_open(struct batch *b, struct memory_case *c, const struct inputs *in, int first, int n)
{
    *b = (struct batch){.c = c, .n = n, .ln = case_lane(c, n)};
    assert_ok(stm_updater_create(&b->updater, b->ln, &c->cfg, &c->weights, n, n * CASE_TOKENS));
    for (int k = 0; k < 2; k++) {
        struct stm_config cfg = c->cfg;
        cfg.dtype = k ? DTYPE_BF16 : DTYPE_F32;
        assert_ok(stm_pool_create(&b->pool[k], c->be, &cfg, n));
    }
    case_ed_open(&b->ed, b->ln, n, in->rows + first, in->ed + first);
    for (int i = 0; i < n; i++) {
        enum dtype dtype = in->dtype[first + i];
        b->m[i] = case_memory(c, b->ln, dtype, in->values[first + i]);
        b->spare[i] = stm_spare_take(b->pool[dtype == DTYPE_BF16]);
        assert_non_null(b->spare[i]);
    }
}

enum rxt_status batch_run(struct batch *b)
{
    return stm_update(b->updater, b->m, b->spare, b->n, b->ed.ed, &b->ed.rows, NULL, b->bad);
}

void batch_close(struct batch *b)
{
    for (int i = 0; i < b->n; i++) {
        stm_spare_give(b->pool[stm_config_of(b->m[i])->dtype == DTYPE_BF16], &b->spare[i]);
        stm_destroy(&b->m[i]);
    }
    case_ed_close(&b->ed);
    stm_pool_destroy(&b->pool[0]);
    stm_pool_destroy(&b->pool[1]);
    stm_updater_destroy(&b->updater);
    lane_destroy(&b->ln);
}
