/* The five norms of spec 2.2 and 2.7, a row by a warp: norm.cu for rows on their own, gemm.cu for
 * the few rows of a decode step on their way into a multiplication. Both must give the same bits,
 * so there is one order of sums: a lane takes the elements 8 l, ..., 8 l + 7, then those 256
 * further, and so on; then warp_sum. */
#ifndef RXT_CUDA_NORM_ROW_IMPL_CUH
#define RXT_CUDA_NORM_ROW_IMPL_CUH

#include "kernels/cuda/device_impl.cuh"
#include "kernels/cuda/norm_impl.h"

/* What normalising a row takes: y = (x - mean) * factor and so on. */
struct row_norm {
    float mean, factor, open, slot_scale;
};

__device__ inline float mean_square(const struct norm *w, const void *x, enum dtype dtype)
{
    float v[8], sum = 0.0f;
#pragma unroll 2
    for (int32_t i = ROW_FIRST; i < w->dim; i += ROW_STEP) {
        load8(v, x, dtype, i, w->dim);
#pragma unroll
        for (int j = 0; j < 8; j++)
            sum = fmaf(v[j], v[j], sum);
    }
    return warp_sum(sum) / (float)w->dim;
}

__device__ inline void mean_variance(const struct norm *w, const void *x, enum dtype dtype,
                                     float *mean, float *variance)
{
    float v[8], sum = 0.0f;
#pragma unroll 2
    for (int32_t i = ROW_FIRST; i < w->dim; i += ROW_STEP) {
        load8(v, x, dtype, i, w->dim);
#pragma unroll
        for (int j = 0; j < 8; j++)
            sum = sum + v[j];
    }
    *mean = warp_sum(sum) / (float)w->dim;
    sum = 0.0f;
#pragma unroll 2
    for (int32_t i = ROW_FIRST; i < w->dim; i += ROW_STEP) {
        load8(v, x, dtype, i, w->dim);
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (i + j < w->dim)
                sum = fmaf(v[j] - *mean, v[j] - *mean, sum);
    }
    *variance = warp_sum(sum) / (float)w->dim;
}

/* All lanes get it. */
__device__ inline struct row_norm row_norm_of(const struct norm *w, const void *x, enum dtype dtype,
                                              int32_t slot)
{
    struct row_norm r = {0.0f, 1.0f, 1.0f, 1.0f};
    if (w->kind == NORM_RMS || w->kind == NORM_MIX_RMS) {
        float square = mean_square(w, x, dtype);
        r.factor = 1.0f / sqrtf((w->kind == NORM_RMS ? square : sqrtf(square)) + w->eps);
    } else if (w->kind == NORM_MIX_SLOT) {
        r.factor = 1.0f / sqrtf(w->ema_rms[slot] + w->eps);
    } else {
        float variance;
        mean_variance(w, x, dtype, &r.mean, &variance);
        r.factor = 1.0f / sqrtf(variance + w->eps);
    }
    if (w->kind != NORM_RMS && w->kind != NORM_LAYER) {
        r.open = sigmoid_of(w->gate[slot]);
        r.slot_scale = w->scale_by_slot ? w->scale[slot] : 1.0f;
    }
    return r;
}

/* Elements i to i + 7 of a row, v before; those behind its end become numbers without meaning. */
__device__ inline void normalise8(const struct norm *w, const struct row_norm *r, float v[8],
                                  int32_t i)
{
    float weight[8], bias[8];
    bool has_bias = w->kind == NORM_LAYER || w->kind == NORM_MIX_LAYER;
    if (w->kind == NORM_RMS || has_bias)
        load8(weight, w->weight, i, w->dim);
    if (has_bias)
        load8(bias, w->bias, i, w->dim);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float y = (v[j] - r->mean) * r->factor;
        if (w->kind == NORM_RMS)
            y = y * weight[j];
        else if (has_bias)
            y = fmaf(y, weight[j], bias[j]);
        if (w->kind == NORM_RMS || w->kind == NORM_LAYER) {
            v[j] = y;
        } else {
            float scale = r->slot_scale;
            if (!w->scale_by_slot && i + j < w->dim)
                scale = w->scale[i + j];
            v[j] = fmaf(r->open, scale * y, (1.0f - r->open) * v[j]);
        }
    }
}

/* to[cols] = norm(x[n]) in T, or x where norm is NULL; zeros behind n. By a warp. as_bf16: rounded
 * to bf16 first. */
