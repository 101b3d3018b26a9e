#define _GNU_SOURCE /* eventfd flags */
#include "bridge/server_impl.h"

#include "bridge/front_guard_impl.h"
#include "bridge/front_zap_impl.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "kernels/base/mem.h"
#include "kernels/base/thread.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <zmq.h>

#define MESSAGES_A_ROUND 256 /* of one endpoint, then the others and the engine have a turn */
#define PARTS_MAX 4          /* frames that are looked at; a message has at most 3 */
#define PARTS_A_ROUND 4096   /* of a message that has more */

struct parts { /* of a message that is being received; the first PARTS_MAX are kept */
    zmq_msg_t part[PARTS_MAX];
    int n_kept;
    size_t n;
};

struct front_socket {
    struct front_socket_config cfg;
    struct front *front;
    struct zap_keys keys;
    struct guard guard;
    void *context, *zap, *socket[FRONT_ENDPOINTS], *monitor[FRONT_ENDPOINTS];
    struct parts parts[FRONT_ENDPOINTS];
    char endpoint[FRONT_ENDPOINTS][256]; /* as bound: a port of * is a number now */
    int wake_fd;
    pthread_t thread;
    bool started;
    atomic_bool drain, stop, reload;
    atomic_uint drain_ms;
    bool draining;
    struct front_counts published;
};

/* ---- endpoints --------------------------------------------------------------------------- */

static bool starts(const char *s, const char *with)
{
    return strncmp(s, with, strlen(with)) == 0;
}

static bool is_local(const char *endpoint)
{
    return starts(endpoint, "ipc://") || starts(endpoint, "tcp://127.") ||
           starts(endpoint, "tcp://localhost:") || starts(endpoint, "tcp://[::1]:");
}

static const char *endpoint_of(const struct server_config *c, enum front_endpoint at)
{
    const char *const all[FRONT_ENDPOINTS] = {c->turn, c->state, c->admin};
    return all[at] && *all[at] ? all[at] : NULL;
}

static enum rxt_status check_endpoint(const struct server_config *c, enum front_endpoint at,
                                      struct rxt_error *err)
{
    static const char *const name[FRONT_ENDPOINTS] = {"turn", "state", "admin"};
    const char *e = endpoint_of(c, at);
    if (!e)
        return RXT_OK;
    if (!starts(e, "ipc://") && !starts(e, "tcp://"))
        return rxt_fail(err, RXT_EINVAL, "%s = %.150s: use tcp://HOST:PORT or ipc://PATH", name[at],
                        e);
    if (at == FRONT_ADMIN && !starts(e, "ipc://"))
        return rxt_fail(err, RXT_EINVAL, "admin = %.150s: only ipc://PATH", e);
    if (!is_local(e) && !c->secret_key)
        return rxt_fail(err, RXT_EINVAL,
                        "%s = %.100s is not loopback: set secret_key and clients (CURVE), or use "
                        "127.0.0.1 or ipc://",
                        name[at], e);
    return RXT_OK;
}

enum rxt_status server_check(const struct server_config *c, struct rxt_error *err)
{
    struct zap_keys keys = {0};
    uint8_t key[ZAP_KEY_BYTES];
    for (enum front_endpoint at = 0; at < FRONT_ENDPOINTS; at++)
        TRY(check_endpoint(c, at, err));
    if (c->metrics)
        TRY(metrics_http_check(c->metrics, err));
    if (!c->secret_key) {
        if (c->clients)
            return rxt_fail(err, RXT_EINVAL, "clients needs secret_key: rxt keygen makes one");
        return RXT_OK;
    }
    if (strlen(c->secret_key) != SERVER_KEY_TEXT || !zmq_z85_decode(key, c->secret_key))
        return rxt_fail(err, RXT_EINVAL,
                        "secret_key is not a key of %d characters: rxt keygen "
                        "makes one",
                        SERVER_KEY_TEXT);
    if (!zmq_has("curve"))
        return rxt_fail(err, RXT_EUNSUPPORTED, "this libzmq was built without CURVE");
    if (!c->clients)
        return rxt_fail(err, RXT_EINVAL,
                        "secret_key needs clients: a file of public keys and "
                        "tenants");
    enum rxt_status st = zap_read(&keys, c->clients, err);
    zap_free(&keys);
    return st;
}

static bool set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

static bool set_size(void *socket, int64_t bytes)
{
    return zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &bytes, sizeof bytes) == 0;
}

