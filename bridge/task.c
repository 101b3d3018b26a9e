#include "bridge/bridge_impl.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/sdt.h>

#define BIT(state) (1u << (state))

/* The transition table. A task may end in any state; what that means for the session is decided by
 * whether JOURNAL was passed (S6). Verbs go from LOADING to JOURNAL. */
static const unsigned may_follow[] = {
    [TASK_QUEUED] = BIT(TASK_LOADING),
    [TASK_LOADING] = BIT(TASK_PREFILL) | BIT(TASK_JOURNAL),
    [TASK_PREFILL] = BIT(TASK_DECODE) | BIT(TASK_JOURNAL),
    [TASK_DECODE] = BIT(TASK_JOURNAL),
    [TASK_JOURNAL] = BIT(TASK_REMEMBER) | BIT(TASK_UNDECIDED),
    [TASK_REMEMBER] = BIT(TASK_COMMITTED),
    [TASK_COMMITTED] = BIT(TASK_APPLIED),
    [TASK_APPLIED] = 0,
    [TASK_UNDECIDED] = BIT(TASK_JOURNAL),
};

void task_unstage(struct task *t)
{
    t->bridge->n_staged -= t->staged;
    t->staged = false;
}

void task_move(struct task *t, enum task_state to)
{
    bool legal = may_follow[t->state] & BIT(to);
    assert(legal);
    (void)legal;
    /* For tracers: bpftrace calls it usdt:rxtd:rxt:state; task, state it moves to, verb. */
    DTRACE_PROBE3(rxt, state, t, (int)to, t->r.verb);
    t->state = to;
    if (to >= TASK_PREFILL)
        task_unstage(t);
}

void task_unlink(struct task **first, struct task ***last, struct task *t)
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

void task_end(struct task *t)
{
    struct session *s = t->session;
    struct bridge *b = t->bridge;
    task_unstage(t);
    if (s) {
        turn_leave(t);
        schedule_forget(t);
        task_unlink(&s->queue, &s->queue_last, t);
        task_unlink(&s->remember, &s->remember_last, t);
        if (s->undecided == t)
            s->undecided = NULL;
        s->tenant->n_task--;
        bridge_activate(b, s);
    } else {
        t->listing->tenant->n_task--;
        tenant_leave(t->listing->tenant, b);
    }
    if (t->state >= TASK_REMEMBER && t->state <= TASK_APPLIED) {
        *(t->journaled_prev ? &t->journaled_prev->journaled_next : &b->oldest) = t->journaled_next;
        *(t->journaled_next ? &t->journaled_next->journaled_prev : &b->youngest) =
            t->journaled_prev;
        b->n_journaled--;
    }
    if (t->all_prev)
        t->all_prev->all_next = t->all_next;
    else
        b->all = t->all_next;
    if (t->all_next)
        t->all_next->all_prev = t->all_prev;
    b->n_task--;
    if (t->r.verb == BRIDGE_DIFF)
        diff_ended(t);
    if (t->waits_erase) { /* an export that never began */
        export_waits(t, false);
        verbs_look_again(b, BRIDGE_ERASE);
    }
    sinks_forget(t);
    task_destroy(&t);
}

void task_fail(struct task *t, enum rxt_status st, const char *sentence)
{
    event_failed(t, BRIDGE_ERROR, st, sentence, NULL);
    task_end(t);
}

void task_cancel(struct task *t)
{
    bool commit =
        t->r.on_cancel == BRIDGE_CANCEL_COMMIT && t->state == TASK_DECODE && t->n_answer == 1;
    if (commit) {
        t->answer[0].finish = RXT_FINISH_CANCEL;
        turn_answered(t);
        return;
    }
    if (t->state == TASK_UNDECIDED) {
        candidates_expire(t);
        return;
    }
    event_failed(t, BRIDGE_CANCELLED, RXT_ECANCELLED, NULL, NULL);
    task_end(t);
}

static enum rxt_status refuse(struct task *t, const char *fmt, uint64_t is, uint64_t want)
{
    struct rxt_error err;
    (void)snprintf(err.text, sizeof err.text, fmt, is, want);
    task_fail(t, RXT_ESTALE, err.text);
    return RXT_ESTALE;
}

enum rxt_status task_conditions(struct task *t)
{
    struct session *s = t->session;
    const struct bridge_request *r = &t->r;
    bool pending = s->remember || s->undecided;
    t->waits_memory = false;
    if (s->held && !r->dry_run) {
        enum rxt_status st = session_held_status(s);
        task_fail(t, st, s->row.held_reason);
        return st;
    }
    if (pending && r->on_stale == BRIDGE_STALE_REJECT)
        return refuse(t, "version %" PRIu64 " is current, %" PRIu64 " is being made", s->version,
                      s->row.head + (s->undecided != NULL));
    /* A second set of candidates would have to wait for the first one to be decided anyway. */
    t->waits_memory = (pending && r->on_stale == BRIDGE_STALE_WAIT) ||
                      (s->undecided && t->n_answer > 1) || (pending && r->min_version > s->version);
    if (t->waits_memory)
        return RXT_EBUSY;
    if (r->if_version != BRIDGE_HEAD && r->if_version != s->version)
        return refuse(t, "version is %" PRIu64 ", asked for %" PRIu64, s->version, r->if_version);
    if (r->min_version > s->version)
        return refuse(t, "version is %" PRIu64 ", at least %" PRIu64 " was asked for", s->version,
                      r->min_version);
    return RXT_OK;
}
