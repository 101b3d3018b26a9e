/* How many turns a second a server bears: the highest rate at which its memories keep up. */
#ifndef RXT_TOOLS_LOAD_CAPACITY_H
#define RXT_TOOLS_LOAD_CAPACITY_H

#include "tools/rxt/load/drive.h"
#include "tools/rxt/report/report.h"

/* A rate is borne when the turns that are due and not remembered yet do not become more and more:
 * over the last two thirds of a trial their number grows (least squares) by at most this share of
 * the turns that come. A server that is asked for 10 % more than it bears falls behind by 9 %. */
#define CAPACITY_DRIFT 0.03
#define CAPACITY_WINDOW (2.0 / 3)
#define CAPACITY_STEP 1.3 /* from one trial to the next, until one is borne and one is not */

enum { CAPACITY_TRIALS = 24, CAPACITY_HALVINGS = 4 };
struct capacity_trial {
    double rate, done_s; /* turns a second: asked for, DONE */
    double drift;
    double lag_ms[2];   /* of the memory behind the answer: p50, p99 */
    double first_ms[2]; /* first token: p50, p99 */
    uint64_t n_error;   /* refused, lost, not remembered */
    bool borne;
};
struct capacity {
    struct capacity_trial trial[CAPACITY_TRIALS];
    int n;
    double rate;      /* highest that was borne; 0: none was */
    bool interrupted; /* `stop` of the drive came before the end; of the trial then nothing is kept
                       */
};
/* That share, of a run of so many seconds. */
double capacity_drift(const struct drive *d, double seconds);

/* Plays trials of `seconds` of the plan's turns at rates that it chooses, each in sessions of its
 * own; `like` has what they share (connections, timeout, stop). show: called before each trial;
 * may be NULL. ELIMIT: a trial would have more than PLAN_TURNS_MAX turns. */
struct capacity_config {
    const struct load_plan *plan;
    const struct client_config *server;
    const struct drive *like;
    double seconds;
    bool even;
    void (*show)(double rate);
};
enum rxt_status capacity_find(struct capacity *c, const struct capacity_config *cfg,
                              struct rxt_error *err);
void capacity_report(const struct capacity *c, struct report *r);

#endif
