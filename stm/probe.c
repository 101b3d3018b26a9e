/* What an update does to each slot: a look at its gates while it runs, and at its result. Off the
 * hot path: values are copied to the host and measured there. */
#include "stm/updater_impl.h"

#include "kernels/base/mem.h"

#include <math.h>

struct probe {
    struct stm_observer base; /* first: the observer is the probe */
    struct lane *ln;
    int32_t n_slot, dim;
    struct tensor zero, sum, blended; /* [S,D] in the backend's memory */
    void *block;                      /* all three of them */
    char *host;                       /* two layers of activations, or of stored values */
    float *share;                     /* [S] */
    struct stm_slot_probe *out;
};

static size_t view_bytes(struct tensor t)
{
    return (size_t)t.rows * (size_t)t.cols * dtype_bytes(t.dtype);
}

static float rms(const void *values, enum dtype dtype, size_t first, int32_t n)
{
    double squares = 0;
    for (size_t i = first; i < first + (size_t)n; i++) {
        double v = dtype_value(values, dtype, i);
        squares += v * v;
    }
    return (float)sqrt(squares / n);
}

/* p->sum = old + new, also in p->host: what gates look at. */
static enum rxt_status add_up(struct probe *p, struct tensor old, struct tensor new_)
{
    enum dtype t = p->sum.dtype;
    size_t bytes = view_bytes(p->sum), n = (size_t)p->n_slot * (size_t)p->dim;
    char *a = p->host, *b = p->host + bytes;
    TRY(lane_download(p->ln, a, old.data, bytes));
    TRY(lane_download(p->ln, b, new_.data, bytes));
    for (size_t i = 0; i < n; i++) {
        float both = dtype_value(a, t, i) + dtype_value(b, t, i);
        if (t == DTYPE_F32)
            memcpy(a + i * sizeof both, &both, sizeof both);
        else
            memcpy(a + i * sizeof(bf16), &(bf16){bf16_from_f32(both)}, sizeof(bf16));
    }
    return lane_upload(p->ln, p->sum.data, a, bytes);
}

/* share[s] = gate(old, new) over the sum, at the element where the sum is largest. */
static enum rxt_status read_share(struct probe *p, struct tensor old, struct tensor new_,
                                  const struct weight *gate)
{
    enum dtype t = p->sum.dtype;
    size_t bytes = view_bytes(p->sum), dim = (size_t)p->dim;
    const char *sum = p->host, *blended = p->host + bytes;
    TRY(op_gate(p->ln, p->blended, old, new_, gate));
    TRY(lane_download(p->ln, p->host + bytes, p->blended.data, bytes));
    for (size_t s = 0; s < (size_t)p->n_slot; s++) {
        size_t top = s * dim;
        for (size_t i = top; i < (s + 1) * dim; i++)
            if (fabsf(dtype_value(sum, t, i)) > fabsf(dtype_value(sum, t, top)))
                top = i;
        float in = dtype_value(sum, t, top);
        p->share[s] = fabsf(in) > 0 ? dtype_value(blended, t, top) / in + 0.0f : 0; /* no -0 */
    }
    return RXT_OK;
}

static enum rxt_status on_gate(struct stm_observer *o, int layer, enum stm_gate which,
                               struct tensor old, struct tensor new_, const struct weight *gate)
{
    struct probe *p = (struct probe *)o;
    struct stm_slot_probe *out = p->out + (size_t)layer * (size_t)p->n_slot;
    TRY(add_up(p, old, new_));
    if (which == STM_GATE_MAIN) { /* add_up has left `new` behind the sum */
        const char *offer = p->host + view_bytes(p->sum);
        for (int32_t s = 0; s < p->n_slot; s++)
            out[s].offer = rms(offer, p->sum.dtype, (size_t)s * (size_t)p->dim, p->dim);
    }
    TRY(read_share(p, p->zero, p->sum, gate));
    for (int32_t s = 0; s < p->n_slot; s++)
        out[s].gate[which].take = p->share[s];
    TRY(read_share(p, p->sum, p->zero, gate));
    for (int32_t s = 0; s < p->n_slot; s++)
        out[s].gate[which].keep = p->share[s];
    return RXT_OK;
}

