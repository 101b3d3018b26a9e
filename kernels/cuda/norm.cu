/* norm.cu - the five norms of spec 2.2 and 2.7; rows into the groups that gemm.cu reads.
 * Shapes   x [R,D] of any stride, f32 or bf16; out [R,D], or groups of 8 rows [D/8][8][8].
 * Launch   a block of 128 a row; named rows 256 a launch, as parameters. Scalar loads: rows may
 *          have any stride.
 * Roofline memory-bound: 2 D values read (twice, the second time from L1), one written.
 *          Measured: not yet on a card.
 * Order    a thread sums elements t, t + 128, ..., then block_sum; float32 throughout, rounded
 *          once where it is stored. */
#include "kernels/cuda/norm_impl.h"

#include "kernels/cuda/device_impl.cuh"

#define THREADS 128
#define NAMED 256 /* rows named in one launch */

struct row_names {
    int32_t n; /* 0: row r is row r */
    int32_t row[NAMED];
};

/* What normalising a row takes: y = (x - mean) * factor and so on. */
struct row_norm {
    float mean, factor, open, slot_scale;
};

__device__ inline struct row_norm row_norm_of(const struct norm *w, const void *x, enum dtype dtype,
                                              int32_t slot, float *place)
{
    struct row_norm r = {0.0f, 1.0f, 1.0f, 1.0f};
    float sum = 0.0f, n = (float)w->dim;
    if (w->kind == NORM_RMS || w->kind == NORM_MIX_RMS) {
        for (int32_t i = (int32_t)threadIdx.x; i < w->dim; i += THREADS) {
            float v = element(x, dtype, i);
            sum = fmaf(v, v, sum);
        }
        float mean_square = block_sum<THREADS>(sum, place) / n;
        float base = w->kind == NORM_RMS ? mean_square : sqrtf(mean_square);
        r.factor = 1.0f / sqrtf(base + w->eps);
    } else if (w->kind == NORM_MIX_SLOT) {
        r.factor = 1.0f / sqrtf(w->ema_rms[slot] + w->eps);
    } else {
        for (int32_t i = (int32_t)threadIdx.x; i < w->dim; i += THREADS)
            sum = sum + element(x, dtype, i);
        r.mean = block_sum<THREADS>(sum, place) / n;
        sum = 0.0f;
        for (int32_t i = (int32_t)threadIdx.x; i < w->dim; i += THREADS) {
            float v = element(x, dtype, i) - r.mean;
            sum = fmaf(v, v, sum);
        }
        r.factor = 1.0f / sqrtf(block_sum<THREADS>(sum, place) / n + w->eps);
    }
    if (w->kind != NORM_RMS && w->kind != NORM_LAYER) {
        r.open = sigmoid_of(w->gate[slot]);
        r.slot_scale = w->scale_by_slot ? w->scale[slot] : 1.0f;
    }
    return r;
}

/* Element i of a row, v before. */
__device__ inline float normalised(const struct norm *w, const struct row_norm *r, float v,
                                   int32_t i)
{
    float y = (v - r->mean) * r->factor;
    if (w->kind == NORM_RMS)
        return y * w->weight[i];
    if (w->kind == NORM_LAYER || w->kind == NORM_MIX_LAYER)
        y = fmaf(y, w->weight[i], w->bias[i]);
    if (w->kind == NORM_LAYER)
        return y;
    float scale = w->scale_by_slot ? r->slot_scale : w->scale[i];
    return fmaf(r->open, scale * y, (1.0f - r->open) * v);
}

/* Block = row; grid: rows. */
template <class T>
static __global__ void norm_rows(struct tensor out, struct tensor x,
                                 const __grid_constant__ struct norm w)
{
    __shared__ float place[THREADS];
    for (int32_t r = (int32_t)blockIdx.x; r < x.rows; r += (int32_t)gridDim.x) {
        const T *from = (const T *)x.data + r * x.stride; // x[r,:]
        T *to = (T *)out.data + r * out.stride;           // out[r,:]
        int32_t slot = w.n_slot > 0 ? r % w.n_slot : 0;
        struct row_norm n = row_norm_of(&w, from, dtype_of<T>::value, slot, place);
        for (int32_t i = (int32_t)threadIdx.x; i < w.dim; i += THREADS)
            to[i] = narrow<T>(normalised(&w, &n, widen(from[i]), i));
    }
}

