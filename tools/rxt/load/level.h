/* A machine that is slower at one moment and faster at the next makes all sessions so. The turns of
 * young sessions, none of which has a high number, say by how much; the latencies of the old ones
 * are put in proportion to them. What slows all sessions alike is gone then, whatever it is. */
#ifndef RXT_TOOLS_LOAD_LEVEL_H
#define RXT_TOOLS_LOAD_LEVEL_H

#include "tools/rxt/load/trend.h"

/* Young turns in a moment: several, in a time that is short beside the half minute in which a
 * machine drifts. */
enum { LEVEL_YOUNG = 20 };
#define LEVEL_FIRST 2u /* turns of a young session that say nothing: it is paged in */

struct level {
    uint32_t n_moment; /* into which the time of the points is divided */
    double young;      /* means of young turns in a moment: their median */
    const char *flaw;  /* why the points show nothing; NULL: they do */
};
#define LEVEL_KEPT 0.9 /* share of the points that must have young turns in their moment */

/* Divides each point by the geometric mean of the young ones in its moment, and multiplies it by
 * the usual one (level.young: a stall makes nothing usual). Logarithms, because the difference of
 * two of the same distribution is 0 on average, whatever that distribution is and however it
 * changes; a quotient of a value and a mean or median is not 1. Gives each point its moment, and a
 * weight by which a moment counts for what its old and young turns together can tell: points that
 * share the mean of a few share its error. Points of moments without young ones go; *n: those that
 * stay. Values below 1 are taken for it. ENOMEM. */
enum rxt_status level_points(struct level *l, struct trend_point *points, size_t *n,
                             const struct trend_point *young, size_t n_young);

#endif
