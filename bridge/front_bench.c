/* The front alone: an engine that knows no model puts tokens in, a client counts what comes out. */
#define _GNU_SOURCE /* mkstemp */
#include "bridge/server_impl.h"

#include "kernels/base/clock.h"
#include "kernels/base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zmq.h>

#define ANSWER_TOKENS 256 /* of one answer, then the client asks again */
#define STAMPS 65536u     /* power of two: tokens whose time of birth is known */
#define STREAMS 256
#define BATCHES_OUT 4 /* steps the engine may be ahead of the front */
#define SAMPLES 200000

struct front_bench {
    struct server_bench cfg;
    struct server_config server;
    struct mailbox orders, notes;
    struct teller teller;
    struct metrics metrics;
    struct wire_body welcome;
    struct front_socket *front;
    pthread_t engine;
    atomic_bool stop;
    char clients[64], public_key[SERVER_KEY_TEXT + 1], secret_key[SERVER_KEY_TEXT + 1];
    atomic_uint_fast64_t stamp[STAMPS]; /* by token id: when the engine said it, ns */
    /* The engine's. */
    struct stream *stream[STREAMS];
    int32_t n_said[STREAMS], n_stream, next_id, n_out;
    /* The client's. */
    void *context, *socket;
    uint64_t n_message, n_token, unread, next_request;
    uint32_t *sample_us10; /* latencies in tenths of a microsecond */
    size_t n_sample;
};

/* ---- the engine without a model ---------------------------------------------------------- */

static void take_orders(struct front_bench *x)
{
    for (struct mail *mail = mailbox_take(&x->orders); mail;) {
        struct order *o = (struct order *)mail;
        mail = mail->next;
        if (o->kind == ORDER_BATCH) {
            x->n_out--;
            teller_take_back(&x->teller, (struct batch *)o);
            continue;
        }
        if (o->kind == ORDER_SUBMIT && x->n_stream < STREAMS) {
            x->n_said[x->n_stream] = 0;
            x->stream[x->n_stream++] = o->stream;
        }
        mem_free(o);
    }
}

static void say_token(struct front_bench *x, int32_t i)
{
    struct note *n = teller_note(&x->teller, x->stream[i], NOTE_TOKEN, " word", 5);
    if (!n)
        return;
    n->token = x->next_id;
    x->next_id = (int32_t)((uint32_t)(x->next_id + 1) & (STAMPS - 1));
    atomic_store_explicit(&x->stamp[n->token], clock_ns(), memory_order_relaxed);
    x->n_said[i]++;
}

static void say_done(struct front_bench *x, int32_t i)
{
    static const uint8_t empty_map[] = {0x80};
    struct note *n = teller_note(&x->teller, x->stream[i], NOTE_MESSAGE, empty_map, 1);
    if (!n)
        return;
    n->type = WIRE_DONE;
    n->flags = WIRE_FINAL;
    x->n_stream--;
    x->stream[i] = x->stream[x->n_stream];
    x->n_said[i] = x->n_said[x->n_stream];
}

static void step(struct front_bench *x)
{
    for (int32_t i = x->n_stream; i-- > 0;) {
        if (x->n_said[i] < ANSWER_TOKENS)
            say_token(x, i);
        else
            say_done(x, i);
    }
    if (!x->teller.batch)
        return;
    x->n_out++;
    teller_flush(&x->teller);
    front_socket_wake(x->front);
}

/* One step, then the time that a model would take for it. */
static void *run_engine(void *arg)
{
    struct front_bench *x = arg;
    double step_ns = x->cfg.rate > 0 ? 1e9 * x->cfg.n_stream / x->cfg.rate : 0;
    double due = (double)clock_ns();
    while (!atomic_load(&x->stop)) {
        double now = (double)clock_ns();
        take_orders(x);
        if (x->n_out >= BATCHES_OUT || x->n_stream == 0) {
            mailbox_wait(&x->orders, 1000);
        } else if (now < due) {
            mailbox_wait(&x->orders, (uint64_t)((due - now) / 1000) + 1);
        } else {
            step(x);
            due = due + step_ns > now - 1e8 ? due + step_ns : now; /* it was held up: forget that */
        }
    }
    return NULL;
}

/* ---- the client -------------------------------------------------------------------------- */

static enum rxt_status send_body(struct front_bench *x, uint8_t type, const struct wire_body *b,
                                 struct rxt_error *err)
{
    uint8_t header[WIRE_HEADER_BYTES], body[512];
    size_t n = 0;
    TRY(wire_encode(type, b, body, sizeof body, &n));
    struct wire_header h = {.version = WIRE_VERSION, .type = type, .body_bytes = (uint32_t)n};
    if (!wire_type_id_zero(type)) {
        x->next_request++;
        memcpy(h.id, &x->next_request, sizeof x->next_request);
    }
    wire_header_put(&h, header);
    if (zmq_send(x->socket, header, sizeof header, ZMQ_SNDMORE) < 0 ||
        zmq_send(x->socket, body, n, 0) < 0)
        return rxt_fail(err, RXT_EIO, "the client cannot send: %s", zmq_strerror(zmq_errno()));
    return RXT_OK;
}

