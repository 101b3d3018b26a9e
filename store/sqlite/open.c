/* Open and close, and the care of the file as a whole. */
#include "store/sqlite/sqlite_impl.h"

#include "kernels/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BUSY_MS 5000u
#define KEEP_IMAGES 2u

/* The log is moved into the file when it has grown by so many pages: a piece of 2 MiB if somebody
 * looks after that (store_log_due), else by the commit that finds 16 MiB. */
#define LOG_PIECE_PAGES 64u
#define LOG_MOST_PAGES 512u

/* What every connection gets. 8 MiB of page cache hold the hot pages of thousands of sessions. */
static const char pragmas[] = "PRAGMA cache_size = -8192;"
                              "PRAGMA secure_delete = ON;"
                              "PRAGMA foreign_keys = ON;"
                              "PRAGMA cell_size_check = ON;"
                              "PRAGMA trusted_schema = OFF;"
                              "PRAGMA temp_store = MEMORY;";

static uint32_t log_grown(const struct store *s)
{
    return s->log_pages - s->log_moved;
}

/* What readers keep from being moved is moved later, by whoever does it next. */
static int log_move(struct store *s)
{
    s->log_moved = s->log_pages;
    return sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
}

/* SQLite calls it after every commit. */
static int committed(void *arg, sqlite3 *db, const char *name, int pages)
{
    struct store *s = arg;
    (void)db;
    (void)name;
    if ((uint32_t)pages < s->log_pages)
        s->log_moved = 0; /* it began anew, since all of it was moved */
    s->log_pages = (uint32_t)pages;
    if (log_grown(s) >= LOG_MOST_PAGES)
        (void)log_move(s); /* the commit is good, whatever comes of this */
    return SQLITE_OK;
}

bool store_log_due(const struct store *s)
{
    return log_grown(s) >= LOG_PIECE_PAGES;
}

enum rxt_status store_log_move(struct store *s, struct rxt_error *err)
{
    TRY(must_be_idle(s, "a move of the log", err));
    int rc = log_move(s);
    return rc == SQLITE_OK || rc == SQLITE_BUSY ? RXT_OK : sql_fail(s, rc, "move the log", err);
}

/* Until the schema is known to be ours, a file without SQLite's header is not a damaged store. */
static enum rxt_status run(struct store *s, const char *sql, struct rxt_error *err)
{
    int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    if (rc == SQLITE_NOTADB)
        return rxt_fail(err, RXT_EFORMAT, "not a store: %s is no SQLite file", s->path);
    return rc == SQLITE_OK ? RXT_OK : sql_fail(s, rc, "open the store", err);
}

/* Conversations are private: a new file is made here for its owner alone, and SQLite gives the log
 * the same rights. A file that is there is left alone: to close it again would drop the locks that
 * another handle of this process has on it. */
