#include "tests/store/fixture.h"

static struct store_session session_at(struct fixture *fx, const char *name, uint64_t version)
{
    struct store_session x = session_make(fx, name);
    for (uint64_t v = 1; v <= version; v++)
        turn_add(fx, x.id, v);
    return x;
}

static void rewind_add(struct fixture *fx, int64_t session, uint64_t version, uint64_t parent)
{
    struct store_turn t = {.kind = STORE_REWIND,
                           .state = STORE_LIVE,
                           .version = version,
                           .parent = parent,
                           .read_version = version - 1};
    memset(t.request, (int)(0x80 + version), sizeof t.request);
    must(fx, store_turn_put(fx->s, session, &t, &fx->err));
    must(fx, store_turn_applied(fx->s, session, version, &fx->err));
}

static void a_fork_shares_the_image(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 5), f;
    image_add(fx, a.id, 4, 9000);
    image_add(fx, a.id, 5, 9000);
    must(fx, store_session_fork(fx->s, a.id, 5, "f", &f, &fx->err));
    assert_true(f.base == 5 && f.head == 5 && f.applied == 5 && f.origin_version == 5);
    assert_true(f.seed == a.seed && f.n_slot == a.n_slot && f.id != a.id);
    assert_string_equal(f.origin, "a");
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM chunk"), 2);
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM turn"), 5);
    image_check(fx, f.id, 9, 5, 9000);
    /* each goes its own way */
    for (uint64_t v = 6; v <= 9; v++) {
        turn_add(fx, a.id, v);
        image_add(fx, a.id, v, 9000);
        turn_add(fx, f.id, v);
    }
    image_check(fx, f.id, 9, 5, 9000);
    image_add(fx, f.id, 8, 9000);
    image_add(fx, f.id, 9, 9000);
    must(fx, store_image_prune(fx->s, f.id, 1, &fx->err));
    image_check(fx, f.id, 8, 5, 9000); /* the image of base stays: there is nothing before it */
    image_check(fx, f.id, 9, 9, 9000);
    struct store_session g;
    assert_refused(fx, RXT_ESTALE, "5 to 9", store_session_fork(fx->s, f.id, 4, "g", &g, &fx->err));
    must(fx, store_session_fork(fx->s, f.id, 5, "g", &g, &fx->err)); /* a fork of a fork */
    image_check(fx, g.id, 9, 5, 9000);
    assert_refused(fx, RXT_EEXIST, "session g",
                   store_session_fork(fx->s, f.id, 5, "g", &g, &fx->err));
    assert_status(RXT_ESTALE, store_session_fork(fx->s, a.id, 10, "h", NULL, NULL));
    assert_status(RXT_ENOTFOUND, store_session_fork(fx->s, 99, 1, "h", NULL, NULL));
    assert_status(RXT_EINVAL, store_session_fork(fx->s, a.id, 1, "", NULL, NULL));
}

static void a_fork_between_images_copies_rows(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 8), f;
    struct store_turn t;
    image_add(fx, a.id, 3, 500);
    must(fx, store_session_fork(fx->s, a.id, 6, "f", &f, &fx->err));
    assert_true(f.base == 3 && f.head == 6 && f.applied == 6 && f.origin_version == 6);
    uint64_t v = f.base;
    while (store_turn_next(fx->s, f.id, v, &t, NULL) == RXT_OK) {
        turn_check(&t, ++v);
        assert_true(t.session == f.id);
    }
    assert_int_equal(v, 6);
    image_check(fx, f.id, 6, 3, 500);
    turn_add(fx, f.id, 7);
    /* without any image everything is copied, and version 0 is derived */
    struct store_session b = session_at(fx, "b", 2), g;
    must(fx, store_session_fork(fx->s, b.id, 2, "g", &g, &fx->err));
    assert_true(g.base == 0 && g.applied == 2);
    must(fx, store_session_fork(fx->s, b.id, 0, "h", &g, &fx->err));
    assert_true(g.base == 0 && g.applied == 0);
}

/* Rows that are journaled and not applied are turns like any other, there and in the fork; those of
 * a held session wait for its repair. */
