/* The colours of maps, the same in every picture. They carry their own background, so that they
 * read on light and on dark; brightness alone orders them, for print and for eyes that see few
 * hues. */
#ifndef RXT_TOOLS_REPORT_COLOUR_H
#define RXT_TOOLS_REPORT_COLOUR_H

#include "tools/rxt/report/report.h"

struct colour {
    uint8_t r, g, b;
};
/* Of a share of the scale, 0 .. 1 (cut to it); a grey for NAN. */
struct colour colour_of(double share);
/* Of a value on the scale of a map. */
struct colour colour_in(const struct map *m, float value);

/* A map with at most this many rows and columns: each of its cells is the mean of a block (the
 * largest size that keeps the blocks whole); blocks without numbers stay NAN. *step_row and
 * *step_col = the blocks. NULL: out of memory; free() it. */
float *map_shrink(const struct map *m, int32_t max_rows, int32_t max_cols, int32_t *rows,
                  int32_t *cols, int32_t *step_row, int32_t *step_col);

#endif
