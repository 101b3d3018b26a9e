#include "bridge/bridge_impl.h"

#include "kernels/base/mem.h"
#include "kernels/base/utf8.h"

#include <string.h>

enum rxt_status task_check_name(const char *what, const char *name, struct rxt_error *err)
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
    if (utf8_valid(name, n) != n)
        return rxt_fail(err, RXT_EUTF8, "the %s name is not UTF-8 at byte %zu", what,
                        utf8_valid(name, n));
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

/* Answers, each with ids as long as an interaction can be: one block for all of them. */
static enum rxt_status make_answers(struct task *t, int32_t n)
{
    size_t max = (size_t)t->bridge->max_seq_len;
    size_t ids_bytes = max * sizeof(int32_t);
    t->answer = mem_alloc((size_t)n * (sizeof *t->answer + ids_bytes));
    if (!t->answer)
        return RXT_ENOMEM;
    int32_t *ids = (int32_t *)(t->answer + n);
    for (int32_t i = 0; i < n; i++)
        t->answer[i] = (struct answer){.task = t, .candidate = i, .ids = ids + (size_t)i * max};
    t->n_answer = n;
    return RXT_OK;
}

static enum rxt_status prepare_turn(struct task *t, struct rxt_error *err)
{
    const struct bridge *b = t->bridge;
    struct bridge_request *r = &t->r;
    struct answer *first = &t->answer[0];
    size_t n = 0;
    TRY(rxt_sampling_check(&r->sampling, err));
    if (r->max_tokens < 0)
        return rxt_fail(err, RXT_EINVAL, "max_tokens is %d: use 1 or more, 0 = no limit",
                        r->max_tokens);
    if (r->on_busy == BRIDGE_BUSY_FORK)
        TRY(task_check_name("fork", r->to, err));
    TRY(rxt_prompt_ids(b->model, &r->prompt, first->ids, (size_t)b->max_seq_len, &n, err));
    t->n_prompt = (int32_t)n;
    t->limit = b->max_seq_len;
    if (r->max_tokens > 0 && r->max_tokens < t->limit - t->n_prompt)
        t->limit = t->n_prompt + r->max_tokens;
    for (int32_t i = 0; i < t->n_answer; i++) {
        if (i > 0)
            memcpy(t->answer[i].ids, first->ids, n * sizeof *first->ids);
        t->answer[i].n_ids = t->n_prompt;
    }
    return RXT_OK;
}

static enum rxt_status prepare_remember(struct task *t, struct rxt_error *err)
{
    const struct rxt_info *info = rxt_model_info(t->bridge->model);
    const struct bridge_request *r = &t->r;
    int32_t *ids = t->answer[0].ids;
    size_t n = r->n_ids;
    if (n > 0) {
        if (n > (size_t)info->max_seq_len)
            return rxt_fail(err, RXT_ELIMIT, "the turn has %zu tokens, at most %d fit", n,
                            info->max_seq_len);
        for (size_t i = 0; i < n; i++)
            if (r->ids[i] < 0 || r->ids[i] >= info->n_vocab)
                return rxt_fail(err, RXT_EINVAL, "token %zu is %d, the vocabulary has 0 to %d", i,
                                r->ids[i], info->n_vocab - 1);
        memcpy(ids, r->ids, n * sizeof *ids);
    } else {
        if (!r->question || !r->answer)
            return rxt_fail(err, RXT_EINVAL, "remember needs ids, or a question and an answer");
        TRY(rxt_turn_ids(t->bridge->model, r->question, r->answer, ids, (size_t)info->max_seq_len,
                         &n, err));
    }
    t->r.ids = NULL; /* the caller's; ours are in the answer */
    t->n_prompt = t->answer[0].n_ids = (int32_t)n;
    return RXT_OK;
}

