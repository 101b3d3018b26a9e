/* Strictness (spec 3.3): each tensor is needed, in its shape and as a float; nothing else may be
 * there but what the spec lets be. */
#include "rxt/checkpoint_impl.h"
#include "tests/rxt/checkpoint_fixture.h"

/* Configs whose files together have every kind of tensor. */
static const struct random_model models[] = {
    {.seed = 1, .f32 = true},
    {.seed = 2,
     .f32 = true,
     .patch = "{\"memory_attention_variant\": \"self\", \"decoder_config\": {"
              "\"use_rms_norm\": false, \"head_norm_type\": \"layer_norm\", \"use_gated\": false,"
              "\"use_attention_output_bias\": true, \"use_gated_cross_attention\": true,"
              "\"moe_bias_mode\": \"local\", \"moe_shared_experts_bias_mode\": \"local\"},"
              "\"memory_attention_config\": {\"norm_type\": \"positional\","
              "\"residual_gate_type\": \"linear\", \"use_gate_for_self_attention\": true,"
              "\"residual_gate_slot_status_type\": \"linear\"}}"},
    {.seed = 3,
     .f32 = true,
     .legacy_moe = true,
     .patch = "{\"memory_attention_config\": {\"norm_type\": \"layer\"},"
              "\"decoder_config\": {\"num_experts\": 3, \"num_shared_experts\": 1},"
              "\"encoder_config\": {\"use_moe\": true, \"num_experts\": 2,"
              "\"num_shared_experts\": 0}}"},
};
#define N_MODEL (sizeof models / sizeof models[0])

/* Writes the file with a piece of its header replaced, padded so that the data stays aligned. */
static void write_edited(const struct fixture *f, const struct raw_bytes *file, const char *at,
                         size_t n_old, const char *text, size_t n_text)
{
    uint64_t n_header, n_new;
    memcpy(&n_header, file->at, 8);
    size_t n_before = (size_t)(at - file->at);
    n_new = (n_header - n_old + n_text + 7) / 8 * 8;
    size_t n_data = file->n - 8 - n_header, n_rest = 8 + n_header - n_before - n_old;
    char *out = malloc(8 + n_new + n_data);
    memset(out, ' ', 8 + n_new);
    memcpy(out, file->at, n_before);
    memcpy(out + n_before, text, n_text);
    memcpy(out + n_before + n_text, at + n_old, n_rest);
    memcpy(out, &n_new, 8);
    memcpy(out + 8 + n_new, file->at + 8 + n_header, n_data);
    raw_write(f->dir, "model.safetensors", out, 8 + n_new + n_data);
    free(out);
}

/* Where the entry of a tensor begins, behind the quote. */
static const char *find_entry(const struct raw_bytes *file, const char *name)
{
    char key[256];
    snprintf(key, sizeof key, "\"%s\":{", name);
    const char *at = strstr(file->at + 8, key);
    assert_non_null(at);
    return at + 1;
}

static void check_refusal(struct fixture *f, const char *name, enum rxt_status want)
{
    char word[256];
    snprintf(word, sizeof word, "model.safetensors: tensor '%s'", name);
    enum rxt_status got = checkpoint_open(&f->ck, f->dir, &f->err);
    if (got != want || !strstr(f->err.text, word))
        fail_msg("%s: %s: %s", name, rxt_status_name(got), f->err.text);
    assert_null(f->ck);
}

static void test_every_missing_tensor(void **state)
{
    (void)state;
    for (size_t m = 0; m < N_MODEL; m++) {
        struct fixture f;
        fixture_random(&f, &models[m]);
        assert_ok(fixture_open(&f));
        checkpoint_close(&f.ck);
        struct raw_bytes file = raw_read(f.dir, "model.safetensors");
        for (int i = 0; i < f.file.n; i++) { /* ~ moves it behind all other names */
            write_edited(&f, &file, find_entry(&file, f.file.tensor[i].name), 1, "~", 1);
            check_refusal(&f, f.file.tensor[i].name, RXT_ENOTFOUND);
        }
        raw_free(&file);
        fixture_close(&f);
    }
}

/* As many values, but a dimension more. */
static void test_every_wrong_shape(void **state)
{
    (void)state;
    for (size_t m = 0; m < N_MODEL; m++) {
        struct fixture f;
        fixture_random(&f, &models[m]);
        assert_ok(fixture_open(&f));
        checkpoint_close(&f.ck);
        struct raw_bytes file = raw_read(f.dir, "model.safetensors");
        for (int i = 0; i < f.file.n; i++) {
            const char *name = f.file.tensor[i].name;
            const char *shape = strstr(find_entry(&file, name), "\"shape\":[") + 9;
            write_edited(&f, &file, shape, 0, "1,", 2);
            check_refusal(&f, name, strstr(name, "stm.memory") ? RXT_ENOTFOUND : RXT_ESHAPE);
        }
        raw_free(&file);
        fixture_close(&f);
    }
}

static void test_shapes_are_in_the_message(void **state)
{
    (void)state;
    struct fixture f;
    fixture_random(&f, &models[0]);
    fixture_set(&f, "decoder_config.vocab_size", "95");
    fixture_set(&f, "encoder_config.vocab_size", "95");
    assert_status(RXT_ESHAPE, fixture_open(&f));
    assert_string_equal(f.err.text,
                        "model.safetensors: tensor 'encoder.model.embedding.weight' has "
                        "shape [96,32], config.json wants [95,32]");
    fixture_close(&f);
}

