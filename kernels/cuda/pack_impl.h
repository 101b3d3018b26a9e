/* Weights as the multiplying kernels read them (design-gpu B.1): tiles in fragment order. Plain C,
 * so that the layout is tested without a device.
 *
 * A tile is 16 outputs m by 16 inputs k, 256 elements; a tail is 16 by 8, 128 elements.
 *
 *   bf16   the A fragment of mma.m16n8k16 (of m16n8k8): 16 (8) bytes for each of 32 lanes. Element
 *          (m,k) belongs to lane m%8 * 4 + k/4 and is element m/8 * 2 + k%4 / 2 * 4 + k%2 of it
 *          (of a tail: to lane m%8 * 4 + k/2, element m/8 * 2 + k%2). An MMA adds up its 16
 *          products whatever input each belongs to, so a lane takes 4 inputs that lie together:
 *          the B fragment is one load of 8 bytes out of a plain row
 *   f32    [k][16 m]
 *
 * The sum over k of an output is taken in n_range ranges, each one chain, then in one tree (F):
 * 4 equal ranges of a linear or of the first matrix of a feed-forward, (0+1)+(2+3); of the second
 * matrix 8, one a slice of hidden units, ((0+1)+(2+3))+((4+5)+(6+7)).
 *
 * Linear: [M/16][K/16] tiles, K filled up with zeros to a multiple of 64, M to one of 16.
 *
 * Feed-forward (dense, or one expert): 8 slices of F/8 hidden units, F filled up to a multiple of
 * 64; a slice is contiguous: first its part of W1, F/64 tiles of M by K/16, a tile being the values
 * of 8 units and below them their gates (zeros without gates); then its part of W2, for each of the
 * D/16 tiles of outputs the F/128 whole tiles of the slice, then, where F/8 is not a multiple of
 * 16, for each of them a tail. */
#ifndef RXT_CUDA_PACK_IMPL_H
#define RXT_CUDA_PACK_IMPL_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "kernels/backend.h"
#ifdef __cplusplus
}
#endif

#ifdef __CUDACC__
#define PACK_BOTH __host__ __device__
#else
#define PACK_BOTH
#endif

#define PACK_TILE 256
#define PACK_TAIL 128
#define PACK_SLICES 8

/* Where the tiles of one matrix lie, in elements from its first. */
struct tiles {
    int32_t n, k;       /* outputs that exist, inputs filled up */
    int32_t n_tile;     /* of outputs */
    int32_t n_range;    /* 4 or 8 */
    int32_t range_tile; /* whole tiles of a range */
    int32_t tail;       /* 1: a range ends with a tail */
    int32_t slice_tile; /* tiles of outputs in a slice */
    uint64_t per_slice; /* pack_inverse of it */
    int64_t first, tile_step, slice_step, range_step, tail_first;
};

/* n / by without a division, which takes the start of a kernel a while; n < 2^24, n * by < 2^40. */
static inline uint64_t pack_inverse(int32_t by)
{
    assert(by > 0);
    return ((uint64_t)1 << 40) / (uint32_t)by + 1;
}
static inline PACK_BOTH int32_t pack_divide(int32_t n, uint64_t inverse)
{
    return (int32_t)((uint64_t)(uint32_t)n * inverse >> 40);
}

/* Tile j of a range, for outputs of tile m. */
static inline PACK_BOTH int64_t tiles_at(const struct tiles *t, int32_t m, int32_t range, int32_t j)
{
    int32_t slice = pack_divide(m, t->per_slice);
    return t->first + slice * t->slice_step + (m - slice * t->slice_tile) * t->tile_step +
           (int64_t)range * t->range_step + (int64_t)j * PACK_TILE;
}
/* Whether kernels may count the first tiles of a range in 32 bits. */
static inline bool tiles_fit_int32(const struct tiles *t)
{
    return tiles_at(t, t->n_tile, 0, 0) <= INT32_MAX;
}
static inline PACK_BOTH int64_t tiles_tail_at(const struct tiles *t, int32_t m, int32_t range)
{
    return t->tail_first + (int64_t)range * t->range_step + (int64_t)m * PACK_TAIL;
}
/* First input of a range. */
static inline PACK_BOTH int32_t tiles_range_k(const struct tiles *t, int32_t range)
{
    return range * (16 * t->range_tile + 8 * t->tail);
}

/* Element of a tile, and of a tail. */
static inline PACK_BOTH int32_t tile_element(enum dtype dtype, int32_t m, int32_t k)
{
    if (dtype == DTYPE_F32)
        return k * 16 + m;
    return (m % 8 * 4 + k / 4) * 8 + m / 8 * 2 + k % 4 / 2 * 4 + k % 2;
}
static inline PACK_BOTH int32_t tail_element(enum dtype dtype, int32_t m, int32_t k)
{
    if (dtype == DTYPE_F32)
        return k * 16 + m;
    return (m % 8 * 4 + k / 2) * 4 + m / 8 * 2 + k % 2;
}

/* n filled up to a multiple of 64. */
static inline PACK_BOTH int32_t pack_fill(int32_t n)
{
    return (n + 63) / 64 * 64;
}

/* Keys and values: blocks of 64 positions of one layer and head, 64*hd elements of K, then as many
 * of V. K is [64][hd]. V in bf16 is [2][hd][32 positions], in f32 [64][hd]: so a lane's operands of
 * mma.m16n8k16 lie together in both products of attention (attend_tile_impl.cuh). */
#define KV_BLOCK 64
static inline PACK_BOTH int32_t key_element(int32_t dim, int32_t row, int32_t d)
{
    return row * dim + d;
}
static inline PACK_BOTH int32_t value_element(enum dtype dtype, int32_t dim, int32_t row, int32_t d)
{
    return dtype == DTYPE_BF16 ? row / 32 * 32 * dim + d * 32 + row % 32 : row * dim + d;
}
static inline PACK_BOTH int64_t kv_block_elements(int32_t dim)
{
    return (int64_t)2 * KV_BLOCK * dim;
}
static inline PACK_BOTH int32_t kv_blocks(int32_t n)
{
    return (n + KV_BLOCK - 1) / KV_BLOCK;
}

/* ---- packing, on the host ---- */

struct tiles tiles_linear(int32_t n, int32_t k);
/* Elements of a linear of these tiles. */
size_t tiles_linear_elements(const struct tiles *t);
/* W1 and W2 of a feed-forward of `width` hidden units; both count from the start of the expert. */
struct tiles tiles_up(int32_t dim, int32_t width);
struct tiles tiles_down(int32_t dim, int32_t width);
size_t tiles_ff_elements(int32_t dim, int32_t width);

/* The parts one below the other into out, which is zeroed. dtype: of out; storage BF16: values are
 * rounded on the way. ENOMEM. */
enum rxt_status pack_linear(void *out, enum dtype dtype, const struct host_matrix *part, int n_part,
                            enum dtype storage);
enum rxt_status pack_ff(void *out, enum dtype dtype, const struct ff_desc *d, enum dtype storage);

#endif
