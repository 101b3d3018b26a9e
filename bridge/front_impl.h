/* The front: who is connected, which requests run, what each client still has to get. It checks
 * what clients send, hands requests to the engine as orders, and sends what comes back under the
 * credit of each connection (bridge/PROTOCOL.md, sections 7 to 9 are this room's state machines).
 *
 * No socket and no clock in here: front_socket.c feeds frames in and gets frames out through
 * hooks, so that the whole machine can be driven by tests and fuzzers. One thread owns it.
 *
 *   front_receive -> checks -> order ---> engine ---> notes -> front_note -> log -> send
 */
#ifndef RXT_BRIDGE_FRONT_IMPL_H
#define RXT_BRIDGE_FRONT_IMPL_H

#include "bridge/bridge.h"
#include "bridge/mailbox_impl.h"
#include "bridge/wire_impl.h"

/* ---- orders: to the engine --------------------------------------------------------------- */

struct stream;

enum order_kind {
    ORDER_SUBMIT, /* r, for stream */
    ORDER_CANCEL, /* ticket */
    ORDER_QUIET,  /* no more orders to submit will come: the front drains */
    ORDER_LIMITS, /* limits, from now on */
    ORDER_BATCH,  /* a batch comes back to be used again */
    /* To the thread that reads and writes spool files, so that the front waits for no disk. */
    ORDER_READ,  /* n_bytes at `offset` of file `spool`, for stream: NOTE_CHUNK */
    ORDER_WRITE, /* `bytes` at `offset` of it: NOTE_WROTE */
    ORDER_DROP,  /* the file is not needed any more */
    ORDER_STOP,  /* ends the thread */
};
struct order { /* made by the front, freed by whom it is for */
    struct mail mail;
    enum order_kind kind;
    struct bridge_request r; /* its texts and ids stand behind the struct */
    struct bridge_limits limits;
    struct stream *stream; /* only a name for the engine */
    uint64_t ticket;
    uint64_t spool, offset; /* SUBMIT of export and import: the file they use, 0 = none */
    uint8_t *bytes;         /* WRITE: behind the struct */
    size_t n_bytes;
};

/* ---- notes: from the engine -------------------------------------------------------------- */

enum note_kind {
    NOTE_TICKET,  /* of the stream's request: it can be cancelled now */
    NOTE_TOKEN,   /* one token */
    NOTE_MESSAGE, /* any other message, its body ready */
    NOTE_SPOOLED, /* the export lies in its file; the engine has finished */
    NOTE_CHUNK,   /* bytes of a file; ticket: bytes of all of it. Or status */
    NOTE_WROTE,   /* ticket: how many bytes. Or status */
};
struct note { /* `bytes` of text or body behind it; the next note at `size` from this one */
    uint32_t size, bytes;
    struct stream *stream;
    enum note_kind kind;
    uint8_t type; /* MESSAGE */
    uint16_t flags;
    int32_t token;
    int32_t candidate;
    uint64_t ticket;
    enum rxt_status status; /* CHUNK, WROTE */
};
#define BATCH_BYTES 65536u
struct batch {          /* what one step of the engine has to say */
    struct order order; /* ORDER_BATCH; its mail carries it both ways */
    size_t used, room;
    _Alignas(16) uint8_t bytes[];
};

/* ---- front ------------------------------------------------------------------------------- */

enum front_endpoint { FRONT_TURN, FRONT_STATE, FRONT_ADMIN, FRONT_ENDPOINTS };

struct front_message {
    struct wire_header header;
    const void *body;
    struct wire_text raw; /* n > 0: frame 2 */
};
enum front_sent { FRONT_SENT, FRONT_FULL, FRONT_GONE };

struct front_hooks {
    void *arg;
    enum front_sent (*send)(void *arg, enum front_endpoint at, struct wire_text route,
                            const struct front_message *m);
    void (*order)(void *arg, struct order *o);      /* takes o: to the engine, or for a file */
    void (*error)(void *arg, enum wire_error code); /* one is sent: to be counted */
    /* The DONE of HEALTH, STATS, RELOAD or DRAIN; texts lent until the next call. */
    void (*admin)(void *arg, uint8_t type, const struct wire_body *in, struct wire_body *out);
};

struct front_limits { /* none is zero */
    uint64_t credit_max;
    uint32_t max_inflight, max_connections, max_tenant_connections, max_requests;
    uint64_t max_kept_bytes;   /* of streams that have ended */
    uint64_t max_import_bytes; /* of one */
    uint32_t max_bulk;         /* exports and imports at the same time */
    uint32_t max_tenant_bulk;  /* of one tenant */
    uint32_t heartbeat_ms, grace_ms, stall_ms;
};

struct front; /* opaque */

/* Gives *out. welcome: what WELCOME says, lent for ever; credit_max to window are filled in from
 * the limits. ENOMEM. */
enum rxt_status front_create(struct front **out, const struct front_hooks *hooks,
                             const struct front_limits *limits, const struct wire_body *welcome);
void front_destroy(struct front **f); /* NULL-safe */
void front_set_limits(struct front *f, const struct front_limits *limits);

/* One message of a client. route names the connection, tenant whose it is. */
void front_receive(struct front *f, enum front_endpoint at, struct wire_text route,
                   const char *tenant, const struct wire_text *frame, size_t n_frame,
                   uint64_t now_us);
/* What the engine said; the batch stays the caller's. */
void front_note(struct front *f, const struct batch *b, uint64_t now_us);
/* What time brings: streams that wait, stalls, grace, heartbeats. Gives the time until it must be
 * called again. */
uint64_t front_tick(struct front *f, uint64_t now_us);
/* From now on new requests get ERROR draining; everybody is told. */
void front_drain(struct front *f, uint32_t deadline_ms);

struct front_counts {
    uint32_t connections, streams, running, kept;
    uint64_t kept_bytes;
    uint64_t received, sent, stalls; /* since it was made */
};
struct front_counts front_counts(const struct front *f);

#endif
