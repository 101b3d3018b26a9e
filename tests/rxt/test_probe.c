/* Looking on changes nothing, and what is seen adds up. That the numbers are right is compared with
 * numpy (tests/oracle/inspect_oracle.py). */
#include "tests/rxt/engine.h"

#include <math.h>

enum { N = 9 };

struct seen {
    float *attention, *entropy;
};

static struct seen look(struct engine *e, const struct stm *m, const int32_t *ids)
{
    size_t rows = (size_t)e->info->n_layer * N;
    struct seen s = {engine_alloc(rows * (size_t)e->info->n_slot, sizeof(float)),
                     engine_alloc(rows, sizeof(float))};
    assert_ok(rxt_probe(e->w, m, ids, N, s.attention, s.entropy));
    return s;
}

static void forget(struct seen *s)
{
    free(s->attention);
    free(s->entropy);
}

static void near(double got, double want, double bound)
{
    if (!(fabs(got - want) <= bound))
        fail_msg("%g is not %g", got, want);
}

static void shares_add_up_to_one(const char *dir, enum dtype dtype)
{
    struct engine e;
    engine_open(&e, dir, &(struct engine_options){.stm_dtype = dtype, .seed = 3});
    int32_t ids[N];
    engine_ids(ids, N, e.info->n_vocab, 4);
    struct seen s = look(&e, e.memory, ids);
    size_t n_slot = (size_t)e.info->n_slot;
    for (size_t row = 0; row < (size_t)e.info->n_layer * N; row++) {
        double sum = 0;
        for (size_t i = 0; i < n_slot; i++) {
            assert_true(s.attention[row * n_slot + i] >= 0);
            sum += s.attention[row * n_slot + i];
        }
        near(sum, 1, 1e-5);
        assert_true(s.entropy[row] >= 0 && s.entropy[row] <= log2((double)n_slot) + 1e-5);
    }
    forget(&s);
    engine_close(&e);
}

static void shares(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        enum dtype dtype = i ? DTYPE_BF16 : DTYPE_F32;
        shares_add_up_to_one("models/demo-15m", dtype);
        shares_add_up_to_one("tests/golden/beta-tiny", dtype);
    }
}

/* Slots that hold the same are read alike: entropy is all there can be. */
static void slots_alike_are_read_alike(void **state)
{
    (void)state;
    struct engine e;
    engine_open(&e, "models/demo-15m", NULL);
    float *values = engine_alloc(e.n_value, sizeof *values);
    size_t dim = (size_t)e.info->embed_dim;
    for (size_t i = 0; i < e.n_value; i++)
        values[i] = (float)(i % dim % 7) - 3;
    engine_inject(&e, values);
    const int32_t ids[N] = {1, 3, 510, 16, 261, 715, 896, 4, 303};
    struct seen s = look(&e, e.memory, ids);
    for (size_t i = 0; i < (size_t)(e.info->n_layer * N); i++)
        near(s.entropy[i], log2(e.info->n_slot), 1e-4);
    for (size_t i = 0; i < (size_t)(e.info->n_layer * N * e.info->n_slot); i++)
        near(s.attention[i], 1.0 / e.info->n_slot, 1e-6);
    forget(&s);
    free(values);
    engine_close(&e);
}

/* Slots have no order (spec 1.3): moved slots take their shares along. */
static void shares_follow_their_slots(void **state)
{
    (void)state;
    struct engine e;
    engine_open(&e, "models/demo-15m", NULL);
    float *values = engine_alloc(e.n_value, sizeof *values);
    float *moved = engine_alloc(e.n_value, sizeof *moved);
    size_t dim = (size_t)e.info->embed_dim, n_slot = (size_t)e.info->n_slot;
    engine_values(&e, values);
    for (size_t s = 0; s < e.n_value / dim; s++) /* slot i goes where slot i + 5 was */
        memcpy(moved + (s - s % n_slot + (s + 5) % n_slot) * dim, values + s * dim,
               dim * sizeof *moved);
    const int32_t ids[N] = {1, 3, 510, 16, 261, 715, 896, 4, 303};
    struct seen before = look(&e, e.memory, ids);
    engine_inject(&e, moved);
    struct seen after = look(&e, e.memory, ids);
    for (size_t row = 0; row < (size_t)e.info->n_layer * N; row++)
        for (size_t i = 0; i < n_slot; i++)
            near(after.attention[row * n_slot + (i + 5) % n_slot],
                 before.attention[row * n_slot + i], 1e-5);
    forget(&before);
    forget(&after);
    free(values);
    free(moved);
    engine_close(&e);
}

