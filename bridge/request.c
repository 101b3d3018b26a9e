#include "bridge/bridge_impl.h"

#include "kernels/base/clock.h"
#include "kernels/base/mem.h"

#include <string.h>

/* Names travel into files, logs and terminals: no control characters, not empty, terminated. */
static enum rxt_status check_name(const char *what, const char *name, struct rxt_error *err)
{
    size_t n = strnlen(name, BRIDGE_NAME_MAX);
    if (n == 0)
        return rxt_fail(err, RXT_EINVAL, "the %s name is empty", what);
    if (n == BRIDGE_NAME_MAX)
        return rxt_fail(err, RXT_ELIMIT, "the %s name is longer than %d bytes", what,
                        BRIDGE_NAME_MAX - 1);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7F)
            return rxt_fail(err, RXT_EINVAL, "the %s name has a control character at byte %zu",
                            what, i);
    return RXT_OK;
}

static size_t text_size(const char *s)
{
    return s ? strlen(s) + 1 : 0;
}

static const char *text_copy(char **at, const char *s)
{
    if (!s)
        return NULL;
    size_t n = strlen(s) + 1;
    char *copy = memcpy(*at, s, n);
    *at += n;
    return copy;
}

/* The request outlives its caller's buffers: one block for all its texts. */
static enum rxt_status copy_texts(struct task *t)
{
    struct bridge_request *r = &t->r;
    size_t bytes = text_size(r->prompt.query) + text_size(r->prompt.tool_result) +
                   text_size(r->prompt.internal) + text_size(r->question) + text_size(r->answer) +
                   text_size(r->path);
    if (bytes == 0)
        return RXT_OK;
    t->text = mem_alloc(bytes);
    if (!t->text)
        return RXT_ENOMEM;
    char *at = t->text;
    r->prompt.query = text_copy(&at, r->prompt.query);
    r->prompt.tool_result = text_copy(&at, r->prompt.tool_result);
    r->prompt.internal = text_copy(&at, r->prompt.internal);
    r->question = text_copy(&at, r->question);
    r->answer = text_copy(&at, r->answer);
    r->path = text_copy(&at, r->path);
    return RXT_OK;
}

static enum rxt_status prepare_turn(struct task *t, struct rxt_error *err)
{
    const struct rxt_info *info = rxt_model_info(t->bridge->model);
    size_t n = 0;
    TRY(rxt_sampling_check(&t->r.sampling, err));
    if (t->r.max_tokens < 0)
        return rxt_fail(err, RXT_EINVAL, "max_tokens is %d: use 1 or more, 0 = no limit",
                        t->r.max_tokens);
    TRY(rxt_prompt_ids(t->bridge->model, &t->r.prompt, t->ids, (size_t)info->max_seq_len, &n, err));
    t->n_prompt = t->n_ids = (int32_t)n;
    t->limit = info->max_seq_len;
    if (t->r.max_tokens > 0 && t->r.max_tokens < t->limit - t->n_prompt)
        t->limit = t->n_prompt + t->r.max_tokens;
    return RXT_OK;
}

static enum rxt_status prepare_remember(struct task *t, struct rxt_error *err)
{
    const struct rxt_info *info = rxt_model_info(t->bridge->model);
    const struct bridge_request *r = &t->r;
    if (r->n_ids > 0) {
        if (r->n_ids > (size_t)info->max_seq_len)
            return rxt_fail(err, RXT_ELIMIT, "the turn has %zu tokens, at most %d fit", r->n_ids,
                            info->max_seq_len);
        for (size_t i = 0; i < r->n_ids; i++)
            if (r->ids[i] < 0 || r->ids[i] >= info->n_vocab)
                return rxt_fail(err, RXT_EINVAL, "token %zu is %d, the vocabulary has 0 to %d", i,
                                r->ids[i], info->n_vocab - 1);
        memcpy(t->ids, r->ids, r->n_ids * sizeof *t->ids);
        t->n_ids = (int32_t)r->n_ids;
    } else {
        if (!r->question || !r->answer)
            return rxt_fail(err, RXT_EINVAL, "remember needs ids, or a question and an answer");
        size_t n = 0;
        TRY(rxt_turn_ids(t->bridge->model, r->question, r->answer, t->ids,
                         (size_t)info->max_seq_len, &n, err));
        t->n_ids = (int32_t)n;
    }
    t->r.ids = NULL; /* the caller's; ours are in t->ids */
    t->n_prompt = t->n_ids;
    return RXT_OK;
}

static enum rxt_status prepare(struct task *t, struct rxt_error *err)
{
    switch (t->r.verb) {
    case BRIDGE_TURN:
        return prepare_turn(t, err);
    case BRIDGE_REMEMBER:
        return prepare_remember(t, err);
    case BRIDGE_FORK:
        return check_name("new session", t->r.to, err);
    case BRIDGE_EXPORT:
    case BRIDGE_IMPORT:
        if (!t->r.path || !*t->r.path)
            return rxt_fail(err, RXT_EINVAL, "export and import need a path");
        return RXT_OK;
    case BRIDGE_OPEN:
    case BRIDGE_GET:
    case BRIDGE_REWIND:
    case BRIDGE_RESET:
    case BRIDGE_ERASE:
        return RXT_OK;
    }
    return rxt_fail(err, RXT_EINVAL, "unknown verb %d", (int)t->r.verb);
}

enum rxt_status task_create(struct task **out, struct bridge *b, const struct bridge_request *r,
                            struct rxt_error *err)
{
    TRY(check_name("tenant", r->tenant, err));
    TRY(check_name("session", r->session, err));
    enum rxt_status st = RXT_ENOMEM;
    struct task *t = mem_alloc(sizeof *t);
    if (!t)
        return RXT_ENOMEM;
    t->bridge = b;
    t->state = TASK_QUEUED;
    t->r = *r;
    t->submitted_us = clock_us();
    t->ids = mem_alloc_n((size_t)b->max_seq_len, sizeof *t->ids);
    if (!t->ids)
        goto fail;
    TRY_OR(fail, copy_texts(t));
    TRY_OR(fail, prepare(t, err));
    *out = t;
    return RXT_OK;
fail:
    task_destroy(&t);
    return st;
}

void task_destroy(struct task **task)
{
    struct task *t = *task;
    if (!t)
        return;
    for (struct sink *s = t->sink.next, *next; s; s = next) {
        next = s->next;
        mem_free(s);
    }
    mem_free(t->write.found_ids);
    mem_free(t->text);
    mem_free(t->ids);
    mem_free(t);
    *task = NULL;
}
