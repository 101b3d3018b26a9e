/* Several answers of one turn: journaled together as undecided, then one of them is chosen and
 * becomes the turn, or time passes and none does (design 5). */
#include "bridge/bridge_impl.h"

#include <string.h>

void candidates_list(const struct task *t, struct bridge_candidate out[BRIDGE_CANDIDATES])
{
    for (int32_t i = 0; i < t->n_answer; i++)
        out[i] = (struct bridge_candidate){
            .finish = t->answer[i].finish,
            .ids = t->answer[i].ids,
            .n_answer = t->answer[i].n_ids - t->n_prompt,
        };
}

/* ---- undecided -------------------------------------------------------------------------- */

/* All of them or none. */
static enum rxt_status run_put(struct work *w, struct store *store, struct rxt_error *err)
{
    struct task *t = w->owner;
    enum rxt_status st = RXT_OK;
    TRY(store_batch_begin(store, err));
    for (int32_t i = 0; i < t->n_answer && st == RXT_OK; i++) {
        turn_fill_row(t, &t->answer[i], &t->write.row);
        t->write.row.state = STORE_UNDECIDED;
        t->write.row.version = 0;
        st = store_turn_put(store, t->write.session.id, &t->write.row, err);
    }
    if (st == RXT_OK)
        return store_batch_commit(store, err);
    store_batch_abort(store);
    return st;
}

static void put_done(struct work *w)
{
    struct task *t = w->owner;
    struct session *s = t->session;
    t->work_out = false;
    if (w->status != RXT_OK) {
        task_fail(t, w->status, w->error.text);
        return;
    }
    t->usage.journal_us = t->bridge->clock() - t->answered_us;
    turn_note_id(s, t, STORE_UNDECIDED);
    fault_point("undecided");
    candidates_wait(t);
}

void candidates_journal(struct task *t)
{
    struct session *s = t->session;
    turn_leave(t);
    if (s->held) { /* since it began; the store may not know yet */
        task_fail(t, session_held_status(s), s->row.held_reason);
        return;
    }
    task_move(t, TASK_JOURNAL);
    t->write.session = s->row;
    t->work_out = true;
    t->write.work.alone = true;
    bridge_post(t->bridge, &t->write.work, run_put, put_done, t);
}

void candidates_wait(struct task *t)
{
    struct session *s = t->session;
    struct bridge *b = t->bridge;
    if (t->state == TASK_LOADING) /* found in the journal */
        task_move(t, TASK_JOURNAL);
    schedule_forget(t);
    task_move(t, TASK_UNDECIDED);
    task_unlink(&s->queue, &s->queue_last, t);
    s->undecided = t;
    t->expires_us = b->clock() + b->cfg.choose_us;
    deadline_note(b, t->expires_us);
    event_undecided(t);
    bridge_activate(b, s);
}

/* ---- decided ---------------------------------------------------------------------------- */

static enum rxt_status run_choose(struct work *w, struct store *store, struct rxt_error *err)
{
    struct task *t = w->owner;
    return store_turn_choose(store, t->write.session.id, t->r.id, (uint32_t)t->chosen, t->version,
                             err);
}

static void choose_done(struct work *w)
{
    struct task *t = w->owner;
    struct session *s = t->session;
    t->work_out = false;
    if (w->status != RXT_OK) {
        task_fail(t, w->status, w->error.text);
        return;
    }
    s->undecided = NULL;
    struct answer first = t->answer[0];
    t->answer[0] = t->answer[t->chosen];
    t->answer[t->chosen] = first;
    t->usage.n_answer = t->answer[0].n_ids - t->n_prompt;
    t->answered_us = t->decided_us;
    turn_journaled(t);
}

void candidates_choose(struct task *t)
{
    struct session *s = t->session;
    schedule_forget(t);
    if (s->held) { /* since they were answered; their rows stay undecided */
        task_fail(t, session_held_status(s), s->row.held_reason);
        return;
    }
    task_move(t, TASK_JOURNAL);
    t->version = s->row.head + 1;
    t->write.session = s->row;
    t->work_out = true;
    t->write.work.alone = false;
    bridge_post(t->bridge, &t->write.work, run_choose, choose_done, t);
}

static enum rxt_status run_expire(struct work *w, struct store *store, struct rxt_error *err)
{
    struct task *t = w->owner;
    return store_turn_expire(store, t->write.session.id, t->r.id, err);
}

/* Nobody chose: ERROR, and nothing is remembered. If the rows could not be voided they stay
 * undecided, which is as good: no memory was made of them. */
static void expire_done(struct work *w)
{
    struct task *t = w->owner;
    t->work_out = false;
    if (t->cancelled)
        event_failed(t, BRIDGE_CANCELLED, RXT_ECANCELLED, NULL, NULL);
    else
        event_failed(t, BRIDGE_ERROR, RXT_EEXPIRED,
                     "no candidate was chosen in time; nothing was remembered", NULL);
    task_end(t);
}

void candidates_expire(struct task *t)
{
    t->expires_us = 0; /* too late for CHOOSE */
    t->write.session = t->session->row;
    t->work_out = true;
    t->write.work.alone = false;
    bridge_post(t->bridge, &t->write.work, run_expire, expire_done, t);
}
