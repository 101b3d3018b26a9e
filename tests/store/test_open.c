#include "store/sqlite/sqlite_impl.h"

#include "tests/store/fixture.h"

#include "kernels/base/mem.h"

#include <sys/stat.h>
#include <unistd.h>

static void a_new_file_is_made(void **state)
{
    struct fixture *fx = *state;
    struct stat st;
    store_close(&fx->s);
    assert_int_equal(stat(fx->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600); /* conversations are private */
    assert_int_equal(fixture_number(fx, "PRAGMA page_size"), 32768);
    assert_int_equal(fixture_number(fx, "PRAGMA application_id"), 0x52585453);
    assert_int_equal(fixture_number(fx, "SELECT value FROM meta WHERE key = 'schema'"), 3);
    assert_int_equal(fixture_number(fx, "SELECT journal_mode = 'wal' FROM pragma_journal_mode"), 1);
    assert_int_equal(
        fixture_number(fx, "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND "
                           "type = 'table' AND name NOT LIKE 'sqlite_%' AND NOT strict"),
        0);
    assert_status(RXT_EIO, store_open(&fx->s, "/nowhere/at/all.db", NULL, &fx->err));
    assert_null(fx->s);
}

static void pragmas_are_set(void **state)
{
    struct fixture *fx = *state;
    static const struct {
        const char *sql;
        int want;
    } check[] = {
        {"PRAGMA synchronous", 2},     {"PRAGMA secure_delete", 1},  {"PRAGMA foreign_keys", 1},
        {"PRAGMA cell_size_check", 1}, {"PRAGMA trusted_schema", 0}, {"PRAGMA busy_timeout", 5000},
    };
    store_close(&fx->s);
    must(fx, store_open(&fx->s, fx->path, NULL, &fx->err));
    for (size_t i = 0; i < sizeof check / sizeof *check; i++) {
        sqlite3_stmt *stmt;
        assert_int_equal(sqlite3_prepare_v2(fx->s->db, check[i].sql, -1, &stmt, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
        if (sqlite3_column_int(stmt, 0) != check[i].want)
            fail_msg("%s is %d", check[i].sql, sqlite3_column_int(stmt, 0));
        sqlite3_finalize(stmt);
    }
    store_close(&fx->s);
    const struct store_options quick = {.sync = STORE_SYNC_NORMAL, .busy_ms = 7};
    must(fx, store_open(&fx->s, fx->path, &quick, &fx->err));
    sqlite3_stmt *stmt;
    assert_int_equal(sqlite3_prepare_v2(fx->s->db, "PRAGMA synchronous", -1, &stmt, NULL), 0);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(stmt, 0), 1);
    sqlite3_finalize(stmt);
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static void what_is_not_ours_is_left_alone(void **state)
{
    struct fixture *fx = *state;
    char path[320], text[5000];
    struct store *s;
    const struct store_options look = {.read_only = true};
    snprintf(path, sizeof path, "%s/other", fx->dir);
    assert_refused(fx, RXT_ENOTFOUND, "other", store_open(&s, path, &look, &fx->err));

    memset(text, 'x', sizeof text);
    write_file(path, text, sizeof text);
    assert_refused(fx, RXT_EFORMAT, "no SQLite file", store_open(&s, path, NULL, &fx->err));
    assert_null(s);
    write_file(path, text, 10);
    assert_refused(fx, RXT_EFORMAT, "no SQLite file", store_open(&s, path, NULL, &fx->err));

    write_file(path, "", 0);
    assert_refused(fx, RXT_EFORMAT, "empty", store_open(&s, path, &look, &fx->err));
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(db, "CREATE TABLE t (x); INSERT INTO t VALUES (7)", NULL, NULL, NULL),
        SQLITE_OK);
    sqlite3_close(db);
    struct stat before, after;
    assert_int_equal(stat(path, &before), 0);
    assert_refused(fx, RXT_EFORMAT, "another program", store_open(&s, path, NULL, &fx->err));
    assert_int_equal(stat(path, &after), 0);
    assert_true(before.st_mtim.tv_nsec == after.st_mtim.tv_nsec && before.st_size == after.st_size);

    /* an empty file becomes a store */
    write_file(path, "", 0);
    must(fx, store_open(&s, path, NULL, &fx->err));
    store_close(&s);
}

static void a_newer_store_is_refused(void **state)
{
    struct fixture *fx = *state;
    struct store *s;
    session_make(fx, "a");
    fixture_sql(fx, "UPDATE meta SET value = 4 WHERE key = 'schema'");
    assert_refused(fx, RXT_ENEWER, "schema 4, this program knows 3",
                   store_open(&s, fx->path, NULL, &fx->err));
    fixture_sql(fx, "UPDATE meta SET value = -1 WHERE key = 'schema'");
    assert_refused(fx, RXT_ECORRUPT, "damaged", store_open(&s, fx->path, NULL, &fx->err));
    fixture_sql(fx, "UPDATE meta SET value = 3 WHERE key = 'schema'");
    fixture_sql(fx, "ALTER TABLE chunk RENAME TO chunks");
    assert_refused(fx, RXT_ECORRUPT, "schema", store_open(&s, fx->path, NULL, &fx->err));
    fixture_sql(fx, "ALTER TABLE chunks RENAME TO chunk");
    session_load(fx, "a");
}

/* The way forward, with schemas of our own behind the current one. */
static void older_schemas_move_forward(void **state)
{
    struct fixture *fx = *state;
    const char *sql[5] = {schema_current.sql[0], schema_current.sql[1], schema_current.sql[2],
                          "ALTER TABLE session ADD COLUMN mood INTEGER",
                          "CREATE TABLE broken (x INTEGER) STRICT; SELECT no_such_thing"};
    struct schema_list next = {sql, 4, 4}, broken = {sql, 5, 5};
    session_make(fx, "a");
    struct store raw = {.path = fx->path, .lock_fd = -1, .busy_ms = 20};
    assert_int_equal(sqlite3_open(fx->path, &raw.db), SQLITE_OK);
    /* a server is at work */
    assert_refused(fx, RXT_EFENCED, "another process", schema_open(&raw, &next, &fx->err));
    store_close(&fx->s);
    raw.read_only = true;
    assert_refused(fx, RXT_EUNSUPPORTED, "older", schema_open(&raw, &next, &fx->err));
    raw.read_only = false;
    /* a migration that fails leaves the schema it found */
    assert_status(RXT_EIO, schema_open(&raw, &broken, &fx->err));
    assert_int_equal(fixture_number(fx, "SELECT value FROM meta WHERE key = 'schema'"), 3);
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM pragma_table_info('session') "
                                        "WHERE name = 'mood'"),
                     0);
    must(fx, schema_open(&raw, &next, &fx->err));
    assert_int_equal(fixture_number(fx, "SELECT value FROM meta WHERE key = 'schema'"), 4);
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM session WHERE mood IS NULL"), 1);
    must(fx, schema_open(&raw, &next, &fx->err)); /* nothing to do */
    sqlite3_close(raw.db);
    assert_status(RXT_ENEWER, store_open(&fx->s, fx->path, NULL, &fx->err));
}