/* What follows from the gates of a layer. */
static void conclude(struct stm_slot_probe *out, enum stm_variant variant)
{
    struct stm_gate_probe g = out->gate[STM_GATE_MAIN];
    float both = fabsf(g.take) + fabsf(g.keep);
    out->saturation = both > 0 ? fabsf(g.take - g.keep) / both : 0;
    out->keep = g.keep;
    if (variant == STM_SELF)
        out->keep *= out->gate[STM_GATE_SELF].keep;
    else if (variant != STM_SIMPLE)
        out->keep *= out->gate[STM_GATE_MEAN].keep;
}

/* Old and new slots, as they are stored. */
static enum rxt_status compare(struct probe *p, const struct stm *m, struct stm_spare *spare)
{
    struct stm_config one = m->cfg;
    struct stm_slot_diff *diff = mem_alloc_n((size_t)p->n_slot, sizeof *diff);
    enum rxt_status st = diff ? RXT_OK : RXT_ENOMEM;
    one.n_layer = 1;
    size_t bytes = stm_bytes(&one);
    for (int l = 0; l < m->cfg.n_layer && st == RXT_OK; l++) {
        const char *before = p->host, *after = p->host + bytes;
        struct stm_slot_probe *out = p->out + (size_t)l * (size_t)p->n_slot;
        TRY_OR(done, lane_download(p->ln, p->host, stm_read(m, l).data, bytes));
        TRY_OR(done, lane_download(p->ln, p->host + bytes,
                                   stm_layer(&spare->cfg, spare->values, l).data, bytes));
        TRY_OR(done, stm_diff(before, one.dtype, after, one.dtype, &one, diff));
        for (int32_t s = 0; s < p->n_slot; s++) {
            out[s].before = rms(before, one.dtype, (size_t)s * (size_t)p->dim, p->dim);
            out[s].after = rms(after, one.dtype, (size_t)s * (size_t)p->dim, p->dim);
            out[s].change = diff[s].change;
            out[s].cosine = diff[s].cosine;
        }
    }
done:
    mem_free(diff);
    return st;
}

static enum rxt_status open_probe(struct probe *p, const struct stm_updater *u)
{
    struct tensor view = {
        .dtype = backend_act_dtype(u->be), .rows = p->n_slot, .cols = p->dim, .stride = p->dim};
    size_t bytes = view_bytes(view);
    p->block = backend_alloc(u->be, 3 * bytes); /* zeroed */
    p->host = mem_alloc(2 * (size_t)p->n_slot * (size_t)p->dim * sizeof(float));
    p->share = mem_alloc_n((size_t)p->n_slot, sizeof *p->share);
    if (!p->block || !p->host || !p->share)
        return RXT_ENOMEM;
    p->zero = p->sum = p->blended = view;
    p->zero.data = p->block;
    p->sum.data = (char *)p->block + bytes;
    p->blended.data = (char *)p->block + 2 * bytes;
    return RXT_OK;
}

enum rxt_status stm_probe(struct stm_updater *u, struct stm *m, struct stm_spare *spare,
                          const struct tensor *ed, const struct ragged *rows,
                          struct stm_slot_probe *out)
{
    size_t n = (size_t)u->cfg.n_layer * (size_t)u->cfg.n_slot;
    struct probe p = {
        .base = {on_gate},
        .ln = u->ln,
        .n_slot = u->cfg.n_slot,
        .dim = u->cfg.embed_dim,
        .out = out,
    };
    memset(out, 0, n * sizeof *out);
    enum rxt_status st = open_probe(&p, u);
    if (st == RXT_OK)
        st = stm_update_observed(u, &m, &spare, 1, ed, rows, NULL, NULL, &p.base);
    if (st == RXT_OK || st == RXT_ENONFINITE)
        for (size_t i = 0; i < n; i++)
            conclude(&out[i], u->w->variant);
    if (st == RXT_OK)
        st = compare(&p, m, spare);
    mem_free(p.share);
    mem_free(p.host);
    backend_free(u->be, p.block);
    return st;
}
