/* Which slots of a memory the decoder reads. No op tells the weights of an attention, but attention
 * to values that are unit vectors does: with v[s] = e_j in head h, column j of that head's context
 * is the weight of slot s. A head has hd columns, so S slots take S / hd passes. */
#include "rxt/rxt_impl.h"

#include "kernels/base/mem.h"

#include <math.h>
#include <string.h>

struct read_probe {
    struct rxt_worker *w;
    const struct stm *memory;
    struct heads heads;                /* of cross-attention, without its gate */
    struct tensor stm, kv, v, context; /* [S,D], [S,2*Hk*hd], [S,Hk*hd], [T,Ho*hd] */
    void *block;                       /* all of them */
    char *unit;                        /* [S,Hk*hd] in host memory, on its way to v */
    char *weights;                     /* [T,Ho*hd] in host memory, from context */
    float *attention, *entropy;        /* the caller's, or NULL */
};

static size_t view_bytes(struct tensor t)
{
    return (size_t)t.rows * (size_t)t.cols * dtype_bytes(t.dtype);
}

/* v[first + j] = e_j in every head, zero elsewhere. */
static enum rxt_status set_units(struct read_probe *p, int32_t first)
{
    const struct heads *h = &p->heads;
    const float one = 1;
    const bf16 half = bf16_from_f32(one);
    size_t size = dtype_bytes(p->v.dtype);
    memset(p->unit, 0, view_bytes(p->v));
    for (int32_t j = 0; j < h->dim && first + j < p->v.rows; j++)
        for (int32_t head = 0; head < h->n_kv; head++) {
            size_t at = (size_t)(first + j) * (size_t)p->v.cols + (size_t)(head * h->dim + j);
            memcpy(p->unit + at * size, p->v.dtype == DTYPE_F32 ? (const void *)&one : &half, size);
        }
    return lane_upload(p->w->ln, p->v.data, p->unit, view_bytes(p->v));
}

/* Adds up what one pass says of the slots from `first` on. */
static void take_weights(struct read_probe *p, int32_t index, int32_t first)
{
    const struct heads *h = &p->heads;
    int32_t n_head = p->context.cols / h->dim, n_token = p->context.rows, n_slot = p->v.rows;
    for (int32_t t = 0; t < n_token; t++)
        for (int32_t head = 0; head < n_head; head++)
            for (int32_t j = 0; j < h->dim && first + j < n_slot; j++) {
                size_t row = (size_t)index * (size_t)n_token + (size_t)t;
                float share =
                    dtype_value(p->weights, p->context.dtype,
                                (size_t)t * (size_t)p->context.cols + (size_t)(head * h->dim + j));
                if (p->attention)
                    p->attention[row * (size_t)n_slot + (size_t)(first + j)] +=
                        share / (float)n_head;
                if (p->entropy && share > 0)
                    p->entropy[row] -= share * log2f(share) / (float)n_head;
            }
}

enum rxt_status read_probe_layer(struct read_probe *p, struct tensor q,
                                 const struct layer_weights *l, const struct ragged *rows,
                                 int32_t index)
{
    struct lane *ln = p->w->ln;
    const struct heads *h = &p->heads;
    const int32_t slots[2] = {0, p->v.rows};
    TRY(op_convert(ln, p->stm, stm_read(p->memory, index)));
    TRY(op_linear(ln, p->kv, p->stm, l->stm_norm, l->cross_kv));
    const struct full_attention full = {
        .out = p->context,
        .q = tensor_cols(q, 0, h->n_q * h->dim),
        .k = tensor_cols(p->kv, 0, h->n_kv * h->dim),
        .v = p->v,
        .heads = *h,
        .rope_q = p->w->m->w.decoder.rope,
        .q_rows = *rows,
        .kv_rows = {.n_seq = 1, .offset = slots},
    };
    for (int32_t first = 0; first < p->v.rows; first += h->dim) {
        TRY(set_units(p, first));
        TRY(op_full_attention(ln, &full));
        TRY(lane_download(ln, p->weights, p->context.data, view_bytes(p->context)));
        take_weights(p, index, first);
    }
    return RXT_OK;
}

