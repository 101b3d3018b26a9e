/* Tensors that more than one name may stand for, and the two layouts of RoPE. */
#include "rxt/checkpoint_impl.h"
#include "tests/rxt/checkpoint_fixture.h"

#include <math.h>

#define ENCODER "encoder.model.embedding.weight"
#define DECODER "decoder.model.embedding.weight"

/* Both copies, either one, none: the encoder's counts. */
static void test_embedding(void **state)
{
    (void)state;
    for (int have = 0; have < 4; have++) {
        struct fixture f;
        struct ckpt_count whole;
        fixture_random(&f, &(struct random_model){.seed = 1});
        assert_ok(fixture_open(&f));
        whole = f.ck->count;
        fixture_copy(&f, ENCODER, DECODER);
        f.file.tensor[f.file.n - 1].f[5] += 1; /* a copy that differs */
        if (!(have & 1))
            fixture_drop(&f, ENCODER);
        if (!(have & 2))
            fixture_drop(&f, DECODER);
        enum rxt_status got = fixture_open(&f);
        if (have == 0) {
            assert_int_equal(got, RXT_ENOTFOUND);
            assert_non_null(strstr(f.err.text, ENCODER));
        } else {
            assert_int_equal(got, RXT_OK);
            assert_matrix(&f, &f.ck->embedding, have & 1 ? ENCODER : DECODER);
            assert_memory_equal(&f.ck->count, &whole, sizeof whole);
        }
        fixture_close(&f);
    }
    struct fixture f;
    fixture_random(&f, &(struct random_model){.seed = 1});
    tensor_file_add(&f.file, DECODER, 2, 97, 32);
    assert_status(RXT_ESHAPE, fixture_open(&f));
    fixture_close(&f);
}

#define MEMORY "memory_attention.model.stm.memory"
#define DECODER_MEMORY "decoder.model.stm.memory"

static void test_stored_memory(void **state)
{
    (void)state;
    static const char *const inits[] = {"\"noise\"", "\"zeros\"", "\"checkpoint\"", NULL};
    for (int have = 0; have < 4; have++) {
        for (int k = 0; k < 4; k++) {
            struct fixture f;
            fixture_random(&f, &(struct random_model){.seed = 1});
            fixture_set(&f, "stm_init", inits[k]);
            fixture_copy(&f, MEMORY, DECODER_MEMORY);
            f.file.tensor[f.file.n - 1].f[0] += 1;
            if (!(have & 1))
                fixture_drop(&f, MEMORY);
            if (!(have & 2))
                fixture_drop(&f, DECODER_MEMORY);
            enum rxt_status got = fixture_open(&f);
            assert_int_equal(got, have == 0 && k == 2 ? RXT_ENOTFOUND : RXT_OK);
            if (got == RXT_OK && have) {
                const struct file_tensor *t =
                    tensor_file_get(&f.file, have & 1 ? MEMORY : DECODER_MEMORY);
                for (size_t i = 0; i < t->n; i++)
                    assert_true(dtype_value(f.ck->memory.stored, f.ck->memory.stored_dtype, i) ==
                                t->f[i]);
            } else if (got == RXT_OK) {
                assert_null(f.ck->memory.stored);
            } else {
                assert_non_null(strstr(f.err.text, MEMORY));
                assert_non_null(strstr(f.err.text, "stm_init is 'checkpoint'"));
            }
            fixture_close(&f);
        }
    }
}

/* A memory of another shape, saved in a batch, say, matters only where sessions start from it. */
static void test_stored_memory_of_another_shape(void **state)
{
    (void)state;
    struct fixture f;
    fixture_random(&f, &(struct random_model){.seed = 1});
    fixture_drop(&f, MEMORY);
    tensor_file_add(&f.file, MEMORY, 4, 2, 2, 12, 32);
    assert_status(RXT_ENOTFOUND, fixture_open(&f));
    fixture_set(&f, "stm_init", "\"noise\"");
    assert_ok(fixture_open(&f));
    assert_null(f.ck->memory.stored);
    fixture_close(&f);
}

/* ---- angles ----------------------------------------------------------------------------- */