static enum rxt_status prepare_list(struct task *t, struct rxt_error *err)
{
    const struct bridge_request *r = &t->r;
    if (r->limit < 1 || r->limit > BRIDGE_LIST_MAX)
        return rxt_fail(err, RXT_EINVAL, "limit is %d: use 1 to %d", r->limit, BRIDGE_LIST_MAX);
    if (r->prefix[0])
        TRY(task_check_name("prefix", r->prefix, err));
    t->listing = mem_alloc(sizeof *t->listing);
    return t->listing ? RXT_OK : RXT_ENOMEM;
}

static enum rxt_status prepare(struct task *t, struct rxt_error *err)
{
    switch (t->r.verb) {
    case BRIDGE_TURN:
        return prepare_turn(t, err);
    case BRIDGE_REMEMBER:
        return prepare_remember(t, err);
    case BRIDGE_CHOOSE:
        if (t->r.candidate < 0 || t->r.candidate >= BRIDGE_CANDIDATES)
            return rxt_fail(err, RXT_EINVAL, "candidate is %d: use 0 to %d", t->r.candidate,
                            BRIDGE_CANDIDATES - 1);
        return RXT_OK;
    case BRIDGE_FORK:
        return task_check_name("new session", t->r.to, err);
    case BRIDGE_OPEN:
        return t->r.from[0] ? task_check_name("seed", t->r.from, err) : RXT_OK;
    case BRIDGE_DIFF:
        return t->r.to[0] ? task_check_name("other session", t->r.to, err) : RXT_OK;
    case BRIDGE_EXPORT:
    case BRIDGE_IMPORT:
        if (!t->r.path || !*t->r.path)
            return rxt_fail(err, RXT_EINVAL, "export and import need a path");
        return RXT_OK;
    case BRIDGE_LIST:
        return prepare_list(t, err);
    case BRIDGE_GET:
    case BRIDGE_REWIND:
    case BRIDGE_RESET:
    case BRIDGE_ERASE:
        return RXT_OK;
    }
    return rxt_fail(err, RXT_EINVAL, "unknown verb %d", (int)t->r.verb);
}

static enum rxt_status check_candidates(const struct bridge *b, const struct bridge_request *r,
                                        struct rxt_error *err)
{
    int32_t most = b->cfg.max_live < BRIDGE_CANDIDATES ? b->cfg.max_live : BRIDGE_CANDIDATES;
    if (r->n_candidate < 0 || r->n_candidate > most)
        return rxt_fail(err, RXT_EINVAL, "%d candidates: use 1 to %d", r->n_candidate, most);
    size_t price = room_price(b, r->n_candidate), max_bytes = b->cfg.max_bytes;
    if (max_bytes > b->cfg.tenant.max_bytes)
        max_bytes = b->cfg.tenant.max_bytes;
    if (price > max_bytes)
        return rxt_fail(err, RXT_ELIMIT, "%d candidates need %zu bytes, the limit is %zu",
                        r->n_candidate, price, max_bytes);
    return RXT_OK;
}

enum rxt_status task_create(struct task **out, struct bridge *b, const struct bridge_request *r,
                            struct rxt_error *err)
{
    TRY(task_check_name("tenant", r->tenant, err));
    if (r->verb != BRIDGE_LIST || r->session[0])
        TRY(task_check_name("session", r->session, err));
    int32_t n = 1;
    if (r->verb == BRIDGE_TURN) {
        TRY(check_candidates(b, r, err));
        n = r->n_candidate > 0 ? r->n_candidate : 1;
    }
    enum rxt_status st = RXT_ENOMEM;
    struct task *t = mem_alloc(sizeof *t);
    if (!t)
        return RXT_ENOMEM;
    t->bridge = b;
    t->state = TASK_QUEUED;
    t->r = *r;
    t->chosen = -1;
    t->submitted_us = b->clock();
    TRY_OR(fail, make_answers(t, n));
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
    diff_destroy(&t->diff);
    if (t->listing)
        mem_free(t->listing->held);
    mem_free(t->listing);
    mem_free(t->write.found_ids);
    mem_free(t->text);
    mem_free(t->answer);
    mem_free(t);
    *task = NULL;
}
