/* What a thread tells the kernel about itself. */
#ifndef RXT_BASE_THREAD_H
#define RXT_BASE_THREAD_H

#include "kernels/base/status.h"

#include <stdint.h>

/* Names the calling thread for ps, perf and debuggers: `rxt-front`. At most 15 bytes. */
void thread_name(const char *name);

/* How long the calling thread, and all that it starts from then on, may run before another that
 * waits for its processor has its turn; 100 us to 100 ms. It takes no privilege and changes no
 * share of a processor. Threads that wait and then have little to do ask for short slices, those
 * that compute for long ones: on a machine all of whose cores compute, one that is woken then runs
 * at once. With slices of one length it would wait for the kernel's next tick, or for the end of a
 * slice of some milliseconds: a token for a whole memory update.
 * EUNSUPPORTED from kernels before Linux 6.12 and for real-time policies, which take no such wish,
 * and where the system call is not allowed; nothing is lost then. */
#define THREAD_WAITS_US 100
#define THREAD_COMPUTES_US 20000
#define THREAD_YIELDS_US 500 /* what one that calls sched_yield often gives up with it */
enum rxt_status thread_slice(uint32_t us);

#endif