static bool set_options(void *socket, const struct server_config *c, enum front_endpoint at)
{
    bool state = at == FRONT_STATE, ok = true;
    int beat = (int)c->heartbeat_ms;
    ok &= set_int(socket, ZMQ_ROUTER_MANDATORY, 1);
    ok &= set_int(socket, ZMQ_LINGER, 1000);
    ok &= set_int(socket, ZMQ_SNDHWM, (int)c->high_water);
    ok &= set_int(socket, ZMQ_RCVHWM, state ? 16 : 1000);
    ok &= set_size(socket, state ? 4 * (int64_t)WIRE_CHUNK_BYTES : 4 * (int64_t)WIRE_BODY_MAX);
    ok &= set_int(socket, ZMQ_HEARTBEAT_IVL, beat);
    ok &= set_int(socket, ZMQ_HEARTBEAT_TIMEOUT, 3 * beat);
    ok &= set_int(socket, ZMQ_HEARTBEAT_TTL, 3 * beat);
    ok &= set_int(socket, ZMQ_HANDSHAKE_IVL, (int)c->handshake_ms);
    if (c->secret_key && at != FRONT_ADMIN) {
        ok &= set_int(socket, ZMQ_CURVE_SERVER, 1);
        ok &= zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, c->secret_key, SERVER_KEY_TEXT + 1) == 0;
        ok &= zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, "rxt", 3) == 0;
    }
    return ok;
}

static enum rxt_status bind_endpoint(struct front_socket *s, enum front_endpoint at,
                                     struct rxt_error *err)
{
    const struct server_config *c = s->cfg.server;
    const char *endpoint = endpoint_of(c, at);
    if (!endpoint)
        return RXT_OK;
    s->socket[at] = zmq_socket(s->context, ZMQ_ROUTER);
    if (!s->socket[at] || !set_options(s->socket[at], c, at))
        return rxt_fail(err, RXT_EIO, "cannot make the socket of %.150s: %s", endpoint,
                        zmq_strerror(errno));
    if (starts(endpoint, "tcp://")) /* before anybody can connect */
        TRY(guard_watch(s->context, s->socket[at], &s->monitor[at], err));
    if (zmq_bind(s->socket[at], endpoint) != 0)
        return rxt_fail(err, RXT_EIO, "cannot listen on %.150s: %s", endpoint, zmq_strerror(errno));
    size_t n = sizeof s->endpoint[at];
    if (zmq_getsockopt(s->socket[at], ZMQ_LAST_ENDPOINT, s->endpoint[at], &n) != 0)
        return rxt_fail(err, RXT_EIO, "cannot tell where %.150s listens", endpoint);
    return RXT_OK;
}

/* Before the endpoints: from the first handshake on, libzmq asks. */
static enum rxt_status bind_zap(struct front_socket *s, struct rxt_error *err)
{
    const struct server_config *c = s->cfg.server;
    if (!c->secret_key)
        return RXT_OK;
    TRY(zap_read(&s->keys, c->clients, err));
    s->zap = zmq_socket(s->context, ZMQ_REP);
    if (!s->zap || !set_int(s->zap, ZMQ_LINGER, 0) ||
        zmq_bind(s->zap, "inproc://zeromq.zap.01") != 0)
        return rxt_fail(err, RXT_EIO, "cannot make the socket of ZAP: %s", zmq_strerror(errno));
    return RXT_OK;
}

/* ---- in ---------------------------------------------------------------------------------- */

enum received { RECEIVED_NOTHING, RECEIVED_PARTS, RECEIVED_ALL };

static void close_parts(struct parts *m)
{
    for (int i = 0; i < m->n_kept; i++)
        (void)zmq_msg_close(&m->part[i]);
    *m = (struct parts){0};
}

/* The parts of a message. One of very many takes several rounds, so that the other endpoints and
 * the engine have their turn. */
static enum received receive_parts(void *socket, struct parts *m)
{
    for (size_t i = 0; i < PARTS_A_ROUND; i++) {
        zmq_msg_t rest;
        bool keep = m->n_kept < PARTS_MAX;
        zmq_msg_t *part = keep ? &m->part[m->n_kept] : &rest;
        (void)zmq_msg_init(part);
        if (zmq_msg_recv(part, socket, ZMQ_DONTWAIT) < 0) {
            (void)zmq_msg_close(part);
            close_parts(m);
            return RECEIVED_NOTHING;
        }
        bool more = zmq_msg_more(part);
        if (keep)
            m->n_kept++;
        else
            (void)zmq_msg_close(part);
        m->n++;
        if (!more)
            return RECEIVED_ALL;
    }
    return RECEIVED_PARTS;
}

