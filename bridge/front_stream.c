#include "bridge/front_core_impl.h"

#include "kernels/base/mem.h"

#include <string.h>

#define TOKENS_A_MESSAGE 256 /* that waited together; one each when the client keeps up */
#define TEXT_A_MESSAGE 16384u

/* ---- the table --------------------------------------------------------------------------- */

static struct stream **bucket_of(struct front *f, const uint8_t *id)
{
    uint32_t h; /* ids are random */
    memcpy(&h, id, sizeof h);
    return &f->stream_bucket[(h ^ h >> 16) & (FRONT_BUCKETS - 1)];
}

/* LIST has no session: no text, which is "". */
static bool is_text(const struct wire_text *t, const char *text)
{
    return strlen(text) == t->n && (t->n == 0 || memcmp(text, t->p, t->n) == 0);
}

struct stream *stream_find(struct front *f, const char *tenant, const struct wire_text *session,
                           const uint8_t *id)
{
    for (struct stream *s = *bucket_of(f, id); s; s = s->chain)
        if (!s->shadow && memcmp(s->id, id, sizeof s->id) == 0 && strcmp(s->tenant, tenant) == 0 &&
            (!session || is_text(session, s->session)))
            return s;
    return NULL;
}

struct stream *stream_add(struct front *f, struct peer *p, const struct wire_header *h,
                          struct wire_text session)
{
    struct stream *s = mem_alloc(sizeof *s);
    if (!s)
        return NULL;
    struct stream **bucket = bucket_of(f, h->id);
    memcpy(s->id, h->id, sizeof s->id);
    memcpy(s->tenant, p->tenant, sizeof s->tenant);
    if (session.n)
        memcpy(s->session, session.p, session.n); /* a name: it fits, zeroed behind */
    s->type = h->type;
    s->bytes = sizeof *s;
    link_init(&s->wait_link);
    link_init(&s->kept_link);
    link_init(&s->bulk_link);
    s->peer = p;
    p->inflight++;
    link_init(&s->peer_link);
    link_add(&p->streams, &s->peer_link);
    s->chain = *bucket;
    *bucket = s;
    f->counts.streams++;
    f->counts.running++;
    return s;
}

void stream_detach(struct front *f, struct stream *s)
{
    (void)f;
    if (!s->peer)
        return;
    link_drop(&s->peer_link);
    link_drop(&s->wait_link);
    s->peer->inflight--;
    s->peer = NULL;
}

static void leave_kept(struct front *f, struct stream *s)
{
    if (s->kept_link.next == &s->kept_link)
        return;
    link_drop(&s->kept_link);
    f->counts.kept--;
    f->counts.kept_bytes -= s->bytes;
}

void stream_free(struct front *f, struct stream *s)
{
    struct stream **at = bucket_of(f, s->id);
    while (*at != s)
        at = &(*at)->chain;
    *at = s->chain;
    stream_detach(f, s);
    leave_kept(f, s);
    for (int i = 0; i < WIRE_CANDIDATES_MAX; i++) {
        mem_free(s->answer[i].ids);
        mem_free(s->answer[i].end);
        mem_free(s->answer[i].text);
    }
    for (uint32_t i = 0; i < s->n_message; i++)
        mem_free((void *)s->message[i].body);
    if (s->bulk)
        bulk_free(f, s);
    if (!s->ended)
        f->counts.running--;
    f->counts.streams--;
    mem_free(s);
}

/* ---- what has come ----------------------------------------------------------------------- */

static bool grow(void **p, uint32_t *cap, uint32_t need, size_t size)
{
    uint32_t n = *cap ? *cap : 64;
    while (n < need)
        n *= 2;
    void *more = mem_realloc(*p, n * size);
    if (!more)
        return false;
    *p = more;
    *cap = n;
    return true;
}

