/* A server without a model: the front with its sockets, and an engine that says words. For the
 * measure of clients. */
#include "bridge/server_impl.h"

#include "kernels/base/clock.h"
#include "kernels/base/mem.h"

#include <assert.h>
#include <string.h>

#define STREAMS 65536u
#define ANSWER_TOKENS 16 /* where a turn says no number */
#define QUERY_TOKENS 16
#define IDLE_US 100000u

/* An answer on its way; what it is of stays in the order. */
struct saying {
    struct order *order;
    uint64_t arrived_us, first_us;
    int32_t n_said, n_all;
};

struct counted { /* turns of a session, by the hash of its name; 0 = free */
    uint64_t name, n_turn;
};

struct server_null {
    uint64_t step_us, last_ticket;
    struct mailbox orders, notes;
    struct teller teller;
    struct metrics metrics;
    struct metrics_http *http;
    struct wire_body welcome;
    struct server_config cfg;
    struct front_socket *front;
    struct saying *saying; /* [STREAMS] */
    uint32_t n_saying;
    struct counted *session;
    uint64_t mask, n_session;
    atomic_bool stop;
};

/* ---- sessions ----------------------------------------------------------------------------- */

static uint64_t hash_of(const struct bridge_request *r, const char *session)
{
    uint64_t h = 0xCBF29CE484222325u; /* FNV-1a */
    for (const char *part[] = {r->tenant, "/", session, NULL}, **p = part; *p; p++)
        for (const char *c = *p; *c; c++)
            h = (h ^ (unsigned char)*c) * 0x100000001B3u;
    return h | 1;
}

static struct counted *place_of(struct counted *table, uint64_t mask, uint64_t name)
{
    uint64_t i = name & mask;
    while (table[i].name && table[i].name != name)
        i = (i + 1) & mask;
    return &table[i];
}

/* Its count, made if it is not there; NULL: no memory. A session that was erased counts from 0. */
static uint64_t *count_of(struct server_null *x, uint64_t name)
{
    if (2 * (x->n_session + 1) > x->mask) {
        uint64_t mask = 2 * x->mask + 1;
        struct counted *more = mem_alloc_n(mask + 1, sizeof *more);
        if (!more)
            return NULL;
        for (uint64_t i = 0; i <= x->mask; i++)
            if (x->session[i].name)
                *place_of(more, mask, x->session[i].name) = x->session[i];
        mem_free(x->session);
        x->session = more;
        x->mask = mask;
    }
    struct counted *c = place_of(x->session, x->mask, name);
    x->n_session += c->name == 0;
    c->name = name;
    return &c->n_turn;
}

/* ---- answers ------------------------------------------------------------------------------ */

static void tell(struct server_null *x, struct stream *s, uint8_t type, uint16_t flags,
                 const struct wire_body *b)
{
    size_t n = 0;
    if (wire_encode(type, b, x->teller.body, sizeof x->teller.body, &n) != RXT_OK)
        return;
    struct note *note = teller_note(&x->teller, s, NOTE_MESSAGE, x->teller.body, n);
    if (!note)
        return;
    note->type = type;
    note->flags = flags;
}

static void tell_info(struct server_null *x, struct stream *s, const char *session, uint64_t n_turn)
{
    struct wire_body b = {0};
    wire_init(WIRE_DONE, &b);
    b.session = b.info.session = wire_string(session);
    b.info.state = wire_string("resident");
    b.info.stm_dtype = wire_string("f32");
    b.info.version = b.info.n_turn = n_turn;
    b.info.mixed_class = 0;
    b.info.origin_version = WIRE_ABSENT;
    tell(x, s, WIRE_DONE, WIRE_FINAL, &b);
}

static void tell_refusal(struct server_null *x, struct stream *s, enum wire_error code,
                         const char *sentence)
{
    struct wire_body b = {0};
    wire_init(WIRE_ERROR, &b);
    b.code = (uint64_t)code;
    b.name = wire_string(wire_error_name(code));
    b.retryable = wire_error_retryable(code);
    b.retry_after_ms = 0;
    b.detail = wire_string(sentence);
    tell(x, s, WIRE_ERROR, WIRE_FINAL, &b);
}

