#include "kernels/base/random.h"

#include "tests/lib/test.h"

#include <math.h>

/* Known answers of Philox 4x32-10 from the authors' test vectors. */
static void philox_known_answers(void **state)
{
    (void)state;
    const uint32_t zero[4] = {0}, ones[4] = {~0u, ~0u, ~0u, ~0u};
    const uint32_t pi[4] = {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344};
    const uint32_t want[3][4] = {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
                                 {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
                                 {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}};
    const struct random_block got[3] = {random_philox(0, zero),
                                        random_philox(0xffffffffffffffff, ones),
                                        random_philox(0x299f31d0a4093822, pi)};
    for (int i = 0; i < 3; i++)
        assert_memory_equal(got[i].v, want[i], sizeof want[i]);
}

/* Python's statistics.NormalDist().inv_cdf, which is the same algorithm with libm's log. */
static void normal_quantiles(void **state)
{
    (void)state;
    const double table[][2] = {
        {1e-300, -37.047096299361201},
        {1e-15, -7.9413453261709952},
        {1e-5, -4.2648907939228256},
        {0.01, -2.3263478740408408},
        {0.0749, -1.4402382675279632},
        {0.3, -0.52440051270804067},
        {0.5, 0.0},
        {0.77, 0.73884684918521371},
        {0.999, 3.0902323061678132},
        {1 - 1e-12, 7.0344869100478356},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_true(fabs(random_normal(table[i][0]) - table[i][1]) <=
                    1e-15 * (1 + fabs(table[i][1])));
}

static void fill_does_not_depend_on_its_cut(void **state)
{
    (void)state;
    float whole[101], part[101];
    random_normal_fill(whole, 101, 7, RANDOM_STM_INIT, 3, 0);
    for (int first = 0, n = 1; first < 101; first += n, n = n % 7 + 1)
        random_normal_fill(part + first, (uint64_t)(first + n <= 101 ? n : 101 - first), 7,
                           RANDOM_STM_INIT, 3, (uint64_t)first);
    assert_memory_equal(whole, part, sizeof whole);
    random_normal_fill(part, 101, 7, RANDOM_STM_INIT, 4, 0);
    assert_memory_not_equal(whole, part, sizeof whole);
}

static void fill_is_standard_normal(void **state)
{
    (void)state;
    enum { N = 100000 };
    float *x = malloc(N * sizeof *x);
    assert_non_null(x);
    random_normal_fill(x, N, 42, RANDOM_STM_INIT, 0, 0);
    double mean = 0, var = 0;
    for (int i = 0; i < N; i++)
        mean += x[i] / (double)N;
    for (int i = 0; i < N; i++)
        var += (x[i] - mean) * (x[i] - mean) / N;
    free(x);
    assert_true(fabs(mean) < 0.015 && fabs(var - 1) < 0.02);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(normal_quantiles),
        cmocka_unit_test(fill_does_not_depend_on_its_cut),
        cmocka_unit_test(fill_is_standard_normal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
