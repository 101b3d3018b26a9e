/* The part of `rxt bench` that answers beside memory updates. */
#ifndef RXT_TOOLS_BENCH_BESIDE_H
#define RXT_TOOLS_BENCH_BESIDE_H

#include "rxt/rxt.h"

/* Time per token of `batch` answers while another thread makes one memory after the other, each of
 * a turn of `turn` tokens and with its K/V, against without; they share the machine as in a server,
 * where one memory waits: in four phases of so many seconds, two
 * each. Prints a line (JSON: an object). */
enum rxt_status bench_beside(const struct rxt_model *m, int32_t batch, int32_t turn, bool json,
                             double seconds);

#endif
