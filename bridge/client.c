#include "bridge/client_impl.h"

#include "kernels/base/clock.h"
#include "kernels/base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* How far one candidate's answer has been read, and where the stream stands: behind that, when it
 * comes again. Text is counted in bytes. */
struct place {
    uint64_t ids, bytes, at_id, at_byte;
};

struct client {
    struct client_link link;
    uint64_t timeout_us, patience_us;

    /* The request. */
    uint8_t id[WIRE_ID_BYTES];
    uint8_t type; /* 0 = none */
    char session[WIRE_NAME_MAX + 1];
    uint8_t *sent; /* its body, to be sent again; WIRE_BODY_MAX bytes */
    size_t sent_bytes;
    bool on_way; /* sent, not refused */
    bool cancelled;
    bool said[256]; /* types that came: a resumed stream says some again */
    int64_t choice; /* -1 = none */
    struct place place[WIRE_CANDIDATES_MAX];
    uint64_t begun_us, word_us, due_us; /* start; last word on it; not to be sent before */
    uint32_t failures;
    int32_t *ids; /* of the last event */
    size_t cap_ids;
    struct client_session *sessions; /* WIRE_ITEMS_MAX of them, made for the first LIST */
    uint64_t n_chunk, chunk_bytes;   /* of an EXPORT so far */
    float *diff;                     /* both halves of the last DIFF */
    uint32_t code;
};

/* ---- open and close ---------------------------------------------------------------------- */

enum rxt_status client_open(struct client **out, const struct client_config *cfg,
                            struct rxt_error *err)
{
    enum rxt_status st = RXT_OK;
    struct client *c = mem_alloc(sizeof *c);
    *out = NULL;
    if (!c)
        return RXT_ENOMEM;
    c->timeout_us = 1000ull * (cfg->timeout_ms ? cfg->timeout_ms : 60000);
    c->patience_us = 1000ull * (cfg->patience_ms ? cfg->patience_ms : 10000);
    c->sent = mem_alloc(WIRE_BODY_MAX);
    st = link_open(&c->link, cfg, err);
    if (!c->sent)
        st = RXT_ENOMEM;
    uint64_t give_up = clock_us() + c->timeout_us;
    while (st == RXT_OK && !c->link.greeted) {
        if (clock_us() >= give_up)
            st = rxt_fail(err, RXT_EIO, "%.100s does not answer: is rxtd running there?",
                          c->link.endpoint);
        else
            (void)link_receive(&c->link, 100000, &st, err);
    }
    if (st == RXT_OK) {
        c->link.fresh = false;
        *out = c;
    } else {
        client_close(&c);
    }
    return st;
}

void client_close(struct client **client)
{
    struct client *c = *client;
    if (!c)
        return;
    link_close(&c->link);
    mem_free(c->sent);
    mem_free(c->ids);
    mem_free(c->sessions);
    mem_free(c->diff);
    mem_free(c);
    *client = NULL;
}

const struct client_welcome *client_welcome(const struct client *c)
{
    return &c->link.welcome;
}

uint32_t client_error_code(const struct client *c)
{
    return c->code;
}

/* ---- a request out ------------------------------------------------------------------------ */

enum rxt_status client_start(struct client *c, const struct client_request *r,
                             struct rxt_error *err)
{
    static const uint8_t zero[WIRE_ID_BYTES];
    c->type = 0;
    c->code = 0;
    TRY(message_encode(r, c->sent, WIRE_BODY_MAX, &c->sent_bytes, err));
    memcpy(c->id, r->id, sizeof c->id);
    if (memcmp(c->id, zero, sizeof zero) == 0)
        TRY(message_random_id(c->id, err));
    (void)snprintf(c->session, sizeof c->session, "%s", r->session ? r->session : "");
    memset(c->said, 0, sizeof c->said);
    memset(c->place, 0, sizeof c->place);
    c->n_chunk = c->chunk_bytes = 0;
    c->type = message_type(r->verb);
    c->choice = -1;
    c->cancelled = false;
    c->failures = 0;
    c->begun_us = c->word_us = clock_us();
    c->due_us = 0;
    c->on_way = c->link.greeted;
    if (c->on_way)
        link_send(&c->link, c->type, c->id, c->sent, c->sent_bytes);
    return RXT_OK;
}

