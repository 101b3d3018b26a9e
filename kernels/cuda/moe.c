#include "kernels/cuda/moe_impl.h"

#include "kernels/base/mem.h"
#include "kernels/cuda/norm_impl.h"
#include "kernels/cuda/scratch_impl.h"
#include "kernels/host_impl.h"

/* ---- weight ---- */

/* A small matrix that decides much: never rounded unless the model or the compute dtype says so. */
static enum rxt_status fill_router(struct linear *out, struct cuda_backend *be,
                                   const struct host_matrix *m, bool as_bf16)
{
    return linear_fill(out, be, m, NULL, 1, as_bf16 ? DTYPE_BF16 : DTYPE_F32);
}

static enum rxt_status fill_bias(float **out, struct cuda_backend *be, const struct host_vector *v)
{
    if (!v->data)
        return RXT_OK;
    float *host = mem_alloc_n((size_t)v->n, sizeof *host);
    if (!host)
        return RXT_ENOMEM;
    host_vector_read(host, v);
    enum rxt_status st = cuda_alloc_put(be, (void **)out, host, (size_t)v->n * sizeof *host);
    mem_free(host);
    return st;
}

static enum rxt_status fill(struct cuda_moe *w, struct cuda_backend *be, const struct moe_desc *d,
                            enum dtype storage)
{
    TRY(fill_router(&w->router, be, &d->router, d->router_bf16));
    if (w->n_shared > 1)
        TRY(fill_router(&w->shared_gate, be, &d->shared_gate, false));
    TRY(experts_fill(&w->routed, be, d->expert, w->n_expert, storage));
    if (w->n_shared > 0)
        TRY(experts_fill(&w->shared, be, d->shared, w->n_shared, storage));
    TRY(fill_bias(&w->bias, be, &d->global_bias));
    TRY(fill_bias(&w->shared_bias, be, &d->shared_bias));
    size_t biases = (w->bias ? (size_t)w->dim : 0) + (w->shared_bias ? (size_t)w->dim : 0);
    w->base.bytes = w->router.bytes + w->shared_gate.bytes + w->routed.bytes + w->shared.bytes +
                    biases * sizeof(float);
    w->base.expert_bytes = w->routed.bytes / (size_t)w->n_expert;
    return RXT_OK;
}

enum rxt_status cuda_weight_moe(struct weight **out, struct backend *b, const struct moe_desc *d,
                                enum dtype storage)
{
    struct cuda_backend *be = cuda_backend(b);
    if (d->n_expert > ROUTE_MAX_EXPERT || d->n_shared > ROUTE_MAX_EXPERT)
        return RXT_ESHAPE;
    struct cuda_moe *w = mem_alloc(sizeof *w);
    if (!w)
        return RXT_ENOMEM;
    float k = (float)d->top_k, shared = (float)d->n_shared;
    w->n_expert = d->n_expert;
    w->top_k = d->top_k;
    w->n_shared = d->n_shared;
    w->dim = d->router.cols;
    w->router_bf16 = d->router_bf16;
    w->routed_scale = d->weighted_shared ? k / (k + shared) : 1.0f;
    w->shared_scale = d->weighted_shared ? shared / (k + shared) : 1.0f;
    enum rxt_status st = fill(w, be, d, storage);
    if (st != RXT_OK) {
        cuda_moe_destroy(be, &w->base);
        return st;
    }
    *out = &w->base;
    return RXT_OK;
}

void cuda_moe_destroy(struct cuda_backend *be, struct weight *base)
{
    struct cuda_moe *w = (struct cuda_moe *)base;
    linear_empty(&w->router, be);
    linear_empty(&w->shared_gate, be);
    experts_empty(&w->routed, be);
    experts_empty(&w->shared, be);
    cuda_free(&be->base, w->bias);
    cuda_free(&be->base, w->shared_bias);
    mem_free(w);
}

/* ---- op ---- */

static struct route cut_route(struct cuda_lane *ln, const struct cuda_moe *w, int32_t n_row)
{
    size_t rows = (size_t)n_row, k = (size_t)w->top_k, e = (size_t)w->n_expert;
    size_t slots = scratch_slots(rows, k, e);
    struct route r = {
        .n_row = n_row,
        .n_expert = w->n_expert,
        .top_k = w->top_k,
        .n_shared = w->n_shared,
        .dim = w->dim,
        .max_group = (int32_t)(slots / 8),
        .max_item = (int32_t)(slots / 8),
    };
    r.logits = cuda_cut(ln, rows * e, sizeof(float));
    if (w->n_shared > 1)
        r.shared_logits = cuda_cut(ln, rows * (size_t)w->n_shared, sizeof(float));
    r.expert = cuda_cut(ln, rows * k, sizeof(int32_t));
    r.share = cuda_cut(ln, rows * k, sizeof(float));
    r.slot = cuda_cut(ln, rows * k, sizeof(int32_t));
    r.slot_row = cuda_cut(ln, slots, sizeof(int32_t));
    r.item = cuda_cut(ln, slots / 8, sizeof *r.item);
    r.n_group = cuda_cut(ln, 2, sizeof(int32_t));
    r.n_item = r.n_group + 1;
    return r;
}

