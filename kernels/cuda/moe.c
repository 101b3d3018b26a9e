#include "kernels/cuda/moe_impl.h"

#include "kernels/base/count.h"
#include "kernels/base/mem.h"
#include "kernels/cuda/scratch_impl.h"
#include "kernels/cuda/step_impl.h"
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
    struct route r = {
        .n_row = n_row,
        .n_expert = w->n_expert,
        .top_k = w->top_k,
        .n_shared = w->n_shared,
        .dim = w->dim,
        .max_item = (int32_t)scratch_items(rows, k, e),
    };
    r.logits = cuda_cut(ln, rows * e, sizeof(float));
    if (w->n_shared > 1)
        r.shared_logits = cuda_cut(ln, rows * (size_t)w->n_shared, sizeof(float));
    r.expert = cuda_cut(ln, rows * k, sizeof(int32_t));
    r.share = cuda_cut(ln, rows * k, sizeof(float));
    r.slot = cuda_cut(ln, rows * k, sizeof(int32_t));
    r.slot_row = cuda_cut(ln, rows * k, sizeof(int32_t));
    r.item = cuda_cut(ln, (size_t)r.max_item, sizeof *r.item);
    r.n_item = cuda_cut(ln, 1, sizeof(int32_t));
    return r;
}

/* A gemm of logits in float32. */
static struct gemm logits_gemm(const struct linear *l, float *out, int32_t n_row, bool round_bf16)
{
    struct gemm g = linear_gemm(l, n_row);
    g.end = GEMM_F32;
    g.round_bf16 = round_bf16;
    g.out = out;
    g.out_stride = l->w.n;
    return g;
}

/* The logits of all experts, in one launch. Gives what the experts read, in scratch: norm(x). */
static void *run_router(struct cuda_lane *ln, const struct cuda_moe *w, const struct route *r,
                        struct tensor x, const struct weight *norm)
{
    bool f32 = ln->base.be->act_dtype == DTYPE_F32, apart = f32 && w->router_bf16;
    struct gemm g[2] = {logits_gemm(&w->router, r->logits, x.rows, !f32 || w->router_bf16)};
    int n = 1;
    if (r->shared_logits)
        g[n++] = logits_gemm(&w->shared_gate, r->shared_logits, x.rows, !f32);
    void *rows;
    if (apart) {
        void *seen = stage_cut(ln, x.rows, w->dim); /* by the router */
        rows = stage_cut(ln, x.rows, w->dim);
        stage_rows(ln, seen, x, NULL, x.rows, norm, true);
        stage_rows(ln, rows, x, NULL, x.rows, norm, false);
        gemm_staged(&g[0], seen);
        gemm_staged(&g[1], rows);
    } else {
        rows = gemm_input_kept(ln, g, n, x, norm);
    }
    gemm_launch(ln, g, n);
    return rows;
}

/* y [R*K,D] of the slots and y_shared [Ns][R,D], two launches for both. */
static void run_experts(struct cuda_lane *ln, const struct cuda_moe *w, struct moe_sum *s,
                        const void *rows)
{
    size_t value = dtype_bytes(ln->base.be->act_dtype), dim = (size_t)w->dim;
    int32_t n_row = s->r.n_row, slots = n_row * s->r.top_k;
    const struct experts *e[2] = {&w->routed, &w->shared};
    int n = w->n_shared > 0 ? 2 : 1;
    struct gemm up[2], down[2];
    for (int i = 0; i < n; i++) {
        int32_t all = i == 0 ? slots : n_row * w->n_shared;
        up[i] = experts_up(e[i], i == 0 ? slots : n_row);
        down[i] = experts_down(e[i], i == 0 ? slots : n_row);
        up[i].n_expert = down[i].n_expert = e[i]->n;
        gemm_staged(&up[i], rows);
        up[i].out = stage_cut(ln, all, e[i]->width);
        up[i].out_step = down[i].x_step = (int64_t)n_row * e[i]->down.k;
        gemm_staged(&down[i], up[i].out);
        down[i].out = cuda_cut(ln, (size_t)all * dim, value);
        down[i].out_stride = w->dim;
        down[i].out_step = (int64_t)n_row * w->dim;
    }
    up[0].x_row = s->r.slot_row;
    down[0].item_early = true;
    up[0].item = down[0].item = s->r.item;
    up[0].n_item = down[0].n_item = s->r.n_item;
    up[0].max_item = down[0].max_item = s->r.max_item;
    s->y = down[0].out;
    s->y_shared = n == 2 ? down[1].out : NULL;
    gemm_launch(ln, up, n);
    gemm_launch(ln, down, n);
}

/* Reads back which experts were chosen; only where somebody wants to count them. More than the
 * staging memory takes are not counted. */
static enum rxt_status count_chosen(struct cuda_lane *ln, const struct route *r)
{
    size_t n = (size_t)r->n_row * (size_t)r->top_k, bytes = n * sizeof *r->expert;
    if (bytes > CUDA_STAGING)
        return RXT_OK;
    TRY(step_flush(ln));
    TRY(cuda_check(ln->be, cudaMemcpyAsync(ln->staging, r->expert, bytes, cudaMemcpyDeviceToHost,
                                           ln->stream)));
    TRY(cuda_check(ln->be, cudaStreamSynchronize(ln->stream)));
    count_experts(ln->staging, n, r->n_expert);
    return RXT_OK;
}

enum rxt_status cuda_moe_add(struct lane *lane, struct tensor x, const struct weight *norm,
                             const struct weight *moe)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    const struct cuda_moe *w = (const struct cuda_moe *)moe;
    struct moe_sum s = {
        .r = cut_route(ln, w, x.rows),
        .x = x,
        .bias = w->bias,
        .shared_bias = w->shared_bias,
        .routed_scale = w->routed_scale,
        .shared_scale = w->shared_scale,
    };
    const void *rows = run_router(ln, w, &s.r, x, norm);
    route_launch(ln, &s.r);
    if (count_experts_wanted())
        TRY(count_chosen(ln, &s.r));
    run_experts(ln, w, &s, rows);
    moe_sum_launch(ln, &s);
    return cuda_done(ln);
}
