#include "bridge/bridge_impl.h"

#include "kernels/base/clock.h"
#include "kernels/base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define BIT(state) (1u << (state))

/* The transition table. A task may end in any state; what that means for the session is decided by
 * whether JOURNAL was passed (S6). Verbs go from LOADING to JOURNAL. */
static const unsigned may_follow[] = {
    [TASK_QUEUED] = BIT(TASK_LOADING),
    [TASK_LOADING] = BIT(TASK_PREFILL) | BIT(TASK_JOURNAL),
    [TASK_PREFILL] = BIT(TASK_DECODE) | BIT(TASK_JOURNAL),
    [TASK_DECODE] = BIT(TASK_JOURNAL),
    [TASK_JOURNAL] = BIT(TASK_REMEMBER),
    [TASK_REMEMBER] = BIT(TASK_COMMITTED),
    [TASK_COMMITTED] = BIT(TASK_APPLIED),
    [TASK_APPLIED] = 0,
};

void task_move(struct task *t, enum task_state to)
{
    bool legal = may_follow[t->state] & BIT(to);
    assert(legal);
    (void)legal;
    t->state = to;
}

static void unlink_task(struct task **first, struct task ***last, struct task *t)
{
    for (struct task **at = first; *at; at = &(*at)->next) {
        if (*at != t)
            continue;
        *at = t->next;
        if (*last == &t->next)
            *last = at;
        t->next = NULL;
        return;
    }
}

static void leave_live(struct task *t)
{
    struct bridge *b = t->bridge;
    for (int32_t i = 0; i < b->n_live; i++) {
        if (b->live[i] != t)
            continue;
        /* In order: the batch stays first come, first served. */
        memmove(b->live + i, b->live + i + 1, (size_t)(b->n_live - i - 1) * sizeof(struct task *));
        b->n_live--;
        break;
    }
    if (t->slot)
        b->slot[b->n_slot++] = t->slot;
    t->slot = NULL;
    if (t->read)
        shared_read_release(b, t->read);
    t->read = NULL;
}

void task_end(struct task *t)
{
    struct session *s = t->session;
    struct bridge *b = t->bridge;
    leave_live(t);
    unlink_task(&s->queue, &s->queue_last, t);
    unlink_task(&s->remember, &s->remember_last, t);
    b->n_task--;
    sinks_forget(t);
    task_destroy(&t);
    bridge_activate(b, s);
}

void turn_fail(struct task *t, enum rxt_status st, const char *sentence)
{
    event_failed(t, BRIDGE_ERROR, st, sentence);
    task_end(t);
}

/* ---- 1, 2: from the queue into the batch ------------------------------------------------ */

static bool refuse(struct task *t, enum rxt_status st, const char *fmt, uint64_t is, uint64_t want)
{
    struct rxt_error err;
    (void)snprintf(err.text, sizeof err.text, fmt, is, want);
    turn_fail(t, st, err.text);
    return true;
}

/* True if the request's conditions on the session let it start now; false = wait. A refusal ends
 * the task (*ended). */
static bool conditions_hold(struct task *t, bool *ended)
{
    struct session *s = t->session;
    const struct bridge_request *r = &t->r;
    *ended = true;
    if (s->held && !r->dry_run) {
        turn_fail(t, RXT_EHELD, s->row.held_reason);
        return false;
    }
    if (s->remember && r->on_stale == BRIDGE_STALE_REJECT) {
        refuse(t, RXT_ESTALE, "version %" PRIu64 " is current, %" PRIu64 " is being made",
               s->version, s->row.head);
        return false;
    }
    *ended = false;
    if (s->remember && r->on_stale == BRIDGE_STALE_WAIT)
        return false;
    *ended = true;
    if (r->if_version != BRIDGE_HEAD && r->if_version != s->version) {
        refuse(t, RXT_ESTALE, "version is %" PRIu64 ", asked for %" PRIu64, s->version,
               r->if_version);
        return false;
    }
    *ended = false;
    if (r->min_version > s->version && s->remember)
        return false;
    *ended = true;
    if (r->min_version > s->version) {
        refuse(t, RXT_ESTALE, "version is %" PRIu64 ", at least %" PRIu64 " was asked for",
               s->version, r->min_version);
        return false;
    }
    *ended = false;
    return true;
}

