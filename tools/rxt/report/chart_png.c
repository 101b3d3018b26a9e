#include "tools/rxt/report/chart_png.h"

#include <math.h>
#include <string.h>

enum { MARGIN = 16, LEFT = 100, WIDE = 720, HIGH = 240, SWATCH = 22 };

struct sheet {
    struct image *m;
    const struct chart *c;
    struct frame frame;
    int top;
};

static double across(const struct sheet *s, double x)
{
    return LEFT + WIDE * chart_x(s->c, &s->frame, x);
}

static double down(const struct sheet *s, double y)
{
    return s->top + HIGH * (1 - chart_y(s->c, &s->frame, y));
}

/* ---- strokes ------------------------------------------------------------------------------ */

/* How far a point is from a segment. */
static double distance(double x, double y, const double a[2], const double b[2])
{
    double dx = b[0] - a[0], dy = b[1] - a[1], length = dx * dx + dy * dy;
    double at = length > 0 ? ((x - a[0]) * dx + (y - a[1]) * dy) / length : 0;
    at = fmin(fmax(at, 0), 1);
    return hypot(x - a[0] - at * dx, y - a[1] - at * dy);
}

/* A line with smooth edges: each point is covered as far as it is near, in quarters, which pack
 * better. */
static void stroke(struct image *m, const double a[2], const double b[2], double width,
                   struct colour c)
{
    int x0 = (int)floor(fmin(a[0], b[0]) - width), x1 = (int)ceil(fmax(a[0], b[0]) + width);
    int y0 = (int)floor(fmin(a[1], b[1]) - width), y1 = (int)ceil(fmax(a[1], b[1]) + width);
    for (int y = y0; y <= y1; y++)
        for (int x = x0; x <= x1; x++) {
            double cover = 0.5 + width / 2 - distance(x + 0.5, y + 0.5, a, b);
            if (cover > 0)
                image_blend(m, x, y, c, fmin(ceil(4 * cover) / 4, 1));
        }
}

static void draw_line(const struct sheet *s, const struct series *one)
{
    double last[2] = {NAN, NAN};
    for (int i = 0; i < one->n; i++) {
        double here[2] = {across(s, one->x[i]), down(s, one->y[i])};
        if (isfinite(last[0]) && isfinite(last[1]) && isfinite(here[0]) && isfinite(here[1]))
            stroke(s->m, last, here, one->dashed ? 1.5 : 2.5, chart_colour(one));
        last[0] = here[0];
        last[1] = here[1];
    }
}

static void draw_points(const struct sheet *s, const struct series *one)
{
    for (int i = 0; i < one->n; i++) {
        double here[2] = {across(s, one->x[i]), down(s, one->y[i])};
        if (isfinite(here[0]) && isfinite(here[1]))
            stroke(s->m, here, here, 9, chart_colour(one));
    }
}

/* Column by column between two points, bottom and top by linear interpolation. */
static void draw_band(const struct sheet *s, const struct series *one)
{
    for (int i = 0; i + 1 < one->n; i++) {
        double x0 = across(s, one->x[i]), x1 = across(s, one->x[i + 1]);
        double low0 = down(s, one->y[i]), low1 = down(s, one->y[i + 1]);
        double top0 = down(s, one->top[i]), top1 = down(s, one->top[i + 1]);
        if (!isfinite(x0 + x1 + low0 + low1 + top0 + top1))
            continue;
        for (int x = (int)ceil(x0); x < x1; x++) {
            double at = (x - x0) / (x1 - x0), y1 = low0 + at * (low1 - low0);
            for (int y = (int)round(top0 + at * (top1 - top0)); y < y1; y++)
                image_blend(s->m, x, y, chart_colour(one), 0.25);
        }
    }
}

/* ---- letters ------------------------------------------------------------------------------ */

static int letters(const char *text)
{
    return ADVANCE * (int)strlen(text);
}

static void draw_axes(const struct sheet *s)
{
    static const struct colour faint = {216, 216, 226};
    const struct frame *a = &s->frame;
    int right = 0;
    for (int i = 0; i < a->n_y; i++) {
        int y = s->top + (int)(HIGH * (1 - a->y[i].at));
        image_fill(s->m, LEFT, y, WIDE, 1, faint);
        image_print(s->m, LEFT - 8 - letters(a->y[i].label), y - 8, a->y[i].label);
    }
    for (int i = 0; i < a->n_x; i++) {
        int x = LEFT + (int)(WIDE * a->x[i].at), left = x - letters(a->x[i].label) / 2;
        if (i > 0 && left < right + ADVANCE)
            continue;
        image_fill(s->m, x, s->top + HIGH, 1, 6, image_ink);
        image_print(s->m, left, s->top + HIGH + 8, a->x[i].label);
        right = left + letters(a->x[i].label);
    }
    image_fill(s->m, LEFT, s->top + HIGH, WIDE, 1, image_ink);
    image_print(s->m, LEFT + (WIDE - letters(s->c->x_name)) / 2, s->top + HIGH + 8 + LINE,
                s->c->x_name);
}

static int entry_width(const struct series *one)
{
    return SWATCH + 6 + letters(one->name) + 2 * ADVANCE;
}

/* Names of the series, on as many lines as they need; returns these, draws unless m is NULL. */
static int legend(struct image *m, const struct chart *c, int y)
{
    int x = MARGIN + letters(c->y_name) + 2 * ADVANCE, lines = 1;
    for (int i = 0; i < c->n; i++) {
        const struct series *one = &c->series[i];
        if (!one->name[0])
            continue;
        if (x + entry_width(one) > LEFT + WIDE + 2 * ADVANCE && x > MARGIN) {
            x = MARGIN;
            lines++;
            y += LINE;
        }
        bool band = one->mark == MARK_BAND;
        for (int k = 0; m && k < SWATCH * (band ? 12 : 4); k++)
            image_blend(m, x + k % SWATCH, y + (band ? 1 : 5) + k / SWATCH, chart_colour(one),
                        band ? 0.25 : 1);
        if (m)
            image_print(m, x + SWATCH + 6, y, one->name);
        x += entry_width(one);
    }
    return lines;
}

int chart_png_height(const struct chart *c)
{
    return LINE + LINE * legend(NULL, c, 0) + 12 + HIGH + 8 + 2 * LINE + MARGIN;
}

void chart_png_draw(struct image *m, const struct chart *c, const char *title, int y)
{
    struct sheet s = {.m = m, .c = c};
    chart_frame(c, &s.frame);
    image_print(m, MARGIN, y, title);
    image_print(m, MARGIN, y + LINE, c->y_name);
    s.top = y + LINE + LINE * legend(m, c, y + LINE) + 12;
    draw_axes(&s);
    for (int i = 0; i < c->n; i++) {
        const struct series *one = &c->series[i];
        if (one->mark == MARK_BAND)
            draw_band(&s, one);
        else if (one->mark == MARK_POINTS)
            draw_points(&s, one);
        else
            draw_line(&s, one);
    }
}
