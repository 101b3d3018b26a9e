#include "tests/stm/memory_case.h"

#include "tests/lib/test.h"

#include <math.h>

/* A gate read off a regression over 32 elements of float32, against one read off one element. */
#define BOUND 2e-4

static const enum stm_variant variants[] = {STM_SIMPLE, STM_SELF, STM_INTERLAYER,
                                            STM_SELF_INTERLAYER, STM_GROUPED_SELF_INTERLAYER};

enum { CASE_ALL_SLOTS = CASE_LAYERS * CASE_SLOTS };

static enum rxt_status probe(struct batch *b, struct stm_slot_probe *out)
{
    return stm_probe(b->updater, b->m[0], b->spare[0], b->ed.ed, &b->ed.rows, out);
}

/* ---- the numbers ------------------------------------------------------------------------ */

/* The reference with gates of its own choice. */
static void reference(const struct memory_case *c, const struct inputs *in, float *out,
                      enum gate_kind main, const enum gate_kind *inner)
{
    struct ref_memory_layer layer[CASE_LAYERS];
    struct ref_memory_attention a = c->ref;
    memcpy(layer, c->ref_layer, sizeof layer);
    for (int i = 0; i < CASE_LAYERS; i++) {
        layer[i].gate.kind = main;
        if (inner)
            layer[i].gate_self.kind = layer[i].gate_mean.kind = *inner;
    }
    a.layer = layer;
    ref_memory_attention(REF_F32, out, &a, in->values[0], in->ed[0], in->rows[0]);
}

/* What the main gate calls old: new + old less new. */
static void reference_old(const struct memory_case *c, const struct inputs *in, float *out,
                          const enum gate_kind *inner)
{
    static float new_[CASE_VALUES];
    reference(c, in, out, GATE_ADD, inner);
    reference(c, in, new_, GATE_REPLACE, inner);
    for (int i = 0; i < CASE_VALUES; i++)
        out[i] -= new_[i];
}

/* g of out = g new + (1-g) old, or of out = (1+g) new + (1-g) old, by least squares over a slot. */
static struct stm_gate_probe regress(const struct case_kind *kind, const float *out,
                                     const float *old, const float *new_, int slot)
{
    double above = 0, below = 0;
    for (int i = slot * CASE_DIM; i < (slot + 1) * CASE_DIM; i++) {
        double way = (double)new_[i] - old[i];
        above += way * ((double)out[i] - old[i] - (kind->tanh ? (double)new_[i] : 0));
        below += way * way;
    }
    double g = above / below;
    return (struct stm_gate_probe){(float)(kind->tanh ? 1 + g : g), (float)(1 - g)};
}

static void near(const struct case_kind *kind, const char *what, int slot, double got, double want)
{
    if (!(fabs(got - want) <= BOUND))
        fail_msg("variant %d, gate %d, tanh %d, per slot %d: %s of slot %d is %g, not %g",
                 (int)kind->variant, (int)kind->gate, kind->tanh, kind->per_slot, what, slot, got,
                 want);
}

static double rms(const float *x)
{
    double squares = 0;
    for (int i = 0; i < CASE_DIM; i++)
        squares += (double)x[i] * x[i];
    return sqrt(squares / CASE_DIM);
}

static void check_gates(struct backend *be, const struct inputs *in, const struct case_kind *kind)
{
    static float out[CASE_VALUES], old[CASE_VALUES], new_[CASE_VALUES], offer[CASE_VALUES];
    struct stm_slot_probe got[CASE_ALL_SLOTS];
    struct memory_case c;
    struct batch b;
    const enum gate_kind replace = GATE_REPLACE;
    bool inner = kind->variant != STM_SIMPLE;
    enum stm_gate which = kind->variant == STM_SELF ? STM_GATE_SELF : STM_GATE_MEAN;
    case_open(&c, be, kind);
    batch_open(&b, &c, in, 0, 1);
    assert_ok(probe(&b, got));
    reference(&c, in, out, kind->gate, NULL);
    reference(&c, in, offer, GATE_REPLACE, NULL);
    reference_old(&c, in, old, NULL);
    if (inner)
        reference_old(&c, in, new_, &replace);
    for (int s = 0; s < CASE_ALL_SLOTS; s++) {
        const struct stm_slot_probe *g = &got[s];
        struct stm_gate_probe want = regress(kind, out, old, offer, s);
        double keep = want.keep, take = want.take;
        near(kind, "take", s, g->gate[STM_GATE_MAIN].take, want.take);
        near(kind, "keep", s, g->gate[STM_GATE_MAIN].keep, want.keep);
        near(kind, "saturation", s, g->saturation, fabs(take - keep) / (fabs(take) + fabs(keep)));
        if (inner) {
            want = regress(kind, old, in->values[0], new_, s);
            keep *= want.keep;
            near(kind, "inner take", s, g->gate[which].take, want.take);
            near(kind, "inner keep", s, g->gate[which].keep, want.keep);
        }
        near(kind, "keep of all", s, g->keep, keep);
        near(kind, "before", s, g->before, rms(in->values[0] + s * CASE_DIM));
        near(kind, "offer", s, g->offer, rms(offer + s * CASE_DIM));
        near(kind, "after", s, g->after, rms(out + s * CASE_DIM));
    }
    batch_close(&b);
    case_close(&c);
}

