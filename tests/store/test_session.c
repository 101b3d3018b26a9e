#include "tests/store/fixture.h"

static void what_is_created_is_read(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    assert_true(a.id > 0 && a.created_us > 0 && a.used_us == a.created_us);
    fixture_reopen(fx);
    struct store_session b = session_load(fx, "a");
    assert_memory_equal(&a, &b, sizeof a);
    struct store_session again = session_sample("a");
    assert_refused(fx, RXT_EEXIST, "session a", store_session_create(fx->s, &again, &fx->err));
}

static void tenants_do_not_see_each_other(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a"), other = session_sample("a"), got;
    strcpy(other.tenant, "other");
    other.seed = 5;
    assert_refused(fx, RXT_ENOTFOUND, "session a",
                   store_session_get(fx->s, "other", "a", &got, &fx->err));
    must(fx, store_session_create(fx->s, &other, &fx->err));
    must(fx, store_session_get(fx->s, "other", "a", &got, &fx->err));
    assert_true(got.id != a.id && got.seed == 5);
    size_t n;
    struct store_session list[4];
    must(fx, store_session_list(fx->s, "other", "", list, 4, &n, &fx->err));
    assert_int_equal(n, 1);
    assert_true(list[0].id == got.id);
    must(fx, store_session_list(fx->s, "nobody", "", list, 4, &n, &fx->err));
    assert_int_equal(n, 0);
}

static void lists_come_in_pages(void **state)
{
    struct fixture *fx = *state;
    char name[16];
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof name, "s%d", (i * 7) % 10);
        session_make(fx, name);
    }
    struct store_session list[4];
    char after[STORE_NAME_MAX] = "";
    size_t n, seen = 0;
    do {
        must(fx, store_session_list(fx->s, "acme", after, list, 4, &n, &fx->err));
        for (size_t i = 0; i < n; i++) {
            snprintf(name, sizeof name, "s%zu", seen++);
            assert_string_equal(list[i].name, name);
        }
        if (n)
            strcpy(after, list[n - 1].name);
    } while (n == 4);
    assert_int_equal(seen, 10);
    must(fx, store_session_list(fx->s, "acme", "", list, 0, &n, &fx->err));
    assert_int_equal(n, 0);
}

static void names_have_limits(void **state)
{
    struct fixture *fx = *state;
    struct store_session x = session_sample("");
    assert_refused(fx, RXT_EINVAL, "session name", store_session_create(fx->s, &x, &fx->err));
    memset(x.name, 'n', sizeof x.name);
    assert_refused(fx, RXT_ELIMIT, "127", store_session_create(fx->s, &x, &fx->err));
    x.name[STORE_NAME_MAX - 1] = '\0';
    must(fx, store_session_create(fx->s, &x, &fx->err));
    struct store_session got;
    must(fx, store_session_get(fx->s, "acme", x.name, &got, &fx->err));
    assert_string_equal(got.name, x.name);

    x = session_sample("b");
    x.tenant[0] = '\0';
    assert_refused(fx, RXT_EINVAL, "tenant", store_session_create(fx->s, &x, &fx->err));
    x = session_sample("b");
    memset(x.model_name, 'm', sizeof x.model_name);
    assert_refused(fx, RXT_EINVAL, "model", store_session_create(fx->s, &x, &fx->err));
    x = session_sample("b");
    x.base = (uint64_t)STORE_VERSION_MAX + 1;
    assert_refused(fx, RXT_EINVAL, "version", store_session_create(fx->s, &x, &fx->err));
    /* nothing of a name is syntax */
    struct store_session odd = session_make(fx, "'; DROP TABLE turn; --\xff%_\"");
    session_load(fx, odd.name);
}

static void state_is_kept(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    uint32_t both = (uint32_t)STORE_HELD | (uint32_t)STORE_MIXED_CLASS;
    must(fx, store_session_set_state(fx->s, a.id, both, "update was not finite", &fx->err));
    fixture_reopen(fx);
    a = session_load(fx, "a");
    assert_int_equal(a.flags, both);
    assert_string_equal(a.held_reason, "update was not finite");
    must(fx, store_session_set_state(fx->s, a.id, 0, NULL, &fx->err));
    a = session_load(fx, "a");
    assert_int_equal(a.flags, 0);
    assert_string_equal(a.held_reason, "");

    char endless[STORE_REASON_MAX];
    memset(endless, 'x', sizeof endless);
    assert_status(RXT_ELIMIT, store_session_set_state(fx->s, a.id, STORE_HELD, endless, NULL));
    assert_status(RXT_EINVAL, store_session_set_state(fx->s, a.id, 0, "why", NULL));
    assert_status(RXT_EINVAL, store_session_set_state(fx->s, a.id, 8, NULL, NULL));
    assert_refused(fx, RXT_ENOTFOUND, "999",
                   store_session_set_state(fx->s, 999, STORE_HELD, "why", &fx->err));
}

