#include "bridge/front_core_impl.h"

#include "kernels/base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* An import has so much on its way to the disk at most. */
#define IMPORT_WINDOW (UINT64_C(8) * WIRE_CHUNK_BYTES)

static bool send_order(struct front *f, struct stream *s, enum order_kind kind, uint64_t offset,
                       const void *bytes, size_t n)
{
    size_t behind = kind == ORDER_WRITE ? n : 0;
    struct order *o = mem_alloc(sizeof *o + behind);
    if (!o)
        return false;
    o->kind = kind;
    o->stream = s;
    o->spool = s->bulk->spool;
    o->offset = offset;
    o->n_bytes = n;
    if (behind) {
        o->bytes = (uint8_t *)(o + 1);
        memcpy(o->bytes, bytes, n);
    }
    if (kind != ORDER_DROP)
        s->bulk->n_out++;
    f->hooks.order(f->hooks.arg, o);
    return true;
}

/* To the engine: export into the file, or import out of it. */
static bool submit(struct front *f, struct stream *s)
{
    struct wire_body none = {0};
    struct order *o = order_of(s->type, &none, s);
    if (!o)
        return false;
    o->spool = s->bulk->spool;
    f->hooks.order(f->hooks.arg, o);
    return true;
}

/* ---- places ------------------------------------------------------------------------------ */

/* A tenant in the line. One that could not be noted for want of memory has no turn. */
struct waiting {
    struct link link;
    uint64_t asked_us;
    char tenant[BRIDGE_NAME_MAX];
};

static void leave_line(struct waiting *w)
{
    link_drop(&w->link);
    mem_free(w);
}

void bulk_line_free(struct front *f)
{
    while (f->line.next != &f->line)
        leave_line(LINK_OF(f->line.next, struct waiting, link));
}

/* NULL: it is not in the line. *ahead: how many tenants are before it, or all. */
static struct waiting *find_in_line(struct front *f, const char *tenant, uint32_t *ahead)
{
    struct waiting *found = NULL;
    *ahead = 0;
    for (struct link *l = f->line.next, *next; l != &f->line && !found; l = next) {
        struct waiting *w = LINK_OF(l, struct waiting, link);
        next = l->next;
        if (f->now_us - w->asked_us > UINT64_C(1000) * BULK_TURN_MS)
            leave_line(w);
        else if (strcmp(w->tenant, tenant) == 0)
            found = w;
        else
            ++*ahead;
    }
    return found;
}

static void stand_in_line(struct front *f, const char *tenant, struct waiting *w)
{
    if (!w) {
        w = mem_alloc(sizeof *w);
        if (!w)
            return;
        (void)snprintf(w->tenant, sizeof w->tenant, "%s", tenant);
        link_add(&f->line, &w->link);
    }
    w->asked_us = f->now_us;
}

enum bulk_place bulk_place(struct front *f, const char *tenant)
{
    uint32_t n_all = 0, n_tenant = 0, ahead;
    for (const struct link *l = f->bulks.next; l != &f->bulks; l = l->next) {
        const struct stream *s = LINK_OF(l, const struct stream, bulk_link);
        n_all++;
        n_tenant += strcmp(s->tenant, tenant) == 0;
    }
    if (n_tenant >= f->limits.max_tenant_bulk)
        return BULK_SHARE_USED;
    struct waiting *w = find_in_line(f, tenant, &ahead);
    if (n_all + ahead < f->limits.max_bulk) {
        if (w)
            leave_line(w);
        return BULK_PLACE;
    }
    if (n_tenant == 0)
        stand_in_line(f, tenant, w);
    return BULK_NONE_FREE;
}

/* ---- begin ------------------------------------------------------------------------------- */

