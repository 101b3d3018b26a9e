#include "bridge/front_impl.h"

#include "bridge/front_core_impl.h"

#include "kernels/base/mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TICK_US 20000u /* while something waits for room or credit */

enum rxt_status front_create(struct front **out, const struct front_hooks *hooks,
                             const struct front_limits *limits, const struct wire_body *welcome)
{
    struct front *f = mem_alloc(sizeof *f);
    if (!f)
        return RXT_ENOMEM;
    f->hooks = *hooks;
    f->welcome = *welcome;
    link_init(&f->peers);
    link_init(&f->kept);
    link_init(&f->bulks);
    link_init(&f->line);
    front_set_limits(f, limits);
    *out = f;
    return RXT_OK;
}

void front_destroy(struct front **front)
{
    struct front *f = *front;
    if (!f)
        return;
    for (size_t i = 0; i < FRONT_BUCKETS; i++)
        while (f->stream_bucket[i])
            stream_free(f, f->stream_bucket[i]);
    while (f->peers.next != &f->peers)
        peer_free(f, LINK_OF(f->peers.next, struct peer, all));
    bulk_line_free(f);
    mem_free(f);
    *front = NULL;
}

void front_set_limits(struct front *f, const struct front_limits *limits)
{
    f->limits = *limits;
    f->welcome.credit_max = limits->credit_max;
    f->welcome.max_inflight = limits->max_inflight;
    f->welcome.heartbeat_ms = limits->heartbeat_ms;
    f->welcome.grace_ms = limits->grace_ms;
    f->welcome.max_body_bytes = WIRE_BODY_MAX;
    f->welcome.chunk_bytes = WIRE_CHUNK_BYTES;
    f->welcome.max_candidates = WIRE_CANDIDATES_MAX;
}

struct front_counts front_counts(const struct front *f)
{
    return f->counts;
}

/* ---- one message ------------------------------------------------------------------------- */

struct received {
    struct front *f;
    struct peer *p;
    struct wire_header h;
    const struct wire_text *frame;
    size_t n_frame;
    struct wire_body body;
};

static void refuse(struct received *r, enum wire_error code, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void refuse(struct received *r, enum wire_error code, const char *key, const char *fmt, ...)
{
    char detail[160];
    va_list args;
    va_start(args, fmt);
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): va_start is above */
    (void)vsnprintf(detail, sizeof detail, fmt, args);
    va_end(args);
    peer_refuse(r->f, r->p, r->h.id, &(struct refusal){.code = code, .key = key, .detail = detail});
}

/* Frames and header; false: refused. */
static bool check_frames(struct received *r)
{
    const struct wire_header *h = &r->h;
    bool chunk = h->type == WIRE_CHUNK;
    size_t want = chunk ? 3 : 2;
    if (r->n_frame != want) {
        refuse(r, WIRE_E_BAD_FRAME, NULL, "the message has %zu frames, not %zu", r->n_frame, want);
        return false;
    }
    if (h->version != WIRE_VERSION) {
        refuse(r, WIRE_E_BAD_VERSION, NULL, "version %u, this connection speaks %d", h->version,
               WIRE_VERSION);
        return false;
    }
    if (h->flags != 0) {
        refuse(r, WIRE_E_BAD_FRAME, NULL, "flags are 0x%04x: a client sets none", h->flags);
        return false;
    }
    if (r->frame[1].n > WIRE_BODY_MAX || (chunk && r->frame[2].n > WIRE_CHUNK_BYTES)) {
        refuse(r, WIRE_E_TOO_LARGE, NULL, "frame %d has %" PRIu32 " bytes, at most %u",
               chunk ? 2 : 1, r->frame[chunk ? 2 : 1].n, chunk ? WIRE_CHUNK_BYTES : WIRE_BODY_MAX);
        return false;
    }
    if (h->body_bytes != r->frame[1].n) {
        refuse(r, WIRE_E_BAD_FRAME, NULL,
               "the header says %" PRIu32 " bytes of body, frame 1 has %" PRIu32, h->body_bytes,
               r->frame[1].n);
        return false;
    }
    return true;
}

