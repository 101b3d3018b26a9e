#include "bridge/server_impl.h"

#include "bridge/ring_impl.h"
#include "kernels/backend.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "kernels/base/mem.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define IDLE_US 100000u /* the engine looks around so often when nobody wakes it */
#define GAUGES_US 500000u
#define READY_US 2000000u     /* a step or memory job older than this: send requests elsewhere */
#define PROGRESS_US 30000000u /* and than this: it hangs */

struct server {
    struct server_config cfg;
    const struct rxt_model *model;
    struct bridge *bridge;
    struct front_socket *front;
    struct spool *spool;
    char spool_folder[SPOOL_PATH_MAX];
    struct mailbox orders, notes;
    bool has_orders, has_notes; /* the mailboxes are made */
    struct teller teller;
    struct wire_body welcome;
    struct metrics metrics;
    struct metrics_http *http;
    char metrics_page[METRICS_TEXT_MAX]; /* of STATS, in the thread of the front */
    char version[32];
    atomic_bool drain, stop;
    atomic_uint drain_ms;         /* as configured, or as DRAIN said */
    atomic_uint_fast64_t step_us; /* when the engine took its last step */
    bool quiet;                   /* the front sends no more requests */
    uint64_t drain_end_us, gauges_us;
};

/* Where there are several tenants none may take it all. */
static uint32_t tenant_bulk(const struct server_config *c)
{
    if (!c->secret_key)
        return c->max_bulk;
    return c->max_bulk < 8 ? 1 : c->max_bulk / 4;
}

void server_defaults(struct server_config *c)
{
#define DEFAULT(field, value)   \
    do {                        \
        if (!c->field)          \
            c->field = (value); \
    } while (0)
    DEFAULT(turn, "tcp://127.0.0.1:7110");
    DEFAULT(credit_max, UINT64_C(16) << 20);
    DEFAULT(max_inflight, 4096);
    DEFAULT(max_connections, 4096);
    DEFAULT(max_tenant_connections, c->max_connections);
    DEFAULT(max_requests, 16384);
    DEFAULT(max_kept_bytes, UINT64_C(64) << 20);
    DEFAULT(max_import_bytes, UINT64_C(1) << 30);
    DEFAULT(max_bulk, 4);
    DEFAULT(max_tenant_bulk, tenant_bulk(c));
    DEFAULT(heartbeat_ms, 5000);
    DEFAULT(grace_ms, 60000);
    DEFAULT(stall_ms, 30000);
    DEFAULT(handshake_ms, 5000);
    DEFAULT(high_water, 10000);
    DEFAULT(drain_ms, 30000);
#undef DEFAULT
}

static void make_welcome(struct server *s)
{
    const struct rxt_info *info = rxt_model_info(s->model);
    struct wire_body *w = &s->welcome;
    (void)snprintf(s->version, sizeof s->version, "rxtd %s", RXT_VERSION);
    wire_init(WIRE_WELCOME, w);
    w->version = WIRE_VERSION;
    w->server = wire_string(s->version);
    w->model = wire_string(info->name);
    w->model_hash = wire_bytes(info->hash, sizeof info->hash);
    w->bit_class = wire_string(backend_bit_class(rxt_model_backend(s->model)));
    w->n_vocab = (uint64_t)info->n_vocab;
    w->max_seq_len = (uint64_t)info->max_seq_len;
    w->answer_min = RXT_ANSWER_MIN;
    w->session_bytes = info->stm_bytes + info->read_bytes;
    w->stm_bytes = info->stm_bytes;
    w->window = STORE_WINDOW;
}

/* ---- in the thread of the front ---------------------------------------------------------- */

static void on_order(void *arg, struct order *o)
{
    struct server *s = arg;
    if (o->kind == ORDER_READ || o->kind == ORDER_WRITE || o->kind == ORDER_DROP) {
        spool_post(s->spool, o);
        return;
    }
    mailbox_post(&s->orders, &o->mail);
    bridge_wake(s->bridge);
}

static void wake_front(void *arg)
{
    struct server *s = arg;
    front_socket_wake(s->front);
}

