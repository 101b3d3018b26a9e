/* The part of `rxt bench` that measures what a large memory costs others. */
#ifndef RXT_TOOLS_BENCH_IMAGES_H
#define RXT_TOOLS_BENCH_IMAGES_H

#include "rxt/rxt.h"

/* Time from a request of one session to its DONE, durable, while nothing else happens and while
 * images of another session are written, exported and imported, for so many seconds each, in a
 * store in the folder of temporary files. Prints a line each. */
enum rxt_status bench_images(const struct rxt_model *m, bool json, double seconds,
                             struct rxt_error *err);

#endif
