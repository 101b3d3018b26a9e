#include "kernels/cuda/linear_impl.h"

#include "kernels/base/mem.h"
#include "kernels/cuda/norm_impl.h"
#include "kernels/host_impl.h"

/* ---- weights ---- */

/* b1 or b2 of n feed-forwards one after another; zeros where one is absent. NULL: out of memory. */
static float *join_biases(const struct ff_desc *d, int32_t n, bool first, int32_t size)
{
    float *all = mem_alloc_n((size_t)n * (size_t)size, sizeof *all);
    for (int32_t i = 0; all && i < n; i++) {
        const struct host_vector *b = first ? &d[i].b1 : &d[i].b2;
        if (b->data)
            host_vector_read(all + (size_t)i * (size_t)size, b);
    }
    return all;
}

/* Gives *out on the device, NULL where no feed-forward has such a bias. */
static enum rxt_status put_biases(float **out, struct cuda_backend *be, const struct ff_desc *d,
                                  int32_t n, bool first, int32_t size)
{
    bool any = false;
    for (int32_t i = 0; i < n; i++)
        any = any || (first ? d[i].b1.data : d[i].b2.data);
    if (!any)
        return RXT_OK;
    float *all = join_biases(d, n, first, size);
    if (!all)
        return RXT_ENOMEM;
    enum rxt_status st =
        cuda_alloc_put(be, (void **)out, all, (size_t)n * (size_t)size * sizeof *all);
    mem_free(all);
    return st;
}

/* One expert after another through host memory of one. */
static enum rxt_status put_tiles(struct experts *e, struct cuda_backend *be,
                                 const struct ff_desc *d, enum dtype storage)
{
    enum dtype act = be->base.act_dtype;
    size_t bytes = (size_t)e->step * dtype_bytes(act);
    enum rxt_status st = RXT_OK;
    e->data = cuda_alloc(&be->base, (size_t)e->n * bytes);
    if (!e->data)
        return RXT_ENOMEM;
    for (int32_t i = 0; i < e->n && st == RXT_OK; i++) {
        void *packed = mem_alloc(bytes); /* zeroed */
        if (!packed)
            return RXT_ENOMEM;
        st = pack_ff(packed, act, &d[i], storage);
        if (st == RXT_OK)
            st = cuda_put(be, (char *)e->data + (size_t)i * bytes, packed, bytes);
        mem_free(packed);
    }
    return st;
}

enum rxt_status experts_fill(struct experts *out, struct cuda_backend *be, const struct ff_desc *d,
                             int32_t n, enum dtype storage)
{
    int32_t dim = d->w1.cols, width = d->w2.cols;
    enum rxt_status st = RXT_OK;
    struct experts e = {
        .up = tiles_up(dim, width),
        .down = tiles_down(dim, width),
        .n = n,
        .width = width,
        .act = d->act,
        .gated = d->gated,
        .step = (int64_t)tiles_ff_elements(dim, width),
        .b1_step = d->w1.rows,
    };
    *out = (struct experts){0};
    TRY_OR(fail, put_tiles(&e, be, d, storage));
    TRY_OR(fail, put_biases(&e.b1, be, d, n, true, d->w1.rows));
    TRY_OR(fail, put_biases(&e.b2, be, d, n, false, dim));
    size_t one = (size_t)e.step * dtype_bytes(be->base.act_dtype) +
                 ((e.b1 ? (size_t)d->w1.rows : 0) + (e.b2 ? (size_t)dim : 0)) * sizeof(float);
    e.bytes = (size_t)n * one;
    *out = e;
    return RXT_OK;
fail:
    experts_empty(&e, be);
    return st;
}

void experts_empty(struct experts *e, struct cuda_backend *be)
{
    cuda_free(&be->base, e->data);
    cuda_free(&be->base, e->b1);
    cuda_free(&be->base, e->b2);
    *e = (struct experts){0};
}

enum rxt_status cuda_weight_ff(struct weight **out, struct backend *b, const struct ff_desc *d,
                               enum dtype storage)
{
    struct cuda_ff *w = mem_alloc(sizeof *w);
    if (!w)
        return RXT_ENOMEM;
    enum rxt_status st = experts_fill(&w->e, cuda_backend(b), d, 1, storage);
    if (st != RXT_OK) {
        mem_free(w);
        return st;
    }
    w->base.bytes = w->e.bytes;
    *out = &w->base;
    return RXT_OK;
}

void cuda_ff_destroy(struct cuda_backend *be, struct weight *base)
{
    experts_empty(&((struct cuda_ff *)base)->e, be);
    mem_free(base);
}

/* ---- op ---- */

struct gemm experts_up(const struct experts *e, int32_t n_row)
{
    return (struct gemm){
        .w = e->up,
        .data = e->data,
        .bias = e->b1,
        .expert_step = e->step,
        .bias_step = e->b1_step,
        .n_expert = 1,
        .n_row = n_row,
        .end = GEMM_HIDDEN,
        .act = e->act,
        .gated = e->gated,
        .out_stride = e->down.k,
    };
}

struct gemm experts_down(const struct experts *e, int32_t n_row)
{
    return (struct gemm){
        .w = e->down,
        .data = e->data,
        .bias = e->b2,
        .expert_step = e->step,
        .bias_step = e->down.n,
        .n_expert = 1,
        .n_row = n_row,
    };
}

enum rxt_status cuda_ff_add(struct lane *lane, struct tensor x, const struct weight *norm,
                            const struct weight *ff)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    const struct experts *e = &((const struct cuda_ff *)ff)->e;
    struct gemm up = experts_up(e, x.rows), down = experts_down(e, x.rows);
    gemm_input(ln, &up, x, NULL, norm);
    up.out = stage_cut(ln, x.rows, e->width);
    gemm_launch(ln, &up, 1);
    gemm_staged(&down, up.out);
    down.end = GEMM_ADD;
    down.out = x.data;
    down.out_stride = x.stride;
    gemm_launch(ln, &down, 1);
    return cuda_done(ln);
}
