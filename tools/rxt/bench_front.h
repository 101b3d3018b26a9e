/* The part of `rxt bench` that measures the server's front. */
#ifndef RXT_TOOLS_BENCH_FRONT_H
#define RXT_TOOLS_BENCH_FRONT_H

#include "bridge/server.h"

/* Token messages a second over loopback, plain and with CURVE: the most there can be, and the time
 * that the front adds to a token at 50,000/s and 15,000/s, half of what it has to carry. Prints a
 * line each. */
enum rxt_status bench_front(bool json, double seconds, struct rxt_error *err);

#endif
