#include "kernels/cpu/moe_impl.h"

#include "kernels/base/count.h"
#include "kernels/base/mem.h"
#include "kernels/cpu/norm_impl.h"
#include "kernels/host_impl.h"

#include <string.h>

/* As in struct task; measured. */
#define ROUND_WORK 11  /* of an element */
#define ROUTE_WORK 250 /* of an expert: 220 of 64, 410 of 16 where 4 are chosen */
#define SUM_WORK 9     /* of an element of each expert's result: 8 to 11 */

/* ---- weight ---- */

/* A small matrix that decides much: never rounded unless the model says so. */
static enum rxt_status pack_router(struct packed *out, struct pool *pool,
                                   const struct host_matrix *m, bool as_bf16)
{
    enum dtype storage = as_bf16 || m->dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    return packed_create(out, pool, m, NULL, 1, false, storage);
}

static enum rxt_status fill(struct cpu_moe *w, struct pool *pool, const struct moe_desc *d,
                            enum dtype storage)
{
    w->ff = mem_alloc_n((size_t)w->n_expert + (size_t)w->n_shared, sizeof *w->ff);
    w->bias = mem_alloc_n((size_t)w->dim, sizeof *w->bias);
    w->shared_bias = mem_alloc_n((size_t)w->dim, sizeof *w->shared_bias);
    if (!w->ff || !w->bias || !w->shared_bias)
        return RXT_ENOMEM;
    host_vector_read(w->bias, &d->global_bias);
    host_vector_read(w->shared_bias, &d->shared_bias);
    TRY(pack_router(&w->router, pool, &d->router, d->router_bf16));
    if (w->n_shared > 1)
        TRY(pack_router(&w->shared_gate, pool, &d->shared_gate, false));
    size_t bytes = packed_bytes(&w->router) + packed_bytes(&w->shared_gate);
    for (int32_t i = 0; i < w->n_expert + w->n_shared; i++) {
        const struct ff_desc *e = i < w->n_expert ? &d->expert[i] : &d->shared[i - w->n_expert];
        TRY(ff_fill(&w->ff[i], pool, e, storage));
        bytes += w->ff[i].base.bytes;
        if (w->ff[i].w1.n > w->width)
            w->width = w->ff[i].w1.n;
    }
    w->base.bytes = bytes + 2 * (size_t)w->dim * sizeof(float);
    w->base.expert_bytes = w->ff[0].base.bytes;
    return RXT_OK;
}

enum rxt_status cpu_weight_moe(struct weight **out, struct backend *be, const struct moe_desc *d,
                               enum dtype storage)
{
    struct cpu_moe *w = mem_alloc(sizeof *w);
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
    enum rxt_status st = fill(w, ((struct cpu_backend *)be)->pool, d, storage);
    if (st != RXT_OK) {
        cpu_moe_destroy(&w->base);
        return st;
    }
    *out = &w->base;
    return RXT_OK;
}

void cpu_moe_destroy(struct weight *base)
{
    struct cpu_moe *w = (struct cpu_moe *)base;
    packed_destroy(&w->router);
    packed_destroy(&w->shared_gate);
    for (int32_t i = 0; w->ff && i < w->n_expert + w->n_shared; i++)
        ff_empty(&w->ff[i]);
    mem_free(w->ff);
    mem_free(w->bias);
    mem_free(w->shared_bias);
    mem_free(w);
}

/* ---- op ---- */

/* What a call cuts: everything between the normalised rows and the sum. */
struct plan {
    float *rounded, *logits, *shared_logits, *share, *hidden, *y;
    int32_t *expert, *slot, *slot_row, *n_of;
    struct gemm_group *group;
    const struct cpu_ff **group_ff; /* whose rows a group holds */
};

static struct plan cut(struct cpu_lane *ln, const struct cpu_moe *w, int32_t n_row)
{
    size_t rows = (size_t)n_row, k = (size_t)w->top_k, shared = (size_t)w->n_shared;
    size_t slots = rows * (k + shared), dim = (size_t)w->dim;
    return (struct plan){
        .rounded = lane_cut(ln, w->router_bf16 ? rows * dim : 1, sizeof(float)),
        .logits = lane_cut(ln, rows * (size_t)w->n_expert, sizeof(float)),
        .shared_logits = lane_cut(ln, rows * shared + 1, sizeof(float)),
        .share = lane_cut(ln, rows * k, sizeof(float)),
        .hidden = lane_cut(ln, slots * (size_t)w->width, sizeof(float)),
        .y = lane_cut(ln, slots * dim, sizeof(float)),
        .expert = lane_cut(ln, rows * k, sizeof(int32_t)),
        .slot = lane_cut(ln, rows * k, sizeof(int32_t)),
        .slot_row = lane_cut(ln, slots, sizeof(int32_t)),
        .n_of = lane_cut(ln, (size_t)w->n_expert, sizeof(int32_t)),
        .group = lane_cut(ln, (size_t)w->n_expert + shared, sizeof(struct gemm_group)),
        .group_ff = lane_cut(ln, (size_t)w->n_expert + shared, sizeof(struct cpu_ff *)),
    };
}

static void add_group(struct plan *p, int32_t *n_group, const struct cpu_ff *ff, int32_t first_row,
                      int32_t n_row)
{
    p->group_ff[*n_group] = ff;
    p->group[*n_group] = (struct gemm_group){.first_row = first_row, .n_row = n_row};
    (*n_group)++;
}