struct stage {
    void *groups;
    struct tensor x;
    int32_t first, n_row, k; /* rows `first` on of n_row, k: columns filled up */
    bool has_norm, as_bf16;
    struct norm norm;
    struct row_names names;
};

/* Block = row of the groups, those behind n_row too; grid: rows of this launch. */
template <class T> static __global__ void stage_kernel(const __grid_constant__ struct stage s)
{
    __shared__ float place[THREADS];
    int32_t last = s.names.n > 0 ? s.first + NAMED : (s.n_row + 7) / 8 * 8;
    if (last > (s.n_row + 7) / 8 * 8)
        last = (s.n_row + 7) / 8 * 8;
    for (int32_t r = s.first + (int32_t)blockIdx.x; r < last; r += (int32_t)gridDim.x) {
        bool exists = r < s.n_row;
        int32_t source = s.names.n > 0 && exists ? s.names.row[r - s.first] : r;
        size_t value = s.x.dtype == DTYPE_BF16 ? sizeof(bf16) : sizeof(float);
        const void *x =
            (const char *)s.x.data + (size_t)(source * s.x.stride) * value; // x[source,:]
        T *to = (T *)s.groups + (int64_t)(r / 8) * 8 * s.k;                 // groups[r / 8,:,:]
        struct row_norm n = {0.0f, 1.0f, 1.0f, 1.0f};
        if (exists && s.has_norm)
            n = row_norm_of(&s.norm, x, s.x.dtype, s.norm.n_slot > 0 ? source % s.norm.n_slot : 0,
                            place);
        for (int32_t i = (int32_t)threadIdx.x; i < s.k; i += THREADS) {
            float v = exists && i < s.x.cols ? element(x, s.x.dtype, i) : 0.0f;
            if (exists && i < s.x.cols && s.has_norm)
                v = normalised(&s.norm, &n, v, i);
            to[group_element(i, r % 8)] = narrow<T>(s.as_bf16 ? rounded<bf16>(v) : v);
        }
    }
}

extern "C" void *stage_cut(struct cuda_lane *ln, int32_t n_row, int32_t cols)
{
    size_t rows = ((size_t)n_row + 7) / 8 * 8;
    return cuda_cut(ln, rows * (size_t)pack_fill(cols), dtype_bytes(ln->base.be->act_dtype));
}

extern "C" void stage_rows(struct cuda_lane *ln, void *groups, struct tensor x, const int32_t *row,
                           int32_t n_row, const struct weight *norm, bool as_bf16)
{
    struct stage s = {};
    s.groups = groups;
    s.x = x;
    s.n_row = n_row;
    s.k = pack_fill(x.cols);
    s.as_bf16 = as_bf16;
    s.has_norm = norm != nullptr;
    if (norm)
        s.norm = ((const struct cuda_norm *)norm)->norm;
    int32_t all = (n_row + 7) / 8 * 8;
    for (s.first = 0; s.first < all; s.first += row ? NAMED : all) {
        int32_t n = row && all - s.first > NAMED ? NAMED : all - s.first;
        s.names.n = row ? n : 0;
        for (int32_t i = 0; row && i < n && s.first + i < n_row; i++)
            s.names.row[i] = row[s.first + i];
        if (ln->base.be->act_dtype == DTYPE_BF16)
            LAUNCH(stage_kernel<bf16>, grid_rows(n), THREADS, 0, ln, s);
        else
            LAUNCH(stage_kernel<float>, grid_rows(n), THREADS, 0, ln, s);
    }
}

extern "C" enum rxt_status cuda_norm(struct lane *lane, struct tensor out, struct tensor x,
                                     const struct weight *norm)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    const struct norm &w = ((const struct cuda_norm *)norm)->norm;
    if (x.dtype == DTYPE_BF16)
        LAUNCH(norm_rows<bf16>, grid_rows(x.rows), THREADS, 0, ln, out, x, w);
    else
        LAUNCH(norm_rows<float>, grid_rows(x.rows), THREADS, 0, ln, out, x, w);
    return cuda_done(ln);
}
