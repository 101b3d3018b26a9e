#include "tests/ref/ref.h"

#include <assert.h>
#include <stdlib.h>

void ref_ff(enum ref_mode mode, float *out, const float *x, int n_row, const struct ff_desc *d)
{
    int inner = d->w1.rows, width = d->w2.cols;
    float *hidden = malloc(sizeof *hidden * (size_t)n_row * (size_t)inner);
    float *active = malloc(sizeof *active * (size_t)n_row * (size_t)width);
    assert(hidden && active);
    ref_linear(mode, hidden, x, n_row, &d->w1, &d->b1);
    for (int r = 0; r < n_row; r++)
        for (int i = 0; i < width; i++) {
            const float *h = hidden + r * inner; /* [values | gates] if gated */
            float *a = active + r * width;
            if (d->gated)
                a[i] = ref_round(mode, (double)h[i] * ref_act(mode, d->act, h[width + i]));
            else
                a[i] = ref_act(mode, d->act, h[i]);
        }
    ref_linear(mode, out, active, n_row, &d->w2, &d->b2);
    free(hidden);
    free(active);
}
