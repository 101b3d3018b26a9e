#include "tools/rxt/inspect/measure.h"

#include <math.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

void measure_slots(const void *values, const struct stm_config *cfg, struct slot_figures *out)
{
    size_t dim = (size_t)cfg->embed_dim, n_slot = (size_t)cfg->n_layer * (size_t)cfg->n_slot;
    for (size_t s = 0; s < n_slot; s++) {
        double squares = 0;
        float top = 0;
        for (size_t i = s * dim; i < (s + 1) * dim; i++) {
            float v = dtype_value(values, cfg->dtype, i);
            squares += (double)v * (double)v;
            top = fmaxf(top, fabsf(v));
        }
        out[s] = (struct slot_figures){(float)sqrt(squares / (double)dim), top};
    }
}

static const float *at_step(const float *x, size_t i, size_t step)
{
    return (const float *)(const void *)((const char *)x + i * step);
}

double measure_rms(const float *x, size_t n, size_t step)
{
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += (double)*at_step(x, i, step) * (double)*at_step(x, i, step);
    return sqrt(squares / (double)n);
}

double measure_mean(const float *x, size_t n, size_t step)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)*at_step(x, i, step);
    return sum / (double)n;
}

void measure_hash(const void *values, const struct stm_config *cfg, uint8_t hash[16])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(values, stm_bytes(cfg)));
    memcpy(hash, canonical.digest, 16);
}

bool measure_finite(const void *values, const struct stm_config *cfg, size_t *at)
{
    size_t n = stm_bytes(cfg) / dtype_bytes(cfg->dtype);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(dtype_value(values, cfg->dtype, i))) {
            *at = i;
            return false;
        }
    return true;
}
