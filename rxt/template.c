#include "rxt/rxt_impl.h"

#include "kernels/base/mem.h"

#include <stdio.h>
#include <string.h>

/* A list of ids under construction. n counts what is needed, also beyond cap. */
struct list {
    const struct rxt_model *m;
    int32_t *ids;
    size_t cap, n;
};

static void put(struct list *l, int32_t id)
{
    if (l->n < l->cap)
        l->ids[l->n] = id;
    l->n++;
}

/* The id, or a refusal that names the token. */
static enum rxt_status put_token(struct list *l, int32_t id, const char *name,
                                 struct rxt_error *err)
{
    if (id < 0)
        return rxt_fail(err, RXT_EUNSUPPORTED,
                        "model %s has no token %s (tokenizer_config of its config.json)",
                        l->m->info.name, name);
    put(l, id);
    return RXT_OK;
}

/* Text of users: strings of special tokens in it are plain text (design 8). */
static enum rxt_status put_text(struct list *l, const char *text, struct rxt_error *err)
{
    size_t n = 0, room = l->n < l->cap ? l->cap - l->n : 0;
    enum rxt_status st =
        rxt_encode(l->m, RXT_PLAIN, text, strlen(text), room ? l->ids + l->n : NULL, room, &n, err);
    l->n += n;
    return st == RXT_ELIMIT && n > room ? RXT_OK : st; /* the count goes on; finish() refuses */
}

static enum rxt_status put_block(struct list *l, int32_t id, const char *name, const char *text,
                                 struct rxt_error *err)
{
    TRY(put_token(l, id, name, err));
    return put_text(l, text, err);
}

/* Refuses what does not fit: into the model's turn less `kept`, then into the caller's array. */
static enum rxt_status finish(const struct list *l, int32_t kept, size_t *n, struct rxt_error *err)
{
    size_t limit = (size_t)l->m->info.max_seq_len;
    *n = l->n;
    if (l->n + (size_t)kept > limit && kept > 0)
        return rxt_fail(err, RXT_ELIMIT,
                        "the prompt has %zu tokens; at most %zu fit: the limit of a turn is %zu, "
                        "and %d are kept for the answer",
                        l->n, limit > (size_t)kept ? limit - (size_t)kept : 0, limit, kept);
    if (l->n > limit)
        return rxt_fail(err, RXT_ELIMIT, "the turn has %zu tokens; the limit is %zu", l->n, limit);
    if (l->n > l->cap)
        return rxt_fail(err, RXT_ELIMIT, "%zu tokens do not fit into an array of %zu", l->n,
                        l->cap);
    return RXT_OK;
}

static bool present(const char *text)
{
    return text && *text;
}

static enum rxt_status refuse_without_tokenizer(const struct rxt_model *m, struct rxt_error *err)
{
    if (m->tokenizer)
        return RXT_OK;
    return rxt_fail(err, RXT_EUNSUPPORTED, "model %s has no tokenizer.json", m->info.name);
}

enum rxt_status rxt_prompt_ids(const struct rxt_model *m, const struct rxt_prompt *p, int32_t *ids,
                               size_t cap, size_t *n, struct rxt_error *err)
{
    const struct config_tokens *t = &m->cfg->tokens;
    struct list l = {m, ids, cap, 0};
    *n = 0;
    TRY(refuse_without_tokenizer(m, err));
    if (p->tool_result ? !*p->tool_result : !present(p->query))
        return rxt_fail(err, RXT_EINVAL, "the %s is empty",
                        p->tool_result ? "tool result" : "query");
    if (p->thinking != RXT_FAST && t->think < 0)
        return rxt_fail(err, RXT_EUNSUPPORTED, "model %s has no thinking mode but fast (no [T])",
                        m->info.name);
    TRY(put_token(&l, t->bos, "[BOS]", err));
    if (present(p->internal))
        TRY(put_block(&l, t->internal, "[I]", p->internal, err));
    if (p->tool_result)
        TRY(put_block(&l, t->tool_use, "[U]", p->tool_result, err));
    else
        TRY(put_block(&l, t->query, "[Q]", p->query, err));
    if (p->thinking == RXT_EXTENDED)
        TRY(put_token(&l, t->think, "[T]", err));
    if (p->thinking == RXT_FAST)
        TRY(put_token(&l, t->answer, "[A]", err));
    return finish(&l, RXT_ANSWER_MIN, n, err);
}

enum rxt_status rxt_turn_ids(const struct rxt_model *m, const char *query, const char *answer,
                             int32_t *ids, size_t cap, size_t *n, struct rxt_error *err)
{
    const struct config_tokens *t = &m->cfg->tokens;
    struct list l = {m, ids, cap, 0};
    *n = 0;
    TRY(refuse_without_tokenizer(m, err));
    if (!present(query))
        return rxt_fail(err, RXT_EINVAL, "the query is empty");
    TRY(put_token(&l, t->bos, "[BOS]", err));
    TRY(put_block(&l, t->query, "[Q]", query, err));
    TRY(put_block(&l, t->answer, "[A]", answer ? answer : "", err));
    TRY(put_token(&l, t->eos, "[EOS]", err));
    return finish(&l, 0, n, err);
}

/* title, an empty line, text: one segment, as the tokenizer may join what stands at the seams. */
static enum rxt_status put_titled(struct list *l, const char *text, struct rxt_error *err)
{
    const char *title = *l->m->cfg->system_title ? l->m->cfg->system_title : "SYSTEM INSTRUCTIONS";
    size_t size = strlen(title) + 2 + strlen(text) + 1;
    char *whole = mem_alloc(size);
    if (!whole)
        return rxt_fail(err, RXT_ENOMEM, "out of memory for a system prompt of %zu bytes", size);
    (void)snprintf(whole, size, "%s\n\n%s", title, text);
    enum rxt_status st = put_text(l, whole, err);
    mem_free(whole);
    return st;
}

enum rxt_status rxt_system_ids(const struct rxt_model *m, const char *text, int32_t *ids,
                               size_t cap, size_t *n, struct rxt_error *err)
{
    const struct config_tokens *t = &m->cfg->tokens;
    struct list l = {m, ids, cap, 0};
    *n = 0;
    if (!present(text))
        return rxt_fail(err, RXT_EINVAL, "the system prompt is empty");
    if (t->internal < 0)
        return rxt_turn_ids(m, text, "", ids, cap, n, err);
    TRY(refuse_without_tokenizer(m, err));
    TRY(put_token(&l, t->bos, "[BOS]", err));
    TRY(put_token(&l, t->internal, "[I]", err));
    TRY(put_titled(&l, text, err));
    TRY(put_token(&l, t->eos, "[EOS]", err));
    return finish(&l, 0, n, err);
}
