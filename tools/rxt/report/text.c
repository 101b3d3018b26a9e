/* A report for a terminal of any width, or for a file. */
#include "tools/rxt/report/colour.h"

#include "kernels/base/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct pen {
    const struct text_style *style;
    FILE *out;
};

/* Columns of a text in a terminal: one a code point, which is right but for East Asian wide ones.
 */
static int columns(const char *s)
{
    int n = 0;
    for (size_t at = 0, len; s[at]; at += len, n++)
        (void)utf8_read(s + at, &len);
    return n;
}

static void pad(FILE *out, int n)
{
    for (; n > 0; n--)
        (void)fputc(' ', out);
}

/* Words, broken at the width. */
static void paragraph(const struct pen *p, const char *words)
{
    int width = p->style->width ? p->style->width : 80, at = 0;
    for (const char *w = words; *w;) {
        int n = (int)strcspn(w, " ");
        if (at > 0 && at + 1 + n > width) {
            (void)fputc('\n', p->out);
            at = 0;
        }
        (void)fprintf(p->out, "%s%.*s", at ? " " : "", n, w);
        at += n + (at ? 1 : 0);
        w += n;
        while (*w == ' ')
            w++;
    }
    (void)fputc('\n', p->out);
}

/* ---- tables ----------------------------------------------------------------------------- */

static bool right_aligned(enum cell cell)
{
    return cell != CELL_TEXT && cell != CELL_DATE;
}

static void print_facts(const struct pen *p, const struct section *s)
{
    const json_t *row = json_array_get(s->rows, 0);
    int left = 0;
    for (int i = 0; i < s->n_column; i++)
        left = columns(s->column[i].heading) > left ? columns(s->column[i].heading) : left;
    for (int i = 0; i < s->n_column; i++) {
        const json_t *value = json_object_get(row, s->column[i].key);
        char text[96];
        if (!value || json_is_null(value))
            continue;
        cell_text(text, s->column[i].cell, value);
        (void)fprintf(p->out, "%s", s->column[i].heading);
        pad(p->out, left - columns(s->column[i].heading) + 2);
        (void)fprintf(p->out, "%s\n", text);
    }
}

/* The columns that say something, as wide as their widest value. */
struct layout {
    const struct column *column[32];
    int width[32], n;
};

static struct layout lay_out(const struct section *s)
{
    struct layout t = {.n = 0};
    char text[96];
    for (int c = 0; c < s->n_column && t.n < 32; c++) {
        size_t i;
        const json_t *row;
        if (!column_used(s, c))
            continue;
        int width = columns(s->column[c].heading);
        json_array_foreach(s->rows, i, row)
        {
            cell_text(text, s->column[c].cell, json_object_get(row, s->column[c].key));
            width = columns(text) > width ? columns(text) : width;
        }
        t.column[t.n] = &s->column[c];
        t.width[t.n++] = width;
    }
    return t;
}

/* The first n columns of a row, or (row NULL) their headings. */
static void print_row(const struct pen *p, const struct layout *t, int n, const json_t *row)
{
    char text[96];
    for (int c = 0; c < n; c++) {
        const struct column *k = t->column[c];
        if (row)
            cell_text(text, k->cell, json_object_get(row, k->key));
        else
            (void)snprintf(text, sizeof text, "%s", k->heading);
        int space = t->width[c] - columns(text);
        bool right = right_aligned(k->cell);
        pad(p->out, (c ? 2 : 0) + (right ? space : 0));
        (void)fputs(text, p->out);
        pad(p->out, right || c + 1 == n ? 0 : space);
    }
    (void)fputc('\n', p->out);
}

/* Columns that do not fit beside the others are named below. A text in the last one may hang over:
 * a terminal breaks it. */