static void send_small(struct client *c, uint8_t type, uint64_t from, uint64_t candidate)
{
    struct wire_body b = {0};
    wire_init(type, &b);
    b.session = wire_string(c->session);
    b.from = from;
    b.candidate = candidate;
    link_send_body(&c->link, type, c->id, &b);
}

/* Gets the rest of the stream, or has the request done that did not get through. */
static void attach(struct client *c)
{
    bool resumable = c->type == WIRE_TURN || c->type == WIRE_REMEMBER || c->type == WIRE_REWIND ||
                     c->type == WIRE_RESET;
    bool several = false;
    for (int k = 1; k < WIRE_CANDIDATES_MAX; k++)
        several |= c->place[k].ids > 0;
    if (c->on_way && resumable)
        send_small(c, WIRE_RESUME, several ? 0 : c->place[0].ids, 0);
    else
        link_send(&c->link, c->type, c->id, c->sent, c->sent_bytes);
    c->on_way = true;
    if (c->cancelled)
        send_small(c, WIRE_CANCEL, 0, 0);
}

enum rxt_status client_choose(struct client *c, uint32_t candidate, struct rxt_error *err)
{
    if (c->type != WIRE_TURN || !c->said[WIRE_UNDECIDED])
        return rxt_fail(err, RXT_EINVAL, "there are no candidates to choose from");
    c->choice = candidate;
    c->word_us = clock_us();
    send_small(c, WIRE_CHOOSE, 0, candidate);
    return RXT_OK;
}

void client_cancel(struct client *c)
{
    if (!c->type)
        return;
    c->cancelled = true;
    send_small(c, WIRE_CANCEL, 0, 0);
}

/* ---- what comes back ---------------------------------------------------------------------- */

static enum rxt_status refuse(struct client *c, struct rxt_error *err)
{
    c->code = (uint32_t)c->link.body.code;
    return message_refusal(&c->link.body, err);
}

static bool worth_waiting(const struct client *c, uint64_t code)
{
    bool full = code == WIRE_E_BUSY || code == WIRE_E_DRAINS || code == WIRE_E_TOO_MANY ||
                code == WIRE_E_NO_MEMORY;
    return full && c->place[0].ids == 0 && clock_us() - c->begun_us < c->patience_us;
}

/* An ERROR: true if the client sees to it, else *st says what it is. */
static bool refused(struct client *c, enum rxt_status *st, struct rxt_error *err)
{
    const struct wire_body *b = &c->link.body;
    if (b->code == WIRE_E_NO_REQUEST && c->on_way) {
        c->on_way = false;
        attach(c);
        return true;
    }
    if (b->code == WIRE_E_DETACHED) {
        struct wire_body credit = {0};
        static const uint8_t no_id[WIRE_ID_BYTES];
        wire_init(WIRE_CREDIT, &credit);
        credit.bytes = c->link.owed ? c->link.owed : 1;
        c->link.owed = 0;
        link_send_body(&c->link, WIRE_CREDIT, no_id, &credit);
        attach(c);
        return true;
    }
    if (worth_waiting(c, b->code)) {
        uint64_t pause = 20000ull << (c->failures < 6 ? c->failures : 6);
        c->failures++;
        c->on_way = false;
        if (1000 * b->retry_after_ms > pause)
            pause = 1000 * b->retry_after_ms;
        c->due_us = clock_us() + pause;
        return true;
    }
    if (c->link.header.flags & WIRE_FINAL)
        c->type = 0;
    *st = refuse(c, err);
    return false;
}

static enum rxt_status keep_ids(struct client *c, const struct wire_ids *ids)
{
    if (ids->n > c->cap_ids) {
        int32_t *more = mem_alloc(ids->n * sizeof *more);
        if (!more)
            return RXT_ENOMEM;
        mem_free(c->ids);
        c->ids = more;
        c->cap_ids = ids->n;
    }
    wire_ids_copy(ids, c->ids);
    return RXT_OK;
}

