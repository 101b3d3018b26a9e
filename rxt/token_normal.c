#include "rxt/token_impl.h"

#include "kernels/base/utf8.h"

#include <assert.h>
#include <string.h>
#include <utf8proc.h>

/* A normalizer can make a text grow without bound, if its replacements are long. */
static enum rxt_status check_growth(const struct token_scratch *s, size_t n)
{
    return n <= TOKENIZER_TEXT_MAX
               ? RXT_OK
               : rxt_fail(s->err, RXT_ELIMIT, "text grows beyond %zu bytes when normalized",
                          TOKENIZER_TEXT_MAX);
}

/* Code points of a run, in s->points. */
static int32_t *points_of(struct token_scratch *s)
{
    return (int32_t *)(void *)s->points.data;
}

static enum rxt_status put_points(struct token_buffer *out, const int32_t *cp, size_t n)
{
    TRY(token_buffer_room(out, 4 * n));
    for (size_t i = 0; i < n; i++)
        out->n += utf8_put(cp[i], out->data + out->n);
    return RXT_OK;
}

static int class_of(int32_t cp)
{
    return utf8proc_get_property(cp)->combining_class;
}

/* Sorts n marks by combining class, equal ones in their order. Counting, because a text may be one
 * run of a million marks; tmp holds n. */
static void sort_marks(int32_t *cp, size_t n, int32_t *tmp)
{
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++)
        at[class_of(cp[i]) + 1]++;
    for (int c = 0; c < 256; c++)
        at[c + 1] += at[c];
    for (size_t i = 0; i < n; i++)
        tmp[at[class_of(cp[i])]++] = cp[i];
    memcpy(cp, tmp, n * sizeof *cp);
}

/* Canonical order (Unicode 3.11, D109): marks between two starters rise by class. */
static void order_marks(int32_t *cp, size_t n, int32_t *tmp)
{
    for (size_t i = 0; i < n;) {
        if (class_of(cp[i]) == 0) {
            i++;
            continue;
        }
        size_t end = i;
        bool sorted = true;
        for (; end < n && class_of(cp[end]) != 0; end++)
            sorted = sorted && (end == i || class_of(cp[end - 1]) <= class_of(cp[end]));
        if (!sorted)
            sort_marks(cp + i, end - i, tmp);
        i = end;
    }
}

/* One run [text, text + n) through decomposition, order and perhaps composition. */
static enum rxt_status normalize_run(struct token_scratch *s, const char *text, size_t n,
                                     utf8proc_option_t options, struct token_buffer *out)
{
    enum { ONE_MAX = 32 }; /* code points that one decomposes to; Unicode has 18 */
    size_t n_cp = 0;
    s->points.n = 0;
    for (size_t i = 0; i < n;) {
        size_t len;
        int32_t cp = utf8_read(text + i, &len);
        i += len;
        TRY(token_buffer_room(&s->points, ONE_MAX * sizeof cp));
        utf8proc_ssize_t k =
            utf8proc_decompose_char(cp, points_of(s) + n_cp, ONE_MAX, options, &(int){0});
        assert(k > 0 && k <= ONE_MAX);
        n_cp += (size_t)k;
        s->points.n = n_cp * sizeof cp;
        TRY(check_growth(s, n_cp));
    }
    TRY(token_buffer_room(&s->points, n_cp * sizeof(int32_t))); /* for sorting */
    int32_t *cp = points_of(s);
    order_marks(cp, n_cp, cp + n_cp);
    if (options & UTF8PROC_COMPOSE)
        n_cp = (size_t)utf8proc_normalize_utf32(cp, (utf8proc_ssize_t)n_cp, options);
    return put_points(out, cp, n_cp);
}

/* ASCII stays as it is and ends a run, but the last of it may take the marks that follow. */
static enum rxt_status normalize_form(struct token_scratch *s, const char *text, size_t n,
                                      utf8proc_option_t options, struct token_buffer *out)
{
    for (size_t i = 0; i < n;) {
        size_t run = i;
        while (run < n && (unsigned char)text[run] < 0x80)
            run++;
        size_t plain = run < n && run > i ? run - 1 : run;
        TRY(token_buffer_put(out, text + i, plain - i));
        while (run < n && (unsigned char)text[run] >= 0x80)
            run++;
        if (plain < run)
            TRY(normalize_run(s, text + plain, run - plain, options, out));
        TRY(check_growth(s, out->n));
        i = run;
    }
    return RXT_OK;
}

/* Lower case of each code point by itself: no final sigma, and of the mappings to more than one
 * code point there is only this. */
static enum rxt_status lowercase(const char *text, size_t n, struct token_buffer *out)
{
    for (size_t i = 0; i < n;) {
        size_t len;
        int32_t cp = utf8_read(text + i, &len);
        int32_t lower[2] = {utf8proc_tolower(cp), 0x307};
        i += len;
        TRY(put_points(out, lower, cp == 0x130 ? 2 : 1));
    }
    return RXT_OK;
}

static enum rxt_status replace(struct token_scratch *s, const struct token_normal *step,
                               const char *text, size_t n, struct token_buffer *out)
{
    size_t done = 0, at = 0, last_end = SIZE_MAX;
    while (at <= n) {
        size_t from, to;
        enum rxt_status st =
            token_pattern_find(&step->pattern, s->matcher, text, n, at, &from, &to, s->err);
        if (st == RXT_ENOTFOUND)
            break;
        TRY(st);
        if (from == to && to == last_end) { /* no empty match right behind a match */
            size_t len = 1;
            if (at < n)
                (void)utf8_read(text + at, &len);
            at += len;
            continue;
        }
        TRY(token_buffer_put(out, text + done, from - done));
        TRY(token_buffer_put(out, step->text, step->len));
        TRY(check_growth(s, out->n));
        done = at = last_end = to;
    }
    return token_buffer_put(out, text + done, n - done);
}

static enum rxt_status run_step(struct token_scratch *s, const struct token_normal *step,
                                const char *text, size_t n, struct token_buffer *out)
{
    switch (step->kind) {
    case NORMAL_NFC:
        return normalize_form(s, text, n, UTF8PROC_STABLE | UTF8PROC_COMPOSE, out);
    case NORMAL_NFD:
        return normalize_form(s, text, n, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, out);
    case NORMAL_NFKC:
        return normalize_form(s, text, n, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
                              out);
    case NORMAL_NFKD:
        return normalize_form(s, text, n, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
                              out);
    case NORMAL_LOWERCASE:
        return lowercase(text, n, out);
    case NORMAL_PREPEND:
        if (n)
            TRY(token_buffer_put(out, step->text, step->len));
        return token_buffer_put(out, text, n);
    case NORMAL_REPLACE:
        return replace(s, step, text, n, out);
    }
    return RXT_OK;
}

enum rxt_status token_normalize(struct token_scratch *s, const char *text, size_t n,
                                const char **out, size_t *n_out)
{
    for (size_t i = 0; i < s->t->n_normal; i++) {
        struct token_buffer *b = &s->normal[i % 2];
        b->n = 0;
        TRY(run_step(s, &s->t->normal[i], text, n, b));
        text = b->data;
        n = b->n;
    }
    *out = text;
    *n_out = n;
    return RXT_OK;
}
