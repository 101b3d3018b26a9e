#include "bridge/server_event_impl.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* candidate: whose tokens the sequence of the message counts. */
static void tell_of(struct teller *t, struct stream *s, uint8_t type, uint16_t flags,
                    const struct wire_body *body, int32_t candidate)
{
    size_t n = 0;
    if (wire_encode(type, body, t->body, sizeof t->body, &n) != RXT_OK) {
        /* More than a frame holds: the client must hear an end all the same. */
        struct wire_body b = {0};
        wire_init(WIRE_ERROR, &b);
        b.code = WIRE_E_TOO_LARGE;
        b.name = wire_string(wire_error_name(WIRE_E_TOO_LARGE));
        b.retryable = 0;
        b.retry_after_ms = 0;
        b.detail = wire_string("the answer does not fit into a frame");
        type = WIRE_ERROR;
        if (wire_encode(type, &b, t->body, sizeof t->body, &n) != RXT_OK)
            return;
    }
    struct note *note = teller_note(t, s, NOTE_MESSAGE, t->body, n);
    if (!note)
        return;
    note->type = type;
    note->flags = flags;
    note->candidate = candidate;
}

static void tell(struct teller *t, struct stream *s, uint8_t type, uint16_t flags,
                 const struct wire_body *body)
{
    tell_of(t, s, type, flags, body, 0);
}

/* ---- refusals ---------------------------------------------------------------------------- */

static enum wire_error error_of(enum bridge_verb verb, enum rxt_status st)
{
    bool about_version =
        verb == BRIDGE_FORK || verb == BRIDGE_REWIND || verb == BRIDGE_DIFF || verb == BRIDGE_OPEN;
    if (st == RXT_ESTALE && about_version)
        return WIRE_E_NO_VERSION;
    if (st == RXT_ENOTFOUND && verb == BRIDGE_CHOOSE)
        return WIRE_E_NO_REQUEST;
    return wire_error_of(st);
}

static void tell_error_of(const struct told *told, enum rxt_status st, const char *sentence,
                          uint64_t retry_after_us, const char *key, int32_t candidate)
{
    enum wire_error code = error_of(told->verb, st);
    metrics_error(told->teller->metrics, code);
    struct wire_body b = {0};
    wire_init(WIRE_ERROR, &b);
    b.code = (uint64_t)code;
    b.name = wire_string(wire_error_name(code));
    b.retryable = wire_error_retryable(code);
    b.retry_after_ms = (retry_after_us + 999) / 1000;
    b.detail = wire_string(sentence && *sentence ? sentence : rxt_status_text(st));
    if (key)
        b.key = wire_string(key);
    tell_of(told->teller, told->stream, WIRE_ERROR, WIRE_FINAL, &b, candidate);
}

void tell_error(const struct told *told, enum rxt_status st, const char *sentence,
                uint64_t retry_after_us, const char *key)
{
    tell_error_of(told, st, sentence, retry_after_us, key, 0);
}

/* ---- events ------------------------------------------------------------------------------ */

static struct wire_info info_of(const struct bridge_session_info *i)
{
    static const char *const states[] = {"cold", "resident", "answering", "remembering", "held"};
    struct wire_info w = {
        .session = wire_string(i->session),
        .state = wire_string(states[i->state]),
        .stm_dtype = wire_string(dtype_name(i->stm_dtype)),
        .version = i->version,
        .n_turn = i->n_turn,
        .seed = i->seed,
        .mixed_class = i->mixed_class,
        .created_us = (uint64_t)i->created_us,
        .used_us = (uint64_t)i->used_us,
        .origin_version = WIRE_ABSENT,
    };
    if (i->has_hash)
        w.stm_hash = wire_bytes(i->stm_hash, sizeof i->stm_hash);
    if (i->held_reason[0])
        w.held_reason = wire_string(i->held_reason);
    if (i->origin[0]) {
        w.origin = wire_string(i->origin);
        w.origin_version = i->origin_version;
    }
    return w;
}

static void tell_accepted(const struct told *told, const struct bridge_event *e)
{
    struct wire_body b = {0};
    wire_init(WIRE_ACCEPTED, &b);
    b.session = wire_string(e->session);
    b.price = (struct wire_price){.tokens_max = (uint64_t)e->price_tokens,
                                  .bytes = e->price_bytes,
                                  .us_expected = e->price_us};
    b.position = (uint64_t)e->position;
    tell(told->teller, told->stream, WIRE_ACCEPTED, 0, &b);
}

#define TEXT_MAX ((size_t)2 * RXT_PIECE_MAX) /* of one id, and of what was held back */

/* A str has no U+0000 (PROTOCOL, section 5); the model may say it. Gives the bytes of out. */
static size_t without_nul(char out[3 * TEXT_MAX], const char *text, size_t n)
{
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i]) {
            out[m++] = text[i];
            continue;
        }
        out[m++] = '\xEF'; /* U+FFFD */
        out[m++] = '\xBF';
        out[m++] = '\xBD';
    }
    return m;
}

