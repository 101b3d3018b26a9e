/* What the tests of the store share: a store in a folder of its own, and rows to put into it. */
#ifndef RXT_TESTS_STORE_FIXTURE_H
#define RXT_TESTS_STORE_FIXTURE_H

#include "store/store.h"

#include "tests/fault/vfs.h"
#include "tests/lib/test.h"

#include <sqlite3.h>

struct fixture {
    char *dir;
    char path[300];
    struct store *s; /* open, with the lease */
    struct rxt_error err;
};

/* assert_ok with the sentence of the error. */
#define must(fx, call) must_((fx), (call), #call, __FILE__, __LINE__)
static inline void must_(struct fixture *fx, enum rxt_status st, const char *call, const char *file,
                         int line)
{
    if (st == RXT_OK)
        return;
    print_error("%s: %s: %s\n", call, rxt_status_name(st), fx->err.text);
    _fail(file, line);
}

/* The status, and a sentence that says `word`. */
#define assert_refused(fx, want, word, call)                              \
    do {                                                                  \
        (fx)->err.text[0] = '\0';                                         \
        assert_status(want, call);                                        \
        if (!strstr((fx)->err.text, word))                                \
            fail_msg("\"%s\" does not say \"%s\"", (fx)->err.text, word); \
    } while (0)

static inline void fixture_open(struct fixture *fx)
{
    must(fx, store_open(&fx->s, fx->path, NULL, &fx->err));
    must(fx, store_lease_take(fx->s, &fx->err));
}

static inline int fixture_setup(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    assert_non_null(fx);
    fault_vfs_install();
    fx->dir = test_dir_make();
    snprintf(fx->path, sizeof fx->path, "%s/store.db", fx->dir);
    fixture_open(fx);
    *state = fx;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    struct fixture *fx = *state;
    if (fx->s)
        must(fx, store_check(fx->s, &fx->err));
    store_close(&fx->s);
    test_dir_remove(fx->dir);
    free(fx);
    return 0;
}

/* An empty store in the same place. */
static inline void fixture_renew(struct fixture *fx)
{
    static const char *const end[] = {"", "-wal", "-shm", "-lease"};
    char path[320];
    store_close(&fx->s);
    for (size_t i = 0; i < sizeof end / sizeof *end; i++) {
        snprintf(path, sizeof path, "%s%s", fx->path, end[i]);
        remove(path);
    }
    fixture_open(fx);
}

#define store_unit_test(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)

static inline void fixture_reopen(struct fixture *fx)
{
    store_close(&fx->s);
    fixture_open(fx);
}

