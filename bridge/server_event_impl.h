/* Between the two halves of a teller: what becomes of a request (server_event.c), and which message
 * says so (server_message.c). */
#ifndef RXT_BRIDGE_SERVER_EVENT_IMPL_H
#define RXT_BRIDGE_SERVER_EVENT_IMPL_H

#include "bridge/ring_impl.h"
#include "bridge/server_impl.h"

/* What the engine must remember of a request until its last event. */
struct told {
    struct told *next, *prev; /* in teller.told */
    struct teller *teller;
    struct stream *stream;
    enum bridge_verb verb;
    bool dry_run, undecided;
    bool dark; /* a note was lost: its client hears nothing more but the end */
    bool owed; /* ... which there was no memory to say */
    int32_t n_candidate;
    uint64_t arrived_us;
    struct ring_entry shape;
};

/* All of these set teller.lost when there was no memory for the note. */
void tell_event(const struct told *told, const struct bridge_event *e);
/* key: the parameter it is about; NULL = none. */
void tell_error(const struct told *told, enum rxt_status st, const char *sentence,
                uint64_t retry_after_us, const char *key);
/* The parameter that a refusal of a request is about, which the wire could not judge; NULL. */
const char *tell_key(const struct bridge_request *r, enum rxt_status st);

#endif