/* Cuts the buffers, or plans them. */
static void cut(struct read_probe *p, struct arena *a, int32_t n)
{
    const struct rxt_info *info = &p->w->m->info;
    int32_t rows[] = {info->n_slot, info->n_slot, info->n_slot, n};
    int32_t width = p->heads.n_kv * p->heads.dim;
    int32_t cols[] = {info->embed_dim, 2 * width, width, attention_out(&p->heads)};
    struct tensor *view[] = {&p->stm, &p->kv, &p->v, &p->context};
    for (int i = 0; i < 4; i++) {
        size_t value_bytes = dtype_bytes(backend_act_dtype(p->w->m->be));
        void *data = arena_cut(a, (size_t)rows[i] * (size_t)cols[i], value_bytes);
        *view[i] = worker_view(p->w, data, rows[i], cols[i]);
    }
}

static enum rxt_status open_probe(struct read_probe *p, int32_t n)
{
    p->heads = p->w->m->cfg->decoder.cross;
    p->heads.gate = ACT_NONE;
    struct arena a = arena_plan();
    cut(p, &a, n);
    p->block = backend_alloc(p->w->m->be, a.used);
    p->unit = mem_alloc(view_bytes(p->v));
    p->weights = mem_alloc(view_bytes(p->context));
    if (!p->block || !p->unit || !p->weights)
        return RXT_ENOMEM;
    a = (struct arena){.base = p->block, .size = a.used};
    cut(p, &a, n);
    return RXT_OK;
}

/* The decoder over all ids, watched. */
static enum rxt_status run(struct read_probe *p, const int32_t *ids, int32_t n)
{
    struct rxt_worker *w = p->w;
    struct rxt_read *read = NULL;
    struct rxt_slot *slot = NULL;
    const int32_t offset[2] = {0, n};
    const bool want = false;
    enum rxt_status st;
    TRY_OR(done, rxt_read_create(&read, w->m));
    TRY_OR(done, rxt_slot_create(&slot, w->m));
    TRY_OR(done, rxt_read_build(read, w, p->memory));
    w->probe = p;
    st = rxt_forward(w, &(struct rxt_batch){.rows = {.n_seq = 1, .offset = offset},
                                            .ids = ids,
                                            .slot = &slot,
                                            .read = (const struct rxt_read *const[]){read},
                                            .want = &want});
    w->probe = NULL;
    if (st == RXT_OK)
        st = lane_sync(w->ln);
done:
    rxt_slot_destroy(&slot);
    rxt_read_destroy(&read);
    return st;
}

enum rxt_status rxt_probe(struct rxt_worker *w, const struct stm *memory, const int32_t *ids,
                          int32_t n, float *attention, float *entropy)
{
    const struct rxt_info *info = &w->m->info;
    struct read_probe p = {.w = w, .memory = memory, .attention = attention, .entropy = entropy};
    if (!w->answers)
        return RXT_EINVAL;
    if (n < 1 || n > w->max_rows)
        return RXT_ESHAPE;
    size_t rows = (size_t)info->n_layer * (size_t)n;
    if (attention)
        memset(attention, 0, rows * (size_t)info->n_slot * sizeof *attention);
    if (entropy)
        memset(entropy, 0, rows * sizeof *entropy);
    enum rxt_status st = open_probe(&p, n);
    if (st == RXT_OK)
        st = run(&p, ids, n);
    mem_free(p.weights);
    mem_free(p.unit);
    backend_free(w->m->be, p.block);
    return st;
}

enum rxt_status rxt_probe_update(struct rxt_worker *w, struct stm *m, struct stm_spare *spare,
                                 const int32_t *ids, int32_t n, struct stm_slot_probe *out)
{
    const int32_t offset[2] = {0, n};
    const struct ragged rows = {.n_seq = 1, .offset = offset};
    const struct tensor *ed;
    TRY(rxt_memorize(w, &rows, ids, &ed));
    return stm_probe(w->updater, m, spare, ed, &rows, out);
}
