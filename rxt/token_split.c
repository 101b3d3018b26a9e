#include "rxt/token_impl.h"

#include "kernels/base/utf8.h"

#include <stdint.h>

/* Spans of one step on their way to the next, joined as the behavior says. */
struct joiner {
    struct token_scratch *s;
    size_t step; /* that the joined spans go to */
    enum token_behavior behavior;
    const char *text;
    size_t from, to;    /* the span that waits; empty if none does */
    bool waits_matched; /* it is a match that nothing has been joined to */
    bool last_matched;  /* the last span was a match */
};

static enum rxt_status run_step(struct token_scratch *s, size_t step, const char *text, size_t n);

static enum rxt_status flush(struct joiner *j)
{
    size_t from = j->from, n = j->to - j->from;
    j->from = j->to;
    return n ? run_step(j->s, j->step, j->text + from, n) : RXT_OK;
}

static bool joins(const struct joiner *j, bool matched)
{
    switch (j->behavior) {
    case SPLIT_CONTIGUOUS:
        return matched == j->last_matched;
    case SPLIT_MERGED_WITH_PREVIOUS:
        return matched && !j->last_matched;
    case SPLIT_MERGED_WITH_NEXT:
        return !matched && j->waits_matched;
    case SPLIT_REMOVED:
    case SPLIT_ISOLATED:
        break;
    }
    return false;
}

/* Spans come in order and without gaps; an empty one (an empty match) counts as a neighbour. */
static enum rxt_status add_span(struct joiner *j, size_t from, size_t to, bool matched)
{
    if (joins(j, matched)) {
        j->to = to;
        j->waits_matched = false;
    } else {
        TRY(flush(j));
        j->from = j->behavior == SPLIT_REMOVED && matched ? to : from;
        j->to = to;
        j->waits_matched = matched;
    }
    j->last_matched = matched;
    return RXT_OK;
}

/* Where to look on after an empty match: behind the next code point. */
static size_t step_over(const char *text, size_t n, size_t at)
{
    size_t len = 1;
    if (at < n)
        (void)utf8_read(text + at, &len);
    return at + len;
}

static enum rxt_status run_pattern(struct token_scratch *s, size_t step, const char *text, size_t n)
{
    const struct token_split *split = &s->t->split[step];
    struct joiner j = {.s = s, .step = step + 1, .behavior = split->behavior, .text = text};
    size_t done = 0, at = 0, last_end = SIZE_MAX;
    while (at <= n) {
        size_t from, to;
        enum rxt_status st =
            token_pattern_find(&split->pattern, s->matcher, text, n, at, &from, &to, s->err);
        if (st == RXT_ENOTFOUND)
            break;
        TRY(st);
        if (from == to && to == last_end) { /* no empty match right behind a match */
            at = step_over(text, n, at);
            continue;
        }
        if (done < from)
            TRY(add_span(&j, done, from, split->invert));
        TRY(add_span(&j, from, to, !split->invert));
        done = at = last_end = to;
    }
    if (done < n)
        TRY(add_span(&j, done, n, split->invert));
    return flush(&j);
}

static enum rxt_status byte_level(struct token_scratch *s, const char *text, size_t n)
{
    if (s->t->add_prefix_space && *text != ' ') {
        s->prefixed.n = 0;
        TRY(token_buffer_put(&s->prefixed, " ", 1));
        TRY(token_buffer_put(&s->prefixed, text, n));
        text = s->prefixed.data;
        n++;
    }
    if (!s->t->gpt2_split)
        return token_bpe_piece(s, text, n);
    for (const char *p = text, *end = text + n; p < end;) {
        const char *q = token_gpt2_next(p, end);
        TRY(token_bpe_piece(s, p, (size_t)(q - p)));
        p = q;
    }
    return RXT_OK;
}

static enum rxt_status run_step(struct token_scratch *s, size_t step, const char *text, size_t n)
{
    return step < s->t->n_split ? run_pattern(s, step, text, n) : byte_level(s, text, n);
}

enum rxt_status token_split_part(struct token_scratch *s, const char *text, size_t n)
{
    return n ? run_step(s, 0, text, n) : RXT_OK;
}
