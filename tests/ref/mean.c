#include "tests/ref/ref.h"

void ref_mean(enum ref_mode mode, float *out, const float *const *x, int n, int n_value)
{
    for (int i = 0; i < n_value; i++) {
        double sum = 0;
        for (int j = 0; j < n; j++)
            sum += x[j][i];
        out[i] = ref_round(mode, sum / n);
    }
}
