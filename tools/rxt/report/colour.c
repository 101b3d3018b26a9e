#include "tools/rxt/report/colour.h"

#include <math.h>
#include <stdlib.h>

/* From night blue over violet and orange to straw, brighter at every step. */
static const struct colour ramp[] = {
    {12, 12, 48},  {45, 20, 95},   {92, 28, 112},  {142, 40, 106},  {190, 58, 84},
    {226, 92, 54}, {247, 139, 32}, {250, 190, 60}, {250, 238, 150},
};
enum { LAST = sizeof ramp / sizeof *ramp - 1 };

static uint8_t between(uint8_t a, uint8_t b, double share)
{
    return (uint8_t)lround(a + share * (b - a));
}

struct colour colour_of(double share)
{
    if (!isfinite(share))
        return (struct colour){128, 128, 128};
    double at = fmin(fmax(share, 0), 1) * LAST;
    int i = at >= LAST ? LAST - 1 : (int)at;
    struct colour a = ramp[i], b = ramp[i + 1];
    return (struct colour){between(a.r, b.r, at - i), between(a.g, b.g, at - i),
                           between(a.b, b.b, at - i)};
}

struct colour colour_in(const struct map *m, float value)
{
    double range = (double)m->hi - (double)m->lo;
    if (!isfinite(value))
        return colour_of(NAN);
    return colour_of(range > 0 ? ((double)value - (double)m->lo) / range : 0);
}

static int32_t step_of(int32_t n, int32_t max)
{
    return max < 1 ? n : (n + max - 1) / max;
}

float *map_shrink(const struct map *m, int32_t max_rows, int32_t max_cols, int32_t *rows,
                  int32_t *cols, int32_t *step_row, int32_t *step_col)
{
    int32_t dr = *step_row = step_of(m->rows, max_rows),
            dc = *step_col = step_of(m->cols, max_cols);
    *rows = step_of(m->rows, dr);
    *cols = step_of(m->cols, dc);
    float *out = malloc((size_t)*rows * (size_t)*cols * sizeof *out);
    for (int32_t r = 0; out && r < *rows; r++)
        for (int32_t c = 0; c < *cols; c++) {
            double sum = 0;
            int n = 0;
            for (int32_t i = r * dr; i < m->rows && i < (r + 1) * dr; i++)
                for (int32_t k = c * dc; k < m->cols && k < (c + 1) * dc; k++) {
                    float v = m->value[(size_t)i * (size_t)m->cols + (size_t)k];
                    if (isfinite(v)) {
                        sum += (double)v;
                        n++;
                    }
                }
            out[(size_t)r * (size_t)*cols + (size_t)c] = n ? (float)(sum / n) : NAN;
        }
    return out;
}