/* The dtype of one tensor in the written file; as many bytes, another name. */
static void patch_dtype(struct fixture *f, const char *tensor, const char *from, const char *to)
{
    char entry[256], new_entry[256];
    struct raw_bytes b = raw_read(f->dir, "model.safetensors");
    snprintf(entry, sizeof entry, "\"%s\":{\"dtype\":\"%s\"", tensor, from);
    snprintf(new_entry, sizeof new_entry, "\"%s\":{\"dtype\":\"%s\"%*s", tensor, to,
             (int)(strlen(from) - strlen(to)), "");
    char *at = strstr(b.at + 8, entry);
    assert_non_null(at);
    memcpy(at, new_entry, strlen(entry));
    raw_write(f->dir, "model.safetensors", b.at, b.n);
    raw_free(&b);
}

static void test_weights_are_floats(void **state)
{
    (void)state;
    static const char name[] = "decoder.model.layers.1.norm2.weight";
    struct fixture f;
    fixture_random(&f, &(struct random_model){.seed = 1});
    assert_ok(fixture_open(&f));
    patch_dtype(&f, name, "BF16", "U16");
    checkpoint_close(&f.ck);
    assert_status(RXT_EUNSUPPORTED, checkpoint_open(&f.ck, f.dir, &f.err));
    assert_non_null(strstr(f.err.text, name));
    assert_non_null(strstr(f.err.text, "must be F32, F16 or BF16"));
    patch_dtype(&f, name, "U16", "F16");
    assert_ok(checkpoint_open(&f.ck, f.dir, &f.err));
    assert_int_equal(f.ck->decoder.layer[2].norm2.weight.dtype, DTYPE_F16);
    assert_int_equal(f.ck->dtype, DTYPE_BF16); /* of most */
    fixture_close(&f);
}

/* ---- tensors too many ------------------------------------------------------------------- */

static void check_extra(size_t model, const char *name, enum rxt_status want)
{
    struct fixture f;
    fixture_random(&f, &models[model]);
    tensor_file_add(&f.file, name, 2, 2, 3);
    enum rxt_status got = fixture_open(&f);
    if (got != want || (want != RXT_OK && !strstr(f.err.text, name)))
        fail_msg("with %s: %s: %s", name, rxt_status_name(got), f.err.text);
    fixture_close(&f);
}

static void test_unexpected_tensors(void **state)
{
    (void)state;
    static const char *const names[] = {
        "lm_head.weight",
        "decoder.model.layers.2.norm1.weight", /* there are two */
        "decoder.model.layers.0.norm4.weight",
        "decoder.model.layers.0.attention.q_proj.bias",
        "decoder.model.layers.0.attention.q_norm.weight",
        "decoder.model.layers.0.attention.out_proj.bias",
        "decoder.model.layers.0.memory_cross_attention.gate_proj.weight",
        "decoder.model.stateless_layers.0.norm2.weight",
        "decoder.model.layers.0.ff.b1",
        "decoder.model.layers.0.ff.shared_expert.fc2.bias",
        "decoder.model.stm.memory_2",
        "encoder.model.head.weight",
        "encoder.model.layers.0.norm4.weight",
        "encoder.model.layers.norm2.weight",
        "memory_attention.model.self_attention_layers.0.q_proj.weight",
        "memory_attention.model.residual_gate_layers.0.gate.weight",
        "memory_attention.model.residual_gate_layers.0.slot_status.weight",
        "memory_attention.model.memory_norm_layers.0.ema_rms",
        "critic.model.embedding.weight",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        check_extra(0, names[i], RXT_EFORMAT);
}

static void test_left_overs_are_ignored(void **state)
{
    (void)state;
    static const char *const names[] = {
        "decoder.model.stm.memory",
        "encoder.model.stm.memory",
        "encoder.model.stm.whatever",
        "encoder.model.layers.1.memory_cross_attention.q_proj.weight",
        "encoder.model.layers.1.norm2.weight",
        "encoder.model.layers.0.stm_norm.bias",
        "decoder.model.layers.0.attention.rope.inv_freq",
        "memory_attention.model.attention_layers.0.rope.inv_freq",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        check_extra(0, names[i], RXT_OK);
}

/* Gates that are off, or static, may leave their status behind. */
static void test_status_of_gates_that_are_off(void **state)
{
    (void)state;
    static const char *const patches[] = {
        "{\"memory_attention_config\": {\"residual_gate_type\": \"static\","
        "\"residual_gate_slot_status_type\": \"linear\"}}",
        "{\"memory_attention_config\": {\"norm_type\": \"adaptive\"}}",
    };
    for (int i = 0; i < 2; i++) {
        struct fixture f;
        fixture_random(&f, &(struct random_model){.patch = patches[i]});
        assert_ok(fixture_open(&f));
        assert_null(f.ck->memory.layer[0].gate.status_w.data);
        fixture_close(&f);
    }
    struct fixture f;
    fixture_load(&f, "tests/golden/alpha-self-memory"); /* has those of the self gate */
    assert_ok(fixture_open(&f));
    fixture_set(&f, "memory_attention_config.use_gate_for_self_attention", "true");
    assert_status(RXT_ENOTFOUND, fixture_open(&f));
    assert_non_null(strstr(f.err.text, "self_residual_gate_layers.0.gate'"));
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_missing_tensor),
        cmocka_unit_test(test_every_wrong_shape),
        cmocka_unit_test(test_shapes_are_in_the_message),
        cmocka_unit_test(test_weights_are_floats),
        cmocka_unit_test(test_unexpected_tensors),
        cmocka_unit_test(test_left_overs_are_ignored),
        cmocka_unit_test(test_status_of_gates_that_are_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