static void print_table(const struct pen *p, const struct section *s)
{
    struct layout t = lay_out(s);
    size_t i;
    const json_t *row;
    int used = 0, n = 0;
    for (; n < t.n; n++) {
        bool hangs = n + 1 == t.n && t.column[n]->cell == CELL_TEXT;
        used += t.width[n] + (n ? 2 : 0);
        if (p->style->width && n && used > p->style->width && !hangs)
            break;
    }
    if (t.n == 0)
        return;
    print_row(p, &t, n, NULL);
    json_array_foreach(s->rows, i, row) print_row(p, &t, n, row);
    for (int c = n; c < t.n; c++)
        (void)fprintf(p->out, "%s%s%s", c == n ? "(a wider terminal also shows: " : ", ",
                      t.column[c]->heading, c + 1 == t.n ? ")\n" : "");
}

/* ---- maps ------------------------------------------------------------------------------- */

/* Of the 256 colours: as those of colour.c, brighter at every step, which the nearest ones are not.
 */
static const int palette[] = {17, 18, 54, 90, 126, 162, 167, 203, 209, 215, 221, 228};
enum { PALETTE = sizeof palette / sizeof *palette, GREY = 244 };

static double share_of(const struct map *m, float value)
{
    double range = (double)m->hi - (double)m->lo;
    return range > 0 ? fmin(fmax(((double)value - (double)m->lo) / range, 0), 1) : 0;
}

static void set_background(const struct pen *p, const struct map *m, float value)
{
    struct colour c = colour_in(m, value);
    int at = (int)fmin(share_of(m, value) * PALETTE, PALETTE - 1);
    if (p->style->colour == COLOUR_TRUE)
        (void)fprintf(p->out, "\033[48;2;%d;%d;%dm", c.r, c.g, c.b);
    else
        (void)fprintf(p->out, "\033[48;5;%dm", isfinite(value) ? palette[at] : GREY);
}

/* n columns of one value. Without colours: ten characters, darker ink for more. */
static void paint(const struct pen *p, const struct map *m, float value, int n)
{
    static const char ink[] = " .:-=+*#%@";
    if (p->style->colour != COLOUR_NONE) {
        set_background(p, m, value);
        pad(p->out, n);
        return;
    }
    char c = isfinite(value) ? ink[(int)fmin(share_of(m, value) * 10, 9)] : '?';
    for (; n > 0; n--)
        (void)fputc(c, p->out);
}

static void unpaint(const struct pen *p)
{
    if (p->style->colour != COLOUR_NONE)
        (void)fputs("\033[0m", p->out);
}

static int digits(int64_t n)
{
    return snprintf(NULL, 0, "%lld", (long long)n);
}

/* What stands left of a map: numbers, then texts, each as wide as its widest. */
struct margin {
    int number, text;
};

static void row_text(char out[96], const struct map *m, int32_t r, int32_t step)
{
    const json_t *text = json_array_get(m->row_label, (size_t)r * (size_t)step);
    out[0] = '\0';
    if (text)
        cell_text(out, CELL_TEXT, text);
}

static int width_of(const struct margin *g)
{
    return g->number + 1 + (g->text ? g->text + 1 : 0);
}

static struct margin margin_of(const struct map *m)
{
    struct margin g = {.number = digits(m->row_first + m->rows - 1)};
    for (int32_t r = 0; r < m->rows; r++) {
        char text[96];
        row_text(text, m, r, 1);
        g.text = columns(text) > g.text ? columns(text) : g.text;
    }
    while (width_of(&g) < columns(m->col_name) + 1) /* it stands before the axis */
        g.number++;
    return g;
}

static void print_margin(const struct pen *p, const struct map *m, const struct margin *g,
                         int32_t r, int32_t step)
{
    char text[96];
    (void)fprintf(p->out, "%*lld ", g->number, (long long)m->row_first + (long long)r * step);
    row_text(text, m, r, step);
    (void)fputs(text, p->out);
    pad(p->out, g->text ? g->text - columns(text) + 1 : 0);
}

