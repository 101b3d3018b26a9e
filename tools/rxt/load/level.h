/* A machine that is slower at one moment and faster at the next makes all sessions so. The turns of
 * young sessions, none of which has a high number, say by how much; the latencies of the old ones
 * are put in proportion to them, and what is left depends on the number of the turn alone. */
#ifndef RXT_TOOLS_LOAD_LEVEL_H
#define RXT_TOOLS_LOAD_LEVEL_H

#include "tools/rxt/load/trend.h"

/* Young turns in a moment: enough for a mean whose error does not matter in a quotient, in a time
 * that is short beside the half minute in which a machine drifts. */
enum { LEVEL_YOUNG = 20 };
#define LEVEL_FIRST 2u /* turns of a young session that say nothing: it is paged in */

struct level {
    uint32_t n_moment; /* into which the time of the points is divided */
    double young;      /* means of young turns in a moment: their median */
};
/* Divides each point by the mean of the young ones in its moment, and multiplies it by the usual
 * one (level.young: a stall makes nothing usual). Gives it its moment, and a weight by which a
 * moment counts for what its old and young turns together can tell: points that share the mean of a
 * few share its error. Points of moments without young ones go; *n: those that stay. ENOMEM. */
enum rxt_status level_points(struct level *l, struct trend_point *points, size_t *n,
                             const struct trend_point *young, size_t n_young);

#endif
