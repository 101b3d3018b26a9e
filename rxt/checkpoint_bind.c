#include "rxt/checkpoint_bind_impl.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct bind_name bind_join(const char *prefix, const char *fmt, ...)
{
    struct bind_name name = {{0}};
    int n = snprintf(name.text, sizeof name.text, "%s", prefix);
    size_t at = n < 0 ? 0 : strlen(name.text);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(name.text + at, sizeof name.text - at, fmt, ap);
    va_end(ap);
    return name;
}

bool bind_ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), n_end = strlen(end);
    return n >= n_end && strcmp(name + n - n_end, end) == 0;
}

static const char *file_of(const struct bind *b, const struct st_tensor *t)
{
    if (t)
        return safetensors_file_name(b->files, t->file);
    return safetensors_n_file(b->files) == 1 ? safetensors_file_name(b->files, 0) : "all shards";
}

static void fail(struct bind *b, enum rxt_status st, const struct st_tensor *t, const char *name,
                 const char *what)
{
    if (b->st == RXT_OK)
        b->st = rxt_fail(b->err, st, "%s: tensor '%s' %s", file_of(b, t), name, what);
}

/* ---- finding ---------------------------------------------------------------------------- */

static const struct st_tensor *find(const struct bind *b, const char *prefix, const char *name)
{
    struct bind_name whole = bind_join(prefix, "%s", name);
    return b->files ? safetensors_find(b->files, whole.text) : NULL;
}

bool bind_has(const struct bind *b, const char *prefix, const char *name)
{
    return find(b, prefix, name) != NULL;
}

bool bind_has_prefix(const struct bind *b, const char *prefix)
{
    if (!b->files)
        return false;
    int32_t lo = 0, hi = safetensors_count(b->files); /* the first name that is not below it */
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        if (strcmp(safetensors_at(b->files, mid)->name, prefix) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < safetensors_count(b->files) &&
           strncmp(safetensors_at(b->files, lo)->name, prefix, strlen(prefix)) == 0;
}

void bind_ignore(struct bind *b, const char *prefix, const char *name)
{
    const struct st_tensor *t = find(b, prefix, name);
    if (t)
        b->used[safetensors_index(b->files, t)] = true;
}

bool bind_dtype(const struct st_tensor *t, enum dtype *out)
{
    switch (t->dtype) {
    case ST_F32:
        *out = DTYPE_F32;
        return true;
    case ST_BF16:
        *out = DTYPE_BF16;
        return true;
    case ST_F16:
        *out = DTYPE_F16;
        return true;
    default:
        return false;
    }
}

/* ---- shapes ----------------------------------------------------------------------------- */

static void write_shape(char out[128], const int64_t *dim, int32_t n)
{
    size_t at = 0;
    out[at++] = '[';
    for (int32_t i = 0; i < n && at < 100; i++) {
        int len = snprintf(out + at, 24, i ? ",%" PRId64 : "%" PRId64, dim[i]);
        at += len > 0 ? (size_t)len : 0;
    }
    out[at] = ']';
    out[at + 1] = '\0';
}

static bool same_shape(const struct st_tensor *t, const int64_t *dim, int32_t n)
{
    if (t->n_dim != n)
        return false;
    for (int32_t i = 0; i < n; i++) {
        if (t->shape[i] != dim[i])
            return false;
    }
    return true;
}

static void fail_shape(struct bind *b, const struct st_tensor *t, const int64_t *dim, int32_t n)
{
    char is[128], want[128], what[300];
    write_shape(is, t->shape, t->n_dim);
    write_shape(want, dim, n);
    (void)snprintf(what, sizeof what, "has shape %s, config.json wants %s", is, want);
    fail(b, RXT_ESHAPE, t, t->name, what);
}

/* A piece of the pool, another one for each tensor as far as it reaches. */
static const void *take_random(struct bind *b, uint64_t n)
{
    if (b->pool_at + n > b->pool_n)
        b->pool_at = 0;
    const void *p = b->pool ? (const uint16_t *)b->pool + b->pool_at : NULL;
    b->pool_at += (n + 31) / 32 * 32;
    return p;
}

/* The tensor of this name and shape, counted: its values and their dtype, or NULL. */
static const void *get(struct bind *b, const char *prefix, const char *name, const int64_t *dim,
                       int32_t n_dim, enum dtype *dtype)
{
    uint64_t n = 1;
    for (int32_t i = 0; i < n_dim; i++)
        n *= (uint64_t)dim[i];
    *dtype = DTYPE_BF16;
    if (b->st != RXT_OK)
        return NULL;
    *b->count += n;
    if (n > b->largest)
        b->largest = n;
    if (!b->files)
        return take_random(b, n);

    struct bind_name whole = bind_join(prefix, "%s", name);
    const struct st_tensor *t = safetensors_find(b->files, whole.text);
    if (!t)
        fail(b, RXT_ENOTFOUND, NULL, whole.text, "is missing");
    else if (!same_shape(t, dim, n_dim))
        fail_shape(b, t, dim, n_dim);
    else if (!bind_dtype(t, dtype))
        fail(b, RXT_EUNSUPPORTED, t, t->name, "is a weight and must be F32, F16 or BF16");
    if (b->st != RXT_OK)
        return NULL;
    b->used[safetensors_index(b->files, t)] = true;
    b->n_of[*dtype] += n;
    return t->data;
}

struct host_matrix bind_matrix(struct bind *b, const char *prefix, const char *name, int64_t rows,
                               int64_t cols)
{
    struct host_matrix m = {.rows = (int32_t)rows, .cols = (int32_t)cols};
    m.data = get(b, prefix, name, (int64_t[]){rows, cols}, 2, &m.dtype);
    return m;
}

struct host_vector bind_vector(struct bind *b, const char *prefix, const char *name, int64_t n)
{
    struct host_vector v = {.n = (int32_t)n};
    v.data = get(b, prefix, name, &n, 1, &v.dtype);
    return v;
}

struct host_vector bind_vector_2d(struct bind *b, const char *prefix, const char *name,
                                  int64_t rows, int64_t cols)
{
    struct host_vector v = {.n = (int32_t)(rows * cols)};
    v.data = get(b, prefix, name, (int64_t[]){rows, cols}, 2, &v.dtype);
    return v;
}

struct host_vector bind_statistic(struct bind *b, const char *prefix, const char *name,
                                  int64_t rows, int64_t cols)
{
    uint64_t none = 0, *count = b->count;
    b->count = &none;
    struct host_vector v = bind_vector_2d(b, prefix, name, rows, cols);
    b->count = count;
    return v;
}

struct host_matrix bind_stack(struct bind *b, const char *prefix, const char *name, int64_t n,
                              int64_t rows, int64_t cols)
{
    struct host_matrix m = {.rows = (int32_t)rows, .cols = (int32_t)cols, .transposed = true};
    m.data = get(b, prefix, name, (int64_t[]){n, cols, rows}, 3, &m.dtype);
    return m;
}

struct host_matrix bind_slice(struct host_matrix first, int64_t i)
{
    if (first.data)
        first.data = (const char *)first.data +
                     (size_t)i * (size_t)first.rows * (size_t)first.cols * dtype_bytes(first.dtype);
    return first;
}

struct host_vector bind_row(struct host_matrix m, int64_t i)
{
    struct host_vector v = {.data = m.data, .dtype = m.dtype, .n = m.cols};
    if (m.data)
        v.data = (const char *)m.data + (size_t)i * (size_t)m.cols * dtype_bytes(m.dtype);
    return v;
}