/* Logits in float32 of the rows in groups. */
static void run_router(struct cuda_lane *ln, const struct linear *l, float *out, const void *groups,
                       int32_t n_row, bool round_bf16)
{
    struct gemm g = linear_gemm(l, n_row);
    g.x = groups;
    g.end = GEMM_F32;
    g.round_bf16 = round_bf16;
    g.out = out;
    g.out_stride = l->w.n;
    gemm_launch(ln, &g);
}

/* y of the slots. */
static void *run_routed(struct cuda_lane *ln, const struct cuda_moe *w, const struct route *r,
                        const void *groups)
{
    int32_t slots = 8 * r->max_group;
    const struct experts *e = &w->routed;
    void *rows = stage_cut(ln, slots, w->dim), *hidden = stage_cut(ln, slots, e->width);
    void *y = cuda_cut(ln, (size_t)slots * (size_t)w->dim, dtype_bytes(ln->base.be->act_dtype));
    gather_launch(ln, r, rows, groups, e->up.k);
    struct gemm g[2] = {experts_up(e, slots), experts_down(e, slots)};
    g[0].x = rows;
    g[0].out = hidden;
    g[1].x = hidden;
    g[1].out = y;
    g[1].out_stride = w->dim;
    for (int i = 0; i < 2; i++) {
        g[i].item = r->item;
        g[i].n_item = r->n_item;
        g[i].max_item = r->max_item;
        gemm_launch(ln, &g[i]);
    }
    return y;
}

/* y [Ns][R,D] of the shared experts, one after another over all rows. */
static void *run_shared(struct cuda_lane *ln, const struct cuda_moe *w, int32_t n_row,
                        const void *groups)
{
    const struct experts *e = &w->shared;
    size_t value = dtype_bytes(ln->base.be->act_dtype), one = (size_t)n_row * (size_t)w->dim;
    void *hidden = stage_cut(ln, n_row, e->width);
    char *y = cuda_cut(ln, (size_t)w->n_shared * one, value);
    for (int32_t s = 0; s < w->n_shared; s++) {
        struct gemm up = experts_up(e, n_row), down = experts_down(e, n_row);
        up.data = down.data = (const char *)e->data + (size_t)(s * e->step) * value;
        up.bias = e->b1 ? e->b1 + s * e->b1_step : NULL;
        down.bias = e->b2 ? e->b2 + (int64_t)s * w->dim : NULL;
        up.x = groups;
        up.out = hidden;
        gemm_launch(ln, &up);
        down.x = hidden;
        down.out = y + (size_t)s * one * value;
        down.out_stride = w->dim;
        gemm_launch(ln, &down);
    }
    return y;
}

enum rxt_status cuda_moe_add(struct lane *lane, struct tensor x, const struct weight *norm,
                             const struct weight *moe)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    const struct cuda_moe *w = (const struct cuda_moe *)moe;
    bool f32 = lane->be->act_dtype == DTYPE_F32;
    void *groups = stage_cut(ln, x.rows, w->dim), *seen = groups; /* by the router */
    stage_rows(ln, groups, x, NULL, x.rows, norm, false);
    if (f32 && w->router_bf16) {
        seen = stage_cut(ln, x.rows, w->dim);
        stage_rows(ln, seen, x, NULL, x.rows, norm, true);
    }
    struct route r = cut_route(ln, w, x.rows);
    run_router(ln, &w->router, r.logits, seen, x.rows, !f32 || w->router_bf16);
    if (r.shared_logits)
        run_router(ln, &w->shared_gate, r.shared_logits, groups, x.rows, !f32);
    route_launch(ln, &r);
    plan_launch(ln, &r);
    struct moe_sum s = {
        .r = r,
        .x = x,
        .bias = w->bias,
        .shared_bias = w->shared_bias,
        .routed_scale = w->routed_scale,
        .shared_scale = w->shared_scale,
    };
    s.y = run_routed(ln, w, &r, groups);
    if (w->n_shared > 0)
        s.y_shared = run_shared(ln, w, x.rows, groups);
    moe_sum_launch(ln, &s);
    return cuda_done(ln);
}