static enum received receive_one(struct front_socket *s, enum front_endpoint at)
{
    struct parts *m = &s->parts[at];
    struct wire_text frame[PARTS_MAX] = {0};
    enum received got = receive_parts(s->socket[at], m);
    if (got != RECEIVED_ALL)
        return got;
    for (int i = 0; i < m->n_kept; i++)
        frame[i] = wire_bytes(zmq_msg_data(&m->part[i]), zmq_msg_size(&m->part[i]));
    const char *tenant = "default";
    if (s->zap && at != FRONT_ADMIN)
        tenant = zmq_msg_gets(&m->part[m->n_kept - 1], "User-Id");
    if (s->monitor[at])
        guard_message(&s->guard, zmq_msg_get(&m->part[m->n_kept - 1], ZMQ_SRCFD));
    if (tenant && *tenant)
        front_receive(s->front, at, frame[0], tenant, frame + 1, m->n - 1, clock_us());
    close_parts(m);
    return RECEIVED_ALL;
}

/* A round of one endpoint; true: nothing waits there now. */
static bool receive(struct front_socket *s, enum front_endpoint at)
{
    enum received got = RECEIVED_ALL;
    for (int i = 0; i < MESSAGES_A_ROUND && got == RECEIVED_ALL; i++)
        got = receive_one(s, at);
    return got == RECEIVED_NOTHING;
}

/* ---- out --------------------------------------------------------------------------------- */

static enum front_sent send_part(void *socket, const void *p, size_t n, bool more)
{
    if (zmq_send(socket, p, n, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0)) >= 0)
        return FRONT_SENT;
    return errno == EAGAIN ? FRONT_FULL : FRONT_GONE;
}

/* Whether a message has room is decided with its first part; the others follow it. */
static enum front_sent on_send(void *arg, enum front_endpoint at, struct wire_text route,
                               const struct front_message *m)
{
    struct front_socket *s = arg;
    void *socket = s->socket[at];
    uint8_t header[WIRE_HEADER_BYTES];
    enum front_sent sent = send_part(socket, route.p, route.n, true);
    if (sent != FRONT_SENT)
        return sent;
    wire_header_put(&m->header, header);
    (void)send_part(socket, header, sizeof header, true);
    (void)send_part(socket, m->body, m->header.body_bytes, m->raw.n > 0);
    if (m->raw.n > 0)
        (void)send_part(socket, m->raw.p, m->raw.n, false);
    return FRONT_SENT;
}

static void on_order(void *arg, struct order *o)
{
    const struct front_socket *s = arg;
    if (s->cfg.order)
        s->cfg.order(s->cfg.arg, o);
    else
        mailbox_post(s->cfg.orders, &o->mail);
}

static void on_error(void *arg, enum wire_error code)
{
    struct front_socket *s = arg;
    metrics_error(s->cfg.metrics, code);
}

static void on_admin(void *arg, uint8_t type, const struct wire_body *in, struct wire_body *out)
{
    struct front_socket *s = arg;
    if (s->cfg.admin)
        s->cfg.admin(s->cfg.arg, type, in, out);
}

/* ---- the thread -------------------------------------------------------------------------- */

static bool take_batches(struct front_socket *s)
{
    struct mail *mail = mailbox_take(s->cfg.in);
    bool any = mail != NULL;
    while (mail) {
        struct batch *b = (struct batch *)(void *)mail; /* first of order, first of batch */
        mail = mail->next;
        front_note(s->front, b, clock_us());
        on_order(s, &b->order);
    }
    return any;
}

static struct front_limits limits_of(const struct server_config *c)
{
    return (struct front_limits){
        .credit_max = c->credit_max,
        .max_inflight = c->max_inflight,
        .max_connections = c->max_connections,
        .max_tenant_connections = c->max_tenant_connections,
        .max_requests = c->max_requests,
        .max_kept_bytes = c->max_kept_bytes,
        .max_import_bytes = c->max_import_bytes,
        .max_bulk = c->max_bulk,
        .max_tenant_bulk = c->max_tenant_bulk,
        .heartbeat_ms = c->heartbeat_ms,
        .grace_ms = c->grace_ms,
        .stall_ms = c->stall_ms,
    };
}

