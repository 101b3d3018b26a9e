/* How often each value came, to three significant digits, in constant memory: buckets whose width
 * doubles with the value, 1024 of them each time (the layout of HDR histograms). For microseconds
 * from 0 to 71 minutes; what is longer counts as that. */
#ifndef RXT_TOOLS_LOAD_HISTOGRAM_H
#define RXT_TOOLS_LOAD_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_HALF = 1024, HISTOGRAM_BUCKETS = 2 * HISTOGRAM_HALF + 21 * HISTOGRAM_HALF };

struct histogram {
    uint64_t n, max;
    double sum;
    uint32_t bucket[HISTOGRAM_BUCKETS];
};
void histogram_add(struct histogram *h, uint64_t value);
/* The middle of the bucket that holds the value of this rank: the smallest value that at least
 * share * n of the values do not exceed. At most 0.05 % off; 0 for an empty one. */
double histogram_at(const struct histogram *h, double share);
double histogram_mean(const struct histogram *h);

#endif
