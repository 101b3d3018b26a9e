/* A client of rxtd for very many requests at a time (bridge/PROTOCOL.md), from one thread: send
 * requests under tags, take what comes until a moment in time.
 *
 *   client_many_open(&c, &(struct client_many_config){.max_requests = 4096}, &err);
 *   client_many_start(c, 0, tag, &request, &err);
 *   client_many_next(c, until_us, &e, &err);
 *
 * It hides nothing and retries nothing: each refusal is an event, and so is each connection that
 * had to be made anew. What becomes of the requests on that one is the caller's: resume them, or
 * start them again under their ids. Connections are kept alive (HELLO, PING, credit). */
#ifndef RXT_BRIDGE_CLIENT_MANY_H
#define RXT_BRIDGE_CLIENT_MANY_H

#include "bridge/client.h"

struct client_many; /* opaque */

struct client_many_config {
    struct client_config server; /* timeout_ms: of the first HELLO; patience_ms is not looked at */
    uint32_t n_connection;       /* 0 = 1; at most 64 */
    uint32_t max_requests;       /* in flight; 0 = 4096 */
    /* [n_connection]: a connection that reads slowly takes so many bytes of TOKENs a pause; 0: it
     * takes them as they come. NULL: all do. */
    const uint32_t *slow_bytes;
    uint32_t slow_pause_ms;
};

/* Gives *out: connects and says HELLO on all connections. Statuses of client_open. */
enum rxt_status client_many_open(struct client_many **out, const struct client_many_config *cfg,
                                 struct rxt_error *err);
void client_many_close(struct client_many **c); /* NULL-safe */
const struct client_welcome *client_many_welcome(const struct client_many *c);
uint32_t client_many_inflight(const struct client_many *c);

/* Sends a request on a connection; r->id must not be zero, and not in flight. EBUSY: max_requests
 * are; EINVAL: LIST, EXPORT and DIFF, whose answers only client_next delivers; else as
 * client_start. */
enum rxt_status client_many_start(struct client_many *c, uint32_t connection, uint64_t tag,
                                  const struct client_request *r, struct rxt_error *err);
/* Asks for the rest of the answer of a request that was started, from token number `from` on; its
 * session as there. ENOTFOUND: it is not in flight. */
enum rxt_status client_many_resume(struct client_many *c, const uint8_t id[16], const char *session,
                                   uint32_t from);
/* Ends the answer at its next token: an event all the same. ENOTFOUND. */
enum rxt_status client_many_cancel(struct client_many *c, const uint8_t id[16],
                                   const char *session);
/* Forgets a request: no events of it come any more. */
void client_many_forget(struct client_many *c, const uint8_t id[16]);
/* Closes a connection and makes it anew, as a client does that has lost it. EIO, EINVAL. */
enum rxt_status client_many_reconnect(struct client_many *c, uint32_t connection,
                                      struct rxt_error *err);

enum client_many_kind {
    CLIENT_MANY_IDLE,      /* nothing came until then */
    CLIENT_MANY_EVENT,     /* `event` of the request with this tag */
    CLIENT_MANY_FAILED,    /* ERROR, MEMORY_FAILED or CANCELLED of it: status, code, err */
    CLIENT_MANY_CONNECTED, /* `connection` is new: the server knows no requests of it */
};
struct client_many_event {
    enum client_many_kind kind;
    uint32_t connection;
    uint64_t at_us; /* when it was taken (clock_us) */
    uint64_t tag;
    uint8_t id[16];
    struct client_event event; /* texts and ids are lent until the next call */
    uint32_t sequence;         /* TOKEN: tokens of the answer before it */
    bool final;                /* the request is no longer in flight */
    enum rxt_status status;    /* FAILED: RXT_ECANCELLED, or what client_next says */
    uint32_t code;             /* of PROTOCOL.md; 0 = cancelled */
    bool retryable;            /* the same request can succeed later: after retry_after_ms */
    uint32_t retry_after_ms;
};
/* The next event, or IDLE at until_us (clock_us); err has the sentence of FAILED. EFORMAT,
 * EUNSUPPORTED: the server does not speak the protocol; ENOMEM. */
enum rxt_status client_many_next(struct client_many *c, uint64_t until_us,
                                 struct client_many_event *e, struct rxt_error *err);

#endif