static void reload(struct front_socket *s)
{
    const struct server_config *c = s->cfg.server;
    struct server_config fresh = {0};
    struct order *o = mem_alloc(sizeof *o);
    if (c->reload && o && c->reload(c->reload_arg, &fresh, &o->limits) &&
        (!s->cfg.check || s->cfg.check(s->cfg.arg, &o->limits))) {
        server_defaults(&fresh);
        const struct front_limits limits = limits_of(&fresh);
        front_set_limits(s->front, &limits);
        o->kind = ORDER_LIMITS;
        on_order(s, o);
        log_event(LOG_INFO, "limits_read", NULL);
    } else {
        mem_free(o);
        if (c->reload)
            log_event(LOG_ERROR, "limits_kept", NULL);
    }
    if (s->zap) {
        struct rxt_error err = {""};
        char why[600];
        if (zap_read(&s->keys, s->cfg.server->clients, &err) == RXT_OK)
            log_event(LOG_INFO, "clients_read", "\"clients\":%zu", s->keys.n);
        else
            log_event(LOG_ERROR, "clients_kept", "\"why\":\"%s\"",
                      log_escape(why, sizeof why, err.text));
    }
}

static void look_at_flags(struct front_socket *s)
{
    if (atomic_exchange(&s->reload, false))
        reload(s);
    if (!atomic_load(&s->drain) || s->draining)
        return;
    struct order *quiet = mem_alloc(sizeof *quiet);
    if (!quiet)
        return; /* at the next look */
    s->draining = true;
    front_drain(s->front, atomic_load(&s->drain_ms));
    quiet->kind = ORDER_QUIET;
    on_order(s, quiet);
}

static void publish_counts(struct front_socket *s)
{
    struct front_counts c = front_counts(s->front);
    struct metrics *m = s->cfg.metrics;
    metrics_set(m, METRICS_CONNECTIONS, c.connections);
    metrics_set(m, METRICS_RUNNING, c.running);
    metrics_set(m, METRICS_KEPT, c.kept);
    metrics_set(m, METRICS_KEPT_BYTES, c.kept_bytes);
    metrics_add(m, METRICS_RECEIVED, c.received - s->published.received);
    metrics_add(m, METRICS_SENT, c.sent - s->published.sent);
    metrics_add(m, METRICS_STALLS, c.stalls - s->published.stalls);
    s->published = c;
}

/* What waits at the endpoints. When the guard is due everything is received, also where nothing was
 * there when the poll ended, between its two looks. */
static void take_messages(struct front_socket *s, const zmq_pollitem_t *item, const int *at_item)
{
    bool all = true, due = guard_due(&s->guard, clock_us());
    size_t n_closed = 0;
    for (enum front_endpoint at = 0; at < FRONT_ENDPOINTS; at++)
        if (s->monitor[at] && !guard_events(&s->guard, s->monitor[at]))
            log_event(LOG_WARN, "connection_unwatched", NULL);
    if (due)
        guard_sample(&s->guard);
    for (enum front_endpoint at = 0; at < FRONT_ENDPOINTS; at++)
        if (at_item[at] >= 0 && (due || item[at_item[at]].revents))
            all &= receive(s, at);
    if (due && all)
        n_closed = guard_judge(&s->guard, clock_us());
    if (n_closed)
        log_event(LOG_WARN, "message_without_end", "\"connections\":%zu,\"bytes\":%u", n_closed,
                  GUARD_BYTES);
}

