#include "tests/store/fixture.h"

#include <math.h>

static void rows_come_back_in_order(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a"), b = session_make(fx, "b");
    for (uint64_t v = 1; v <= 300; v++) { /* several pages, two sessions in turns */
        turn_add(fx, a.id, v);
        turn_add(fx, b.id, v);
    }
    fixture_reopen(fx);
    struct store_turn t;
    uint64_t v = 0;
    while (store_turn_next(fx->s, a.id, v, &t, NULL) == RXT_OK) {
        turn_check(&t, ++v);
        assert_true(t.session == a.id && t.state == STORE_LIVE && t.wall_us > 0);
        assert_null(t.query_text);
    }
    assert_int_equal(v, 300);
    assert_refused(fx, RXT_ENOTFOUND, "after version 300",
                   store_turn_next(fx->s, a.id, v, &t, &fx->err));
    must(fx, store_turn_get(fx->s, b.id, 17, &t, &fx->err));
    turn_check(&t, 17);
    assert_true(t.session == b.id);
    assert_status(RXT_ENOTFOUND, store_turn_get(fx->s, b.id, 301, &t, NULL));
    assert_status(RXT_ENOTFOUND, store_turn_get(fx->s, b.id, 0, &t, NULL));
    a = session_load(fx, "a");
    assert_true(a.head == 300 && a.applied == 300 && a.used_us >= a.created_us);
}

static void texts_and_long_rows(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    enum { N = 50000 }; /* far beyond a page */
    int32_t *ids = malloc(N * sizeof *ids), few[SAMPLE_IDS];
    for (int i = 0; i < N; i++)
        ids[i] = i * 40503;
    struct store_turn t = turn_sample(1, few), got;
    t.ids = ids;
    t.n_ids = N;
    t.query_text = "what is it?";
    t.answer_text = "";
    t.wall_us = 1234567;
    must(fx, store_turn_put(fx->s, a.id, &t, &fx->err));
    must(fx, store_turn_get(fx->s, a.id, 1, &got, &fx->err));
    assert_int_equal(got.n_ids, N);
    assert_memory_equal(got.ids, ids, N * sizeof *ids);
    assert_string_equal(got.query_text, "what is it?");
    assert_string_equal(got.answer_text, "");
    assert_true(got.wall_us == 1234567);
    free(ids);
}

/* S4: a row takes the version after the head, or none. */
static void versions_are_compared_and_set(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    int32_t ids[SAMPLE_IDS];
    struct store_turn t = turn_sample(2, ids);
    assert_refused(fx, RXT_ESTALE, "next is 1", store_turn_put(fx->s, a.id, &t, &fx->err));
    turn_add(fx, a.id, 1);
    t = turn_sample(1, ids);
    assert_status(RXT_ESTALE, store_turn_put(fx->s, a.id, &t, NULL));
    t = turn_sample(2, ids);
    t.read_version = 2;
    assert_status(RXT_ESTALE, store_turn_put(fx->s, a.id, &t, NULL));
    assert_status(RXT_ENOTFOUND, store_turn_put(fx->s, 999, &t, NULL));
    /* a turn that goes on from v while v+1 is pending */
    t.read_version = 0;
    must(fx, store_turn_put(fx->s, a.id, &t, &fx->err));

    assert_status(RXT_ESTALE, store_turn_applied(fx->s, a.id, 1, NULL));
    assert_status(RXT_ESTALE, store_turn_applied(fx->s, a.id, 3, NULL));
    a = session_load(fx, "a");
    assert_true(a.head == 2 && a.applied == 1);
    must(fx, store_turn_applied(fx->s, a.id, 2, &fx->err));
    assert_status(RXT_ENOTFOUND, store_turn_applied(fx->s, 999, 1, NULL));
}

