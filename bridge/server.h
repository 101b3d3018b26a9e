/* The server: sessions over ZeroMQ (bridge/PROTOCOL.md). It puts a front with sockets before a
 * bridge and runs both; a program opens it, runs it and closes it.
 *
 * Threads: server_run is the engine; the front has a thread of its own, the bridge its four. */
#ifndef RXT_BRIDGE_SERVER_H
#define RXT_BRIDGE_SERVER_H

#include "bridge/bridge.h"

struct server; /* opaque */

struct server_config { /* zeroed = defaults; the texts are lent while the server is open */
    const char *turn;  /* endpoint of turns; NULL = tcp://127.0.0.1:7110 */
    const char *state; /* of export, import, diff; NULL = none */
    const char *admin; /* of health and control, ipc:// only; NULL = none */

    const char *metrics; /* HOST:PORT for Prometheus and probes, loopback only; NULL = none */

    const char *secret_key; /* CURVE, 40 characters of Z85; NULL = no CURVE, and then only loopback
                             * and ipc endpoints */
    const char *clients;    /* file of "PUBLIC-KEY TENANT" lines: who may connect, and as whom */

    uint64_t credit_max;             /* bytes; 0 = 16 MiB */
    uint32_t max_inflight;           /* requests of a connection; 0 = 4096 */
    uint32_t max_connections;        /* 0 = 4096 */
    uint32_t max_tenant_connections; /* of one tenant; 0 = max_connections */
    uint32_t max_requests;           /* 0 = 16384 */
    uint64_t max_kept_bytes;         /* of answers that can be resumed; 0 = 64 MiB */
    uint64_t max_import_bytes;       /* of one session; 0 = 1 GiB */
    uint32_t max_bulk;               /* exports and imports at the same time; 0 = 4 */
    uint32_t max_tenant_bulk;        /* of one tenant; 0 = with CURVE a quarter of them, at least 1,
                                      * else all: there is one tenant */
    uint32_t heartbeat_ms;           /* 0 = 5000 */
    uint32_t grace_ms;               /* 0 = 60000 */
    uint32_t stall_ms;               /* 0 = 30000 */
    uint32_t handshake_ms;           /* 0 = 5000 */
    uint32_t high_water;             /* messages queued to a connection; 0 = 10000 */
    uint32_t drain_ms;               /* 0 = 30000 */

    /* Asked at server_reload, in the thread of the front, for the limits of *out and those of a
     * tenant; false: they stay. NULL: they never change. */
    bool (*reload)(void *arg, struct server_config *out, struct bridge_limits *tenant);
    void *reload_arg;
};

/* Checks a configuration without opening anything: endpoints, keys, the file of clients. EINVAL and
 * EIO naming the field. */
enum rxt_status server_check(const struct server_config *cfg, struct rxt_error *err);

#define SERVER_KEY_TEXT 40 /* characters of a key, Z85 */
/* A fresh CURVE key pair. EUNSUPPORTED: libzmq without CURVE. */
enum rxt_status server_keygen(char public_key[SERVER_KEY_TEXT + 1],
                              char secret_key[SERVER_KEY_TEXT + 1], struct rxt_error *err);

/* Gives *out: opens the bridge and binds the endpoints. The model is lent. EIO: an endpoint cannot
 * be bound; EINVAL: a field of cfg; and the statuses of bridge_open. */
enum rxt_status server_open(struct server **out, const struct rxt_model *m,
                            const struct bridge_config *bridge, const struct server_config *cfg,
                            struct rxt_error *err);
/* Where it listens, with the port that the system chose for *; "" = it does not. Lent. */
const char *server_turn_endpoint(const struct server *s);
const char *server_state_endpoint(const struct server *s);

/* Faults of the process write the shapes of the last requests to fd before it dies. */
void server_catch_faults(int fd);

/* Serves until it was told to drain and has finished, or to stop, or the device fails. */
void server_run(struct server *s);
/* Why the device failed, for good: only another process can serve then. NULL: it works. */
const char *server_failure(const struct server *s);
/* No new requests; ends what runs, writes what is to be written, at most drain_ms; then server_run
 * returns. Any thread, also a signal handler. */
void server_drain(struct server *s);
/* How long that is, as configured or as a client said. As server_drain. */
uint32_t server_drain_ms(const struct server *s);
/* After server_run: how much of that server_close has for images. */
uint32_t server_left_ms(const struct server *s);
/* server_run returns now; what was acknowledged is on the disk. As server_drain. */
void server_stop(struct server *s);
/* Reads the file of clients and the limits again. As server_drain. */
void server_reload(struct server *s);
/* In the time that is left of a drain writes images, then joins all threads, which takes as long as
 * the disk does. NULL-safe. */
void server_close(struct server **s);

/* ---- without a model --------------------------------------------------------------------- */

/* Serves turns and the small verbs as a server does, with words for answers: max_tokens of them
 * (16 if a turn says none), one a step, of all turns at the same time. Any session is there; it
 * counts its turns and remembers nothing. For measuring clients. */
struct server_null; /* opaque */
/* Gives *out: binds `turn` of cfg. step_us: 0 = as fast as it can. Statuses of server_open. */
enum rxt_status server_null_open(struct server_null **out, const struct server_config *cfg,
                                 uint64_t step_us, struct rxt_error *err);
const char *server_null_endpoint(const struct server_null *x); /* as server_turn_endpoint */
void server_null_run(struct server_null *x);                   /* until server_null_stop */
void server_null_stop(struct server_null *x);   /* any thread, also a signal handler */
void server_null_close(struct server_null **x); /* NULL-safe */

/* ---- the front alone --------------------------------------------------------------------- */

struct server_bench {
    double seconds;
    double rate; /* tokens a second that an engine without a model makes; 0 = as fast as it can */
    int32_t n_stream; /* answers at the same time, 1 to 256 */
    bool curve;
};
struct server_bench_result {
    double messages_s, tokens_s; /* that a client on loopback got; tokens that waited share one */
    double p50_us, p99_us;       /* from the engine's word to the client */
};
/* Runs a front with an engine that knows no model, and a client. EIO, EINVAL. */
enum rxt_status server_bench_front(const struct server_bench *cfg, struct server_bench_result *out,
                                   struct rxt_error *err);

#endif
