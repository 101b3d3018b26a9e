#include "rxt/token_impl.h"

#include "kernels/base/mem.h"
#include "kernels/base/utf8.h"

#include <assert.h>
#include <string.h>

static inline enum token_class class_at(const char *p, size_t *len)
{
    unsigned char c = (unsigned char)*p;
    if (c < 0x80) {
        *len = 1;
        return token_class_ascii[c];
    }
    return token_class_wide(utf8_read(p, len));
}

/* End of the run of one class that begins at p. */
static const char *run_end(const char *p, const char *end, enum token_class class)
{
    while (p < end) {
        size_t len;
        if (class_at(p, &len) != class)
            break;
        p += len;
    }
    return p;
}

/* Length of 's 't 'm 'd 're 've 'll at p, which is an apostrophe; 0 if it is none of them. */
static size_t contraction(const char *p, const char *end)
{
    if (end - p < 2)
        return 0;
    switch (p[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
        return 2;
    case 'r':
    case 'v':
        return end - p > 2 && p[2] == 'e' ? 3 : 0;
    case 'l':
        return end - p > 2 && p[2] == 'l' ? 3 : 0;
    default:
        return 0;
    }
}

const char *token_gpt2_next(const char *p, const char *end)
{
    if (*p == '\'') {
        size_t n = contraction(p, end);
        if (n)
            return p + n;
    }
    size_t len;
    enum token_class class = class_at(p, &len);
    const char *q = p + len;
    if (*p == ' ' && q < end) {
        enum token_class after = class_at(q, &len);
        if (after != CLASS_SPACE)
            return run_end(q + len, end, after);
    }
    if (class != CLASS_SPACE)
        return run_end(q, end, class);

    /* White space gives up its last character to a word behind it, if it has another. */
    const char *last = p;
    while (q < end && class_at(q, &len) == CLASS_SPACE) {
        last = q;
        q += len;
    }
    return q == end || last == p ? q : last;
}

static size_t find_literal(const struct token_pattern *p, const char *text, size_t n, size_t from)
{
    while (n - from >= p->len) {
        const char *c = memchr(text + from, p->literal[0], n - from - p->len + 1);
        if (!c)
            break;
        if (memcmp(c, p->literal, p->len) == 0)
            return (size_t)(c - text);
        from = (size_t)(c - text) + 1;
    }
    return n;
}

enum rxt_status token_pattern_find(const struct token_pattern *p, struct token_matcher *m,
                                   const char *text, size_t n, size_t from, size_t *start,
                                   size_t *end, struct rxt_error *err)
{
    size_t len = 0;
    switch (p->kind) {
    case PATTERN_REGEX:
        return token_regex_find(p->regex, m, text, n, from, start, end, err);
    case PATTERN_GPT2: /* matches everywhere */
        if (from == n)
            return RXT_ENOTFOUND;
        *start = from;
        *end = (size_t)(token_gpt2_next(text + from, text + n) - text);
        return RXT_OK;
    case PATTERN_LITERAL:
        from = find_literal(p, text, n, from);
        len = p->len;
        break;
    case PATTERN_NUMBER:
        while (from < n && class_at(text + from, &len) != CLASS_NUMBER)
            from += len;
        break;
    }
    if (from == n)
        return RXT_ENOTFOUND;
    *start = from;
    *end = from + len;
    return RXT_OK;
}

void token_pattern_free(struct token_pattern *p)
{
    mem_free(p->literal);
    token_regex_destroy(&p->regex);
    *p = (struct token_pattern){0};
}
