/* Lines over an axis, laid out for any size: what an SVG and a PNG of the same chart share. */
#ifndef RXT_TOOLS_REPORT_CHART_H
#define RXT_TOOLS_REPORT_CHART_H

#include "tools/rxt/report/colour.h"

enum { CHART_TICKS = 16 };
struct tick {
    double at; /* its place, 0 .. 1 */
    char label[24];
};
struct frame { /* the ranges shown, and what stands at the axes */
    double x_low, x_high, y_low, y_high;
    struct tick x[CHART_TICKS], y[CHART_TICKS];
    int n_x, n_y;
};
void chart_frame(const struct chart *c, struct frame *f);
/* Places of values, 0 .. 1 from left and from below, cut to it; NAN for what cannot be shown. */
double chart_x(const struct chart *c, const struct frame *f, double x);
double chart_y(const struct chart *c, const struct frame *f, double y);
/* The colour of a series: reads on light and on dark. */
struct colour chart_colour(const struct series *s);

void chart_free(struct chart *c);
json_t *chart_json(const struct chart *c); /* NULL: out of memory */
void chart_svg(const struct chart *c, const char *title, FILE *f);

#endif
