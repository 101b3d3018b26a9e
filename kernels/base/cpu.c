#define _GNU_SOURCE /* sched_getaffinity */
#include "kernels/base/cpu.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

static enum cpu_isa best_isa(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return CPU_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return CPU_AVX2;
#endif
    return CPU_SCALAR;
}

const char *cpu_isa_name(enum cpu_isa isa)
{
    static const char *const name[] = {"scalar", "avx2", "avx512"};
    return name[isa];
}

enum rxt_status cpu_isa_get(enum cpu_isa *out, struct rxt_error *err)
{
    enum cpu_isa best = best_isa();
    const char *want = getenv("RXT_ISA");
    *out = best;
    if (!want || !*want)
        return RXT_OK;
    for (enum cpu_isa isa = CPU_SCALAR; isa <= CPU_AVX512; isa++) {
        if (strcmp(want, cpu_isa_name(isa)) != 0)
            continue;
        if (isa > best)
            return rxt_fail(err, RXT_EUNSUPPORTED, "RXT_ISA=%s, but this machine has at most %s",
                            want, cpu_isa_name(best));
        *out = isa;
        return RXT_OK;
    }
    return rxt_fail(err, RXT_EINVAL, "RXT_ISA=%s: use scalar, avx2 or avx512", want);
}

int cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}