/* Numbers of the columns under a map, as many as have room. */
static void print_axis(const struct pen *p, const struct map *m, int left, int cell, int32_t cols,
                       int32_t step)
{
    int room = digits(m->col_first + m->cols) + 2, at = 0, end = cols * cell;
    int32_t every = 1;
    while (every * cell < room)
        every *= 2;
    pad(p->out, left - 1 - columns(m->col_name));
    (void)fprintf(p->out, "%s ", m->col_name);
    for (int32_t c = 0; c < cols; c += every) {
        int64_t number = m->col_first + (int64_t)c * step;
        if (c > 0 && c * cell + digits(number) > end)
            break;
        pad(p->out, c * cell - at);
        at = c * cell + fprintf(p->out, "%lld", (long long)number);
    }
    (void)fputc('\n', p->out);
}

static void print_scale(const struct pen *p, const struct map *m, int left, int32_t step_row,
                        int32_t step_col)
{
    enum { STEPS = 20 };
    pad(p->out, left);
    (void)fprintf(p->out, "%.4g ", (double)m->lo);
    for (int i = 0; i < STEPS; i++)
        paint(p, m, (float)((double)m->lo + ((double)m->hi - (double)m->lo) * (i + 0.5) / STEPS),
              1);
    unpaint(p);
    (void)fprintf(p->out, " %.4g", (double)m->hi);
    if (step_col > 1)
        (void)fprintf(p->out, ", a cell: mean of %d %ss", step_col, m->col_name);
    if (step_row > 1)
        (void)fprintf(p->out, "%s mean of %d %ss", step_col > 1 ? "," : ", a cell:", step_row,
                      m->row_name);
    (void)fputc('\n', p->out);
}

static void print_map(const struct pen *p, const struct map *m)
{
    enum { MAX_ROWS = 512, MAX_CELL = 4 };
    int total = p->style->width ? p->style->width : 80;
    struct margin g = margin_of(m);
    int left = width_of(&g), space = total - left > 8 ? total - left : 8, cell = space / m->cols;
    cell = cell > MAX_CELL ? MAX_CELL : cell < 1 ? 1 : cell;
    int32_t rows, cols, step_row, step_col;
    float *value = map_shrink(m, MAX_ROWS, space / cell, &rows, &cols, &step_row, &step_col);
    if (!value)
        return;
    (void)fprintf(p->out, "%s\n", m->row_name);
    for (int32_t r = 0; r < rows; r++) {
        print_margin(p, m, &g, r, step_row);
        for (int32_t c = 0; c < cols; c++)
            paint(p, m, value[(size_t)r * (size_t)cols + (size_t)c], cell);
        unpaint(p);
        (void)fputc('\n', p->out);
    }
    print_axis(p, m, left, cell, cols, step_col);
    print_scale(p, m, left, step_row, step_col);
    free(value);
}

/* ----------------------------------------------------------------------------------------- */

struct text_style text_style_for(FILE *out, int width, const char *colour)
{
    struct text_style s = {.width = width};
    struct winsize size;
    bool tty = isatty(fileno(out));
    const char *depth = getenv("COLORTERM"), *term = getenv("TERM"), *no = getenv("NO_COLOR");
    bool always = colour && strcmp(colour, "always") == 0;
    bool never = colour && strcmp(colour, "never") == 0;
    if (width < 0)
        s.width = tty && ioctl(fileno(out), TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
    bool can = tty && !(no && *no) && term && strcmp(term, "dumb") != 0;
    bool true_colour = depth && (strstr(depth, "truecolor") || strstr(depth, "24bit"));
    if (always || (can && !never))
        s.colour = true_colour ? COLOUR_TRUE : COLOUR_256;
    return s;
}

void report_text(const struct report *r, const struct text_style *style, FILE *out)
{
    const struct pen p = {style, out};
    bool bold = style->colour != COLOUR_NONE;
    paragraph(&p, r->title);
    for (int i = 0; i < r->n; i++) {
        const struct section *s = &r->section[i];
        if (s->chart.x_name) /* its numbers stand in a table, too */
            continue;
        (void)fprintf(out, "\n%s%s%s\n", bold ? "\033[1m" : "", s->title, bold ? "\033[0m" : "");
        if (s->map.rows)
            print_map(&p, &s->map);
        else if (s->facts)
            print_facts(&p, s);
        else if (s->rows)
            print_table(&p, s);
        if (s->about[0])
            paragraph(&p, s->about);
    }
}
