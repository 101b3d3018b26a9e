/* The crash ring: shapes of the last requests, no text and no names, written out when the process
 * dies of a fault. What happened last is most of what a report of a crash needs. */
#ifndef RXT_BRIDGE_RING_IMPL_H
#define RXT_BRIDGE_RING_IMPL_H

#include <stddef.h>
#include <stdint.h>

#define RING_ENTRIES 256 /* power of two */

struct ring_entry {
    int64_t wall_us;
    uint64_t us; /* from arrival to its last event */
    uint32_t n_query, n_answer;
    uint16_t code; /* of an ERROR; 0 = it went well */
    uint8_t verb;  /* of enum bridge_verb */
};

/* One at a time: of the engine's thread. */
void ring_note(const struct ring_entry *e);
/* A line of JSON each, oldest first. Async-signal-safe. */
void ring_dump(int fd);
/* On SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT: dumps to fd, then dies of the signal. */
void ring_catch(int fd);

#endif