/* The part of a TOKEN that is new; false if nothing of it is. */
static bool take_token(struct client *c, struct client_event *e, enum rxt_status *st,
                       struct rxt_error *err)
{
    const struct wire_body *b = &c->link.body;
    uint64_t sequence = c->link.header.sequence;
    if (b->candidate >= WIRE_CANDIDATES_MAX || b->ids.n == 0) {
        *st = rxt_fail(err, RXT_EFORMAT, "the server sent a TOKEN of candidate %" PRIu64,
                       b->candidate);
        return false;
    }
    struct place *p = &c->place[b->candidate];
    if (sequence != p->at_id) { /* it comes again: from the start, or from where we were */
        p->at_id = sequence;
        p->at_byte = sequence == 0 ? 0 : p->bytes;
        if (sequence != 0 && sequence != p->ids) {
            *st =
                rxt_fail(err, RXT_EFORMAT, "the server left out tokens before %" PRIu64, sequence);
            return false;
        }
    }
    uint64_t old_ids = p->ids > p->at_id ? p->ids - p->at_id : 0;
    uint64_t old_bytes = p->bytes > p->at_byte ? p->bytes - p->at_byte : 0;
    p->at_id += b->ids.n;
    p->at_byte += b->text.n;
    if (old_ids >= b->ids.n)
        return false;
    if (old_bytes > b->text.n)
        old_bytes = b->text.n;
    *st = keep_ids(c, &b->ids);
    if (*st != RXT_OK)
        return false;
    p->ids = p->at_id;
    p->bytes = p->at_byte;
    e->text = b->text.p + old_bytes;
    e->text_bytes = b->text.n - (size_t)old_bytes;
    e->ids = c->ids + old_ids;
    e->n_ids = b->ids.n - (size_t)old_ids;
    return true;
}

/* An EXPORT that was asked for again comes from its first byte again. */
static void take_chunk(struct client *c, struct client_event *e, enum rxt_status *st,
                       struct rxt_error *err)
{
    uint32_t sequence = c->link.header.sequence;
    if (sequence == 0)
        c->n_chunk = c->chunk_bytes = 0;
    if (c->type != WIRE_EXPORT || sequence != c->n_chunk) {
        *st = rxt_fail(err, RXT_EFORMAT,
                       "the server sent chunk %" PRIu32 " where %" PRIu64 " is next", sequence,
                       c->n_chunk);
        return;
    }
    e->kind = CLIENT_CHUNK;
    e->text = zmq_msg_data(&c->link.frame[2]);
    e->text_bytes = zmq_msg_size(&c->link.frame[2]);
    e->offset = c->chunk_bytes;
    c->n_chunk++;
    c->chunk_bytes += e->text_bytes;
}

static enum rxt_status take_list(struct client *c, struct client_event *e, struct rxt_error *err)
{
    const struct wire_body *b = &c->link.body;
    if (b->n_sessions > WIRE_ITEMS_MAX)
        return rxt_fail(err, RXT_EFORMAT, "the server's answer has no list of sessions");
    if (!c->sessions)
        c->sessions = mem_alloc_n(WIRE_ITEMS_MAX, sizeof *c->sessions);
    if (!c->sessions)
        return RXT_ENOMEM;
    list_copy(b, c->sessions);
    e->sessions = c->sessions;
    e->n_sessions = b->n_sessions;
    e->more = b->more == 1;
    return RXT_OK;
}