static void looking_changes_nothing(void **state)
{
    (void)state;
    struct engine e;
    engine_open(&e, "models/demo-15m", NULL);
    size_t bytes = (size_t)N * (size_t)e.info->n_vocab * sizeof(float);
    float *before = engine_alloc(1, bytes), *after = engine_alloc(1, bytes);
    int32_t ids[N];
    char was[33], is[33];
    engine_ids(ids, N, e.info->n_vocab, 6);
    engine_hash(&e, was);
    engine_logits(&e, ids, N, 0, before);
    struct seen s = look(&e, e.memory, ids);
    engine_logits(&e, ids, N, 0, after);
    engine_hash(&e, is);
    assert_memory_equal(before, after, bytes);
    assert_string_equal(was, is);
    assert_ok(rxt_probe(e.w, e.memory, ids, N, NULL, s.entropy));
    assert_ok(rxt_probe(e.w, e.memory, ids, N, s.attention, NULL));
    forget(&s);
    free(before);
    free(after);
    engine_close(&e);
}

static void a_probed_update_is_an_update(void **state)
{
    (void)state;
    struct engine e, watched;
    char want[33], got[33];
    const int32_t ids[N] = {1, 3, 510, 16, 261, 715, 896, 4, 2};
    engine_open(&e, "models/demo-15m", NULL);
    engine_open(&watched, "models/demo-15m", NULL);
    size_t n = (size_t)(e.info->n_layer * e.info->n_slot);
    struct stm_slot_probe *probe = engine_alloc(n, sizeof *probe);
    for (int turn = 0; turn < 2; turn++) {
        struct stm_spare *spare = stm_spare_take(watched.pool);
        engine_update(&e, ids, N);
        assert_ok(rxt_probe_update(watched.w, watched.memory, spare, ids, N, probe));
        assert_ok(stm_commit(watched.memory, spare, stm_version(watched.memory)));
        stm_spare_give(watched.pool, &spare);
        engine_hash(&e, want);
        engine_hash(&watched, got);
        assert_string_equal(got, want);
    }
    size_t n_changed = 0;
    for (size_t i = 0; i < n; i++) { /* sigmoid gates: shares of one whole */
        const struct stm_gate_probe *g = &probe[i].gate[STM_GATE_MAIN];
        near(g->take + g->keep, 1, 1e-5);
        assert_true(probe[i].after > 0);
        n_changed += probe[i].change > 0;
    }
    assert_true(n_changed > n / 2);
    free(probe);
    engine_close(&watched);
    engine_close(&e);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct engine e;
    const struct engine_options memory = {.worker = {.work = RXT_WORK_MEMORY}};
    const struct engine_options small = {.worker = {.max_rows = 4}};
    const int32_t ids[N] = {1, 3, 510, 16, -1};
    engine_open(&e, "models/demo-15m", &small);
    assert_status(RXT_ESHAPE, rxt_probe(e.w, e.memory, ids, 0, NULL, NULL));
    assert_status(RXT_ESHAPE, rxt_probe(e.w, e.memory, ids, 5, NULL, NULL));
    assert_status(RXT_ESHAPE, rxt_probe(e.w, e.memory, ids + 3, 2, NULL, NULL));
    assert_ok(rxt_probe(e.w, e.memory, ids, 4, NULL, NULL));
    engine_close(&e);
    engine_open(&e, "models/demo-15m", &memory);
    assert_status(RXT_EINVAL, rxt_probe(e.w, e.memory, ids, 4, NULL, NULL));
    engine_close(&e);
}

static enum rxt_status probe_once(void *arg)
{
    struct engine *e = arg;
    const int32_t ids[4] = {1, 3, 5, 7};
    return rxt_probe(e->w, e->memory, ids, 4, NULL, NULL);
}

static void survives_no_memory(void **state)
{
    (void)state;
    struct engine e;
    engine_open(&e, "tests/golden/beta-tiny", NULL);
    assert_survives_no_memory(probe_once, &e);
    engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares),
        cmocka_unit_test(slots_alike_are_read_alike),
        cmocka_unit_test(shares_follow_their_slots),
        cmocka_unit_test(looking_changes_nothing),
        cmocka_unit_test(a_probed_update_is_an_update),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(survives_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
