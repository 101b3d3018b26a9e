#include "store/sqlite/header_impl.h"

#include "tests/store/fixture.h"

#define LARGE (2 * STORE_CHUNK_BYTES + 12345)

static struct store_session session_at(struct fixture *fx, const char *name, uint64_t version)
{
    struct store_session x = session_make(fx, name);
    must(fx, store_batch_begin(fx->s, &fx->err));
    for (uint64_t v = 1; v <= version; v++)
        turn_add(fx, x.id, v);
    must(fx, store_batch_commit(fx->s, &fx->err));
    return x;
}

static void newest_at_or_below(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 9), b = session_at(fx, "b", 9);
    struct store_image im, list[4];
    assert_status(RXT_ENOTFOUND, store_image_find(fx->s, a.id, 9, &im, NULL));
    image_add(fx, b.id, 1, 100);
    image_add(fx, a.id, 4, 400000);
    image_add(fx, a.id, 7, STORE_CHUNK_BYTES);
    fixture_reopen(fx);
    image_check(fx, a.id, 9, 7, STORE_CHUNK_BYTES);
    image_check(fx, a.id, 7, 7, STORE_CHUNK_BYTES);
    image_check(fx, a.id, 6, 4, 400000);
    image_check(fx, a.id, UINT64_MAX, 7, STORE_CHUNK_BYTES);
    assert_refused(fx, RXT_ENOTFOUND, "version 3", store_image_find(fx->s, a.id, 3, &im, &fx->err));

    must(fx, store_image_find(fx->s, a.id, 4, &im, &fx->err));
    struct store_image want = image_sample(4, 400000);
    assert_memory_equal(im.hash, want.hash, sizeof im.hash);
    assert_memory_equal(im.model_hash, want.model_hash, sizeof im.model_hash);
    assert_string_equal(im.bit_class, want.bit_class);
    assert_true(im.n_slot == 64 && im.created_us > 0);
    size_t n;
    must(fx, store_image_list(fx->s, a.id, list, 4, &n, &fx->err));
    assert_true(n == 2 && list[0].version == 7 && list[1].version == 4);
    must(fx, store_image_list(fx->s, a.id, list, 1, &n, &fx->err));
    assert_int_equal(n, 1);
}

static void newest_two_are_kept(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 9);
    struct store_image im;
    for (uint64_t v = 1; v <= 9; v++)
        image_add(fx, a.id, v, 70000);
    image_check(fx, a.id, 9, 9, 70000);
    image_check(fx, a.id, 8, 8, 70000);
    assert_status(RXT_ENOTFOUND, store_image_find(fx->s, a.id, 7, &im, NULL));
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM chunk"), 2);
    /* an older one does not push a newer one out */
    image_add(fx, a.id, 3, 70000);
    image_check(fx, a.id, 8, 8, 70000);
    assert_status(RXT_ENOTFOUND, store_image_find(fx->s, a.id, 7, &im, NULL));
    must(fx, store_image_prune(fx->s, a.id, 1, &fx->err));
    assert_status(RXT_ENOTFOUND, store_image_find(fx->s, a.id, 8, &im, NULL));
    must(fx, store_image_prune(fx->s, a.id, 0, &fx->err));
    assert_status(RXT_ENOTFOUND, store_image_find(fx->s, a.id, 9, &im, NULL));
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM chunk"), 0);
}

static void what_does_not_fit_is_refused(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 3);
    uint8_t bytes[100] = {0};
    struct store_image good = image_sample(2, sizeof bytes), im;
#define REFUSED(want, word, change)                                                         \
    do {                                                                                    \
        im = good;                                                                          \
        change;                                                                             \
        assert_refused(fx, want, word, store_image_put(fx->s, a.id, &im, bytes, &fx->err)); \
    } while (0)
    REFUSED(RXT_EMISMATCH, "model", im.model_hash[3] ^= 1);
    REFUSED(RXT_EMISMATCH, "dtype", im.dtype = 2);
    REFUSED(RXT_EMISMATCH, "shape", im.n_layer++);
    REFUSED(RXT_EMISMATCH, "shape", im.n_slot++);
    REFUSED(RXT_EMISMATCH, "shape", im.embed_dim++);
    REFUSED(RXT_ESTALE, "0 to 3", im.version = 4);
    REFUSED(RXT_ELIMIT, "1048577", im.bytes = STORE_CHUNK_BYTES + 1);
    REFUSED(RXT_ELIMIT, "0 bytes", im.bytes = 0);
    REFUSED(RXT_EINVAL, "bit class", memset(im.bit_class, 'x', sizeof im.bit_class));