static void tell_token(const struct told *told, int32_t id, const char *text, size_t n,
                       uint16_t flags, int32_t candidate)
{
    char room[3 * TEXT_MAX];
    if (n > 0 && memchr(text, 0, n)) {
        assert(n <= TEXT_MAX);
        n = without_nul(room, text, n);
        text = room;
    }
    struct note *note = teller_note(told->teller, told->stream, NOTE_TOKEN, text, n);
    if (!note)
        return;
    note->token = id;
    note->flags = flags;
    note->candidate = candidate;
}

/* A stored answer comes as ids; the client gets it as it got it first. */
static void tell_stored(const struct told *told, const struct bridge_event *e)
{
    struct rxt_text decoder = {0};
    const int32_t *ids = e->ids + e->usage.n_query;
    for (int32_t i = 0; i < e->usage.n_answer; i++) {
        char text[TEXT_MAX];
        size_t n = rxt_decode(told->teller->model, &decoder, ids[i], text);
        if (i == e->usage.n_answer - 1)
            n += rxt_decode_end(&decoder, text + n);
        tell_token(told, ids[i], text, n, WIRE_STORED, e->candidate);
    }
}

static const char *const finish_name[] = {"eos", "length", "cancel"};

/* room: for BRIDGE_CANDIDATES of them. */
static void put_candidates(const struct bridge_event *e, struct wire_candidate *room,
                           struct wire_body *b)
{
    for (int32_t i = 0; i < e->n_candidate; i++)
        room[i] = (struct wire_candidate){
            .finish = wire_string(finish_name[e->answer[i].finish]),
            .n_answer = (uint64_t)e->answer[i].n_answer,
        };
    b->candidates = room;
    b->n_candidates = (uint32_t)e->n_candidate;
}

static void tell_undecided(const struct told *told, const struct bridge_event *e)
{
    struct wire_candidate room[BRIDGE_CANDIDATES];
    struct wire_body b = {0};
    wire_init(WIRE_UNDECIDED, &b);
    b.session = wire_string(e->session);
    b.read_version = e->read_version;
    b.expires_ms = e->expires_us / 1000;
    put_candidates(e, room, &b);
    tell(told->teller, told->stream, WIRE_UNDECIDED, 0, &b);
}

static void done_of_turn(const struct told *told, const struct bridge_event *e,
                         struct wire_candidate *room, struct wire_body *b)
{
    b->n_query = (uint64_t)e->usage.n_query;
    b->read_version = e->read_version;
    if (e->n_candidate > 0) {
        put_candidates(e, room, b);
    } else {
        b->finish = wire_string(finish_name[e->finish]);
        b->n_answer = (uint64_t)e->usage.n_answer;
    }
    if (!told->dry_run)
        b->pending_version = e->pending_version;
    if (told->n_candidate > 1 && !told->dry_run)
        b->candidate = (uint64_t)e->candidate;
    if (e->stored)
        return;
    b->usage = (struct wire_usage){
        .queue_us = e->usage.queue_us,
        .first_token_us = e->usage.first_token_us,
        .answer_us = e->usage.answer_us,
        .journal_us = told->dry_run ? WIRE_ABSENT : e->usage.journal_us,
    };
}

static void put_list(struct teller *t, const struct bridge_event *e, struct wire_body *b)
{
    for (int32_t i = 0; i < e->n_list; i++)
        t->list[i] = info_of(&e->list[i]);
    b->session.p = NULL;
    b->sessions = t->list;
    b->n_sessions = (uint32_t)e->n_list;
    b->more = e->more;
}

/* Both floats of all slots; false: they do not fit into a frame. */
static bool put_diff(struct teller *t, const struct bridge_event *e, struct wire_body *b)
{
    const struct rxt_info *info = rxt_model_info(t->model);
    size_t n = (size_t)info->n_layer * (size_t)info->n_slot;
    if (n * 2 * sizeof(float) > sizeof t->diff)
        return false;
    float *change = t->diff, *cosine = t->diff + n;
    for (size_t i = 0; i < n; i++) {
        change[i] = e->diff[i].change;
        cosine[i] = e->diff[i].cosine;
    }
    b->session.p = NULL;
    b->n_layer = (uint64_t)info->n_layer;
    b->n_slot = (uint64_t)info->n_slot;
    b->change = wire_bytes(change, n * sizeof *change);
    b->cosine = wire_bytes(cosine, n * sizeof *cosine);
    return true;
}

