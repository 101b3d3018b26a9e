/* The maps and charts of a report as one picture. */
#include "tools/rxt/report/chart_png.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the maps ---------------------------------------------------------------------------- */

enum { MARGIN = 16, LEFT = 72, WIDE = 768, MAX_ROWS = 256, CELL_HEIGHT = 18, SCALE_HEIGHT = 14 };

/* How one map is laid out. */
struct panel {
    const struct section *s;
    float *value;
    int32_t rows, cols, step_row, step_col;
    int cell_width, cell_height;
};

static bool lay_out(struct panel *p, const struct section *s)
{
    *p = (struct panel){.s = s};
    if (s->chart.x_name)
        return true;
    p->value =
        map_shrink(&s->map, MAX_ROWS, WIDE / 2, &p->rows, &p->cols, &p->step_row, &p->step_col);
    if (!p->value)
        return false;
    p->cell_width = WIDE / p->cols > 48 ? 48 : WIDE / p->cols;
    p->cell_height = p->rows > 32 ? CELL_HEIGHT / 2 : CELL_HEIGHT;
    return true;
}

/* Title, row name, cells, axis, scale. */
static int height_of(const struct panel *p)
{
    if (p->s->chart.x_name)
        return chart_png_height(&p->s->chart);
    return 2 * LINE + p->rows * p->cell_height + 2 * LINE + SCALE_HEIGHT + MARGIN;
}

static void print_number(struct image *m, int x, int y, int64_t n)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%lld", (long long)n);
    image_print(m, x, y, text);
}

static void draw_scale(struct image *m, const struct panel *p, int y)
{
    enum { WIDTH = 200 };
    const struct map *map = &p->s->map;
    char text[64];
    for (int i = 0; i < WIDTH; i++)
        image_fill(m, LEFT + i, y, 1, SCALE_HEIGHT, colour_of((i + 0.5) / WIDTH));
    (void)snprintf(text, sizeof text, "%.4g to %.4g", (double)map->lo, (double)map->hi);
    if (p->step_col > 1 || p->step_row > 1) {
        size_t n = strlen(text);
        (void)snprintf(text + n, sizeof text - n, ", cells are means of %d x %d", p->step_row,
                       p->step_col);
    }
    image_print(m, LEFT + WIDTH + 12, y, text);
}

static void draw(struct image *m, const struct panel *p, int y)
{
    const struct map *map = &p->s->map;
    if (p->s->chart.x_name) {
        chart_png_draw(m, &p->s->chart, p->s->title, y);
        return;
    }
    image_print(m, MARGIN, y, p->s->title);
    y += LINE;
    image_print(m, MARGIN, y, map->row_name);
    y += LINE;
    int32_t every = p->cell_height < LINE ? (LINE + p->cell_height - 1) / p->cell_height : 1;
    for (int32_t r = 0; r < p->rows; r++) {
        int top = y + r * p->cell_height;
        if (r % every == 0)
            print_number(m, MARGIN, top + 1, map->row_first + (int64_t)r * p->step_row);
        for (int32_t c = 0; c < p->cols; c++)
            image_fill(m, LEFT + c * p->cell_width, top, p->cell_width, p->cell_height,
                       colour_in(map, p->value[(size_t)r * (size_t)p->cols + (size_t)c]));
    }
    y += p->rows * p->cell_height + 4;
    int32_t step = 1;
    while (step * p->cell_width < 7 * ADVANCE)
        step *= 2;
    for (int32_t c = 0; c < p->cols; c += step)
        print_number(m, LEFT + c * p->cell_width, y, map->col_first + (int64_t)c * p->step_col);
    image_print(m, LEFT + p->cols * p->cell_width + 8, y, map->col_name);
    draw_scale(m, p, y + LINE);
}

static enum rxt_status draw_all(struct image *m, const struct panel *panel, int n, const char *path,
                                struct rxt_error *err)
{
    int y = MARGIN;
    m->width = LEFT + WIDE + 8 * ADVANCE + MARGIN;
    m->height = MARGIN;
    for (int i = 0; i < n; i++)
        m->height += height_of(&panel[i]);
    if (!image_create(m))
        return RXT_ENOMEM;
    for (int i = 0; i < n; i++) {
        draw(m, &panel[i], y);
        y += height_of(&panel[i]);
    }
    return image_save(m, path, err);
}

enum rxt_status report_png(const struct report *r, const char *path, struct rxt_error *err)
{
    struct image m = {0};
    int n = 0;
    bool good = true;
    struct panel *panel = calloc((size_t)r->n + 1, sizeof *panel);
    if (!panel)
        return RXT_ENOMEM;
    for (int i = 0; i < r->n && good; i++)
        if (r->section[i].map.rows || r->section[i].chart.x_name)
            good = lay_out(&panel[n++], &r->section[i]);
    enum rxt_status st = RXT_OK;
    if (!good)
        st = RXT_ENOMEM;
    else if (n == 0)
        st = rxt_fail(err, RXT_EINVAL,
                      "there is no map and no chart to draw (rxt inspect: add --session NAME)");
    else
        st = draw_all(&m, panel, n, path, err);
    for (int i = 0; i < n; i++)
        free(panel[i].value);
    free(panel);
    image_free(&m);
    return st;
}
