/* Memory runs out under every verb: that of SQLite, which is not ours, and ours. */
#include "tests/store/verbs.h"

#include "kernels/base/mem.h"

static sqlite3_mem_methods real;
static uint64_t left; /* allocations until they fail; 0 = they do not */
static bool failed;

static bool due(void)
{
    if (left == 0)
        return false;
    if (left > 1) {
        left--;
        return false;
    }
    return failed = true;
}

static void *fail_malloc(int n)
{
    return due() ? NULL : real.xMalloc(n);
}

static void *fail_realloc(void *p, int n)
{
    return due() ? NULL : real.xRealloc(p, n);
}

static void arm(uint64_t nth)
{
    left = nth;
    failed = false;
}

static bool disarm(void)
{
    left = 0;
    return failed;
}

static void sqlite_runs_out(void **state)
{
    const struct breaker b = {arm, disarm, RXT_ENOMEM, 25};
    verbs_survive(*state, &b, getenv("RXT_FULL") != NULL, true);
}

static bool never(void)
{
    return mem_fail_never();
}

static void we_run_out(void **state)
{
    const struct breaker b = {mem_fail_from, never, RXT_ENOMEM, 3};
    verbs_survive(*state, &b, true, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(sqlite_runs_out),
        store_unit_test(we_run_out),
    };
    sqlite3_mem_methods m;
    if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &real) != SQLITE_OK)
        return 1;
    m = real;
    m.xMalloc = fail_malloc;
    m.xRealloc = fail_realloc;
    if (sqlite3_config(SQLITE_CONFIG_MALLOC, &m) != SQLITE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