/* False: no memory. */
static bool keep_token(struct stream *s, const struct note *n, const void *text)
{
    struct answer *a = &s->answer[n->candidate];
    if (a->n == a->cap) {
        uint32_t cap = a->cap;
        if (!grow((void **)&a->ids, &cap, a->n + 1, sizeof *a->ids))
            return false;
        uint32_t same = a->cap;
        if (!grow((void **)&a->end, &same, a->n + 1, sizeof *a->end))
            return false;
        s->bytes += (cap - a->cap) * (sizeof *a->ids + sizeof *a->end);
        a->cap = cap;
    }
    if (a->text_cap - a->text_n < n->bytes) {
        uint32_t was = a->text_cap;
        if (!grow((void **)&a->text, &a->text_cap, a->text_n + n->bytes, 1))
            return false;
        s->bytes += a->text_cap - was;
    }
    if (n->bytes)
        memcpy(a->text + a->text_n, text, n->bytes);
    a->text_n += n->bytes;
    a->ids[a->n] = n->token;
    a->end[a->n++] = a->text_n;
    if (s->n_answer <= n->candidate)
        s->n_answer = (uint8_t)(n->candidate + 1);
    s->stored |= (n->flags & WIRE_STORED) != 0;
    return true;
}

static bool keep_message(struct stream *s, const struct note *n, const void *body)
{
    if (s->n_message == FRONT_MESSAGES)
        return false;
    struct message *m = &s->message[s->n_message];
    m->body = mem_dup(body, n->bytes);
    if (!m->body)
        return false;
    m->n = n->bytes;
    m->type = n->type;
    m->flags = n->flags;
    m->sequence = s->answer[n->candidate].n;
    s->bytes += n->bytes;
    s->n_message++;
    return true;
}

/* Without memory for what the engine said the client must not see a gap: the stream goes dark, and
 * the journal has the answer. */
static void go_dark(struct front *f, struct stream *s)
{
    const struct refusal r = {
        .code = WIRE_E_NO_MEMORY,
        .retry_ms = 1000,
        .detail = "no memory to keep the answer: send the request again",
    };
    s->failed = true;
    if (!s->peer)
        return;
    struct peer *p = s->peer;
    stream_detach(f, s);
    peer_refuse(f, p, s->id, &r);
}

static void take_message(struct front *f, struct stream *s, const struct note *n, const void *body)
{
    if (!s->failed && !keep_message(s, n, body))
        go_dark(f, s);
    if (s->ended || !(n->flags & WIRE_FINAL))
        return;
    s->ended = true;
    s->failed |= n->type == WIRE_ERROR || n->type == WIRE_CANCELLED;
    f->counts.running--;
}

void stream_say(struct front *f, struct stream *s, uint8_t type, uint16_t flags,
                const struct wire_body *b)
{
    size_t n = 0;
    if (wire_encode(type, b, f->out, sizeof f->out, &n) == RXT_OK)
        take_message(f, s, &(struct note){.type = type, .flags = flags, .bytes = (uint32_t)n},
                     f->out);
}

void stream_fail(struct front *f, struct stream *s, enum wire_error code, const char *detail)
{
    struct wire_body b = {0};
    wire_init(WIRE_ERROR, &b);
    b.code = (uint64_t)code;
    b.name = wire_string(wire_error_name(code));
    b.retryable = wire_error_retryable(code);
    b.retry_after_ms = 0;
    b.detail = wire_string(detail);
    f->hooks.error(f->hooks.arg, code);
    stream_say(f, s, WIRE_ERROR, WIRE_FINAL, &b);
}

static enum front_sent send_message(struct front *f, struct stream *s, const struct message *m)
{
    struct front_message out = {
        .header = {.version = WIRE_VERSION,
                   .type = m->type,
                   .flags = m->flags,
                   .sequence = m->sequence,
                   .body_bytes = m->n},
        .body = m->body,
    };
    memcpy(out.header.id, s->id, sizeof s->id);
    return peer_send(f, s->peer, &out);
}

/* The TURN's own stream has it all. If that has ended, its client has asked again: DONE comes to it
 * once more, and what follows. A refusal is of this message alone: the turn goes on. */
