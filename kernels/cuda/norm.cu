/* norm.cu - the five norms of spec 2.2 and 2.7; rows as gemm.cu reads them.
 * Shapes   x [R,D] of any stride, f32 or bf16; out [R,D], or [R, D filled up to 64].
 * Launch   a warp a row, 4 of them a block. 16 bytes at once where a row lies so, else element by
 *          element.
 * Roofline memory-bound: 2 D values read (twice, the second time from L1), one written: 8 KB in
 *          flight a block, 4096 rows of 512 in 2 us + the launch. Measured, H200: 4.1 us for 64
 *          rows of 512, 7.2 for 4096. Predicted for quick rows (norm_row_impl.cuh): 1.5 and 4; for
 * 4096 rows of a memory in float32, 7.4 before: 4. Order    norm_row_impl.cuh; float32 throughout,
 * rounded once where it is stored. */
#include "kernels/cuda/norm_impl.h"

#include "kernels/cuda/norm_row_impl.cuh"

#define ROWS 4 /* of a block */

struct row_job {
    void *out; /* [n_row,cols] */
    int64_t out_stride;
    struct tensor x;
    const void *const *at; /* an argument: where x is; NULL: at x.data */
    const int32_t *row;    /* an argument: row r is x[row[r],:]; NULL: x[r,:] */
    int32_t n_row, cols;   /* of cols those of x, then zeros */
    bool has_norm, as_bf16;
    struct norm norm;
};

template <class T> static __global__ void norm_rows(const __grid_constant__ struct row_job s)
{
    start_and_wait();
    int32_t warp = (int32_t)threadIdx.x / 32;
    const char *data = (const char *)(s.at ? *s.at : s.x.data);
    for (int32_t r = (int32_t)blockIdx.x * ROWS + warp; r < s.n_row;
         r += (int32_t)gridDim.x * ROWS) {
        int32_t source = s.row ? s.row[r] : r;
        size_t value = s.x.dtype == DTYPE_BF16 ? sizeof(bf16) : sizeof(float);
        const void *x = data + (size_t)(source * s.x.stride) * value; // x[source,:]
        T *to = (T *)s.out + r * s.out_stride;                        // out[r,:]
        put_row(to, s.cols, x, s.x.dtype, s.x.cols, s.has_norm ? &s.norm : nullptr,
                s.norm.n_slot > 0 ? source % s.norm.n_slot : 0, s.as_bf16);
    }
}

/* Quick rows; a warp for each. */
static __global__ void norm_quick(const __grid_constant__ struct row_job s)
{
    start_next();
    int32_t r = (int32_t)blockIdx.x * ROWS + (int32_t)threadIdx.x / 32;
    struct quick_weight q;
    if (s.has_norm)
        quick_ask(&q, &s.norm);
    int32_t source = s.row && r < s.n_row ? s.row[r] : r;
    wait_for_previous();
    if (r < s.n_row)
        quick_row((bf16 *)s.out + r * s.out_stride, nullptr, // out[r,:]
                  (const bf16 *)s.x.data + source * s.x.stride, s.cols,
                  s.has_norm ? &s.norm : nullptr, q); // x[source,:]
}

/* Rows of a memory through an RMS norm: what norm_rows does with them, with the same bits, each
 * read once, in 16 bytes that are all under way together; QUICK_COLS at most. A warp for each. */
template <class V> static __global__ void norm_memory(const __grid_constant__ struct row_job s)
{
    start_next();
    int32_t r = (int32_t)blockIdx.x * ROWS + (int32_t)threadIdx.x / 32;
    const V *x = (const V *)*s.at + r * s.x.stride; // x[r,:]
    struct quick_weight q;
    quick_ask(&q, &s.norm);
    wait_for_previous();
    if (r >= s.n_row)
        return;
    float v[QUICK][8] = {}, sum = 0.0f;
#pragma unroll
    for (int c = 0; c < QUICK; c++)
        if (ROW_FIRST + c * ROW_STEP < s.cols)
            load8(v[c], x, ROW_FIRST + c * ROW_STEP, s.cols);
#pragma unroll
    for (int c = 0; c < QUICK; c++)
#pragma unroll
        for (int j = 0; j < 8; j++)
            sum = fmaf(v[c][j], v[c][j], sum);
    float factor = 1.0f / sqrtf(warp_sum(sum) / (float)s.norm.dim + s.norm.eps);
#pragma unroll
    for (int c = 0; c < QUICK; c++) {
        if (ROW_FIRST + c * ROW_STEP >= s.cols)
            continue;
#pragma unroll
        for (int j = 0; j < 8; j++)
            v[c][j] = v[c][j] * factor * q.v[c][j];
        store8((bf16 *)s.out + r * s.out_stride, ROW_FIRST + c * ROW_STEP, s.cols,
               v[c]); // out[r,:]
    }
}

