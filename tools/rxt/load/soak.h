/* After a run with faults: was anything lost? And, after any run: what grew? */
#ifndef RXT_TOOLS_LOAD_SOAK_H
#define RXT_TOOLS_LOAD_SOAK_H

#include "tools/rxt/load/faults.h"
#include "tools/rxt/load/outcome.h"

struct soak {
    uint64_t n_repeated; /* turns that reported DONE and were asked for again */
    uint64_t n_stored;   /* of them: answered from the journal */
    uint64_t n_differs, n_failed;
};
/* Asks for the last turns of every session again, under their ids: they must be answered, and not
 * be said a second time, which drive_verify behind it shows. */
enum rxt_status soak_repeat(struct soak *s, struct drive *d, struct rxt_error *err);
/* The verdict and the exit code of a run with faults. */
void soak_judge(const struct soak *s, const struct faults *f, struct load_outcome *o);
void soak_report(const struct soak *s, const struct faults *f, struct report *r);

/* A table of the gauges: at 10 % of the run, in its middle, at its end, and what a turn added. */
void growth_report(const struct load_outcome *o, struct report *r);

#endif
