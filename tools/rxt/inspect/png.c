/* The maps of a report as one picture: PNG (ISO/IEC 15948) of 8-bit RGB, written with zlib alone.
 */
#include "tools/rxt/inspect/colour.h"
#include "tools/rxt/inspect/font.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

/* ---- the file ---------------------------------------------------------------------------- */

struct image {
    int width, height;
    uint8_t *rgb; /* [height, 1 + 3 * width]: each line begins with its filter, 0 */
};

static size_t line_bytes(const struct image *m)
{
    return 1 + 3 * (size_t)m->width;
}

static void put32(uint8_t out[4], size_t v)
{
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(v >> (24 - 8 * i));
}

static bool write_chunk(FILE *f, const char type[5], const uint8_t *data, size_t n)
{
    uint8_t length[4], sum[4];
    uLong crc = crc32(0, (const Bytef *)type, 4);
    if (n)
        crc = crc32(crc, data, (uInt)n);
    put32(length, n);
    put32(sum, crc);
    return fwrite(length, 1, 4, f) == 4 && fwrite(type, 1, 4, f) == 4 &&
           (n == 0 || fwrite(data, 1, n, f) == n) && fwrite(sum, 1, 4, f) == 4;
}

static bool write_image(FILE *f, const struct image *m, const uint8_t *packed, size_t n)
{
    static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    uint8_t header[13] = {[8] = 8, [9] = 2}; /* 8 bits, RGB; deflate, no interlace */
    put32(header, (size_t)m->width);
    put32(header + 4, (size_t)m->height);
    return fwrite(signature, 1, sizeof signature, f) == sizeof signature &&
           write_chunk(f, "IHDR", header, sizeof header) && write_chunk(f, "IDAT", packed, n) &&
           write_chunk(f, "IEND", NULL, 0);
}

static enum rxt_status save(const struct image *m, const char *path, struct rxt_error *err)
{
    uLong bytes = (uLong)line_bytes(m) * (uLong)m->height;
    uLongf n = compressBound(bytes);
    uint8_t *packed = malloc(n);
    if (!packed || compress2(packed, &n, m->rgb, bytes, 9) != Z_OK) {
        free(packed);
        return RXT_ENOMEM;
    }
    FILE *f = fopen(path, "wb");
    bool good = f && write_image(f, m, packed, n);
    if (f && fclose(f) != 0)
        good = false;
    free(packed);
    if (!good)
        return rxt_fail(err, RXT_EIO, "cannot write %.180s: %s", path, strerror(errno));
    return RXT_OK;
}

/* ---- drawing ----------------------------------------------------------------------------- */

static const struct colour paper = {255, 255, 255}, ink = {32, 32, 40};

static void fill(struct image *m, int x, int y, int w, int h, struct colour c)
{
    for (int i = y < 0 ? 0 : y; i < y + h && i < m->height; i++)
        for (int k = x < 0 ? 0 : x; k < x + w && k < m->width; k++) {
            uint8_t *p = m->rgb + (size_t)i * line_bytes(m) + 1 + 3 * (size_t)k;
            p[0] = c.r;
            p[1] = c.g;
            p[2] = c.b;
        }
}

enum { POINT = 2, ADVANCE = POINT * (FONT_WIDTH + 1), LINE = POINT * (FONT_HEIGHT + 2) };

static void print(struct image *m, int x, int y, const char *text)
{
    for (; *text; text++, x += ADVANCE) {
        const uint8_t *rows = font[(unsigned char)*text < 128 ? (unsigned char)*text : '?'];
        for (int r = 0; r < FONT_HEIGHT; r++)
            for (int c = 0; c < FONT_WIDTH; c++)
                if (rows[r] >> (FONT_WIDTH - 1 - c) & 1)
                    fill(m, x + POINT * c, y + POINT * r, POINT, POINT, ink);
    }
}

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
    return 2 * LINE + p->rows * p->cell_height + 2 * LINE + SCALE_HEIGHT + MARGIN;
}

static void print_number(struct image *m, int x, int y, int64_t n)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%lld", (long long)n);
    print(m, x, y, text);
}

static void draw_scale(struct image *m, const struct panel *p, int y)
{
    enum { WIDTH = 200 };
    const struct map *map = &p->s->map;
    char text[64];
    for (int i = 0; i < WIDTH; i++)
        fill(m, LEFT + i, y, 1, SCALE_HEIGHT, colour_of((i + 0.5) / WIDTH));
    (void)snprintf(text, sizeof text, "%.4g to %.4g", (double)map->lo, (double)map->hi);
    if (p->step_col > 1 || p->step_row > 1) {
        size_t n = strlen(text);
        (void)snprintf(text + n, sizeof text - n, ", cells are means of %d x %d", p->step_row,
                       p->step_col);
    }
    print(m, LEFT + WIDTH + 12, y, text);
}

static void draw(struct image *m, const struct panel *p, int y)
{
    const struct map *map = &p->s->map;
    print(m, MARGIN, y, p->s->title);
    y += LINE;
    print(m, MARGIN, y, map->row_name);
    y += LINE;
    int32_t every = p->cell_height < LINE ? (LINE + p->cell_height - 1) / p->cell_height : 1;
    for (int32_t r = 0; r < p->rows; r++) {
        int top = y + r * p->cell_height;
        if (r % every == 0)
            print_number(m, MARGIN, top + 1, map->row_first + (int64_t)r * p->step_row);
        for (int32_t c = 0; c < p->cols; c++)
            fill(m, LEFT + c * p->cell_width, top, p->cell_width, p->cell_height,
                 colour_in(map, p->value[(size_t)r * (size_t)p->cols + (size_t)c]));
    }
    y += p->rows * p->cell_height + 4;
    int32_t step = 1;
    while (step * p->cell_width < 7 * ADVANCE)
        step *= 2;
    for (int32_t c = 0; c < p->cols; c += step)
        print_number(m, LEFT + c * p->cell_width, y, map->col_first + (int64_t)c * p->step_col);
    print(m, LEFT + p->cols * p->cell_width + 8, y, map->col_name);
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
    m->rgb = calloc((size_t)m->height, line_bytes(m));
    if (!m->rgb)
        return RXT_ENOMEM;
    fill(m, 0, 0, m->width, m->height, paper);
    for (int i = 0; i < n; i++) {
        draw(m, &panel[i], y);
        y += height_of(&panel[i]);
    }
    return save(m, path, err);
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
        if (r->section[i].map.rows)
            good = lay_out(&panel[n++], &r->section[i]);
    enum rxt_status st = RXT_OK;
    if (!good)
        st = RXT_ENOMEM;
    else if (n == 0)
        st = rxt_fail(err, RXT_EINVAL, "--png: there is no map to draw: add --session NAME");
    else
        st = draw_all(&m, panel, n, path, err);
    for (int i = 0; i < n; i++)
        free(panel[i].value);
    free(panel);
    free(m.rgb);
    return st;
}
