#include "rxt/token_impl.h"

#include "kernels/base/mem.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

/* Bounds for a pattern that backtracks without end on some text. */
#define MATCH_STEP_MAX 10000000
#define JIT_STACK_MAX ((size_t)1 << 20)

struct token_regex {
    pcre2_code *code;
};
struct token_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static void *alloc(size_t n, void *user)
{
    (void)user;
    return mem_alloc(n);
}

static void release(void *p, void *user)
{
    (void)user;
    mem_free(p);
}

/* ---- from Oniguruma's dialect to PCRE2's --------------------------------------------------
 * Copied as it is: literals, . | ( ) and the groups (?: (?> (?= (?! (?<= (?<! (?i: , quantifiers,
 * simple classes, \d \D \r \n \t, escaped punctuation, \p{..} of a general category. Rewritten: \s
 * and \S, which in PCRE2 take U+180E too; \p{Script}, which in PCRE2 means script extensions.
 * Refused: whatever else the two read differently, as ^ $ \w \b \h && and classes in classes. */

#define PATTERN_MAX 4096
#define GROUP_MAX 32

struct dialect {
    const char *p, *end;
    char out[8 * PATTERN_MAX]; /* \s is the shortest that grows, from 2 to 15 */
    size_t n;
    int depth;
    bool caseless[GROUP_MAX + 1]; /* by depth of the group */
    struct rxt_error *why;
};

static enum rxt_status refuse(struct dialect *d, const char *what)
{
    return rxt_fail(d->why, RXT_EUNSUPPORTED, "regular expression: %s", what);
}

static void put(struct dialect *d, const char *s, size_t n)
{
    memcpy(d->out + d->n, s, n);
    d->n += n;
}

static bool follows(const struct dialect *d, const char *s)
{
    size_t n = strlen(s);
    return (size_t)(d->end - d->p) >= n && memcmp(d->p, s, n) == 0;
}

static void take(struct dialect *d, size_t n)
{
    put(d, d->p, n);
    d->p += n;
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* The name of a property behind \p or \P at d->p: {L}, {Lu}, {Han}. */
static enum rxt_status take_property(struct dialect *d)
{
    const char *close =
        d->p + 2 < d->end && d->p[2] == '{' ? memchr(d->p, '}', (size_t)(d->end - d->p)) : NULL;
    if (!close)
        return refuse(d, "\\p needs a name in braces");
    const char *name = d->p + 3;
    size_t len = (size_t)(close - name);
    for (size_t i = 0; i < len; i++)
        if (!is_letter(name[i]) && name[i] != '_')
            return refuse(d, "a property of letters only: \\p{L}, \\p{Lu}, \\p{Han}");
    if (len <= 2) {
        take(d, (size_t)(close + 1 - d->p));
        return RXT_OK;
    }
    put(d, d->p, 3);
    put(d, "sc:", 3);
    put(d, name, len + 1);
    d->p = close + 1;
    return RXT_OK;
}

static enum rxt_status take_escape(struct dialect *d)
{
    if (d->p + 1 == d->end)
        return refuse(d, "backslash at the end");
    char c = d->p[1];
    switch (c) {
    case 's':
    case 'S':
        put(d, c == 's' ? "\\p{White_Space}" : "\\P{White_Space}", 15);
        d->p += 2;
        return RXT_OK;
    case 'p':
    case 'P':
        return take_property(d);
    case 'd':
    case 'D':
    case 'r':
    case 'n':
    case 't':
        take(d, 2);
        return RXT_OK;
    default:
        if ((unsigned char)c >= 0x80 || is_letter(c) || (c >= '0' && c <= '9'))
            return refuse(d, "of the escapes only \\s \\S \\d \\D \\r \\n \\t \\p{..} \\P{..} and "
                             "punctuation");
        take(d, 2);
        return RXT_OK;
    }
}

/* Without regard to case Oniguruma lets one code point stand for several: for fi, ss, st ... */
static enum rxt_status check_fold(struct dialect *d, bool in_class)
{
    char a = (char)(d->p[0] | 0x20), b = (char)(d->p + 1 < d->end ? d->p[1] | 0x20 : 0);
    bool ligature =
        (a == 'f' && (b == 'f' || b == 'i' || b == 'l')) || (a == 's' && (b == 's' || b == 't'));
    if (d->caseless[d->depth] && ((unsigned char)*d->p >= 0x80 || (ligature && !in_class)))
        return refuse(d, "in (?i:..) only ASCII, and none of ff fi fl ss st");
    return RXT_OK;
}

static enum rxt_status take_literal(struct dialect *d, bool in_class)
{
    TRY(check_fold(d, in_class));
    take(d, 1);
    return RXT_OK;
}

static enum rxt_status take_class(struct dialect *d)
{
    take(d, follows(d, "[^") ? 2 : 1);
    if (follows(d, "]"))
        return refuse(d, "] first in a class");
    while (d->p < d->end && *d->p != ']') {
        if (*d->p == '[' || follows(d, "&&"))
            return refuse(d, "a class inside a class");
        TRY(*d->p == '\\' ? take_escape(d) : take_literal(d, true));
    }
    if (d->p == d->end)
        return refuse(d, "class without ]");
    take(d, 1);
    return RXT_OK;
}

static enum rxt_status take_group(struct dialect *d)
{
    static const char *const known[] = {"(?:", "(?>", "(?=", "(?!", "(?<=", "(?<!", "(?i:"};
    size_t len = follows(d, "(?") || follows(d, "(*") ? 0 : 1;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (follows(d, known[i]))
            len = strlen(known[i]);
    if (len == 0)
        return refuse(d, "of the groups only (..) (?:..) (?>..) (?i:..) and looking around");
    if (d->depth == GROUP_MAX)
        return refuse(d, "groups nested too deep");
    bool caseless = d->caseless[d->depth] || follows(d, "(?i:");
    d->caseless[++d->depth] = caseless;
    take(d, len);
    return RXT_OK;
}

/* {n}, {n,} or {n,m}, with nothing behind that Ruby reads otherwise. */
static enum rxt_status take_interval(struct dialect *d)
{
    const char *q = d->p + 1;
    while (q < d->end && ((*q >= '0' && *q <= '9') || *q == ','))
        q++;
    bool ok = q < d->end && *q == '}' && q > d->p + 1 && d->p[1] != ',' &&
              !(q + 1 < d->end && strchr("+?*{", q[1]));
    if (!ok)
        return refuse(d, "of the intervals only {n} {n,} {n,m}");
    take(d, (size_t)(q + 1 - d->p));
    return RXT_OK;
}

static enum rxt_status take_next(struct dialect *d)
{
    switch (*d->p) {
    case '\\':
        return take_escape(d);
    case '[':
        return take_class(d);
    case '(':
        return take_group(d);
    case ')':
        if (d->depth > 0)
            d->depth--;
        take(d, 1);
        return RXT_OK;
    case '{':
        return take_interval(d);
    case '^':
    case '$':
        return refuse(d, "no ^ and no $");
    default:
        return take_literal(d, false);
    }
}

/* ---- compiling and matching --------------------------------------------------------------- */

static enum rxt_status compile(struct token_regex *re, const struct dialect *d,
                               struct rxt_error *why)
{
    pcre2_general_context *general = pcre2_general_context_create(alloc, release, NULL);
    pcre2_compile_context *context = general ? pcre2_compile_context_create(general) : NULL;
    int code = 0;
    PCRE2_SIZE at = 0;
    if (context) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        re->code = pcre2_compile((PCRE2_SPTR)d->out, d->n,
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &code, &at, context);
    }
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    if (!context || (!re->code && code == PCRE2_ERROR_HEAP_FAILED))
        return RXT_ENOMEM;
    if (!re->code) {
        char text[120];
        (void)pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        return rxt_fail(why, RXT_EUNSUPPORTED, "regular expression: %s", text);
    }
    (void)pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE); /* without it only speed is lost */
    return RXT_OK;
}

