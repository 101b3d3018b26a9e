/* Who gets slots, bytes and the memory lane, and when. */
#include "bridge/bridge_impl.h"

#include "kernels/base/mem.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define OLD_US 1000000u /* an update that has waited so long goes first (design 3) */
#define QUANTUM 16      /* tokens a round gives: less than a turn, so tenants go one by one */
#define LANE_AHEAD 2    /* batches of updates on the lane: one runs, the next one is ready */

/* ---- tenants ---------------------------------------------------------------------------- */

static struct tenant **tenant_bucket(struct bridge *b, const char *name)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (const char *p = name; *p; p++)
        h = (h ^ (unsigned char)*p) * 16777619u;
    return &b->tenant[(h ^ h >> 16) & (BRIDGE_BUCKETS - 1)];
}

enum rxt_status tenant_find(struct bridge *b, const char *name, struct tenant **out)
{
    struct tenant **bucket = tenant_bucket(b, name);
    for (struct tenant *t = *bucket; t; t = t->chain)
        if (strcmp(t->name, name) == 0) {
            *out = t;
            return RXT_OK;
        }
    struct tenant *t = mem_alloc(sizeof *t);
    if (!t)
        return RXT_ENOMEM;
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    t->ready_last = &t->ready;
    t->bytes_last = &t->bytes;
    t->update_last = &t->update;
    t->chain = *bucket;
    *bucket = t;
    *out = t;
    return RXT_OK;
}

void tenant_leave(struct tenant *t, struct bridge *b)
{
    if (--t->n_session > 0)
        return;
    assert(!t->ring_next);
    struct tenant **at = tenant_bucket(b, t->name);
    while (*at != t)
        at = &(*at)->chain;
    *at = t->chain;
    mem_free(t);
}

static void list_one_more(struct bridge *b, struct tenant *t)
{
    if (t->n_listed++ > 0)
        return;
    if (!b->ring) {
        t->ring_prev = t->ring_next = t;
        b->ring = t;
        return;
    }
    /* Behind all others: just before the one whose turn it is. */
    t->ring_next = b->ring;
    t->ring_prev = b->ring->ring_prev;
    t->ring_prev->ring_next = t->ring_next->ring_prev = t;
}

static void list_one_less(struct bridge *b, struct tenant *t)
{
    if (--t->n_listed > 0)
        return;
    if (b->ring == t)
        b->ring = t->ring_next == t ? NULL : t->ring_next;
    t->ring_prev->ring_next = t->ring_next;
    t->ring_next->ring_prev = t->ring_prev;
    t->ring_prev = t->ring_next = NULL;
    if (t->n_task == 0)
        t->balance = 0; /* what was spent when nobody else wanted it is nobody's loss */
}

void schedule_charge(struct tenant *t, int64_t tokens)
{
    t->balance -= tokens;
}

/* ---- lists ------------------------------------------------------------------------------ */

void schedule_task(struct task *t, enum task_list list)
{
    struct bridge *b = t->bridge;
    struct tenant *x = t->session->tenant;
    if (t->listed == list)
        return;
    schedule_forget(t);
    struct task **first = list == LIST_READY ? &x->ready : &x->bytes;
    struct task ***last = list == LIST_READY ? &x->ready_last : &x->bytes_last;
    t->listed = list;
    if (t->staged) { /* it has been first already */
        t->list_next = *first;
        if (!*first)
            *last = &t->list_next;
        *first = t;
    } else {
        t->list_next = NULL;
        **last = t;
        *last = &t->list_next;
    }
    b->n_ready += list == LIST_READY;
    list_one_more(b, x);
}

void schedule_forget(struct task *t)
{
    struct bridge *b = t->bridge;
    struct tenant *x = t->session->tenant;
    if (t->listed == LIST_NONE)
        return;
    struct task **at = t->listed == LIST_READY ? &x->ready : &x->bytes;
    struct task ***last = t->listed == LIST_READY ? &x->ready_last : &x->bytes_last;
    while (*at != t)
        at = &(*at)->list_next;
    *at = t->list_next;
    if (*last == &t->list_next)
        *last = at;
    b->n_ready -= t->listed == LIST_READY;
    t->listed = LIST_NONE;
    list_one_less(b, x);
}

void schedule_update(struct session *s)
{
    struct tenant *x = s->tenant;
    if (s->update_listed)
        return;
    s->update_listed = true;
    s->update_next = NULL;
    *x->update_last = s;
    x->update_last = &s->update_next;
    list_one_more(s->bridge, x);
}