/* The rest of the checks of section 3, in its order; false: refused. */
static bool check_message(struct received *r)
{
    static const char letters[FRONT_ENDPOINTS] = {'t', 's', 'a'};
    static const uint8_t zero[WIRE_ID_BYTES];
    const struct wire_header *h = &r->h;
    struct wire_fault fault;
    if (!check_frames(r))
        return false;
    if (!wire_type_from_client(h->type)) {
        refuse(r, WIRE_E_UNKNOWN_TYPE, NULL, "type 0x%02x is nothing a client sends", h->type);
        return false;
    }
    if (!wire_type_at(h->type, letters[r->p->at])) {
        refuse(r, WIRE_E_WRONG_ENDPOINT, NULL, "%s belongs to another endpoint",
               wire_type_name(h->type));
        return false;
    }
    if (!r->p->greeted && h->type != WIRE_HELLO) {
        refuse(r, WIRE_E_HELLO_NEEDED, NULL, "say HELLO first");
        return false;
    }
    bool is_zero = memcmp(h->id, zero, sizeof zero) == 0;
    if (is_zero != wire_type_id_zero(h->type)) {
        refuse(r, WIRE_E_BAD_ID, NULL, "the request id of %s must%s be zero",
               wire_type_name(h->type), is_zero ? " not" : "");
        return false;
    }
    if (wire_decode(h->type, r->frame[1].p, r->frame[1].n, &r->body, &fault) != WIRE_OK) {
        refuse(r, fault.code, fault.key, "%s", fault.detail);
        return false;
    }
    return true;
}

/* ---- what each type does ----------------------------------------------------------------- */

static void on_hello(struct received *r)
{
    static const char *const names[FRONT_ENDPOINTS] = {"turn", "state", "admin"};
    struct front *f = r->f;
    struct peer *p = r->p;
    int32_t versions[16];
    bool common = false;
    wire_ids_copy(&r->body.versions, versions);
    for (uint32_t i = 0; i < r->body.versions.n; i++)
        common |= versions[i] == WIRE_VERSION;
    if (!common) {
        refuse(r, WIRE_E_BAD_VERSION, "versions", "this server speaks version %d", WIRE_VERSION);
        return;
    }
    if (r->body.credit != WIRE_ABSENT && r->body.credit > f->limits.credit_max) {
        refuse(r, WIRE_E_BAD_VALUE, "credit", "credit is %" PRIu64 ", at most %" PRIu64,
               r->body.credit, f->limits.credit_max);
        return;
    }
    if (!p->greeted && peer_counts(f, p->tenant).greeted >= f->limits.max_tenant_connections) {
        const struct refusal full = {.code = WIRE_E_TENANT_LIMIT,
                                     .retry_ms = f->limits.heartbeat_ms,
                                     .detail = "this tenant has as many connections as it may"};
        peer_refuse(f, p, NULL, &full);
        return;
    }
    p->greeted = true;
    p->credit = (int64_t)(r->body.credit == WIRE_ABSENT ? f->limits.credit_max : r->body.credit);
    struct wire_body b = f->welcome;
    b.endpoint = wire_string(names[p->at]);
    b.tenant = wire_string(p->tenant);
    peer_say(f, p, WIRE_WELCOME, NULL, 0, &b);
    peer_pump(f, p);
}

static void on_credit(struct received *r)
{
    struct front *f = r->f;
    struct peer *p = r->p;
    uint64_t max = f->limits.credit_max;
    uint64_t room = p->credit < 0 ? max + (uint64_t)-p->credit : max - (uint64_t)p->credit;
    if (p->credit > 0 && (uint64_t)p->credit >= max)
        room = 0;
    if (r->body.bytes > room) {
        refuse(r, WIRE_E_BAD_VALUE, "bytes",
               "credit would be more than %" PRIu64 ": at most %" PRIu64 " bytes now", max, room);
        return;
    }
    p->credit += (int64_t)r->body.bytes;
    peer_pump(f, p);
}

static void on_cancel(struct received *r)
{
    struct stream *s = stream_find(r->f, r->p->tenant, &r->body.session, r->h.id);
    if (!s)
        return;
    stream_cancel(r->f, s);
    stream_pump(r->f, s);
}

static void on_resume(struct received *r)
{
    struct stream *s = stream_find(r->f, r->p->tenant, &r->body.session, r->h.id);
    if (!s || s->failed || s->bulk) {
        refuse(r, WIRE_E_NO_REQUEST, NULL, "neither running nor kept: send the request again");
        return;
    }
    uint32_t from = r->body.from > UINT32_MAX ? UINT32_MAX : (uint32_t)r->body.from;
    stream_attach(r->f, s, r->p, from);
}

static void on_admin(struct received *r)
{
    struct wire_body b = {0};
    wire_init(WIRE_DONE, &b);
    r->f->hooks.admin(r->f->hooks.arg, r->h.type, &r->body, &b);
    peer_say(r->f, r->p, WIRE_DONE, r->h.id, 0, &b);
}

