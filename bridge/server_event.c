#include "bridge/server_impl.h"

#include "bridge/ring_impl.h"
#include "kernels/base/clock.h"
#include "kernels/base/mem.h"

#include <stdio.h>
#include <string.h>

/* What the engine must remember of a request until its last event. */
struct told {
    struct told *next, *prev; /* in teller.told */
    struct teller *teller;
    struct stream *stream;
    enum bridge_verb verb;
    bool dry_run, undecided;
    bool dark; /* a note was lost: its client hears nothing more but the end */
    bool owed; /* ... which there was no memory to say */
    int32_t n_candidate;
    uint64_t arrived_us;
    struct ring_entry shape;
};

static void remember_told(struct teller *t, struct told *told)
{
    told->next = t->told;
    if (t->told)
        t->told->prev = told;
    t->told = told;
    t->n_request++;
}

/* Into the crash ring: it has ended. */
static void note_shape(struct told *told)
{
    told->shape.verb = (uint8_t)told->verb;
    told->shape.wall_us = clock_wall_us();
    told->shape.us = clock_us() - told->arrived_us;
    ring_note(&told->shape);
}

static void forget(struct told *told)
{
    struct teller *t = told->teller;
    if (told->next)
        told->next->prev = told->prev;
    if (told->prev)
        told->prev->next = told->next;
    else
        t->told = told->next;
    t->n_request--;
    t->n_undecided -= told->undecided;
    mem_free(told);
}

/* ---- notes ------------------------------------------------------------------------------- */

static struct batch *batch_with_room(struct teller *t, size_t need)
{
    struct batch *b = t->batch;
    if (b && b->room - b->used >= need)
        return b;
    teller_flush(t);
    if (t->spare && t->spare->room >= need) {
        t->batch = t->spare;
        t->spare = NULL;
        t->batch->used = 0;
        return t->batch;
    }
    size_t room = need > BATCH_BYTES ? need : BATCH_BYTES;
    b = mem_alloc(sizeof *b + room);
    if (!b)
        return NULL;
    b->order.kind = ORDER_BATCH;
    b->room = room;
    t->batch = b;
    return b;
}

struct note *teller_note(struct teller *t, struct stream *s, enum note_kind kind, const void *bytes,
                         size_t n)
{
    size_t size = (sizeof(struct note) + n + 15) / 16 * 16;
    struct batch *b = batch_with_room(t, size);
    if (!b) {
        t->lost = true;
        return NULL;
    }
    struct note *note = (struct note *)(void *)(b->bytes + b->used);
    *note = (struct note){.size = (uint32_t)size, .bytes = (uint32_t)n, .stream = s, .kind = kind};
    if (n)
        memcpy(note + 1, bytes, n);
    b->used += size;
    return note;
}

void teller_flush(struct teller *t)
{
    if (!t->batch)
        return;
    mailbox_post(t->out, &t->batch->order.mail);
    t->batch = NULL;
}

void teller_take_back(struct teller *t, struct batch *b)
{
    if (t->spare || b->room != BATCH_BYTES)
        mem_free(b);
    else
        t->spare = b;
}

void teller_free(struct teller *t)
{
    while (t->told)
        forget(t->told);
    for (struct order *o; (o = t->unanswered) != NULL;) {
        t->unanswered = (struct order *)o->mail.next;
        mem_free(o);
    }
    mem_free(t->batch);
    mem_free(t->spare);
    t->batch = t->spare = NULL;
}

static void tell(struct teller *t, struct stream *s, uint8_t type, uint16_t flags,
                 const struct wire_body *body)
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

/* key: the parameter it is about; NULL = none. */
static void tell_error(const struct told *told, enum rxt_status st, const char *sentence,
                       uint64_t retry_after_us, const char *key)
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
    tell(told->teller, told->stream, WIRE_ERROR, WIRE_FINAL, &b);
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

static void tell_token(const struct told *told, int32_t id, const char *text, size_t n,
                       uint16_t flags, int32_t candidate)
{
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
        char text[2 * RXT_PIECE_MAX];
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
    tell(told->teller, told->stream, WIRE_DONE, flags, &b);
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
    tell(told->teller, told->stream, WIRE_MEMORY, WIRE_FINAL, &b);
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
    tell(told->teller, told->stream, WIRE_MEMORY_FAILED, WIRE_FINAL, &b);
}

static void tell_cancelled(const struct told *told, const struct bridge_event *e)
{
    struct wire_body b = {0};
    wire_init(WIRE_CANCELLED, &b);
    b.session = wire_string(e->session);
    tell(told->teller, told->stream, WIRE_CANCELLED, WIRE_FINAL, &b);
}

static void count_done(const struct told *told, const struct bridge_event *e)
{
    struct metrics *m = told->teller->metrics;
    const struct bridge_usage *u = &e->usage;
    if (told->verb != BRIDGE_TURN)
        return;
    if (e->stored) {
        metrics_add(m, METRICS_STORED, 1);
        return;
    }
    metrics_add(m, told->dry_run ? METRICS_DRY_RUNS : METRICS_TURNS, 1);
    metrics_add(m, METRICS_TOKENS_IN, (uint64_t)u->n_query);
    metrics_add(m, METRICS_TOKENS_OUT, (uint64_t)u->n_answer);
    metrics_time(m, METRICS_QUEUE, u->queue_us);
    metrics_time(m, METRICS_FIRST_TOKEN, u->first_token_us);
    metrics_time(m, METRICS_TURN, u->answer_us);
    if (u->n_answer > 1)
        metrics_time(m, METRICS_TOKEN,
                     (u->answer_us - u->first_token_us) / (uint64_t)(u->n_answer - 1));
    if (!told->dry_run)
        metrics_time(m, METRICS_JOURNAL, u->journal_us);
}

