#include "bridge/client_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- a request as a body ------------------------------------------------------------------ */

uint8_t message_type(enum client_verb verb)
{
    static const uint8_t type_of[] = {
        [CLIENT_TURN] = WIRE_TURN,   [CLIENT_REMEMBER] = WIRE_REMEMBER,
        [CLIENT_OPEN] = WIRE_OPEN,   [CLIENT_GET] = WIRE_GET,
        [CLIENT_FORK] = WIRE_FORK,   [CLIENT_REWIND] = WIRE_REWIND,
        [CLIENT_RESET] = WIRE_RESET, [CLIENT_ERASE] = WIRE_ERASE,
        [CLIENT_LIST] = WIRE_LIST,   [CLIENT_EXPORT] = WIRE_EXPORT,
        [CLIENT_DIFF] = WIRE_DIFF,
    };
    return type_of[verb];
}

enum rxt_status message_random_id(uint8_t id[WIRE_ID_BYTES], struct rxt_error *err)
{
    int f = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    bool ok = f >= 0 && read(f, id, WIRE_ID_BYTES) == WIRE_ID_BYTES;
    if (f >= 0)
        (void)close(f);
    return ok ? RXT_OK : rxt_fail(err, RXT_EIO, "no random numbers: %s", strerror(errno));
}

static void put_text(struct wire_text *out, const char *text)
{
    if (text)
        *out = wire_string(text);
}

static void put_turn(const struct client_request *r, struct wire_body *b)
{
    put_text(&b->query, r->query);
    put_text(&b->tool_result, r->tool_result);
    put_text(&b->internal, r->internal);
    b->thinking = (int)r->thinking;
    b->temperature = (double)r->temperature;
    b->top_p = r->top_p > 0 ? (double)r->top_p : 1;
    b->top_k = r->top_k;
    b->max_tokens = r->max_tokens;
    b->n = r->n ? r->n : 1;
    b->commit = r->dry_run ? WIRE_COMMIT_NEVER : WIRE_COMMIT_AUTO;
    b->on_cancel = r->commit_partial ? WIRE_CANCEL_COMMIT : WIRE_CANCEL_DISCARD;
    b->on_disconnect = r->cancel_on_disconnect ? WIRE_DISCONNECT_CANCEL : WIRE_DISCONNECT_KEEP;
    b->on_stale = (int)r->on_stale;
    b->min_version = r->min_version;
    b->queue_ms = r->queue_ms;
    b->first_token_ms = r->first_token_ms;
    b->total_ms = r->total_ms;
    b->memory_ms = r->memory_ms;
    b->seed = r->seed;
}

/* The keys of the request's type: what is not of it is not written. */
static void put_request(const struct client_request *r, uint8_t type, struct wire_body *b)
{
    wire_init(type, b);
    b->session = wire_string(r->session);
    if (type == WIRE_TURN)
        put_turn(r, b);
    if (type == WIRE_TURN || type == WIRE_REMEMBER) {
        b->on_busy = (int)r->on_busy;
        b->if_version = r->version ? *r->version : WIRE_ABSENT;
    } else {
        b->version = r->version ? *r->version : WIRE_ABSENT;
        b->from_version = b->version;
    }
    if (type == WIRE_REMEMBER) {
        b->ids = (struct wire_ids){.v = r->ids, .n = (uint32_t)r->n_ids};
        put_text(&b->query, r->question);
        put_text(&b->answer, r->answer);
    }
    if (type == WIRE_OPEN) {
        b->seed = r->seed;
        put_text(&b->from_session, r->from);
    }
    put_text(type == WIRE_DIFF ? &b->other : &b->to, r->to);
    b->to_version = r->to_version ? *r->to_version : WIRE_ABSENT;
    if (type == WIRE_LIST) {
        b->after = b->session;
        put_text(&b->prefix, r->prefix);
        b->limit = r->limit ? r->limit : WIRE_ITEMS_MAX;
        b->held = r->only_held;
    }
}

enum rxt_status message_encode(const struct client_request *r, void *out, size_t cap, size_t *n,
                               struct rxt_error *err)
{
    struct wire_body b = {0};
    const uint8_t type = message_type(r->verb);
    const char *session = r->session ? r->session : "";
    if ((!session[0] && r->verb != CLIENT_LIST) || strlen(session) > WIRE_NAME_MAX)
        return rxt_fail(err, RXT_EINVAL, "the name of a session has 1 to %d bytes", WIRE_NAME_MAX);
    put_request(r, type, &b);
    enum rxt_status st = wire_encode(type, &b, out, cap, n);
    return st == RXT_OK ? st : rxt_fail(err, st, "the request is longer than %zu bytes", cap);
}

