/* Lines, intervals and verdicts of rxt load, over made-up latencies. The arithmetic against numpy
 * is in test_load.py. */
#include "tools/rxt/load/plan.h"
#include "tools/rxt/load/trend.h"
#include "kernels/base/random.h"
#include "tests/lib/test.h"

#include <math.h>

enum { SESSIONS = 8, TURNS = 1000 };

static const struct trend_config config = {
    .n_session = SESSIONS, .n_turn = TURNS, .warmup = 1, .n_draw = 500, .seed = 3};

/* Latency = 100, noise of this sigma, so much more at the end of the run than at its beginning; the
 * last tenth has a tail: every 25th turn takes `tail` times as long. */
static struct trend fit(double sigma, double rise, double tail)
{
    struct trend t;
    size_t n = 0;
    struct trend_point *p = calloc((size_t)SESSIONS * TURNS, sizeof *p);
    for (uint32_t s = 0; s < SESSIONS; s++)
        for (uint32_t i = 0; i < TURNS; i++) {
            uint64_t x = plan_mix((uint64_t)s << 32 | i);
            double noise = random_normal(random_uniform((uint32_t)(x >> 32), (uint32_t)x));
            double v = 100 + sigma * noise + rise * i / TURNS;
            if (i >= TURNS - TURNS / 10 && i % 25 == 0)
                v *= tail;
            p[n++] = (struct trend_point){.session = s, .turn = i, .value = v, .weight = 1};
        }
    assert_ok(trend_fit(&t, p, n, &config));
    free(p);
    return t;
}

static void test_constant(void **state)
{
    (void)state;
    struct trend t = fit(5, 0, 1);
    assert_int_equal(t.verdict, TREND_CONSTANT);
    assert_int_equal(t.n, SESSIONS * (TURNS - 1));
    assert_true(fabs(t.median - 100) < 0.5);
    assert_true(t.low < 0 && t.high > 0 && t.low <= t.slope && t.slope <= t.high);
}

static void test_growing_and_falling(void **state)
{
    (void)state;
    struct trend t = fit(5, 20, 1);
    assert_int_equal(t.verdict, TREND_NOT_CONSTANT);
    assert_string_equal(t.why, "it grows");
    assert_true(fabs(t.slope * TURNS - 20) < 1);
    assert_true(t.low * TURNS < 20 && t.high * TURNS > 20); /* the truth is in the interval */
    t = fit(5, -20, 1);
    assert_int_equal(t.verdict, TREND_NOT_CONSTANT);
    assert_string_equal(t.why, "it falls");
}

static void test_a_narrow_interval_across_the_bound(void **state)
{
    (void)state;
    struct trend t = fit(5, 3.3, 1);
    assert_true(t.low * TURNS < 3 && t.high * TURNS > 3);
    assert_int_equal(t.verdict, TREND_NOT_CONSTANT); /* it does grow, and may by more than 3 % */
}

static void test_noise_shows_nothing(void **state)
{
    (void)state;
    struct trend t = fit(400, 0, 1);
    assert_int_equal(t.verdict, TREND_NOT_SHOWN);
    assert_string_equal(t.why, "the interval is too wide");
}

static void test_a_tail_that_grows_is_not_constant(void **state)
{
    (void)state;
    struct trend t = fit(1, 0, 1.5);
    assert_int_equal(t.verdict, TREND_NOT_CONSTANT);
    assert_string_equal(t.why, "level, but p99 grew");
    assert_true(t.p99_last / t.p99_first > 1.3);
}

static void test_too_few(void **state)
{
    (void)state;
    struct trend t;
    struct trend_point p[] = {{.turn = 1, .value = 5, .weight = 1},
                              {.turn = 2, .value = 5, .weight = 1},
                              {.turn = 1, .value = 5, .weight = 1}};
    const struct trend_config few = {.n_session = 1, .n_turn = 3, .warmup = 1, .n_draw = 50};
    assert_ok(trend_fit(&t, p, 0, &few));
    assert_int_equal(t.verdict, TREND_NOT_SHOWN);
    assert_ok(trend_fit(&t, p, 3, &few));
    assert_int_equal(t.verdict, TREND_NOT_SHOWN);
    assert_true(isnan(t.p99_first) && isnan(t.p99_last));
}

/* A stall that hits all sessions at a time is one event, not eight: the interval says so. */
static void test_a_stall_of_all_sessions_widens_the_interval(void **state)
{
    (void)state;
    double width[2];
    for (int together = 0; together < 2; together++) {
        struct trend t;
        size_t n = 0;
        struct trend_point *p = calloc((size_t)SESSIONS * TURNS, sizeof *p);
        for (uint32_t s = 0; s < SESSIONS; s++)
            for (uint32_t i = 0; i < TURNS; i++) {
                uint32_t first = together ? 880 : (s * 2654435761u >> 8) % 900;
                p[n++] = (struct trend_point){
                    .session = s, .turn = i, .value = i - first < 40 ? 300 : 100, .weight = 1};
            }
        assert_ok(trend_fit(&t, p, n, &config));
        width[together] = t.high - t.low;
        free(p);
    }
    assert_true(width[1] > 1.5 * width[0]);
}

static void test_quantiles(void **state)
{
    (void)state;
    double v[] = {4, 1, 3, 2};
    sort_values(v, 4);
    assert_true(quantile(v, 4, 0) == 1 && quantile(v, 4, 1) == 4 && quantile(v, 4, 0.5) == 2.5);
    assert_true(isnan(quantile(v, 0, 0.5)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_constant),
        cmocka_unit_test(test_growing_and_falling),
        cmocka_unit_test(test_a_narrow_interval_across_the_bound),
        cmocka_unit_test(test_noise_shows_nothing),
        cmocka_unit_test(test_a_tail_that_grows_is_not_constant),
        cmocka_unit_test(test_too_few),
        cmocka_unit_test(test_a_stall_of_all_sessions_widens_the_interval),
        cmocka_unit_test(test_quantiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
