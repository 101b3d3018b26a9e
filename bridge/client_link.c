#include "bridge/client_impl.h"

#include "kernels/base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const uint8_t no_id[WIRE_ID_BYTES];

static bool set_keys(struct client_link *l)
{
    static const int option[3] = {ZMQ_CURVE_SERVERKEY, ZMQ_CURVE_PUBLICKEY, ZMQ_CURVE_SECRETKEY};
    for (int k = 0; k < 3 && l->keys[0][0]; k++)
        if (zmq_setsockopt(l->socket, option[k], l->keys[k], sizeof l->keys[k]) != 0)
            return false;
    return true;
}

static enum rxt_status connect_socket(struct client_link *l, struct rxt_error *err)
{
    int none = 0;
    l->socket = zmq_socket(l->context, ZMQ_DEALER);
    if (!l->socket)
        return rxt_fail(err, RXT_ENOMEM, "no socket: %s", zmq_strerror(errno));
    (void)zmq_setsockopt(l->socket, ZMQ_LINGER, &none, sizeof none);
    if (l->unbounded) {
        (void)zmq_setsockopt(l->socket, ZMQ_SNDHWM, &none, sizeof none);
        (void)zmq_setsockopt(l->socket, ZMQ_RCVHWM, &none, sizeof none);
    }
    if (!set_keys(l))
        return rxt_fail(err, RXT_EINVAL, "the CURVE keys are not 40 characters of Z85 each");
    if (zmq_connect(l->socket, l->endpoint) != 0)
        return rxt_fail(err, RXT_EINVAL, "cannot connect to %.100s: %s", l->endpoint,
                        zmq_strerror(errno));
    link_greet(l);
    return RXT_OK;
}

static bool copy_text(char *out, size_t cap, const char *text)
{
    int n = snprintf(out, cap, "%s", text ? text : "");
    return n >= 0 && (size_t)n < cap;
}

enum rxt_status link_open(struct client_link *l, const struct client_config *cfg,
                          struct rxt_error *err)
{
    l->heartbeat_us = 5000000;
    if (!l->credit)
        l->credit = CLIENT_CREDIT;
    for (int i = 0; i < 3; i++)
        (void)zmq_msg_init(&l->frame[i]);
    if (!copy_text(l->endpoint, sizeof l->endpoint,
                   cfg->endpoint ? cfg->endpoint : "tcp://127.0.0.1:7110") ||
        !copy_text(l->name, sizeof l->name, cfg->name))
        return rxt_fail(err, RXT_EINVAL, "the endpoint or the name is too long");
    if (!copy_text(l->keys[0], sizeof l->keys[0], cfg->server_key) ||
        !copy_text(l->keys[2], sizeof l->keys[2], cfg->secret_key) ||
        !cfg->server_key != !cfg->secret_key ||
        (cfg->secret_key && zmq_curve_public(l->keys[1], l->keys[2]) != 0))
        return rxt_fail(err, RXT_EINVAL,
                        "CURVE wants the server's public key and a secret key of 40 characters");
    l->context = zmq_ctx_new();
    if (!l->context)
        return RXT_ENOMEM;
    return connect_socket(l, err);
}

void link_close(struct client_link *l)
{
    for (int i = 0; i < 3; i++)
        (void)zmq_msg_close(&l->frame[i]);
    if (l->socket)
        (void)zmq_close(l->socket);
    if (l->context)
        (void)zmq_ctx_term(l->context);
}

void link_send(struct client_link *l, uint8_t type, const uint8_t id[WIRE_ID_BYTES],
               const void *body, size_t n)
{
    uint8_t header[WIRE_HEADER_BYTES];
    struct wire_header h = {.version = WIRE_VERSION, .type = type, .body_bytes = (uint32_t)n};
    memcpy(h.id, id, sizeof h.id);
    wire_header_put(&h, header);
    if (zmq_send(l->socket, header, sizeof header, ZMQ_DONTWAIT | ZMQ_SNDMORE) >= 0)
        (void)zmq_send(l->socket, body, n, ZMQ_DONTWAIT);
}

void link_send_body(struct client_link *l, uint8_t type, const uint8_t id[WIRE_ID_BYTES],
                    const struct wire_body *body)
{
    uint8_t bytes[512]; /* of the small messages, which have a name and two numbers */
    size_t n = 0;
    if (wire_encode(type, body, bytes, sizeof bytes, &n) == RXT_OK)
        link_send(l, type, id, bytes, n);
}

void link_greet(struct client_link *l)
{
    static const int32_t versions[1] = {WIRE_VERSION};
    struct wire_body b = {0};
    wire_init(WIRE_HELLO, &b);
    b.versions = (struct wire_ids){.v = versions, .n = 1};
    b.credit = l->credit;
    if (l->name[0])
        b.client = wire_string(l->name);
    l->greeted = false;
    l->asked_us = clock_us();
    link_send_body(l, WIRE_HELLO, no_id, &b);
}

void link_text(char *out, size_t cap, struct wire_text t)
{
    size_t n = t.n < cap ? t.n : cap - 1;
    if (n > 0)
        memcpy(out, t.p, n);
    out[n] = '\0';
}

