#define _GNU_SOURCE /* sched_setaffinity */
#include "kernels/base/cpu.h"

#include "tests/lib/test.h"

#include <sched.h>

/* Whatever the caller's environment says, each test starts without an override. */
static int setup(void **state)
{
    (void)state;
    return unsetenv("RXT_ISA");
}

static enum cpu_isa best(void)
{
    enum cpu_isa isa;
    assert_ok(cpu_isa_get(&isa, NULL));
    return isa;
}

static void names(void **state)
{
    (void)state;
    assert_string_equal(cpu_isa_name(CPU_SCALAR), "scalar");
    assert_string_equal(cpu_isa_name(CPU_AVX2), "avx2");
    assert_string_equal(cpu_isa_name(CPU_AVX512), "avx512");
}

/* /proc/cpuinfo is the kernel's own list of what the machine can do. */
static void best_is_what_the_kernel_lists(void **state)
{
    (void)state;
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f)
        skip();
    static char line[8192];
    enum cpu_isa want = CPU_SCALAR;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "flags", 5) != 0)
            continue;
        if (strstr(line, " avx2 ") && strstr(line, " fma "))
            want = CPU_AVX2;
        if (strstr(line, " avx512f ") && strstr(line, " avx512bw ") && strstr(line, " avx512dq ") &&
            strstr(line, " avx512vl "))
            want = CPU_AVX512;
        break;
    }
    assert_int_equal(fclose(f), 0);
    assert_int_equal(best(), want);
}

static void the_environment_may_ask_for_less(void **state)
{
    (void)state;
    const enum cpu_isa top = best();
    for (enum cpu_isa isa = CPU_SCALAR; isa <= CPU_AVX512; isa++) {
        enum cpu_isa got;
        struct rxt_error err = {""};
        assert_int_equal(setenv("RXT_ISA", cpu_isa_name(isa), 1), 0);
        if (isa <= top) {
            assert_ok(cpu_isa_get(&got, &err));
            assert_int_equal(got, isa);
        } else {
            assert_status(RXT_EUNSUPPORTED, cpu_isa_get(&got, &err));
            assert_non_null(strstr(err.text, cpu_isa_name(isa)));
            assert_non_null(strstr(err.text, cpu_isa_name(top)));
        }
    }
    assert_int_equal(setenv("RXT_ISA", "", 1), 0);
    assert_int_equal(best(), top);
}

static void another_word_is_refused_with_the_choices(void **state)
{
    (void)state;
    enum cpu_isa isa;
    struct rxt_error err = {""};
    assert_int_equal(setenv("RXT_ISA", "AVX2", 1), 0);
    assert_status(RXT_EINVAL, cpu_isa_get(&isa, &err));
    assert_string_equal(err.text, "RXT_ISA=AVX2: use scalar, avx2 or avx512");
}

static void count_follows_the_affinity_mask(void **state)
{
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_int_equal(cpu_count(), CPU_COUNT(&all));
    CPU_ZERO(&one);
    for (size_t i = 0; CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &all))
            CPU_SET(i, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    int n = cpu_count();
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    assert_int_equal(n, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test_setup(best_is_what_the_kernel_lists, setup),
        cmocka_unit_test_setup(the_environment_may_ask_for_less, setup),
        cmocka_unit_test_setup(another_word_is_refused_with_the_choices, setup),
        cmocka_unit_test(count_follows_the_affinity_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
