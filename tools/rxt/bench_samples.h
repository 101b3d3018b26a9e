/* What parts of `rxt bench` share: ids that are drawn, times that are sorted. */
#ifndef RXT_TOOLS_BENCH_SAMPLES_H
#define RXT_TOOLS_BENCH_SAMPLES_H

#include <stdint.h>

#define SAMPLES_MAX 32768
struct samples {
    int n;
    double ms[SAMPLES_MAX];
};
/* Milliseconds from start_ns to now; a full one takes no more. */
void samples_add(struct samples *s, uint64_t start_ns);
/* The least of them that a share q is not above; sorts them. There is one. */
double samples_quantile(struct samples *s, double q);

/* Other ids in every call: the experts they choose then change too. */
void draw_ids(int32_t *ids, int32_t n, int32_t n_vocab, uint64_t *seed);

#endif