/* What release 0.1 wrote with schema 1: a session, its fork, and an import of it. */
#define HASH "x'478a842d2afa9981c511df5108a005e5', 'demo-15m', 0, 6, 128, 256, 1, 1, "
#define STATE ", 0, '', 1, 535526762650667798);"
#define TURN                                                                                \
    "1, 1, x'7708ae00a7420b94074b35adae806db9', 0, 1, 0, 0, 4, 0.30000001192092896, "       \
    "0.8999999761581421, 0, 1482698044402114664, 'length', 'cpu-f32/1', 1796041218188040, " \
    "7729741868557062749, x'0200000005000000170e000006000000fe01000012000000', NULL, NULL);"
static const char rows_of_schema_1[] =
    "INSERT INTO session VALUES (1, 'default', 'a', " HASH "1482698044402114664, 0, NULL, '', 0,"
    " 1796041218178779, -8266720443023044072" STATE
    "INSERT INTO session VALUES (2, 'default', 'f', " HASH "1482698044402114664, 1, 1, '', 1,"
    " 1796041218303399, -8035480644501723010" STATE
    "INSERT INTO session VALUES (3, 'default', 'b', " HASH "1482698044402114664, 0, NULL, 'a', 1,"
    " 1796041218178779, -1132493919509339325" STATE "INSERT INTO turn VALUES (4294967297, 1, " TURN
    "INSERT INTO turn VALUES (12884901889, 3, " TURN "PRAGMA application_id = 0x52585453;";

static void reads_as_before(struct fixture *fx, struct store *s)
{
    static const char *const name[] = {"a", "f", "b"}, *const origin[] = {"", "a", "a"};
    struct store_session x;
    for (size_t i = 0; i < 3; i++) {
        must(fx, store_session_get(s, "default", name[i], &x, &fx->err));
        assert_string_equal(x.origin, origin[i]);
        assert_true(x.applied == 1 && x.head == 1 && x.seed == 1482698044402114664u);
    }
}

/* A store of schema 1 is read as it is, and sealed anew when it is opened for writing, which
 * handles that only read find out; what was damaged before stays damaged. */