#undef REFUSED
    assert_status(RXT_ENOTFOUND, store_image_put(fx->s, 99, &good, bytes, NULL));
    must(fx, store_image_put(fx->s, a.id, &good, bytes, &fx->err));
    assert_refused(fx, RXT_EEXIST, "version 2",
                   store_image_put(fx->s, a.id, &good, bytes, &fx->err));
    must(fx, store_image_find(fx->s, a.id, 3, &im, &fx->err));
    assert_status(RXT_ESHAPE, store_image_get(fx->s, a.id, &im, bytes, 99, NULL));
}

static struct store_upload upload(struct fixture *fx, uint64_t version, size_t n)
{
    struct store_upload u;
    uint8_t *p = image_bytes(version, n);
    must(fx, store_image_begin(fx->s, &u, &fx->err));
    for (size_t at = 0; at < n; at += STORE_CHUNK_BYTES) {
        size_t left = n - at;
        must(fx, store_image_chunk(fx->s, &u, p + at,
                                   left < STORE_CHUNK_BYTES ? left : STORE_CHUNK_BYTES, &fx->err));
    }
    free(p);
    return u;
}

/* Journal rows go between the chunks; without the commit there is no image. */
static void large_images_come_in_steps(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 3);
    struct store_image im = image_sample(2, LARGE), found;
    uint8_t *p = image_bytes(2, LARGE);
    struct store_upload u, other;
    must(fx, store_image_begin(fx->s, &u, &fx->err));
    must(fx, store_image_chunk(fx->s, &u, p, STORE_CHUNK_BYTES, &fx->err));
    turn_add(fx, a.id, 4);
    other = upload(fx, 3, LARGE); /* two at a time */
    must(fx, store_image_chunk(fx->s, &u, p + STORE_CHUNK_BYTES, STORE_CHUNK_BYTES, &fx->err));
    assert_refused(fx, RXT_ESHAPE, "2109497", /* not whole */
                   store_image_commit(fx->s, &u, a.id, &im, &fx->err));
    must(fx, store_image_chunk(fx->s, &u, p + 2 * STORE_CHUNK_BYTES, 12345, &fx->err));
    assert_status(RXT_EINVAL, store_image_chunk(fx->s, &u, p, 10, NULL)); /* after the last */
    assert_status(RXT_ENOTFOUND, store_image_find(fx->s, a.id, 9, &found, NULL));
    turn_add(fx, a.id, 5);
    must(fx, store_image_commit(fx->s, &u, a.id, &im, &fx->err));
    assert_status(RXT_ENOTFOUND, store_image_commit(fx->s, &u, a.id, &im, NULL));
    assert_status(RXT_ENOTFOUND, store_image_chunk(fx->s, &u, p, 10, NULL));
    image_check(fx, a.id, 9, 2, LARGE);

    must(fx, store_image_abort(fx->s, &other, &fx->err));
    assert_status(RXT_ENOTFOUND, store_image_abort(fx->s, &other, NULL));
    bool more = true;
    int steps = 0;
    for (; more; steps++)
        must(fx, store_sweep(fx->s, &more, &fx->err));
    assert_int_equal(steps, 5); /* three chunks, their note, and nothing more */
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM chunk"), 3);
    image_check(fx, a.id, 9, 2, LARGE);
    free(p);
}

static void unfinished_uploads_go_with_the_lease(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 3);
    struct store_upload u = upload(fx, 1, LARGE);
    fixture_reopen(fx);
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM chunk"), 0);
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM orphan"), 0);
    struct store_image im = image_sample(1, LARGE);
    assert_refused(fx, RXT_ENOTFOUND, "not open",
                   store_image_commit(fx->s, &u, a.id, &im, &fx->err));
    /* the number is not given to another upload while anything has it */
    u = upload(fx, 1, LARGE);
    must(fx, store_image_commit(fx->s, &u, a.id, &im, &fx->err));
    fixture_reopen(fx);
    struct store_upload next = upload(fx, 2, 10);
    assert_true(next.id > u.id);
    image_check(fx, a.id, 3, 1, LARGE);
}

