#include "kernels/host_impl.h"

#include "kernels/base/bf16.h"
#include "kernels/base/f16.h"

#include <string.h>

float host_element(const void *data, enum dtype t, int64_t i)
{
    /* memcpy: tensors of a mapped file need not be aligned */
    const char *p = (const char *)data + (size_t)i * dtype_bytes(t);
    if (t == DTYPE_F32) {
        float f;
        memcpy(&f, p, sizeof f);
        return f;
    }
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return t == DTYPE_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
}

void host_vector_read(float *out, const struct host_vector *v)
{
    for (int32_t i = 0; i < v->n; i++)
        out[i] = v->data ? host_element(v->data, v->dtype, i) : 0.0f;
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

void host_row_read(float *out, const struct host_matrix *m, int32_t row, int32_t first, int32_t n)
{
    if (m->transposed) {
        for (int32_t i = 0; i < n; i++)
            out[i] = host_element(m->data, m->dtype, (int64_t)(first + i) * m->rows + row);
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
            out[i] = host_element(m->data, m->dtype, at + i);
    }
}