static bool check_limits(void *arg, const struct bridge_limits *tenant)
{
    const struct server *s = arg;
    struct rxt_error err = {""};
    char why[600];
    if (bridge_check_limits(s->bridge, tenant, &err) == RXT_OK)
        return true;
    log_event(LOG_ERROR, "limits_refused", "\"why\":\"%s\"", log_escape(why, sizeof why, err.text));
    return false;
}

static uint64_t step_age_us(struct server *s)
{
    uint64_t was = atomic_load(&s->step_us), now = clock_us();
    return now > was ? now - was : 0;
}

static uint64_t memory_age_us(struct server *s)
{
    return atomic_load_explicit(&s->metrics.gauge[METRICS_MEMORY_AGE], memory_order_relaxed);
}

/* Of any thread. An engine that sleeps takes a step every IDLE_US. */
static struct metrics_health health_of(void *arg)
{
    struct server *s = arg;
    uint64_t age = step_age_us(s), memory = memory_age_us(s);
    metrics_set(&s->metrics, METRICS_STEP_AGE, age);
    if (memory > age)
        age = memory;
    return (struct metrics_health){
        .live = true,
        .ready = !atomic_load(&s->drain) && age < READY_US,
        .progress = age < PROGRESS_US,
    };
}

static void on_admin(void *arg, uint8_t type, const struct wire_body *in, struct wire_body *out)
{
    struct server *s = arg;
    struct metrics_health health = health_of(s);
    if (type == WIRE_DRAIN && in->deadline_ms != WIRE_ABSENT && !atomic_load(&s->drain))
        atomic_store(&s->drain_ms, (unsigned)in->deadline_ms);
    if (type == WIRE_DRAIN)
        server_drain(s);
    if (type == WIRE_RELOAD)
        server_reload(s);
    if (type == WIRE_STATS)
        out->metrics = wire_bytes(s->metrics_page, metrics_text(&s->metrics, s->metrics_page));
    if (type != WIRE_HEALTH)
        return;
    out->live = health.live;
    out->ready = health.ready;
    out->state = wire_string(atomic_load(&s->drain) ? "draining" : "serving");
    out->step_age_us = step_age_us(s);
    out->memory_age_us = memory_age_us(s);
}

/* ---- the engine -------------------------------------------------------------------------- */

static void take_limits(struct server *s, const struct bridge_limits *limits)
{
    struct rxt_error err = {""};
    char why[600];
    if (bridge_set_limits(s->bridge, limits, &err) != RXT_OK)
        log_event(LOG_ERROR, "limits_kept", "\"why\":\"%s\"",
                  log_escape(why, sizeof why, err.text));
}

static void take_order(struct server *s, struct order *o)
{
    switch (o->kind) {
    case ORDER_SUBMIT:
        if (teller_submit(&s->teller, o))
            return;
        break;
    case ORDER_CANCEL:
        bridge_cancel(s->bridge, o->ticket);
        break;
    case ORDER_QUIET:
        s->quiet = true;
        break;
    case ORDER_LIMITS:
        take_limits(s, &o->limits);
        break;
    case ORDER_BATCH:
        teller_take_back(&s->teller, (struct batch *)o);
        return;
    case ORDER_READ: /* these go to the spool */
    case ORDER_WRITE:
    case ORDER_DROP:
    case ORDER_STOP:
        break;
    }
    mem_free(o);
}

static bool take_orders(struct server *s)
{
    struct mail *mail = mailbox_take(&s->orders);
    bool any = mail != NULL;
    while (mail) {
        struct order *o = (struct order *)mail;
        mail = mail->next;
        take_order(s, o);
    }
    return any;
}

static void flush(struct server *s)
{
    if (!s->teller.batch)
        return;
    teller_flush(&s->teller);
    front_socket_wake(s->front);
}

