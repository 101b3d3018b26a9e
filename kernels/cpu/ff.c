#include "kernels/cpu/ff_impl.h"

#include "kernels/base/mem.h"
#include "kernels/cpu/norm_impl.h"

enum rxt_status ff_fill(struct cpu_ff *out, struct pool *pool, const struct ff_desc *d,
                        enum dtype storage)
{
    TRY(packed_create(&out->w1, pool, &d->w1, &d->b1, 1, d->gated, storage));
    enum rxt_status st = packed_create(&out->w2, pool, &d->w2, &d->b2, 1, false, storage);
    if (st != RXT_OK)
        packed_destroy(&out->w1);
    out->act = d->act;
    out->base.bytes = packed_bytes(&out->w1) + packed_bytes(&out->w2);
    return st;
}

void ff_empty(struct cpu_ff *w)
{
    packed_destroy(&w->w1);
    packed_destroy(&w->w2);
}

enum rxt_status cpu_weight_ff(struct weight **out, struct backend *be, const struct ff_desc *d,
                              enum dtype storage)
{
    struct cpu_ff *w = mem_alloc(sizeof *w);
    if (!w)
        return RXT_ENOMEM;
    enum rxt_status st = ff_fill(w, ((struct cpu_backend *)be)->pool, d, storage);
    if (st != RXT_OK) {
        mem_free(w);
        return st;
    }
    *out = &w->base;
    return RXT_OK;
}

void cpu_ff_destroy(struct weight *w)
{
    ff_empty((struct cpu_ff *)w);
    mem_free(w);
}

struct scratch_need ff_need(const struct lane_limits *l)
{
    size_t hidden = (size_t)l->max_rows * (size_t)l->max_width * sizeof(float) + CPU_ALIGN;
    return (struct scratch_need){.shared = norm_need(l).shared + hidden};
}

enum rxt_status cpu_ff_add(struct lane *lane, struct tensor x, const struct weight *norm,
                           const struct weight *ff)
{
    struct cpu_lane *ln = cpu_lane(lane);
    const struct cpu_ff *w = (const struct cpu_ff *)ff;
    struct tensor h = norm_rows(ln, x, NULL, norm), hidden = x;
    hidden.cols = w->w1.n;
    hidden.stride = w->w1.n;
    hidden.data = lane_cut(ln, (size_t)x.rows * (size_t)w->w1.n, sizeof(float));
    gemm_rows(ln, hidden, h, NULL, &w->w1, GEMM_ACT, w->act);
    gemm_rows(ln, x, hidden, NULL, &w->w2, GEMM_ADD, ACT_NONE);
    lane_done(ln);
    return RXT_OK;
}