static void bad_rows_are_refused(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    int32_t ids[SAMPLE_IDS];
    struct store_turn good = turn_sample(1, ids), t;
    char *endless = malloc(STORE_TEXT_MAX + 1);
    memset(endless, 'x', STORE_TEXT_MAX);
    endless[STORE_TEXT_MAX] = '\0';
#define REFUSED(want, change)                                       \
    do {                                                            \
        t = good;                                                   \
        change;                                                     \
        assert_status(want, store_turn_put(fx->s, a.id, &t, NULL)); \
    } while (0)
    REFUSED(RXT_EINVAL, t.kind = (enum store_kind)0);
    REFUSED(RXT_EINVAL, t.kind = (enum store_kind)5);
    REFUSED(RXT_EINVAL, t.state = STORE_VOID);
    REFUSED(RXT_EINVAL, t.state = STORE_UNDECIDED); /* with a version */
    REFUSED(RXT_EINVAL, t.parent = 1);
    REFUSED(RXT_EINVAL, t.n_query = SAMPLE_IDS + 1);
    REFUSED(RXT_EINVAL, t.n_ids = t.n_query = 0);
    REFUSED(RXT_EINVAL, t.ids = NULL);
    REFUSED(RXT_EINVAL, t.kind = STORE_RESET); /* with ids */
    REFUSED(RXT_EINVAL, t.temperature = NAN);
    REFUSED(RXT_EINVAL, t.top_p = INFINITY);
    REFUSED(RXT_EINVAL, memset(t.finish, 'x', sizeof t.finish));
    REFUSED(RXT_EINVAL, memset(t.bit_class, 'x', sizeof t.bit_class));
    REFUSED(RXT_ELIMIT, t.n_ids = STORE_IDS_MAX + 1);
    REFUSED(RXT_ELIMIT, t.answer_text = endless);
    REFUSED(RXT_ENOTFOUND, (t.kind = STORE_REWIND, t.n_ids = t.n_query = 0, t.parent = 1));
#undef REFUSED
    free(endless);
    assert_true(session_load(fx, "a").head == 0);
}

static void a_request_is_written_once(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a"), b = session_make(fx, "b");
    int32_t ids[SAMPLE_IDS];
    for (uint64_t v = 1; v <= STORE_WINDOW + 2; v++)
        turn_add(fx, a.id, v);
    uint64_t head = STORE_WINDOW + 2;

    struct store_turn got, first = turn_sample(1, ids);
    /* the last 256 are answered, older ones are expired */
    struct store_turn t = turn_sample(3, ids);
    must(fx, store_turn_find(fx->s, a.id, t.request, 0, &got, &fx->err));
    turn_check(&got, 3);
    t.version = head + 1;
    assert_refused(fx, RXT_EEXIST, "request", store_turn_put(fx->s, a.id, &t, &fx->err));
    t = turn_sample(2, ids);
    assert_refused(fx, RXT_EEXPIRED, "256",
                   store_turn_find(fx->s, a.id, t.request, 0, &got, &fx->err));
    t.version = head + 1;
    assert_refused(fx, RXT_EEXPIRED, "256", store_turn_put(fx->s, a.id, &t, &fx->err));
    assert_status(RXT_ENOTFOUND, store_turn_find(fx->s, b.id, first.request, 0, &got, NULL));
    turn_add(fx, b.id, 1); /* the same id in another session is another request */
    assert_true(session_load(fx, "a").head == head);

    struct store_request *r = malloc(2 * STORE_WINDOW * sizeof *r);
    size_t n;
    must(fx, store_turn_requests(fx->s, a.id, r, &n, &fx->err));
    assert_int_equal(n, STORE_WINDOW);
    for (size_t i = 0; i < n; i++) {
        t = turn_sample(head - i, ids);
        assert_true(r[i].version == head - i && r[i].state == STORE_LIVE && r[i].candidate == 0);
        assert_memory_equal(r[i].id, t.request, sizeof t.request);
    }
    must(fx, store_turn_requests(fx->s, b.id, r, &n, &fx->err));
    assert_int_equal(n, 1);
    free(r);
}

static void put_candidates(struct fixture *fx, int64_t session, uint64_t like, uint32_t n)
{
    int32_t ids[SAMPLE_IDS];
    struct store_turn t = turn_sample(like, ids);
    t.version = t.read_version = 0;
    t.state = STORE_UNDECIDED;
    must(fx, store_batch_begin(fx->s, &fx->err));
    for (t.candidate = 0; t.candidate < n; t.candidate++) {
        ids[SAMPLE_IDS - 1] = (int32_t)t.candidate;
        must(fx, store_turn_put(fx->s, session, &t, &fx->err));
    }
    must(fx, store_batch_commit(fx->s, &fx->err));
}