/* Now and then: it walks the table of sessions. */
static void publish_gauges(struct server *s)
{
    struct bridge_gauges g;
    struct metrics *m = &s->metrics;
    uint64_t now = clock_us();
    if (now - s->gauges_us < GAUGES_US)
        return;
    s->gauges_us = now;
    bridge_gauges(s->bridge, &g);
    static_assert(BRIDGE_HELD + 1 == METRICS_STATES, "one row a state");
    for (size_t i = 0; i < METRICS_STATES; i++)
        atomic_store_explicit(&m->session[i], (uint64_t)g.n_session[i], memory_order_relaxed);
    metrics_set(m, METRICS_LIVE, (uint64_t)g.n_live);
    metrics_set(m, METRICS_QUEUE_READY, (uint64_t)g.n_ready);
    metrics_set(m, METRICS_QUEUE_LOAD, (uint64_t)g.n_load);
    metrics_set(m, METRICS_QUEUE_MEMORY, (uint64_t)g.n_update);
    metrics_set(m, METRICS_BYTES, g.bytes);
    metrics_set(m, METRICS_BYTES_MAX, g.max_bytes);
    metrics_set(m, METRICS_MEMORY_AGE, g.memory_age_us);
    metrics_keep(m, METRICS_EVICTED, g.n_evicted);
    metrics_keep(m, METRICS_LOADED, g.n_loaded);
    metrics_keep(m, METRICS_REPLAYED, g.n_replayed);
}

/* Whether the engine may end; begins the drain when it was asked for. */
static bool is_over(struct server *s)
{
    const char *failure = server_failure(s);
    if (failure)
        log_event(LOG_ERROR, "device_failed", "\"why\":\"%s\"", failure);
    if (failure || atomic_load(&s->stop))
        return true;
    if (!atomic_load(&s->drain))
        return false;
    if (s->drain_end_us == 0) {
        log_event(LOG_INFO, "draining", "\"requests\":%u", s->teller.n_request);
        s->drain_end_us = clock_us() + UINT64_C(1000) * atomic_load(&s->drain_ms);
        front_socket_drain(s->front, atomic_load(&s->drain_ms));
    }
    /* Candidates lie on the disk: nobody may choose among them any more, and they need no waiting.
     */
    const struct teller *t = &s->teller;
    bool settled = bridge_idle(s->bridge) || (t->n_request > 0 && t->n_request == t->n_undecided);
    return (s->quiet && settled) || clock_us() >= s->drain_end_us;
}

void server_run(struct server *s)
{
    while (!is_over(s)) {
        atomic_store(&s->step_us, clock_us());
        bridge_give_way(s->bridge); /* what the last step said is sent */
        bool any = take_orders(s);
        any |= bridge_step(s->bridge);
        if (s->teller.n_owed > 0)
            teller_settle(&s->teller);
        flush(s);
        publish_gauges(s);
        if (!any)
            bridge_wait(s->bridge, IDLE_US);
    }
    flush(s);
}

const char *server_failure(const struct server *s)
{
    return backend_failure(rxt_model_backend(s->model));
}

const char *server_turn_endpoint(const struct server *s)
{
    return front_socket_endpoint(s->front, FRONT_TURN);
}

const char *server_state_endpoint(const struct server *s)
{
    return front_socket_endpoint(s->front, FRONT_STATE);
}

void server_catch_faults(int fd)
{
    ring_catch(fd);
}

void server_drain(struct server *s)
{
    atomic_store(&s->drain, true);
    bridge_wake(s->bridge);
}

uint32_t server_drain_ms(const struct server *s)
{
    return atomic_load(&s->drain_ms);
}

uint32_t server_left_ms(const struct server *s)
{
    uint64_t now = clock_us();
    if (atomic_load(&s->stop))
        return 0;
    if (s->drain_end_us == 0) /* it was never asked to drain */
        return atomic_load(&s->drain_ms);
    return s->drain_end_us > now ? (uint32_t)((s->drain_end_us - now) / 1000) : 0;
}

void server_stop(struct server *s)
{
    atomic_store(&s->stop, true);
    bridge_wake(s->bridge);
}

void server_reload(struct server *s)
{
    front_socket_reload(s->front);
}

/* ---- open, close ------------------------------------------------------------------------- */

