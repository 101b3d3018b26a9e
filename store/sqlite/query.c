#include "store/sqlite/sqlite_impl.h"

#include <assert.h>
#include <string.h>

const char *const sql_text[SQL_COUNT] = {
#define STORE_SQL_TEXT(name, text) [SQL_##name] = text,
    STORE_STATEMENTS(STORE_SQL_TEXT)
#undef STORE_SQL_TEXT
};

struct query query_open(struct store *s, enum sql id)
{
    assert(!sqlite3_stmt_busy(s->stmt[id]));
    return (struct query){.s = s, .stmt = s->stmt[id], .rc = SQLITE_OK};
}

/* What the statement failed with was reported by the step; reset only repeats it. */
void query_close(struct query *q)
{
    (void)sqlite3_reset(q->stmt);
    (void)sqlite3_clear_bindings(q->stmt);
}

void query_again(struct query *q)
{
    (void)sqlite3_reset(q->stmt);
    q->rc = SQLITE_OK;
}

static void bound(struct query *q, int rc)
{
    if (q->rc == SQLITE_OK)
        q->rc = rc;
}

void bind_int(struct query *q, int64_t v)
{
    bound(q, sqlite3_bind_int64(q->stmt, ++q->n_bound, v));
}

void bind_u64(struct query *q, uint64_t v)
{
    bind_int(q, (int64_t)v);
}

void bind_real(struct query *q, double v)
{
    bound(q, sqlite3_bind_double(q->stmt, ++q->n_bound, v));
}

void bind_text(struct query *q, const char *v)
{
    bound(q, sqlite3_bind_text(q->stmt, ++q->n_bound, v, -1, SQLITE_STATIC));
}

void bind_blob(struct query *q, const void *v, size_t n)
{
    /* SQLite takes a NULL pointer for NULL; no bytes are a blob of length zero. */
    bound(q, sqlite3_bind_blob64(q->stmt, ++q->n_bound, n ? v : "", n, SQLITE_STATIC));
}

enum rxt_status query_row(struct query *q, const char *what, struct rxt_error *err)
{
    if (q->rc == SQLITE_OK) {
        int rc = sqlite3_step(q->stmt);
        if (rc == SQLITE_ROW)
            return RXT_OK;
        if (rc == SQLITE_DONE)
            return RXT_ENOTFOUND;
        q->rc = rc;
    }
    return sql_fail(q->s, q->rc, what, err);
}

enum rxt_status query_done(struct query *q, const char *what, struct rxt_error *err)
{
    enum rxt_status st = query_row(q, what, err);
    query_close(q);
    return st == RXT_ENOTFOUND ? RXT_OK : st;
}

enum rxt_status query_check(const struct query *q, const char *what, struct rxt_error *err)
{
    if (q->rc == SQLITE_OK)
        return RXT_OK;
    return rxt_fail(err, RXT_ECORRUPT, "cannot %s: a column is damaged (store %s)", what,
                    q->s->path);
}

int64_t column_int(const struct query *q, int i)
{
    return sqlite3_column_int64(q->stmt, i);
}

uint64_t column_u64(const struct query *q, int i)
{
    return (uint64_t)sqlite3_column_int64(q->stmt, i);
}

uint64_t column_count(struct query *q, int i, uint64_t max)
{
    int64_t v = sqlite3_column_int64(q->stmt, i);
    if (v >= 0 && (uint64_t)v <= max)
        return (uint64_t)v;
    bound(q, SQLITE_CORRUPT);
    return 0;
}

/* Text is read as its bytes: SQLite need not append a zero, which could fail. */
void column_text(struct query *q, int i, char *out, size_t size)
{
    const void *p = sqlite3_column_blob(q->stmt, i);
    size_t n = (size_t)sqlite3_column_bytes(q->stmt, i);
    if (n >= size || (n && (!p || memchr(p, 0, n)))) {
        bound(q, SQLITE_CORRUPT);
        n = 0;
    }
    if (n)
        memcpy(out, p, n);
    out[n] = '\0';
}

void column_bytes(struct query *q, int i, void *out, size_t n)
{
    const void *p = sqlite3_column_blob(q->stmt, i);
    if (p && (size_t)sqlite3_column_bytes(q->stmt, i) == n) {
        memcpy(out, p, n);
    } else {
        bound(q, SQLITE_CORRUPT);
        memset(out, 0, n);
    }
}

enum rxt_status query_exec(struct store *s, enum sql id, const char *what, struct rxt_error *err)
{
    struct query q = query_open(s, id);
    return query_done(&q, what, err);
}