/* ---- a message as an event ---------------------------------------------------------------- */

static enum rxt_status status_of(uint64_t code)
{
    static const enum rxt_status all[] = {
        RXT_EINVAL,   RXT_EUTF8,      RXT_ENOTFOUND, RXT_EEXIST,       RXT_ESTALE,   RXT_EHELD,
        RXT_EEXPIRED, RXT_EMISMATCH,  RXT_ELIMIT,    RXT_EUNSUPPORTED, RXT_EBUSY,    RXT_EDEADLINE,
        RXT_ENOMEM,   RXT_EFULL,      RXT_EIO,       RXT_EDEVICE,      RXT_ECORRUPT, RXT_EFORMAT,
        RXT_ENEWER,   RXT_ENONFINITE, RXT_EFENCED,
    };
    for (size_t k = 0; k < sizeof all / sizeof *all; k++)
        if ((uint64_t)wire_error_of(all[k]) == code)
            return all[k];
    if (code == WIRE_E_DRAINS || code == WIRE_E_TENANT_LIMIT || code == WIRE_E_TOO_MANY)
        return RXT_EBUSY;
    return code < 200 ? RXT_EINVAL : RXT_EIO;
}

enum rxt_status message_refusal(const struct wire_body *b, struct rxt_error *err)
{
    return rxt_fail(err, status_of(b->code), "%.*s (%.*s, error %" PRIu64 ")", (int)b->detail.n,
                    b->detail.p, (int)b->name.n, b->name.p, b->code);
}

static void take_hash(struct client_event *e, struct wire_text hash)
{
    e->has_hash = hash.n == sizeof e->stm_hash;
    if (e->has_hash)
        memcpy(e->stm_hash, hash.p, sizeof e->stm_hash);
}

static void take_done(const struct wire_body *b, uint8_t request, struct client_event *e)
{
    bool verb = request == WIRE_OPEN || request == WIRE_GET || request == WIRE_FORK;
    (void)snprintf(e->finish, sizeof e->finish, "%.*s", (int)b->finish.n,
                   b->finish.n ? b->finish.p : "");
    e->candidate = b->candidate < WIRE_CANDIDATES_MAX ? (uint32_t)b->candidate : 0;
    e->n_query = known(b->n_query);
    e->n_answer = known(b->n_answer);
    e->read_version = known(b->read_version);
    e->version = verb ? b->info.version : known(b->pending_version);
    e->queue_us = known(b->usage.queue_us);
    e->first_token_us = known(b->usage.first_token_us);
    e->answer_us = known(b->usage.answer_us);
    e->journal_us = known(b->usage.journal_us);
    if (!verb)
        return;
    e->n_turn = b->info.n_turn;
    e->seed = b->info.seed;
    take_hash(e, b->info.stm_hash);
}

bool message_event(const struct wire_header *h, const struct wire_body *b, uint8_t request,
                   struct client_event *e)
{
    *e = (struct client_event){.final = (h->flags & WIRE_FINAL) != 0,
                               .stored = (h->flags & WIRE_STORED) != 0};
    if (h->type != WIRE_TOKEN) {
        e->session = b->session.p;
        e->session_bytes = b->session.n;
    }
    switch (h->type) {
    case WIRE_ACCEPTED:
        e->kind = CLIENT_ACCEPTED;
        e->price_tokens = b->price.tokens_max;
        e->price_bytes = b->price.bytes;
        e->price_us = b->price.us_expected;
        e->position = b->position;
        return true;
    case WIRE_TOKEN:
        e->kind = CLIENT_TOKEN;
        e->candidate = (uint32_t)b->candidate;
        e->text = b->text.p;
        e->text_bytes = b->text.n;
        return true;
    case WIRE_UNDECIDED:
        e->kind = CLIENT_UNDECIDED;
        return true;
    case WIRE_DONE:
        e->kind = CLIENT_DONE;
        take_done(b, request, e);
        return true;
    case WIRE_MEMORY:
        e->kind = CLIENT_MEMORY;
        e->version = b->version;
        e->lag_us = b->lag_us;
        e->memory_us = b->memory_us;
        take_hash(e, b->stm_hash);
        return true;
    default:
        return false;
    }
}