static enum rxt_status ask(struct front_bench *x, struct rxt_error *err)
{
    struct wire_body b = {0};
    wire_init(WIRE_TURN, &b);
    b.session = wire_string("s");
    b.query = wire_string("Hi");
    return send_body(x, WIRE_TURN, &b, err);
}

static enum rxt_status grant(struct front_bench *x, struct rxt_error *err)
{
    struct wire_body b = {0};
    if (x->unread < x->server.credit_max / 2)
        return RXT_OK;
    wire_init(WIRE_CREDIT, &b);
    b.bytes = x->unread;
    x->unread = 0;
    return send_body(x, WIRE_CREDIT, &b, err);
}

static void on_token(struct front_bench *x, const uint8_t *body, size_t n)
{
    struct wire_body b = {0};
    struct wire_fault fault;
    int32_t ids[ANSWER_TOKENS];
    if (wire_decode(WIRE_TOKEN, body, n, &b, &fault) != WIRE_OK || b.ids.n > ANSWER_TOKENS)
        return;
    wire_ids_copy(&b.ids, ids);
    x->n_message++;
    x->n_token += b.ids.n;
    x->unread += WIRE_HEADER_BYTES + n;
    uint64_t born =
        atomic_load_explicit(&x->stamp[(uint32_t)ids[0] & (STAMPS - 1)], memory_order_relaxed);
    uint64_t age = (clock_ns() - born) / 100;
    if (x->n_sample < SAMPLES)
        x->sample_us10[x->n_sample++] = age < UINT32_MAX ? (uint32_t)age : UINT32_MAX;
}

static enum rxt_status receive_one(struct front_bench *x, struct rxt_error *err)
{
    uint8_t header[WIRE_HEADER_BYTES], body[32768];
    struct wire_header h;
    int n = zmq_recv(x->socket, header, sizeof header, 0);
    if (n < 0)
        return rxt_fail(err, RXT_EIO, "nothing comes from the front: %s",
                        zmq_strerror(zmq_errno()));
    if (!wire_header_get(header, (size_t)n, &h))
        return rxt_fail(err, RXT_EFORMAT, "the front sends what is not ours");
    n = zmq_recv(x->socket, body, sizeof body, 0);
    if (n < 0 || (size_t)n > sizeof body)
        return rxt_fail(err, RXT_EIO, "a body is missing, or larger than %zu bytes", sizeof body);
    if (h.type == WIRE_TOKEN)
        on_token(x, body, (size_t)n);
    else if (h.type == WIRE_DONE)
        return ask(x, err);
    else if (h.type == WIRE_ERROR)
        return rxt_fail(err, RXT_EIO, "the front sends an error");
    return grant(x, err);
}

static enum rxt_status run_client(struct front_bench *x, double *seconds, struct rxt_error *err)
{
    const int32_t versions[] = {WIRE_VERSION};
    struct wire_body b = {0};
    wire_init(WIRE_HELLO, &b);
    b.versions = (struct wire_ids){.v = versions, .n = 1};
    TRY(send_body(x, WIRE_HELLO, &b, err));
    for (int32_t i = 0; i < x->cfg.n_stream; i++)
        TRY(ask(x, err));
    uint64_t start = clock_us(), warm = start + 300000;
    uint64_t end = warm + (uint64_t)(1e6 * x->cfg.seconds);
    for (uint64_t now = start; now < end; now = clock_us()) {
        if (now < warm)
            x->n_message = x->n_token = x->n_sample = 0;
        TRY(receive_one(x, err));
    }
    *seconds = (double)(clock_us() - warm) / 1e6;
    return RXT_OK;
}

/* ---- all together ------------------------------------------------------------------------ */

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The client uses the server's own key pair: who it is does not matter here. */
static enum rxt_status make_keys(struct front_bench *x, struct rxt_error *err)
{
    if (!x->cfg.curve)
        return RXT_OK;
    TRY(server_keygen(x->public_key, x->secret_key, err));
    (void)snprintf(x->clients, sizeof x->clients, "/tmp/rxt-bench-XXXXXX");
    int fd = mkstemp(x->clients);
    char line[SERVER_KEY_TEXT + 16];
    int n = snprintf(line, sizeof line, "%s bench\n", x->public_key);
    bool ok = fd >= 0 && write(fd, line, (size_t)n) == n;
    if (fd >= 0)
        (void)close(fd);
    x->server.secret_key = x->secret_key;
    x->server.clients = x->clients;
    return ok ? RXT_OK : rxt_fail(err, RXT_EIO, "cannot write %s", x->clients);
}

