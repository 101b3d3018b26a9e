/* Counters, histograms and their text; which addresses they may be served on. */
#include "bridge/metrics_impl.h"
#include "tests/lib/test.h"

static struct metrics m;
static char text[METRICS_TEXT_MAX];

static void assert_line(const char *line)
{
    size_t n = metrics_text(&m, text);
    assert_int_equal(n, strlen(text));
    const char *at = strstr(text, line);
    if (!at || at[strlen(line)] != '\n' || (at != text && at[-1] != '\n'))
        fail_msg("no line \"%s\"", line);
}

static void test_histogram(void **state)
{
    (void)state;
    metrics_time(&m, METRICS_QUEUE, 0);
    metrics_time(&m, METRICS_QUEUE, 50);
    metrics_time(&m, METRICS_QUEUE, 51);
    metrics_time(&m, METRICS_QUEUE, 61000000);
    assert_line("rxt_queue_seconds_bucket{le=\"5e-05\"} 2");
    assert_line("rxt_queue_seconds_bucket{le=\"0.0001\"} 3");
    assert_line("rxt_queue_seconds_bucket{le=\"60\"} 3");
    assert_line("rxt_queue_seconds_bucket{le=\"+Inf\"} 4");
    assert_line("rxt_queue_seconds_sum 61.000101");
    assert_line("rxt_queue_seconds_count 4");
    assert_line("# TYPE rxt_queue_seconds histogram");
}

static void test_counters(void **state)
{
    (void)state;
    metrics_add(&m, METRICS_TURNS, 2);
    metrics_add(&m, METRICS_TURNS, 3);
    metrics_set(&m, METRICS_CONNECTIONS, 7);
    metrics_set(&m, METRICS_CONNECTIONS, 4);
    metrics_set(&m, METRICS_STEP_AGE, 1500000);
    metrics_error(&m, WIRE_E_BUSY);
    assert_line("rxt_turns_total 5");
    assert_line("rxt_connections 4");
    assert_line("rxt_step_age_seconds 1.5");
    assert_line("rxt_errors_total{code=\"301\",name=\"busy\"} 1");
    assert_line("rxt_errors_total{code=\"410\",name=\"internal\"} 0");
    assert_line("# TYPE rxt_turns_total counter");
    assert_line("# TYPE rxt_connections gauge");
}

/* The page holds it even when every number is as long as it can be. */
static void test_longest(void **state)
{
    (void)state;
    static struct metrics big;
    uint8_t *bytes = (uint8_t *)&big;
    for (size_t i = 0; i < sizeof big; i++)
        bytes[i] = 0xFF;
    assert_true(metrics_text(&big, text) < METRICS_TEXT_MAX / 2);
}

static void test_addresses(void **state)
{
    (void)state;
    static const char *const good[] = {"127.0.0.1:9107", "127.1.2.3:1", "[::1]:65535"};
    static const char *const bad[] = {"",
                                      "9107",
                                      ":9107",
                                      "127.0.0.1",
                                      "127.0.0.1:",
                                      "127.0.0.1:0",
                                      "127.0.0.1:65536",
                                      "127.0.0.1:x",
                                      "127.0.0.1:1x",
                                      "0.0.0.0:9107",
                                      "10.0.0.1:9",
                                      "[::]:9107",
                                      "localhost:9107",
                                      "[::1:9107",
                                      "256.0.0.1:1"};
    struct rxt_error err;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_ok(metrics_http_check(good[i], &err));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_status(RXT_EINVAL, metrics_http_check(bad[i], &err));
        assert_non_null(strstr(err.text, "metrics = "));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_counters),
        cmocka_unit_test(test_longest),
        cmocka_unit_test(test_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