static void shadow_note(struct front *f, struct stream *s, const struct note *n, const void *bytes)
{
    struct stream *turn = stream_find(f, s->tenant, NULL, s->id);
    struct peer *p = s->peer;
    if (n->kind != NOTE_MESSAGE)
        return;
    if (n->type == WIRE_ERROR && p) {
        const struct message m = {
            .body = bytes,
            .n = n->bytes,
            .type = WIRE_ERROR,
            .flags = turn && !turn->ended ? 0 : WIRE_FINAL,
        };
        (void)send_message(f, s, &m);
    }
    if (!(n->flags & WIRE_FINAL))
        return;
    s->ended = true;
    f->counts.running--;
    stream_free(f, s);
    if (n->type == WIRE_DONE && turn && turn->ended && p)
        stream_attach(f, turn, p, UINT32_MAX);
}

static bool is_kept(const struct stream *s)
{
    return !s->failed &&
           (s->type == WIRE_TURN || s->type == WIRE_REMEMBER || s->type == WIRE_REWIND ||
            s->type == WIRE_RESET || s->type == WIRE_CHOOSE);
}

static bool is_of(const struct stream *s, const struct stream *erase)
{
    return strcmp(s->tenant, erase->tenant) == 0 &&
           (strcmp(s->session, erase->session) == 0 || strcmp(s->fork, erase->session) == 0);
}

/* The session is erased: so are its answers that could be resumed. What a client is still taking in
 * is not kept once it has it. */
static void forget_answers(struct front *f, const struct stream *erase)
{
    for (size_t i = 0; i < FRONT_BUCKETS; i++)
        for (struct stream *s = f->stream_bucket[i], *next; s; s = next) {
            next = s->chain;
            if (!s->ended || !is_kept(s) || !is_of(s, erase))
                continue;
            if (s->kept_link.next != &s->kept_link)
                stream_free(f, s);
            else
                s->failed = true;
        }
}

void stream_note(struct front *f, struct stream *s, const struct note *n, const void *bytes)
{
    if (s->shadow) {
        shadow_note(f, s, n, bytes);
        return;
    }
    switch (n->kind) {
    case NOTE_TICKET:
        s->ticket = n->ticket;
        if (s->cancelled)
            stream_cancel(f, s);
        return;
    case NOTE_TOKEN:
        if (!s->failed && !keep_token(s, n, bytes))
            go_dark(f, s);
        break;
    case NOTE_MESSAGE:
        take_message(f, s, n, bytes);
        if (s->type == WIRE_ERASE && n->type == WIRE_DONE)
            forget_answers(f, s);
        break;
    case NOTE_SPOOLED:
    case NOTE_CHUNK:
    case NOTE_WROTE:
        bulk_note(f, s, n, bytes);
        break;
    }
    stream_pump(f, s);
}

void stream_cancel(struct front *f, struct stream *s)
{
    s->cancelled = true;
    if (s->bulk)
        bulk_cancel(f, s);
    if (s->ended || s->ticket == 0) /* without a ticket yet: when it comes */
        return;
    struct order *o = mem_alloc(sizeof *o);
    if (!o)
        return; /* the client may ask again */
    o->kind = ORDER_CANCEL;
    o->ticket = s->ticket;
    f->hooks.order(f->hooks.arg, o);
}

/* ---- out --------------------------------------------------------------------------------- */