static void a_store_of_schema_1(void **state)
{
    struct fixture *fx = *state;
    const struct store_options look = {.read_only = true};
    struct store *old[2] = {NULL};
    struct store_session x, list[2];
    size_t n = 0;
    store_close(&fx->s);
    remove(fx->path);
    fixture_sql(fx, schema_current.sql[0]);
    fixture_sql(fx, rows_of_schema_1);
    for (int i = 0; i < 2; i++) {
        must(fx, store_open(&old[i], fx->path, &look, &fx->err));
        reads_as_before(fx, old[i]);
    }
    fixture_sql(fx, "INSERT INTO session SELECT 4, tenant, 'bad', model_hash, model_name, dtype, "
                    "n_layer, n_slot, embed_dim, init, generator, seed, base, origin, origin_name, "
                    "origin_version, created_us, seal, flags, 'x', applied, state_seal FROM "
                    "session WHERE id = 1");
    fixture_open(fx);
    assert_int_equal(fixture_number(fx, "SELECT value FROM meta WHERE key = 'schema'"), 3);
    reads_as_before(fx, fx->s);
    reads_as_before(fx, old[0]);
    must(fx, store_session_list(old[1], "default", "", list, 2, &n, &fx->err));
    assert_int_equal(n, 2);
    assert_refused(fx, RXT_ECORRUPT, "bad",
                   store_session_get(old[0], "default", "bad", &x, &fx->err));
    for (int i = 0; i < 2; i++)
        store_close(&old[i]);
    assert_refused(fx, RXT_ECORRUPT, "bad",
                   store_session_get(fx->s, "default", "bad", &x, &fx->err));
    fixture_sql(fx, "UPDATE session SET origin_name = 'c' WHERE id = 3");
    assert_refused(fx, RXT_ECORRUPT, "session b",
                   store_session_get(fx->s, "default", "b", &x, &fx->err));
    must(fx, store_session_erase(fx->s, "default", "a", &fx->err));
    must(fx, store_session_get(fx->s, "default", "f", &x, &fx->err));
    assert_string_equal(x.origin, "");
}

/* Somebody who looks after the log moves it in pieces; without him it does not grow for ever. */
static void the_log_is_moved(void **state)
{
    struct fixture *fx = *state;
    static const uint8_t bytes[STORE_CHUNK_BYTES];
    struct store_upload u;
    char path[320];
    struct stat log;
    snprintf(path, sizeof path, "%s-wal", fx->path);
    must(fx, store_image_begin(fx->s, &u, &fx->err));
    for (int moves = 1; moves >= 0; moves--) {
        int n_due = 0;
        for (int i = 0; i < 40; i++) {
            must(fx, store_image_chunk(fx->s, &u, bytes, sizeof bytes, &fx->err));
            if (moves && store_log_due(fx->s)) {
                n_due++;
                must(fx, store_log_move(fx->s, &fx->err));
                assert_false(store_log_due(fx->s));
            }
        }
        assert_int_equal(stat(path, &log), 0);
        assert_true(log.st_size <= (moves ? 4 : 20) * (off_t)STORE_CHUNK_BYTES);
        assert_true(n_due >= 15 * moves);
    }
    must(fx, store_batch_begin(fx->s, &fx->err));
    assert_status(RXT_EINVAL, store_log_move(fx->s, NULL));
    store_batch_abort(fx->s);
}

static enum rxt_status open_and_read(void *arg)
{
    struct fixture *fx = arg;
    struct store *s = NULL;
    struct store_turn t;
    const struct store_options look = {.read_only = true};
    enum rxt_status st = store_open(&s, fx->path, &look, &fx->err);
    if (st == RXT_OK)
        st = store_turn_get(s, 1, 1, &t, &fx->err);
    store_close(&s);
    return st;
}

static void survives_no_memory(void **state)
{
    struct fixture *fx = *state;
    turn_add(fx, session_make(fx, "a").id, 1);
    assert_survives_no_memory(open_and_read, fx);
}

/* No verb walks a table that grows: every statement searches by key or index. */
static void statements_search(void **state)
{
    struct fixture *fx = *state;
    for (int i = 0; i < SQL_COUNT; i++) {
        char sql[4096];
        sqlite3_stmt *stmt;
        snprintf(sql, sizeof sql, "EXPLAIN QUERY PLAN %s", sql_text[i]);
        assert_int_equal(sqlite3_prepare_v2(fx->s->db, sql, -1, &stmt, NULL), SQLITE_OK);
        while (sqlite3_step(stmt) == SQLITE_ROW) {
            const char *plan = (const char *)sqlite3_column_text(stmt, 3);
            bool walks = strstr(plan, "SCAN") || strstr(plan, "TEMP B-TREE");
            /* these do not grow: uploads under way, names of tables, rows of constants */
            bool small = strstr(plan, "SCAN orphan") || strstr(plan, "SCAN sqlite_schema") ||
                         strstr(plan, "CONSTANT ROW");
            if (walks && !small)
                fail_msg("%s: %s", sql_text[i], plan);
        }
        sqlite3_finalize(stmt);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(a_new_file_is_made),
        store_unit_test(pragmas_are_set),
        store_unit_test(what_is_not_ours_is_left_alone),
        store_unit_test(a_newer_store_is_refused),
        store_unit_test(older_schemas_move_forward),
        store_unit_test(a_store_of_schema_1),
        store_unit_test(the_log_is_moved),
        store_unit_test(survives_no_memory),
        store_unit_test(statements_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