static void *run(void *arg)
{
    struct front_socket *s = arg;
    zmq_pollitem_t item[FRONT_ENDPOINTS + 2];
    int n_item = 0, at_item[FRONT_ENDPOINTS] = {-1, -1, -1}, zap_item = -1;
    uint64_t tick_us = 0;
    thread_name("rxt-front");
    item[n_item++] = (zmq_pollitem_t){.fd = s->wake_fd, .events = ZMQ_POLLIN};
    if (s->zap) {
        zap_item = n_item;
        item[n_item++] = (zmq_pollitem_t){.socket = s->zap, .events = ZMQ_POLLIN};
    }
    for (enum front_endpoint at = 0; at < FRONT_ENDPOINTS; at++)
        if (s->socket[at]) {
            at_item[at] = n_item;
            item[n_item++] = (zmq_pollitem_t){.socket = s->socket[at], .events = ZMQ_POLLIN};
        }
    while (!atomic_load(&s->stop)) {
        uint64_t now = clock_us();
        if (now >= tick_us)
            tick_us = now + front_tick(s->front, now);
        publish_counts(s);
        uint64_t next_us = tick_us < now + GUARD_PERIOD_US ? tick_us : now + GUARD_PERIOD_US;
        (void)zmq_poll(item, n_item, (long)((next_us - now) / 1000 + 1));
        if (item[0].revents) {
            uint64_t n;
            (void)!read(s->wake_fd, &n, sizeof n);
        }
        if (zap_item >= 0 && item[zap_item].revents)
            zap_answer(s->zap, &s->keys);
        take_messages(s, item, at_item);
        look_at_flags(s);
        if (take_batches(s) && tick_us > clock_us() + 20000)
            tick_us = clock_us() + 20000; /* something may wait for room now */
    }
    while (take_batches(s)) /* what the engine said last */
        ;
    return NULL;
}

/* ---- open, close ------------------------------------------------------------------------- */

static enum rxt_status open_all(struct front_socket *s, struct rxt_error *err)
{
    const struct server_config *c = s->cfg.server;
    const struct front_hooks hooks = {
        .arg = s, .send = on_send, .order = on_order, .error = on_error, .admin = on_admin};
    const struct front_limits limits = limits_of(c);
    TRY(server_check(c, err));
    TRY(front_create(&s->front, &hooks, &limits, s->cfg.welcome));
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake_fd < 0)
        return rxt_fail(err, RXT_EIO, "cannot make an eventfd: %s", strerror(errno));
    s->context = zmq_ctx_new();
    if (!s->context)
        return RXT_ENOMEM;
    TRY(bind_zap(s, err));
    for (enum front_endpoint at = 0; at < FRONT_ENDPOINTS; at++)
        TRY(bind_endpoint(s, at, err));
    if (pthread_create(&s->thread, NULL, run, s) != 0)
        return rxt_fail(err, RXT_EIO, "cannot start the thread of the front");
    s->started = true;
    return RXT_OK;
}

enum rxt_status front_socket_open(struct front_socket **out, const struct front_socket_config *cfg,
                                  struct rxt_error *err)
{
    struct front_socket *s = mem_alloc(sizeof *s);
    if (!s)
        return RXT_ENOMEM;
    s->cfg = *cfg;
    s->wake_fd = -1;
    enum rxt_status st = open_all(s, err);
    if (st != RXT_OK) {
        front_socket_close(&s);
        return st;
    }
    *out = s;
    return RXT_OK;
}

void front_socket_wake(struct front_socket *s)
{
    const uint64_t one = 1;
    (void)!write(s->wake_fd, &one, sizeof one);
}

const char *front_socket_endpoint(const struct front_socket *s, enum front_endpoint at)
{
    return s->endpoint[at];
}

void front_socket_drain(struct front_socket *s, uint32_t deadline_ms)
{
    atomic_store(&s->drain_ms, deadline_ms);
    atomic_store(&s->drain, true);
    front_socket_wake(s);
}

void front_socket_reload(struct front_socket *s)
{
    atomic_store(&s->reload, true);
    front_socket_wake(s);
}

void front_socket_stop(struct front_socket *s)
{
    if (s->started) {
        atomic_store(&s->stop, true);
        front_socket_wake(s);
        (void)pthread_join(s->thread, NULL);
        s->started = false;
    }
    for (enum front_endpoint at = 0; at < FRONT_ENDPOINTS; at++) {
        close_parts(&s->parts[at]);
        if (s->monitor[at])
            (void)zmq_close(s->monitor[at]);
        if (s->socket[at])
            (void)zmq_close(s->socket[at]);
        s->monitor[at] = s->socket[at] = NULL;
    }
    if (s->zap)
        (void)zmq_close(s->zap);
    if (s->context)
        (void)zmq_ctx_term(s->context);
    s->zap = s->context = NULL;
    front_destroy(&s->front);
}

void front_socket_close(struct front_socket **socket)
{
    struct front_socket *s = *socket;
    if (!s)
        return;
    front_socket_stop(s);
    if (s->wake_fd >= 0)
        (void)close(s->wake_fd);
    guard_free(&s->guard);
    zap_free(&s->keys);
    mem_free(s);
    *socket = NULL;
}