static void welcomed(struct client_link *l)
{
    const struct wire_body *b = &l->body;
    struct client_welcome *w = &l->welcome;
    link_text(w->model, sizeof w->model, b->model);
    link_text(w->tenant, sizeof w->tenant, b->tenant);
    if (b->model_hash.n == sizeof w->model_hash)
        memcpy(w->model_hash, b->model_hash.p, sizeof w->model_hash);
    w->n_vocab = b->n_vocab;
    w->max_seq_len = b->max_seq_len;
    w->max_candidates = b->max_candidates;
    w->session_bytes = b->session_bytes;
    if (b->heartbeat_ms > 0 && b->heartbeat_ms < 3600000)
        l->heartbeat_us = 1000 * b->heartbeat_ms;
    l->owed = 0;
    l->fresh = l->fresh || !l->greeted;
    l->greeted = true;
    l->asked_us = 0;
}

/* Reads the frames of a message; false if none is there. */
static bool take_frames(struct client_link *l, enum rxt_status *st, struct rxt_error *err)
{
    struct wire_fault fault;
    if (zmq_msg_recv(&l->frame[0], l->socket, ZMQ_DONTWAIT) < 0)
        return false;
    int n_frame = 1;
    while (n_frame < 3 && zmq_msg_more(&l->frame[n_frame - 1]) &&
           zmq_msg_recv(&l->frame[n_frame], l->socket, ZMQ_DONTWAIT) >= 0)
        n_frame++;
    bool whole = n_frame > 1 && !zmq_msg_more(&l->frame[n_frame - 1]);
    size_t n = whole ? zmq_msg_size(&l->frame[1]) : 0;
    size_t n_raw = n_frame == 3 ? zmq_msg_size(&l->frame[2]) : 0;
    l->body.candidates = l->candidates;
    l->body.cap_candidates = WIRE_CANDIDATES_MAX;
    l->body.sessions = l->sessions;
    l->body.cap_sessions = WIRE_ITEMS_MAX;
    if (!whole ||
        !wire_header_get(zmq_msg_data(&l->frame[0]), zmq_msg_size(&l->frame[0]), &l->header) ||
        l->header.body_bytes != n || !wire_type_from_server(l->header.type) ||
        n_frame != (l->header.type == WIRE_CHUNK ? 3 : 2) || n_raw > WIRE_CHUNK_BYTES ||
        wire_decode(l->header.type, zmq_msg_data(&l->frame[1]), n, &l->body, &fault) != WIRE_OK)
        *st = rxt_fail(err, RXT_EFORMAT, "%.100s does not speak RXTP/1", l->endpoint);
    else if (l->header.type == WIRE_TOKEN || l->header.type == WIRE_CHUNK)
        l->owed += WIRE_HEADER_BYTES + n + n_raw;
    return true;
}

static void grant(struct client_link *l)
{
    struct wire_body b = {0};
    uint64_t now = l->pause_us ? clock_us() : 0;
    if (2 * l->owed < l->credit || (l->pause_us && now - l->granted_us < l->pause_us))
        return;
    l->granted_us = now;
    wire_init(WIRE_CREDIT, &b);
    b.bytes = l->owed;
    link_send_body(l, WIRE_CREDIT, no_id, &b);
    l->owed = 0;
}

/* What is about the connection; false: about a request. */
static bool connection_said(struct client_link *l, enum rxt_status *st, struct rxt_error *err)
{
    const bool error = l->header.type == WIRE_ERROR;
    if (l->header.type == WIRE_WELCOME)
        welcomed(l);
    else if (error && l->body.code == WIRE_E_HELLO_NEEDED && l->greeted)
        link_greet(l);
    else if (error && l->body.code == WIRE_E_BAD_VERSION)
        *st = rxt_fail(err, RXT_EUNSUPPORTED, "%.100s does not speak version %d of the protocol",
                       l->endpoint, WIRE_VERSION);
    else if (!(error && l->body.code == WIRE_E_HELLO_NEEDED))
        return memcmp(l->header.id, no_id, sizeof no_id) == 0;
    return true;
}

enum rxt_status link_again(struct client_link *l, struct rxt_error *err)
{
    (void)zmq_close(l->socket);
    return connect_socket(l, err);
}

/* After silence: asks, or takes a new socket. */
static enum rxt_status look_after(struct client_link *l, struct rxt_error *err)
{
    uint64_t now = clock_us();
    if (l->asked_us && now - l->asked_us >= 3 * l->heartbeat_us)
        return link_again(l, err);
    if (!l->asked_us && now - l->heard_us >= CLIENT_QUIET_US) {
        struct wire_body b = {0};
        wire_init(WIRE_PING, &b);
        link_send_body(l, WIRE_PING, no_id, &b);
        l->asked_us = now;
    }
    return RXT_OK;
}

bool link_take(struct client_link *l, enum rxt_status *st, struct rxt_error *err)
{
    while (*st == RXT_OK && take_frames(l, st, err)) {
        l->heard_us = clock_us();
        if (l->greeted)
            l->asked_us = 0;
        if (*st != RXT_OK)
            break;
        grant(l);
        if (!connection_said(l, st, err))
            return *st == RXT_OK;
        if (l->fresh)
            return false;
    }
    if (*st == RXT_OK) {
        grant(l);
        *st = look_after(l, err);
    }
    return false;
}

bool link_receive(struct client_link *l, uint64_t wait_us, enum rxt_status *st,
                  struct rxt_error *err)
{
    zmq_pollitem_t item = {.socket = l->socket, .events = ZMQ_POLLIN};
    (void)zmq_poll(&item, 1,
                   (long)((wait_us < CLIENT_QUIET_US ? wait_us : CLIENT_QUIET_US) / 1000));
    return link_take(l, st, err);
}
