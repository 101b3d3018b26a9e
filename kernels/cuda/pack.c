#include "kernels/cuda/pack_impl.h"

#include "kernels/base/bf16.h"
#include "kernels/base/mem.h"
#include "kernels/host_impl.h"

/* ---- where tiles lie ---- */

struct tiles tiles_linear(int32_t n, int32_t k)
{
    struct tiles t = {.n = n, .k = pack_fill(k), .n_tile = (n + 15) / 16, .n_range = 4};
    t.range_tile = t.k / 64;
    t.slice_tile = t.n_tile;
    t.per_slice = pack_inverse(t.slice_tile);
    t.tile_step = (int64_t)t.k / 16 * PACK_TILE;
    t.range_step = (int64_t)t.range_tile * PACK_TILE;
    return t;
}

size_t tiles_linear_elements(const struct tiles *t)
{
    return (size_t)t->n_tile * (size_t)t->tile_step;
}

/* Elements of a slice's part of W1 and of W2. */
static int64_t up_elements(int32_t dim, int32_t width)
{
    return (int64_t)pack_fill(width) / 64 * (pack_fill(dim) / 16) * PACK_TILE;
}
static int64_t down_elements(int32_t dim, int32_t width)
{
    int64_t units = pack_fill(width) / PACK_SLICES;
    return (dim + 15) / 16 * (units / 16 * PACK_TILE + units % 16 / 8 * PACK_TAIL);
}

struct tiles tiles_up(int32_t dim, int32_t width)
{
    struct tiles t = {.n = width, .k = pack_fill(dim), .n_range = 4};
    t.n_tile = pack_fill(width) / 8;
    t.range_tile = t.k / 64;
    t.slice_tile = t.n_tile / PACK_SLICES;
    t.per_slice = pack_inverse(t.slice_tile);
    t.tile_step = (int64_t)t.k / 16 * PACK_TILE;
    t.range_step = (int64_t)t.range_tile * PACK_TILE;
    t.slice_step = up_elements(dim, width) + down_elements(dim, width);
    return t;
}

struct tiles tiles_down(int32_t dim, int32_t width)
{
    struct tiles t = {.n = dim, .k = pack_fill(width), .n_range = PACK_SLICES};
    int32_t units = t.k / PACK_SLICES;
    t.n_tile = (dim + 15) / 16;
    t.range_tile = units / 16;
    t.tail = units % 16 / 8;
    t.slice_tile = t.n_tile;
    t.per_slice = pack_inverse(t.slice_tile);
    t.first = up_elements(dim, width);
    t.tile_step = (int64_t)t.range_tile * PACK_TILE;
    t.range_step = up_elements(dim, width) + down_elements(dim, width);
    t.tail_first = t.first + (int64_t)t.n_tile * t.tile_step;
    return t;
}

size_t tiles_ff_elements(int32_t dim, int32_t width)
{
    return PACK_SLICES * (size_t)(up_elements(dim, width) + down_elements(dim, width));
}

/* ---- packing ---- */

struct pack {
    void *out;
    enum dtype dtype, storage;
};

static void put(const struct pack *p, int64_t at, float value)
{
    bf16 narrow = bf16_from_f32(value);
    if (p->dtype == DTYPE_BF16)
        ((bf16 *)p->out)[at] = narrow;
    else
        ((float *)p->out)[at] = p->storage == DTYPE_BF16 ? bf16_to_f32(narrow) : value;
}

/* Row m of tile `tile` = row[0..n), input by input along the ranges. */
static void put_row(const struct pack *p, const struct tiles *t, int32_t tile, int32_t m,
                    const float *row, int32_t n)
{
    for (int32_t range = 0; range < t->n_range; range++) {
        int32_t first = tiles_range_k(t, range), whole = 16 * t->range_tile;
        for (int32_t i = 0; i < whole + 8 * t->tail && first + i < n; i++)
            put(p,
                i < whole ? tiles_at(t, tile, range, i / 16) + tile_element(p->dtype, m, i % 16)
                          : tiles_tail_at(t, tile, range) + tail_element(p->dtype, m, i - whole),
                row[first + i]);
    }
}

enum rxt_status pack_linear(void *out, enum dtype dtype, const struct host_matrix *part, int n_part,
                            enum dtype storage)
{
    const struct pack p = {out, dtype, storage};
    int32_t n = 0, k = part[0].cols;
    for (int i = 0; i < n_part; i++)
        n += part[i].rows;
    const struct tiles t = tiles_linear(n, k);
    float *row = mem_alloc_n((size_t)k, sizeof *row);
    if (!row)
        return RXT_ENOMEM;
    for (int32_t i = 0, at = 0; i < n_part; i++)
        for (int32_t r = 0; r < part[i].rows; r++, at++) {
            host_row_read(row, &part[i], r, 0, k);
            put_row(&p, &t, at / 16, at % 16, row, k);
        }
    mem_free(row);
    return RXT_OK;
}

enum rxt_status pack_ff(void *out, enum dtype dtype, const struct ff_desc *d, enum dtype storage)
{
    const struct pack p = {out, dtype, storage};
    int32_t dim = d->w1.cols, width = d->w2.cols;
    const struct tiles up = tiles_up(dim, width), down = tiles_down(dim, width);
    float *row = mem_alloc_n((size_t)(dim > width ? dim : width), sizeof *row);
    if (!row)
        return RXT_ENOMEM;
    for (int32_t r = 0; r < d->w1.rows; r++) {
        int32_t unit = r % width, gate = r / width;
        host_row_read(row, &d->w1, r, 0, dim);
        put_row(&p, &up, unit / 8, unit % 8 + 8 * gate, row, dim);
    }
    for (int32_t r = 0; r < dim; r++) {
        host_row_read(row, &d->w2, r, 0, width);
        put_row(&p, &down, r / 16, r % 16, row, width);
    }
    mem_free(row);
    return RXT_OK;
}