static bool is_quick_memory(const struct row_job &s)
{
    return s.at && s.has_norm && s.norm.kind == NORM_RMS && s.x.cols == s.cols &&
           s.cols <= QUICK_COLS && s.cols % 8 == 0;
}

static bool is_quick(const struct row_job &s)
{
    return !s.at && norm_is_quick(s.x, s.cols, s.has_norm ? &s.norm : nullptr) &&
           s.out_stride % 8 == 0 && (uintptr_t)s.out % 16 == 0;
}

static void launch(struct cuda_lane *ln, const struct row_job &s)
{
    unsigned grid = grid_rows((s.n_row + ROWS - 1) / ROWS);
    if (ln->base.be->act_dtype == DTYPE_BF16 && is_quick(s)) {
        LAUNCH(norm_quick, (unsigned)(s.n_row + ROWS - 1) / ROWS, 32 * ROWS, 0, ln, s);
        return;
    }
    if (ln->base.be->act_dtype == DTYPE_BF16 && is_quick_memory(s)) {
        unsigned blocks = (unsigned)(s.n_row + ROWS - 1) / ROWS;
        if (s.x.dtype == DTYPE_BF16)
            LAUNCH(norm_memory<bf16>, blocks, 32 * ROWS, 0, ln, s);
        else
            LAUNCH(norm_memory<float>, blocks, 32 * ROWS, 0, ln, s);
        return;
    }
    if (ln->base.be->act_dtype == DTYPE_BF16)
        LAUNCH(norm_rows<bf16>, grid, 32 * ROWS, 0, ln, s);
    else
        LAUNCH(norm_rows<float>, grid, 32 * ROWS, 0, ln, s);
}

extern "C" void *stage_cut(struct cuda_lane *ln, int32_t n_row, int32_t cols)
{
    return cuda_cut(ln, (size_t)n_row * (size_t)pack_fill(cols),
                    dtype_bytes(ln->base.be->act_dtype));
}

static struct row_job stage_job(void *out, struct tensor x, int32_t n_row,
                                const struct weight *norm)
{
    struct row_job s = {};
    s.out = out;
    s.out_stride = s.cols = pack_fill(x.cols);
    s.x = x;
    s.n_row = n_row;
    s.has_norm = norm != nullptr;
    if (norm)
        s.norm = ((const struct cuda_norm *)norm)->norm;
    return s;
}

extern "C" void stage_rows(struct cuda_lane *ln, void *out, struct tensor x, const int32_t *row,
                           int32_t n_row, const struct weight *norm, bool as_bf16)
{
    struct row_job s = stage_job(out, x, n_row, norm);
    s.as_bf16 = as_bf16;
    if (row)
        s.row = args_copy(ln, row, (size_t)n_row);
    launch(ln, s);
}

extern "C" void stage_memory(struct cuda_lane *ln, void *out, struct tensor x,
                             const struct weight *norm)
{
    struct row_job s = stage_job(out, x, x.rows, norm);
    s.at = args_copy<const void *>(ln, &x.data, 1);
    s.x.data = nullptr;
    launch(ln, s);
}

extern "C" enum rxt_status cuda_norm(struct lane *lane, struct tensor out, struct tensor x,
                                     const struct weight *norm)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    struct row_job s = {};
    s.out = out.data;
    s.out_stride = out.stride;
    s.x = x;
    s.n_row = x.rows;
    s.cols = x.cols;
    s.has_norm = true;
    s.norm = ((const struct cuda_norm *)norm)->norm;
    launch(ln, s);
    return cuda_done(ln);
}