static void a_fork_takes_what_is_not_applied(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 4), f;
    struct store_turn t;
    int32_t ids[SAMPLE_IDS];
    image_add(fx, a.id, 3, 500);
    for (uint64_t v = 5; v <= 6; v++) {
        t = turn_sample(v, ids);
        must(fx, store_turn_put(fx->s, a.id, &t, &fx->err));
    }
    a = session_load(fx, "a");
    assert_true(a.applied == 4 && a.head == 6 && store_session_newest(&a) == 6);
    must(fx, store_session_fork(fx->s, a.id, 6, "f", &f, &fx->err));
    assert_true(f.base == 3 && f.applied == 4 && f.head == 6 && f.origin_version == 6);
    for (uint64_t v = 4; v <= 6; v++) {
        must(fx, store_turn_get(fx->s, f.id, v, &t, &fx->err));
        turn_check(&t, v);
    }
    must(fx, store_turn_applied(fx->s, f.id, 5, &fx->err)); /* each is told by itself */
    assert_int_equal(session_load(fx, "a").applied, 4);
    must(fx, store_session_fork(fx->s, a.id, 5, "g", &f, &fx->err));
    assert_true(f.applied == 4 && f.head == 5);
    must(fx, store_session_fork(fx->s, a.id, 3, "h", &f, &fx->err));
    assert_true(f.applied == 3 && f.head == 3);
    assert_refused(fx, RXT_ESTALE, "0 to 6", store_session_fork(fx->s, a.id, 7, "i", &f, &fx->err));

    must(fx, store_session_set_state(fx->s, a.id, STORE_HELD, "refused", &fx->err));
    a = session_load(fx, "a");
    assert_int_equal(store_session_newest(&a), 4);
    assert_refused(fx, RXT_ESTALE, "0 to 4", store_session_fork(fx->s, a.id, 5, "i", &f, &fx->err));
    must(fx, store_session_fork(fx->s, a.id, 4, "i", &f, &fx->err));
    assert_true(f.applied == 4 && f.head == 4 && f.flags == 0);
}

/* A rewind inside of what is copied may go back behind the image. */
static void roots_reach_behind_rewinds(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 4), f;
    image_add(fx, a.id, 2, 500);
    turn_add(fx, a.id, 5);
    image_add(fx, a.id, 5, 500);
    rewind_add(fx, a.id, 6, 3); /* 3 = image 2 + row 3 */
    turn_add(fx, a.id, 7);
    uint64_t root;
    must(fx, store_history_root(fx->s, a.id, 5, &root, &fx->err));
    assert_int_equal(root, 5);
    must(fx, store_history_root(fx->s, a.id, 7, &root, &fx->err));
    assert_int_equal(root, 2);
    must(fx, store_session_fork(fx->s, a.id, 7, "f", &f, &fx->err));
    assert_true(f.base == 2 && f.applied == 7);
    image_check(fx, f.id, 4, 2, 500);
    image_check(fx, f.id, 9, 5, 500);
    rewind_add(fx, a.id, 8, 1); /* nothing below but the initial memory */
    must(fx, store_history_root(fx->s, a.id, 8, &root, &fx->err));
    assert_int_equal(root, 0);
    struct store_turn t = {.kind = STORE_REWIND, .state = STORE_LIVE, .version = 8, .parent = 1};
    assert_refused(fx, RXT_ENOTFOUND, "2 to 7", store_turn_put(fx->s, f.id, &t, &fx->err));
}

static void forks_outlive_their_origin(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 5), f;
    image_add(fx, a.id, 5, 9000);
    must(fx, store_session_fork(fx->s, a.id, 5, "f", &f, &fx->err));
    must(fx, store_session_erase(fx->s, "acme", "a", &fx->err));
    f = session_load(fx, "f");
    assert_true(f.base == 5 && f.origin_version == 5);
    assert_string_equal(f.origin, "");
    image_check(fx, f.id, 5, 5, 9000);
    turn_add(fx, f.id, 6);
    must(fx, store_session_erase(fx->s, "acme", "f", &fx->err));
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM chunk"), 0);
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM image"), 0);
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM turn"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(a_fork_shares_the_image),
        store_unit_test(a_fork_between_images_copies_rows),
        store_unit_test(a_fork_takes_what_is_not_applied),
        store_unit_test(roots_reach_behind_rewinds),
        store_unit_test(forks_outlive_their_origin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
