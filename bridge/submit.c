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
    return NULL;
}

/* The repeat listens along; the tokens so far come to it in the DONE event. */
static enum rxt_status join(struct task *twin, struct task **t, struct rxt_error *err)
{
    if (twin->r.verb != (*t)->r.verb)
        return rxt_fail(err, RXT_EEXIST, "this request id belongs to another kind of request");
    struct sink *sink = mem_dup(&(*t)->sink, sizeof(*t)->sink);
    if (!sink)
        return RXT_ENOMEM;
    sink->next = twin->sink.next;
    twin->sink.next = sink;
    sink_enter(twin->bridge, sink, twin);
    task_destroy(t);
    return RXT_OK;
}

enum rxt_status bridge_submit(struct bridge *b, const struct bridge_request *r,
                              bridge_on_event on_event, void *user, uint64_t *ticket,
                              struct rxt_error *err)
{
    static const uint8_t no_id[BRIDGE_ID_BYTES];
    struct session *s = NULL;
    struct task *t = NULL;
    TRY(task_create(&t, b, r, err));
    enum rxt_status st = session_find(b, r->tenant, r->session, &s);
    if (st != RXT_OK)
        goto fail;
    t->session = s;
    t->sink = (struct sink){.on_event = on_event, .user = user, .ticket = ++b->next_ticket};
    if (ticket)
        *ticket = t->sink.ticket;
    if (memcmp(t->r.id, no_id, sizeof no_id) == 0 && getentropy(t->r.id, sizeof t->r.id) != 0) {
        st = rxt_fail(err, RXT_EIO, "the system gave no random bytes for a request id");
        goto fail;
    }
    struct task *twin = running_twin(s, t);
    if (b->n_sink >= (twin ? 2 : 1) * b->cfg.max_queue) {
        st = rxt_fail(err, RXT_EBUSY, "%d requests are on their way already", b->n_sink);
        goto fail;
    }
    if (twin) {
        st = join(twin, &t, err);
        if (st != RXT_OK)
            goto fail;
        return RXT_OK;
    }
    if (s->queue && r->on_busy == BRIDGE_BUSY_REJECT) {
        st = rxt_fail(err, RXT_EBUSY, "session \"%.100s\" is answering", s->name);
        goto fail;
    }
    sink_enter(b, &t->sink, t);
    *s->queue_last = t;
    s->queue_last = &t->next;
    b->n_task++;
    bridge_activate(b, s);
    return RXT_OK;
fail:
    task_destroy(&t);
    if (s)
        bridge_activate(b, s); /* it may have been made for nothing */
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
