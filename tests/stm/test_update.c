#include "tests/stm/memory_case.h"

#include "kernels/base/bf16.h"
#include "tests/lib/test.h"

#include <math.h>

/* Float32 of the backend against the reference, whose values are float32 and whose sums are
 * double: relative to the largest value of the memory. Seen: 3.7e-6, where tanh gates make values
 * grow. */
#define BOUND 1e-5

static const enum stm_variant variants[] = {STM_SIMPLE, STM_SELF, STM_INTERLAYER,
                                            STM_SELF_INTERLAYER, STM_GROUPED_SELF_INTERLAYER};

/* The kind whose results depend on the most: every slot of a memory mixes, slots differ. */
static struct case_kind busy_kind(enum stm_variant v)
{
    return (struct case_kind){.variant = v,
                              .norm = NORM_MIX_SLOT,
                              .scale_by_slot = true,
                              .gate = GATE_LINEAR,
                              .per_slot = true,
                              .linear_status = true};
}

/* Values after the update of memory i in a batch of its own; free() them. */
static void *alone(struct memory_case *c, const struct inputs *in, int i)
{
    struct batch b;
    batch_open(&b, c, in, i, 1);
    assert_ok(batch_run(&b));
    assert_false(b.bad[0]);
    void *out = case_spare_stored(b.ln, b.spare[0]);
    batch_close(&b);
    return out;
}

/* ---- the numbers ------------------------------------------------------------------------ */

/* The largest deviation from the reference over the largest value of it. */
static double deviation(struct memory_case *c, const struct inputs *in)
{
    float *got = alone(c, in, 0), *want = malloc(CASE_VALUES * sizeof *want);
    assert_non_null(want);
    ref_memory_attention(REF_F32, want, &c->ref, in->values[0], in->ed[0], in->rows[0]);
    double top = 0, worst = 0;
    for (int i = 0; i < CASE_VALUES; i++) {
        top = fmax(top, fabs((double)want[i]));
        worst = fmax(worst, fabs((double)got[i] - want[i]));
    }
    free(got);
    free(want);
    return worst / top;
}

static void holds(struct backend *be, const struct inputs *in, const struct case_kind *kind)
{
    struct memory_case c;
    case_open(&c, be, kind);
    double d = deviation(&c, in);
    if (!(d <= BOUND))
        fail_msg("variant %d, norm %d (by slot %d), gate %d, tanh %d, per slot %d, linear status "
                 "%d, no rope %d: deviates by %g",
                 (int)kind->variant, (int)kind->norm, kind->scale_by_slot, (int)kind->gate,
                 kind->tanh, kind->per_slot, kind->linear_status, kind->no_rope, d);
    case_close(&c);
}

/* Every gate with one variant and one norm. */
static void every_gate(struct backend *be, const struct inputs *in, struct case_kind kind)
{
    for (int g = 0; g < 2; g++) {
        kind.gate = g ? GATE_ADD : GATE_REPLACE;
        holds(be, in, &kind);
    }
    for (int bits = 0; bits < 8; bits++) {
        kind.tanh = bits & 1;
        kind.per_slot = bits & 2;
        kind.linear_status = bits & 4;
        for (int g = kind.linear_status ? 1 : 0; g < 3; g++) {
            kind.gate = (enum gate_kind[]){GATE_STATIC, GATE_ELEMENTWISE, GATE_LINEAR}[g];
            holds(be, in, &kind);
        }
    }
}

static void every_variant_gate_and_norm_equals_the_reference(void **state)
{
    (void)state;
    static const struct case_kind norms[] = {
        {.norm = NORM_RMS},      {.norm = NORM_MIX_LAYER},
        {.norm = NORM_MIX_RMS},  {.norm = NORM_MIX_SLOT, .scale_by_slot = true},
        {.norm = NORM_MIX_SLOT},
    };
    struct backend *be = fixture_backend(1);
    struct inputs in;
    inputs_open(&in);
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        for (size_t k = 0; k < sizeof norms / sizeof *norms; k++) {
            struct case_kind kind = norms[k];
            kind.variant = variants[v];
            every_gate(be, &in, kind);
        }
        struct case_kind kind = busy_kind(variants[v]);
        kind.no_rope = true;
        holds(be, &in, &kind);
    }
    inputs_close(&in);
    backend_destroy(&be);
}

/* A bf16 memory is read exactly, computed in float32 and rounded once. */
static void bf16_memory_is_rounded_once(void **state)
{
    (void)state;
    struct backend *be = fixture_backend(1);
    struct inputs in;
    inputs_open(&in);
    for (int i = 0; i < CASE_VALUES; i++)
        in.values[0][i] = bf16_to_f32(bf16_from_f32(in.values[0][i]));
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        struct memory_case c;
        struct case_kind kind = busy_kind(variants[v]);
        case_open(&c, be, &kind);
        in.dtype[0] = DTYPE_F32;
        float *wide = alone(&c, &in, 0);
        in.dtype[0] = DTYPE_BF16;
        bf16 *narrow = alone(&c, &in, 0);
        for (int i = 0; i < CASE_VALUES; i++)
            assert_int_equal(narrow[i], bf16_from_f32(wide[i]));
        free(wide);
        free(narrow);
        case_close(&c);
    }
    inputs_close(&in);
    backend_destroy(&be);
}

/* ---- the same bits ---------------------------------------------------------------------- */

static void same_in_batch(struct memory_case *c, const struct inputs *in, int n, void *const *want)
{
    struct batch b;
    batch_open(&b, c, in, 0, n);
    for (int again = 0; again < 2; again++) { /* nothing of an earlier update is left over */
        assert_ok(batch_run(&b));
        for (int i = 0; i < n; i++) {
            void *got = case_spare_stored(b.ln, b.spare[i]);
            assert_memory_equal(got, want[i], stm_bytes(stm_config_of(b.m[i])));
            free(got);
        }
    }
    batch_close(&b);
}

