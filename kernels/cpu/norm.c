#include "kernels/cpu/norm_impl.h"

#include "kernels/cpu/ops_impl.h"
#include "kernels/host_impl.h"

/* Of an element, as in struct task: measured 22; so much that the 16 rows of a first token are
 * shared. */
#define ELEMENT_WORK 25

static struct weight *lay_out(struct arena *a, const void *desc)
{
    const struct norm_desc *d = desc;
    struct cpu_norm *w = arena_cut(a, 1, sizeof *w);
    float *weight = host_vector_cut(a, &d->weight), *bias = host_vector_cut(a, &d->bias);
    float *scale = host_vector_cut(a, &d->scale), *gate = host_vector_cut(a, &d->gate);
    float *ema_rms = host_vector_cut(a, &d->ema_rms);
    if (!w)
        return NULL;
    static const float eps[] = {[NORM_RMS] = 0x1p-23f,
                                [NORM_LAYER] = 1e-5f,
                                [NORM_MIX_LAYER] = 1e-5f,
                                [NORM_MIX_RMS] = 1e-6f,
                                [NORM_MIX_SLOT] = 1e-6f};
    *w = (struct cpu_norm){
        .kind = d->kind,
        .dim = d->dim,
        .n_slot = d->kind == NORM_MIX_SLOT ? d->ema_rms.n : 0,
        .eps = eps[d->kind],
        .scale_by_slot = d->scale_by_slot,
        .weight = weight,
        .bias = bias,
        .scale = scale,
        .gate = gate,
        .ema_rms = ema_rms,
    };
    return &w->base;
}

enum rxt_status cpu_weight_norm(struct weight **out, struct backend *be, const struct norm_desc *d)
{
    (void)be;
    return host_weight_create(out, lay_out, d);
}

struct scratch_need norm_need(const struct lane_limits *l)
{
    return (struct scratch_need){
        .shared = (size_t)l->max_rows * (size_t)l->max_width * sizeof(float) + CPU_ALIGN,
    };
}

static void run(struct cpu_lane *ln, const struct norm_job *job, struct tensor x)
{
    lane_run(ln, ln->be->k->norm_rows, job, x.rows,
             ELEMENT_WORK * (uint64_t)x.rows * (uint64_t)x.cols);
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
    run(ln, &job, x);
    return y;
}

enum rxt_status cpu_norm(struct lane *ln, struct tensor out, struct tensor x,
                         const struct weight *norm)
{
    const struct norm_job job = {
        .norm = (const struct cpu_norm *)norm,
        .out = out.data,
        .x = x.data,
        .out_stride = out.stride,
        .x_stride = x.stride,
    };
    run(cpu_lane(ln), &job, x);
    return RXT_OK;
}