/* Older large images lose their name at once and their chunks by and by. */
static void large_images_are_pruned(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 3);
    for (uint64_t v = 1; v <= 3; v++) {
        struct store_upload u = upload(fx, v, LARGE);
        struct store_image im = image_sample(v, LARGE);
        must(fx, store_image_commit(fx->s, &u, a.id, &im, &fx->err));
    }
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM chunk"), 9);
    for (bool more = true; more;)
        must(fx, store_sweep(fx->s, &more, &fx->err));
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM chunk"), 6);
    image_check(fx, a.id, 3, 3, LARGE);
    image_check(fx, a.id, 2, 2, LARGE);
}

static void check_damage(struct fixture *fx, int64_t session, const char *sql, const char *word)
{
    struct store_image im;
    uint8_t *buf = malloc(LARGE);
    fixture_sql(fx, sql);
    enum rxt_status st = store_image_find(fx->s, session, 9, &im, &fx->err);
    if (st == RXT_OK)
        st = store_image_get(fx->s, session, &im, buf, LARGE, &fx->err);
    else
        assert_true(im.version == 2); /* says whose header it is */
    assert_status(RXT_ECORRUPT, st);
    if (!strstr(fx->err.text, word))
        fail_msg("%s: \"%s\" does not say \"%s\"", sql, fx->err.text, word);
    free(buf);
}

static void damage_is_seen(void **state)
{
    static const char *const change[][2] = {
        {"UPDATE chunk SET data = zeroblob(1048576) WHERE key & 0xfffff = 1", "bytes"},
        {"UPDATE chunk SET data = substr(data, 2) WHERE key & 0xfffff = 2", "12344"},
        {"UPDATE chunk SET seal = zeroblob(16) WHERE key & 0xfffff = 0", "bytes"},
        {"UPDATE chunk SET seal = zeroblob(15) WHERE key & 0xfffff = 0", "column"},
        {"DELETE FROM chunk WHERE key & 0xfffff = 1", "lacks a chunk"},
        {"UPDATE chunk SET data = (SELECT data FROM chunk WHERE key & 0xfffff = 1) "
         "WHERE key & 0xfffff = 0",
         "bytes"},
        {"UPDATE image SET header = zeroblob(408)", "header"},
        {"UPDATE image SET header = substr(header, 1, 407)", "header"},
        {"UPDATE image SET header = CAST(substr(header, 1, 60) || x'00' || substr(header, 62) AS "
         "BLOB)",
         "hash"},
        {"UPDATE image SET upload = 1 WHERE upload = 2", "not made of"},
    };
    for (size_t i = 0; i < sizeof change / sizeof *change; i++) {
        struct fixture *fx = *state;
        struct store_session a = session_at(fx, "a", 3);
        struct store_upload same = upload(fx, 1, LARGE), u = upload(fx, 2, LARGE);
        struct store_image im = image_sample(2, LARGE);
        assert_true(same.id == 1 && u.id == 2);
        must(fx, store_image_commit(fx->s, &u, a.id, &im, &fx->err));
        image_check(fx, a.id, 3, 2, LARGE);
        check_damage(fx, a.id, change[i][0], change[i][1]);
        fixture_teardown(state);
        fixture_setup(state);
    }
}

/* The chunks of one upload with the seals of another: only the chain in the header tells. */
static void chunks_of_another_upload(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 3);
    image_add(fx, a.id, 1, 5000);
    image_add(fx, a.id, 2, 5000);
    fixture_sql(fx, "UPDATE image SET upload = 3 - upload WHERE key & 0xff = 2");
    struct store_image im;
    uint8_t buf[5000];
    must(fx, store_image_find(fx->s, a.id, 2, &im, &fx->err));
    assert_refused(fx, RXT_ECORRUPT, "not made of",
                   store_image_get(fx->s, a.id, &im, buf, sizeof buf, &fx->err));
}