/* A request that is there already: its stream, from the beginning, to this connection. */
static void on_repeat(struct received *r, struct stream *s)
{
    if (s != stream_find(r->f, r->p->tenant, &r->body.session, r->h.id)) {
        refuse(r, WIRE_E_EXISTS, NULL, "this request id belongs to a request of another session");
        return;
    }
    if (s->type != r->h.type) {
        refuse(r, WIRE_E_EXISTS, NULL, "this request id belongs to another kind of request");
        return;
    }
    if (s->failed) {
        const struct refusal again = {.code = WIRE_E_BUSY,
                                      .retry_ms = 100,
                                      .detail = "the request is just ending: send it again"};
        peer_refuse(r->f, r->p, r->h.id, &again);
        return;
    }
    stream_attach(r->f, s, r->p, 0);
}

static bool may_begin_bulk(struct received *r)
{
    struct front *f = r->f;
    if (r->h.type == WIRE_IMPORT && r->body.bytes > f->limits.max_import_bytes) {
        refuse(r, WIRE_E_LIMIT, "bytes", "the import has %" PRIu64 " bytes, at most %" PRIu64,
               r->body.bytes, f->limits.max_import_bytes);
        return false;
    }
    enum bulk_place place = bulk_place(f, r->p->tenant);
    if (place == BULK_PLACE)
        return true;
    const struct refusal busy = {.code = WIRE_E_BUSY,
                                 .retry_ms = BULK_RETRY_MS,
                                 .detail = place == BULK_NONE_FREE
                                               ? "too many exports and imports run"
                                               : "this tenant runs as many exports and imports "
                                                 "as it may"};
    peer_refuse(r->f, r->p, r->h.id, &busy);
    return false;
}

static void on_chunk(struct received *r)
{
    struct stream *s = stream_find(r->f, r->p->tenant, NULL, r->h.id);
    if (!s || s->type != WIRE_IMPORT || s->peer != r->p || s->ended) {
        refuse(r, WIRE_E_NO_REQUEST, NULL, "there is no IMPORT of this id on this connection");
        return;
    }
    if (s->bulk->at == s->bulk->total) { /* the engine may have it: only this message is wrong */
        refuse(r, WIRE_E_BAD_FRAME, NULL, "all %" PRIu64 " bytes of the IMPORT have come",
               s->bulk->total);
        return;
    }
    bulk_receive(r->f, s, r->h.sequence, r->frame[2]);
    stream_pump(r->f, s);
}

static void on_request(struct received *r)
{
    struct front *f = r->f;
    struct peer *p = r->p;
    struct stream *s = stream_find(f, p->tenant, NULL, r->h.id);
    bool choice = s && r->h.type == WIRE_CHOOSE && s->type == WIRE_TURN;
    if (s && !choice) {
        on_repeat(r, s);
        return;
    }
    if (f->draining && !choice) {
        refuse(r, WIRE_E_DRAINS, NULL, "the server stops: it takes no new requests");
        return;
    }
    if (p->inflight >= f->limits.max_inflight) {
        const struct refusal many = {.code = WIRE_E_TOO_MANY,
                                     .retry_ms = 100,
                                     .detail = "too many requests run on this connection"};
        peer_refuse(f, p, r->h.id, &many);
        return;
    }
    if (f->counts.running >= f->limits.max_requests) {
        const struct refusal busy = {
            .code = WIRE_E_BUSY, .retry_ms = 100, .detail = "the server has too many requests"};
        peer_refuse(f, p, r->h.id, &busy);
        return;
    }
    bool bulk = r->h.type == WIRE_EXPORT || r->h.type == WIRE_IMPORT;
    if (bulk && !may_begin_bulk(r))
        return;
    s = stream_add(f, p, &r->h, r->body.session);
    if (s)
        s->shadow = choice;
    if (s && bulk && bulk_start(f, s, &r->body)) {
        stream_pump(f, s);
        return;
    }
    struct order *o = s && !bulk ? order_of(r->h.type, &r->body, s) : NULL;
    if (!o) {
        if (s)
            stream_free(f, s);
        const struct refusal memory = {
            .code = WIRE_E_NO_MEMORY, .retry_ms = 1000, .detail = "no memory for the request"};
        peer_refuse(f, p, r->h.id, &memory);
        return;
    }
    if (r->body.fork_to.n) /* a name: it fits, zeroed behind */
        memcpy(s->fork, r->body.fork_to.p, r->body.fork_to.n);
    s->cancel_on_disconnect = r->body.on_disconnect == WIRE_DISCONNECT_CANCEL;
    f->hooks.order(f->hooks.arg, o);
}

