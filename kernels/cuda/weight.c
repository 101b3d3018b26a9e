/* The small weights: norms, gates, rotary tables, the embedding; and the end of all of them. */
#include "kernels/base/arena.h"
#include "kernels/base/bf16.h"
#include "kernels/base/mem.h"
#include "kernels/cpu/rope_impl.h"
#include "kernels/cuda/gate_impl.h"
#include "kernels/cuda/linear_impl.h"
#include "kernels/cuda/moe_impl.h"
#include "kernels/cuda/norm_impl.h"
#include "kernels/cuda/table_impl.h"
#include "kernels/host_impl.h"

#include <assert.h>
#include <string.h>

/* ---- vectors of one block ---- */

/* Vectors on their way to the device, one after another. */
struct block {
    float *host;
    size_t n, used;
};

/* Where vector v goes, as an offset that block_put turns into an address; SIZE_MAX: absent. */
static size_t block_add(struct block *b, const struct host_vector *v)
{
    if (!v->data)
        return SIZE_MAX;
    size_t at = b->used;
    host_vector_read(b->host + at, v);
    b->used += (size_t)v->n;
    assert(b->used <= b->n);
    return at;
}

static size_t block_add_matrix(struct block *b, const struct host_matrix *m)
{
    if (!m->data)
        return SIZE_MAX;
    size_t at = b->used;
    for (int32_t r = 0; r < m->rows; r++)
        host_row_read(b->host + at + (size_t)r * (size_t)m->cols, m, r, 0, m->cols);
    b->used += (size_t)m->rows * (size_t)m->cols;
    assert(b->used <= b->n);
    return at;
}

static float *block_at(float *device, size_t at)
{
    return at == SIZE_MAX ? NULL : device + at;
}

static size_t size_of(const struct host_vector *v)
{
    return v->data ? (size_t)v->n : 0;
}

/* ---- norm ---- */

enum rxt_status cuda_weight_norm(struct weight **out, struct backend *b, const struct norm_desc *d)
{
    static const float eps[] = {[NORM_RMS] = 0x1p-23f,
                                [NORM_LAYER] = 1e-5f,
                                [NORM_MIX_LAYER] = 1e-5f,
                                [NORM_MIX_RMS] = 1e-6f,
                                [NORM_MIX_SLOT] = 1e-6f};
    struct block v = {.n = size_of(&d->weight) + size_of(&d->bias) + size_of(&d->scale) +
                           size_of(&d->gate) + size_of(&d->ema_rms)};
    struct cuda_norm *w = mem_alloc(sizeof *w);
    enum rxt_status st = RXT_ENOMEM;
    v.host = mem_alloc_n(v.n, sizeof *v.host);
    if (!w || !v.host)
        goto fail;
    size_t weight = block_add(&v, &d->weight), bias = block_add(&v, &d->bias);
    size_t scale = block_add(&v, &d->scale), gate = block_add(&v, &d->gate);
    size_t ema_rms = block_add(&v, &d->ema_rms);
    TRY_OR(fail,
           cuda_alloc_put(cuda_backend(b), (void **)&w->vectors, v.host, v.n * sizeof *v.host));
    w->norm = (struct norm){
        .kind = d->kind,
        .dim = d->dim,
        .n_slot = d->kind == NORM_MIX_SLOT ? d->ema_rms.n : 0,
        .eps = eps[d->kind],
        .scale_by_slot = d->scale_by_slot,
        .weight = block_at(w->vectors, weight),
        .bias = block_at(w->vectors, bias),
        .scale = block_at(w->vectors, scale),
        .gate = block_at(w->vectors, gate),
        .ema_rms = block_at(w->vectors, ema_rms),
    };
    w->base.bytes = v.n * sizeof *v.host;
    mem_free(v.host);
    *out = &w->base;
    return RXT_OK;
fail:
    mem_free(v.host);
    mem_free(w);
    return st;
}

/* ---- gate ---- */

enum rxt_status cuda_weight_gate(struct weight **out, struct backend *b, const struct gate_desc *d)
{
    bool linear = d->kind == GATE_LINEAR;
    struct block v = {.n = size_of(&d->g) + size_of(&d->b) + size_of(&d->status_w) + 1};
    if (linear)
        v.n += (size_t)d->w.rows * (size_t)d->w.cols;
    struct cuda_gate *w = mem_alloc(sizeof *w);
    enum rxt_status st = RXT_ENOMEM;
    v.host = mem_alloc_n(v.n, sizeof *v.host);
    if (!w || !v.host)
        goto fail;
    size_t g = block_add(&v, &d->g), bias = block_add(&v, &d->b);
    size_t status_w = block_add(&v, &d->status_w), m = SIZE_MAX;
    if (linear)
        m = block_add_matrix(&v, &d->w);
    TRY_OR(fail,
           cuda_alloc_put(cuda_backend(b), (void **)&w->vectors, v.host, v.n * sizeof *v.host));
    w->gate = (struct gate){
        .kind = d->kind,
        .tanh = d->tanh,
        .per_slot = d->per_slot,
        .n_slot = d->n_slot,
        .dim = d->dim,
        .g = block_at(w->vectors, g),
        .w = block_at(w->vectors, m),
        .b = block_at(w->vectors, bias),
        .status_w = block_at(w->vectors, status_w),
    };
    if (d->status_b.data)
        host_vector_read(&w->gate.status_b, &d->status_b);
    w->base.bytes = v.n * sizeof *v.host;
    mem_free(v.host);
    *out = &w->base;
    return RXT_OK;
fail:
    mem_free(v.host);
    mem_free(w);
    return st;
}