enum rxt_status token_regex_create(struct token_regex **out, const char *pattern, size_t len,
                                   struct rxt_error *why)
{
    enum rxt_status st = RXT_OK;
    *out = NULL;
    if (len == 0 || len > PATTERN_MAX)
        return rxt_fail(why, RXT_EUNSUPPORTED, "regular expression: 1 to %d bytes", PATTERN_MAX);
    struct token_regex *re = mem_alloc(sizeof *re);
    struct dialect *d = mem_alloc(sizeof *d);
    if (!re || !d) {
        st = RXT_ENOMEM;
        goto end;
    }
    d->p = pattern;
    d->end = pattern + len;
    d->why = why;
    while (d->p < d->end)
        TRY_OR(end, take_next(d));
    TRY_OR(end, compile(re, d, why));
    *out = re;
    re = NULL;
end:
    mem_free(d);
    token_regex_destroy(&re);
    return st;
}

void token_regex_destroy(struct token_regex **re)
{
    if (*re)
        pcre2_code_free((*re)->code);
    mem_free(*re);
    *re = NULL;
}

enum rxt_status token_matcher_create(struct token_matcher **out)
{
    *out = NULL;
    struct token_matcher *m = mem_alloc(sizeof *m);
    pcre2_general_context *general = pcre2_general_context_create(alloc, release, NULL);
    if (m && general) {
        m->data = pcre2_match_data_create(1, general);
        m->context = pcre2_match_context_create(general);
        m->stack = pcre2_jit_stack_create(32768, JIT_STACK_MAX, general);
    }
    pcre2_general_context_free(general);
    if (!m || !m->data || !m->context || !m->stack) {
        token_matcher_destroy(&m);
        return RXT_ENOMEM;
    }
    pcre2_set_match_limit(m->context, MATCH_STEP_MAX);
    pcre2_jit_stack_assign(m->context, NULL, m->stack);
    *out = m;
    return RXT_OK;
}

void token_matcher_destroy(struct token_matcher **m)
{
    if (*m) {
        pcre2_match_data_free((*m)->data);
        pcre2_match_context_free((*m)->context);
        pcre2_jit_stack_free((*m)->stack);
    }
    mem_free(*m);
    *m = NULL;
}

enum rxt_status token_regex_find(const struct token_regex *re, struct token_matcher *m,
                                 const char *text, size_t n, size_t from, size_t *start,
                                 size_t *end, struct rxt_error *err)
{
    int got =
        pcre2_match(re->code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (got == PCRE2_ERROR_NOMATCH)
        return RXT_ENOTFOUND;
    if (got == PCRE2_ERROR_NOMEMORY)
        return RXT_ENOMEM;
    if (got < 0)
        return rxt_fail(err, RXT_ELIMIT,
                        "text: a pattern of the tokenizer gives up at byte %zu of a part of %zu "
                        "(code %d)",
                        from, n, got);
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(m->data);
    *start = span[0];
    *end = span[1];
    return RXT_OK;
}
