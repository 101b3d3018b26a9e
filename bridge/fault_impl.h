/* Faults for the tests of S2 to S6: a named point of the code kills the process, or fails. */
#ifndef RXT_BRIDGE_FAULT_IMPL_H
#define RXT_BRIDGE_FAULT_IMPL_H

#include "kernels/base/status.h"

/* Kills the process at the nth time it gets to the point: RXT_FAULT=point:n in the environment.
 * Points: token, answered, undecided, journaled, updated, imaged. */
void fault_point(const char *point);

/* RXT_OK, unless a test has armed the point. Points: update (one pass of the memory lane). */
enum rxt_status fault_status(const char *point);
/* The next `times` passes of the point give st. One point at a time; NULL disarms. */
void fault_arm(const char *point, enum rxt_status st, int times);

#endif