static void dispatch(struct received *r)
{
    switch ((enum wire_type)r->h.type) {
    case WIRE_HELLO:
        on_hello(r);
        return;
    case WIRE_PING:
        peer_say(r->f, r->p, WIRE_PONG, NULL, r->h.sequence, &r->body);
        return;
    case WIRE_CREDIT:
        on_credit(r);
        return;
    case WIRE_CANCEL:
        on_cancel(r);
        return;
    case WIRE_RESUME:
        on_resume(r);
        return;
    case WIRE_CHUNK:
        on_chunk(r);
        return;
    case WIRE_HEALTH:
    case WIRE_STATS:
    case WIRE_RELOAD:
    case WIRE_DRAIN:
        on_admin(r);
        return;
    default:
        on_request(r);
        return;
    }
}

void front_receive(struct front *f, enum front_endpoint at, struct wire_text route,
                   const char *tenant, const struct wire_text *frame, size_t n_frame,
                   uint64_t now_us)
{
    struct received r = {.f = f, .frame = frame, .n_frame = n_frame};
    f->now_us = now_us;
    f->counts.received++;
    struct peer *p = peer_find(f, at, route);
    if (p && strcmp(p->tenant, tenant) != 0) {
        /* The route was given to somebody else: the former connection is gone. */
        p->gone = true;
        f->n_gone++;
        peer_bury(f);
        p = NULL;
    }
    if (!p)
        p = peer_add(f, at, route, tenant);
    if (!p)
        return; /* more connections than allowed: not answered, which costs nothing */
    p->heard_us = now_us;
    r.p = p;
    if (n_frame == 0 || !wire_header_get(frame[0].p, frame[0].n, &r.h)) {
        p->foreign = true;
        p->greeted = false;
        peer_leave(f, p);
    }
    if (!p->foreign && check_message(&r))
        dispatch(&r);
    if (f->n_gone)
        peer_bury(f);
}

/* ---- from the engine --------------------------------------------------------------------- */

void front_note(struct front *f, const struct batch *b, uint64_t now_us)
{
    f->now_us = now_us;
    for (size_t at = 0; at < b->used;) {
        const struct note *n = (const struct note *)(const void *)(b->bytes + at);
        stream_note(f, n->stream, n, n + 1);
        at += n->size;
    }
    if (f->n_gone)
        peer_bury(f);
}

/* ---- time -------------------------------------------------------------------------------- */

/* A connection that was not heard of is asked; a dead one is found out by that. One that never said
 * HELLO has nothing to lose: it is forgotten, and comes back with its next message. */
static void ask(struct front *f, struct peer *p)
{
    struct wire_body b = {0};
    uint64_t silent_us = f->now_us - p->heard_us;
    if (silent_us < UINT64_C(1000) * f->limits.heartbeat_ms)
        return;
    if (p->greeted) {
        wire_init(WIRE_PING, &b);
        peer_say(f, p, WIRE_PING, NULL, 0, &b);
    } else if (!p->gone && silent_us >= UINT64_C(3000) * f->limits.heartbeat_ms) {
        p->gone = true;
        f->n_gone++;
    }
}

uint64_t front_tick(struct front *f, uint64_t now_us)
{
    bool waits = false;
    f->now_us = now_us;
    bool sweep = now_us - f->swept_us >= UINT64_C(1000) * f->limits.heartbeat_ms;
    if (sweep)
        f->swept_us = now_us;
    for (struct link *l = f->peers.next; l != &f->peers; l = l->next) {
        struct peer *p = LINK_OF(l, struct peer, all);
        if (p->waiting.next != &p->waiting) {
            peer_pump(f, p);
            if (p->stalled_us && now_us - p->stalled_us > UINT64_C(1000) * f->limits.stall_ms)
                peer_stalled(f, p);
            waits |= p->waiting.next != &p->waiting;
        }
        if (sweep)
            ask(f, p);
    }
    bulk_tick(f);
    while (f->kept.next != &f->kept) {
        struct stream *s = LINK_OF(f->kept.next, struct stream, kept_link);
        if (s->forget_us > now_us)
            break;
        stream_free(f, s);
    }
    if (f->n_gone)
        peer_bury(f);
    return waits ? TICK_US : UINT64_C(1000) * f->limits.heartbeat_ms / 4;
}

void front_drain(struct front *f, uint32_t deadline_ms)
{
    struct wire_body b = {0};
    f->draining = true;
    wire_init(WIRE_DRAINING, &b);
    b.deadline_ms = deadline_ms;
    for (struct link *l = f->peers.next; l != &f->peers; l = l->next) {
        struct peer *p = LINK_OF(l, struct peer, all);
        if (p->greeted)
            peer_say(f, p, WIRE_DRAINING, NULL, 0, &b);
    }
    if (f->n_gone)
        peer_bury(f);
}
