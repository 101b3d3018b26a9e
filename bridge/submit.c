#define _DEFAULT_SOURCE /* getentropy */
#include "bridge/bridge_impl.h"

#include "kernels/base/mem.h"

#include <string.h>
#include <unistd.h>

/* ---- tickets ---------------------------------------------------------------------------- */

static struct sink **bucket_of(struct bridge *b, uint64_t ticket)
{
    return &b->ticket[ticket & (b->n_ticket - 1)]; /* tickets count up: they spread by themselves */
}

static void sink_enter(struct bridge *b, struct sink *s, struct task *t)
{
    struct sink **bucket = bucket_of(b, s->ticket);
    s->task = t;
    s->ticket_next = *bucket;
    *bucket = s;
    b->n_sink++;
}

void sinks_forget(struct task *t)
{
    struct bridge *b = t->bridge;
    for (struct sink *s = &t->sink; s; s = s->next) {
        struct sink **at = bucket_of(b, s->ticket);
        while (*at != s)
            at = &(*at)->ticket_next;
        *at = s->ticket_next;
        b->n_sink--;
    }
}

void bridge_cancel(struct bridge *b, uint64_t ticket)
{
    struct sink *s = *bucket_of(b, ticket);
    while (s && s->ticket != ticket)
        s = s->ticket_next;
    if (!s)
        return;
    s->task->cancelled = true;
    if (s->task->session)
        bridge_activate(b, s->task->session);
}

/* ---- requests --------------------------------------------------------------------------- */

static bool same_id(const struct task *t, const struct task *other)
{
    return memcmp(t->r.id, other->r.id, BRIDGE_ID_BYTES) == 0;
}

static struct task *running_twin(const struct session *s, const struct task *t)
{
    for (struct task *other = s->queue; other; other = other->next)
        if (same_id(t, other))
            return other;
    for (struct task *other = s->remember; other; other = other->next)
        if (same_id(t, other))
            return other;
    return s->undecided && same_id(t, s->undecided) ? s->undecided : NULL;
}

/* CHOOSE while the turn is here: the choice is made, or was. */
static enum rxt_status choose(struct task *turn, int32_t candidate, struct rxt_error *err)
{
    struct session *s = turn->session;
    if (turn->n_answer == 1)
        return rxt_fail(err, RXT_EEXIST, "this turn has one answer only");
    if (turn->chosen >= 0)
        return turn->answer[turn->state == TASK_REMEMBER ? 0 : turn->chosen].candidate == candidate
                   ? RXT_OK
                   : rxt_fail(err, RXT_EEXIST, "another candidate of this turn was chosen");
    if (turn->state != TASK_UNDECIDED)
        return rxt_fail(err, RXT_EBUSY, "the candidates are not ready yet");
    if (turn->work_out)
        return rxt_fail(err, RXT_EEXPIRED, "no candidate was chosen in time");
    if (candidate >= turn->n_answer)
        return rxt_fail(err, RXT_EINVAL, "candidate is %d: the turn has 0 to %d", candidate,
                        turn->n_answer - 1);
    turn->chosen = candidate;
    turn->decided_us = turn->bridge->clock();
    /* It goes before whatever waits: all of that may wait for this. */
    struct task **at = &s->queue;
    while (*at && ((*at)->state > TASK_LOADING || (*at)->work_out))
        at = &(*at)->next;
    if (*at)
        schedule_forget(*at);
    turn->next = *at;
    if (!*at)
        s->queue_last = &turn->next;
    *at = turn;
    bridge_activate(s->bridge, s);
    return RXT_OK;
}

/* The repeat listens along. What it has missed of the last event it hears by itself; the tokens so
 * far come to it in DONE. */
static enum rxt_status join(struct task *twin, struct task **task, struct rxt_error *err)
{
    struct task *t = *task;
    bool turn = twin->r.verb == BRIDGE_TURN;
    if (t->r.verb != twin->r.verb && !(turn && t->r.verb == BRIDGE_CHOOSE))
        return rxt_fail(err, RXT_EEXIST, "this request id belongs to another kind of request");
    struct sink *sink = mem_dup(&t->sink, sizeof t->sink);
    if (!sink)
        return RXT_ENOMEM;
    if (t->r.verb == BRIDGE_CHOOSE) {
        enum rxt_status st = choose(twin, t->r.candidate, err);
        if (st != RXT_OK) {
            mem_free(sink);
            return st;
        }
    }
    sink->late =
        twin->state == TASK_REMEMBER || (twin->state == TASK_UNDECIDED && t->r.verb == BRIDGE_TURN);
    twin->has_late |= sink->late;
    sink->next = twin->sink.next;
    twin->sink.next = sink;
    sink_enter(twin->bridge, sink, twin);
    bridge_activate(twin->bridge, twin->session);
    task_destroy(task);
    return RXT_OK;
}

uint64_t bridge_retry_after_us(const struct bridge *b)
{
    enum { LEAST = 10000, MOST = 60000000, UNKNOWN = 100000 };
    double us = b->turn_us * (1 + (double)b->n_task / b->cfg.max_live);
    return us <= 0 ? UNKNOWN : us < LEAST ? LEAST : us > MOST ? MOST : (uint64_t)us;
}

