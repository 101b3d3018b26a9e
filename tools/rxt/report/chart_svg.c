/* A chart as inline SVG: letters and axes have the colours of the page, or, lifted out of it into a
 * file, a grey that reads on light and on dark. */
#include "tools/rxt/report/chart.h"

#include <math.h>
#include <string.h>

enum { LEFT = 64, TOP = 26, WIDE = 800, HIGH = 250, RIGHT = 30, FOOT = 40, LETTER = 7 };

struct sheet {
    FILE *f;
    const struct chart *c;
    struct frame frame;
};

static double across(const struct sheet *s, double x)
{
    return LEFT + WIDE * chart_x(s->c, &s->frame, x);
}

static double down(const struct sheet *s, double y)
{
    return TOP + HIGH * (1 - chart_y(s->c, &s->frame, y));
}

static void put_axes(const struct sheet *s)
{
    const struct frame *a = &s->frame;
    for (int i = 0; i < a->n_y; i++) {
        double y = TOP + HIGH * (1 - a->y[i].at);
        (void)fprintf(s->f,
                      "<line class=\"grid\" stroke=\"#80808860\" x1=\"%d\" y1=\"%.1f\" x2=\"%d\" "
                      "y2=\"%.1f\"/>"
                      "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                      LEFT, y, LEFT + WIDE, y, LEFT - 6, y + 4, a->y[i].label);
    }
    for (int i = 0; i < a->n_x; i++) {
        double x = LEFT + WIDE * a->x[i].at;
        (void)fprintf(s->f,
                      "<line class=\"grid\" stroke=\"#80808860\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" "
                      "y2=\"%d\"/>"
                      "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
                      x, TOP + HIGH, x, TOP + HIGH + 5, x, TOP + HIGH + 18, a->x[i].label);
    }
    (void)fprintf(s->f,
                  "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>"
                  "<text x=\"8\" y=\"14\">%s</text>\n",
                  LEFT + WIDE / 2, TOP + HIGH + 34, s->c->x_name, s->c->y_name);
}

static void put_point(const struct sheet *s, double x, double y, char *mark)
{
    x = across(s, x);
    y = down(s, y);
    if (!isfinite(x) || !isfinite(y))
        return;
    (void)fprintf(s->f, "%c%.1f %.1f", *mark, x, y);
    *mark = 'L';
}

static void put_series(const struct sheet *s, const struct series *one)
{
    struct colour k = chart_colour(one);
    char mark = 'M';
    if (one->mark == MARK_POINTS) {
        for (int i = 0; i < one->n; i++)
            if (isfinite(across(s, one->x[i])) && isfinite(down(s, one->y[i])))
                (void)fprintf(s->f,
                              "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"#%02x%02x%02x\">"
                              "<title>%.5g, %.5g</title></circle>\n",
                              across(s, one->x[i]), down(s, one->y[i]), k.r, k.g, k.b, one->x[i],
                              one->y[i]);
        return;
    }
    (void)fputs("<path d=\"", s->f);
    for (int i = 0; i < one->n; i++)
        put_point(s, one->x[i], one->y[i], &mark);
    for (int i = one->n; one->mark == MARK_BAND && i-- > 0;)
        put_point(s, one->x[i], one->top[i], &mark);
    if (one->mark == MARK_BAND)
        (void)fprintf(s->f, "Z\" fill=\"#%02x%02x%02x\" fill-opacity=\"0.25\"/>\n", k.r, k.g, k.b);
    else
        (void)fprintf(s->f, "\" fill=\"none\" stroke=\"#%02x%02x%02x\" stroke-width=\"1.8\"%s/>\n",
                      k.r, k.g, k.b, one->dashed ? " stroke-dasharray=\"6 4\"" : "");
}

static void put_legend(const struct sheet *s)
{
    int x = LEFT + 110;
    for (int i = 0; i < s->c->n; i++) {
        const struct series *one = &s->c->series[i];
        struct colour k = chart_colour(one);
        if (!one->name[0])
            continue;
        (void)fprintf(s->f,
                      "<rect x=\"%d\" y=\"%d\" width=\"16\" height=\"%d\" fill=\"#%02x%02x%02x\" "
                      "fill-opacity=\"%s\"/><text x=\"%d\" y=\"14\">%s</text>\n",
                      x, one->mark == MARK_BAND ? 5 : 9, one->mark == MARK_BAND ? 10 : 3, k.r, k.g,
                      k.b, one->mark == MARK_BAND ? "0.25" : "1", x + 21, one->name);
        x += 40 + LETTER * (int)strlen(one->name);
    }
}

void chart_svg(const struct chart *c, const char *title, FILE *f)
{
    struct sheet s = {.f = f, .c = c};
    chart_frame(c, &s.frame);
    (void)fprintf(f,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
                  "role=\"img\" aria-label=\"%s\" "
                  "data-series=\"%d\" font-family=\"sans-serif\" font-size=\"11\" "
                  "fill=\"#808088\" stroke-width=\"1\">\n",
                  LEFT + WIDE + RIGHT, TOP + HIGH + FOOT, LEFT + WIDE + RIGHT, title, c->n);
    put_axes(&s);
    for (int i = 0; i < c->n; i++)
        put_series(&s, &c->series[i]);
    put_legend(&s);
    (void)fputs("</svg>\n", f);
}
