/* The part of `rxt bench` that packs interactions of other lengths. */
#ifndef RXT_TOOLS_BENCH_PACKED_H
#define RXT_TOOLS_BENCH_PACKED_H

#include "rxt/rxt.h"

/* The memory encoder over 16 packed interactions, of mean 0.6 and 0.25 of the longest, against the
 * same kernels with each at `longest` tokens; so many seconds each. Prints a line each (JSON: an
 * object). */
enum rxt_status bench_packed(const struct rxt_model *m, int32_t longest, bool json, double seconds);

#endif
