#include "kernels/base/cpu.h"

#include "kernels/base/bf16.h"
#include "kernels/base/random.h"
#include "tests/kernels/simd_probe.h"
#include "tests/lib/test.h"

#include <math.h>

/* The probes of an instruction set, or NULL if this machine lacks it. */
static const struct probes *probes_of(const char *isa)
{
    enum cpu_isa got;
    assert_int_equal(setenv("RXT_ISA", isa, 1), 0);
    enum rxt_status st = cpu_isa_get(&got, NULL);
    unsetenv("RXT_ISA");
    if (st != RXT_OK)
        return NULL;
#if defined(__x86_64__)
    if (got == CPU_AVX512)
        return &probes_avx512;
    if (got == CPU_AVX2)
        return &probes_avx2;
#endif
    return &probes_scalar;
}

static const char *const other_isa[] = {"avx2", "avx512"};

/* ---- every operation ---- */

static void same_bits(const float *want, const float *got, int64_t n, const char *what)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t w, g;
        memcpy(&w, &want[i], sizeof w);
        memcpy(&g, &got[i], sizeof g);
        if (w != g && !(isnan(want[i]) && isnan(got[i])))
            fail_msg("%s: value %lld is %a, scalar %a", what, (long long)i, (double)got[i],
                     (double)want[i]);
    }
}

static void operations(void **state)
{
    (void)state;
    static const float odd[16] = {0.0f,       -0.0f,  1.0f,    -1.0f,    INFINITY,  -INFINITY,
                                  NAN,        1e-40f, -1e-45f, 3.4e38f,  0x1.01p0f, 0x1.03p0f,
                                  0x1.fffp5f, 7.5f,   -0.25f,  1.17e-38f};
    float a[16], b[16], c[16], want[PROBE_OUT], got[PROBE_OUT];
    for (uint64_t round = 0; round < 50; round++) {
        random_normal_fill(a, 16, round, RANDOM_BENCH, 0, 0);
        random_normal_fill(b, 16, round, RANDOM_BENCH, 1, 0);
        random_normal_fill(c, 16, round, RANDOM_BENCH, 2, 0);
        for (int i = 0; round % 2 == 1 && i < 16; i++) {
            a[i] = odd[(unsigned)i];
            b[i] = odd[((unsigned)i * 5 + round) % 16];
        }
        memset(want, 0, sizeof want);
        probes_of("scalar")->all(want, a, b, c);
        for (int isa = 0; isa < 2; isa++) {
            const struct probes *p = probes_of(other_isa[isa]);
            if (!p)
                continue;
            memset(got, 0, sizeof got);
            p->all(got, a, b, c);
            same_bits(want, got, PROBE_OUT, other_isa[isa]);
        }
    }
}

/* The scalar set itself, where C says what is right. */
static void scalar_operations(void **state)
{
    (void)state;
    float a[16], b[16], c[16], out[PROBE_OUT] = {0};
    random_normal_fill(a, 16, 7, RANDOM_BENCH, 0, 0);
    random_normal_fill(b, 16, 7, RANDOM_BENCH, 1, 0);
    random_normal_fill(c, 16, 7, RANDOM_BENCH, 2, 0);
    probes_scalar.all(out, a, b, c);
    for (int i = 0; i < 16; i++) {
        const float want[] = {
            a[i] + b[i],
            a[i] - b[i],
            a[i] * b[i],
            a[i] / b[i],
            fmaf(a[i], b[i], c[i]),
            a[i] > b[i] ? a[i] : b[i],
            a[i] < b[i] ? a[i] : b[i],
            sqrtf(fabsf(a[i])),
            fabsf(a[i]),
            a[i] < b[i] ? c[i] : 0.0f,
            copysignf(a[i], b[i]),
            bf16_to_f32(bf16_from_f32(a[i])),
            a[3],
        };
        for (int j = 0; j < 13; j++)
            assert_true(out[j * 16 + i] == want[j]);
    }
    float sum = 0, top = a[0];
    for (int i = 0; i < 16; i++) {
        sum += a[i];
        top = a[i] > top ? a[i] : top;
    }
    assert_true(fabsf(out[13 * 16] - sum) < 1e-5f);
    assert_true(out[13 * 16 + 1] == top);
}

/* ---- functions ---- */

static double silu(double x)
{
    return x / (1 + exp(-x));
}
static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}
static double gelu(double x)
{
    return 0.5 * x * (1 + erf(x * 0.70710678118654752440));
}
static double relu(double x)
{
    return x > 0 ? x : 0;
}

