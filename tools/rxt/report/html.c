/* A report as one page: no script, no network, inline SVG; it follows a dark desktop and prints. */
#include "tools/rxt/report/chart.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char head[] =
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
    "'unsafe-inline'\">\n";
static const char style[] =
    "<style>\n"
    ":root { color-scheme: light dark; --ink: #202028; --paper: #fff; --faint: #667; --line: #dde; "
    "}\n"
    "@media (prefers-color-scheme: dark) { :root { --ink: #e6e6ec; --paper: #16161c; --faint: "
    "#99a; --line: #334; } }\n"
    "body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); "
    "max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }\n"
    "h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }\n"
    "p { color: var(--faint); margin: .4rem 0; }\n"
    ".wide { overflow-x: auto; }\n"
    "table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }\n"
    "th, td { padding: .15rem .6rem; text-align: left; border-bottom: 1px solid var(--line); "
    "vertical-align: top; }\n"
    "th { color: var(--faint); font-weight: 600; } .n { text-align: right; }\n"
    "td { white-space: pre-wrap; } .n, .d { white-space: nowrap; }\n"
    "svg { max-width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: "
    "var(--ink); }\n"
    ".grid { stroke: var(--line); stroke-width: 1; }\n"
    "@media print { :root { --ink: #000; --paper: #fff; --faint: #444; --line: #ccc; }\n"
    "body { max-width: none; margin: 0; padding: 0; } section { break-inside: avoid-page; }\n"
    "h2 { break-after: avoid-page; } .wide { overflow: visible; } table { font-size: 7.5pt; }\n"
    "p { font-size: 8.5pt; } th, td { padding: .1rem .3rem; }\n"
    "svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }\n"
    "</style>\n";

/* Text between tags and in attributes. */
static void put_text(FILE *f, const char *s)
{
    for (; *s; s++)
        switch (*s) {
        case '&':
            (void)fputs("&amp;", f);
            break;
        case '<':
            (void)fputs("&lt;", f);
            break;
        case '>':
            (void)fputs("&gt;", f);
            break;
        case '"':
            (void)fputs("&quot;", f);
            break;
        case '\'':
            (void)fputs("&#39;", f);
            break;
        default:
            (void)fputc(*s, f);
        }
}

static void put_value(FILE *f, enum cell cell, const json_t *value)
{
    char text[96];
    if (json_is_string(value)) {
        put_text(f, json_string_value(value)); /* whole: a page has room */
        return;
    }
    cell_text(text, cell, value);
    put_text(f, text);
}

/* Numbers stand right; only long texts are broken into lines. */
static const char *class_of(enum cell cell, const json_t *value)
{
    enum { SHORT = 24 };
    if (cell == CELL_TEXT)
        return json_string_length(value) > SHORT ? "" : " class=\"d\"";
    return cell == CELL_DATE ? " class=\"d\"" : " class=\"n\"";
}

static void put_facts(FILE *f, const struct section *s)
{
    const json_t *row = json_array_get(s->rows, 0);
    (void)fputs("<table>\n", f);
    for (int c = 0; c < s->n_column; c++) {
        if (!column_used(s, c))
            continue;
        (void)fputs("<tr><th>", f);
        put_text(f, s->column[c].heading);
        (void)fputs("</th><td>", f);
        put_value(f, s->column[c].cell, json_object_get(row, s->column[c].key));
        (void)fputs("</td></tr>\n", f);
    }
    (void)fputs("</table>\n", f);
}

static void put_table(FILE *f, const struct section *s)
{
    size_t i;
    const json_t *row;
    (void)fputs("<div class=\"wide\"><table>\n<thead><tr>", f);
    for (int c = 0; c < s->n_column; c++)
        if (column_used(s, c)) {
            (void)fprintf(f, "<th%s>", class_of(s->column[c].cell, NULL));
            put_text(f, s->column[c].heading);
            (void)fputs("</th>", f);
        }
    (void)fputs("</tr></thead>\n<tbody>\n", f);
    json_array_foreach(s->rows, i, row)
    {
        (void)fputs("<tr>", f);
        for (int c = 0; c < s->n_column; c++)
            if (column_used(s, c)) {
                const json_t *value = json_object_get(row, s->column[c].key);
                (void)fprintf(f, "<td%s>", class_of(s->column[c].cell, value));
                put_value(f, s->column[c].cell, value);
                (void)fputs("</td>", f);
            }
        (void)fputs("</tr>\n", f);
    }
    (void)fputs("</tbody></table></div>\n", f);
}

/* ---- maps -------------------------------------------------------------------------------- */

enum { LEFT = 90, WIDE = 800, MAX_ROWS = 128, MAX_COLS = 200, CELL_HEIGHT = 15, FOOT = 48 };

struct grid {
    const struct map *m;
    const float *value;
    int32_t rows, cols, step_row, step_col;
    double width;
};

