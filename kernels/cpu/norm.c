#include "kernels/cpu/norm_impl.h"

#include "kernels/base/mem.h"
#include "kernels/host_impl.h"

enum rxt_status cpu_weight_norm(struct weight **out, struct backend *be, const struct norm_desc *d)
{
    (void)be;
    if (d->kind != NORM_RMS && d->kind != NORM_LAYER)
        return RXT_EUNSUPPORTED;
    struct cpu_norm *w = mem_alloc(sizeof *w + 2 * (size_t)d->dim * sizeof(float));
    if (!w)
        return RXT_ENOMEM;
    float *values = (float *)(w + 1);
    host_vector_read(values, &d->weight);
    if (d->kind == NORM_LAYER)
        host_vector_read(values + d->dim, &d->bias);
    w->kind = d->kind;
    w->dim = d->dim;
    w->weight = values;
    w->bias = values + d->dim;
    w->eps = d->kind == NORM_RMS ? 0x1p-23f : 1e-5f;
    w->base.bytes = sizeof *w + 2 * (size_t)d->dim * sizeof(float);
    *out = &w->base;
    return RXT_OK;
}

void cpu_norm_destroy(struct weight *w)
{
    mem_free(w);
}

struct scratch_need norm_need(const struct lane_limits *l)
{
    return (struct scratch_need){
        .shared = (size_t)l->max_rows * (size_t)l->max_width * sizeof(float) + CPU_ALIGN,
    };
}

struct tensor norm_rows(struct cpu_lane *ln, struct tensor x, const int32_t *row,
                        const struct weight *norm)
{
    if (!norm)
        return x;
    struct tensor y = x;
    y.stride = x.cols;
    y.data = lane_cut(ln, (size_t)x.rows * (size_t)x.cols, sizeof(float));
    const struct norm_job job = {
        .norm = (const struct cpu_norm *)norm,
        .out = y.data,
        .x = x.data,
        .row = row,
        .out_stride = y.stride,
        .x_stride = x.stride,
    };
    /* some 8 operations an element */
    lane_run(ln, ln->be->k->norm_rows, &job, x.rows, 8 * (uint64_t)x.rows * (uint64_t)x.cols);
    return y;
}