static enum rxt_status connect_client(struct front_bench *x, struct rxt_error *err)
{
    const int patience = 5000, linger = 0, none = 0;
    x->socket = zmq_socket(x->context, ZMQ_DEALER);
    bool ok = x->socket &&
              zmq_setsockopt(x->socket, ZMQ_RCVTIMEO, &patience, sizeof patience) == 0 &&
              zmq_setsockopt(x->socket, ZMQ_RCVHWM, &none, sizeof none) == 0 &&
              zmq_setsockopt(x->socket, ZMQ_LINGER, &linger, sizeof linger) == 0;
    size_t n = SERVER_KEY_TEXT + 1;
    if (ok && x->cfg.curve)
        ok = zmq_setsockopt(x->socket, ZMQ_CURVE_SERVERKEY, x->public_key, n) == 0 &&
             zmq_setsockopt(x->socket, ZMQ_CURVE_PUBLICKEY, x->public_key, n) == 0 &&
             zmq_setsockopt(x->socket, ZMQ_CURVE_SECRETKEY, x->secret_key, n) == 0;
    if (!ok || zmq_connect(x->socket, front_socket_endpoint(x->front, FRONT_TURN)) != 0)
        return rxt_fail(err, RXT_EIO, "the client cannot connect: %s", zmq_strerror(zmq_errno()));
    return RXT_OK;
}

static enum rxt_status open_all(struct front_bench *x, struct rxt_error *err)
{
    static const uint8_t hash[16];
    const struct front_socket_config front = {
        .server = &x->server,
        .welcome = &x->welcome,
        .metrics = &x->metrics,
        .in = &x->notes,
        .orders = &x->orders,
    };
    x->context = zmq_ctx_new();
    x->sample_us10 = mem_alloc_n(SAMPLES, sizeof *x->sample_us10);
    if (!x->context || !x->sample_us10)
        return RXT_ENOMEM;
    wire_init(WIRE_WELCOME, &x->welcome);
    x->welcome.server = x->welcome.model = x->welcome.bit_class = wire_string("bench");
    x->welcome.model_hash = wire_bytes(hash, sizeof hash);
    TRY(make_keys(x, err));
    x->server.turn = "tcp://127.0.0.1:*";
    server_defaults(&x->server);
    x->teller.out = &x->notes;
    TRY(front_socket_open(&x->front, &front, err));
    TRY(connect_client(x, err));
    if (pthread_create(&x->engine, NULL, run_engine, x) != 0)
        return rxt_fail(err, RXT_EIO, "cannot start a thread");
    return RXT_OK;
}

static void close_all(struct front_bench *x, bool engine)
{
    atomic_store(&x->stop, true);
    if (engine)
        (void)pthread_join(x->engine, NULL);
    front_socket_close(&x->front);
    if (x->socket)
        (void)zmq_close(x->socket);
    if (x->context)
        (void)zmq_ctx_term(x->context);
    if (x->clients[0])
        (void)unlink(x->clients);
    teller_free(&x->teller);
    server_empty(&x->orders);
    server_empty(&x->notes);
    mem_free(x->sample_us10);
}

enum rxt_status server_bench_front(const struct server_bench *cfg, struct server_bench_result *out,
                                   struct rxt_error *err)
{
    double seconds = 1;
    *out = (struct server_bench_result){0};
    if (cfg->n_stream < 1 || cfg->n_stream > STREAMS)
        return rxt_fail(err, RXT_EINVAL, "%d streams: use 1 to %d", cfg->n_stream, STREAMS);
    struct front_bench *x = mem_alloc(sizeof *x);
    if (!x)
        return RXT_ENOMEM;
    x->cfg = *cfg;
    enum rxt_status st = mailbox_create(&x->orders);
    if (st != RXT_OK) {
        mem_free(x);
        return st;
    }
    st = mailbox_create(&x->notes);
    if (st != RXT_OK) {
        mailbox_destroy(&x->orders);
        mem_free(x);
        return st;
    }
    st = open_all(x, err);
    bool engine = st == RXT_OK;
    if (engine)
        st = run_client(x, &seconds, err);
    if (st == RXT_OK && x->n_sample > 0) {
        size_t half = x->n_sample / 2, nearly_all = x->n_sample * 99 / 100;
        qsort(x->sample_us10, x->n_sample, sizeof *x->sample_us10, by_size);
        *out = (struct server_bench_result){
            .messages_s = (double)x->n_message / seconds,
            .tokens_s = (double)x->n_token / seconds,
            .p50_us = (double)x->sample_us10[half] / 10,
            .p99_us = (double)x->sample_us10[nearly_all] / 10,
        };
    }
    close_all(x, engine);
    mailbox_destroy(&x->orders);
    mailbox_destroy(&x->notes);
    mem_free(x);
    return st;
}