/* |got - want| in units of the last place of want, or of `floor` where want is smaller. */
static double ulps(float got, double want, double floor)
{
    int e;
    frexp(fabs(want) > floor ? want : floor, &e);
    return fabs((double)got - want) / ldexp(1.0, e - 24);
}

struct function {
    const char *name;
    enum probe probe;
    double (*exact)(double);
    float from, to;
    double ulp;   /* bound */
    double floor; /* below it errors count as of this size */
};

static void functions_are_exact(void **state)
{
    (void)state;
    enum { N = 1 << 16 };
    static const struct function all[] = {
        {"exp", PROBE_EXP, exp, -87.3f, 0.0f, 1.05, 0},
        {"sigmoid", PROBE_SIGMOID, sigmoid, -80.0f, 80.0f, 2.05, 0},
        {"tanh", PROBE_TANH, tanh, -10.0f, 10.0f, 1.55, 0},
        {"tanh", PROBE_TANH, tanh, -0.7f, 0.7f, 1.5, 0},
        {"erf", PROBE_ERF, erf, -5.0f, 5.0f, 1.2, 0},
        {"erf", PROBE_ERF, erf, -1.0f, 1.0f, 1.3, 0},
        {"relu", PROBE_RELU, relu, -5.0f, 5.0f, 0, 0},
        {"silu", PROBE_SILU, silu, -20.0f, 20.0f, 2.9, 0},
        {"gelu", PROBE_GELU, gelu, -6.0f, 6.0f, 2.9, 0.25},
    };
    static float x[N], want[N], got[N];
    for (size_t f = 0; f < sizeof all / sizeof all[0]; f++) {
        for (int i = 0; i < N; i++)
            x[i] = all[f].from + (all[f].to - all[f].from) * (float)i / (N - 1);
        probes_scalar.map[all[f].probe](want, x, N);
        double worst = 0;
        for (int i = 0; i < N; i++) {
            double e = ulps(want[i], all[f].exact((double)x[i]), all[f].floor);
            worst = e > worst ? e : worst;
        }
        if (!(worst <= all[f].ulp))
            fail_msg("%s: %.2f ulp, allowed %.2f", all[f].name, worst, all[f].ulp);
        for (int isa = 0; isa < 2; isa++) {
            const struct probes *p = probes_of(other_isa[isa]);
            if (!p)
                continue;
            p->map[all[f].probe](got, x, N);
            same_bits(want, got, N, all[f].name);
        }
    }
}

static void functions_at_the_edges(void **state)
{
    (void)state;
    static const float x[16] = {NAN,      INFINITY, -INFINITY, 0.0f,    -0.0f,  -87.2f,
                                -87.4f,   -1000.0f, 1e-30f,    -1e-30f, 100.0f, -100.0f,
                                -3.4e38f, 3.4e38f,  1e-40f,    -1e-40f};
    float out[16];
    const struct probes *p = &probes_scalar;
    p->map[PROBE_EXP](out, x, 16);
    assert_true(isnan(out[0]) && out[2] == 0 && out[3] == 1 && out[4] == 1 && out[5] > 1e-38f);
    assert_true(out[6] == 0 && out[7] == 0 && out[12] == 0);
    p->map[PROBE_SIGMOID](out, x, 16);
    assert_true(isnan(out[0]) && out[1] == 1 && out[2] == 0 && out[3] == 0.5f && out[10] == 1);
    p->map[PROBE_TANH](out, x, 16);
    assert_true(isnan(out[0]) && out[1] == 1 && out[2] == -1 && out[3] == 0 && out[8] == 1e-30f);
    p->map[PROBE_ERF](out, x, 16);
    assert_true(isnan(out[0]) && out[1] == 1 && out[2] == -1 && out[3] == 0 && out[13] == 1);
    p->map[PROBE_RELU](out, x, 16);
    assert_true(isnan(out[0]) && out[1] == INFINITY && out[2] == 0 && out[9] == 0);
    p->map[PROBE_SILU](out, x, 16);
    assert_true(isnan(out[0]) && out[1] == INFINITY && out[10] == 100 && out[11] == 0);
    p->map[PROBE_GELU](out, x, 16);
    assert_true(isnan(out[0]) && out[1] == INFINITY && out[10] == 100 && out[11] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations),
        cmocka_unit_test(scalar_operations),
        cmocka_unit_test(functions_are_exact),
        cmocka_unit_test(functions_at_the_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