/* Statements of another program on the same file, as a person with sqlite3 would type them. */
static inline void fixture_sql(struct fixture *fx, const char *sql)
{
    sqlite3 *db;
    char *why = NULL;
    assert_int_equal(sqlite3_open(fx->path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 2000);
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s: %s", sql, why);
    sqlite3_close(db);
}

static inline int64_t fixture_number(struct fixture *fx, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *stmt;
    assert_int_equal(sqlite3_open(fx->path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 2000);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return n;
}

/* A session row with something in every field. */
static inline struct store_session session_sample(const char *name)
{
    struct store_session x = {.dtype = 1,
                              .n_layer = 6,
                              .n_slot = 64,
                              .embed_dim = 256,
                              .init = 0,
                              .generator = 1,
                              .seed = 0xfedcba9876543210u};
    strcpy(x.tenant, "acme");
    strcpy(x.name, name);
    memset(x.model_hash, 0xa5, sizeof x.model_hash);
    strcpy(x.model_name, "demo-15m");
    return x;
}

static inline struct store_session session_make(struct fixture *fx, const char *name)
{
    struct store_session x = session_sample(name);
    must(fx, store_session_create(fx->s, &x, &fx->err));
    return x;
}

static inline struct store_session session_load(struct fixture *fx, const char *name)
{
    struct store_session x;
    must(fx, store_session_get(fx->s, "acme", name, &x, &fx->err));
    return x;
}

/* A turn whose ids and request follow from its version, so that a reader can check it. */
#define SAMPLE_IDS 24
static inline struct store_turn turn_sample(uint64_t version, int32_t ids[SAMPLE_IDS])
{
    struct store_turn t = {.kind = STORE_TURN,
                           .state = STORE_LIVE,
                           .version = version,
                           .read_version = version - 1,
                           .ids = ids,
                           .n_ids = SAMPLE_IDS,
                           .n_query = 9,
                           .temperature = 0.7f,
                           .top_p = 0.9f,
                           .top_k = 40,
                           .seed = 77 + version};
    for (int i = 0; i < SAMPLE_IDS; i++)
        ids[i] = (int32_t)version * 1000 + i;
    /* spread as random ids are */
    for (int i = 0; i < STORE_REQUEST_BYTES / 8; i++) {
        uint64_t r = (version + (uint64_t)i) * 0x9e3779b97f4a7c15u;
        r ^= r >> 29;
        memcpy(t.request + 8 * i, &r, 8);
    }
    strcpy(t.finish, "eos");
    strcpy(t.bit_class, "cpu-f32/1");
    return t;
}

static inline void turn_add(struct fixture *fx, int64_t session, uint64_t version)
{
    int32_t ids[SAMPLE_IDS];
    struct store_turn t = turn_sample(version, ids);
    must(fx, store_turn_put(fx->s, session, &t, &fx->err));
    must(fx, store_turn_applied(fx->s, session, version, &fx->err));
}

static inline void turn_check(const struct store_turn *t, uint64_t version)
{
    int32_t ids[SAMPLE_IDS];
    struct store_turn want = turn_sample(version, ids);
    assert_int_equal(t->n_ids, SAMPLE_IDS);
    assert_memory_equal(t->ids, ids, sizeof ids);
    assert_memory_equal(t->request, want.request, sizeof want.request);
    assert_true(t->version == version && t->read_version == version - 1 && t->n_query == 9);
    assert_true(t->temperature == 0.7f && t->top_p == 0.9f && t->top_k == 40);
    assert_true(t->seed == 77 + version && t->kind == STORE_TURN && t->parent == 0);
    assert_string_equal(t->finish, "eos");
    assert_string_equal(t->bit_class, "cpu-f32/1");
}

/* An image of `bytes` bytes that follow from version and place. */
static inline struct store_image image_sample(uint64_t version, uint64_t bytes)
{
    struct store_session x = session_sample("");
    struct store_image im = {.version = version,
                             .dtype = x.dtype,
                             .n_layer = x.n_layer,
                             .n_slot = x.n_slot,
                             .embed_dim = x.embed_dim,
                             .bytes = bytes};
    memcpy(im.model_hash, x.model_hash, sizeof im.model_hash);
    memset(im.hash, (int)version, sizeof im.hash);
    strcpy(im.bit_class, "cpu-f32/1");
    return im;
}

static inline uint8_t *image_bytes(uint64_t version, size_t bytes)
{
    uint8_t *p = malloc(bytes);
    assert_non_null(p);
    for (size_t i = 0; i < bytes; i++)
        p[i] = (uint8_t)((version * 31 + i * 7 + (i >> 12)) & 0xff);
    return p;
}

static inline void image_add(struct fixture *fx, int64_t session, uint64_t version, size_t bytes)
{
    struct store_image im = image_sample(version, bytes);
    uint8_t *p = image_bytes(version, bytes);
    must(fx, store_image_put(fx->s, session, &im, p, &fx->err));
    free(p);
}

static inline void image_check(struct fixture *fx, int64_t session, uint64_t at, uint64_t version,
                               size_t bytes)
{
    struct store_image im;
    must(fx, store_image_find(fx->s, session, at, &im, &fx->err));
    assert_true(im.version == version && im.bytes == bytes);
    uint8_t *want = image_bytes(version, bytes), *got = malloc(bytes);
    must(fx, store_image_get(fx->s, session, &im, got, bytes, &fx->err));
    assert_memory_equal(want, got, bytes);
    free(want);
    free(got);
}

#endif