template <class T>
__device__ inline void put_row(T *to, int32_t cols, const void *x, enum dtype dtype, int32_t n,
                               const struct norm *norm, int32_t slot, bool as_bf16)
{
    struct row_norm r = {0.0f, 1.0f, 1.0f, 1.0f};
    if (norm)
        r = row_norm_of(norm, x, dtype, slot);
#pragma unroll 1
    for (int32_t i = ROW_FIRST; i < cols; i += ROW_STEP) {
        float v[8];
        load8(v, x, dtype, i, n);
        if (norm)
            normalise8(norm, &r, v, i);
#pragma unroll
        for (int j = 0; j < 8; j++)
            v[j] = i + j >= n ? 0.0f : as_bf16 ? rounded<bf16>(v[j]) : v[j];
        store8(to, i, cols, v);
    }
}

/* ---- short rows that lie well ---- */

/* What put_row does, with the same bits, for the rows of decode steps: bf16, 16 bytes at a time,
 * QUICK_COLS at most, RMS or no norm. Little code and nothing read twice, because such a row waits
 * for each of its loads, and a kernel that runs for 2 us for its instructions too. */
#define QUICK 2 /* pieces of a lane */
#define QUICK_COLS (QUICK * ROW_STEP)

static inline bool norm_is_quick(struct tensor x, int32_t cols, const struct norm *norm)
{
    return x.dtype == DTYPE_BF16 && x.cols == cols && cols <= QUICK_COLS && cols % 8 == 0 &&
           x.stride % 8 == 0 && (uintptr_t)x.data % 16 == 0 && (!norm || norm->kind == NORM_RMS);
}

/* A lane's weights of the norm, which may be asked for before there is a row. */
struct quick_weight {
    float v[QUICK][8];
};
__device__ inline void quick_ask(struct quick_weight *q, const struct norm *w)
{
#pragma unroll
    for (int c = 0; c < QUICK; c++) {
        int32_t i = ROW_FIRST + c * ROW_STEP;
        if (i >= w->dim)
            continue;
        float4 a = *(const float4 *)(w->weight + i), b = *(const float4 *)(w->weight + i + 4);
        q->v[c][0] = a.x, q->v[c][1] = a.y, q->v[c][2] = a.z, q->v[c][3] = a.w;
        q->v[c][4] = b.x, q->v[c][5] = b.y, q->v[c][6] = b.z, q->v[c][7] = b.w;
    }
}

/* to[n] = norm(x[n]), or x; also[n] too, unless it is NULL. By a warp. x is read past L1, because a
 * rehearsal reads it too. */
__device__ inline void quick_row(bf16 *to, bf16 *also, const bf16 *x, int32_t n,
                                 const struct norm *norm, const struct quick_weight &q)
{
    uint4 in[QUICK];
    float v[QUICK][8], sum = 0.0f, factor = 1.0f;
#pragma unroll
    for (int c = 0; c < QUICK; c++)
        if (ROW_FIRST + c * ROW_STEP < n)
            in[c] = __ldcg((const uint4 *)(x + ROW_FIRST + c * ROW_STEP));
#pragma unroll
    for (int c = 0; c < QUICK; c++) {
        if (ROW_FIRST + c * ROW_STEP >= n)
            continue;
        const uint32_t word[4] = {in[c].x, in[c].y, in[c].z, in[c].w};
#pragma unroll
        for (int j = 0; j < 8; j++) {
            v[c][j] = __uint_as_float(j % 2 ? word[j / 2] & 0xFFFF0000u : word[j / 2] << 16);
            sum = fmaf(v[c][j], v[c][j], sum);
        }
    }
    if (norm)
        factor = 1.0f / sqrtf(warp_sum(sum) / (float)norm->dim + norm->eps);
#pragma unroll
    for (int c = 0; c < QUICK; c++) {
        int32_t i = ROW_FIRST + c * ROW_STEP;
        if (i >= n)
            continue;
        uint32_t word[4];
        if (norm)
#pragma unroll
            for (int j = 0; j < 4; j++)
                word[j] = (uint32_t)bf16_of(v[c][2 * j] * factor * q.v[c][2 * j]) |
                          (uint32_t)bf16_of(v[c][2 * j + 1] * factor * q.v[c][2 * j + 1]) << 16;
        uint4 out = norm ? uint4{word[0], word[1], word[2], word[3]} : in[c];
        *(uint4 *)(to + i) = out;
        if (also)
            *(uint4 *)(also + i) = out;
    }
}

#endif