static enum rxt_status make_file(struct store *s, struct rxt_error *err)
{
    int fd = open(s->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    else if (errno != EEXIST)
        return rxt_fail(err, errno == ENOSPC || errno == EDQUOT ? RXT_EFULL : RXT_EIO,
                        "cannot make store %s: %s", s->path, strerror(errno));
    return RXT_OK;
}

static enum rxt_status connect(struct store *s, const struct store_options *opt,
                               struct rxt_error *err)
{
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    if (s->read_only) {
        if (access(s->path, F_OK) != 0 && errno == ENOENT)
            return rxt_fail(err, RXT_ENOTFOUND, "there is no store %s", s->path);
        flags |= SQLITE_OPEN_READONLY;
    } else {
        TRY(make_file(s, err));
        flags |= SQLITE_OPEN_READWRITE;
    }
    int rc = sqlite3_open_v2(s->path, &s->db, flags, NULL);
    if (rc != SQLITE_OK)
        return sql_fail(s, rc, "open the store", err);
    (void)sqlite3_busy_timeout(s->db, (int)s->busy_ms);
    (void)sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    (void)sqlite3_wal_hook(s->db, committed, s);
    TRY(run(s, pragmas, err));
    return run(s,
               opt->sync == STORE_SYNC_NORMAL ? "PRAGMA synchronous = NORMAL"
                                              : "PRAGMA synchronous = FULL",
               err);
}

static enum rxt_status prepare(struct store *s, struct rxt_error *err)
{
    for (int i = 0; i < SQL_COUNT; i++) {
        int rc = sqlite3_prepare_v3(s->db, sql_text[i], -1, SQLITE_PREPARE_PERSISTENT, &s->stmt[i],
                                    NULL);
        if (rc == SQLITE_OK)
            continue;
        /* The tables are not those of the schema number: SQLite says "no such column". */
        if (rc == SQLITE_ERROR)
            return rxt_fail(err, RXT_ECORRUPT, "schema of store %s is damaged: %s", s->path,
                            sqlite3_errmsg(s->db));
        return sql_fail(s, rc, "open the store", err);
    }
    return RXT_OK;
}

enum rxt_status store_open(struct store **out, const char *path, const struct store_options *opt,
                           struct rxt_error *err)
{
    static const struct store_options defaults;
    enum rxt_status st = RXT_ENOMEM;
    *out = NULL;
    if (!opt)
        opt = &defaults;
    struct store *s = mem_alloc(sizeof *s);
    if (!s || !(s->path = mem_strdup(path))) {
        mem_free(s);
        return rxt_fail(err, st, "out of memory while opening store %s", path);
    }
    s->lock_fd = -1;
    s->read_only = opt->read_only;
    s->busy_ms = opt->busy_ms ? opt->busy_ms : BUSY_MS;
    s->keep_images = opt->keep_images ? opt->keep_images : KEEP_IMAGES;
    TRY_OR(fail, connect(s, opt, err));
    TRY_OR(fail, schema_open(s, &schema_current, err));
    TRY_OR(fail, prepare(s, err));
    *out = s;
    return RXT_OK;
fail:
    store_close(&s);
    return st;
}

void store_close(struct store **s)
{
    struct store *x = *s;
    if (!x)
        return;
    store_batch_abort(x);
    store_view_end(x);
    if (x->fence)
        (void)store_lease_release(x, NULL); /* the lock goes either way */
    for (int i = 0; i < SQL_COUNT; i++)
        (void)sqlite3_finalize(x->stmt[i]);
    (void)sqlite3_close(x->db);
    lock_drop(x);
    mem_free(x->row);
    mem_free(x->path);
    mem_free(x);
    *s = NULL;
}

enum rxt_status store_checkpoint(struct store *s, struct rxt_error *err)
{
    return checkpoint_within(s, s->busy_ms, err);
}

enum rxt_status checkpoint_within(struct store *s, uint32_t wait_ms, struct rxt_error *err)
{
    TRY(must_be_idle(s, "a checkpoint", err));
    (void)sqlite3_busy_timeout(s->db, (int)wait_ms);
    int rc = sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    (void)sqlite3_busy_timeout(s->db, (int)s->busy_ms);
    if (rc == SQLITE_BUSY)
        return rxt_fail(err, RXT_EBUSY, "a reader still needs the log of store %s", s->path);
    return rc == SQLITE_OK ? RXT_OK : sql_fail(s, rc, "empty the log", err);
}

enum rxt_status store_check(struct store *s, struct rxt_error *err)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(s->db, "PRAGMA integrity_check(1)", -1, &stmt, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    enum rxt_status st = RXT_OK;
    if (rc != SQLITE_ROW) {
        st = sql_fail(s, rc, "check the store", err);
    } else {
        const char *found = (const char *)sqlite3_column_text(stmt, 0);
        if (!found)
            st = rxt_fail(err, RXT_ENOMEM, "out of memory while checking store %s", s->path);
        else if (strcmp(found, "ok") != 0)
            st = rxt_fail(err, RXT_ECORRUPT, "store %s is damaged: %s", s->path, found);
    }
    (void)sqlite3_finalize(stmt);
    return st;
}

/* The counters of SQLite are 32 bits wide: taken over and set back at every look. */
static uint64_t take(struct store *s, int op)
{
    int now = 0, high = 0;
    (void)sqlite3_db_status(s->db, op, &now, &high, 1);
    return (uint32_t)now;
}

struct store_stats store_stats(struct store *s)
{
    s->stats.pages_read += take(s, SQLITE_DBSTATUS_CACHE_MISS);
    s->stats.pages_hit += take(s, SQLITE_DBSTATUS_CACHE_HIT);
    s->stats.pages_written += take(s, SQLITE_DBSTATUS_CACHE_WRITE);
    return s->stats;
}