/* One TOKEN message with what waits of a candidate. */
static enum front_sent send_tokens(struct front *f, struct stream *s, int candidate)
{
    struct answer *a = &s->answer[candidate];
    uint32_t from = a->sent, to = from + 1, begin = from ? a->end[from - 1] : 0;
    while (to < a->n && to - from < TOKENS_A_MESSAGE && a->end[to] - begin <= TEXT_A_MESSAGE)
        to++;
    struct wire_body b = {0};
    size_t n = 0;
    wire_init(WIRE_TOKEN, &b);
    b.text = wire_bytes(a->text ? a->text + begin : "", a->end[to - 1] - begin);
    b.ids = (struct wire_ids){.v = a->ids + from, .n = to - from};
    b.candidate = (uint64_t)candidate;
    if (wire_encode(WIRE_TOKEN, &b, f->out, sizeof f->out, &n) != RXT_OK)
        return FRONT_FULL;
    struct front_message out = {
        .header = {.version = WIRE_VERSION,
                   .type = WIRE_TOKEN,
                   .flags = s->stored ? WIRE_STORED : 0,
                   .sequence = from,
                   .body_bytes = (uint32_t)n},
        .body = f->out,
    };
    memcpy(out.header.id, s->id, sizeof s->id);
    enum front_sent sent = peer_send(f, s->peer, &out);
    if (sent != FRONT_SENT)
        return sent;
    s->peer->credit -= (int64_t)(WIRE_HEADER_BYTES + n);
    s->peer->stalled_us = 0;
    a->sent = to;
    return FRONT_SENT;
}

static enum front_sent send_answers(struct front *f, struct stream *s)
{
    for (int i = 0; i < s->n_answer; i++)
        while (s->answer[i].sent < s->answer[i].n) {
            if (s->peer->credit <= 0)
                return FRONT_FULL;
            enum front_sent sent = send_tokens(f, s, i);
            if (sent != FRONT_SENT)
                return sent;
        }
    return FRONT_SENT;
}

/* ACCEPTED before the tokens, everything else behind those that have come. */
static enum front_sent send_all(struct front *f, struct stream *s)
{
    if (s->n_sent == 0 && s->n_message > 0 && s->message[0].type == WIRE_ACCEPTED) {
        enum front_sent sent = send_message(f, s, &s->message[0]);
        if (sent != FRONT_SENT)
            return sent;
        s->n_sent = 1;
    }
    enum front_sent sent = s->bulk ? bulk_send(f, s) : send_answers(f, s);
    while (sent == FRONT_SENT && s->n_sent < s->n_message) {
        sent = send_message(f, s, &s->message[s->n_sent]);
        if (sent == FRONT_SENT)
            s->n_sent++;
    }
    return sent;
}

static void end(struct front *f, struct stream *s)
{
    stream_detach(f, s);
    if (!is_kept(s)) {
        stream_free(f, s);
        return;
    }
    leave_kept(f, s);
    s->forget_us = f->now_us + UINT64_C(1000) * f->limits.grace_ms;
    link_add(&f->kept, &s->kept_link);
    f->counts.kept++;
    f->counts.kept_bytes += s->bytes;
    while (f->counts.kept_bytes > f->limits.max_kept_bytes)
        stream_free(f, LINK_OF(f->kept.next, struct stream, kept_link));
}

void stream_pump(struct front *f, struct stream *s)
{
    struct peer *p = s->peer;
    if (p) {
        enum front_sent sent = send_all(f, s);
        if (sent == FRONT_FULL) {
            if (s->wait_link.next == &s->wait_link)
                link_add(&p->waiting, &s->wait_link);
            if (p->stalled_us == 0)
                p->stalled_us = f->now_us;
            return;
        }
        if (sent == FRONT_GONE)
            return; /* buried with its connection */
    }
    if (!s->peer && s->bulk)
        bulk_cancel(f, s);
    if (s->ended && !bulk_busy(s))
        end(f, s);
}

void stream_attach(struct front *f, struct stream *s, struct peer *p, uint32_t from)
{
    const struct refusal moved = {
        .code = WIRE_E_MOVED,
        .detail = "another connection has taken this request over",
    };
    struct peer *former = s->peer;
    stream_detach(f, s);
    leave_kept(f, s);
    if (former && former != p)
        peer_refuse(f, former, s->id, &moved);
    s->peer = p;
    p->inflight++;
    link_add(&p->streams, &s->peer_link);
    s->n_sent = 0;
    for (int i = 0; i < WIRE_CANDIDATES_MAX; i++)
        s->answer[i].sent = from < s->answer[i].n ? from : s->answer[i].n;
    stream_pump(f, s);
}
