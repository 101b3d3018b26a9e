/* Memory K/V: built once, the same bits as built again; any dtype of the memory. */
#include "tests/rxt/engine.h"

#include "kernels/base/bf16.h"
#include "tests/ref/model_random.h"

enum { N = 17 };

static float *logits_of(struct engine *e)
{
    int32_t ids[N];
    float *out = engine_alloc((size_t)N * (size_t)e->info->n_vocab, sizeof *out);
    engine_ids(ids, N, e->info->n_vocab, 4);
    engine_logits(e, ids, N, 0, out);
    return out;
}

static size_t bytes_of(const struct engine *e)
{
    return (size_t)N * (size_t)e->info->n_vocab * sizeof(float);
}

static void built_again_it_is_the_same(void **state)
{
    (void)state;
    struct engine e;
    engine_open(&e, "tests/golden/beta-tiny", NULL);
    float *first = logits_of(&e);
    struct stm *other;
    struct stm_config cfg = rxt_model_stm(e.m, DTYPE_F32);
    assert_ok(stm_create(&other, rxt_worker_lane(e.w), &cfg, STM_NOISE, 9));
    assert_ok(rxt_read_build(e.read, e.w, other));
    float *changed = logits_of(&e);
    assert_memory_not_equal(first, changed, bytes_of(&e));
    assert_ok(rxt_read_build(e.read, e.w, e.memory));
    float *again = logits_of(&e);
    assert_memory_equal(first, again, bytes_of(&e));
    free(first);
    free(changed);
    free(again);
    stm_destroy(&other);
    engine_close(&e);
}

/* Readers see what was built, not what the memory has become meanwhile (S1). */
static void readers_keep_their_version(void **state)
{
    (void)state;
    struct engine e;
    engine_open(&e, "tests/golden/beta-tiny", NULL);
    assert_int_equal(rxt_read_version(e.read), 0);
    float *before = logits_of(&e);
    const int32_t ids[4] = {1, 2, 3, 4}, offset[2] = {0, 4};
    struct stm_spare *spare = stm_spare_take(e.pool);
    assert_ok(rxt_update(e.w, &e.memory, &spare, &(struct ragged){1, offset, NULL}, ids, NULL));
    assert_ok(stm_commit(e.memory, spare, 0));
    float *pending = logits_of(&e);
    assert_memory_equal(before, pending, bytes_of(&e));
    assert_int_equal(rxt_read_version(e.read), 0);
    assert_ok(rxt_read_build(e.read, e.w, e.memory));
    assert_int_equal(rxt_read_version(e.read), 1);
    float *after = logits_of(&e);
    assert_memory_not_equal(before, after, bytes_of(&e));
    free(before);
    free(pending);
    free(after);
    stm_spare_give(e.pool, &spare);
    engine_close(&e);
}

/* A memory in bf16 reads as the float32 memory of the same values. */
static void dtype_of_the_memory(void **state)
{
    (void)state;
    struct engine wide, half;
    engine_open(&wide, "tests/golden/beta-tiny", NULL);
    engine_open(&half, "tests/golden/beta-tiny", &(struct engine_options){.stm_dtype = DTYPE_BF16});
    float *values = engine_alloc(wide.n_value, sizeof *values);
    engine_values(&half, values);
    for (size_t i = 0; i < wide.n_value; i++)
        assert_true(values[i] == bf16_to_f32(bf16_from_f32(values[i])));
    engine_inject(&wide, values);
    float *a = logits_of(&wide), *b = logits_of(&half);
    assert_memory_equal(a, b, bytes_of(&wide));
    free(a);
    free(b);
    free(values);
    engine_close(&wide);
    engine_close(&half);
}

static void a_memory_of_other_dims_is_refused(void **state)
{
    (void)state;
    struct engine e;
    struct stm *other;
    engine_open(&e, "tests/golden/beta-tiny", NULL);
    struct stm_config cfg = rxt_model_stm(e.m, DTYPE_F32);
    cfg.n_slot++;
    assert_ok(stm_create(&other, rxt_worker_lane(e.w), &cfg, STM_ZEROS, 0));
    assert_status(RXT_ESHAPE, rxt_read_build(e.read, e.w, other));
    stm_destroy(&other);
    engine_close(&e);
}

/* K and V of the memory are wider here than all that encoder and memory attention compute; the lane
 * that updates memories builds them all the same. */
static void built_where_memories_are_updated(void **state)
{
    (void)state;
    static const char patch[] = "{\"decoder_config\": {\"cross_att_type\": \"mha\"},"
                                " \"encoder_config\": {\"self_att_type\": \"mqa\", \"ff_dim\": 8,"
                                "                      \"use_gated_attention\": false}}";
    struct engine e;
    struct rxt_worker *memory_lane;
    char *dir = test_dir_make();
    random_model_write(dir, &(struct random_model){.patch = patch, .seed = 3});
    engine_open(&e, dir, NULL);
    float *want = logits_of(&e);
    const struct rxt_worker_config cfg = {.work = RXT_WORK_MEMORY};
    assert_ok(rxt_worker_create(&memory_lane, e.m, &cfg));
    assert_ok(rxt_read_build(e.read, memory_lane, e.memory));
    float *got = logits_of(&e);
    assert_memory_equal(want, got, bytes_of(&e));
    free(want);
    free(got);
    rxt_worker_destroy(&memory_lane);
    engine_close(&e);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(built_again_it_is_the_same),
        cmocka_unit_test(readers_keep_their_version),
        cmocka_unit_test(dtype_of_the_memory),
        cmocka_unit_test(a_memory_of_other_dims_is_refused),
        cmocka_unit_test(built_where_memories_are_updated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
