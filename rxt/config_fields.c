#include "rxt/config_fields_impl.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* s for a message: what could play with a terminal becomes '?', what is long is cut. */
static const char *printable(char out[64], const char *s)
{
    int n = 0;
    for (; *s && n < 60; s++)
        out[n++] = (char)(*s >= ' ' && *s <= '~' ? *s : '?');
    out[n] = '\0';
    return out;
}

enum rxt_status config_json(json_t **out, const char *text, size_t n, const char *what,
                            struct rxt_error *err)
{
    char why_text[64];
    json_error_t why;
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (!*out)
        return rxt_fail(err, RXT_EFORMAT, "%s: line %d: %s", what, why.line,
                        printable(why_text, why.text));
    return RXT_OK;
}

void field_fail(struct fields *f, enum rxt_status st, const char *fmt, ...)
{
    if (f->st != RXT_OK)
        return;
    char text[sizeof f->err->text];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    f->st = rxt_fail(f->err, st, "%s: %s", f->where, n < 0 ? "" : text);
}

/* The value, or NULL if it is absent, null, or an earlier read failed. */
static const json_t *get(const struct fields *f, const char *name)
{
    const json_t *v = f->st == RXT_OK ? json_object_get(f->object, name) : NULL;
    return json_is_null(v) ? NULL : v;
}

bool field_has(const struct fields *f, const char *name)
{
    return get(f, name) != NULL;
}

int32_t field_int(struct fields *f, const char *name, int32_t otherwise, int32_t lo, int32_t hi)
{
    const json_t *v = get(f, name);
    if (!v)
        return otherwise;
    if (!json_is_integer(v)) {
        field_fail(f, RXT_EFORMAT, "%s must be a whole number", name);
        return otherwise;
    }
    json_int_t n = json_integer_value(v);
    if (n < lo || n > hi) {
        field_fail(f, RXT_EINVAL, "%s is %lld, it must be from %d to %d", name, (long long)n, lo,
                   hi);
        return otherwise;
    }
    return (int32_t)n;
}

bool field_bool(struct fields *f, const char *name, bool otherwise)
{
    const json_t *v = get(f, name);
    if (!v)
        return otherwise;
    if (!json_is_boolean(v))
        field_fail(f, RXT_EFORMAT, "%s must be true or false", name);
    return json_is_true(v);
}

double field_real(struct fields *f, const char *name, double otherwise, double lo, double hi)
{
    const json_t *v = get(f, name);
    if (!v)
        return otherwise;
    if (!json_is_number(v)) {
        field_fail(f, RXT_EFORMAT, "%s must be a number", name);
        return otherwise;
    }
    double x = json_number_value(v);
    if (!(x >= lo && x <= hi)) {
        field_fail(f, RXT_EINVAL, "%s is %g, it must be from %g to %g", name, x, lo, hi);
        return otherwise;
    }
    return x;
}

static int word_value(struct fields *f, const char *name, const json_t *v,
                      const struct field_word *table)
{
    char text[64];
    const char *s = json_string_value(v);
    if (!s) {
        field_fail(f, RXT_EFORMAT, "%s must be a string", name);
        return table->value;
    }
    for (const struct field_word *w = table; w->word; w++) {
        if (strcmp(w->word, s) == 0)
            return w->value;
    }
    field_fail(f, RXT_EUNSUPPORTED, "%s is '%s', which this runtime does not know", name,
               printable(text, s));
    return table->value;
}

int field_word(struct fields *f, const char *name, int otherwise, const struct field_word *table)
{
    const json_t *v = get(f, name);
    return v ? word_value(f, name, v, table) : otherwise;
}

int32_t field_words(struct fields *f, const char *name, const struct field_word *table, int *out,
                    int32_t cap)
{
    const json_t *list = get(f, name);
    if (!list)
        return 0;
    size_t n = json_array_size(list);
    if (!json_is_array(list)) {
        field_fail(f, RXT_EFORMAT, "%s must be a list", name);
        return 0;
    }
    if (n > (size_t)cap) {
        field_fail(f, RXT_ELIMIT, "%s has %zu entries, at most %d are allowed", name, n, cap);
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = word_value(f, name, json_array_get(list, i), table);
    return (int32_t)n;
}

void field_text(struct fields *f, const char *name, char *out, size_t size)
{
    const json_t *v = get(f, name);
    if (!v)
        return;
    const char *s = json_string_value(v);
    if (!s) {
        field_fail(f, RXT_EFORMAT, "%s must be a string", name);
        return;
    }
    if (strlen(s) >= size) {
        field_fail(f, RXT_ELIMIT, "%s has %zu bytes, at most %zu are allowed", name, strlen(s),
                   size - 1);
        return;
    }
    memcpy(out, s, strlen(s) + 1);
}

const json_t *field_object(struct fields *f, const char *name)
{
    const json_t *v = get(f, name);
    if (v && !json_is_object(v)) {
        field_fail(f, RXT_EFORMAT, "%s must be an object", name);
        return NULL;
    }
    return v;
}

void field_require(struct fields *f, const char *name)
{
    if (!field_has(f, name))
        field_fail(f, RXT_EFORMAT, "%s is missing", name);
}
