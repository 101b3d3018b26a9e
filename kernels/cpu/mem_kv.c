#include "kernels/cpu/mem_kv_impl.h"

#include "kernels/cpu/elementwise_impl.h"
#include "kernels/cpu/kv_impl.h"
#include "kernels/cpu/linear_impl.h"
#include "kernels/cpu/ops_impl.h"

#define BLOCK 256 /* slots at once: scratch that stays in the second level cache */

struct scratch_need mem_kv_need(const struct lane_limits *l)
{
    struct scratch_need need = linear_need(l);
    size_t rows = l->max_rows < BLOCK ? (size_t)l->max_rows : BLOCK;
    need.shared += 2 * (rows * (size_t)l->max_width * sizeof(float) + CPU_ALIGN);
    return need;
}

struct place {
    const struct mem_kv *kv;
    int32_t layer;
};

static struct kv_head head_of_place(const void *arg, int32_t seq, int32_t head)
{
    (void)seq;
    const struct place *p = arg;
    return mem_kv_head(p->kv, p->layer, head);
}

static struct tensor cut_rows(struct cpu_lane *ln, int32_t rows, int32_t cols)
{
    float *data = lane_cut(ln, (size_t)rows * (size_t)cols, sizeof *data);
    return (struct tensor){data, DTYPE_F32, rows, cols, cols};
}

enum rxt_status cpu_mem_kv(struct lane *base, struct mem_kv *out, int32_t layer, struct tensor stm,
                           const struct weight *norm, const struct weight *kv)
{
    struct cpu_lane *ln = cpu_lane(base);
    int32_t width = out->cfg.n_kv_head * out->cfg.head_dim;
    struct place place = {out, layer};
    for (int32_t first = 0; first < stm.rows; first += BLOCK) {
        int32_t n = stm.rows - first < BLOCK ? stm.rows - first : BLOCK;
        struct tensor x = tensor_rows(stm, first, n);
        if (x.dtype != DTYPE_F32) {
            struct tensor wide = cut_rows(ln, n, x.cols);
            convert_run(ln, &(struct convert_job){wide, x});
            x = wide;
        }
        struct tensor y = cut_rows(ln, n, kv->rows);
        linear_rows(ln, y, x, norm, kv);
        const int32_t offset[] = {0, n};
        struct store_job job = {
            .n_head = out->cfg.n_kv_head,
            .dim = out->cfg.head_dim,
            .k = tensor_cols(y, 0, width),
            .v = tensor_cols(y, width, width),
            .rows = {1, offset, &first},
            .head_of = head_of_place,
            .arg = &place,
        };
        store_run(ln, &job);
        lane_done(ln);
    }
    return RXT_OK;
}
