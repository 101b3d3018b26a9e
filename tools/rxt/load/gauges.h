/* What the server needs, beside the run: its metrics over HTTP, its process and its store, asked
 * for by a thread of its own. What cannot be had is NAN. */
#ifndef RXT_TOOLS_LOAD_GAUGES_H
#define RXT_TOOLS_LOAD_GAUGES_H

#include "kernels/base/status.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct gauges_config {
    const char *metrics;   /* http://HOST:PORT/PATH; NULL = none */
    const char *store;     /* its file; the one beside it for the log counts, too. NULL = none */
    const atomic_int *pid; /* of the server; 0 = not known now */
};

enum gauge {
    GAUGE_RSS,
    GAUGE_FDS,
    GAUGE_THREADS,
    GAUGE_CPU, /* seconds that the process used so far */
    GAUGE_STORE,
    GAUGE_SESSION_BYTES, /* from here on of its metrics */
    GAUGE_RUNNING,
    GAUGE_QUEUE_SLOT,
    GAUGE_QUEUE_MEMORY,
    GAUGE_TURNS,
    GAUGES
};
const char *gauge_name(enum gauge g);

/* At most so many samples are kept: then every other one goes and the pause doubles. */
enum { GAUGE_SAMPLES = 1200 };
struct gauge_sample {
    uint64_t at_us; /* clock_us */
    double value[GAUGES];
};

struct gauges; /* opaque */
/* Gives *g: starts. The texts are lent. EINVAL: the address; ENOMEM. */
enum rxt_status gauges_start(struct gauges **g, const struct gauges_config *cfg,
                             struct rxt_error *err);
/* Takes a last sample and ends the thread; samples stay. */
void gauges_stop(struct gauges *g);
uint32_t gauges_count(const struct gauges *g); /* after gauges_stop */
const struct gauge_sample *gauges_get(const struct gauges *g);
void gauges_free(struct gauges **g); /* stops; NULL-safe */

#endif
