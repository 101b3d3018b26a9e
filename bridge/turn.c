/* States 5 to 8 of a turn: journaled, remembered; and what a repeated request gets. */
#include "bridge/bridge_impl.h"

#include "kernels/base/clock.h"
#include "kernels/base/mem.h"

#include <stdio.h>
#include <string.h>

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
        task_fail(t, w->status, w->error.text);
}

const char *finish_name(enum rxt_finish finish)
{
    static const char *const name[] = {"eos", "length", "cancel"};
    return name[finish];
}

static enum rxt_finish finish_of(const char *name)
{
    if (strcmp(name, "length") == 0)
        return RXT_FINISH_LENGTH;
    return strcmp(name, "cancel") == 0 ? RXT_FINISH_CANCEL : RXT_FINISH_EOS;
}

void turn_fill_row(const struct task *t, const struct answer *a, struct store_turn *row)
{
    const struct sampling *how = &t->r.sampling;
    bool decoded = t->r.verb == BRIDGE_TURN;
    *row = (struct store_turn){
        .kind = decoded ? STORE_TURN : STORE_REMEMBER,
        .state = STORE_LIVE,
        .version = t->version,
        .candidate = (uint32_t)a->candidate,
        .read_version = t->read_version,
        .ids = a->ids,
        .n_ids = (uint32_t)a->n_ids,
        .n_query = (uint32_t)t->n_prompt,
        .temperature = how->temperature,
        .top_p = how->top_p,
        .top_k = (uint32_t)how->top_k,
        .seed = a->seed,
        .wall_us = clock_wall_us(),
    };
    memcpy(row->request, t->r.id, sizeof row->request);
    (void)snprintf(row->finish, sizeof row->finish, "%s", decoded ? finish_name(a->finish) : "");
    (void)snprintf(row->bit_class, sizeof row->bit_class, "%s",
                   backend_bit_class(rxt_model_backend(t->bridge->model)));
    if (t->bridge->cfg.keep_text)
        row->query_text = decoded ? t->r.prompt.query : t->r.question;
}

void turn_journal(struct task *t)
{
    struct session *s = t->session;
    turn_leave(t);
    schedule_forget(t);
    if (s->held) { /* since it began; the store may not know yet */
        task_fail(t, session_held_status(s), s->row.held_reason);
        return;
    }
    task_move(t, TASK_JOURNAL);
    if (t->r.verb == BRIDGE_REMEMBER) {
        t->answered_us = t->bridge->clock();
        t->answer[0].seed = s->row.seed;
    }
    t->version = s->row.head + 1;
    turn_fill_row(t, &t->answer[0], &t->write.row);
    t->write.session = s->row;
    t->work_out = true;
    bridge_post(t->bridge, &t->write.work, run_put, put_done, t);
}

/* ---- a repeated request ----------------------------------------------------------------- */

bool turn_is_repeat(const struct task *t)
{
    const struct session *s = t->session;
    uint32_t n = s->n_recent < STORE_WINDOW ? s->n_recent : STORE_WINDOW;
    for (uint32_t i = 0; i < n; i++)
        if (memcmp(s->recent[i].id, t->r.id, BRIDGE_ID_BYTES) == 0)
            return true;
    return false;
}

void turn_note_id(struct session *s, const struct task *t, enum store_turn_state state)
{
    struct store_request *slot = &s->recent[s->n_recent++ % STORE_WINDOW];
    *slot = (struct store_request){.state = state, .version = t->version};
    memcpy(slot->id, t->r.id, sizeof slot->id);
}

/* A candidate that is not decided: the task, which is with the writer, becomes what it was. */
static enum rxt_status take_candidate(struct task *t, const struct store_turn *row)
{
    if (row->candidate >= (uint32_t)t->n_answer || row->n_ids > (uint32_t)t->bridge->max_seq_len)
        return RXT_EEXIST;
    struct answer *a = &t->answer[row->candidate];
    memcpy(a->ids, row->ids, row->n_ids * sizeof *a->ids);
    a->n_ids = (int32_t)row->n_ids;
    a->finish = finish_of(row->finish);
    t->n_prompt = (int32_t)row->n_query;
    t->read_version = row->read_version;
    return RXT_OK;
}

