/* Whether a latency depends on the number of the turn: a straight line through all turns, how far
 * it can be off, and the tails of the first turns beside those of the last. */
#ifndef RXT_TOOLS_LOAD_TREND_H
#define RXT_TOOLS_LOAD_TREND_H

#include "kernels/base/status.h"

#include <stddef.h>
#include <stdint.h>

struct trend_point {
    uint32_t session, turn; /* from 0 */
    double value;
    uint64_t due_us; /* since the start of the run */
    double weight;   /* in the line; 1 = it counts as the others do */
    uint32_t moment; /* of trend_config.n_moment */
};

/* The bounds of the verdict (issue: constant latency). */
#define TREND_SHARE 0.03  /* of the median, that the line may rise or fall over the whole run */
#define TREND_RATIO 1.10  /* p99 of the last tenth over p99 of the first turns, at most */
#define TREND_SAMPLES 100 /* that either p99 needs to be one */
#define TREND_FIRST 100   /* turns of the first window, if that is not more than a tenth */

enum trend_verdict { TREND_CONSTANT, TREND_NOT_CONSTANT, TREND_NOT_SHOWN };
struct trend {
    size_t n;
    double median;
    double slope;               /* per turn, least squares */
    double low, high;           /* 95 % interval of the slope */
    double p99_first, p99_last; /* NaN: fewer than TREND_SAMPLES */
    /* By what share the mean is above trend_config.reference, and its 95 % interval; NaN without.
     */
    double over, over_low, over_high;
    uint32_t n_turn; /* that the run has */
    enum trend_verdict verdict;
    char why[48]; /* a sentence */
};

/* Fits turns `warmup` to n_turn - 1 of all points. The interval is that of a bootstrap, n_draw
 * times: sessions are drawn with replacement, and (since a stall hits neighbours, in all sessions
 * at a time) blocks of turns, the same for every session. With moments (load/level.h), blocks are
 * of them. Points may come in any order; the array is used up. ENOMEM. */
struct trend_config {
    uint32_t n_session, n_turn, warmup, n_draw;
    uint64_t seed;
    uint32_t n_moment; /* 0 = none */
    double reference;  /* what the young sessions take; of moments only */
};
enum rxt_status trend_fit(struct trend *t, struct trend_point *points, size_t n,
                          const struct trend_config *cfg);
const char *trend_verdict_name(enum trend_verdict v); /* "constant", "not constant", "not shown" */

/* Of n sorted values, by linear interpolation between ranks; NaN if n = 0. */
double quantile(const double *sorted, size_t n, double share);
void sort_values(double *values, size_t n);

#endif
