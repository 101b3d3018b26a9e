#include "kernels/base/clock.h"

#include "tests/lib/test.h"

static void never_goes_back(void **state)
{
    (void)state;
    uint64_t last = clock_us();
    for (int i = 0; i < 10000; i++) {
        uint64_t now = clock_us();
        assert_true(now >= last);
        last = now;
    }
}

/* A sleep of 20 ms is at least that long in microseconds: the unit, not the speed. */
static void counts_microseconds(void **state)
{
    (void)state;
    uint64_t start = clock_us();
    assert_int_equal(nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL), 0);
    uint64_t passed = clock_us() - start;
    assert_true(passed >= 19999 && passed < 20000000);
}

static void wall_time_is_unix_time(void **state)
{
    (void)state;
    int64_t before = (int64_t)time(NULL);
    int64_t wall = clock_wall_us();
    int64_t after = (int64_t)time(NULL) + 2; /* cut to seconds, and a tick behind the fine clock */
    assert_true(wall >= before * 1000000 && wall <= after * 1000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(never_goes_back),
        cmocka_unit_test(counts_microseconds),
        cmocka_unit_test(wall_time_is_unix_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