/* The row of the request's id: the candidate that was chosen, or each of those that wait for it. */
static enum rxt_status find_rows(struct task *t, struct store *store, struct rxt_error *err)
{
    struct task_work *find = &t->write;
    for (uint32_t c = 0; c < BRIDGE_CANDIDATES; c++) {
        struct store_turn row;
        enum rxt_status st = store_turn_find(store, find->session.id, t->r.id, c, &row, err);
        if (c > 0 && st == RXT_ENOTFOUND)
            break;
        TRY(st);
        find->row = row;
        if (row.state == STORE_LIVE)
            break;
        if (row.state == STORE_UNDECIDED && t->r.verb == BRIDGE_TURN &&
            take_candidate(t, &row) != RXT_OK)
            return rxt_fail(err, RXT_EEXIST,
                            "this request id belongs to a turn with another "
                            "number of candidates");
    }
    find->row.query_text = find->row.answer_text = NULL;
    if (find->row.state == STORE_VOID)
        return rxt_fail(err, RXT_EEXPIRED,
                        "this turn was given up: no candidate was chosen, or it was voided");
    if (find->row.state == STORE_UNDECIDED && t->r.verb != BRIDGE_TURN)
        return rxt_fail(err, RXT_ENOTFOUND,
                        "the turn is from before a restart: send it again, then choose");
    if (find->row.state == STORE_UNDECIDED && find->row.candidate + 1 != (uint32_t)t->n_answer)
        return rxt_fail(err, RXT_EEXIST,
                        "this request id belongs to a turn with another number of candidates");
    if (find->row.state == STORE_UNDECIDED || find->row.n_ids == 0)
        return RXT_OK;
    find->found_ids = mem_dup(find->row.ids, find->row.n_ids * sizeof *find->found_ids);
    return find->found_ids ? RXT_OK : RXT_ENOMEM;
}

static enum rxt_status run_find(struct work *w, struct store *store, struct rxt_error *err)
{
    struct task *t = w->owner;
    if (t->r.on_busy == BRIDGE_BUSY_FORK && !t->fork_searched)
        TRY(store_session_get(store, t->r.tenant, t->r.to, &t->write.session, err));
    return find_rows(t, store, err);
}

static void find_done(struct work *w)
{
    struct task *t = w->owner;
    const struct store_turn *row = &t->write.row;
    bool in_fork = t->r.on_busy == BRIDGE_BUSY_FORK && !t->fork_searched;
    t->work_out = false;
    t->fork_searched = true;
    if (w->status == RXT_ENOTFOUND && in_fork) {
        bridge_activate(t->bridge, t->session); /* so it runs here */
        return;
    }
    if (w->status == RXT_OK && row->state == STORE_UNDECIDED) {
        candidates_wait(t);
        return;
    }
    if (w->status != RXT_OK) {
        task_fail(t, w->status, w->error.text);
        return;
    }
    if (t->r.verb == BRIDGE_CHOOSE && (uint32_t)t->r.candidate != row->candidate) {
        task_fail(t, RXT_EEXIST, "another candidate of this turn was chosen");
        return;
    }
    struct bridge_event e = {
        .kind = BRIDGE_DONE,
        .final = true,
        .session = in_fork ? t->r.to : t->session->name,
        .finish = finish_of(row->finish),
        .ids = t->write.found_ids,
        .candidate = (int32_t)row->candidate,
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
    bridge_post_read(t->bridge, &t->write.work, run_find, find_done, t);
}

/* ---- 6 to 8: remembered ----------------------------------------------------------------- */

static void enter_journaled(struct task *t)
{
    struct bridge *b = t->bridge;
    t->journaled_prev = b->youngest;
    if (b->youngest)
        b->youngest->journaled_next = t;
    else
        b->oldest = t;
    b->youngest = t;
    b->n_journaled++;
}

void turn_journaled(struct task *t)
{
    struct session *s = t->session;
    const struct answer *a = &t->answer[0];
    t->durable_us = t->bridge->clock();
    if (t->answered_us)
        t->usage.journal_us = t->durable_us - t->answered_us;
    s->row.head = t->version;
    s->row.used_us = t->write.row.wall_us;
    turn_note_id(s, t, STORE_LIVE);
    if (a->n_ids > 0) {
        memcpy(s->last_ids, a->ids, (size_t)a->n_ids * sizeof *a->ids);
        s->n_last = a->n_ids;
        s->n_last_query = t->n_prompt;
    }
    fault_point("journaled");
    task_unlink(&s->queue, &s->queue_last, t);
    *s->remember_last = t;
    s->remember_last = &t->next;
    enter_journaled(t);
    task_move(t, TASK_REMEMBER);
    event_done(t, false);
    bridge_activate(t->bridge, s);
    if (!s->held) {
        session_remember(s);
        return;
    }
    /* Held while the writer had it: a rewind gives it up, and must not wait for its memory. */
    event_failed(t, BRIDGE_MEMORY_FAILED, session_held_status(s), s->row.held_reason, NULL);
    task_end(t);
}

void turn_committed(struct task *t)
{
    uint64_t now = t->bridge->clock();
    t->usage.memory_us = now - t->durable_us;
    t->usage.lag_us = t->answered_us ? now - t->answered_us : t->usage.memory_us;
    task_move(t, TASK_COMMITTED);
    event_memory(t);
    task_move(t, TASK_APPLIED);
    task_end(t);
}