static enum rxt_status open_spool(struct server *s, const char *store, struct rxt_error *err)
{
    const struct spool_config cfg = {
        .folder = s->spool_folder, .out = &s->notes, .wake = wake_front, .arg = s};
    int n = snprintf(s->spool_folder, sizeof s->spool_folder, "%s.spool", store);
    if (n < 0 || (size_t)n >= sizeof s->spool_folder - 32)
        return rxt_fail(err, RXT_ELIMIT, "the path of the store is too long");
    s->teller.spool_folder = s->spool_folder;
    return s->cfg.state ? spool_open(&s->spool, &cfg, err) : RXT_OK;
}

static enum rxt_status open_all(struct server *s, const struct bridge_config *bridge,
                                struct rxt_error *err)
{
    const struct front_socket_config front = {
        .server = &s->cfg,
        .welcome = &s->welcome,
        .metrics = &s->metrics,
        .in = &s->notes,
        .order = on_order,
        .admin = on_admin,
        .check = check_limits,
        .arg = s,
    };
    TRY(mailbox_create(&s->orders));
    s->has_orders = true;
    TRY(mailbox_create(&s->notes));
    s->has_notes = true;
    TRY(server_check(&s->cfg, err));
    struct bridge_config config = *bridge;
    if (!config.choose_us) /* candidates can be chosen as long as their stream can be resumed */
        config.choose_us =
            s->cfg.grace_ms < UINT32_MAX / 1000 ? 1000 * s->cfg.grace_ms : UINT32_MAX;
    TRY(bridge_open(&s->bridge, s->model, &config, err));
    TRY(open_spool(s, bridge->store_path, err));
    make_welcome(s);
    s->teller.bridge = s->bridge;
    s->teller.model = s->model;
    s->teller.out = &s->notes;
    s->teller.metrics = &s->metrics;
    atomic_store(&s->step_us, clock_us());
    TRY(front_socket_open(&s->front, &front, err));
    log_event(LOG_INFO, "backend", "\"is\":\"%s\"", backend_describe(rxt_model_backend(s->model)));
    log_event(LOG_INFO, "listening", "\"turn\":\"%s\",\"state\":\"%s\"", server_turn_endpoint(s),
              server_state_endpoint(s));
    if (!s->cfg.metrics)
        return RXT_OK;
    const struct metrics_http_config http = {
        .address = s->cfg.metrics, .metrics = &s->metrics, .health = health_of, .arg = s};
    return metrics_http_open(&s->http, &http, err);
}

enum rxt_status server_open(struct server **out, const struct rxt_model *m,
                            const struct bridge_config *bridge, const struct server_config *cfg,
                            struct rxt_error *err)
{
    struct server *s = mem_alloc(sizeof *s);
    if (!s)
        return RXT_ENOMEM;
    s->cfg = *cfg;
    s->model = m;
    server_defaults(&s->cfg);
    atomic_store(&s->drain_ms, s->cfg.drain_ms);
    enum rxt_status st = open_all(s, bridge, err);
    if (st != RXT_OK) {
        server_close(&s);
        return st;
    }
    *out = s;
    return RXT_OK;
}

void server_empty(struct mailbox *box)
{
    for (struct mail *mail = mailbox_take(box); mail;) {
        struct mail *next = mail->next;
        mem_free(mail); /* the first member of orders and of batches */
        mail = next;
    }
}

void server_close(struct server **server)
{
    struct server *s = *server;
    if (!s)
        return;
    metrics_http_close(&s->http);
    /* The front first: it wakes the bridge. Clients of what the bridge still ends resume later. It
     * is freed after the spool, which wakes it. */
    if (s->front) {
        flush(s);
        front_socket_stop(s->front);
    }
    spool_close(&s->spool);
    front_socket_close(&s->front);
    if (s->bridge)
        bridge_close(&s->bridge, UINT64_C(1000) * server_left_ms(s));
    teller_free(&s->teller);
    if (s->has_orders) {
        server_empty(&s->orders);
        mailbox_destroy(&s->orders);
    }
    if (s->has_notes) {
        server_empty(&s->notes);
        mailbox_destroy(&s->notes);
    }
    mem_free(s);
    *server = NULL;
}
