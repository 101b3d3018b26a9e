/* Figures of one version of a memory, from its values as an image holds them. */
#ifndef RXT_TOOLS_INSPECT_MEASURE_H
#define RXT_TOOLS_INSPECT_MEASURE_H

#include "stm/stm.h"

struct slot_figures {
    float rms, max_abs;
};
/* out[layer * S + slot]. */
void measure_slots(const void *values, const struct stm_config *cfg, struct slot_figures *out);
/* Root of the mean of squares of n numbers that lie `step` bytes apart. */
double measure_rms(const float *x, size_t n, size_t step);
double measure_mean(const float *x, size_t n, size_t step);

/* The number stm_hash gives to these values. */
void measure_hash(const void *values, const struct stm_config *cfg, uint8_t hash[16]);
/* True if all values are finite; else *at = the first that is not. */
bool measure_finite(const void *values, const struct stm_config *cfg, size_t *at);

#endif
