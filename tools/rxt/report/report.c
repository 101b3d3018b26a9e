#include "tools/rxt/report/report.h"

#include "tools/rxt/report/chart.h"

#include "kernels/base/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void report_open(struct report *r, const char *title, ...)
{
    va_list args;
    *r = (struct report){0};
    va_start(args, title);
    (void)vsnprintf(r->title, sizeof r->title, title, args);
    va_end(args);
}

static void section_free(struct section *s)
{
    json_decref(s->rows);
    json_decref(s->map.row_label);
    free(s->map.value);
    chart_free(&s->chart);
}

void report_close(struct report *r)
{
    for (int i = 0; i < r->n; i++)
        section_free(&r->section[i]);
    section_free(&r->spill);
    free(r->section);
    *r = (struct report){0};
}

static struct section *spill(struct report *r)
{
    r->status = RXT_ENOMEM;
    section_free(&r->spill);
    r->spill = (struct section){0};
    return &r->spill;
}

static struct section *add(struct report *r, const char *key, const char *title)
{
    if (r->n == r->cap) {
        int cap = r->cap ? 2 * r->cap : 16;
        struct section *more = realloc(r->section, (size_t)cap * sizeof *more);
        if (!more)
            return spill(r);
        r->section = more;
        r->cap = cap;
    }
    struct section *s = &r->section[r->n++];
    *s = (struct section){0};
    (void)snprintf(s->key, sizeof s->key, "%s", key);
    (void)snprintf(s->title, sizeof s->title, "%s", title);
    return s;
}

struct section *report_words(struct report *r, const char *key, const char *title)
{
    return add(r, key, title);
}

struct section *report_table(struct report *r, const char *key, const char *title,
                             const struct column *column, int n_column)
{
    struct section *s = add(r, key, title);
    s->column = column;
    s->n_column = n_column;
    s->rows = json_array();
    return s->rows ? s : spill(r);
}

struct section *report_facts(struct report *r, const char *key, const char *title,
                             const struct column *column, int n_column)
{
    struct section *s = report_table(r, key, title, column, n_column);
    s->facts = true;
    return s;
}

struct section *report_map(struct report *r, const char *key, const char *title, int32_t rows,
                           int32_t cols, const float *value)
{
    struct section *s = add(r, key, title);
    size_t n = (size_t)rows * (size_t)cols;
    s->map = (struct map){.value = malloc(n * sizeof *value), .row_name = "", .col_name = ""};
    if (!s->map.value)
        return spill(r);
    s->map.rows = rows;
    s->map.cols = cols;
    s->map.lo = INFINITY;
    s->map.hi = -INFINITY;
    memcpy(s->map.value, value, n * sizeof *value);
    for (size_t i = 0; i < n; i++)
        if (isfinite(value[i])) {
            s->map.lo = fminf(s->map.lo, value[i]);
            s->map.hi = fmaxf(s->map.hi, value[i]);
        }
    if (s->map.lo > s->map.hi)
        s->map.lo = s->map.hi = 0;
    return s;
}

void section_about(struct section *s, const char *about, ...)
{
    va_list args;
    va_start(args, about);
    (void)vsnprintf(s->about, sizeof s->about, about, args);
    va_end(args);
}

void report_row(struct report *r, struct section *s, json_t *object)
{
    if (!object || !s->rows || json_array_append_new(s->rows, object) != 0)
        r->status = RXT_ENOMEM;
}

void report_rows(struct report *r, struct section *s, json_t *array)
{
    if (!array)
        r->status = RXT_ENOMEM;
    json_decref(s->rows);
    s->rows = json_incref(array);
}

bool column_used(const struct section *s, int column)
{
    size_t i;
    const json_t *row;
    json_array_foreach(s->rows, i, row)
    {
        const json_t *value = json_object_get(row, s->column[column].key);
        if (value && !json_is_null(value))
            return true;
    }
    return false;
}

/* ---- values ----------------------------------------------------------------------------- */

/* Control characters of ASCII and C1: a terminal may take them for commands. A line break and a
 * tab are text. */
static bool obeyed(int32_t cp)
{
    return (cp < 0x20 && cp != '\n' && cp != '\t') || (cp >= 0x7F && cp < 0xA0);
}