static void note_undecided(struct told *told, bool is)
{
    told->teller->n_undecided += (uint32_t)is - (uint32_t)told->undecided;
    told->undecided = is;
}

static void count(struct told *told, const struct bridge_event *e)
{
    struct metrics *m = told->teller->metrics;
    if (e->kind == BRIDGE_DONE) {
        told->shape.n_query = (uint32_t)e->usage.n_query;
        told->shape.n_answer = (uint32_t)e->usage.n_answer;
    }
    if (e->status != RXT_OK)
        told->shape.code = (uint16_t)wire_error_of(e->status);
    if (e->kind == BRIDGE_DONE)
        count_done(told, e);
    if (e->kind == BRIDGE_CANCELLED)
        metrics_add(m, METRICS_CANCELLED, 1);
    if (e->kind == BRIDGE_MEMORY) {
        metrics_add(m, METRICS_COMMITS, 1);
        metrics_time(m, METRICS_MEMORY_LAG, e->usage.lag_us);
    }
    if (e->kind == BRIDGE_MEMORY_FAILED && e->status == RXT_ENONFINITE)
        metrics_add(m, METRICS_NOT_FINITE, 1);
}

/* The bridge names a deadline without its unit. */
static void tell_failed(const struct told *told, const struct bridge_event *e)
{
    char key[32];
    if (e->key)
        (void)snprintf(key, sizeof key, "%s_ms", e->key);
    tell_error(told, e->status, e->error, e->retry_after_us, e->key ? key : NULL);
}

/* What the wire could not judge: the parameter that a refusal of a request is about. */
static const char *key_of(const struct bridge_request *r, enum rxt_status st)
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

static void tell_event(struct told *told, const struct bridge_event *e)
{
    switch (e->kind) {
    case BRIDGE_ACCEPTED:
        tell_accepted(told, e);
        break;
    case BRIDGE_TOKEN:
        tell_token(told, e->token, e->text, e->text_bytes, 0, e->candidate);
        break;
    case BRIDGE_UNDECIDED:
        note_undecided(told, true);
        tell_undecided(told, e);
        break;
    case BRIDGE_DONE:
        note_undecided(told, false);
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

/* A stream that has lost a note must not go on as if nothing were missing: it ends with an ERROR,
 * and the request again gets the stored answer. */
static void end_dark(struct told *told)
{
    struct teller *t = told->teller;
    t->lost = false;
    tell_error(told, RXT_ENOMEM, "no memory to tell the answer: send the request again", 1000000,
               NULL);
    t->n_owed += (uint32_t)t->lost - (uint32_t)told->owed;
    told->owed = t->lost;
    if (!told->owed)
        forget(told);
}

static bool tell_no_memory(struct teller *t, const struct order *o)
{
    const struct told refused = {.teller = t, .stream = o->stream, .verb = o->r.verb};
    t->lost = false;
    tell_error(&refused, RXT_ENOMEM, NULL, 1000000, NULL);
    return !t->lost;
}

static void settle_orders(struct teller *t)
{
    while (t->unanswered && tell_no_memory(t, t->unanswered)) {
        struct order *o = t->unanswered;
        t->unanswered = (struct order *)o->mail.next;
        t->n_owed--;
        mem_free(o);
    }
}

void teller_settle(struct teller *t)
{
    settle_orders(t);
    for (struct told *told = t->told, *next; told && t->n_owed > 0; told = next) {
        next = told->next;
        if (told->owed)
            end_dark(told);
    }
}

static void on_event(void *user, const struct bridge_event *e)
{
    struct told *told = user;
    struct teller *t = told->teller;
    count(told, e);
    t->lost = false;
    if (!told->dark)
        tell_event(told, e);
    told->dark |= t->lost;
    if (!e->final)
        return;
    note_shape(told);
    if (told->dark)
        end_dark(told);
    else
        forget(told);
}

bool teller_submit(struct teller *t, struct order *o)
{
    struct rxt_error err = {""};
    uint64_t ticket = 0;
    struct told *told = mem_alloc(sizeof *told);
    const struct told refused = {.teller = t, .stream = o->stream, .verb = o->r.verb};
    if (!told) {
        if (tell_no_memory(t, o))
            return false;
        o->mail.next = (struct mail *)t->unanswered;
        t->unanswered = o;
        t->n_owed++;
        return true;
    }
    *told = refused;
    told->dry_run = o->r.dry_run;
    told->n_candidate = o->r.verb == BRIDGE_CHOOSE ? BRIDGE_CANDIDATES : o->r.n_candidate;
    told->arrived_us = clock_us();
    char path[SPOOL_PATH_MAX];
    if (o->spool) {
        spool_path(path, t->spool_folder, o->spool);
        o->r.path = path;
    }
    remember_told(t, told);
    enum rxt_status st = bridge_submit(t->bridge, &o->r, on_event, told, &ticket, &err);
    if (st != RXT_OK) {
        t->lost = false;
        tell_error(told, st, err.text, st == RXT_EBUSY ? bridge_retry_after_us(t->bridge) : 0,
                   key_of(&o->r, st));
        told->shape.code = (uint16_t)wire_error_of(st);
        note_shape(told);
        if (t->lost)
            end_dark(told); /* without memory: the same request again gets the refusal */
        else
            forget(told);
        return false;
    }
    struct note *note = teller_note(t, o->stream, NOTE_TICKET, NULL, 0);
    if (note)
        note->ticket = ticket;
    return false;
}