/* The file's table is the reference's own: what we compute must have its bits. */
static void test_computed_angles_are_those_of_the_reference(void **state)
{
    (void)state;
    struct checkpoint *ck = NULL;
    assert_ok(checkpoint_open(&ck, "tests/golden/beta-tiny", NULL));
    const struct ckpt_rope *rope[] = {&ck->decoder.rope, &ck->encoder.rope, &ck->memory.rope};
    for (int i = 0; i < 3; i++) {
        float computed[128 * 8], from_file[128 * 8];
        assert_int_equal(rope[i]->table.rows, 128);
        assert_int_equal(rope[i]->table.cols, 8);
        assert_true(rope[i]->base == 100000);
        checkpoint_rope(rope[i], 128, from_file);
        assert_memory_equal(from_file, rope[i]->table.data, sizeof from_file);
        struct ckpt_rope no_table = *rope[i];
        no_table.table.data = NULL;
        checkpoint_rope(&no_table, 128, computed);
        assert_memory_equal(computed, from_file, sizeof computed);
    }
    checkpoint_close(&ck);
}

/* A table in bfloat16 has rounded angles, which are used as they are; positions behind its end are
 * computed. */
static void test_a_table_overrides(void **state)
{
    (void)state;
    struct fixture f;
    float angle[70 * 4];
    fixture_random(&f, &(struct random_model){.rope_tables = true});
    assert_ok(fixture_open(&f));
    const struct file_tensor *t =
        tensor_file_get(&f.file, "decoder.model.layers.0.attention.rope.cache");
    assert_int_equal(f.ck->decoder.rope.table.rows, 64);
    checkpoint_rope(&f.ck->decoder.rope, 70, angle);
    assert_true(angle[63 * 4 + 1] == t->f[63 * 4 + 1]);
    assert_true(t->f[63 * 4 + 1] != 63 * 0.1f); /* it was rounded */
    for (int i = 0; i < 64 * 4; i++)
        assert_true(angle[i] == t->f[i]);
    for (int p = 64; p < 70; p++) {
        static const float inverse[] = {1, 0.1f, 0.01f, 0.001f};
        for (int i = 0; i < 4; i++)
            assert_true(fabsf(angle[p * 4 + i] - (float)p * inverse[i]) < 1e-5f);
    }
    fixture_close(&f);
}

static void test_any_alias_of_a_table(void **state)
{
    (void)state;
    static const char from[] = "decoder.model.layers.0.attention.rope.cache";
    static const char *const aliases[] = {
        "decoder.model.layers.1.attention.rope.cache",
        "decoder.model.layers.0.memory_cross_attention.rope.cache",
        "decoder.model.stateless_layers.0.attention.rope.cache",
        "decoder.model.final_stateless_layers.0.attention.rope.cache",
    };
    for (int i = 0; i < 4; i++) {
        struct fixture f;
        fixture_random(&f, &(struct random_model){.rope_tables = true});
        fixture_rename(&f, from, aliases[i]);
        assert_ok(fixture_open(&f));
        assert_non_null(f.ck->decoder.rope.table.data);
        assert_matrix(&f, &f.ck->decoder.rope.table, aliases[i]);
        fixture_close(&f);
    }
    struct fixture f;
    fixture_random(&f, &(struct random_model){.rope_tables = true});
    fixture_drop(&f, from);
    assert_ok(fixture_open(&f));
    assert_null(f.ck->decoder.rope.table.data);
    assert_non_null(f.ck->encoder.rope.table.data); /* each component has its own */
    tensor_file_add(&f.file, from, 2, 63, 4);       /* too short */
    assert_status(RXT_ESHAPE, fixture_open(&f));
    assert_non_null(strstr(f.err.text, from));
    fixture_close(&f);
}

static void test_no_positions(void **state)
{
    (void)state;
    struct fixture f;
    fixture_random(&f, &(struct random_model){.patch = "{\"decoder_config\": {\"use_nope\": true},"
                                                       "\"rope_layout\": \"split\"}"});
    assert_ok(fixture_open(&f));
    assert_true(f.ck->decoder.rope.none);
    assert_false(f.ck->encoder.rope.none);
    assert_null(f.ck->decoder.layer[1].cross.k.row_of); /* nothing rotates, nothing to permute */
    assert_non_null(f.ck->memory.layer[0].main.q.row_of);
    fixture_close(&f);
}

/* ---- split layout ----------------------------------------------------------------------- */

/* Row 2i of a head is its old row i, row 2i+1 its old row i + hd/2: cross-attention keys and memory
 * attention queries, nothing else. */