static enum rxt_status take_diff(struct client *c, struct client_event *e, struct rxt_error *err)
{
    const struct wire_body *b = &c->link.body;
    const size_t bytes = b->change.n, n = bytes / sizeof *c->diff;
    if (n == 0 || b->cosine.n != bytes || bytes % sizeof *c->diff || b->n_layer > n ||
        b->n_slot > n || b->n_layer * b->n_slot != n)
        return rxt_fail(err, RXT_EFORMAT, "the server's answer has no difference of two memories");
    mem_free(c->diff);
    c->diff = mem_alloc(2 * bytes);
    if (!c->diff)
        return RXT_ENOMEM;
    memcpy(c->diff, b->change.p, bytes);
    memcpy(c->diff + n, b->cosine.p, bytes);
    e->change = c->diff;
    e->cosine = c->diff + n;
    e->n_layer = b->n_layer;
    e->n_slot = b->n_slot;
    return RXT_OK;
}

/* What a DONE says beside the event. */
static enum rxt_status take_done(struct client *c, struct client_event *e, struct rxt_error *err)
{
    const struct wire_body *b = &c->link.body;
    if (c->type == WIRE_GET) {
        TRY(keep_ids(c, &b->last_ids));
        e->ids = c->ids;
        e->n_ids = b->last_ids.n;
    }
    if (c->type == WIRE_LIST)
        return take_list(c, e, err);
    if (c->type == WIRE_DIFF)
        return take_diff(c, e, err);
    if (c->type == WIRE_EXPORT && b->bytes != c->chunk_bytes)
        return rxt_fail(err, RXT_EFORMAT,
                        "the server sent %" PRIu64 " bytes of an export of %" PRIu64,
                        c->chunk_bytes, b->bytes);
    return RXT_OK;
}

/* Turns the message that came into an event; false: none for the caller. */
static bool take(struct client *c, struct client_event *e, enum rxt_status *st,
                 struct rxt_error *err)
{
    const uint8_t type = c->link.header.type;
    const bool again = c->said[type];
    const bool event = message_event(&c->link.header, &c->link.body, c->type, e);
    if (type == WIRE_ERROR)
        return !refused(c, st, err);
    if (type == WIRE_TOKEN)
        return take_token(c, e, st, err);
    if (type == WIRE_CHUNK) {
        take_chunk(c, e, st, err);
        return true;
    }
    c->said[type] = true;
    if (type == WIRE_MEMORY_FAILED) {
        *st = refuse(c, err);
    } else if (type == WIRE_CANCELLED) {
        *st = RXT_ECANCELLED;
    } else if (!event) {
        *st = rxt_fail(err, RXT_EFORMAT, "the server answered with %s", wire_type_name(type));
    } else if (type == WIRE_UNDECIDED && again && c->choice >= 0) {
        send_small(c, WIRE_CHOOSE, 0, (uint64_t)c->choice);
    } else if (type == WIRE_DONE) {
        *st = take_done(c, e, err);
    }
    if (e->final)
        c->type = 0;
    return e->final || !again || *st != RXT_OK;
}

enum rxt_status client_next(struct client *c, struct client_event *e, struct rxt_error *err)
{
    enum rxt_status st = RXT_OK;
    if (!c->type)
        return rxt_fail(err, RXT_EINVAL, "no request runs");
    for (;;) {
        uint64_t now = clock_us();
        if (now - c->word_us >= c->timeout_us)
            return rxt_fail(err, RXT_EIO,
                            "%.100s has said nothing about the request for %" PRIu64 " s",
                            c->link.endpoint, c->timeout_us / 1000000);
        if (c->link.greeted && (c->link.fresh || (!c->on_way && now >= c->due_us))) {
            c->link.fresh = false;
            attach(c);
        }
        bool came = link_receive(&c->link, c->on_way ? CLIENT_QUIET_US : 20000, &st, err);
        if (came && memcmp(c->link.header.id, c->id, sizeof c->id) == 0) {
            c->word_us = clock_us();
            if (take(c, e, &st, err) || st != RXT_OK)
                return st;
        }
        if (st != RXT_OK)
            return st;
    }
}

enum rxt_status client_call(struct client *c, const struct client_request *r,
                            struct client_event *last, struct rxt_error *err)
{
    struct client_event e = {0};
    TRY(client_start(c, r, err));
    do {
        TRY(client_next(c, &e, err));
    } while (!e.final);
    if (last)
        *last = e;
    return RXT_OK;
}
