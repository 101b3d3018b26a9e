#include "kernels/cpu/linear_impl.h"

#include "kernels/base/mem.h"
#include "kernels/cpu/norm_impl.h"

enum rxt_status cpu_weight_linear(struct weight **out, struct backend *be,
                                  const struct host_matrix *part, const struct host_vector *bias,
                                  int n_part, enum dtype storage)
{
    struct cpu_linear *w = mem_alloc(sizeof *w);
    if (!w)
        return RXT_ENOMEM;
    struct pool *pool = ((struct cpu_backend *)be)->pool;
    enum rxt_status st = packed_create(&w->w, pool, part, bias, n_part, false, storage);
    if (st != RXT_OK) {
        mem_free(w);
        return st;
    }
    w->base.bytes = packed_bytes(&w->w);
    *out = &w->base;
    return RXT_OK;
}

void cpu_linear_destroy(struct weight *base)
{
    struct cpu_linear *w = (struct cpu_linear *)base;
    packed_destroy(&w->w);
    mem_free(w);
}

struct scratch_need linear_need(const struct lane_limits *l)
{
    return norm_need(l);
}

static const struct packed *matrix(const struct weight *linear)
{
    return &((const struct cpu_linear *)linear)->w;
}

void linear_rows(struct cpu_lane *ln, struct tensor out, struct tensor x, const struct weight *norm,
                 const struct weight *linear)
{
    x = norm_rows(ln, x, NULL, norm);
    gemm_rows(ln, out, x, NULL, matrix(linear), GEMM_STORE, ACT_NONE);
}

enum rxt_status cpu_linear(struct lane *lane, struct tensor out, struct tensor x,
                           const struct weight *norm, const struct weight *linear)
{
    struct cpu_lane *ln = cpu_lane(lane);
    linear_rows(ln, out, x, norm, linear);
    lane_done(ln);
    return RXT_OK;
}

enum rxt_status cpu_linear_add(struct lane *lane, struct tensor x, struct tensor c,
                               const struct weight *linear)
{
    gemm_rows(cpu_lane(lane), x, c, NULL, matrix(linear), GEMM_ADD, ACT_NONE);
    return RXT_OK;
}

enum rxt_status cpu_head(struct lane *lane, struct tensor logits, struct tensor x,
                         const int32_t *row, const struct weight *norm, const struct weight *head)
{
    struct cpu_lane *ln = cpu_lane(lane);
    if (norm) {
        x.rows = logits.rows;
        x = norm_rows(ln, x, row, norm);
        row = NULL;
    }
    gemm_rows(ln, logits, x, row, matrix(head), GEMM_STORE, ACT_NONE);
    lane_done(ln);
    return RXT_OK;
}
