/* Encoder and update over packed interactions. */
#include "tests/rxt/engine.h"

enum { TURNS = 5, LONGEST = 40 };
static const int32_t lengths[TURNS] = {13, 1, 40, 2, 29};

static int32_t pack(struct engine *e, int32_t *ids, int32_t offset[TURNS + 1])
{
    offset[0] = 0;
    for (int i = 0; i < TURNS; i++) {
        engine_ids(ids + offset[i], lengths[i], e->info->n_vocab, (uint64_t)i);
        offset[i + 1] = offset[i] + lengths[i];
    }
    return offset[TURNS];
}

static void packed_interactions_equal_each_alone(void **state)
{
    (void)state;
    const struct engine_options opt = {.worker.max_seq = TURNS, .worker.max_rows = 100};
    struct engine e;
    engine_open(&e, "tests/golden/beta-tiny", &opt);
    int32_t ids[TURNS * LONGEST], offset[TURNS + 1], n = pack(&e, ids, offset);
    size_t dim = (size_t)e.info->embed_dim, n_layer = (size_t)e.info->n_layer;
    float *packed = engine_alloc((size_t)n * dim, sizeof *packed);
    float *alone = engine_alloc(n_layer * LONGEST * dim, sizeof *alone);
    for (int i = 0; i < TURNS; i++) {
        size_t own = (size_t)lengths[i] * dim;
        engine_encode(&e, ids + offset[i], lengths[i], alone);
        const struct ragged rows = {TURNS, offset, NULL};
        const struct tensor *ed;
        assert_ok(rxt_memorize(e.w, &rows, ids, &ed));
        for (size_t layer = 0; layer < n_layer; layer++) {
            assert_int_equal(ed[layer].rows, n);
            assert_ok(lane_download(rxt_worker_lane(e.w), packed, ed[layer].data,
                                    (size_t)n * dim * sizeof *packed));
            assert_memory_equal(packed + (size_t)offset[i] * dim, alone + layer * own,
                                own * sizeof *packed);
        }
    }
    free(packed);
    free(alone);
    engine_close(&e);
}

static void hash_of(struct engine *e, const struct stm *m, uint8_t hash[16])
{
    assert_ok(stm_hash(m, rxt_worker_lane(e->w), hash));
}

static void packed_updates_equal_each_alone(void **state)
{
    (void)state;
    const struct engine_options opt = {.worker.max_seq = TURNS, .worker.max_rows = 100};
    struct engine e;
    engine_open(&e, "tests/golden/beta-tiny", &opt);
    struct lane *ln = rxt_worker_lane(e.w);
    struct stm_config cfg = rxt_model_stm(e.m, DTYPE_F32);
    int32_t ids[TURNS * LONGEST], offset[TURNS + 1];
    pack(&e, ids, offset);
    struct stm *m[TURNS] = {NULL};
    struct stm_spare *spare[TURNS];
    struct stm_pool *pool;
    uint8_t alone[TURNS][16], packed[16];
    bool bad[TURNS];
    assert_ok(stm_pool_create(&pool, rxt_model_backend(e.m), &cfg, TURNS));
    for (int i = 0; i < TURNS; i++) {
        assert_ok(stm_create(&m[i], ln, &cfg, STM_NOISE, (uint64_t)i));
        assert_ok(stm_restart(e.memory, ln, 0, STM_NOISE, (uint64_t)i));
        engine_update(&e, ids + offset[i], lengths[i]);
        hash_of(&e, e.memory, alone[i]);
        spare[i] = stm_spare_take(pool);
    }
    const struct ragged rows = {TURNS, offset, NULL};
    assert_ok(rxt_update(e.w, m, spare, &rows, ids, bad));
    for (int i = 0; i < TURNS; i++) {
        assert_false(bad[i]);
        assert_ok(stm_commit(m[i], spare[i], 0));
        hash_of(&e, m[i], packed);
        assert_memory_equal(packed, alone[i], sizeof packed);
        stm_spare_give(pool, &spare[i]);
        stm_destroy(&m[i]);
    }
    stm_pool_destroy(&pool);
    engine_close(&e);
}

/* A non-finite memory gives a non-finite update: refused, and the version stays. */
static void a_result_that_is_not_finite_is_refused(void **state)
{
    (void)state;
    struct engine e;
    engine_open(&e, "tests/golden/beta-tiny", NULL);
    float *values = engine_alloc(e.n_value, sizeof *values);
    for (size_t i = 0; i < e.n_value; i++)
        values[i] = 3e38f;
    engine_inject(&e, values);
    const int32_t ids[3] = {1, 2, 3}, offset[2] = {0, 3};
    const struct ragged rows = {1, offset, NULL};
    struct stm_spare *spare = stm_spare_take(e.pool);
    bool bad = false;
    assert_status(RXT_ENONFINITE, rxt_update(e.w, &e.memory, &spare, &rows, ids, &bad));
    assert_true(bad);
    assert_status(RXT_ENONFINITE, stm_commit(e.memory, spare, 0));
    assert_int_equal(stm_version(e.memory), 0);
    stm_spare_give(e.pool, &spare);
    free(values);
    engine_close(&e);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    const struct engine_options opt = {
        .model.max_seq_len = 40, .worker.max_rows = 30, .worker.max_seq = 2};
    struct engine e;
    engine_open(&e, "tests/golden/beta-tiny", &opt);
    int32_t ids[60];
    const struct tensor *ed;
    engine_ids(ids, 60, e.info->n_vocab, 1);
    const int32_t fits[3] = {0, 15, 30}, rows[2] = {0, 31}, seqs[4] = {0, 1, 2, 3},
                  empty[3] = {0, 4, 4}, start[2] = {0, 0};
    assert_ok(rxt_memorize(e.w, &(struct ragged){2, fits, NULL}, ids, &ed));
    assert_status(RXT_ESHAPE, rxt_memorize(e.w, &(struct ragged){1, rows, NULL}, ids, &ed));
    assert_status(RXT_ESHAPE, rxt_memorize(e.w, &(struct ragged){3, seqs, NULL}, ids, &ed));
    assert_status(RXT_ESHAPE, rxt_memorize(e.w, &(struct ragged){2, empty, NULL}, ids, &ed));
    assert_status(RXT_ESHAPE, rxt_memorize(e.w, &(struct ragged){2, fits, start}, ids, &ed));
    ids[7] = e.info->n_vocab;
    assert_status(RXT_ESHAPE, rxt_memorize(e.w, &(struct ragged){2, fits, NULL}, ids, &ed));
    engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_interactions_equal_each_alone),
        cmocka_unit_test(packed_updates_equal_each_alone),
        cmocka_unit_test(a_result_that_is_not_finite_is_refused),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