static void put_cells(FILE *f, const struct grid *g)
{
    for (int32_t r = 0; r < g->rows; r++) {
        char label[96] = "";
        const json_t *text = json_array_get(g->m->row_label, (size_t)r * (size_t)g->step_row);
        if (text)
            cell_text(label, CELL_TEXT, text);
        (void)fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">", LEFT - 6,
                      r * CELL_HEIGHT + 12);
        put_text(f, label);
        (void)fprintf(f, "%s%lld</text>\n", *label ? " " : "",
                      (long long)g->m->row_first + (long long)r * g->step_row);
        for (int32_t c = 0; c < g->cols; c++) {
            float v = g->value[(size_t)r * (size_t)g->cols + (size_t)c];
            struct colour k = colour_in(g->m, v);
            (void)fprintf(f,
                          "<rect x=\"%.4g\" y=\"%d\" width=\"%.4g\" height=\"%d\" "
                          "fill=\"#%02x%02x%02x\"><title>%s %lld, %s %lld: %.4g</title></rect>\n",
                          LEFT + c * g->width, r * CELL_HEIGHT, g->width + 0.3, CELL_HEIGHT, k.r,
                          k.g, k.b, g->m->row_name,
                          (long long)g->m->row_first + (long long)r * g->step_row, g->m->col_name,
                          (long long)g->m->col_first + (long long)c * g->step_col, (double)v);
        }
    }
}

static void put_axes(FILE *f, const struct grid *g)
{
    int y = g->rows * CELL_HEIGHT + 14;
    int32_t every = 1;
    while (every * g->width < 44)
        every *= 2;
    for (int32_t c = 0; c < g->cols; c += every)
        (void)fprintf(f, "<text x=\"%.4g\" y=\"%d\">%lld</text>\n", LEFT + c * g->width, y,
                      (long long)g->m->col_first + (long long)c * g->step_col);
    (void)fprintf(f, "<text x=\"%.4g\" y=\"%d\">%s</text>\n", LEFT + g->cols * g->width + 6, y,
                  g->m->col_name);
    (void)fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", LEFT - 6, y,
                  g->m->row_name);
    enum { STEPS = 40, STEP = 5 };
    for (int i = 0; i < STEPS; i++) {
        struct colour k = colour_of((i + 0.5) / STEPS);
        (void)fprintf(f,
                      "<rect x=\"%d\" y=\"%d\" width=\"%d.3\" height=\"12\" "
                      "fill=\"#%02x%02x%02x\"/>",
                      LEFT + i * STEP, y + 10, STEP, k.r, k.g, k.b);
    }
    (void)fprintf(f, "<text x=\"%d\" y=\"%d\">%.4g to %.4g", LEFT + STEPS * STEP + 8, y + 20,
                  (double)g->m->lo, (double)g->m->hi);
    if (g->step_row > 1 || g->step_col > 1)
        (void)fprintf(f, "; a cell is the mean of %d x %d", g->step_row, g->step_col);
    (void)fputs("</text>\n", f);
}

static enum rxt_status put_map(FILE *f, const struct section *s)
{
    struct grid g = {.m = &s->map};
    float *value =
        map_shrink(&s->map, MAX_ROWS, MAX_COLS, &g.rows, &g.cols, &g.step_row, &g.step_col);
    if (!value)
        return RXT_ENOMEM;
    g.value = value;
    g.width = fmin((double)WIDE / g.cols, 40);
    (void)fprintf(f, "<svg viewBox=\"0 0 %d %d\" width=\"%d\" role=\"img\" aria-label=\"",
                  LEFT + WIDE + 60, g.rows * CELL_HEIGHT + FOOT, LEFT + WIDE + 60);
    put_text(f, s->title);
    (void)fprintf(f, "\" data-rows=\"%d\" data-columns=\"%d\" shape-rendering=\"crispEdges\">\n",
                  s->map.rows, s->map.cols);
    put_cells(f, &g);
    put_axes(f, &g);
    (void)fputs("</svg>\n", f);
    free(value);
    return RXT_OK;
}

/* ------------------------------------------------------------------------------------------ */

static enum rxt_status put_section(FILE *f, const struct section *s)
{
    enum rxt_status st = RXT_OK;
    (void)fprintf(f, "<section id=\"%s\">\n<h2>", s->key);
    put_text(f, s->title);
    (void)fputs("</h2>\n", f);
    if (s->map.rows)
        st = put_map(f, s);
    else if (s->chart.x_name)
        chart_svg(&s->chart, s->title, f);
    else if (s->facts)
        put_facts(f, s);
    else if (s->rows)
        put_table(f, s);
    if (s->about[0]) {
        (void)fputs("<p>", f);
        put_text(f, s->about);
        (void)fputs("</p>\n", f);
    }
    (void)fputs("</section>\n", f);
    return st;
}

enum rxt_status report_html(const struct report *r, const char *path, struct rxt_error *err)
{
    enum rxt_status st = RXT_OK;
    FILE *f = fopen(path, "wb");
    if (!f)
        return rxt_fail(err, RXT_EIO, "cannot write %.180s: %s", path, strerror(errno));
    (void)fprintf(f, "%s<title>", head);
    put_text(f, r->title);
    (void)fprintf(f, "</title>\n%s</head>\n<body>\n<h1>", style);
    put_text(f, r->title);
    (void)fputs("</h1>\n", f);
    for (int i = 0; i < r->n && st == RXT_OK; i++)
        st = put_section(f, &r->section[i]);
    (void)fputs("</body>\n</html>\n", f);
    bool good = !ferror(f);
    if (fclose(f) != 0 || !good)
        return rxt_fail(err, RXT_EIO, "cannot write all of %.180s", path);
    return st;
}