static void one_candidate_is_chosen(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    int32_t ids[SAMPLE_IDS];
    turn_add(fx, a.id, 1);
    put_candidates(fx, a.id, 50, 3);
    assert_true(session_load(fx, "a").head == 1); /* undecided rows are no versions */
    struct store_turn like = turn_sample(50, ids), t;
    assert_status(RXT_ENOTFOUND, store_turn_next(fx->s, a.id, 1, &t, NULL));

    assert_status(RXT_ENOTFOUND, store_turn_choose(fx->s, a.id, like.request, 3, 2, NULL));
    assert_status(RXT_ESTALE, store_turn_choose(fx->s, a.id, like.request, 2, 3, NULL));
    turn_add(fx, a.id, 2); /* another turn came in between */
    assert_status(RXT_ESTALE, store_turn_choose(fx->s, a.id, like.request, 2, 2, NULL));
    must(fx, store_turn_choose(fx->s, a.id, like.request, 2, 3, &fx->err));
    assert_status(RXT_ESTALE, store_turn_choose(fx->s, a.id, like.request, 1, 4, NULL));
    must(fx, store_turn_next(fx->s, a.id, 2, &t, &fx->err));
    assert_true(t.version == 3 && t.candidate == 2 && t.ids[SAMPLE_IDS - 1] == 2);
    must(fx, store_turn_find(fx->s, a.id, like.request, 1, &t, &fx->err));
    assert_true(t.state == STORE_VOID && t.version == 0);
    must(fx, store_turn_applied(fx->s, a.id, 3, &fx->err));

    struct store_request r[2 * STORE_WINDOW];
    size_t n;
    must(fx, store_turn_requests(fx->s, a.id, r, &n, &fx->err));
    assert_int_equal(n, 5);
    assert_true(r[0].version == 3 && r[0].candidate == 2 && r[3].state == STORE_VOID &&
                r[4].state == STORE_VOID);

    put_candidates(fx, a.id, 60, 2);
    like = turn_sample(60, ids);
    must(fx, store_turn_expire(fx->s, a.id, like.request, &fx->err));
    assert_status(RXT_ESTALE, store_turn_choose(fx->s, a.id, like.request, 0, 4, NULL));
    assert_true(session_load(fx, "a").head == 3);
    /* a repeat of a void request is still seen */
    like.version = 4;
    like.read_version = 3;
    assert_status(RXT_EEXIST, store_turn_put(fx->s, a.id, &like, NULL));
}

static void void_requests_expire_too(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    int32_t ids[SAMPLE_IDS];
    for (uint64_t i = 0; i < STORE_WINDOW / 2 + 1; i++)
        put_candidates(fx, a.id, 1000 + i, 2);
    struct store_turn t, first = turn_sample(1000, ids), second = turn_sample(1001, ids);
    assert_status(RXT_EEXPIRED, store_turn_find(fx->s, a.id, first.request, 0, &t, NULL));
    must(fx, store_turn_find(fx->s, a.id, second.request, 0, &t, &fx->err));
    struct store_request *r = malloc(2 * STORE_WINDOW * sizeof *r);
    size_t n;
    must(fx, store_turn_requests(fx->s, a.id, r, &n, &fx->err));
    assert_int_equal(n, STORE_WINDOW);
    free(r);
}

