/* Transactions: one a verb, or one a batch with a savepoint a verb. */
#include "store/sqlite/sqlite_impl.h"

static enum rxt_status may_write(struct store *s, struct rxt_error *err)
{
    if (s->read_only)
        return rxt_fail(err, RXT_EINVAL, "store %s was opened read-only", s->path);
    if (s->mode == STORE_VIEW)
        return rxt_fail(err, RXT_EINVAL, "a write between view_begin and view_end");
    if (s->fence == 0)
        return rxt_fail(err, RXT_EFENCED, "no lease on store %s: take it before writing", s->path);
    return RXT_OK;
}

enum rxt_status must_be_idle(struct store *s, const char *verb, struct rxt_error *err)
{
    TRY(may_write(s, err));
    if (s->mode != STORE_IDLE)
        return rxt_fail(err, RXT_EINVAL, "%s inside a batch", verb);
    return RXT_OK;
}

/* SQLite may have rolled back by itself; ROLLBACK would then fail, and nothing is left to undo. */
static void undo_all(struct store *s)
{
    if (!sqlite3_get_autocommit(s->db)) {
        sqlite3_stmt *rollback = s->stmt[SQL_ROLLBACK];
        (void)sqlite3_step(rollback);
        (void)sqlite3_reset(rollback);
    }
}

static enum rxt_status write_begin(struct store *s, struct rxt_error *err)
{
    s->disk_failed = false;
    TRY(query_exec(s, SQL_BEGIN_WRITE, "begin a write", err));
    enum rxt_status st = lease_check(s, err);
    if (st != RXT_OK)
        undo_all(s);
    return st;
}

static enum rxt_status write_commit(struct store *s, struct rxt_error *err)
{
    enum rxt_status st = query_exec(s, SQL_COMMIT, "commit", err);
    if (st != RXT_OK)
        undo_all(s);
    else
        s->stats.commits++;
    return st;
}

enum rxt_status tx_begin(struct store *s, struct rxt_error *err)
{
    TRY(may_write(s, err));
    if (s->mode == STORE_IDLE)
        return write_begin(s, err);
    if (s->batch_status != RXT_OK)
        return rxt_fail(err, s->batch_status, "an earlier write of the batch failed: %s (store %s)",
                        rxt_status_text(s->batch_status), s->path);
    s->disk_failed = false;
    enum rxt_status st = query_exec(s, SQL_VERB_BEGIN, "begin a write", err);
    if (st != RXT_OK) {
        undo_all(s);
        s->batch_status = st;
    }
    return st;
}

static enum rxt_status verb_undo(struct store *s)
{
    TRY(query_exec(s, SQL_VERB_UNDO, "undo a write", NULL));
    return query_exec(s, SQL_VERB_END, "undo a write", NULL);
}

enum rxt_status tx_end(struct store *s, enum rxt_status st, struct rxt_error *err)
{
    if (s->mode == STORE_IDLE) {
        if (st == RXT_OK)
            return write_commit(s, err);
        undo_all(s);
        return st;
    }
    if (st == RXT_OK)
        st = query_exec(s, SQL_VERB_END, "end a write", err);
    else if (!s->disk_failed && verb_undo(s) == RXT_OK)
        return st;
    if (st != RXT_OK) {
        undo_all(s);
        s->batch_status = st;
    }
    return st;
}

enum rxt_status store_batch_begin(struct store *s, struct rxt_error *err)
{
    TRY(must_be_idle(s, "a batch", err));
    TRY(write_begin(s, err));
    s->mode = STORE_BATCH;
    s->batch_status = RXT_OK;
    return RXT_OK;
}

enum rxt_status store_batch_commit(struct store *s, struct rxt_error *err)
{
    if (s->mode != STORE_BATCH)
        return rxt_fail(err, RXT_EINVAL, "no batch to commit");
    s->mode = STORE_IDLE;
    if (s->batch_status != RXT_OK)
        return rxt_fail(err, s->batch_status, "nothing of the batch is stored: %s (store %s)",
                        rxt_status_text(s->batch_status), s->path);
    return write_commit(s, err);
}

void store_batch_abort(struct store *s)
{
    if (s->mode != STORE_BATCH)
        return;
    s->mode = STORE_IDLE;
    undo_all(s);
}

enum rxt_status store_view_begin(struct store *s, struct rxt_error *err)
{
    if (s->mode != STORE_IDLE)
        return rxt_fail(err, RXT_EINVAL, "a view inside a batch or view");
    TRY(query_exec(s, SQL_BEGIN, "begin to read", err));
    /* The state is fixed by the first read. */
    struct query q = query_open(s, SQL_META_SCHEMA);
    enum rxt_status st = query_row(&q, "begin to read", err);
    query_close(&q);
    if (st != RXT_OK) {
        undo_all(s);
        return st;
    }
    s->mode = STORE_VIEW;
    return RXT_OK;
}

void store_view_end(struct store *s)
{
    if (s->mode != STORE_VIEW)
        return;
    s->mode = STORE_IDLE;
    undo_all(s);
}