/* Each column that fixes the memory is under the seal. */
static void a_changed_row_is_refused(void **state)
{
    struct fixture *fx = *state;
    static const char *const change[] = {
        "seed = seed + 1",
        "init = 2",
        "generator = 2",
        "n_slot = 65",
        "n_layer = 7",
        "dtype = 2",
        "embed_dim = 128",
        "model_hash = zeroblob(16)",
        "model_name = 'x'",
        "applied = 3",
        "seal = seal + 1",
        "model_hash = zeroblob(15)",
        "origin_version = 1",
        "origin_name = 'x'",
        "origin = id",
        "n_slot = -64",
        "held_reason = printf('%0200d', 1)",
    };
    for (size_t i = 0; i < sizeof change / sizeof *change; i++) {
        char name[16], sql[200];
        snprintf(name, sizeof name, "s%zu", i);
        session_make(fx, name);
        snprintf(sql, sizeof sql, "UPDATE session SET %s WHERE name = '%s'", change[i], name);
        fixture_sql(fx, sql);
        struct store_session x;
        assert_refused(fx, RXT_ECORRUPT, "damaged",
                       store_session_get(fx->s, "acme", name, &x, &fx->err));
        must(fx, store_session_erase(fx->s, "acme", name, &fx->err)); /* but it can go */
    }
}

/* Also in what it is looked for by: who walks the file by ids finds it, and goes on behind it. */
static void a_changed_name_is_found(void **state)
{
    struct fixture *fx = *state;
    static const char *const change[] = {"tenant = 'acmf'", "name = 'c'"};
    for (size_t i = 0; i < sizeof change / sizeof *change; i++) {
        char sql[100];
        struct store_session x, a = session_make(fx, "a"), b = session_make(fx, "b");
        snprintf(sql, sizeof sql, "UPDATE session SET %s WHERE name = 'a'", change[i]);
        fixture_sql(fx, sql);
        assert_refused(fx, RXT_ECORRUPT, "damaged", store_session_next(fx->s, 0, &x, &fx->err));
        assert_int_equal(x.id, a.id);
        must(fx, store_session_next(fx->s, x.id, &x, &fx->err));
        assert_memory_equal(&x, &b, sizeof b);
        assert_status(RXT_ENOTFOUND, store_session_next(fx->s, x.id, &x, &fx->err));
        fixture_renew(fx);
    }
}

static void hashes_of_files(void **state)
{
    struct fixture *fx = *state;
    uint8_t hash[STORE_HASH_BYTES] = "0123456789abcde", got[STORE_HASH_BYTES];
    assert_refused(fx, RXT_ENOTFOUND, "/m/w", store_hash_get(fx->s, "/m/w", 10, 20, got, &fx->err));
    must(fx, store_hash_put(fx->s, "/m/w", 10, 20, hash, &fx->err));
    must(fx, store_hash_get(fx->s, "/m/w", 10, 20, got, &fx->err));
    assert_memory_equal(hash, got, sizeof hash);
    assert_status(RXT_ENOTFOUND, store_hash_get(fx->s, "/m/w", 11, 20, got, NULL));
    assert_status(RXT_ENOTFOUND, store_hash_get(fx->s, "/m/w", 10, 21, got, NULL));
    hash[0] = 'x';
    must(fx, store_hash_put(fx->s, "/m/w", 11, 21, hash, &fx->err));
    must(fx, store_hash_get(fx->s, "/m/w", 11, 21, got, &fx->err));
    assert_memory_equal(hash, got, sizeof hash);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(what_is_created_is_read), store_unit_test(tenants_do_not_see_each_other),
        store_unit_test(lists_come_in_pages),     store_unit_test(names_have_limits),
        store_unit_test(state_is_kept),           store_unit_test(a_changed_row_is_refused),
        store_unit_test(a_changed_name_is_found), store_unit_test(hashes_of_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
