#include "bridge/front_core_impl.h"

#include "kernels/base/mem.h"

#include <stdio.h>
#include <string.h>

static void put_name(char out[BRIDGE_NAME_MAX], struct wire_text name)
{
    memcpy(out, name.p, name.n); /* at most 127 bytes: wire_decode saw to it */
    out[name.n] = '\0';
}

static size_t text_size(struct wire_text t)
{
    return t.p ? t.n + 1 : 0;
}

/* Texts of a frame are lent and not terminated; the order has its own. */
static const char *put_text(char **at, struct wire_text t)
{
    if (!t.p)
        return NULL;
    char *out = *at;
    memcpy(out, t.p, t.n);
    out[t.n] = '\0';
    *at += t.n + 1;
    return out;
}

static uint64_t version_or_head(uint64_t v)
{
    return v == WIRE_ABSENT ? BRIDGE_HEAD : v;
}

static void put_turn(struct bridge_request *r, const struct wire_body *b, char **at)
{
    static const enum rxt_thinking thinking[] = {RXT_FAST, RXT_EXTENDED, RXT_AUTO};
    static const enum bridge_on_stale on_stale[] = {BRIDGE_STALE_WAIT, BRIDGE_STALE_PROCEED,
                                                    BRIDGE_STALE_REJECT};
    r->verb = BRIDGE_TURN;
    r->prompt.query = put_text(at, b->query);
    r->prompt.tool_result = put_text(at, b->tool_result);
    r->prompt.internal = put_text(at, b->internal);
    r->prompt.thinking = thinking[b->thinking];
    r->sampling.temperature = (float)b->temperature;
    r->sampling.top_k = (int32_t)b->top_k;
    r->sampling.top_p = (float)b->top_p;
    r->sampling.seed = b->seed;
    r->max_tokens = (int32_t)b->max_tokens;
    r->dry_run = b->commit == WIRE_COMMIT_NEVER;
    r->on_stale = on_stale[b->on_stale];
    r->on_cancel =
        b->on_cancel == WIRE_CANCEL_COMMIT ? BRIDGE_CANCEL_COMMIT : BRIDGE_CANCEL_DISCARD;
    r->n_candidate = (int32_t)b->n;
    if (b->on_busy == WIRE_BUSY_FORK) {
        r->on_busy = BRIDGE_BUSY_FORK;
        put_name(r->to, b->fork_to);
    }
    r->deadline = (struct bridge_deadline){
        .queue_us = 1000 * b->queue_ms,
        .first_token_us = 1000 * b->first_token_ms,
        .total_us = 1000 * b->total_ms,
        .memory_us = 1000 * b->memory_ms,
    };
    r->min_version = b->min_version;
    r->if_version = version_or_head(b->if_version);
}

static void put_remember(struct bridge_request *r, const struct wire_body *b, char **at)
{
    r->verb = BRIDGE_REMEMBER;
    r->question = put_text(at, b->query);
    r->answer = put_text(at, b->answer);
    r->if_version = version_or_head(b->if_version);
    if (b->ids.raw) {
        int32_t *ids = (int32_t *)(void *)*at; /* stands alone then: the block is aligned */
        wire_ids_copy(&b->ids, ids);
        r->ids = ids;
        r->n_ids = b->ids.n;
    }
}

static bool put_verb(struct bridge_request *r, uint8_t type, const struct wire_body *b, char **at)
{
    switch ((enum wire_type)type) {
    case WIRE_TURN:
        put_turn(r, b, at);
        return true;
    case WIRE_REMEMBER:
        put_remember(r, b, at);
        return true;
    case WIRE_OPEN:
        r->verb = BRIDGE_OPEN;
        r->seed = b->seed;
        if (b->from_session.p) {
            put_name(r->from, b->from_session);
            r->version = version_or_head(b->from_version);
        }
        return true;
    case WIRE_CHOOSE:
        r->verb = BRIDGE_CHOOSE;
        r->candidate = (int32_t)b->candidate;
        return true;
    case WIRE_LIST:
        r->verb = BRIDGE_LIST;
        r->limit = (int32_t)b->limit;
        r->only_held = b->held == 1;
        if (b->after.p)
            put_name(r->session, b->after);
        if (b->prefix.p)
            put_name(r->prefix, b->prefix);
        return true;
    case WIRE_DIFF:
        r->verb = BRIDGE_DIFF;
        r->version = b->version;
        r->to_version = version_or_head(b->to_version);
        if (b->other.p)
            put_name(r->to, b->other);
        return true;
    case WIRE_GET:
        r->verb = BRIDGE_GET;
        return true;
    case WIRE_FORK:
        r->verb = BRIDGE_FORK;
        r->version = version_or_head(b->version);
        put_name(r->to, b->to);
        return true;
    case WIRE_REWIND:
        r->verb = BRIDGE_REWIND;
        r->version = b->version;
        return true;
    case WIRE_RESET:
        r->verb = BRIDGE_RESET;
        return true;
    case WIRE_ERASE:
        r->verb = BRIDGE_ERASE;
        return true;
    case WIRE_EXPORT:
        r->verb = BRIDGE_EXPORT;
        return true;
    case WIRE_IMPORT:
        r->verb = BRIDGE_IMPORT;
        return true;
    default:
        return false;
    }
}

struct order *order_of(uint8_t type, const struct wire_body *b, struct stream *s)
{
    size_t bytes = text_size(b->query) + text_size(b->tool_result) + text_size(b->internal) +
                   text_size(b->answer) + b->ids.n * sizeof(int32_t);
    struct order *o = mem_alloc(sizeof *o + bytes);
    if (!o)
        return NULL;
    char *at = (char *)(o + 1);
    o->kind = ORDER_SUBMIT;
    o->stream = s;
    struct bridge_request *r = &o->r;
    r->sampling = RXT_GREEDY;
    r->if_version = BRIDGE_HEAD;
    memcpy(r->id, s->id, sizeof r->id);
    memcpy(r->tenant, s->tenant, sizeof r->tenant);
    memcpy(r->session, s->session, sizeof r->session);
    if (b->on_busy == WIRE_BUSY_REJECT)
        r->on_busy = BRIDGE_BUSY_REJECT;
    if (!put_verb(r, type, b, &at)) {
        mem_free(o);
        return NULL;
    }
    return o;
}
