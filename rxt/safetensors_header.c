/* The header of a safetensors file. A JSON reader of its own rather than a tree: a header of a
 * hundred megabytes is read in place, and what the format does not allow has no way in. */
#include "rxt/safetensors_parse_impl.h"

#include "kernels/base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
#define ST_DTYPE_ROW(code, name, bytes) {name, bytes},
    ST_DTYPE_TABLE(ST_DTYPE_ROW)
#undef ST_DTYPE_ROW
};
#define N_DTYPE (sizeof dtypes / sizeof dtypes[0])

const char *st_dtype_name(enum st_dtype t)
{
    return dtypes[t].name;
}

size_t st_dtype_bytes(enum st_dtype t)
{
    return dtypes[t].bytes;
}

/* ---- JSON ------------------------------------------------------------------------------- */

struct reader {
    char *begin, *at, *end;
    const char *file;
    const char *tensor; /* being read, or NULL */
    struct rxt_error *err;
};

static enum rxt_status malformed(const struct reader *r, const char *want)
{
    if (r->tensor)
        return rxt_fail(r->err, RXT_EFORMAT,
                        "%s: tensor '%s': expected %s at byte %td of the header", r->file,
                        r->tensor, want, r->at - r->begin);
    return rxt_fail(r->err, RXT_EFORMAT, "%s: expected %s at byte %td of the header", r->file, want,
                    r->at - r->begin);
}

static void skip_space(struct reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t'))
        r->at++;
}

/* Steps over c, and the white space before it, if it comes next. */
static bool take(struct reader *r, char c)
{
    skip_space(r);
    if (r->at == r->end || *r->at != c)
        return false;
    r->at++;
    return true;
}

/* A string of at most ST_MAX_NAME printable ASCII characters and no escapes, terminated in place.
 * That is what every name is, and it may go into messages and onto terminals as it is. */
static enum rxt_status read_name(struct reader *r, char **out, const char *want)
{
    *out = r->at;
    if (!take(r, '"'))
        return malformed(r, want);
    char *s = r->at;
    while (r->at < r->end && *r->at != '"') {
        if (*r->at < ' ' || *r->at > '~' || *r->at == '\\')
            return malformed(r, "printable ASCII without escapes");
        if (++r->at - s > ST_MAX_NAME)
            return malformed(r, "a name of at most 255 bytes");
    }
    if (r->at == r->end)
        return malformed(r, "the end of a string");
    *r->at++ = '\0';
    *out = s;
    return RXT_OK;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static enum rxt_status skip_escape(struct reader *r)
{
    r->at++; /* the backslash */
    if (r->at == r->end || *r->at == '\0' || !strchr("\"\\/bfnrtu", *r->at))
        return malformed(r, "an escape");
    if (*r->at++ != 'u')
        return RXT_OK;
    for (int i = 0; i < 4; i++) {
        if (r->at == r->end || !is_hex(*r->at))
            return malformed(r, "four hexadecimal digits");
        r->at++;
    }
    return RXT_OK;
}

/* Any JSON string. */
static enum rxt_status skip_string(struct reader *r)
{
    if (!take(r, '"'))
        return malformed(r, "a string");
    while (r->at < r->end && *r->at != '"') {
        if ((unsigned char)*r->at < ' ')
            return malformed(r, "no control character in a string");
        if (*r->at == '\\')
            TRY(skip_escape(r));
        else
            r->at++;
    }
    if (!take(r, '"'))
        return malformed(r, "the end of a string");
    return RXT_OK;
}

/* A whole number from 0 to 2^63-1, without sign, fraction, exponent or leading zeros. */
static enum rxt_status read_number(struct reader *r, uint64_t *out)
{
    skip_space(r);
    const char *first = r->at;
    uint64_t v = 0;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') {
        uint64_t digit = (uint64_t)(*r->at - '0');
        if (v > ((uint64_t)INT64_MAX - digit) / 10 || (r->at > first && *first == '0'))
            return malformed(r, "a whole number below 2^63");
        v = v * 10 + digit;
        r->at++;
    }
    if (r->at == first)
        return malformed(r, "a whole number");
    *out = v;
    return RXT_OK;
}

