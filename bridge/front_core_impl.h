/* Inside of the front: connections (front_peer.c), requests on their way (front_stream.c), checks
 * and dispatch (front.c). */
#ifndef RXT_BRIDGE_FRONT_CORE_IMPL_H
#define RXT_BRIDGE_FRONT_CORE_IMPL_H

#include "bridge/front_impl.h"

#define FRONT_ROUTE_MAX 255
#define FRONT_MESSAGES 6 /* ACCEPTED, UNDECIDED, DONE, MEMORY and their like of one stream */

struct link { /* in a ring with a head; alone: points to itself */
    struct link *next, *prev;
};

/* ---- connections ------------------------------------------------------------------------- */

struct peer {
    struct peer *chain; /* of its bucket */
    struct link all;    /* in front.peers */
    enum front_endpoint at;
    uint8_t n_route;
    uint8_t route[FRONT_ROUTE_MAX];
    char tenant[BRIDGE_NAME_MAX];
    bool greeted, foreign, gone;
    int64_t credit;
    uint32_t inflight;
    struct link streams; /* attached ones */
    struct link waiting; /* of them: those that wait for credit or room, in turn */
    uint64_t stalled_us; /* since when nothing of what waits went out; 0 = nothing waits */
    uint64_t heard_us;
};

/* ---- streams ----------------------------------------------------------------------------- */

/* An answer as far as it has come: tokens, and where the text of each ends. */
struct answer {
    int32_t *ids;
    uint32_t *end;
    char *text;
    uint32_t n, cap, text_n, text_cap;
    uint32_t sent; /* tokens */
};

struct message {
    const uint8_t *body; /* from the heap */
    uint32_t n;
    uint8_t type;
    uint16_t flags;
    uint32_t sequence;
};

struct stream {
    struct stream *chain;
    struct link peer_link; /* in peer.streams, while attached */
    struct link wait_link; /* in peer.waiting */
    struct link kept_link; /* in front.kept, once ended */
    struct peer *peer;     /* NULL: detached */
    uint8_t id[WIRE_ID_BYTES];
    char tenant[BRIDGE_NAME_MAX], session[BRIDGE_NAME_MAX];
    char fork[BRIDGE_NAME_MAX]; /* where a TURN may run instead; "" = nowhere */
    uint8_t type;
    uint8_t n_answer; /* candidates */
    bool shadow;      /* a CHOOSE whose TURN has a stream: that one tells, this one only refuses */
    bool ended, cancelled, cancel_on_disconnect, stored, failed;
    uint64_t ticket; /* 0 = not known yet */
    uint64_t forget_us;
    size_t bytes;
    struct answer answer[WIRE_CANDIDATES_MAX];
    struct message message[FRONT_MESSAGES];
    uint32_t n_message, n_sent;
    struct bulk *bulk;     /* EXPORT and IMPORT only */
    struct link bulk_link; /* in front.bulks */
};

/* An export or import on its way through a file. `at` counts bytes sent, or received. */
struct bulk {
    uint64_t spool, at, total, credit; /* credit: what the client of an import may still send */
    uint32_t n_chunk;                  /* sent or received */
    uint32_t n_out;                    /* orders to the files that have not come back */
    bool ready;                        /* EXPORT: the file is whole. IMPORT: the engine has it */
    uint8_t *chunk;                    /* EXPORT: read, and not sent yet */
    uint32_t chunk_n;
    uint64_t heard_us; /* IMPORT: of its client, or since when that may send again */
};

#define FRONT_BUCKETS 16384 /* power of two */

struct front {
    struct front_hooks hooks;
    struct front_limits limits;
    struct wire_body welcome;
    struct peer *peer_bucket[FRONT_BUCKETS];
    struct stream *stream_bucket[FRONT_BUCKETS];
    struct link peers, kept, bulks;
    struct link line; /* tenants that wait for a place of bulks, the first one first */
    struct front_counts counts;
    bool draining;
    uint32_t n_gone;
    uint64_t next_spool;
    uint64_t now_us, swept_us;
    uint8_t out[WIRE_BODY_MAX]; /* body of the message that is being made */
};

void link_init(struct link *l);
void link_add(struct link *head, struct link *l); /* at the end */
void link_drop(struct link *l);                   /* alone again; nothing to do if it is */
#define LINK_OF(l, type, member) ((type *)(void *)((char *)(l)-offsetof(type, member)))

