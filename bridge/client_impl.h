/* What the files of the clients share: client_link.c (the connection: frames, HELLO, PING, a new
 * socket), client_message.c (requests as bodies, messages as events), client_list.c (the answer to
 * LIST), client.c (one request on a connection) and client_many.c (many on several). */
#ifndef RXT_BRIDGE_CLIENT_IMPL_H
#define RXT_BRIDGE_CLIENT_IMPL_H

#include "bridge/client.h"
#include "bridge/wire_impl.h"

#include <zmq.h>

#define CLIENT_CREDIT (1u << 20) /* bytes of TOKENs and CHUNKs on their way to us */
#define CLIENT_QUIET_US 1000000u /* silence after which the server is asked whether it lives */

struct client_link {
    void *context, *socket;
    char endpoint[256], name[WIRE_NAME_MAX + 1];
    char keys[3][41]; /* server, public, secret; "" without CURVE */
    bool greeted;
    bool fresh;        /* greeted since the caller last looked */
    uint64_t heard_us; /* when something came */
    uint64_t asked_us; /* when HELLO or PING went that nobody answered; 0 = answered */
    uint64_t heartbeat_us;
    uint64_t owed;       /* bytes of TOKENs and CHUNKs read and not granted again */
    uint32_t credit;     /* bytes of them on their way to us */
    uint64_t pause_us;   /* between two grants: a slow reader; 0 = none */
    uint64_t granted_us; /* when the last one went */
    bool unbounded;      /* the queues of the socket hold all that is sent */
    struct client_welcome welcome;

    /* The message that came last. */
    zmq_msg_t frame[3]; /* the last of a CHUNK only */
    struct wire_header header;
    struct wire_body body; /* lent from frame[1] */
    struct wire_candidate candidates[WIRE_CANDIDATES_MAX];
    struct wire_info sessions[WIRE_ITEMS_MAX];
};

/* l zeroed but for what the caller wants otherwise: credit, pause_us, unbounded. */
enum rxt_status link_open(struct client_link *l, const struct client_config *cfg,
                          struct rxt_error *err);
void link_close(struct client_link *l);
/* Sends one message; a connection that cannot take it is found out by silence. */
void link_send(struct client_link *l, uint8_t type, const uint8_t id[WIRE_ID_BYTES],
               const void *body, size_t n);
void link_send_body(struct client_link *l, uint8_t type, const uint8_t id[WIRE_ID_BYTES],
                    const struct wire_body *body);
/* Waits up to wait_us for a message about a request and gives true; sees to everything that is
 * about the connection. When `fresh` is set, the server knows nothing of this connection's
 * requests. A broken message is a failure: *st is EFORMAT, or EUNSUPPORTED for a server of other
 * versions. */
bool link_receive(struct client_link *l, uint64_t wait_us, enum rxt_status *st,
                  struct rxt_error *err);
/* The same of what is there already. */
bool link_take(struct client_link *l, enum rxt_status *st, struct rxt_error *err);
void link_greet(struct client_link *l); /* says HELLO */
/* A new socket: the server sees a client that has gone and another one that comes. */
enum rxt_status link_again(struct client_link *l, struct rxt_error *err);
void link_text(char *out, size_t cap, struct wire_text t); /* a copy, cut to the field */

uint8_t message_type(enum client_verb verb); /* of the wire */
enum rxt_status message_random_id(uint8_t id[WIRE_ID_BYTES], struct rxt_error *err);
/* The body of a request. EINVAL: its session's name; ELIMIT: longer than cap. */
enum rxt_status message_encode(const struct client_request *r, void *out, size_t cap, size_t *n,
                               struct rxt_error *err);
/* The status of an ERROR or MEMORY_FAILED, and its sentence. */
enum rxt_status message_refusal(const struct wire_body *b, struct rxt_error *err);
/* Fills *e, without ids, from a message to a request of this type; texts are lent from the body.
 * False: the message is no event (ERROR, CANCELLED ...); then only the flags are filled. */
bool message_event(const struct wire_header *h, const struct wire_body *b, uint8_t request,
                   struct client_event *e);

/* 0 for what the server has left out. */
static inline uint64_t known(uint64_t value)
{
    return value == WIRE_ABSENT ? 0 : value;
}

/* The sessions that a DONE of LIST names, into out[b->n_sessions]. */
void list_copy(const struct wire_body *b, struct client_session *out);

#endif