static void test_split_layout(void **state)
{
    (void)state;
    struct fixture f;
    fixture_random(&f, &(struct random_model){.patch = "{\"rope_layout\": \"split\"}"});
    assert_ok(fixture_open(&f));
    const struct ckpt_layer *l = &f.ck->decoder.layer[1];
    const struct ckpt_memory_layer *m = &f.ck->memory.layer[0];
    static const int32_t head[] = {0, 4, 1, 5, 2, 6, 3, 7}; /* hd 8 */
    for (int32_t r = 0; r < 8; r++)
        assert_int_equal(l->cross.k.row_of[r], head[r]); /* Hk 1 */
    for (int32_t r = 0; r < 16; r++)
        assert_int_equal(m->main.q.row_of[r], r / 8 * 8 + head[r % 8]); /* Hq 2 */
    assert_ptr_equal(f.ck->decoder.layer[2].cross.k.row_of, l->cross.k.row_of);
    assert_null(l->cross.q.row_of);
    assert_null(l->cross.v.row_of);
    assert_null(l->self.q.row_of);
    assert_null(l->self.k.row_of);
    assert_null(m->main.k.row_of);
    assert_null(m->main.v.row_of);
    assert_null(m->mean.q.row_of);
    assert_null(f.ck->encoder.layer[0].self.k.row_of);
    fixture_set(&f, "rope_layout", "\"interleaved\"");
    assert_ok(fixture_open(&f));
    assert_null(f.ck->decoder.layer[1].cross.k.row_of);
    assert_null(f.ck->memory.layer[0].main.q.row_of);
    fixture_close(&f);
}

/* Where the config does not say it, experts of the old layout tell. */
static void test_layout_is_detected(void **state)
{
    (void)state;
    static const struct {
        bool legacy;
        const char *field;
        enum config_rope want;
    } row[] = {{true, NULL, CONFIG_ROPE_SPLIT},
               {false, NULL, CONFIG_ROPE_INTERLEAVED},
               {true, "\"interleaved\"", CONFIG_ROPE_INTERLEAVED},
               {false, "\"split\"", CONFIG_ROPE_SPLIT}};
    for (int i = 0; i < 4; i++) {
        struct fixture f;
        fixture_random(&f, &(struct random_model){.legacy_moe = row[i].legacy});
        fixture_set(&f, "rope_layout", row[i].field);
        assert_ok(fixture_open(&f));
        assert_int_equal(f.ck->config.rope, row[i].want);
        assert_int_equal(f.ck->decoder.layer[1].cross.k.row_of != NULL,
                         row[i].want == CONFIG_ROPE_SPLIT);
        fixture_close(&f);
    }
}

/* ---- norm before the head ---------------------------------------------------------------- */

/* Where the config is silent, the tensors tell; where it speaks, it counts. */
static void test_head_norm_is_detected(void **state)
{
    (void)state;
    static const struct {
        const char *patch;
        enum config_head_norm want;
    } row[] = {
        {"{\"decoder_config\": {\"use_head_norm\": false}}", CONFIG_HEAD_NONE},
        {"{\"decoder_config\": {\"head_norm_type\": \"rms_norm\"}}", CONFIG_HEAD_RMS},
        {"{\"decoder_config\": {\"head_norm_type\": \"layer_norm\"}}", CONFIG_HEAD_LAYER},
    };
    for (int i = 0; i < 3; i++) {
        struct fixture f;
        fixture_random(&f, &(struct random_model){.patch = row[i].patch});
        fixture_set(&f, "decoder_config.use_head_norm", NULL);
        fixture_set(&f, "decoder_config.head_norm_type", NULL);
        assert_ok(fixture_open(&f));
        assert_int_equal(f.ck->config.decoder.head_norm, row[i].want);
        assert_int_equal(f.ck->head_norm.weight.data != NULL, row[i].want != CONFIG_HEAD_NONE);
        assert_int_equal(f.ck->head_norm.kind == NORM_LAYER, row[i].want == CONFIG_HEAD_LAYER);
        fixture_set(&f, "decoder_config.use_head_norm", i == 0 ? "true" : "false");
        assert_status(i == 0 ? RXT_ENOTFOUND : RXT_EFORMAT, fixture_open(&f));
        assert_non_null(strstr(f.err.text, "decoder.model.head_norm."));
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embedding),
        cmocka_unit_test(test_stored_memory),
        cmocka_unit_test(test_stored_memory_of_another_shape),
        cmocka_unit_test(test_computed_angles_are_those_of_the_reference),
        cmocka_unit_test(test_a_table_overrides),
        cmocka_unit_test(test_any_alias_of_a_table),
        cmocka_unit_test(test_no_positions),
        cmocka_unit_test(test_split_layout),
        cmocka_unit_test(test_layout_is_detected),
        cmocka_unit_test(test_head_norm_is_detected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