/* front_peer.c */
struct peer *peer_find(struct front *f, enum front_endpoint at, struct wire_text route);
struct peer_counts { /* connections of a tenant */
    uint32_t all, greeted;
};
struct peer_counts peer_counts(const struct front *f, const char *tenant);
/* NULL: too many, or no memory. */
struct peer *peer_add(struct front *f, enum front_endpoint at, struct wire_text route,
                      const char *tenant);
void peer_free(struct front *f, struct peer *p);
/* Sends; a connection that is gone is marked and buried at the end of the call into the front. */
enum front_sent peer_send(struct front *f, struct peer *p, const struct front_message *m);
/* The same for a message of no stream: if there is no room, it is dropped. */
void peer_say(struct front *f, struct peer *p, uint8_t type, const uint8_t *id, uint32_t sequence,
              const struct wire_body *body);
struct refusal { /* what an ERROR says */
    enum wire_error code;
    uint64_t retry_ms;
    const char *key, *detail;
};
/* FINAL unless a request of that id goes on. id NULL = zero. */
void peer_refuse(struct front *f, struct peer *p, const uint8_t *id, const struct refusal *r);
/* Sends what waits, as far as credit and room go. */
void peer_pump(struct front *f, struct peer *p);
/* Detaches what waits, after too long a time without credit. */
void peer_stalled(struct front *f, struct peer *p);
void peer_leave(struct front *f, struct peer *p); /* detaches or cancels its streams */
void peer_bury(struct front *f);                  /* forgets connections that are gone */

/* front_stream.c: any of these may free s unless it says otherwise. */
/* session NULL = any. Shadows are not found. */
struct stream *stream_find(struct front *f, const char *tenant, const struct wire_text *session,
                           const uint8_t *id);
/* NULL: no memory. Attached to p. */
struct stream *stream_add(struct front *f, struct peer *p, const struct wire_header *h,
                          struct wire_text session);
void stream_free(struct front *f, struct stream *s);
/* Sends the stream to p from token `from` on. */
void stream_attach(struct front *f, struct stream *s, struct peer *p, uint32_t from);
void stream_detach(struct front *f, struct stream *s); /* does not free s */
void stream_cancel(struct front *f, struct stream *s); /* does not free s */
void stream_note(struct front *f, struct stream *s, const struct note *n, const void *bytes);
void stream_pump(struct front *f, struct stream *s);

/* The front itself says something of the stream: kept as what the engine says. Sends nothing yet.
 */
void stream_say(struct front *f, struct stream *s, uint8_t type, uint16_t flags,
                const struct wire_body *b);
/* The same for an ERROR that ends it. */
void stream_fail(struct front *f, struct stream *s, enum wire_error code, const char *detail);

/* front_bulk.c: exports and imports. None of these frees s, or sends but bulk_send. */
enum bulk_place { BULK_PLACE, BULK_NONE_FREE, BULK_SHARE_USED };
/* Whether one more of the tenant may begin. A free place is for the tenant that was refused first
 * and holds none; it keeps its turn as long as it asks again within BULK_TURN_MS. */
#define BULK_RETRY_MS 1000u /* what a refused one is told */
#define BULK_TURN_MS 3000u
enum bulk_place bulk_place(struct front *f, const char *tenant);
void bulk_line_free(struct front *f);
bool bulk_start(struct front *f, struct stream *s,
                const struct wire_body *b); /* false: no memory */
void bulk_receive(struct front *f, struct stream *s, uint32_t sequence, struct wire_text bytes);
void bulk_note(struct front *f, struct stream *s, const struct note *n, const void *bytes);
/* Ends imports whose clients have said nothing for stall_ms; this one frees them. */
void bulk_tick(struct front *f);
void bulk_cancel(struct front *f, struct stream *s); /* also when nobody is there to get it */
/* Sends the chunk that is there and asks for the next one. */
enum front_sent bulk_send(struct front *f, struct stream *s);
bool bulk_busy(const struct stream *s);            /* orders are out: s must stay */
void bulk_free(struct front *f, struct stream *s); /* and drops the file */

/* front_request.c: the order of a request that is well-formed. NULL: no memory. */
struct order *order_of(uint8_t type, const struct wire_body *b, struct stream *s);

#endif
