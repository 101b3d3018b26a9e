/* Inside of the server: the engine thread with its events (server_event.c), the front thread with
 * its sockets (front_socket.c), and the mail between them. */
#ifndef RXT_BRIDGE_SERVER_IMPL_H
#define RXT_BRIDGE_SERVER_IMPL_H

#include "bridge/front_impl.h"
#include "bridge/metrics_impl.h"
#include "bridge/server.h"

#include <pthread.h>
#include <stdatomic.h>

void server_defaults(struct server_config *c); /* fields that are zero */
void server_empty(struct mailbox *box);        /* frees the orders and batches in it */

/* ---- engine side ------------------------------------------------------------------------- */

/* Turns orders into requests of the bridge and its events into notes; for the engine thread. */
struct teller {
    struct bridge *bridge;
    const struct rxt_model *model;
    struct batch *batch; /* being filled */
    struct batch *spare; /* came back */
    struct mailbox *out; /* of the front */
    struct metrics *metrics;
    const char *spool_folder;
    struct order *unanswered; /* there was no memory to take it in, nor to say so */
    struct told *told;        /* requests whose last event is still to come */
    uint32_t n_request;       /* of them */
    uint32_t n_undecided;     /* of these: on the disk, they wait for CHOOSE */
    uint32_t n_owed;          /* that have ended, and whose end could not be said yet */
    bool lost;                /* there was no memory for a note */
    uint8_t body[WIRE_BODY_MAX];
    struct wire_info list[WIRE_ITEMS_MAX];
    float diff[WIRE_BODY_MAX / sizeof(float)];
};
/* True: it keeps o until there is memory to refuse it; else o stays the caller's. */
bool teller_submit(struct teller *t, struct order *o);
/* Adds a note to the batch, n bytes behind it. NULL: no memory; the stream then hears nothing of
 * it, and its client repeats the request and gets the stored answer. */
struct note *teller_note(struct teller *t, struct stream *s, enum note_kind kind, const void *bytes,
                         size_t n);
void teller_settle(struct teller *t); /* says what is owed; when n_owed > 0 */
void teller_flush(struct teller *t);  /* posts the batch if there is one */
void teller_take_back(struct teller *t, struct batch *b);
void teller_free(struct teller *t);

/* ---- files ------------------------------------------------------------------------------- */

/* Exports and imports go through files of a folder of their own; a thread reads and writes them, so
 * that neither front nor engine waits for them. */
struct spool; /* opaque */

#define SPOOL_PATH_MAX 4096
struct spool_config {
    const char *folder;  /* made if it is not there; what it holds of an earlier process goes */
    struct mailbox *out; /* batches of notes, for the front */
    void (*wake)(void *arg);
    void *arg;
};
/* EIO naming the folder. */
enum rxt_status spool_open(struct spool **out, const struct spool_config *cfg,
                           struct rxt_error *err);
void spool_post(struct spool *s, struct order *o); /* READ, WRITE, DROP; takes o */
void spool_close(struct spool **s);                /* what is posted is done first; NULL-safe */
void spool_path(char out[SPOOL_PATH_MAX], const char *folder, uint64_t file);

/* ---- front side -------------------------------------------------------------------------- */

struct front_socket; /* opaque: the thread, its sockets, the front */

struct front_socket_config {
    const struct server_config *server;
    const struct wire_body *welcome;
    struct metrics *metrics;
    struct mailbox *in; /* batches from the engine */
    /* Takes o; called in the front's thread. NULL: it is posted to `orders`. */
    void (*order)(void *arg, struct order *o);
    struct mailbox *orders;
    /* NULL: there is no admin endpoint. */
    void (*admin)(void *arg, uint8_t type, const struct wire_body *in, struct wire_body *out);
    /* Whether the engine can take these: all limits of a reload are taken, or none. NULL: any. */
    bool (*check)(void *arg, const struct bridge_limits *tenant);
    void *arg;
};
/* Binds the endpoints and starts the thread. EIO naming the endpoint; EINVAL. */
enum rxt_status front_socket_open(struct front_socket **out, const struct front_socket_config *cfg,
                                  struct rxt_error *err);
/* Where it listens; "" = it does not. */
const char *front_socket_endpoint(const struct front_socket *s, enum front_endpoint at);
/* Says that there is mail, or that a flag has changed. Any thread, also a signal handler. */
void front_socket_wake(struct front_socket *s);
/* As wake; clients hear the deadline, ORDER_QUIET comes when no more requests will. */
void front_socket_drain(struct front_socket *s, uint32_t deadline_ms);
void front_socket_reload(struct front_socket *s); /* reads the file of clients again */
/* Sends what it can, joins, closes the sockets and gives the last orders. What is left may still be
 * woken: the spool does so until it has carried them out. */
void front_socket_stop(struct front_socket *s);
void front_socket_close(struct front_socket **s); /* stops it if it runs; NULL-safe */

#endif
