/* The histogram of rxt load. */
#include "tools/rxt/load/histogram.h"
#include "tests/lib/test.h"

#include <math.h>

static void test_every_value_is_kept_to_three_digits(void **state)
{
    (void)state;
    struct histogram *h = calloc(1, sizeof *h);
    for (uint64_t v = 1; v < UINT32_MAX; v += 1 + v / 700) {
        *h = (struct histogram){0};
        histogram_add(h, v);
        histogram_add(h, UINT32_MAX); /* so that the largest value does not cut it */
        double got = histogram_at(h, 0.5);
        assert_true(fabs(got - (double)v) <= 0.0005 * (double)v);
    }
    free(h);
}

static void test_ranks(void **state)
{
    (void)state;
    struct histogram *h = calloc(1, sizeof *h);
    assert_true(histogram_at(h, 0.5) == 0 && histogram_mean(h) == 0);
    for (uint64_t v = 100; v >= 1; v--)
        histogram_add(h, v);
    static const double share[] = {0, 0.01, 0.011, 0.5, 0.99, 0.995, 1},
                        want[] = {1, 1, 2, 50, 99, 100, 100};
    for (size_t i = 0; i < sizeof share / sizeof *share; i++)
        assert_true(histogram_at(h, share[i]) == want[i]);
    assert_true(histogram_mean(h) == 50.5);
    assert_int_equal(h->max, 100);
    assert_int_equal(h->n, 100);
    free(h);
}

static void test_what_is_too_long_counts_as_the_longest(void **state)
{
    (void)state;
    struct histogram *h = calloc(1, sizeof *h);
    histogram_add(h, UINT64_MAX);
    assert_int_equal(h->max, UINT64_MAX);
    assert_true(histogram_at(h, 1) > 4.29e9 && histogram_at(h, 1) < 4.30e9);
    free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_value_is_kept_to_three_digits),
        cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_what_is_too_long_counts_as_the_longest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