static void begin_turn(struct server_null *x, struct order *o)
{
    struct wire_body b = {0};
    struct note *ticket = teller_note(&x->teller, o->stream, NOTE_TICKET, NULL, 0);
    const int32_t n = o->r.max_tokens > 0 ? o->r.max_tokens : ANSWER_TOKENS;
    if (ticket)
        ticket->ticket = o->ticket = ++x->last_ticket;
    x->saying[x->n_saying++] = (struct saying){.order = o, .arrived_us = clock_us(), .n_all = n};
    wire_init(WIRE_ACCEPTED, &b);
    b.session = wire_string(o->r.session);
    b.price = (struct wire_price){.tokens_max = QUERY_TOKENS + (uint64_t)n};
    b.position = 0;
    tell(x, o->stream, WIRE_ACCEPTED, 0, &b);
}

static void end_turn(struct server_null *x, const struct saying *y)
{
    static const uint8_t hash[16];
    assert(y->order);
    const struct bridge_request *r = &y->order->r;
    uint64_t *count = count_of(x, hash_of(r, r->session));
    const uint64_t version = count ? *count : 0;
    struct wire_body b = {0};
    wire_init(WIRE_DONE, &b);
    b.session = wire_string(r->session);
    b.finish = wire_string("length");
    b.n_query = QUERY_TOKENS;
    b.n_answer = (uint64_t)y->n_all;
    b.read_version = version;
    b.usage = (struct wire_usage){.queue_us = 0,
                                  .first_token_us = y->first_us - y->arrived_us,
                                  .answer_us = clock_us() - y->arrived_us,
                                  .journal_us = 0};
    metrics_add(&x->metrics, METRICS_TURNS, 1);
    if (r->dry_run) {
        tell(x, y->order->stream, WIRE_DONE, WIRE_FINAL, &b);
        return;
    }
    if (count)
        *count = version + 1;
    b.pending_version = version + 1;
    tell(x, y->order->stream, WIRE_DONE, 0, &b);
    wire_init(WIRE_MEMORY, &b);
    b.session = wire_string(r->session);
    b.version = version + 1;
    b.stm_hash = wire_bytes(hash, sizeof hash);
    b.lag_us = b.memory_us = 0;
    tell(x, y->order->stream, WIRE_MEMORY, WIRE_FINAL, &b);
}

static void forget_saying(struct server_null *x, uint32_t i)
{
    mem_free(x->saying[i].order);
    x->saying[i] = x->saying[--x->n_saying];
}

/* One token of every answer. */
static void step(struct server_null *x)
{
    for (uint32_t i = x->n_saying; i-- > 0;) {
        struct saying *y = &x->saying[i];
        if (y->n_said == y->n_all) {
            end_turn(x, y);
            forget_saying(x, i);
            continue;
        }
        struct note *n = teller_note(&x->teller, y->order->stream, NOTE_TOKEN, " word", 5);
        if (!n)
            continue;
        n->token = 1;
        if (y->n_said++ == 0)
            y->first_us = clock_us();
    }
}

/* ---- orders ------------------------------------------------------------------------------- */

/* Takes o unless it stays: a turn. */
static bool submit(struct server_null *x, struct order *o)
{
    uint64_t *count = count_of(x, hash_of(&o->r, o->r.session));
    struct wire_body b = {0};
    if (!count || (o->r.verb == BRIDGE_TURN && x->n_saying == STREAMS)) {
        tell_refusal(x, o->stream, WIRE_E_BUSY, "no room for one more");
        return false;
    }
    switch (o->r.verb) {
    case BRIDGE_TURN:
        begin_turn(x, o);
        return true;
    case BRIDGE_OPEN:
    case BRIDGE_GET:
        tell_info(x, o->stream, o->r.session, *count);
        return false;
    case BRIDGE_FORK:
        tell_info(x, o->stream, o->r.to, *count);
        return false;
    case BRIDGE_ERASE:
        *count = 0;
        wire_init(WIRE_DONE, &b);
        b.session = wire_string(o->r.session);
        tell(x, o->stream, WIRE_DONE, WIRE_FINAL, &b);
        return false;
    default:
        tell_refusal(x, o->stream, WIRE_E_UNSUPPORTED, "a server without a model knows turns only");
        return false;
    }
}

static void cancel(struct server_null *x, uint64_t ticket)
{
    struct wire_body b = {0};
    for (uint32_t i = 0; i < x->n_saying; i++) {
        struct order *o = x->saying[i].order;
        if (o->ticket != ticket)
            continue;
        wire_init(WIRE_CANCELLED, &b);
        b.session = wire_string(o->r.session);
        tell(x, o->stream, WIRE_CANCELLED, WIRE_FINAL, &b);
        forget_saying(x, i);
        return;
    }
}