void schedule_update_forget(struct session *s)
{
    struct tenant *x = s->tenant;
    if (!s->update_listed)
        return;
    struct session **at = &x->update;
    while (*at != s)
        at = &(*at)->update_next;
    *at = s->update_next;
    if (x->update_last == &s->update_next)
        x->update_last = at;
    s->update_listed = false;
    list_one_less(s->bridge, x);
}

/* ---- deficit round robin ---------------------------------------------------------------- */

typedef bool (*wants)(const struct tenant *t);

static bool wants_slots(const struct tenant *t)
{
    return t->ready && room_tenant_has(t->ready);
}

static bool wants_bytes(const struct tenant *t)
{
    return t->bytes && room_tenant_has(t->bytes);
}

static bool wants_lane(const struct tenant *t)
{
    return t->update != NULL;
}

/* An update that somebody waits for: the session's next turn. */
static struct session *urgent_update(const struct tenant *t)
{
    struct session *s = t->update;
    while (s && !s->queue)
        s = s->update_next;
    return s;
}

static bool wants_lane_urgently(const struct tenant *t)
{
    return urgent_update(t) != NULL;
}

/* The next tenant in the ring that wants it and has something to spend. When all of those have
 * spent theirs a round ends: everybody in the ring gets the same, as much as the first of them
 * needs. Credit does not pile up beyond a round. */
static struct tenant *next_tenant(struct bridge *b, wants want)
{
    for (;;) {
        bool any = false;
        int64_t best = INT64_MIN;
        struct tenant *t = b->ring;
        do {
            if (!t)
                return NULL;
            if (!want(t))
                continue;
            if (t->balance > 0) {
                b->ring = t;
                return t;
            }
            any = true;
            if (t->balance > best)
                best = t->balance;
        } while ((t = t->ring_next) != b->ring);
        if (!any)
            return NULL;
        int64_t share = (-best / QUANTUM + 1) * QUANTUM;
        do {
            t->balance = t->balance + share < QUANTUM ? t->balance + share : QUANTUM;
        } while ((t = t->ring_next) != b->ring);
    }
}

/* Lets the tenants that wait for one thing have it, in turn, until it is short. */
static bool serve(struct bridge *b, wants want, enum task_list list, bool *is_short)
{
    bool any = false;
    *is_short = false;
    for (struct tenant *t; (t = next_tenant(b, want)) != NULL; any = true) {
        struct task *first = list == LIST_READY ? t->ready : t->bytes;
        if (!verb_go(first)) {
            *is_short = true;
            return any;
        }
    }
    return any;
}

static struct session *oldest_update(const struct bridge *b)
{
    struct session *oldest = NULL;
    const struct tenant *t = b->ring;
    if (!t)
        return NULL;
    do {
        struct session *s = t->update;
        if (s && (!oldest || s->remember->durable_us < oldest->remember->durable_us))
            oldest = s;
    } while ((t = t->ring_next) != b->ring);
    return oldest;
}

static struct session *next_update(struct bridge *b)
{
    struct session *s = oldest_update(b);
    if (!s || b->clock() - s->remember->durable_us >= OLD_US)
        return s;
    struct tenant *t = next_tenant(b, wants_lane_urgently);
    if (t)
        return urgent_update(t);
    return next_tenant(b, wants_lane)->update;
}

static bool serve_updates(struct bridge *b)
{
    bool any = false;
    while (b->n_update < LANE_AHEAD * b->cfg.n_spare) {
        struct session *s = next_update(b);
        if (!s)
            break;
        schedule_update_forget(s);
        schedule_charge(s->tenant, s->remember->answer[0].n_ids);
        session_update(s);
        any = true;
    }
    return any;
}

bool schedule_run(struct bridge *b)
{
    bool any = serve_updates(b), slots_short = false, bytes_short = false;
    /* Where bytes are short, those who wait for nothing else must not always come second. */
    if (b->bytes_first)
        any |= serve(b, wants_bytes, LIST_BYTES, &bytes_short);
    any |= serve(b, wants_slots, LIST_READY, &slots_short);
    if (!b->bytes_first)
        any |= serve(b, wants_bytes, LIST_BYTES, &bytes_short);
    b->bytes_first = bytes_short;
    return any;
}
