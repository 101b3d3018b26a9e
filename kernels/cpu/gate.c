#include "kernels/cpu/gate_impl.h"

#include "kernels/cpu/ops_impl.h"
#include "kernels/host_impl.h"

/* As in struct task; measured. */
#define STATUS_WORK 8 /* of an element */
#define BLEND_WORK 14 /* of an element */
#define MIX_WORK 20   /* of a slot in a sum over slots */

static struct weight *lay_out(struct arena *a, const void *desc)
{
    const struct gate_desc *d = desc;
    struct cpu_gate *w = arena_cut(a, 1, sizeof *w);
    float *g = host_vector_cut(a, &d->g), *b = host_vector_cut(a, &d->b);
    float *status_w = host_vector_cut(a, &d->status_w), *m = NULL;
    if (d->kind == GATE_LINEAR)
        m = arena_cut(a, (size_t)d->w.rows * (size_t)d->w.cols, sizeof *m);
    if (!w)
        return NULL;
    for (int32_t r = 0; m && r < d->w.rows; r++)
        host_row_read(m + (int64_t)r * d->w.cols, &d->w, r, 0, d->w.cols);
    *w = (struct cpu_gate){
        .kind = d->kind,
        .tanh = d->tanh,
        .per_slot = d->per_slot,
        .n_slot = d->n_slot,
        .dim = d->dim,
        .g = g,
        .w = m,
        .b = b,
        .status_w = status_w,
    };
    if (d->status_b.data)
        host_vector_read(&w->status_b, &d->status_b);
    return &w->base;
}

enum rxt_status cpu_weight_gate(struct weight **out, struct backend *be, const struct gate_desc *d)
{
    (void)be;
    return host_weight_create(out, lay_out, d);
}

struct scratch_need gate_need(const struct lane_limits *l)
{
    return (struct scratch_need){.shared = (size_t)l->max_rows * sizeof(float) + CPU_ALIGN};
}

enum rxt_status cpu_gate(struct lane *base, struct tensor out, struct tensor old,
                         struct tensor new_, const struct weight *gate)
{
    struct cpu_lane *ln = cpu_lane(base);
    const struct cpu_gate *w = (const struct cpu_gate *)gate;
    const struct kernels *k = ln->be->k;
    uint64_t size = (uint64_t)out.rows * (uint64_t)out.cols;
    struct gate_job job = {w, out, old, new_, NULL};
    if (w->kind == GATE_ELEMENTWISE || w->kind == GATE_LINEAR) {
        job.status = lane_cut(ln, (size_t)out.rows, sizeof *job.status);
        lane_run(ln, k->gate_status, &job, out.rows, STATUS_WORK * size);
        if (!w->per_slot)
            lane_run(ln, k->gate_memories, &job, out.rows / w->n_slot,
                     MIX_WORK * (uint64_t)out.rows);
    }
    uint64_t mix = w->kind == GATE_LINEAR && w->per_slot
                       ? MIX_WORK * (uint64_t)out.rows * (uint64_t)w->n_slot
                       : 0;
    lane_run(ln, k->gate_blend, &job, out.rows, BLEND_WORK * size + mix);
    lane_done(ln);
    return RXT_OK;
}

enum rxt_status cpu_gate_store(struct lane *ln, struct tensor out, bool *finite, struct tensor via,
                               struct tensor old, struct tensor new_, const struct weight *gate)
{
    TRY(cpu_gate(ln, via, old, new_, gate));
    TRY(cpu_convert(ln, out, via));
    return cpu_finite(ln, finite, out);
}
