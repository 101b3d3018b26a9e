#include "kernels/cuda/linear_impl.h"

#include "kernels/base/mem.h"
#include "kernels/host_impl.h"

/* ---- weight ---- */

/* The biases of the parts one after another; zeros where one is absent. NULL: out of memory. */
static float *join_biases(const struct host_matrix *part, const struct host_vector *bias,
                          int n_part, int32_t n)
{
    float *all = mem_alloc_n((size_t)n, sizeof *all);
    if (!all)
        return NULL;
    for (int32_t i = 0, at = 0; i < n_part; at += part[i++].rows)
        if (bias[i].data)
            host_vector_read(all + at, &bias[i]);
    return all;
}

enum rxt_status linear_fill(struct linear *out, struct cuda_backend *be,
                            const struct host_matrix *part, const struct host_vector *bias,
                            int n_part, enum dtype storage)
{
    enum dtype act = be->base.act_dtype;
    enum rxt_status st = RXT_OK;
    float *all = NULL;
    int32_t n = 0;
    for (int i = 0; i < n_part; i++)
        n += part[i].rows;
    struct linear l = {.w = tiles_linear(n, part[0].cols)};
    *out = l;
    size_t bytes = tiles_linear_elements(&l.w) * dtype_bytes(act);
    void *packed = mem_alloc(bytes);
    if (!packed)
        return RXT_ENOMEM;
    TRY_OR(done, pack_linear(packed, act, part, n_part, storage));
    TRY_OR(done, cuda_alloc_put(be, &l.data, packed, bytes));
    l.bytes = bytes;
    if (bias) {
        all = join_biases(part, bias, n_part, n);
        if (!all)
            TRY_OR(done, RXT_ENOMEM);
        TRY_OR(done, cuda_alloc_put(be, (void **)&l.bias, all, (size_t)n * sizeof *all));
        l.bytes += (size_t)n * sizeof *all;
    }
    *out = l;
done:
    if (st != RXT_OK)
        linear_empty(&l, be);
    mem_free(packed);
    mem_free(all);
    return st;
}

void linear_empty(struct linear *l, struct cuda_backend *be)
{
    cuda_free(&be->base, l->data);
    cuda_free(&be->base, l->bias);
    *l = (struct linear){0};
}

enum rxt_status cuda_weight_linear(struct weight **out, struct backend *b,
                                   const struct host_matrix *part, const struct host_vector *bias,
                                   int n_part, enum dtype storage)
{
    struct cuda_linear *w = mem_alloc(sizeof *w);
    if (!w)
        return RXT_ENOMEM;
    enum rxt_status st = linear_fill(&w->l, cuda_backend(b), part, bias, n_part, storage);
    if (st != RXT_OK) {
        mem_free(w);
        return st;
    }
    w->base.bytes = w->l.bytes;
    *out = &w->base;
    return RXT_OK;
}

void cuda_linear_destroy(struct cuda_backend *be, struct weight *base)
{
    linear_empty(&((struct cuda_linear *)base)->l, be);
    mem_free(base);
}

/* ---- ops ---- */

struct gemm linear_gemm(const struct linear *l, int32_t n_row)
{
    return (struct gemm){
        .w = l->w, .data = l->data, .bias = l->bias, .n_expert = 1, .n_row = n_row};
}

/* out = or += W norm(x) + b of the rows of x, or of those that `row` names. */
static enum rxt_status run(struct lane *lane, struct tensor out, struct tensor x,
                           const int32_t *row, const struct weight *norm,
                           const struct weight *linear, enum gemm_end end)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    struct gemm g = linear_gemm(&((const struct cuda_linear *)linear)->l, out.rows);
    gemm_input(ln, &g, x, row, norm);
    g.end = end;
    g.out = out.data;
    g.out_stride = out.stride;
    gemm_launch(ln, &g, 1);
    return cuda_done(ln);
}

enum rxt_status cuda_linear(struct lane *ln, struct tensor out, struct tensor x,
                            const struct weight *norm, const struct weight *linear)
{
    return run(ln, out, x, NULL, norm, linear, GEMM_STORE);
}

enum rxt_status cuda_linear_add(struct lane *ln, struct tensor x, struct tensor c,
                                const struct weight *linear)
{
    return run(ln, x, c, NULL, NULL, linear, GEMM_ADD);
}

enum rxt_status cuda_head(struct lane *ln, struct tensor logits, struct tensor x,
                          const int32_t *row, const struct weight *norm, const struct weight *head)
{
    return run(ln, logits, x, row, norm, head, GEMM_F32);
}
