#include "tools/rxt/load/histogram.h"

#include <math.h>

/* Values below 2 * HALF have a bucket each; of those above, `shift` low bits are dropped until
 * HALF <= value < 2 * HALF. */
static uint32_t bucket_of(uint64_t value)
{
    uint32_t v = value < UINT32_MAX ? (uint32_t)value : UINT32_MAX, shift = 0;
    while (v >> shift >= 2 * HISTOGRAM_HALF)
        shift++;
    return shift * HISTOGRAM_HALF + (v >> shift);
}

static double middle_of(uint32_t bucket)
{
    if (bucket < 2 * HISTOGRAM_HALF)
        return bucket;
    uint32_t shift = bucket / HISTOGRAM_HALF - 1, v = bucket - shift * HISTOGRAM_HALF;
    return ldexp((double)v, (int)shift) + (ldexp(1, (int)shift) - 1) / 2;
}

void histogram_add(struct histogram *h, uint64_t value)
{
    h->bucket[bucket_of(value)]++;
    h->n++;
    h->sum += (double)value;
    h->max = value > h->max ? value : h->max;
}

double histogram_at(const struct histogram *h, double share)
{
    uint64_t rank = (uint64_t)ceil(share * (double)h->n), seen = 0;
    if (h->n == 0)
        return 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen >= rank && seen > 0)
            return fmin(middle_of(i), (double)h->max);
    }
    return (double)h->max;
}

double histogram_mean(const struct histogram *h)
{
    return h->n ? h->sum / (double)h->n : 0;
}