static void same_bits_alone_and_in_batches(void **state)
{
    (void)state;
    struct inputs in;
    inputs_open(&in);
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        struct case_kind kind = busy_kind(variants[v]);
        void *want[16] = {0};
        for (int n_thread = 1; n_thread <= 2; n_thread++) {
            struct backend *be = fixture_backend(n_thread);
            struct memory_case c;
            case_open(&c, be, &kind);
            for (int i = 0; n_thread == 1 && i < 16; i++)
                want[i] = alone(&c, &in, i);
            for (int n = 1; n <= 16; n += n < 4 ? 1 : 4)
                same_in_batch(&c, &in, n, want);
            case_close(&c);
            backend_destroy(&be);
        }
        for (int i = 0; i < 16; i++)
            free(want[i]);
    }
    inputs_close(&in);
}

/* AVX-512, AVX2 and scalar kernels are one bit class; a machine that lacks one leaves it out. */
static void same_bits_on_every_instruction_set(void **state)
{
    (void)state;
    static const char *const isa[] = {"scalar", "avx2", "avx512"};
    const char *outer = getenv("RXT_ISA");
    char was[16] = "";
    if (outer)
        snprintf(was, sizeof was, "%s", outer);
    struct inputs in;
    inputs_open(&in);
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        struct case_kind kind = busy_kind(variants[v]);
        void *want[2] = {0};
        for (size_t k = 0; k < sizeof isa / sizeof *isa; k++) {
            struct backend *be = NULL;
            assert_int_equal(setenv("RXT_ISA", isa[k], 1), 0);
            enum rxt_status st =
                backend_create(&be, &(struct backend_config){.name = "cpu", .n_thread = 1}, NULL);
            assert_int_equal(outer ? setenv("RXT_ISA", was, 1) : unsetenv("RXT_ISA"), 0);
            if (k > 0 && st == RXT_EUNSUPPORTED)
                continue;
            assert_ok(st);
            struct memory_case c;
            case_open(&c, be, &kind);
            for (int i = 0; k == 0 && i < 2; i++)
                want[i] = alone(&c, &in, i);
            same_in_batch(&c, &in, 2, want);
            case_close(&c);
            backend_destroy(&be);
        }
        for (int i = 0; i < 2; i++)
            free(want[i]);
    }
    inputs_close(&in);
}

/* ---- what is not finite ----------------------------------------------------------------- */

static void only_the_mate_that_is_not_finite_is_bad(void **state)
{
    (void)state;
    struct backend *be = fixture_backend(2);
    struct inputs in;
    inputs_open(&in);
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
        for (int victim = 0; victim < 3; victim++) {
            struct memory_case c;
            struct case_kind kind = busy_kind(variants[v]);
            case_open(&c, be, &kind);
            void *want[3];
            for (int i = 0; i < 3; i++)
                want[i] = alone(&c, &in, i);
            float *ed = in.ed[victim], good = ed[in.rows[victim] * CASE_DIM + 5];
            ed[in.rows[victim] * CASE_DIM + 5] = victim == 1 ? INFINITY : NAN; /* layer 1 */
            struct batch b;
            batch_open(&b, &c, &in, 0, 3);
            assert_status(RXT_ENONFINITE, batch_run(&b));
            for (int i = 0; i < 3; i++) {
                size_t bytes = stm_bytes(stm_config_of(b.m[i]));
                void *got = case_spare_stored(b.ln, b.spare[i]), *old = case_stored(b.ln, b.m[i]);
                assert_int_equal(b.bad[i], i == victim);
                if (i == victim) {
                    assert_status(RXT_ENONFINITE, stm_commit(b.m[i], b.spare[i], 0));
                    assert_int_equal(stm_version(b.m[i]), 0);
                } else {
                    assert_memory_equal(got, want[i], bytes);
                    assert_ok(stm_commit(b.m[i], b.spare[i], 0));
                }
                void *now = case_stored(b.ln, b.m[i]);
                assert_memory_equal(now, i == victim ? old : want[i], bytes);
                free(got);
                free(old);
                free(now);
                free(want[i]);
            }
            batch_close(&b);
            ed[in.rows[victim] * CASE_DIM + 5] = good;
            case_close(&c);
        }
    inputs_close(&in);
    backend_destroy(&be);
}

/* The largest bf16, times 1.003: a float32, but no bf16. What will be stored is what counts. */
static void a_result_beyond_bf16_is_not_finite(void **state)
{
    (void)state;
    const struct case_kind kind = {
        .variant = STM_SIMPLE, .gate = GATE_STATIC, .tanh = true, .per_slot = true, .g = -0.003f};
    struct backend *be = fixture_backend(1);
    struct memory_case c;
    struct inputs in;
    inputs_open(&in);
    case_open(&c, be, &kind);
    in.values[0][17] = in.values[1][17] = bf16_to_f32(0x7F7F);
    struct batch b;
    batch_open(&b, &c, &in, 0, 2); /* float32, bf16 */
    assert_status(RXT_ENONFINITE, batch_run(&b));
    assert_false(b.bad[0]);
    assert_true(b.bad[1]);
    batch_close(&b);
    case_close(&c);
    inputs_close(&in);
    backend_destroy(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_variant_gate_and_norm_equals_the_reference),
        cmocka_unit_test(bf16_memory_is_rounded_once),
        cmocka_unit_test(same_bits_alone_and_in_batches),
        cmocka_unit_test(same_bits_on_every_instruction_set),
        cmocka_unit_test(only_the_mate_that_is_not_finite_is_bad),
        cmocka_unit_test(a_result_beyond_bf16_is_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
