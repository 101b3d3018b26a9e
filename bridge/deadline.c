#include "bridge/bridge_impl.h"

#include <stdio.h>

static void keep_earlier(uint64_t *at, const char **key, const struct task *t, uint64_t limit_us,
                         const char *name)
{
    uint64_t end = t->submitted_us + limit_us;
    if (limit_us == 0 || end < limit_us || end >= *at)
        return;
    *at = end;
    *key = name;
}

uint64_t deadline_of(const struct task *t, const char **key)
{
    const struct bridge_deadline *d = &t->r.deadline;
    uint64_t at = NEVER_US;
    *key = NULL;
    if (t->work_out)
        return NEVER_US; /* it is with the writer: too late to leave nothing */
    if (t->state == TASK_UNDECIDED)
        return t->chosen < 0 ? t->expires_us : NEVER_US;
    if (t->state > TASK_DECODE)
        return NEVER_US;
    keep_earlier(&at, key, t, d->total_us, "total");
    if (t->state <= TASK_PREFILL)
        keep_earlier(&at, key, t, d->first_token_us, "first_token");
    if (t->state <= TASK_LOADING)
        keep_earlier(&at, key, t, d->queue_us, "queue");
    if (t->waits_memory)
        keep_earlier(&at, key, t, d->memory_us, "memory");
    return at;
}

void deadline_note(struct bridge *b, uint64_t at_us)
{
    if (at_us < b->next_deadline_us)
        b->next_deadline_us = at_us;
}

static void pass(struct task *t, const char *key)
{
    char sentence[128];
    if (t->state == TASK_UNDECIDED) {
        candidates_expire(t);
        return;
    }
    if (t->state == TASK_DECODE && t->r.on_cancel == BRIDGE_CANCEL_COMMIT && t->n_answer == 1) {
        task_cancel(t); /* what was said is the answer */
        return;
    }
    (void)snprintf(sentence, sizeof sentence,
                   "the %s deadline passed; nothing of the request remains", key);
    event_failed(t, BRIDGE_ERROR, RXT_EDEADLINE, sentence, key);
    task_end(t);
}

void deadline_retry(struct session *s, uint64_t at_us)
{
    struct bridge *b = s->bridge;
    s->retry_us = at_us;
    s->retry_next = b->retry;
    b->retry = s;
    deadline_note(b, at_us);
}

static bool retry_updates(struct bridge *b, uint64_t now)
{
    bool any = false;
    for (struct session **at = &b->retry; *at;) {
        struct session *s = *at;
        if (s->retry_us > now) {
            deadline_note(b, s->retry_us);
            at = &s->retry_next;
            continue;
        }
        *at = s->retry_next;
        s->retry_us = 0;
        bridge_activate(b, s);
        any = true;
    }
    return any;
}

bool deadline_check(struct bridge *b)
{
    if (b->next_deadline_us == NEVER_US)
        return false;
    uint64_t now = b->clock();
    if (now < b->next_deadline_us)
        return false;
    b->next_deadline_us = NEVER_US;
    bool any = retry_updates(b, now);
    for (struct task *t = b->all, *next; t; t = next) {
        const char *key = NULL;
        uint64_t at = deadline_of(t, &key);
        next = t->all_next;
        if (at > now) {
            deadline_note(b, at);
            continue;
        }
        pass(t, key);
        any = true;
    }
    return any;
}
