#include "bridge/bridge_impl.h"

#include <stdio.h>
#include <string.h>

static void deliver(struct task *t, struct bridge_event *e)
{
    e->session = t->r.session;
    for (struct sink *s = &t->sink; s; s = s->next)
        if (s->on_event)
            s->on_event(s->user, e);
}

void event_accepted(struct task *t)
{
    const struct rxt_info *info = rxt_model_info(t->bridge->model);
    struct bridge_event e = {
        .kind = BRIDGE_ACCEPTED,
        .price_tokens = t->limit,
        .price_bytes = info->stm_bytes + 2 * info->read_bytes + info->slot_bytes,
    };
    deliver(t, &e);
}

void event_token(struct task *t, int32_t id, const char *text, size_t bytes)
{
    struct bridge_event e = {.kind = BRIDGE_TOKEN, .token = id, .text = text, .text_bytes = bytes};
    deliver(t, &e);
}

void event_done(struct task *t, bool final)
{
    struct bridge_session_info info;
    session_info(t->session, &info);
    struct bridge_event e = {
        .kind = BRIDGE_DONE,
        .final = final,
        .finish = t->finish,
        .ids = t->ids,
        .read_version = t->read_version,
        .pending_version = t->version,
        .usage = t->usage,
        .info = &info,
    };
    if (t->r.verb == BRIDGE_GET) {
        e.ids = t->session->last_ids;
        e.usage.n_query = t->session->n_last_query;
        e.usage.n_answer = t->session->n_last - t->session->n_last_query;
    }
    deliver(t, &e);
}

void event_stored(struct task *t, const struct bridge_event *e)
{
    struct bridge_session_info info;
    session_info(t->session, &info);
    struct bridge_event copy = *e;
    copy.info = &info;
    deliver(t, &copy);
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
        .usage = t->usage,
        .info = &info,
    };
    deliver(t, &e);
}

void event_failed(struct task *t, enum bridge_event_kind kind, enum rxt_status st,
                  const char *sentence)
{
    struct bridge_event e = {
        .kind = kind,
        .final = true,
        .status = st,
        .error = sentence && *sentence ? sentence : rxt_status_text(st),
    };
    deliver(t, &e);
}

void session_info(const struct session *s, struct bridge_session_info *out)
{
    *out = (struct bridge_session_info){
        .state = s->held                                       ? BRIDGE_HELD
                 : s->phase != SESSION_RESIDENT                ? BRIDGE_COLD
                 : s->remember                                 ? BRIDGE_REMEMBERING
                 : s->queue && s->queue->state >= TASK_PREFILL ? BRIDGE_ANSWERING
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
    snprintf(out->session, sizeof out->session, "%s", s->name);
    snprintf(out->held_reason, sizeof out->held_reason, "%s", s->row.held_reason);
    snprintf(out->origin, sizeof out->origin, "%s", s->row.origin);
    memcpy(out->stm_hash, s->hash, sizeof out->stm_hash);
}
