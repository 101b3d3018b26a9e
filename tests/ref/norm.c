#include "tests/ref/ref.h"

#include <math.h>

static float value(struct host_vector v, int i, float absent)
{
    return v.data ? ((const float *)v.data)[v.n == 1 ? 0 : i] : absent;
}

static double mean_square(const float *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return sum / n;
}

static double mean(const float *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i];
    return sum / n;
}

static double variance(const float *x, int n)
{
    double m = mean(x, n), sum = 0;
    for (int i = 0; i < n; i++)
        sum += (x[i] - m) * (x[i] - m);
    return sum / n;
}

void ref_norm(enum ref_mode mode, float *out, const float *x, int n_row, const struct norm_desc *d)
{
    int n = d->dim;
    for (int r = 0; r < n_row; r++, x += n, out += n) {
        bool by_slot = d->kind == NORM_MIX_SLOT;
        int slot = by_slot ? r % d->ema_rms.n : 0;
        double shift = 0, factor = 0;
        switch (d->kind) {
        case NORM_RMS:
            factor = 1 / sqrt(mean_square(x, n) + 0x1p-23);
            break;
        case NORM_LAYER:
        case NORM_MIX_LAYER:
            shift = mean(x, n);
            factor = 1 / sqrt(variance(x, n) + 1e-5);
            break;
        case NORM_MIX_RMS:
            factor = 1 / sqrt(sqrt(mean_square(x, n)) + 1e-6);
            break;
        case NORM_MIX_SLOT:
            factor = 1 / sqrt((double)value(d->ema_rms, slot, 1) + 1e-6);
            break;
        }
        bool mix = d->kind != NORM_RMS && d->kind != NORM_LAYER;
        double open = mix ? 1 / (1 + exp(-(double)value(d->gate, slot, 0))) : 1;
        bool scale_by_slot = by_slot && d->scale_by_slot;
        for (int i = 0; i < n; i++) {
            double y = (x[i] - shift) * factor * value(d->weight, i, 1) + value(d->bias, i, 0);
            if (mix)
                y = open * value(d->scale, scale_by_slot ? slot : i, 1) * y + (1 - open) * x[i];
            out[i] = ref_round(mode, y);
        }
    }
}
