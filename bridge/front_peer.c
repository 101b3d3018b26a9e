#include "bridge/front_core_impl.h"

#include "kernels/base/mem.h"

#include <stdio.h>
#include <string.h>

#define STRANGERS_MAX 16u

/* ---- rings ------------------------------------------------------------------------------- */

void link_init(struct link *l)
{
    l->next = l->prev = l;
}

void link_add(struct link *head, struct link *l)
{
    l->prev = head->prev;
    l->next = head;
    head->prev->next = l;
    head->prev = l;
}

void link_drop(struct link *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    link_init(l);
}

/* ---- the table --------------------------------------------------------------------------- */

static struct peer **bucket_of(struct front *f, enum front_endpoint at, struct wire_text route)
{
    uint32_t h = 2166136261u + (uint32_t)at; /* FNV-1a */
    for (uint32_t i = 0; i < route.n; i++)
        h = (h ^ (uint8_t)route.p[i]) * 16777619u;
    return &f->peer_bucket[(h ^ h >> 16) & (FRONT_BUCKETS - 1)];
}

static struct wire_text route_of(const struct peer *p)
{
    return wire_bytes(p->route, p->n_route);
}

struct peer *peer_find(struct front *f, enum front_endpoint at, struct wire_text route)
{
    struct peer *p = *bucket_of(f, at, route);
    while (p && (p->at != at || p->gone || p->n_route != route.n ||
                 memcmp(p->route, route.p, route.n) != 0))
        p = p->chain;
    return p;
}

struct peer_counts peer_counts(const struct front *f, const char *tenant)
{
    struct peer_counts n = {0};
    for (const struct link *l = f->peers.next; l != &f->peers; l = l->next) {
        const struct peer *p = LINK_OF(l, const struct peer, all);
        bool ours = !p->gone && strcmp(p->tenant, tenant) == 0;
        n.all += ours;
        n.greeted += ours && p->greeted;
    }
    return n;
}

/* Beyond its limit a tenant is told so: some connections that have not said HELLO have room, too,
 * but not so many that others have none. */
struct peer *peer_add(struct front *f, enum front_endpoint at, struct wire_text route,
                      const char *tenant)
{
    uint64_t most = (uint64_t)f->limits.max_tenant_connections + STRANGERS_MAX;
    if (f->counts.connections >= f->limits.max_connections || route.n > FRONT_ROUTE_MAX ||
        peer_counts(f, tenant).all >= most)
        return NULL;
    struct peer *p = mem_alloc(sizeof *p);
    if (!p)
        return NULL;
    struct peer **bucket = bucket_of(f, at, route);
    p->at = at;
    p->n_route = (uint8_t)route.n;
    memcpy(p->route, route.p, route.n);
    (void)snprintf(p->tenant, sizeof p->tenant, "%s", tenant);
    p->heard_us = f->now_us;
    link_init(&p->streams);
    link_init(&p->waiting);
    link_add(&f->peers, &p->all);
    p->chain = *bucket;
    *bucket = p;
    f->counts.connections++;
    return p;
}

void peer_free(struct front *f, struct peer *p)
{
    struct peer **at = bucket_of(f, p->at, route_of(p));
    while (*at != p)
        at = &(*at)->chain;
    *at = p->chain;
    link_drop(&p->all);
    f->counts.connections--;
    mem_free(p);
}

void peer_leave(struct front *f, struct peer *p)
{
    while (p->streams.next != &p->streams) {
        struct stream *s = LINK_OF(p->streams.next, struct stream, peer_link);
        stream_detach(f, s);
        if (s->cancel_on_disconnect)
            stream_cancel(f, s);
        stream_pump(f, s); /* to nobody: what has ended is kept or freed */
    }
}

void peer_bury(struct front *f)
{
    for (struct link *l = f->peers.next, *next; l != &f->peers; l = next) {
        struct peer *p = LINK_OF(l, struct peer, all);
        next = l->next;
        if (!p->gone)
            continue;
        peer_leave(f, p);
        peer_free(f, p);
    }
    f->n_gone = 0;
}

/* ---- sending ----------------------------------------------------------------------------- */

enum front_sent peer_send(struct front *f, struct peer *p, const struct front_message *m)
{
    if (p->gone)
        return FRONT_GONE;
    enum front_sent sent = f->hooks.send(f->hooks.arg, p->at, route_of(p), m);
    if (sent == FRONT_SENT)
        f->counts.sent++;
    if (sent == FRONT_GONE) {
        p->gone = true;
        f->n_gone++;
    }
    return sent;
}

static void say(struct front *f, struct peer *p, struct wire_header *h,
                const struct wire_body *body)
{
    size_t n = 0;
    if (wire_encode(h->type, body, f->out, sizeof f->out, &n) != RXT_OK)
        return;
    h->version = WIRE_VERSION;
    h->body_bytes = (uint32_t)n;
    (void)peer_send(f, p, &(struct front_message){.header = *h, .body = f->out});
}

void peer_say(struct front *f, struct peer *p, uint8_t type, const uint8_t *id, uint32_t sequence,
              const struct wire_body *body)
{
    struct wire_header h = {.type = type, .sequence = sequence};
    if (type == WIRE_DONE)
        h.flags = WIRE_FINAL;
    if (id)
        memcpy(h.id, id, sizeof h.id);
    say(f, p, &h, body);
}

void peer_refuse(struct front *f, struct peer *p, const uint8_t *id, const struct refusal *r)
{
    static const uint8_t zero[WIRE_ID_BYTES];
    struct wire_header h = {.type = WIRE_ERROR};
    struct wire_body b = {0};
    wire_init(WIRE_ERROR, &b);
    b.code = (uint64_t)r->code;
    b.name = wire_string(wire_error_name(r->code));
    b.retryable = wire_error_retryable(r->code);
    b.retry_after_ms = r->retry_ms;
    b.detail = wire_string(r->detail);
    if (r->key && *r->key)
        b.key = wire_string(r->key);
    if (id && memcmp(id, zero, sizeof zero) != 0) {
        struct stream *s = stream_find(f, p->tenant, NULL, id);
        memcpy(h.id, id, sizeof h.id);
        h.flags = s && s->peer == p ? 0 : WIRE_FINAL;
    }
    f->hooks.error(f->hooks.arg, r->code);
    say(f, p, &h, &b);
}

/* ---- what waits -------------------------------------------------------------------------- */

void peer_pump(struct front *f, struct peer *p)
{
    struct link round;
    if (p->waiting.next == &p->waiting)
        return;
    /* Each that waits gets one turn; those that still wait stand behind, in the same order. */
    link_init(&round);
    round = p->waiting;
    round.next->prev = round.prev->next = &round;
    link_init(&p->waiting);
    while (round.next != &round) {
        struct stream *s = LINK_OF(round.next, struct stream, wait_link);
        link_drop(&s->wait_link);
        stream_pump(f, s);
    }
    if (p->waiting.next == &p->waiting)
        p->stalled_us = 0;
}

void peer_stalled(struct front *f, struct peer *p)
{
    const struct refusal r = {
        .code = WIRE_E_DETACHED,
        .detail = "no credit for too long: the request goes on, grant CREDIT and RESUME it",
    };
    f->counts.stalls++;
    while (p->waiting.next != &p->waiting) {
        struct stream *s = LINK_OF(p->waiting.next, struct stream, wait_link);
        uint8_t id[WIRE_ID_BYTES];
        memcpy(id, s->id, sizeof id);
        peer_refuse(f, p, id, &r);
        stream_detach(f, s);
        stream_pump(f, s);
    }
    p->stalled_us = 0;
}