/* [number, ...] of at most cap numbers. */
static enum rxt_status read_numbers(struct reader *r, uint64_t *out, int32_t cap, int32_t *n)
{
    *n = 0;
    if (!take(r, '['))
        return malformed(r, "'['");
    if (take(r, ']'))
        return RXT_OK;
    do {
        if (*n == cap)
            return malformed(r, "fewer numbers in the list");
        TRY(read_number(r, &out[*n]));
        (*n)++;
    } while (take(r, ','));
    if (!take(r, ']'))
        return malformed(r, "',' or ']'");
    return RXT_OK;
}

/* {string: string, ...} */
static enum rxt_status skip_metadata(struct reader *r)
{
    if (!take(r, '{'))
        return malformed(r, "'{' of __metadata__");
    if (take(r, '}'))
        return RXT_OK;
    do {
        TRY(skip_string(r));
        if (!take(r, ':'))
            return malformed(r, "':'");
        TRY(skip_string(r));
    } while (take(r, ','));
    if (!take(r, '}'))
        return malformed(r, "',' or '}'");
    return RXT_OK;
}

/* ---- one tensor ------------------------------------------------------------------------- */

/* The three values of a tensor as they stand in the file. */
struct fields {
    char *dtype;
    uint64_t shape[ST_MAX_DIM], offset[2];
    int32_t n_dim, n_offset;
    bool has_shape, has_offset;
};

static enum rxt_status read_field(struct reader *r, struct fields *f)
{
    char *key = NULL;
    TRY(read_name(r, &key, "the name of a field"));
    if (!take(r, ':'))
        return malformed(r, "':'");
    if (strcmp(key, "dtype") == 0 && !f->dtype)
        return read_name(r, &f->dtype, "a dtype");
    if (strcmp(key, "shape") == 0 && !f->has_shape) {
        f->has_shape = true;
        return read_numbers(r, f->shape, ST_MAX_DIM, &f->n_dim);
    }
    if (strcmp(key, "data_offsets") == 0 && !f->has_offset) {
        f->has_offset = true;
        return read_numbers(r, f->offset, 2, &f->n_offset);
    }
    return rxt_fail(r->err, RXT_EFORMAT,
                    "%s: tensor '%s': field '%s' is unknown or stands there twice", r->file,
                    r->tensor, key);
}

static enum rxt_status read_fields(struct reader *r, struct fields *f)
{
    *f = (struct fields){0};
    if (!take(r, '{'))
        return malformed(r, "'{'");
    do {
        TRY(read_field(r, f));
    } while (take(r, ','));
    if (!take(r, '}'))
        return malformed(r, "',' or '}'");
    if (!f->dtype || !f->has_shape || f->n_offset != 2)
        return malformed(r, "dtype, shape and two data_offsets");
    return RXT_OK;
}

static enum rxt_status find_dtype(const struct reader *r, const char *name, enum st_dtype *out)
{
    for (size_t i = 0; i < N_DTYPE; i++) {
        if (strcmp(name, dtypes[i].name) == 0) {
            *out = (enum st_dtype)i;
            return RXT_OK;
        }
    }
    return rxt_fail(r->err, RXT_EUNSUPPORTED, "%s: tensor '%s': dtype '%.32s' is not known",
                    r->file, r->tensor, name);
}

static enum rxt_status check_fields(const struct reader *r, const struct fields *f,
                                    uint64_t data_bytes, struct st_tensor *t)
{
    TRY(find_dtype(r, f->dtype, &t->dtype));
    uint64_t bytes = st_dtype_bytes(t->dtype);
    t->n_dim = f->n_dim;
    for (int32_t i = 0; i < f->n_dim; i++) {
        if (f->shape[i] > 0 && bytes > (uint64_t)INT64_MAX / f->shape[i])
            return rxt_fail(r->err, RXT_EFORMAT, "%s: tensor '%s': shape overflows 2^63 bytes",
                            r->file, r->tensor);
        t->shape[i] = (int64_t)f->shape[i];
        bytes *= f->shape[i];
    }
    uint64_t begin = f->offset[0], end = f->offset[1];
    if (begin > end || end > data_bytes)
        return rxt_fail(r->err, RXT_EFORMAT,
                        "%s: tensor '%s': data_offsets [%" PRIu64 ", %" PRIu64
                        "] are outside the file, which has %" PRIu64 " bytes of data",
                        r->file, r->tensor, begin, end, data_bytes);
    if (end - begin != bytes)
        return rxt_fail(r->err, RXT_EFORMAT,
                        "%s: tensor '%s': data_offsets span %" PRIu64
                        " bytes, dtype and shape need %" PRIu64,
                        r->file, r->tensor, end - begin, bytes);
    t->begin = begin;
    t->bytes = bytes;
    return RXT_OK;
}

