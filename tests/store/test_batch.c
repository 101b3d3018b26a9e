#include "tests/store/fixture.h"

static void a_batch_is_one_commit(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a"), b = session_make(fx, "b");
    uint64_t before = store_stats(fx->s).commits;
    must(fx, store_batch_begin(fx->s, &fx->err));
    for (uint64_t v = 1; v <= 5; v++) {
        turn_add(fx, a.id, v);
        turn_add(fx, b.id, v);
    }
    image_add(fx, a.id, 5, 1000);
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM turn"), 0); /* for others */
    must(fx, store_batch_commit(fx->s, &fx->err));
    assert_int_equal(store_stats(fx->s).commits, before + 1);
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM turn"), 10);
    image_check(fx, a.id, 9, 5, 1000);
}

static void a_refused_verb_undoes_itself_only(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a"), again = session_sample("a");
    int32_t ids[SAMPLE_IDS];
    must(fx, store_batch_begin(fx->s, &fx->err));
    turn_add(fx, a.id, 1);
    struct store_turn t = turn_sample(1, ids);
    assert_status(RXT_ESTALE, store_turn_put(fx->s, a.id, &t, NULL));
    t.version = 2;
    assert_status(RXT_EEXIST, store_turn_put(fx->s, a.id, &t, NULL));
    assert_status(RXT_EEXIST, store_session_create(fx->s, &again, NULL));
    turn_add(fx, a.id, 2);
    must(fx, store_batch_commit(fx->s, &fx->err));
    fixture_reopen(fx);
    assert_true(session_load(fx, "a").applied == 2);
}

static void an_aborted_batch_never_was(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    must(fx, store_batch_begin(fx->s, &fx->err));
    turn_add(fx, a.id, 1);
    session_make(fx, "b");
    store_batch_abort(fx->s);
    store_batch_abort(fx->s); /* nothing to do */
    assert_true(session_load(fx, "a").head == 0);
    assert_status(RXT_ENOTFOUND, store_session_get(fx->s, "acme", "b", &a, NULL));
    assert_status(RXT_EINVAL, store_batch_commit(fx->s, NULL));
    /* closing with a batch open is an abort, too */
    must(fx, store_batch_begin(fx->s, &fx->err));
    session_make(fx, "c");
    fixture_reopen(fx);
    assert_status(RXT_ENOTFOUND, store_session_get(fx->s, "acme", "c", &a, NULL));
}

static void what_needs_a_transaction_of_its_own(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    must(fx, store_batch_begin(fx->s, &fx->err));
    assert_status(RXT_EINVAL, store_batch_begin(fx->s, NULL));
    assert_status(RXT_EINVAL, store_view_begin(fx->s, NULL));
    assert_status(RXT_EINVAL, store_session_erase(fx->s, "acme", "a", NULL));
    assert_status(RXT_EINVAL, store_checkpoint(fx->s, NULL));
    assert_status(RXT_EINVAL, store_lease_release(fx->s, NULL));
    char path[310];
    snprintf(path, sizeof path, "%s.copy", fx->path);
    assert_status(RXT_EINVAL, store_backup(fx->s, path, NULL));
    assert_status(RXT_EINVAL, store_export(fx->s, "acme", "a", true, NULL, NULL, NULL));
    assert_status(RXT_EINVAL,
                  store_import(fx->s, "acme", "z", &(struct store_source){0}, NULL, NULL));
    turn_add(fx, a.id, 1);
    must(fx, store_batch_commit(fx->s, &fx->err));
    assert_true(session_load(fx, "a").applied == 1);
}

static void a_view_stands_still(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a"), x;
    struct store *reader;
    const struct store_options look = {.read_only = true};
    must(fx, store_open(&reader, fx->path, &look, &fx->err));
    must(fx, store_view_begin(reader, &fx->err));
    turn_add(fx, a.id, 1);
    must(fx, store_session_get(reader, "acme", "a", &x, &fx->err));
    assert_true(x.head == 0);
    store_view_end(reader);
    must(fx, store_session_get(reader, "acme", "a", &x, &fx->err));
    assert_true(x.head == 1);
    store_view_end(reader); /* nothing to do */
    store_close(&reader);

    must(fx, store_view_begin(fx->s, &fx->err));
    assert_refused(fx, RXT_EINVAL, "view", store_turn_applied(fx->s, a.id, 2, &fx->err));
    store_view_end(fx->s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(a_batch_is_one_commit),
        store_unit_test(a_refused_verb_undoes_itself_only),
        store_unit_test(an_aborted_batch_never_was),
        store_unit_test(what_needs_a_transaction_of_its_own),
        store_unit_test(a_view_stands_still),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