bool bulk_start(struct front *f, struct stream *s, const struct wire_body *b)
{
    struct wire_body a = {0};
    s->bulk = mem_alloc(sizeof *s->bulk);
    if (!s->bulk)
        return false;
    link_add(&f->bulks, &s->bulk_link);
    s->bulk->spool = ++f->next_spool;
    if (s->type == WIRE_EXPORT)
        return submit(f, s);
    s->bulk->total = b->bytes;
    s->bulk->credit = IMPORT_WINDOW;
    s->bulk->heard_us = f->now_us;
    wire_init(WIRE_ACCEPTED, &a);
    a.session = wire_string(s->session);
    a.price.tokens_max = WIRE_ABSENT;
    a.credit = IMPORT_WINDOW;
    stream_say(f, s, WIRE_ACCEPTED, 0, &a);
    return true;
}

/* ---- import ------------------------------------------------------------------------------ */

void bulk_receive(struct front *f, struct stream *s, uint32_t sequence, struct wire_text bytes)
{
    struct bulk *b = s->bulk;
    uint64_t left = b->total - b->at;
    uint64_t want = left < WIRE_CHUNK_BYTES ? left : WIRE_CHUNK_BYTES;
    char detail[120] = "";
    if (sequence != b->n_chunk)
        (void)snprintf(detail, sizeof detail, "chunk %" PRIu32 " came where %" PRIu32 " is next",
                       sequence, b->n_chunk);
    else if (bytes.n != want)
        (void)snprintf(detail, sizeof detail,
                       "chunk %" PRIu32 " has %" PRIu32 " bytes, %" PRIu64 " are next", sequence,
                       bytes.n, want);
    else if (bytes.n > b->credit)
        (void)snprintf(detail, sizeof detail,
                       "chunk %" PRIu32 " has %" PRIu32 " bytes, the credit is %" PRIu64, sequence,
                       bytes.n, b->credit);
    if (*detail) {
        stream_fail(f, s, WIRE_E_BAD_FRAME, detail);
        return;
    }
    if (!send_order(f, s, ORDER_WRITE, b->at, bytes.p, bytes.n)) {
        stream_fail(f, s, WIRE_E_NO_MEMORY, "no memory for the chunk");
        return;
    }
    b->credit -= bytes.n;
    b->at += bytes.n;
    b->n_chunk++;
    b->heard_us = f->now_us;
}

/* Imports are few at a time: a client that could send and does not keeps others from theirs. */
void bulk_tick(struct front *f)
{
    for (struct link *l = f->bulks.next, *next; l != &f->bulks; l = next) {
        struct stream *s = LINK_OF(l, struct stream, bulk_link);
        const struct bulk *b = s->bulk;
        next = l->next;
        if (s->type != WIRE_IMPORT || s->ended || b->credit == 0 || b->at == b->total ||
            f->now_us - b->heard_us <= UINT64_C(1000) * f->limits.stall_ms)
            continue;
        stream_fail(f, s, WIRE_E_DEADLINE, "no CHUNK came for too long: begin the import again");
        stream_pump(f, s);
    }
}

static void on_wrote(struct front *f, struct stream *s, const struct note *n)
{
    struct bulk *b = s->bulk;
    if (s->ended)
        return;
    if (n->status != RXT_OK) {
        stream_fail(f, s, wire_error_of(n->status), rxt_status_text(n->status));
        return;
    }
    if (b->credit == 0)
        b->heard_us = f->now_us;
    b->credit += n->ticket;
    if (b->at == b->total && b->n_out == 0) {
        b->ready = true;
        if (!submit(f, s))
            stream_fail(f, s, WIRE_E_NO_MEMORY, "no memory for the import");
        return;
    }
    struct wire_body c = {0};
    struct wire_header h = {.version = WIRE_VERSION, .type = WIRE_CREDIT};
    size_t size = 0;
    wire_init(WIRE_CREDIT, &c);
    c.bytes = n->ticket;
    if (!s->peer || wire_encode(WIRE_CREDIT, &c, f->out, sizeof f->out, &size) != RXT_OK)
        return;
    memcpy(h.id, s->id, sizeof h.id);
    h.body_bytes = (uint32_t)size;
    (void)peer_send(f, s->peer, &(struct front_message){.header = h, .body = f->out});
}