/* Gives every choice its slot, the slots of one expert side by side in the order of rows, then
 * every row its slots with the shared experts. Gives the number of groups. */
static int32_t sort_by_expert(const struct cpu_moe *w, struct plan *p, int32_t n_row)
{
    int32_t n_choice = n_row * w->top_k, n_group = 0, first = 0;
    memset(p->n_of, 0, (size_t)w->n_expert * sizeof *p->n_of);
    for (int32_t i = 0; i < n_choice; i++)
        p->n_of[p->expert[i]]++;
    for (int32_t e = 0; e < w->n_expert; e++) {
        int32_t n = p->n_of[e];
        p->n_of[e] = first; /* from here on: its next free slot */
        if (n > 0)
            add_group(p, &n_group, &w->ff[e], first, n);
        first += n;
    }
    for (int32_t i = 0; i < n_choice; i++) {
        p->slot[i] = p->n_of[p->expert[i]]++;
        p->slot_row[p->slot[i]] = i / w->top_k;
    }
    for (int32_t s = 0; s < w->n_shared; s++, first += n_row) {
        add_group(p, &n_group, &w->ff[w->n_expert + s], first, n_row);
        for (int32_t r = 0; r < n_row; r++)
            p->slot_row[first + r] = r;
    }
    return n_group;
}

/* [n_row, cols], dense. */
static struct tensor dense(float *data, int32_t n_row, int32_t cols)
{
    return (struct tensor){data, DTYPE_F32, n_row, cols, cols};
}

/* y = the experts' results, slot by slot. */
static void run_experts(struct cpu_lane *ln, const struct cpu_moe *w, struct plan *p,
                        struct tensor h, int32_t n_group)
{
    for (int32_t i = 0; i < n_group; i++) {
        p->group[i].w = &p->group_ff[i]->w1;
        p->group[i].act = p->group_ff[i]->act;
    }
    struct gemm_job up = {
        .group = p->group,
        .n_group = n_group,
        .x = h.data,
        .x_stride = h.stride,
        .x_row = p->slot_row,
        .out = p->hidden,
        .out_stride = w->width,
        .end = GEMM_ACT,
    };
    gemm_run(ln, &up);
    for (int32_t i = 0; i < n_group; i++)
        p->group[i].w = &p->group_ff[i]->w2;
    struct gemm_job down = {
        .group = p->group,
        .n_group = n_group,
        .x = p->hidden,
        .x_stride = w->width,
        .out = p->y,
        .out_stride = w->dim,
        .end = GEMM_STORE,
    };
    gemm_run(ln, &down);
}

struct scratch_need moe_need(const struct lane_limits *l)
{
    size_t rows = (size_t)l->max_rows, width = (size_t)l->max_width, e = (size_t)l->max_expert;
    size_t slots = rows * (size_t)l->max_active, groups = e + (size_t)l->max_active;
    if (e == 0)
        return (struct scratch_need){0};
    size_t bytes = (rows * width + rows * e + 2 * slots + 2 * slots * width) * sizeof(float) +
                   (3 * slots + e) * sizeof(int32_t) +
                   groups * (sizeof(struct gemm_group) + sizeof(struct cpu_ff *));
    const size_t n_cut = 12;
    return (struct scratch_need){.shared = norm_need(l).shared + bytes + n_cut * 2 * CPU_ALIGN};
}

enum rxt_status cpu_moe_add(struct lane *lane, struct tensor x, const struct weight *norm,
                            const struct weight *moe)
{
    struct cpu_lane *ln = cpu_lane(lane);
    const struct cpu_moe *w = (const struct cpu_moe *)moe;
    const struct kernels *k = ln->be->k;
    uint64_t values = (uint64_t)x.rows * (uint64_t)w->dim;
    struct tensor h = norm_rows(ln, x, NULL, norm);
    struct plan p = cut(ln, w, x.rows);
    struct moe_job job = {
        .w = w,
        .x = h.data,
        .x_stride = h.stride,
        .rounded = p.rounded,
        .logits = p.logits,
        .shared_logits = p.shared_logits,
        .expert = p.expert,
        .share = p.share,
        .slot = p.slot,
        .y = p.y,
        .first_shared = x.rows * w->top_k,
        .n_row = x.rows,
    };
    struct tensor seen = h; /* by the router */
    if (w->router_bf16) {
        lane_run(ln, k->moe_round, &job, x.rows, ROUND_WORK * values);
        seen = dense(p.rounded, x.rows, w->dim);
    }
    gemm_rows(ln, dense(p.logits, x.rows, w->n_expert), seen, NULL, &w->router, GEMM_STORE,
              ACT_NONE);
    if (w->n_shared > 1)
        gemm_rows(ln, dense(p.shared_logits, x.rows, w->n_shared), h, NULL, &w->shared_gate,
                  GEMM_STORE, ACT_NONE);
    lane_run(ln, k->moe_route, &job, x.rows, ROUTE_WORK * (uint64_t)x.rows * (uint64_t)w->n_expert);
    if (count_experts_wanted())
        count_experts(p.expert, (size_t)x.rows * (size_t)w->top_k, w->n_expert);
    run_experts(ln, w, &p, h, sort_by_expert(w, &p, x.rows));
    job.x = x.data;
    job.x_stride = x.stride;
    lane_run(ln, k->moe_sum, &job, x.rows, SUM_WORK * values * (uint64_t)(w->top_k + w->n_shared));
    lane_done(ln);
    return RXT_OK;
}