/* Design 8: refusal naming which. An image that came to the wrong place. */
static void strangers_are_refused(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 3), b = session_at(fx, "b", 3), c;
    struct store_image im;
    uint8_t buf[100];
    char sql[200];
    image_add(fx, a.id, 2, sizeof buf);
    c = session_sample("a");
    strcpy(c.tenant, "other");
    must(fx, store_session_create(fx->s, &c, &fx->err));

    snprintf(sql, sizeof sql, "UPDATE image SET key = %lld << 32 | 2", (long long)b.id);
    fixture_sql(fx, sql);
    must(fx, store_image_find(fx->s, b.id, 3, &im, &fx->err));
    assert_refused(fx, RXT_EMISMATCH, "another session",
                   store_image_get(fx->s, b.id, &im, buf, sizeof buf, &fx->err));
    snprintf(sql, sizeof sql, "UPDATE image SET key = %lld << 32 | 2", (long long)c.id);
    fixture_sql(fx, sql);
    must(fx, store_image_find(fx->s, c.id, 3, &im, &fx->err));
    assert_refused(fx, RXT_EMISMATCH, "another tenant",
                   store_image_get(fx->s, c.id, &im, buf, sizeof buf, &fx->err));
    snprintf(sql, sizeof sql, "UPDATE image SET key = %lld << 32 | 3", (long long)a.id);
    fixture_sql(fx, sql);
    must(fx, store_image_find(fx->s, a.id, 3, &im, &fx->err));
    assert_true(im.version == 3); /* what its key says: a search for older ones goes on below */
    assert_refused(fx, RXT_EMISMATCH, "another version",
                   store_image_get(fx->s, a.id, &im, buf, sizeof buf, &fx->err));
}

static void headers_name_what_differs(void **state)
{
    (void)state;
    struct store_session x = session_sample("a");
    struct store_image want = image_sample(2, 100);
    struct image_header good = {.image = want, .n_chunk = 1}, h, got;
    struct rxt_error err;
    uint8_t bytes[HEADER_BYTES];
    strcpy(good.tenant, x.tenant);
    strcpy(good.session, x.name);
    header_write(&good, bytes);
    assert_ok(header_read(&got, bytes, sizeof bytes, &err));
    assert_ok(header_expect(&got, &x, &want, &err));
#define DIFFERS(word, change)                                               \
    do {                                                                    \
        h = good;                                                           \
        change;                                                             \
        header_write(&h, bytes);                                            \
        assert_ok(header_read(&got, bytes, sizeof bytes, &err));            \
        assert_status(RXT_EMISMATCH, header_expect(&got, &x, &want, &err)); \
        assert_non_null(strstr(err.text, "another " word));                 \
    } while (0)
    DIFFERS("tenant", h.tenant[0] = 'x');
    DIFFERS("session", h.session[0] = 'x');
    DIFFERS("version", h.image.version = 3);
    DIFFERS("model", h.image.model_hash[15] ^= 1);
    DIFFERS("dtype", h.image.dtype = 0);
    DIFFERS("shape", h.image.n_layer = 0);
    DIFFERS("shape", h.image.n_slot = 0);
    DIFFERS("shape", h.image.embed_dim = 0);
    DIFFERS("size", h.image.bytes = 101);
    DIFFERS("hash", h.image.hash[0] ^= 1);
#undef DIFFERS
    header_write(&good, bytes);
    for (size_t i = 0; i < sizeof bytes; i++) { /* no bit may change */
        bytes[i] ^= 0x10;
        assert_status(RXT_ECORRUPT, header_read(&got, bytes, sizeof bytes, &err));
        bytes[i] ^= 0x10;
        assert_status(RXT_ECORRUPT, header_read(&got, bytes, i, &err));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(newest_at_or_below),
        store_unit_test(newest_two_are_kept),
        store_unit_test(what_does_not_fit_is_refused),
        store_unit_test(large_images_come_in_steps),
        store_unit_test(unfinished_uploads_go_with_the_lease),
        store_unit_test(large_images_are_pruned),
        store_unit_test(damage_is_seen),
        store_unit_test(chunks_of_another_upload),
        store_unit_test(strangers_are_refused),
        cmocka_unit_test(headers_name_what_differs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