/* A slot of the pool; made when first needed, kept for ever. NULL: none free. */
static enum rxt_status take_slot(struct bridge *b, struct rxt_slot **out)
{
    *out = NULL;
    if (b->n_slot == 0) {
        if (b->n_slot_made == b->cfg.max_live)
            return RXT_EBUSY;
        TRY(rxt_slot_create(&b->slot[0], b->model));
        b->n_slot = 1;
        b->n_slot_made++;
    }
    *out = b->slot[--b->n_slot];
    return RXT_OK;
}

static bool turn_live(struct task *t)
{
    struct bridge *b = t->bridge;
    struct session *s = t->session;
    enum rxt_status st = take_slot(b, &t->slot);
    if (st == RXT_EBUSY)
        return false;
    if (st != RXT_OK) {
        turn_fail(t, st, "no memory for the K/V of one more turn");
        return true;
    }
    t->read = s->read;
    t->read->users++;
    t->read_version = rxt_read_version(t->read->read);
    s->used = ++b->tick;
    b->live[b->n_live++] = t;
    task_move(t, TASK_PREFILL);
    event_accepted(t);
    return true;
}

bool turn_start(struct task *t)
{
    struct session *s = t->session;
    bool ended = false;
    if (t->state == TASK_QUEUED)
        task_move(t, TASK_LOADING);
    if (s->phase != SESSION_RESIDENT) {
        session_load(s);
        return false;
    }
    if (!conditions_hold(t, &ended))
        return ended;
    if (t->r.verb == BRIDGE_TURN)
        return turn_live(t);
    turn_journal(t);
    return true;
}

/* ---- 3, 4: prefill and decode ----------------------------------------------------------- */

static void token_event(struct task *t, int32_t id, bool last)
{
    char text[2 * RXT_PIECE_MAX];
    size_t n = rxt_decode(t->bridge->model, &t->decoder, id, text);
    if (last)
        n += rxt_decode_end(&t->decoder, text + n);
    event_token(t, id, text, n);
}

static void answered(struct task *t)
{
    t->answered_us = clock_us();
    t->usage.n_query = t->n_prompt;
    t->usage.n_answer = t->n_ids - t->n_prompt;
    t->usage.answer_us = t->answered_us - t->submitted_us;
    fault_point("answered");
    if (!t->r.dry_run) {
        turn_journal(t);
        return;
    }
    t->version = t->session->version;
    event_done(t, true);
    task_end(t);
}

void turn_cancel(struct task *t)
{
    bool commit = t->r.on_cancel == BRIDGE_CANCEL_COMMIT && t->state == TASK_DECODE;
    if (commit) {
        t->finish = RXT_FINISH_CANCEL;
        answered(t);
        return;
    }
    event_failed(t, BRIDGE_CANCELLED, RXT_ECANCELLED, NULL);
    task_end(t);
}

static void accept_token(struct task *t, int32_t id)
{
    if (t->state == TASK_PREFILL) {
        t->usage.first_token_us = clock_us() - t->submitted_us;
        task_move(t, TASK_DECODE);
    }
    t->ids[t->n_ids++] = id;
    bool eos = id == rxt_model_info(t->bridge->model)->eos;
    bool last = eos || t->n_ids == t->limit;
    fault_point("token");
    token_event(t, id, last);
    if (!last)
        return;
    t->finish = eos ? RXT_FINISH_EOS : RXT_FINISH_LENGTH;
    answered(t);
}

static struct sampling sampling_of(const struct task *t)
{
    struct sampling how = t->r.sampling;
    if (how.seed == 0)
        how.seed = t->session->row.seed;
    how.turn = t->read_version;
    how.position = t->n_ids;
    how.n_choice = 0;
    if (t->r.prompt.thinking == RXT_AUTO && t->n_ids == t->n_prompt) {
        const struct rxt_info *info = rxt_model_info(t->bridge->model);
        how.n_choice = 2;
        how.choice[0] = info->think; /* [A] only if strictly greater, spec 1.5 */
        how.choice[1] = info->answer;
    }
    return how;
}

