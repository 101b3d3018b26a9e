#include "kernels/base/arena.h"

#include "kernels/base/mem.h"
#include "tests/lib/test.h"

struct cuts {
    void *a, *b, *c;
};

static struct cuts cut_three(struct arena *a)
{
    return (struct cuts){
        .a = arena_cut(a, 3, 5),
        .b = arena_cut(a, 1, 64),
        .c = arena_cut(a, 100, sizeof(double)),
    };
}

static void plan_then_create(void **state)
{
    (void)state;
    struct arena plan = arena_plan();
    struct cuts none = cut_three(&plan);
    assert_true(!none.a && !none.b && !none.c);
    assert_int_equal(plan.used, 64 + 64 + 832);

    struct arena a;
    assert_ok(arena_create(&a, plan.used));
    struct cuts c = cut_three(&a);
    assert_ptr_equal(c.a, a.base);
    assert_ptr_equal(c.b, a.base + 64);
    assert_ptr_equal(c.c, a.base + 128);
    assert_int_equal((uintptr_t)a.base % 64, 0);
    assert_int_equal(a.used, a.size);
    assert_null(arena_cut(&a, 1, 1)); /* full */
    arena_destroy(&a);
    assert_null(a.base);
    assert_int_equal(a.size + a.used, 0);
}

static void a_cut_that_does_not_fit_changes_nothing(void **state)
{
    (void)state;
    struct arena a;
    assert_ok(arena_create(&a, 256));
    assert_non_null(arena_cut(&a, 1, 100));
    size_t used = a.used;
    assert_null(arena_cut(&a, 1, 129));
    assert_null(arena_cut(&a, SIZE_MAX, 1));
    assert_null(arena_cut(&a, SIZE_MAX / 8, 16));
    assert_int_equal(a.used, used);
    assert_non_null(arena_cut(&a, 1, 128));
    arena_destroy(&a);
}

static void a_plan_that_overflows_says_nothing_smaller(void **state)
{
    (void)state;
    struct arena plan = arena_plan();
    assert_null(arena_cut(&plan, 1, SIZE_MAX - 200));
    size_t used = plan.used;
    assert_null(arena_cut(&plan, 1, 4096));
    assert_true(plan.used >= used);
}

static void reset_gives_back_at_once(void **state)
{
    (void)state;
    struct arena a;
    assert_ok(arena_create(&a, 128));
    char *first = arena_cut(&a, 1, 128);
    first[0] = 'x';
    arena_reset(&a);
    assert_int_equal(a.used, 0);
    char *again = arena_cut(&a, 1, 10);
    assert_ptr_equal(again, first);
    assert_int_equal(again[0], 'x');
    arena_destroy(&a);
}

static void empty_and_null(void **state)
{
    (void)state;
    struct arena a;
    assert_ok(arena_create(&a, 0));
    assert_null(arena_cut(&a, 1, 1));
    arena_destroy(&a);
    arena_destroy(&a);
    arena_destroy(NULL);
}

static enum rxt_status create_and_destroy(void *arg)
{
    struct arena *a = arg;
    enum rxt_status st = arena_create(a, 1000);
    if (st != RXT_OK)
        assert_true(!a->base && a->size == 0 && a->used == 0);
    arena_destroy(a);
    return st;
}

static void out_of_memory(void **state)
{
    (void)state;
    struct arena a;
    assert_survives_no_memory(create_and_destroy, &a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_then_create),
        cmocka_unit_test(a_cut_that_does_not_fit_changes_nothing),
        cmocka_unit_test(a_plan_that_overflows_says_nothing_smaller),
        cmocka_unit_test(reset_gives_back_at_once),
        cmocka_unit_test(empty_and_null),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