static void gates_are_those_of_the_reference(void **state)
{
    (void)state;
    struct backend *be = fixture_backend(1);
    struct inputs in;
    inputs_open(&in);
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
        for (int bits = 0; bits < 4; bits++)
            for (int g = 0; g < 3; g++) {
                struct case_kind kind = {.variant = variants[v], .norm = NORM_RMS};
                kind.gate = (enum gate_kind[]){GATE_STATIC, GATE_ELEMENTWISE, GATE_LINEAR}[g];
                kind.tanh = bits & 1;
                kind.per_slot = bits & 2;
                check_gates(be, &in, &kind);
            }
    inputs_close(&in);
    backend_destroy(&be);
}

/* The gates that only pass on: new replaces old, or is added to it. */
static void gates_without_a_number(void **state)
{
    (void)state;
    struct backend *be = fixture_backend(1);
    struct inputs in;
    inputs_open(&in);
    for (int add = 0; add < 2; add++) {
        struct case_kind kind = {.variant = STM_SIMPLE, .gate = add ? GATE_ADD : GATE_REPLACE};
        struct stm_slot_probe got[CASE_ALL_SLOTS];
        struct memory_case c;
        struct batch b;
        case_open(&c, be, &kind);
        batch_open(&b, &c, &in, 0, 1);
        assert_ok(probe(&b, got));
        for (int s = 0; s < CASE_ALL_SLOTS; s++) {
            near(&kind, "take", s, got[s].gate[STM_GATE_MAIN].take, 1);
            near(&kind, "keep", s, got[s].gate[STM_GATE_MAIN].keep, add);
            near(&kind, "saturation", s, got[s].saturation, !add);
            near(&kind, "no other gate", s, got[s].gate[STM_GATE_SELF].take, 0);
        }
        batch_close(&b);
        case_close(&c);
    }
    inputs_close(&in);
    backend_destroy(&be);
}

/* ---- what it leaves behind -------------------------------------------------------------- */

/* The spare is the one of stm_update, bit for bit, in both dtypes; change and cosine are of the
 * stored values. */
static void the_result_is_that_of_an_update(void **state)
{
    (void)state;
    struct backend *be = fixture_backend(2);
    struct inputs in;
    inputs_open(&in);
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
        for (int i = 0; i < 2; i++) { /* float32, bf16 */
            struct case_kind kind = {.variant = variants[v],
                                     .norm = NORM_MIX_SLOT,
                                     .gate = GATE_LINEAR,
                                     .per_slot = true,
                                     .linear_status = true};
            struct stm_slot_probe got[CASE_ALL_SLOTS];
            struct stm_slot_diff diff[CASE_ALL_SLOTS];
            struct memory_case c;
            struct batch b;
            case_open(&c, be, &kind);
            batch_open(&b, &c, &in, i, 1);
            const struct stm_config *cfg = stm_config_of(b.m[0]);
            assert_ok(batch_run(&b));
            void *want = case_spare_stored(b.ln, b.spare[0]);
            assert_ok(probe(&b, got));
            void *after = case_spare_stored(b.ln, b.spare[0]), *before = case_stored(b.ln, b.m[0]);
            assert_memory_equal(after, want, stm_bytes(cfg));
            assert_ok(stm_diff(before, cfg->dtype, after, cfg->dtype, cfg, diff));
            for (int s = 0; s < CASE_ALL_SLOTS; s++) {
                assert_memory_equal(&got[s].change, &diff[s].change, sizeof got[s].change);
                assert_memory_equal(&got[s].cosine, &diff[s].cosine, sizeof got[s].cosine);
            }
            assert_ok(stm_commit(b.m[0], b.spare[0], 0));
            free(want);
            free(after);
            free(before);
            batch_close(&b);
            case_close(&c);
        }
    inputs_close(&in);
    backend_destroy(&be);
}

static void a_result_that_is_not_finite_is_refused(void **state)
{
    (void)state;
    struct backend *be = fixture_backend(1);
    struct inputs in;
    inputs_open(&in);
    struct case_kind kind = {.variant = STM_SIMPLE, .gate = GATE_STATIC, .per_slot = true};
    struct stm_slot_probe got[CASE_ALL_SLOTS];
    struct memory_case c;
    struct batch b;
    case_open(&c, be, &kind);
    in.ed[0][5] = NAN;
    batch_open(&b, &c, &in, 0, 1);
    assert_status(RXT_ENONFINITE, probe(&b, got));
    assert_status(RXT_ENONFINITE, stm_commit(b.m[0], b.spare[0], 0));
    assert_true(got[0].after <= 0 && got[0].change <= 0);
    const struct ragged none = {.n_seq = 1, .offset = (const int32_t[]){0, 0}};
    assert_status(RXT_ESHAPE, stm_probe(b.updater, b.m[0], b.spare[0], b.ed.ed, &none, got));
    batch_close(&b);
    case_close(&c);
    inputs_close(&in);
    backend_destroy(&be);
}

static enum rxt_status probe_once(void *arg)
{
    struct stm_slot_probe got[CASE_ALL_SLOTS];
    return probe(arg, got);
}

static void survives_no_memory(void **state)
{
    (void)state;
    struct backend *be = fixture_backend(1);
    struct inputs in;
    inputs_open(&in);
    struct case_kind kind = {.variant = STM_SELF, .gate = GATE_STATIC, .per_slot = true};
    struct memory_case c;
    struct batch b;
    case_open(&c, be, &kind);
    batch_open(&b, &c, &in, 0, 1);
    assert_survives_no_memory(probe_once, &b);
    batch_close(&b);
    case_close(&c);
    inputs_close(&in);
    backend_destroy(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gates_are_those_of_the_reference),
        cmocka_unit_test(gates_without_a_number),
        cmocka_unit_test(the_result_is_that_of_an_update),
        cmocka_unit_test(a_result_that_is_not_finite_is_refused),
        cmocka_unit_test(survives_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
