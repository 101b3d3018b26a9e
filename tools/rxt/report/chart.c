#include "tools/rxt/report/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- series ------------------------------------------------------------------------------- */

void chart_free(struct chart *c)
{
    for (int i = 0; i < c->n; i++)
        free(c->series[i].x);
    free(c->series);
    *c = (struct chart){0};
}

struct section *report_chart(struct report *r, const char *key, const char *title,
                             const struct chart *axes)
{
    struct section *s = report_words(r, key, title);
    s->chart = *axes;
    s->chart.series = NULL;
    s->chart.n = 0;
    return s;
}

void section_series(struct report *r, struct section *s, const struct series *one)
{
    struct chart *c = &s->chart;
    struct series *more = realloc(c->series, ((size_t)c->n + 1) * sizeof *more);
    size_t n = (size_t)one->n;
    if (!more) {
        r->status = RXT_ENOMEM;
        return;
    }
    c->series = more;
    struct series *to = &more[c->n];
    *to = *one;
    to->x = calloc(3 * n + 1, sizeof *to->x);
    if (!to->x) {
        r->status = RXT_ENOMEM;
        return;
    }
    to->y = to->x + n;
    to->top = to->y + n;
    for (size_t i = 0; i < n; i++) {
        to->x[i] = one->x[i];
        to->y[i] = one->y[i];
        to->top[i] = one->top ? one->top[i] : one->y[i];
    }
    c->n++;
}

struct colour chart_colour(const struct series *s)
{
    static const struct colour ink[] = {{47, 120, 196}, {224, 120, 32}, {38, 150, 90},
                                        {150, 95, 190}, {205, 62, 80},  {125, 125, 135}};
    return ink[(size_t)s->colour % (sizeof ink / sizeof *ink)];
}

/* ---- axes --------------------------------------------------------------------------------- */

static double to_scale(enum axis axis, double v)
{
    if (axis == AXIS_LINEAR)
        return v;
    return v > 0 ? log10(v) : (double)NAN;
}

static double place(enum axis axis, double low, double high, double v)
{
    double a = to_scale(axis, low), b = to_scale(axis, high);
    double at = (to_scale(axis, v) - a) / (b > a ? b - a : 1);
    return isfinite(at) ? fmin(fmax(at, 0), 1) : (double)NAN;
}

double chart_x(const struct chart *c, const struct frame *f, double x)
{
    return place(c->x_axis, f->x_low, f->x_high, x);
}

double chart_y(const struct chart *c, const struct frame *f, double y)
{
    return place(c->y_axis, f->y_low, f->y_high, y);
}

static void widen(double *low, double *high, enum axis axis, double v)
{
    if (!isfinite(to_scale(axis, v)))
        return;
    *low = fmin(*low, v);
    *high = fmax(*high, v);
}

static void find_ranges(const struct chart *c, struct frame *f)
{
    f->x_low = f->y_low = INFINITY;
    f->x_high = f->y_high = -INFINITY;
    for (int i = 0; i < c->n; i++)
        for (int k = 0; k < c->series[i].n; k++) {
            widen(&f->x_low, &f->x_high, c->x_axis, c->series[i].x[k]);
            widen(&f->y_low, &f->y_high, c->y_axis, c->series[i].y[k]);
            widen(&f->y_low, &f->y_high, c->y_axis, c->series[i].top[k]);
        }
    if (f->x_low > f->x_high)
        f->x_low = 0, f->x_high = 1;
    if (f->y_low > f->y_high)
        f->y_low = 0, f->y_high = 1;
    if (c->y_axis == AXIS_LINEAR) {
        f->y_low = fmin(f->y_low, 0); /* a flat line must look flat */
        f->y_high = f->y_high > f->y_low ? f->y_high * 1.05 : f->y_low + 1;
    }
    if (c->x_axis == AXIS_LINEAR && f->x_high <= f->x_low)
        f->x_high = f->x_low + 1;
}

static void add_tick(struct tick *t, int *n, double at, const char *format, double v)
{
    if (*n == CHART_TICKS || !isfinite(at))
        return;
    t[*n].at = at;
    /* NOLINTNEXTLINE(clang-diagnostic-format-nonliteral): one of two below */
    (void)snprintf(t[*n].label, sizeof t[*n].label, format, v);
    ++*n;
}

/* Whole multiples of 1, 2 or 5 times a power of ten, about seven of them. */
static int linear_ticks(struct tick *t, double low, double high)
{
    int n = 0;
    double rough = (high - low) / 7, power = pow(10, floor(log10(rough))), lead = rough / power;
    double step = (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10) * power;
    double first = ceil(low / step) * step;
    for (int k = 0; k < CHART_TICKS && first + k * step <= high * (1 + 1e-9); k++)
        add_tick(t, &n, place(AXIS_LINEAR, low, high, first + k * step), "%.6g", first + k * step);
    return n;
}

/* 1, 2 and 5 of every decade, or only 1 where there are more decades than there is room for. */
static int log_ticks(struct tick *t, double low, double high, double decades)
{
    static const double lead[] = {1, 2, 5};
    int n = 0, all = log10(high / low) > decades ? 1 : 3;
    for (int p = (int)floor(log10(low)); p <= (int)ceil(log10(high)); p++)
        for (int i = 0; i < all; i++) {
            double v = lead[i] * pow(10, p);
            if (v >= low * (1 - 1e-9) && v <= high * (1 + 1e-9))
                add_tick(t, &n, place(AXIS_LOG, low, high, v), "%.6g", v);
        }
    return n;
}

/* x is 1 / (1 - share): each factor of ten is one more nine. */
static int share_ticks(struct tick *t, double low, double high)
{
    static const double share[] = {0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999};
    int n = 0;
    for (size_t i = 0; i < sizeof share / sizeof *share; i++) {
        double v = 1 / (1 - share[i]);
        if (v >= low && v <= high * (1 + 1e-9))
            add_tick(t, &n, place(AXIS_LOG, low, high, v), "%.6g %%", 100 * share[i]);
    }
    return n;
}

static int ticks(struct tick *t, enum axis axis, double low, double high, double decades)
{
    return axis == AXIS_LINEAR ? linear_ticks(t, low, high)
           : axis == AXIS_LOG  ? log_ticks(t, low, high, decades)
                               : share_ticks(t, low, high);
}

void chart_frame(const struct chart *c, struct frame *f)
{
    find_ranges(c, f);
    f->n_x = ticks(f->x, c->x_axis, f->x_low, f->x_high, 4.5);
    f->n_y = ticks(f->y, c->y_axis, f->y_low, f->y_high, 2.5);
}

/* ---- JSON --------------------------------------------------------------------------------- */

static json_t *numbers(const double *v, int n)
{
    json_t *a = json_array();
    for (int i = 0; i < n; i++)
        (void)json_array_append_new(a, plain_real(v[i]));
    return a;
}

json_t *chart_json(const struct chart *c)
{
    json_t *all = json_array();
    for (int i = 0; i < c->n; i++) {
        const struct series *s = &c->series[i];
        json_t *one = json_pack("{ss so so}", "name", s->name, "x", numbers(s->x, s->n), "y",
                                numbers(s->y, s->n));
        if (s->mark == MARK_BAND)
            (void)json_object_set_new(one, "top", numbers(s->top, s->n));
        (void)json_array_append_new(all, one);
    }
    return json_pack("{ss ss so}", "x", c->x_name, "y", c->y_name, "series", all);
}
