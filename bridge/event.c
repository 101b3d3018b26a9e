#include "bridge/bridge_impl.h"

#include <stdio.h>
#include <string.h>

static void deliver(struct task *t, struct bridge_event *e)
{
    if (!e->session)
        e->session = t->session ? t->session->name : t->r.session;
    for (struct sink *s = &t->sink; s; s = s->next)
        if (s->on_event && !s->late)
            s->on_event(s->user, e);
}

void event_accepted(struct task *t)
{
    const struct bridge *b = t->bridge;
    int32_t n_most = t->limit - t->n_prompt;
    struct bridge_event e = {
        .kind = BRIDGE_ACCEPTED,
        .price_tokens = t->limit,
        .price_bytes = room_price(b, t->n_answer),
        .price_us = (uint64_t)(b->token_us * n_most),
        .position = b->n_ready,
    };
    t->accepted = true;
    deliver(t, &e);
}

void event_token(struct answer *a, int32_t id, const char *text, size_t bytes)
{
    struct bridge_event e = {
        .kind = BRIDGE_TOKEN,
        .candidate = a->candidate,
        .token = id,
        .text = text,
        .text_bytes = bytes,
    };
    deliver(a->task, &e);
}

static void fill_done(const struct task *t, struct bridge_event *e)
{
    const struct answer *a = &t->answer[0];
    *e = (struct bridge_event){
        .kind = BRIDGE_DONE,
        .finish = a->finish,
        .ids = a->ids,
        .candidate = a->candidate,
        .read_version = t->read_version,
        .pending_version = t->version,
        .usage = t->usage,
    };
    if (t->r.verb == BRIDGE_GET) {
        e->ids = t->session->last_ids;
        e->usage.n_query = t->session->n_last_query;
        e->usage.n_answer = t->session->n_last - t->session->n_last_query;
    }
}

void event_done(struct task *t, bool final)
{
    struct bridge_session_info info;
    struct bridge_candidate all[BRIDGE_CANDIDATES];
    struct bridge_event e;
    if (t->r.verb == BRIDGE_FORK) /* the new one */
        session_row_info(&t->write.session, &info);
    else
        session_info(t->session, &info);
    fill_done(t, &e);
    e.final = final;
    e.info = &info;
    if (t->n_answer > 1 && t->chosen < 0) {
        candidates_list(t, all);
        e.answer = all;
        e.n_candidate = t->n_answer;
    }
    deliver(t, &e);
}

void event_undecided(struct task *t)
{
    struct bridge_candidate all[BRIDGE_CANDIDATES];
    uint64_t now = t->bridge->clock();
    candidates_list(t, all);
    struct bridge_event e = {
        .kind = BRIDGE_UNDECIDED,
        .answer = all,
        .n_candidate = t->n_answer,
        .read_version = t->read_version,
        .usage = {.n_query = t->n_prompt},
        .expires_us = t->expires_us > now ? t->expires_us - now : 0,
    };
    deliver(t, &e);
}

/* Only the late ones hear it: what the others have had already. */
void event_late(struct task *t)
{
    if (!t->has_late)
        return;
    t->has_late = false;
    for (struct sink *s = &t->sink; s; s = s->next)
        s->late = !s->late;
    if (t->state == TASK_UNDECIDED)
        event_undecided(t);
    else
        event_done(t, false);
    for (struct sink *s = &t->sink; s; s = s->next)
        s->late = false;
}

void event_stored(struct task *t, const struct bridge_event *e)
{
    struct bridge_session_info info;
    session_info(t->session, &info);
    struct bridge_event copy = *e;
    copy.info = &info;
    deliver(t, &copy);
}

void event_list(struct task *t)
{
    struct bridge_event e = {
        .kind = BRIDGE_DONE,
        .final = true,
        .list = t->listing->info,
        .n_list = t->listing->n,
        .more = t->listing->more,
    };
    deliver(t, &e);
}

void event_diff(struct task *t, const struct stm_slot_diff *diff)
{
    struct bridge_event e = {.kind = BRIDGE_DONE, .final = true, .diff = diff};
    deliver(t, &e);
}

void event_memory(struct task *t)
{
    struct bridge_session_info info;
    session_info(t->session, &info);
    struct bridge_event e = {
        .kind = BRIDGE_MEMORY,
        .final = true,
        .pending_version = t->version,
        .read_version = t->read_version,
        .candidate = t->answer[0].candidate,
        .usage = t->usage,
        .info = &info,
    };
    deliver(t, &e);
}

const char *bridge_device_failure(const struct bridge *b)
{
    return backend_failure(rxt_model_backend(b->model));
}

/* What may go better later, and when to try. */
static uint64_t retry_after(const struct bridge *b, enum rxt_status st)
{
    switch (st) {
    case RXT_EBUSY:
    case RXT_EDEADLINE:
        return bridge_retry_after_us(b);
    case RXT_ENOMEM:
    case RXT_EFULL:
    case RXT_EIO:
    case RXT_EDEVICE:
        return 1000000;
    default:
        return 0;
    }
}

void event_failed(struct task *t, enum bridge_event_kind kind, enum rxt_status st,
                  const char *sentence, const char *key)
{
    const char *failure = bridge_device_failure(t->bridge);
    char device[200];
    if (failure && (st == RXT_EDEVICE || st == RXT_ENOMEM)) { /* it gives no memory either */
        st = RXT_EDEVICE;
        (void)snprintf(device, sizeof device,
                       "the device failed: %.80s; what is journaled is not lost, the next start of "
                       "the process goes on with it",
                       failure);
        sentence = device;
    }
    struct bridge_event e = {
        .kind = kind,
        .final = true,
        .candidate = t->chosen < 0 ? 0 : t->chosen,
        .read_version = kind == BRIDGE_MEMORY_FAILED ? t->session->version : 0,
        .status = st,
        .error = sentence && *sentence ? sentence : rxt_status_text(st),
        .key = key,
        .retry_after_us = kind == BRIDGE_ERROR ? retry_after(t->bridge, st) : 0,
    };
    deliver(t, &e);
}

void session_info(const struct session *s, struct bridge_session_info *out)
{
    *out = (struct bridge_session_info){
        .state = s->held                        ? BRIDGE_HELD
                 : s->phase != SESSION_RESIDENT ? BRIDGE_COLD
                 : s->remember                  ? BRIDGE_REMEMBERING
                 : s->queue && s->queue->read   ? BRIDGE_ANSWERING
                                                : BRIDGE_RESIDENT,
        .version = s->version,
        .n_turn = s->row.head,
        .has_hash = s->phase == SESSION_RESIDENT,
        .stm_dtype = (enum dtype)s->row.dtype,
        .seed = s->row.seed,
        .mixed_class = (s->row.flags & STORE_MIXED_CLASS) != 0,
        .origin_version = s->row.origin_version,
        .created_us = s->row.created_us,
        .used_us = s->row.used_us,
    };
    (void)snprintf(out->session, sizeof out->session, "%s", s->name);
    (void)snprintf(out->held_reason, sizeof out->held_reason, "%s", s->row.held_reason);
    (void)snprintf(out->origin, sizeof out->origin, "%s", s->row.origin);
    memcpy(out->stm_hash, s->hash, sizeof out->stm_hash);
}

void session_row_info(const struct store_session *row, struct bridge_session_info *out)
{
    struct session s = {.phase = SESSION_COLD, .row = *row};
    memcpy(s.name, row->name, sizeof s.name);
    s.version = store_session_newest(row);
    s.held = (row->flags & STORE_HELD) != 0;
    session_info(&s, out);
}