/* Adds rows of one task to the pass: all it has ready, at most `budget` of them. */
static int32_t add_rows(struct bridge *b, int32_t seq, struct task *t, int32_t budget)
{
    int32_t at = b->pass_offset[seq];
    int32_t n = t->n_ids - t->n_done;
    if (n > budget)
        n = budget;
    memcpy(b->pass_ids + at, t->ids + t->n_done, (size_t)n * sizeof *t->ids);
    b->pass_offset[seq + 1] = at + n;
    b->pass_start[seq] = t->n_done;
    b->pass_slot[seq] = t->slot;
    b->pass_read[seq] = t->read->read;
    b->pass_want[seq] = t->n_done + n == t->n_ids;
    b->pass_task[seq] = t;
    if (t->n_done == 0)
        t->usage.queue_us = clock_us() - t->submitted_us;
    t->n_done += n;
    return n;
}

static int32_t plan_pass(struct bridge *b)
{
    int32_t n_seq = 0, budget = b->cfg.prefill_rows;
    b->pass_offset[0] = 0;
    for (int32_t i = 0; i < b->n_live; i++)
        if (b->live[i]->state == TASK_DECODE)
            (void)add_rows(b, n_seq++, b->live[i], 1);
    for (int32_t i = 0; i < b->n_live && budget > 0; i++)
        if (b->live[i]->state == TASK_PREFILL)
            budget -= add_rows(b, n_seq++, b->live[i], budget);
    return n_seq;
}

static enum rxt_status run_pass(struct bridge *b, int32_t n_seq, int32_t *n_want)
{
    const struct rxt_batch batch = {
        .rows = {.n_seq = n_seq, .offset = b->pass_offset, .start = b->pass_start},
        .ids = b->pass_ids,
        .slot = b->pass_slot,
        .read = b->pass_read,
        .want = b->pass_want,
    };
    TRY(rxt_forward(b->worker, &batch));
    *n_want = 0;
    for (int32_t i = 0; i < n_seq; i++)
        if (b->pass_want[i]) {
            b->pass_sampling[*n_want] = sampling_of(b->pass_task[i]);
            b->pass_task[*n_want] = b->pass_task[i];
            ++*n_want;
        }
    return *n_want ? rxt_sample(b->worker, b->pass_sampling, *n_want, b->pass_choice) : RXT_OK;
}

bool turn_pass(struct bridge *b)
{
    for (int32_t i = b->n_live; i-- > 0;)
        if (b->live[i]->cancelled)
            turn_cancel(b->live[i]);
    int32_t n_seq = plan_pass(b), n_want = 0;
    if (n_seq == 0)
        return false;
    enum rxt_status st = run_pass(b, n_seq, &n_want);
    if (st != RXT_OK) {
        /* The backend failed under all of them; their sessions are as they were (S6). */
        while (b->n_live > 0)
            turn_fail(b->live[b->n_live - 1], st, "the backend failed while answering");
        return true;
    }
    for (int32_t i = 0; i < n_want; i++)
        accept_token(b->pass_task[i], b->pass_choice[i]);
    return true;
}

/* ---- 5: journal ------------------------------------------------------------------------- */

static enum rxt_status run_put(struct work *w, struct store *store, struct rxt_error *err)
{
    struct task *t = w->owner;
    return store_turn_put(store, t->write.session.id, &t->write.row, err);
}

static void put_done(struct work *w)
{
    struct task *t = w->owner;
    t->work_out = false;
    if (w->status == RXT_OK)
        turn_journaled(t);
    else
        turn_fail(t, w->status, w->error.text);
}

static const char *finish_name(const struct task *t)
{
    static const char *const name[] = {"eos", "length", "cancel"};
    return t->r.verb == BRIDGE_TURN ? name[t->finish] : "";
}