/* Tables are bounded: requests in all, and of one tenant; a repeat may listen even if they are
 * full. */
static enum rxt_status check_queue(const struct bridge *b, const struct tenant *x, bool repeat,
                                   struct rxt_error *err)
{
    const struct bridge_config *cfg = &b->cfg;
    if (b->n_sink >= (repeat ? 2 : 1) * cfg->max_queue)
        return rxt_fail(err, RXT_EBUSY, "%d requests are on their way, the limit is %d", b->n_sink,
                        cfg->max_queue);
    if (!repeat && x->n_task >= cfg->tenant.max_queue)
        return rxt_fail(err, RXT_EBUSY,
                        "%d requests of the tenant are on their way, the limit is %d", x->n_task,
                        cfg->tenant.max_queue);
    return RXT_OK;
}

static void enter(struct task *t)
{
    struct bridge *b = t->bridge;
    sink_enter(b, &t->sink, t);
    t->all_next = b->all;
    if (b->all)
        b->all->all_prev = t;
    b->all = t;
    b->n_task++;
}

/* Puts the task into its session's queue, or joins it with the one that it repeats. */
static enum rxt_status place(struct task **task, struct rxt_error *err)
{
    struct task *t = *task;
    struct session *s = t->session;
    struct bridge *b = t->bridge;
    struct task *twin = running_twin(s, t);
    TRY(check_queue(b, s->tenant, twin != NULL, err));
    if (twin)
        return join(twin, task, err);
    if (s->queue && t->r.on_busy == BRIDGE_BUSY_REJECT)
        return rxt_fail(err, RXT_EBUSY, "session \"%.100s\" is answering", s->name);
    if (s->queue && t->r.on_busy == BRIDGE_BUSY_FORK && t->r.verb == BRIDGE_TURN && !t->to_fork) {
        t->to_fork = true;
        TRY(session_find(b, t->r.tenant, t->r.to, &t->session));
        bridge_activate(b, t->session); /* it may have been made for nothing */
        return place(task, err);
    }
    if (t->r.verb == BRIDGE_ERASE)
        exports_unwanted(s);
    enter(t);
    s->tenant->n_task++;
    *s->queue_last = t;
    s->queue_last = &t->next;
    deadline_note(b, deadline_of(t, &(const char *){NULL}));
    bridge_activate(b, s);
    return RXT_OK;
}

/* LIST is of no session: it belongs to its tenant itself. */
static enum rxt_status submit_list(struct task *t, struct rxt_error *err)
{
    struct bridge *b = t->bridge;
    struct tenant *x = NULL;
    TRY(tenant_find(b, t->r.tenant, &x));
    x->n_session++;
    enum rxt_status st = check_queue(b, x, false, err);
    if (st == RXT_OK)
        st = list_prepare(t, err);
    if (st != RXT_OK) {
        tenant_leave(x, b);
        return st;
    }
    x->n_task++;
    t->listing->tenant = x;
    enter(t);
    list_start(t);
    return RXT_OK;
}

enum rxt_status bridge_submit(struct bridge *b, const struct bridge_request *r,
                              bridge_on_event on_event, void *user, uint64_t *ticket,
                              struct rxt_error *err)
{
    static const uint8_t no_id[BRIDGE_ID_BYTES];
    struct task *t = NULL;
    TRY(task_create(&t, b, r, err));
    enum rxt_status st = RXT_OK;
    t->sink = (struct sink){.on_event = on_event, .user = user, .ticket = ++b->next_ticket};
    if (ticket)
        *ticket = t->sink.ticket;
    if (memcmp(t->r.id, no_id, sizeof no_id) == 0 && getentropy(t->r.id, sizeof t->r.id) != 0) {
        st = rxt_fail(err, RXT_EIO, "the system gave no random bytes for a request id");
    } else if (r->verb == BRIDGE_LIST) {
        st = submit_list(t, err);
    } else {
        st = session_find(b, r->tenant, r->session, &t->session);
        if (st == RXT_OK) {
            bridge_activate(b, t->session); /* it may have been made for nothing */
            st = place(&t, err);
        }
    }
    if (st != RXT_OK)
        task_destroy(&t);
    return st;
}

/* ---- for tools -------------------------------------------------------------------------- */

struct call {
    bridge_on_event on_event;
    void *user;
    bool final;
    enum rxt_status status;
    struct rxt_error *err;
};

static void on_call_event(void *user, const struct bridge_event *e)
{
    struct call *c = user;
    if (e->status != RXT_OK && c->status == RXT_OK)
        c->status = rxt_fail(c->err, e->status, "%s", e->error);
    c->final |= e->final;
    if (c->on_event)
        c->on_event(c->user, e);
}

enum rxt_status bridge_call(struct bridge *b, const struct bridge_request *r,
                            bridge_on_event on_event, void *user, struct rxt_error *err)
{
    struct call c = {.on_event = on_event, .user = user, .err = err};
    TRY(bridge_submit(b, r, on_call_event, &c, NULL, err));
    while (!c.final)
        if (!bridge_step(b))
            bridge_wait(b, 1000000);
    return c.status;
}