static void take_orders(struct server_null *x)
{
    for (struct mail *mail = mailbox_take(&x->orders); mail;) {
        struct order *o = (struct order *)mail;
        mail = mail->next;
        if (o->kind == ORDER_BATCH) {
            teller_take_back(&x->teller, (struct batch *)o);
            continue;
        }
        if (o->kind == ORDER_CANCEL)
            cancel(x, o->ticket);
        if (o->kind == ORDER_SUBMIT && submit(x, o))
            continue;
        mem_free(o);
    }
}

static struct metrics_health health_of(void *arg)
{
    (void)arg;
    return (struct metrics_health){.live = true, .ready = true, .progress = true};
}

/* ---- all together ------------------------------------------------------------------------- */

static enum rxt_status open_front(struct server_null *x, struct rxt_error *err)
{
    static const uint8_t hash[16];
    const struct front_socket_config front = {
        .server = &x->cfg,
        .welcome = &x->welcome,
        .metrics = &x->metrics,
        .in = &x->notes,
        .orders = &x->orders,
    };
    const struct metrics_http_config http = {
        .address = x->cfg.metrics, .metrics = &x->metrics, .health = health_of, .arg = x};
    wire_init(WIRE_WELCOME, &x->welcome);
    x->welcome.version = WIRE_VERSION;
    x->welcome.server = wire_string("rxtd " RXT_VERSION);
    x->welcome.model = wire_string("none");
    x->welcome.bit_class = wire_string("none");
    x->welcome.model_hash = wire_bytes(hash, sizeof hash);
    x->welcome.n_vocab = 32768;
    x->welcome.max_seq_len = 4096;
    x->welcome.answer_min = ANSWER_TOKENS;
    x->welcome.session_bytes = x->welcome.stm_bytes = sizeof(struct counted);
    x->welcome.window = 0;
    x->teller.out = &x->notes;
    x->teller.metrics = &x->metrics;
    TRY(front_socket_open(&x->front, &front, err));
    return x->cfg.metrics ? metrics_http_open(&x->http, &http, err) : RXT_OK;
}

enum rxt_status server_null_open(struct server_null **out, const struct server_config *cfg,
                                 uint64_t step_us, struct rxt_error *err)
{
    struct server_null *x = *out = mem_alloc(sizeof *x);
    if (!x)
        return RXT_ENOMEM;
    x->cfg = *cfg;
    x->cfg.state = x->cfg.admin = NULL; /* it serves turns only */
    x->step_us = step_us;
    x->mask = 4095;
    server_defaults(&x->cfg);
    enum rxt_status st = mailbox_create(&x->orders);
    if (st == RXT_OK) {
        st = mailbox_create(&x->notes);
        if (st != RXT_OK)
            mailbox_destroy(&x->orders);
    }
    if (st != RXT_OK) {
        mem_free(x);
        *out = NULL;
        return st;
    }
    x->saying = mem_alloc_n(STREAMS, sizeof *x->saying);
    x->session = mem_alloc_n(x->mask + 1, sizeof *x->session);
    st = x->saying && x->session ? open_front(x, err) : RXT_ENOMEM;
    if (st != RXT_OK)
        server_null_close(out);
    return st;
}

const char *server_null_endpoint(const struct server_null *x)
{
    return front_socket_endpoint(x->front, FRONT_TURN);
}

void server_null_run(struct server_null *x)
{
    uint64_t due = clock_us();
    while (!atomic_load(&x->stop)) {
        const uint64_t now = clock_us();
        take_orders(x);
        if (x->n_saying > 0 && now >= due) {
            step(x);
            due = due + x->step_us + 100000 > now ? due + x->step_us : now; /* held up: forget it */
        }
        if (x->teller.batch) {
            teller_flush(&x->teller);
            front_socket_wake(x->front);
        }
        const uint64_t then = clock_us();
        if (x->n_saying == 0)
            mailbox_wait(&x->orders, IDLE_US);
        else if (then < due)
            mailbox_wait(&x->orders, due - then);
        if (x->n_saying == 0)
            due = clock_us();
    }
}

void server_null_stop(struct server_null *x)
{
    atomic_store(&x->stop, true);
    mailbox_wake(&x->orders);
}

void server_null_close(struct server_null **out)
{
    struct server_null *x = *out;
    if (!x)
        return;
    metrics_http_close(&x->http);
    if (x->front)
        front_socket_close(&x->front);
    while (x->n_saying > 0)
        forget_saying(x, x->n_saying - 1);
    teller_free(&x->teller);
    server_empty(&x->orders);
    server_empty(&x->notes);
    mailbox_destroy(&x->orders);
    mailbox_destroy(&x->notes);
    mem_free(x->saying);
    mem_free(x->session);
    mem_free(x);
    *out = NULL;
}
