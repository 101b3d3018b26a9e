#include "kernels/host_impl.h"

#include "kernels/backend_impl.h"
#include "kernels/base/bf16.h"

#include <string.h>

void host_vector_read(float *out, const struct host_vector *v)
{
    for (int32_t i = 0; i < v->n; i++)
        out[i] = v->data ? dtype_value(v->data, v->dtype, (size_t)i) : 0.0f;
}

float *host_vector_cut(struct arena *a, const struct host_vector *v)
{
    if (!v->data)
        return NULL;
    float *out = arena_cut(a, (size_t)v->n, sizeof *out);
    if (out)
        host_vector_read(out, v);
    return out;
}

enum rxt_status host_weight_create(struct weight **out,
                                   struct weight *(*lay_out)(struct arena *a, const void *desc),
                                   const void *desc)
{
    struct arena a = arena_plan();
    (void)lay_out(&a, desc);
    size_t bytes = a.used;
    TRY(arena_create(&a, bytes));
    struct weight *w = lay_out(&a, desc);
    w->bytes = bytes;
    *out = w;
    return RXT_OK;
}

void host_row_read(float *out, const struct host_matrix *m, int32_t row, int32_t first, int32_t n)
{
    if (m->transposed) {
        for (int32_t i = 0; i < n; i++)
            out[i] =
                dtype_value(m->data, m->dtype, (size_t)(first + i) * (size_t)m->rows + (size_t)row);
        return;
    }
    int64_t at = (int64_t)(m->row_of ? m->row_of[row] : row) * m->cols + first;
    const char *p = (const char *)m->data + (size_t)at * dtype_bytes(m->dtype);
    if (m->dtype == DTYPE_F32) {
        memcpy(out, p, (size_t)n * sizeof *out);
    } else if (m->dtype == DTYPE_BF16) {
        for (int32_t i = 0; i < n; i++) {
            bf16 h;
            memcpy(&h, p + (size_t)i * sizeof h, sizeof h);
            out[i] = bf16_to_f32(h);
        }
    } else {
        for (int32_t i = 0; i < n; i++)
            out[i] = dtype_value(m->data, m->dtype, (size_t)(at + i));
    }
}
