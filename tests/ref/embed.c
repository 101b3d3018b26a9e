#include "tests/ref/ref.h"

void ref_embed(float *out, const float *table, const int32_t *id, int n_row, int dim)
{
    for (int r = 0; r < n_row; r++)
        for (int i = 0; i < dim; i++)
            out[r * dim + i] = table[id[r] * dim + i];
}
