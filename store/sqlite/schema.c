/* Which file is ours, which schema it has, and the way from an older schema to the current one. */
#include "store/sqlite/sqlite_impl.h"

#include <stdio.h>

#define APPLICATION_ID 0x52585453 /* "RXTS", at byte 68 of the file: what `file` shows */

extern const char store_schema_1[]; /* made of store/schema.sql */
extern const char store_schema_2[];
extern const char store_schema_3[];

static const char *const migrations[] = {
    store_schema_1, /* 0 -> 1 */
    store_schema_2, /* 1 -> 2 */
    store_schema_3, /* 2 -> 3 */
};
const struct schema_list schema_current = {migrations, sizeof migrations / sizeof *migrations, 1};

/* Off the path of turns: the only statements that are not prepared at open are here and in open. */
static enum rxt_status number_of(struct store *s, const char *sql, int64_t *out,
                                 struct rxt_error *err)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    enum rxt_status st = RXT_OK;
    if (rc == SQLITE_ROW)
        *out = sqlite3_column_int64(stmt, 0);
    else if (rc == SQLITE_NOTADB)
        st = rxt_fail(err, RXT_EFORMAT, "not a store: %s is no SQLite file", s->path);
    else
        st = sql_fail(s, rc == SQLITE_DONE ? SQLITE_CORRUPT : rc, "read the schema", err);
    (void)sqlite3_finalize(stmt);
    return st;
}

/* *schema = 0: an empty file, to be made. */
static enum rxt_status schema_number(struct store *s, int64_t *schema, struct rxt_error *err)
{
    int64_t id = 0, n_table = 0;
    TRY(number_of(s, "PRAGMA application_id", &id, err));
    TRY(number_of(s, "SELECT count(*) FROM sqlite_schema", &n_table, err));
    *schema = 0;
    if (id == 0 && n_table == 0)
        return RXT_OK;
    if (id != APPLICATION_ID)
        return rxt_fail(err, RXT_EFORMAT, "not a store: %s is a database of another program",
                        s->path);
    TRY(number_of(s, "SELECT value FROM meta WHERE key = 'schema'", schema, err));
    if (*schema < 1)
        return rxt_fail(err, RXT_ECORRUPT, "schema number %lld of store %s is damaged",
                        (long long)*schema, s->path);
    return RXT_OK;
}

static enum rxt_status run(struct store *s, const char *sql, struct rxt_error *err)
{
    int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? RXT_OK : sql_fail(s, rc, "make the schema", err);
}

static enum rxt_status migrate(struct store *s, const struct schema_list *list,
                               struct rxt_error *err)
{
    int64_t at = 0;
    char done[128];
    TRY(schema_number(s, &at, err)); /* again: another process may have been faster */
    for (; at < list->n; at++) {
        TRY(run(s, list->sql[at], err));
        (void)snprintf(done, sizeof done, "UPDATE meta SET value = %lld WHERE key = 'schema'",
                       (long long)at + 1);
        TRY(run(s, done, err));
    }
    (void)snprintf(done, sizeof done, "PRAGMA application_id = %d", APPLICATION_ID);
    return run(s, done, err);
}

/* Page size and log first: they are fixed by the first page written. */
static enum rxt_status move_forward(struct store *s, const struct schema_list *list, bool fresh,
                                    struct rxt_error *err)
{
    if (fresh)
        TRY(run(s, "PRAGMA page_size = 32768", err));
    TRY(run(s, "PRAGMA journal_mode = WAL", err));
    TRY(run(s, "BEGIN IMMEDIATE", err));
    enum rxt_status st = migrate(s, list, err);
    if (st == RXT_OK)
        st = run(s, "COMMIT", err);
    if (st != RXT_OK && !sqlite3_get_autocommit(s->db))
        (void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    return st;
}

enum rxt_status schema_open(struct store *s, const struct schema_list *list, struct rxt_error *err)
{
    int64_t schema = 0;
    TRY(session_seal_register(s, err));
    TRY(schema_number(s, &schema, err));
    if (schema > list->n)
        return rxt_fail(err, RXT_ENEWER,
                        "store has schema %lld, this program knows %d: use the newer release (%s)",
                        (long long)schema, list->n, s->path);
    s->schema = s->read_only ? schema : list->n;
    if (schema == list->n || (s->read_only && schema >= list->readable))
        return RXT_OK;
    if (s->read_only)
        return rxt_fail(err, schema == 0 ? RXT_EFORMAT : RXT_EUNSUPPORTED,
                        schema == 0 ? "not a store: %s is empty"
                                    : "store %s has an older schema: open it for writing once",
                        s->path);
    TRY(lock_take(s, s->busy_ms, err));
    enum rxt_status st = move_forward(s, list, schema == 0, err);
    lock_drop(s);
    return st;
}

bool schema_moved(struct store *s)
{
    if (!s->read_only || s->schema >= schema_current.n)
        return false;
    struct query q = query_open(s, SQL_META_SCHEMA);
    int64_t now = query_row(&q, "read the schema", NULL) == RXT_OK ? column_int(&q, 0) : 0;
    query_close(&q);
    if (now <= s->schema || now > schema_current.n)
        return false;
    s->schema = now;
    return true;
}
