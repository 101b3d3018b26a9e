/* What a thread tells the kernel about itself. */
#ifndef RXT_BASE_THREAD_H
#define RXT_BASE_THREAD_H

#include "kernels/base/status.h"

/* Names the calling thread for ps, perf and debuggers: `rxt-front`. At most 15 bytes. */
void thread_name(const char *name);

/* Asks for short time slices for the calling thread, and for all that it starts from then on: on a
 * machine whose cores all compute, a thread that is woken then runs within about THREAD_SLICE_US,
 * and not when the one that computes has had its slice of some milliseconds (a token would wait for
 * a whole memory update). It takes no privilege and changes no share of the processor.
 * EUNSUPPORTED from kernels before Linux 6.12, which take no such wish; nothing is lost then. */
#define THREAD_SLICE_US 100
enum rxt_status thread_slice_short(void);

#endif