/* ---- the header ------------------------------------------------------------------------- */

static enum rxt_status append(struct st_list *list, const struct reader *r, struct st_tensor **out)
{
    if (list->n == ST_MAX_TENSOR)
        return rxt_fail(r->err, RXT_ELIMIT, "%s: more than %d tensors", r->file, ST_MAX_TENSOR);
    if (list->n == list->cap) {
        int32_t cap = list->cap ? 2 * list->cap : 256;
        void *grown = mem_realloc(list->tensor, (size_t)cap * sizeof *list->tensor);
        if (!grown)
            return rxt_fail(r->err, RXT_ENOMEM, "%s: out of memory for %d tensors", r->file, cap);
        list->tensor = grown;
        list->cap = cap;
    }
    *out = &list->tensor[list->n++];
    return RXT_OK;
}

static enum rxt_status read_entry(struct reader *r, struct st_list *list, uint64_t data_bytes,
                                  int32_t file, bool *has_metadata)
{
    char *name = NULL;
    r->tensor = NULL;
    TRY(read_name(r, &name, "the name of a tensor"));
    if (!take(r, ':'))
        return malformed(r, "':'");
    if (strcmp(name, "__metadata__") == 0) {
        if (*has_metadata)
            return malformed(r, "one __metadata__");
        *has_metadata = true;
        return skip_metadata(r);
    }
    r->tensor = name;
    struct fields f;
    TRY(read_fields(r, &f));
    struct st_tensor t = {.name = name, .file = file};
    TRY(check_fields(r, &f, data_bytes, &t));
    struct st_tensor *slot = NULL;
    TRY(append(list, r, &slot));
    *slot = t;
    return RXT_OK;
}

static int by_place(const void *pa, const void *pb)
{
    const struct st_tensor *a = pa, *b = pb;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes); /* empty ones first */
}

/* The format wants the tensors to cover the data exactly: nothing hides in a hole, and no byte has
 * two meanings. */
static enum rxt_status check_cover(struct st_list *list, int32_t first, uint64_t data_bytes,
                                   const char *file, struct rxt_error *err)
{
    int32_t n = list->n - first;
    struct st_tensor *t = n > 0 ? list->tensor + first : NULL;
    if (t)
        qsort(t, (size_t)n, sizeof *t, by_place);
    uint64_t at = 0;
    for (int32_t i = 0; i < n; i++) {
        if (t[i].begin < at)
            return rxt_fail(err, RXT_EFORMAT, "%s: tensor '%s' overlaps tensor '%s'", file,
                            t[i].name, t[i - 1].name);
        if (t[i].begin > at)
            return rxt_fail(err, RXT_EFORMAT,
                            "%s: %" PRIu64 " bytes before tensor '%s' belong to none", file,
                            t[i].begin - at, t[i].name);
        at += t[i].bytes;
    }
    if (at != data_bytes)
        return rxt_fail(err, RXT_EFORMAT, "%s: %" PRIu64 " bytes at its end belong to no tensor",
                        file, data_bytes - at);
    return RXT_OK;
}

enum rxt_status st_header_parse(struct st_list *list, char *text, size_t n, uint64_t data_bytes,
                                int32_t file, const char *file_name, struct rxt_error *err)
{
    struct reader r = {.begin = text, .at = text, .end = text + n, .file = file_name, .err = err};
    int32_t first = list->n;
    bool has_metadata = false;
    if (!take(&r, '{'))
        return malformed(&r, "'{'");
    if (!take(&r, '}')) {
        do {
            TRY(read_entry(&r, list, data_bytes, file, &has_metadata));
        } while (take(&r, ','));
        if (!take(&r, '}'))
            return malformed(&r, "',' or '}'");
    }
    r.tensor = NULL;
    skip_space(&r);
    if (r.at != r.end)
        return malformed(&r, "nothing but spaces behind the JSON");
    return check_cover(list, first, data_bytes, file_name, err);
}