static void tell_done(const struct told *told, const struct bridge_event *e)
{
    struct wire_candidate room[BRIDGE_CANDIDATES];
    struct wire_body b = {0};
    if (told->verb == BRIDGE_EXPORT) { /* DONE comes behind the bytes */
        (void)teller_note(told->teller, told->stream, NOTE_SPOOLED, NULL, 0);
        return;
    }
    wire_init(WIRE_DONE, &b);
    b.session = wire_string(e->session);
    switch (told->verb) {
    case BRIDGE_TURN:
        if (e->stored)
            tell_stored(told, e);
        done_of_turn(told, e, room, &b);
        break;
    case BRIDGE_CHOOSE:
        done_of_turn(told, e, room, &b);
        break;
    case BRIDGE_LIST:
        put_list(told->teller, e, &b);
        break;
    case BRIDGE_DIFF:
        if (!put_diff(told->teller, e, &b)) {
            tell_error(told, RXT_ELIMIT, "the difference does not fit into a frame", 0, NULL);
            return;
        }
        break;
    case BRIDGE_REMEMBER:
    case BRIDGE_REWIND:
    case BRIDGE_RESET:
        b.pending_version = e->pending_version;
        break;
    case BRIDGE_GET:
        b.info = info_of(e->info);
        b.n_query = (uint64_t)e->usage.n_query;
        b.last_ids =
            (struct wire_ids){.v = e->ids, .n = (uint32_t)(e->usage.n_query + e->usage.n_answer)};
        break;
    case BRIDGE_OPEN:
    case BRIDGE_FORK:
    case BRIDGE_IMPORT:
        b.info = info_of(e->info);
        break;
    case BRIDGE_ERASE:
    case BRIDGE_EXPORT:
        break;
    }
    uint16_t flags = (uint16_t)((e->final ? WIRE_FINAL : 0) | (e->stored ? WIRE_STORED : 0));
    tell_of(told->teller, told->stream, WIRE_DONE, flags, &b, e->candidate);
}

static void tell_memory(const struct told *told, const struct bridge_event *e)
{
    struct wire_body b = {0};
    wire_init(WIRE_MEMORY, &b);
    b.session = wire_string(e->session);
    b.version = e->pending_version;
    b.stm_hash = wire_bytes(e->info->stm_hash, sizeof e->info->stm_hash);
    b.lag_us = e->usage.lag_us;
    b.memory_us = e->usage.memory_us;
    tell_of(told->teller, told->stream, WIRE_MEMORY, WIRE_FINAL, &b, e->candidate);
}

static void tell_memory_failed(const struct told *told, const struct bridge_event *e)
{
    enum wire_error code = wire_error_of(e->status);
    struct wire_body b = {0};
    wire_init(WIRE_MEMORY_FAILED, &b);
    b.session = wire_string(e->session);
    b.version = e->read_version;
    b.code = (uint64_t)code;
    b.name = wire_string(wire_error_name(code));
    b.detail = wire_string(e->error);
    tell_of(told->teller, told->stream, WIRE_MEMORY_FAILED, WIRE_FINAL, &b, e->candidate);
}

static void tell_cancelled(const struct told *told, const struct bridge_event *e)
{
    struct wire_body b = {0};
    wire_init(WIRE_CANCELLED, &b);
    b.session = wire_string(e->session);
    tell_of(told->teller, told->stream, WIRE_CANCELLED, WIRE_FINAL, &b, e->candidate);
}

/* The bridge names a deadline without its unit. */
static void tell_failed(const struct told *told, const struct bridge_event *e)
{
    char key[32];
    if (e->key)
        (void)snprintf(key, sizeof key, "%s_ms", e->key);
    tell_error_of(told, e->status, e->error, e->retry_after_us, e->key ? key : NULL, e->candidate);
}

const char *tell_key(const struct bridge_request *r, enum rxt_status st)
{
    if (st != RXT_EINVAL && st != RXT_ELIMIT)
        return NULL;
    switch (r->verb) {
    case BRIDGE_REMEMBER:
        return r->n_ids > 0 ? "ids" : "query";
    case BRIDGE_CHOOSE:
        return "candidate";
    case BRIDGE_TURN: /* too long; what else may be wrong with it, the wire has judged */
        return st != RXT_ELIMIT ? NULL : r->prompt.tool_result ? "tool_result" : "query";
    default:
        return NULL;
    }
}

void tell_event(const struct told *told, const struct bridge_event *e)
{
    switch (e->kind) {
    case BRIDGE_ACCEPTED:
        tell_accepted(told, e);
        break;
    case BRIDGE_TOKEN:
        tell_token(told, e->token, e->text, e->text_bytes, 0, e->candidate);
        break;
    case BRIDGE_UNDECIDED:
        tell_undecided(told, e);
        break;
    case BRIDGE_DONE:
        tell_done(told, e);
        break;
    case BRIDGE_MEMORY:
        tell_memory(told, e);
        break;
    case BRIDGE_MEMORY_FAILED:
        tell_memory_failed(told, e);
        break;
    case BRIDGE_CANCELLED:
        tell_cancelled(told, e);
        break;
    case BRIDGE_ERROR:
        tell_failed(told, e);
        break;
    }
}
