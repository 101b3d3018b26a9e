#include "tools/rxt/bench_samples.h"

#include "kernels/base/clock.h"

#include <math.h>
#include <stdlib.h>

void samples_add(struct samples *s, uint64_t start_ns)
{
    if (s->n < SAMPLES_MAX)
        s->ms[s->n++] = (double)(clock_ns() - start_ns) / 1e6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double samples_quantile(struct samples *s, double q)
{
    qsort(s->ms, (size_t)s->n, sizeof *s->ms, by_value);
    int at = (int)ceil(q * s->n) - 1;
    return s->ms[at > 0 ? at : 0];
}

void draw_ids(int32_t *ids, int32_t n, int32_t n_vocab, uint64_t *seed)
{
    for (int32_t i = 0; i < n; i++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((*seed >> 33) % (uint64_t)n_vocab);
    }
}