/* ---- export ------------------------------------------------------------------------------ */

static void read_next(struct front *f, struct stream *s)
{
    if (!send_order(f, s, ORDER_READ, s->bulk->at, NULL, WIRE_CHUNK_BYTES))
        stream_fail(f, s, WIRE_E_NO_MEMORY, "no memory for the next chunk");
}

static void on_chunk(struct front *f, struct stream *s, const struct note *n, const void *bytes)
{
    struct bulk *b = s->bulk;
    if (s->ended)
        return;
    if (n->status != RXT_OK) {
        stream_fail(f, s, wire_error_of(n->status), rxt_status_text(n->status));
        return;
    }
    b->total = n->ticket;
    b->chunk_n = n->bytes;
    b->chunk = mem_dup(bytes, n->bytes);
    if (!b->chunk)
        stream_fail(f, s, WIRE_E_NO_MEMORY, "no memory for the next chunk");
}

static void finish_export(struct front *f, struct stream *s)
{
    struct wire_body d = {0};
    wire_init(WIRE_DONE, &d);
    d.session = wire_string(s->session);
    d.bytes = s->bulk->total;
    d.chunks = s->bulk->n_chunk;
    stream_say(f, s, WIRE_DONE, WIRE_FINAL, &d);
}

enum front_sent bulk_send(struct front *f, struct stream *s)
{
    static const uint8_t empty_map[] = {0x80};
    struct bulk *b = s->bulk;
    if (!b->chunk || s->ended)
        return FRONT_SENT;
    if (s->peer->credit <= 0)
        return FRONT_FULL;
    struct front_message m = {
        .header = {.version = WIRE_VERSION,
                   .type = WIRE_CHUNK,
                   .sequence = b->n_chunk,
                   .body_bytes = sizeof empty_map},
        .body = empty_map,
        .raw = wire_bytes(b->chunk, b->chunk_n),
    };
    memcpy(m.header.id, s->id, sizeof s->id);
    enum front_sent sent = peer_send(f, s->peer, &m);
    if (sent != FRONT_SENT)
        return sent;
    s->peer->credit -= (int64_t)(WIRE_HEADER_BYTES + sizeof empty_map + b->chunk_n);
    s->peer->stalled_us = 0;
    b->n_chunk++;
    b->at += b->chunk_n;
    mem_free(b->chunk);
    b->chunk = NULL;
    if (b->at < b->total)
        read_next(f, s);
    else
        finish_export(f, s);
    return FRONT_SENT;
}

/* ---- both -------------------------------------------------------------------------------- */

void bulk_note(struct front *f, struct stream *s, const struct note *n, const void *bytes)
{
    if (n->kind == NOTE_SPOOLED) {
        s->bulk->ready = true;
        if (s->cancelled || !s->peer)
            bulk_cancel(f, s);
        else
            read_next(f, s);
        return;
    }
    s->bulk->n_out--;
    if (n->kind == NOTE_WROTE)
        on_wrote(f, s, n);
    else
        on_chunk(f, s, n, bytes);
}

/* Whether the engine has it: then the end comes from there. */
static bool with_engine(const struct stream *s)
{
    return s->type == WIRE_EXPORT ? !s->bulk->ready : s->bulk->ready;
}

void bulk_cancel(struct front *f, struct stream *s)
{
    struct wire_body c = {0};
    if (s->ended || with_engine(s))
        return;
    wire_init(WIRE_CANCELLED, &c);
    c.session = wire_string(s->session);
    stream_say(f, s, WIRE_CANCELLED, WIRE_FINAL, &c);
}

bool bulk_busy(const struct stream *s)
{
    return s->bulk && s->bulk->n_out > 0;
}

void bulk_free(struct front *f, struct stream *s)
{
    (void)send_order(f, s, ORDER_DROP, 0, NULL, 0); /* without memory the next start removes it */
    link_drop(&s->bulk_link);
    mem_free(s->bulk->chunk);
    mem_free(s->bulk);
    s->bulk = NULL;
}
