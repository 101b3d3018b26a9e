#include "tests/ref/ref.h"

static float element(const struct host_matrix *m, int row, int col)
{
    return ((const float *)m->data)[(size_t)row * (size_t)m->cols + (size_t)col];
}

void ref_linear(enum ref_mode mode, float *out, const float *x, int n_row,
                const struct host_matrix *w, const struct host_vector *bias)
{
    for (int r = 0; r < n_row; r++)
        for (int i = 0; i < w->rows; i++) {
            double sum = bias && bias->data ? ((const float *)bias->data)[i] : 0;
            for (int k = 0; k < w->cols; k++)
                sum += (double)x[r * w->cols + k] * element(w, i, k);
            out[r * w->rows + i] = ref_round(mode, sum);
        }
}

void ref_add(enum ref_mode mode, float *x, const float *y, int n_value)
{
    for (int i = 0; i < n_value; i++)
        x[i] = ref_round(mode, (double)x[i] + y[i]);
}
