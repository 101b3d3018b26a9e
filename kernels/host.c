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
    int64_t at = (int64_t)(m->row_of ? m->row_of[row] : row) * m->cols + first, step = 1;
    if (m->transposed) {
        at = (int64_t)first * m->rows + row;
        step = m->rows;
    }
    for (int32_t i = 0; i < n; i++)
        out[i] = host_element(m->data, m->dtype, at + i * step);
}
