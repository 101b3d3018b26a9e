/* Which graph a list of launches gets, and which graphs go. */
#include "kernels/cuda/replay_impl.h"

#include "kernels/base/mem.h"
#include "tests/lib/test.h"

enum { WORDS = 40, BYTES = WORDS * 8 };

static int graphs[2 * REPLAY_GRAPHS]; /* 1: kept, 0: dropped or never there */

static void drop(void *graph)
{
    int *g = graph;
    assert_int_equal(*g, 1);
    *g = 0;
}

static int n_graphs(void)
{
    int n = 0;
    for (size_t i = 0; i < sizeof graphs / sizeof *graphs; i++)
        n += graphs[i];
    return n;
}

static struct replay *opened(void)
{
    struct replay *r;
    memset(graphs, 0, sizeof graphs);
    assert_ok(replay_create(&r, drop));
    return r;
}

static void keep(struct replay *r, const void *list, size_t bytes, int graph)
{
    graphs[graph] = 1;
    replay_keep(r, list, bytes, &graphs[graph]);
}

/* List i: differs from all others in its last two bytes only. */
static const uint64_t *list_of(int i)
{
    static uint64_t list[WORDS];
    memset(list, 0x5A, sizeof list);
    list[WORDS - 1] = (uint64_t)i << 48;
    return list;
}

static void equal_lists_are_found_and_no_others(void **state)
{
    (void)state;
    struct replay *r = opened();
    uint64_t list[WORDS + 1];
    for (int i = 0; i <= WORDS; i++)
        list[i] = (uint64_t)i * 77;
    assert_null(replay_find(r, list, BYTES));
    keep(r, list, BYTES, 0);
    assert_ptr_equal(replay_find(r, list, BYTES), &graphs[0]);
    assert_null(replay_find(r, list, BYTES - 8));
    assert_null(replay_find(r, list, BYTES + 8));
    for (int i = 0; i < BYTES; i++) {
        ((unsigned char *)list)[i] ^= 1;
        assert_null(replay_find(r, list, BYTES));
        ((unsigned char *)list)[i] ^= 1;
    }
    assert_ptr_equal(replay_find(r, list, BYTES), &graphs[0]);
    replay_destroy(&r);
    assert_null(r);
    assert_int_equal(n_graphs(), 0);
    replay_destroy(&r);
}

static void a_graph_is_worth_it_at_the_second_time(void **state)
{
    (void)state;
    struct replay *r = opened();
    for (int time = 0; time < 3; time++) /* the third time is a first time again */
        for (int i = 0; i < REPLAY_SEEN; i++)
            assert_int_equal(replay_again(r, list_of(i), BYTES), time == 1);
    assert_false(replay_again(r, list_of(3), BYTES - 8));
    assert_false(replay_again(r, list_of(0), BYTES)); /* the oldest was forgotten for it */
    char *huge = mem_alloc(REPLAY_POOL + 8);
    assert_non_null(huge);
    for (int i = 0; i < 2; i++)
        assert_false(replay_again(r, huge, REPLAY_POOL + 8));
    mem_free(huge);
    replay_destroy(&r);
}

static void the_one_not_used_for_longest_goes(void **state)
{
    (void)state;
    struct replay *r = opened();
    for (int i = 0; i < REPLAY_GRAPHS; i++)
        keep(r, list_of(i), BYTES, i);
    assert_ptr_equal(replay_find(r, list_of(0), BYTES), &graphs[0]);
    keep(r, list_of(REPLAY_GRAPHS), BYTES, REPLAY_GRAPHS);
    assert_int_equal(graphs[1], 0);
    assert_null(replay_find(r, list_of(1), BYTES));
    for (int i = 0; i < REPLAY_GRAPHS; i++)
        if (i != 1) /* the lists that moved in the pool are still theirs */
            assert_ptr_equal(replay_find(r, list_of(i), BYTES), &graphs[i]);
    assert_ptr_equal(replay_find(r, list_of(REPLAY_GRAPHS), BYTES), &graphs[REPLAY_GRAPHS]);
    assert_int_equal(n_graphs(), REPLAY_GRAPHS);
    replay_destroy(&r);
    assert_int_equal(n_graphs(), 0);
}

/* Lists of a third of the pool: three fit, of any length. */
static void the_pool_limits_their_number(void **state)
{
    (void)state;
    enum { LARGE = REPLAY_POOL / 3 / 8 * 8 };
    struct replay *r = opened();
    uint64_t *list = mem_alloc(REPLAY_POOL);
    assert_non_null(list);
    for (int i = 0; i < 4; i++) {
        list[0] = (uint64_t)i;
        keep(r, list, LARGE - 8 * (size_t)i, i);
        assert_int_equal(n_graphs(), i < 3 ? i + 1 : 3);
    }
    for (int i = 0; i < 4; i++) {
        list[0] = (uint64_t)i;
        assert_ptr_equal(replay_find(r, list, LARGE - 8 * (size_t)i), i ? &graphs[i] : NULL);
    }
    keep(r, list, REPLAY_POOL, 9); /* alone */
    assert_int_equal(n_graphs(), 1);
    assert_ptr_equal(replay_find(r, list, REPLAY_POOL), &graphs[9]);
    mem_free(list);
    replay_destroy(&r);
}

/* What a step does with list i of `bytes`; true if it made a graph. */
static bool step(struct replay *r, uint64_t *list, size_t bytes, int i)
{
    list[0] = (uint64_t)i;
    if (replay_find(r, list, bytes) || !replay_again(r, list, bytes))
        return false;
    keep(r, list, bytes, i);
    return true;
}

/* Three of four lists fit: a lane that goes round and round does not make a graph at every step. */
static void a_graph_that_went_must_be_worth_it_again(void **state)
{
    (void)state;
    struct replay *r = opened();
    uint64_t *list = mem_alloc(REPLAY_POOL);
    size_t bytes = REPLAY_POOL / 3 / 8 * 8;
    assert_non_null(list);
    for (int i = 0; i < 4 + 2; i++) {
        assert_int_equal(graphs[i % 4], 0);
        for (int time = 0; time < 3; time++)
            assert_int_equal(step(r, list, bytes, i % 4), time == 1);
    }
    assert_int_equal(n_graphs(), 3);
    mem_free(list);
    replay_destroy(&r);
}

static enum rxt_status create(void *arg)
{
    (void)arg;
    struct replay *r;
    TRY(replay_create(&r, drop));
    assert_true(replay_bytes() >= REPLAY_POOL);
    replay_destroy(&r);
    return RXT_OK;
}

static void no_memory(void **state)
{
    (void)state;
    assert_survives_no_memory(create, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_lists_are_found_and_no_others),
        cmocka_unit_test(a_graph_is_worth_it_at_the_second_time),
        cmocka_unit_test(the_one_not_used_for_longest_goes),
        cmocka_unit_test(the_pool_limits_their_number),
        cmocka_unit_test(a_graph_that_went_must_be_worth_it_again),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