/* S2: a held session refuses turns; a rewind gives up what was not applied and goes on. */
static void held_until_rewind(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    int32_t ids[SAMPLE_IDS];
    for (uint64_t v = 1; v <= 3; v++)
        turn_add(fx, a.id, v);
    for (uint64_t v = 4; v <= 5; v++) { /* journaled; the update of 4 is then refused */
        struct store_turn t = turn_sample(v, ids);
        must(fx, store_turn_put(fx->s, a.id, &t, &fx->err));
    }
    must(fx, store_session_set_state(fx->s, a.id, STORE_HELD, "not finite", &fx->err));
    struct store_turn t = turn_sample(6, ids);
    assert_refused(fx, RXT_EHELD, "held at version 3", store_turn_put(fx->s, a.id, &t, &fx->err));

    struct store_turn rewind = {
        .kind = STORE_REWIND, .state = STORE_LIVE, .version = 4, .parent = 2, .read_version = 3};
    memset(rewind.request, 0x77, sizeof rewind.request);
    uint32_t n;
    must(fx, store_batch_begin(fx->s, &fx->err));
    must(fx, store_turn_void(fx->s, a.id, &n, &fx->err));
    assert_int_equal(n, 2);
    must(fx, store_turn_put(fx->s, a.id, &rewind, &fx->err));
    must(fx, store_turn_applied(fx->s, a.id, 4, &fx->err));
    must(fx, store_session_set_state(fx->s, a.id, 0, NULL, &fx->err));
    must(fx, store_batch_commit(fx->s, &fx->err));

    a = session_load(fx, "a");
    assert_true(a.head == 4 && a.applied == 4 && a.flags == 0);
    struct store_turn got;
    must(fx, store_turn_get(fx->s, a.id, 4, &got, &fx->err));
    assert_true(got.kind == STORE_REWIND && got.parent == 2 && got.n_ids == 0);
    struct store_turn lost = turn_sample(5, ids);
    must(fx, store_turn_find(fx->s, a.id, lost.request, 0, &got, &fx->err));
    assert_true(got.state == STORE_VOID && got.version == 5);
    t = turn_sample(6, ids); /* the version of a void row is free, its request is not */
    t.version = lost.version = 5;
    t.read_version = 4;
    assert_status(RXT_EEXIST, store_turn_put(fx->s, a.id, &lost, NULL));
    must(fx, store_turn_put(fx->s, a.id, &t, &fx->err));
    assert_true(session_load(fx, "a").head == 5);
}

/* One column changed by anything but us: the seal does not fit. */
static void damaged_rows_are_refused(void **state)
{
    struct fixture *fx = *state;
    static const char *const change[] = {
        "request = zeroblob(16)",
        "candidate = candidate + 1",
        "kind = 5 - kind",
        "read_version = read_version + 1",
        "parent = parent + 1",
        "n_query = n_query + 1",
        "temperature = temperature + 1",
        "top_p = top_p / 2",
        "top_k = top_k + 1",
        "seed = ~seed",
        "finish = finish || 'x'",
        "bit_class = bit_class || 'x'",
        "wall_us = wall_us + 1",
        "seal = ~seal",
        "ids = zeroblob(length(ids))",
        "ids = substr(ids, 1, length(ids) - 4)",
        "ids = substr(ids, 1, length(ids) - 1)",
        "query_text = coalesce(query_text, '') || 'x'",
        "answer_text = coalesce(answer_text, '') || 'x'",
    };
    for (size_t i = 0; i < sizeof change / sizeof *change; i++) {
        char name[16], sql[160];
        snprintf(name, sizeof name, "s%zu", i);
        struct store_session a = session_make(fx, name);
        struct store_turn got;
        turn_add(fx, a.id, 1);
        must(fx, store_turn_get(fx->s, a.id, 1, &got, &fx->err));
        snprintf(sql, sizeof sql, "UPDATE turn SET %s WHERE session = %lld", change[i],
                 (long long)a.id);
        fixture_sql(fx, sql);
        assert_status(RXT_ECORRUPT, store_turn_get(fx->s, a.id, 1, &got, &fx->err));
    }
}

/* A rewind goes back, or replay would never come to an end. */
static void a_rewind_goes_back(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    for (uint64_t v = 1; v <= 3; v++)
        turn_add(fx, a.id, v);
    const struct store_turn rewind = {
        .kind = STORE_REWIND, .state = STORE_LIVE, .version = 4, .parent = 2, .read_version = 3};
    must(fx, store_turn_put(fx->s, a.id, &rewind, &fx->err));
    struct store_turn got;
    must(fx, store_turn_get(fx->s, a.id, 4, &got, &fx->err));
    fixture_sql(fx, "DELETE FROM turn WHERE version < 4;"
                    "UPDATE turn SET key = key - 2, version = 2");
    assert_status(RXT_ECORRUPT, store_turn_get(fx->s, a.id, 2, &got, &fx->err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(rows_come_back_in_order),       store_unit_test(texts_and_long_rows),
        store_unit_test(versions_are_compared_and_set), store_unit_test(bad_rows_are_refused),
        store_unit_test(a_request_is_written_once),     store_unit_test(one_candidate_is_chosen),
        store_unit_test(void_requests_expire_too),      store_unit_test(held_until_rewind),
        store_unit_test(damaged_rows_are_refused),      store_unit_test(a_rewind_goes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