void turn_journal(struct task *t)
{
    struct session *s = t->session;
    const struct sampling *how = &t->r.sampling;
    struct store_turn *row = &t->write.row;
    leave_live(t);
    task_move(t, TASK_JOURNAL);
    if (t->r.verb == BRIDGE_REMEMBER)
        t->answered_us = clock_us();
    t->version = s->row.head + 1;
    *row = (struct store_turn){
        .kind = t->r.verb == BRIDGE_TURN ? STORE_TURN : STORE_REMEMBER,
        .state = STORE_LIVE,
        .version = t->version,
        .read_version = t->read_version,
        .ids = t->ids,
        .n_ids = (uint32_t)t->n_ids,
        .n_query = (uint32_t)t->n_prompt,
        .temperature = how->temperature,
        .top_p = how->top_p,
        .top_k = (uint32_t)how->top_k,
        .seed = how->seed ? how->seed : s->row.seed,
    };
    memcpy(row->request, t->r.id, sizeof row->request);
    (void)snprintf(row->finish, sizeof row->finish, "%s", finish_name(t));
    (void)snprintf(row->bit_class, sizeof row->bit_class, "%s",
                   backend_bit_class(rxt_model_backend(t->bridge->model)));
    if (t->bridge->cfg.keep_text)
        row->query_text = t->r.verb == BRIDGE_TURN ? t->r.prompt.query : t->r.question;
    t->write.session = s->row;
    t->work_out = true;
    bridge_post(t->bridge, &t->write.work, run_put, put_done, t);
}

/* ---- a repeated request ----------------------------------------------------------------- */

static enum rxt_status run_find(struct work *w, struct store *store, struct rxt_error *err)
{
    struct task *t = w->owner;
    struct task_work *find = &t->write;
    TRY(store_turn_find(store, t->session->row.id, t->r.id, 0, &find->row, err));
    find->found_n = find->row.n_ids;
    find->row.query_text = find->row.answer_text = NULL;
    if (find->found_n == 0)
        return RXT_OK;
    find->found_ids = mem_dup(find->row.ids, find->found_n * sizeof *find->found_ids);
    return find->found_ids ? RXT_OK : RXT_ENOMEM;
}

static enum rxt_finish finish_of(const char *name)
{
    if (strcmp(name, "length") == 0)
        return RXT_FINISH_LENGTH;
    return strcmp(name, "cancel") == 0 ? RXT_FINISH_CANCEL : RXT_FINISH_EOS;
}

static void find_done(struct work *w)
{
    struct task *t = w->owner;
    const struct store_turn *row = &t->write.row;
    t->work_out = false;
    if (w->status != RXT_OK) {
        turn_fail(t, w->status, w->error.text);
        return;
    }
    struct bridge_event e = {
        .kind = BRIDGE_DONE,
        .final = true,
        .finish = finish_of(row->finish),
        .ids = t->write.found_ids,
        .stored = true,
        .read_version = row->read_version,
        .pending_version = row->version,
        .usage = {.n_query = (int32_t)row->n_query,
                  .n_answer = (int32_t)(row->n_ids - row->n_query)},
    };
    event_stored(t, &e);
    task_end(t);
}

void turn_repeat(struct task *t)
{
    t->work_out = true;
    t->write.work.alone = true;
    bridge_post(t->bridge, &t->write.work, run_find, find_done, t);
}

/* ---- 6 to 8: remembered ----------------------------------------------------------------- */

static void note_recent(struct session *s, const struct task *t)
{
    struct store_request *slot = &s->recent[s->n_recent++ % STORE_WINDOW];
    *slot = (struct store_request){.state = STORE_LIVE, .version = t->version};
    memcpy(slot->id, t->r.id, sizeof slot->id);
}

void turn_journaled(struct task *t)
{
    struct session *s = t->session;
    t->durable_us = clock_us();
    if (t->answered_us)
        t->usage.journal_us = t->durable_us - t->answered_us;
    s->row.head = t->version;
    note_recent(s, t);
    if (t->n_ids > 0) {
        memcpy(s->last_ids, t->ids, (size_t)t->n_ids * sizeof *t->ids);
        s->n_last = t->n_ids;
        s->n_last_query = t->n_prompt;
    }
    fault_point("journaled");
    unlink_task(&s->queue, &s->queue_last, t);
    *s->remember_last = t;
    s->remember_last = &t->next;
    task_move(t, TASK_REMEMBER);
    event_done(t, false);
    session_remember(s);
    bridge_activate(t->bridge, s);
}

void turn_committed(struct task *t)
{
    uint64_t now = clock_us();
    t->usage.memory_us = now - t->durable_us;
    t->usage.lag_us = t->answered_us ? now - t->answered_us : t->usage.memory_us;
    task_move(t, TASK_COMMITTED);
    event_memory(t);
    task_move(t, TASK_APPLIED);
    task_end(t);
}
