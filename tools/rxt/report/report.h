/* What an inspection or a measurement found, before it is drawn: sections that are tables, maps or
 * charts. The same report comes out as text, JSON, HTML and PNG, so that all of them say the same.
 */
#ifndef RXT_TOOLS_REPORT_H
#define RXT_TOOLS_REPORT_H

#include "kernels/base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* How a value is shown to people; in JSON it stays what it is. */
enum cell {
    CELL_TEXT,
    CELL_COUNT, /* integer */
    CELL_REAL,  /* four digits */
    CELL_SHARE, /* of 1, as percent */
    CELL_BYTES,
    CELL_DATE, /* microseconds since 1970 */
    CELL_AGE,  /* microseconds */
};
struct column {
    const char *key; /* in the objects of the rows, and in JSON */
    const char *heading;
    enum cell cell;
};

/* A number for each cell of a grid, drawn as colours. NAN = none. */
struct map {
    int32_t rows, cols;
    float *value;                    /* [rows, cols]; the report's */
    float lo, hi;                    /* ends of the scale */
    const char *row_name, *col_name; /* "layer", "slot" */
    int64_t row_first, col_first;    /* what the first ones are called */
    json_t *row_label;               /* array of texts behind the numbers; NULL = none */
};

/* Lines, points and bands over one axis. */
enum axis {
    AXIS_LINEAR,
    AXIS_LOG,
    AXIS_SHARE, /* x is 1 / (1 - share): 90 %, 99 %, 99.9 % ... as far apart as each other */
};
enum mark { MARK_LINE, MARK_POINTS, MARK_BAND };
struct series {
    char name[48]; /* "" = none in the legend */
    enum mark mark;
    int colour; /* number of one, from 0 */
    bool dashed;
    int n;
    double *x, *y, *top; /* [n]; the report's. top: of a band, y is its bottom. NAN = none */
};
struct chart {
    const char *x_name, *y_name;
    enum axis x_axis, y_axis;
    struct series *series;
    int n;
};

struct section {
    char key[32];
    char title[112];
    char about[640]; /* how to read it; "" = nothing to say */

    /* A table: rows is an array of objects. With `facts` it has one row, shown line by line. */
    const struct column *column;
    int n_column;
    json_t *rows; /* NULL: this section is a map, or only words */
    bool facts;
    struct map map;     /* rows 0: none */
    struct chart chart; /* x_name NULL: none */
};

struct report {
    char title[200];
    struct section *section;
    int n, cap;
    enum rxt_status status; /* RXT_ENOMEM as soon as something did not fit: draw nothing then */
    struct section spill;   /* what is written to after that */
};

void report_open(struct report *r, const char *title, ...) __attribute__((format(printf, 2, 3)));
void report_close(struct report *r);

/* A new section, to be filled; never NULL, lent until the next one. */
struct section *report_table(struct report *r, const char *key, const char *title,
                             const struct column *column, int n_column);
struct section *report_facts(struct report *r, const char *key, const char *title,
                             const struct column *column, int n_column);
/* value [rows, cols] is copied; the scale goes from the smallest to the largest of them. */
struct section *report_map(struct report *r, const char *key, const char *title, int32_t rows,
                           int32_t cols, const float *value);
/* Only the axes of `axes` are looked at; texts are lent. */
struct section *report_chart(struct report *r, const char *key, const char *title,
                             const struct chart *axes);
/* Adds a copy of a series to a chart; top may be NULL. */
void section_series(struct report *r, struct section *s, const struct series *one);
struct section *report_words(struct report *r, const char *key, const char *title);
void section_about(struct section *s, const char *about, ...) __attribute__((format(printf, 2, 3)));
/* Takes an object as the next row of a table; NULL is out of memory. */
void report_row(struct report *r, struct section *s, json_t *object);
/* Makes an array of objects the rows of a table; NULL is out of memory. */
void report_rows(struct report *r, struct section *s, json_t *array);

/* Whether a row has a value in this column; one that has none says nothing. */
bool column_used(const struct section *s, int column);

/* A text of others as JSON: what is not UTF-8, and what a terminal would obey, becomes U+FFFD. */
json_t *plain_text(const char *s);
/* A finite number, else null: JSON knows no NaN. */
json_t *plain_real(double x);
/* What people read for a value of a row: at most 95 bytes, terminated; "-" for null and absent. */
void cell_text(char out[96], enum cell cell, const json_t *value);

json_t *report_json(const struct report *r); /* NULL: out of memory */

struct text_style {
    int width; /* columns; 0 = as wide as it needs */
    enum { COLOUR_NONE, COLOUR_256, COLOUR_TRUE } colour;
};
/* What fits a terminal on this stream: width -1 = as wide as it is; colour "auto" (or NULL),
 * "always" or "never". */
struct text_style text_style_for(FILE *out, int width, const char *colour);
void report_text(const struct report *r, const struct text_style *style, FILE *out);
/* All maps and charts of the report in one picture. EINVAL: it has none. EIO, ENOMEM. */
enum rxt_status report_png(const struct report *r, const char *path, struct rxt_error *err);
/* One page that needs nothing else. EIO, ENOMEM. */
enum rxt_status report_html(const struct report *r, const char *path, struct rxt_error *err);

#endif