/* ---- rope ---- */

/* cos and sin as the compute dtype stores them, of angles rounded to it (spec 2.3). */
enum rxt_status cuda_weight_rope(struct weight **out, struct backend *b, const float *angle,
                                 int32_t n_pos, int32_t half_dim)
{
    bool narrow = b->act_dtype == DTYPE_BF16;
    size_t n = (size_t)n_pos * (size_t)half_dim;
    struct cuda_rope_table *w = mem_alloc(sizeof *w);
    float *table = mem_alloc_n(n, 2 * sizeof *table);
    enum rxt_status st = RXT_ENOMEM;
    if (!w || !table)
        goto fail;
    for (size_t i = 0; i < n; i++) {
        float a = narrow ? bf16_to_f32(bf16_from_f32(angle[i])) : angle[i], s, c;
        rope_sincos(a, &s, &c);
        table[i] = narrow ? bf16_to_f32(bf16_from_f32(c)) : c;
        table[n + i] = narrow ? bf16_to_f32(bf16_from_f32(s)) : s;
    }
    TRY_OR(fail, cuda_alloc_put(cuda_backend(b), (void **)&w->cos, table, 2 * n * sizeof *table));
    w->sin = w->cos + n;
    w->base.bytes = 2 * n * sizeof *table;
    mem_free(table);
    *out = &w->base;
    return RXT_OK;
fail:
    mem_free(table);
    mem_free(w);
    return st;
}

/* ---- table ---- */

#define TABLE_ROWS 64 /* converted at a time */

static void convert_rows(void *out, enum dtype dtype, const struct host_matrix *m, int32_t row,
                         int32_t n, float *place)
{
    for (int32_t r = 0; r < n; r++) {
        host_row_read(place, m, row + r, 0, m->cols);
        size_t at = (size_t)r * (size_t)m->cols;
        for (int32_t c = 0; c < m->cols; c++)
            if (dtype == DTYPE_BF16)
                ((bf16 *)out)[at + (size_t)c] = bf16_from_f32(place[c]);
            else
                ((float *)out)[at + (size_t)c] = place[c];
    }
}

enum rxt_status cuda_weight_table(struct weight **out, struct backend *b,
                                  const struct host_matrix *m)
{
    struct cuda_backend *be = cuda_backend(b);
    size_t row = (size_t)m->cols * dtype_bytes(b->act_dtype);
    struct cuda_table *w = mem_alloc(sizeof *w);
    char *rows = mem_alloc_n(TABLE_ROWS, row);
    float *place = mem_alloc_n((size_t)m->cols, sizeof *place);
    enum rxt_status st = RXT_ENOMEM;
    if (!w || !rows || !place)
        goto fail;
    w->data = cuda_alloc(b, (size_t)m->rows * row);
    if (!w->data)
        goto fail;
    for (int32_t r = 0; r < m->rows; r += TABLE_ROWS) {
        int32_t n = m->rows - r < TABLE_ROWS ? m->rows - r : TABLE_ROWS;
        convert_rows(rows, b->act_dtype, m, r, n, place);
        TRY_OR(fail, cuda_put(be, (char *)w->data + (size_t)r * row, rows, (size_t)n * row));
    }
    w->base.bytes = (size_t)m->rows * row;
    mem_free(rows);
    mem_free(place);
    *out = &w->base;
    return RXT_OK;
fail:
    if (w)
        cuda_free(b, w->data);
    mem_free(w);
    mem_free(rows);
    mem_free(place);
    return st;
}

/* ---- the end ---- */

void cuda_weight_destroy(struct backend *b, struct weight *w)
{
    struct cuda_backend *be = cuda_backend(b);
    switch (w->kind) {
    case WEIGHT_LINEAR:
        cuda_linear_destroy(be, w);
        return;
    case WEIGHT_FF:
        cuda_ff_destroy(be, w);
        return;
    case WEIGHT_MOE:
        cuda_moe_destroy(be, w);
        return;
    case WEIGHT_NORM:
        cuda_free(b, ((struct cuda_norm *)w)->vectors);
        break;
    case WEIGHT_GATE:
        cuda_free(b, ((struct cuda_gate *)w)->vectors);
        break;
    case WEIGHT_ROPE:
        cuda_free(b, ((struct cuda_rope_table *)w)->cos);
        break;
    case WEIGHT_TABLE:
        cuda_free(b, ((struct cuda_table *)w)->data);
        break;
    }
    mem_free(w);
}
