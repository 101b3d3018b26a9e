/* Closes connections whose message does not end. libzmq limits the bytes of a frame and, by its
 * high-water mark, whole messages; the frames of one message it takes in without end, 64 bytes of
 * memory each, and shows nothing of it before the last one. So the guard looks at the connections
 * themselves: what the kernel has received since a message last came out.
 *
 * Only TCP counts its bytes: on ipc it is the permissions of the path that decide who may connect.
 * One thread. */
#ifndef RXT_BRIDGE_FRONT_GUARD_IMPL_H
#define RXT_BRIDGE_FRONT_GUARD_IMPL_H

#include "kernels/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Well above what an honest client has on its way without a message coming out: the window of an
 * import (8 MiB and its headers), or what the kernel holds for a connection (6 MiB). */
#define GUARD_BYTES (16u << 20)
#define GUARD_PERIOD_US 100000u

struct guard {
    struct guarded *peer; /* [n_peer], by file descriptor */
    size_t n_peer;
    uint64_t next_us;
};

/* Watches a bound socket. *monitor: to be polled, read by guard_events and closed. EIO. */
enum rxt_status guard_watch(void *context, void *socket, void **monitor, struct rxt_error *err);
/* Who has come and gone; false: no memory for one, who is not watched. */
bool guard_events(struct guard *g, void *monitor);
/* A whole message has come from the connection of this descriptor; -1 is nobody. */
void guard_message(struct guard *g, int fd);
/* Now and then (guard_due) in this order: the bytes of all are looked at, then every socket is
 * received from until nothing waits, then what was looked at is judged: what came meanwhile is held
 * against nobody. guard_judge closes those above GUARD_BYTES. How many. */
bool guard_due(const struct guard *g, uint64_t now_us);
void guard_sample(struct guard *g);
size_t guard_judge(struct guard *g, uint64_t now_us);
void guard_free(struct guard *g);

#endif
