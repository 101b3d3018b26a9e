/* Charts in pictures. */
#ifndef RXT_TOOLS_REPORT_CHART_PNG_H
#define RXT_TOOLS_REPORT_CHART_PNG_H

#include "tools/rxt/report/chart.h"
#include "tools/rxt/report/image.h"

int chart_png_height(const struct chart *c); /* of one, its title included */
void chart_png_draw(struct image *m, const struct chart *c, const char *title, int y);

#endif