json_t *plain_text(const char *s)
{
    size_t n = strlen(s), used = 0;
    char *out = malloc(3 * n + 1);
    if (!out)
        return NULL;
    for (size_t at = 0; at < n;) {
        struct utf8_step step = utf8_next(s + at, n - at);
        bool good = step.cp >= 0 && !obeyed(step.cp);
        size_t len = step.cp == UTF8_CUT ? n - at : step.len;
        if (good)
            memcpy(out + used, s + at, len);
        used += good ? len : utf8_put(0xFFFD, out + used);
        at += len;
    }
    json_t *text = json_stringn(out, used);
    free(out);
    return text;
}

json_t *plain_real(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static void bytes_text(char out[96], double bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int i = 0;
    for (; bytes >= 1024 && i < 4; i++)
        bytes /= 1024;
    (void)snprintf(out, 96, i ? "%.1f %s" : "%.0f %s", bytes, unit[i]);
}

static void age_text(char out[96], double us)
{
    static const struct {
        double us;
        const char *name;
    } unit[] = {{86400e6, "d"}, {3600e6, "h"}, {60e6, "min"}};
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++)
        if (us >= unit[i].us) {
            (void)snprintf(out, 96, "%.0f %s", floor(us / unit[i].us), unit[i].name);
            return;
        }
    (void)snprintf(out, 96, "%.0f s", us > 0 ? floor(us / 1e6) : 0);
}

static void date_text(char out[96], json_int_t us)
{
    time_t t = (time_t)(us / 1000000);
    struct tm utc;
    if (!gmtime_r(&t, &utc) || strftime(out, 96, "%Y-%m-%d %H:%M:%S", &utc) == 0)
        (void)snprintf(out, 96, "%" JSON_INTEGER_FORMAT " us", us);
}

/* As much of a text as fits, on one line. */
static void text_text(char out[96], const char *s)
{
    size_t n = strlen(s), used = 0;
    for (size_t at = 0; at < n && used + 8 < 96;) {
        size_t len;
        int32_t cp = utf8_read(s + at, &len);
        if (cp == '\n' || cp == '\t')
            out[used++] = ' ';
        else
            for (size_t i = 0; i < len; i++)
                out[used++] = s[at + i];
        at += len;
        if (used + 8 >= 96 && at < n)
            used += (size_t)snprintf(out + used, 4, "...");
    }
    out[used] = '\0';
}

void cell_text(char out[96], enum cell cell, const json_t *value)
{
    double x = json_number_value(value);
    if (!value || json_is_null(value))
        (void)snprintf(out, 96, "-");
    else if (json_is_string(value))
        text_text(out, json_string_value(value));
    else if (json_is_boolean(value))
        (void)snprintf(out, 96, "%s", json_is_true(value) ? "yes" : "no");
    else if (cell == CELL_BYTES)
        bytes_text(out, x);
    else if (cell == CELL_DATE)
        date_text(out, json_integer_value(value));
    else if (cell == CELL_AGE)
        age_text(out, x);
    else if (cell == CELL_SHARE)
        (void)snprintf(out, 96, "%.1f%%", 100 * x);
    else if (json_is_integer(value))
        (void)snprintf(out, 96, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else
        (void)snprintf(out, 96, "%.4g", x);
}

/* ---- JSON ------------------------------------------------------------------------------- */

static json_t *map_json(const struct map *m)
{
    json_t *values = json_array();
    for (int32_t r = 0; r < m->rows; r++) {
        json_t *row = json_array();
        for (int32_t c = 0; c < m->cols; c++)
            (void)json_array_append_new(
                row, plain_real(m->value[(size_t)r * (size_t)m->cols + (size_t)c]));
        (void)json_array_append_new(values, row);
    }
    return json_pack("{ss ss sI sI sf sf so sO*}", "row", m->row_name, "column", m->col_name,
                     "first_row", (json_int_t)m->row_first, "first_column",
                     (json_int_t)m->col_first, "low", (double)m->lo, "high", (double)m->hi,
                     "values", values, "row_labels", m->row_label);
}

json_t *report_json(const struct report *r)
{
    json_t *o = json_pack("{ss}", "title", r->title);
    for (int i = 0; o && i < r->n; i++) {
        const struct section *s = &r->section[i];
        json_t *value;
        if (s->map.rows)
            value = map_json(&s->map);
        else if (s->chart.x_name)
            value = chart_json(&s->chart);
        else if (!s->rows)
            value = json_string(s->about);
        else
            value = json_incref(s->facts ? json_array_get(s->rows, 0) : s->rows);
        if (!value || json_object_set_new(o, s->key, value) != 0) {
            json_decref(o);
            return NULL;
        }
    }
    return o;
}
