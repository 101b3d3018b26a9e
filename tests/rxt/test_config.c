/* config.json: defaults, every field, every refusal. Rows change one field of a good config. */
#include "rxt/config_impl.h"
#include "tests/lib/raw_file.h"
#include "tests/lib/test.h"

#include <jansson.h>

#define MEMORY "memory_attention_config."

/* The config of a folder, or what `json` says, as a tree. */
static json_t *load(const char *dir)
{
    char path[256];
    snprintf(path, sizeof path, "%s/config.json", dir);
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    return root;
}

/* Sets "object.field" (or "field") to the JSON text; NULL deletes it. */
static void set(json_t *root, const char *path, const char *text)
{
    const char *dot = strchr(path, '.');
    char object[64];
    if (dot) {
        snprintf(object, sizeof object, "%.*s", (int)(dot - path), path);
        root = json_object_get(root, object);
        assert_non_null(root);
        path = dot + 1;
    }
    if (!text) {
        (void)json_object_del(root, path);
        return;
    }
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_non_null(value);
    assert_int_equal(json_object_set_new(root, path, value), 0);
}

static enum rxt_status parse(struct rxt_config *out, const json_t *root, struct rxt_error *err)
{
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    enum rxt_status st = config_parse(out, text, strlen(text), err);
    free(text);
    return st;
}

struct row {
    const char *path, *text;
    enum rxt_status st;
    const char *word; /* of the sentence */
};

static void check_rows(const char *dir, const struct row *row, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        json_t *root = load(dir);
        struct rxt_config c;
        struct rxt_error err = {{0}};
        set(root, row[i].path, row[i].text);
        enum rxt_status got = parse(&c, root, &err);
        json_decref(root);
        if (got != row[i].st || !strstr(err.text, row[i].word))
            fail_msg("%s = %s\n  gave %s: %s", row[i].path, row[i].text ? row[i].text : "(absent)",
                     rxt_status_name(got), err.text);
    }
}
#define CHECK_ROWS(dir, row) check_rows(dir, row, sizeof(row) / sizeof(row)[0])

static void test_bundled(void **state)
{
    (void)state;
    struct rxt_config c;
    assert_ok(config_read(&c, "models/demo-15m", NULL));
    assert_false(c.single);
    assert_true(c.has_decoder && c.has_encoder && c.has_memory);
    const struct config_stack *d = &c.decoder, *e = &c.encoder;
    assert_int_equal(d->n_layer, 6);
    assert_int_equal(d->n_before, 1);
    assert_int_equal(d->n_after, 0);
    assert_int_equal(config_n_layer(d), 7);
    assert_int_equal(d->before[0], CONFIG_LAYER_DENSE);
    assert_false(config_layer_stateful(d, 0));
    assert_true(config_layer_stateful(d, 1));
    assert_int_equal(config_layer_kind(d, 1), CONFIG_LAYER_DENSE);
    assert_int_equal(d->n_vocab, 6144);
    assert_int_equal(d->embed_dim, 256);
    assert_int_equal(d->self.n_q, 4);
    assert_int_equal(d->self.n_kv, 2);
    assert_int_equal(d->self.dim, 32);
    assert_int_equal(d->self.gate, ACT_SIGMOID);
    assert_int_equal(d->cross.n_q, 4); /* inherited */
    assert_int_equal(d->cross.n_kv, 2);
    assert_int_equal(d->cross.gate, ACT_NONE);
    assert_int_equal(d->head_norm, CONFIG_HEAD_RMS);
    assert_int_equal(d->ff_act, ACT_SILU);
    assert_true(d->ff_gated && d->rms_norm);
    assert_false(d->out_bias || d->nope || d->use_moe);
    assert_int_equal(e->self.n_kv, 4);
    assert_int_equal(c.memory.variant, STM_SELF_INTERLAYER);
    assert_int_equal(c.memory.n_group, 1);
    assert_int_equal(c.memory.gate.kind, GATE_LINEAR);
    assert_true(c.memory.gate.per_slot && c.memory.gate.linear_status);
    assert_false(c.memory.gate.tanh);
    assert_int_equal(c.memory.norm, CONFIG_NORM_CLASSIC_RMS);
    assert_int_equal(c.memory.mean.n_q, 4);
    assert_int_equal(c.tokens.bos, 2);
    assert_int_equal(c.tokens.answer, 6);
    assert_int_equal(c.tokens.think, -1);
    assert_int_equal(c.rope, CONFIG_ROPE_INTERLEAVED);
    assert_int_equal(c.stm_init, STM_CHECKPOINT);
    assert_int_equal(c.max_seq_len, 192);
}

/* Absent fields take the defaults of spec 3.1; null is the same as absent. */
static void test_defaults(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{\"att_query_groups\":4}",
        "{\"att_query_groups\":4,\"num_layers\":null,\"att_groups\":null,\"use_gated\":null,"
        "\"rope_base\":null,\"ff_activation\":null,\"stateless_layers_config\":null}"};
    for (int i = 0; i < 2; i++) {
        struct rxt_config c;
        assert_ok(config_parse(&c, texts[i], strlen(texts[i]), NULL));
        assert_true(c.single && c.has_decoder && c.has_encoder && !c.has_memory);
        const struct config_stack *d = &c.decoder;
        assert_int_equal(d->n_layer, 12);
        assert_int_equal(d->n_vocab, 20000);
        assert_int_equal(d->embed_dim, 512);
        assert_int_equal(d->ff_dim, 1536);
        assert_int_equal(d->dense_dim, 1536);
        assert_int_equal(d->seq_len, 1024);
        assert_int_equal(d->n_slot, 1024);
        assert_int_equal(d->self.n_q, 4);
        assert_int_equal(d->self.n_kv, 1);
        assert_int_equal(d->self.dim, 32);
        assert_int_equal(d->self.gate, ACT_NONE);
        assert_int_equal(d->cross.n_q, 4);
        assert_true(d->out_bias && d->rms_norm && d->ff_gated);
        assert_int_equal(d->ff_act, ACT_SILU);
        assert_int_equal(d->head_norm, CONFIG_HEAD_UNSAID);
        assert_false(d->use_moe || d->nope);
        assert_true(d->rope_base == 10000);
        assert_int_equal(d->n_before + d->n_after, 0);
        assert_int_equal(d->moe.n_expert, 1);
        assert_int_equal(d->moe.top_k, 1);
        assert_int_equal(d->moe.n_shared, -1);
        assert_int_equal(d->moe.shared_dim, 1536);
        assert_int_equal(d->moe.bias, CONFIG_BIAS_GLOBAL);
        assert_int_equal(d->moe.shared_bias, CONFIG_BIAS_LOCAL);
        assert_false(d->moe.router_bf16 || d->moe.weighted_shared);
        assert_int_equal(c.rope, CONFIG_ROPE_UNSAID);
        assert_int_equal(c.stm_init, STM_NOISE);
        assert_int_equal(c.max_seq_len, 1024);
        assert_int_equal(c.tokens.bos, -1);
        assert_string_equal(c.system_title, "");
    }
}

/* Hq and Hk of spec 2.4: a type ignores the groups that it does not name. */
static void test_head_counts(void **state)
{
    (void)state;
    static const struct {
        const char *fields;
        int32_t self_q, self_kv, cross_q, cross_kv;
    } row[] = {
        {"\"self_att_type\":\"mha\",\"cross_att_type\":\"mqa\",\"att_groups\":4", 16, 16, 16, 1},
        {"\"self_att_type\":\"gqa\",\"cross_att_type\":\"gqa\",\"att_groups\":4,"
         "\"cross_att_groups\":2",
         16, 4, 16, 2},
        {"\"self_att_type\":\"gqa\",\"cross_att_type\":\"gqa\",\"att_groups\":4", 16, 4, 16, 4},
        {"\"self_att_type\":\"mqa\",\"att_groups\":4,\"att_query_groups\":8", 16, 1, 8, 4},
        {"\"att_groups\":4,\"att_query_groups\":8,\"cross_att_query_groups\":16", 8, 4, 16, 4},
        {"\"att_groups\":8,\"att_query_groups\":2,\"cross_att_groups\":1", 2, 8, 2, 1},
        {"\"self_att_type\":\"mha\",\"cross_att_query_groups\":4,\"cross_att_groups\":8", 16, 16, 4,
         8},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        char text[256];
        struct rxt_config c;
        snprintf(text, sizeof text, "{%s}", row[i].fields);
        assert_ok(config_parse(&c, text, strlen(text), NULL));
        assert_int_equal(c.decoder.self.n_q, row[i].self_q);
        assert_int_equal(c.decoder.self.n_kv, row[i].self_kv);
        assert_int_equal(c.decoder.cross.n_q, row[i].cross_q);
        assert_int_equal(c.decoder.cross.n_kv, row[i].cross_kv);
        assert_int_equal(c.decoder.cross.dim, 32);
    }
}

static void test_attention_gates(void **state)
{
    (void)state;
    static const struct {
        const char *fields;
        enum act self, cross;
    } row[] = {
        {"\"use_gated_attention\":true", ACT_SIGMOID, ACT_SIGMOID},
        {"\"use_gated_attention\":true,\"use_gated_cross_attention\":false", ACT_SIGMOID, ACT_NONE},
        {"\"use_gated_cross_attention\":true,\"gated_attention_activation\":\"silu\"", ACT_NONE,
         ACT_SILU},
        {"\"use_gated_attention\":true,\"use_gated_cross_attention\":null,"
         "\"gated_attention_activation\":\"linear\"",
         ACT_LINEAR, ACT_LINEAR},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        char text[256];
        struct rxt_config c;
        snprintf(text, sizeof text, "{\"att_query_groups\":4,%s}", row[i].fields);
        assert_ok(config_parse(&c, text, strlen(text), NULL));
        assert_int_equal(c.decoder.self.gate, row[i].self);
        assert_int_equal(c.decoder.cross.gate, row[i].cross);
    }
}

static void test_moe_fields(void **state)
{
    (void)state;
    struct rxt_config c;
    assert_ok(config_read(&c, "tests/golden/beta-two-final", NULL));
    const struct config_stack *d = &c.decoder;
    assert_int_equal(d->n_before, 2);
    assert_int_equal(d->n_after, 2);
    assert_int_equal(config_n_layer(d), 10);
    static const enum config_layer kind[] = {0, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    for (int32_t i = 0; i < 10; i++) {
        assert_int_equal(config_layer_kind(d, i), kind[i]);
        assert_int_equal(config_layer_stateful(d, i), i >= 2 && i < 8);
    }
    assert_int_equal(d->moe.n_expert, 8);
    assert_int_equal(d->moe.top_k, 4);
    assert_int_equal(d->moe.n_shared, 2);
    assert_int_equal(d->moe.shared_dim, 24);
    assert_int_equal(d->moe.shared_bias, CONFIG_BIAS_GLOBAL);
    assert_int_equal(c.memory.variant, STM_GROUPED_SELF_INTERLAYER);
    assert_int_equal(c.memory.n_group, 3);
    assert_int_equal(c.tokens.think, 6);
    assert_int_equal(c.tokens.internal, 9);

    /* Autocast is on only if both fields say so. */
    static const struct {
        const char *fields;
        bool bf16;
    } row[] = {{"\"router_amp\":true,\"router_dtype\":\"bfloat16\"", true},
               {"\"router_amp\":true,\"router_dtype\":\"torch.bfloat16\"", true},
               {"\"router_amp\":true", false},
               {"\"router_dtype\":\"bfloat16\"", false}};
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"att_query_groups\":4,\"use_moe\":true,%s}", row[i].fields);
        assert_ok(config_parse(&c, text, strlen(text), NULL));
        assert_int_equal(c.decoder.moe.router_bf16, row[i].bf16);
    }
}

static void test_variant_of_num_groups(void **state)
{
    (void)state;
    json_t *root = load("tests/golden/beta-tiny");
    struct rxt_config c;
    set(root, "memory_attention_variant", NULL);
    assert_ok(parse(&c, root, NULL));
    assert_true(c.memory.has_variant);
    assert_int_equal(c.memory.variant, STM_GROUPED_SELF_INTERLAYER);
    assert_int_equal(c.memory.n_group, 2);
    set(root, MEMORY "num_groups", "null");
    assert_ok(parse(&c, root, NULL));
    assert_false(c.memory.has_variant); /* the tensors decide */
    json_decref(root);
}

static void test_refused_fields(void **state)
{
    (void)state;
    static const struct row row[] = {
        /* types and ranges */
        {"decoder_config.num_layers", "\"6\"", RXT_EFORMAT, "decoder_config: num_layers must be a"},
        {"decoder_config.num_layers", "6.0", RXT_EFORMAT, "whole number"},
        {"decoder_config.num_layers", "0", RXT_EINVAL, "num_layers is 0, it must be from 1"},
        {"decoder_config.num_layers", "4294967302", RXT_EINVAL, "num_layers is 4294967302"},
        {"decoder_config.vocab_size", "16777217", RXT_EINVAL, "vocab_size"},
        {"decoder_config.embed_dim", "-256", RXT_EINVAL, "embed_dim"},
        {"decoder_config.seq_len", "1048577", RXT_EINVAL, "seq_len"},
        {"decoder_config.stm_size", "0", RXT_EINVAL, "stm_size"},
        {"decoder_config.ff_dim", "1048577", RXT_EINVAL, "ff_dim"},
        {"decoder_config.use_gated", "1", RXT_EFORMAT, "use_gated must be true or false"},
        {"decoder_config.rope_base", "\"x\"", RXT_EFORMAT, "rope_base must be a number"},
        {"decoder_config.rope_base", "0.5", RXT_EINVAL, "rope_base is 0.5"},
        {"decoder_config.ff_activation", "7", RXT_EFORMAT, "ff_activation must be a string"},
        {"decoder_config.stateless_layers_config", "\"dense\"", RXT_EFORMAT, "must be a list"},
        {"decoder_config.stateless_layers_config", "[\"dense\", 1]", RXT_EFORMAT, "a string"},
        {"decoder_config.moe_top_k", "2", RXT_EINVAL, "moe_top_k is 2, it must be from 1 to 1"},
        {"system_prompt_title", "1", RXT_EFORMAT, "system_prompt_title must be a string"},
        {"decoder_config", "[]", RXT_EFORMAT, "decoder_config must be an object"},
        {"tokenizer_config", "1", RXT_EFORMAT, "tokenizer_config must be an object"},
        {"max_seq_len", "0", RXT_EINVAL, "max_seq_len"},
        /* heads */
        {"decoder_config.att_heads", "7", RXT_EINVAL, "att_heads (7) must divide embed_dim (256)"},
        {"decoder_config.att_heads", "256", RXT_EINVAL, "must be even"},
        {"decoder_config.embed_dim", "4096", RXT_ELIMIT, "is 512, at most 256"},
        {"decoder_config.att_query_groups", "null", RXT_EFORMAT, "att_query_groups is missing"},
        {"decoder_config.att_query_groups", "9", RXT_EINVAL, "att_query_groups is 9"},
        {"decoder_config.att_query_groups", "3", RXT_EINVAL, "one must divide the other"},
        {"decoder_config.cross_att_groups", "3", RXT_EINVAL, "cross_att_type: 4 query heads and 3"},
        /* unknown values change the mathematics */
        {"decoder_config.self_att_type", "\"gla\"", RXT_EUNSUPPORTED, "self_att_type is 'gla'"},
        {"decoder_config.self_att_type", "\"gma\"", RXT_EUNSUPPORTED, "self_att_type is 'gma'"},
        {"decoder_config.cross_att_type", "\"\\u001b[1m\"", RXT_EUNSUPPORTED, "is '?[1m'"},
        {"decoder_config.ff_activation", "\"mish\"", RXT_EUNSUPPORTED, "'mish'"},
        {"decoder_config.gated_attention_activation", "\"softplus\"", RXT_EUNSUPPORTED, "softplus"},
        {"decoder_config.head_norm_type", "\"none\"", RXT_EUNSUPPORTED, "head_norm_type"},
        {"decoder_config.moe_bias_mode", "\"all\"", RXT_EUNSUPPORTED, "moe_bias_mode"},
        {"decoder_config.moe_shared_experts_bias_mode", "\"x\"", RXT_EUNSUPPORTED, "bias_mode"},
        {"decoder_config.router_dtype", "\"float16\"", RXT_EUNSUPPORTED, "router_dtype"},
        {"decoder_config.stateless_layers_config", "[\"gla\"]", RXT_EUNSUPPORTED, "'gla'"},
        {"decoder_config.skip_memory_cross_attention", "true", RXT_EUNSUPPORTED, "no memory"},
        {"encoder_config.stateless_layers_config", "[\"dense\"]", RXT_EUNSUPPORTED, "encoder_con"},
        {"memory_attention_variant", "\"mixture\"", RXT_EUNSUPPORTED, "is 'mixture'"},
        {"rope_layout", "\"neox\"", RXT_EUNSUPPORTED, "rope_layout is 'neox'"},
        {"stm_init", "\"ones\"", RXT_EUNSUPPORTED, "stm_init is 'ones'"},
        {MEMORY "norm_type", "\"batch\"", RXT_EUNSUPPORTED, "norm_type is 'batch'"},
        {MEMORY "residual_gate_type", "\"per_element\"", RXT_EUNSUPPORTED, "residual_gate_type"},
        {MEMORY "residual_gate_slot_status_type", "\"max\"", RXT_EUNSUPPORTED, "slot_status_type"},
        {MEMORY "att_type", "\"delta\"", RXT_EUNSUPPORTED, "att_type is 'delta'"},
        {MEMORY "interlayer_att_type", "\"x\"", RXT_EUNSUPPORTED, "interlayer_att_type"},
        /* memory attention writes its fields out */
        {MEMORY "num_layers", NULL, RXT_EFORMAT, "num_layers is missing"},
        {MEMORY "embed_dim", NULL, RXT_EFORMAT, "embed_dim is missing"},
        {MEMORY "att_heads", NULL, RXT_EFORMAT, "att_heads is missing"},
        {MEMORY "seq_len", NULL, RXT_EFORMAT, "seq_len is missing"},
        {MEMORY "stm_size", NULL, RXT_EFORMAT, "stm_size is missing"},
        {MEMORY "att_type", NULL, RXT_EFORMAT, "att_type is missing"},
        {MEMORY "interlayer_att_type", NULL, RXT_EFORMAT, "interlayer_att_type is missing"},
        {MEMORY "residual_per_slot_gate", NULL, RXT_EFORMAT, "residual_per_slot_gate is missing"},
        {"memory_attention_variant", "\"self\"", RXT_EFORMAT, "self_att_type is missing"},
        /* num_groups */
        {MEMORY "num_groups", "2", RXT_EINVAL, "num_groups belongs to"},
        {"memory_attention_variant", "\"grouped-self-interlayer\"", RXT_EINVAL, "num_groups"},
        /* components that do not fit each other */
        {"encoder_config.num_layers", "5", RXT_EMISMATCH, "num_layers is 6 in decoder_config, 5"},
        {"encoder_config.embed_dim", "512", RXT_EMISMATCH, "embed_dim"},
        {"encoder_config.vocab_size", "2047", RXT_EMISMATCH, "vocab_size"},
        {MEMORY "num_layers", "7", RXT_EMISMATCH, "7 in memory_attention_config"},
        {MEMORY "embed_dim", "128", RXT_EMISMATCH, "embed_dim"},
        {MEMORY "stm_size", "65", RXT_EMISMATCH, "stm_size"},
        {"encoder_config", NULL, RXT_EFORMAT, "config.json: encoder_config is missing"},
        {"decoder_config", NULL, RXT_EFORMAT, "config.json: decoder_config is missing"},
        {"memory_attention_config", "null", RXT_EFORMAT, "memory_attention_config is missing"},
        /* tokens */
        {"tokenizer_config.bos_token_id", NULL, RXT_EFORMAT, "bos_token_id is missing"},
        {"tokenizer_config.query_token_id", "6144", RXT_EINVAL, "query_token_id is 6144"},
        {"tokenizer_config.think_token_id", "-1", RXT_EINVAL, "think_token_id"},
    };
    CHECK_ROWS("models/demo-15m", row);
}

static void test_grouped_refusals(void **state)
{
    (void)state;
    static const struct row row[] = {
        {MEMORY "num_groups", "3", RXT_EINVAL, "num_groups (3) must divide num_layers (4)"},
        {MEMORY "num_groups", "0", RXT_EINVAL, "num_groups is 0"},
        {"memory_attention_variant", "\"interlayer\"", RXT_EINVAL, "num_groups belongs to"},
        {"decoder_config.num_experts", "65536", RXT_OK, ""},
        {"decoder_config.num_shared_experts", "65536", RXT_OK, ""},
        {"decoder_config.num_experts", "65537", RXT_EINVAL, "num_experts"},
    };
    CHECK_ROWS("tests/golden/beta-tiny", row);
}

/* Fields of kernels and of training, and fields nobody knows. */
static void test_ignored_fields(void **state)
{
    (void)state;
    static const struct row row[] = {
        {"decoder_config.use_flash_attention", "true", RXT_OK, ""},
        {"decoder_config.moe_grouped_gemm", "\"yes\"", RXT_OK, ""},
        {"decoder_config.ff_dropout", "0.1", RXT_OK, ""},
        {"decoder_config.unheard_of", "{\"a\": [1]}", RXT_OK, ""},
        {MEMORY "residual_gate_init", "3", RXT_OK, ""},
        {MEMORY "self_att_type", "\"gla\"", RXT_OK, ""}, /* not of this variant */
        {"tokenizer_config.mask_token_id", "99999", RXT_OK, ""},
        {"tokenizer_config", NULL, RXT_OK, ""},
        {"architectures", "[]", RXT_OK, ""},
        {"max_seq_len", "512", RXT_OK, ""},
        {"system_prompt_title", "\"SYSTEM\"", RXT_OK, ""},
    };
    CHECK_ROWS("models/demo-15m", row);
}

static void test_single_components(void **state)
{
    (void)state;
    static const char *const part[] = {"decoder_config", "encoder_config",
                                       "memory_attention_config"};
    for (int i = 0; i < 3; i++) {
        json_t *root = load("tests/golden/alpha-moe-self-interlayer");
        struct rxt_config c;
        assert_ok(parse(&c, json_object_get(root, part[i]), NULL));
        json_decref(root);
        assert_true(c.single);
        assert_int_equal(c.has_decoder, i == 0);
        assert_int_equal(c.has_encoder, i != 2); /* for a decoder the tensors decide */
        assert_int_equal(c.has_memory, i == 2);
        assert_int_equal(c.memory.has_variant, false);
    }
}

static void test_bad_text(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum rxt_status st;
        const char *word;
    } row[] = {{"", RXT_EFORMAT, "config.json: line 1"},
               {"{", RXT_EFORMAT, "config.json: line 1"},
               {"{}\n\n]", RXT_EFORMAT, "config.json: line 3"},
               {"[]", RXT_EFORMAT, "must be an object"},
               {"null", RXT_EFORMAT, "config.json"},
               {"{\"a\":1,\"a\":2}", RXT_EFORMAT, "duplicate"},
               {"{\"a\":\"\xff\"}", RXT_EFORMAT, "config.json"}};
    struct rxt_config c;
    struct rxt_error err;
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        assert_status(row[i].st, config_parse(&c, row[i].text, strlen(row[i].text), &err));
        assert_non_null(strstr(err.text, row[i].word));
    }
    size_t n = ((size_t)1 << 20) + 1;
    char *large = malloc(n);
    memset(large, ' ', n);
    assert_status(RXT_ELIMIT, config_parse(&c, large, n, &err));

    char *dir = test_dir_make();
    assert_status(RXT_ENOTFOUND, config_read(&c, dir, &err));
    assert_non_null(strstr(err.text, "config.json"));
    raw_write(dir, "config.json", large, n);
    assert_status(RXT_ELIMIT, config_read(&c, dir, &err));
    raw_write_text(dir, "config.json", "{\"att_query_groups\": 2}");
    assert_ok(config_read(&c, dir, &err));
    test_dir_remove(dir);
    free(large);
}

static void test_long_lists_and_texts(void **state)
{
    (void)state;
    char list[1024] = "[\"moe\"", text[512] = "\"";
    for (int i = 0; i < 64; i++)
        strcat(list, ",\"moe\"");
    strcat(list, "]");
    memset(text + 1, 'x', 128);
    strcpy(text + 129, "\"");
    const struct row row[] = {
        {"decoder_config.final_stateless_layers_config", list, RXT_ELIMIT, "has 65 entries"},
        {"system_prompt_title", text, RXT_ELIMIT, "has 128 bytes"},
    };
    CHECK_ROWS("models/demo-15m", row);
}

static void test_named_shapes(void **state)
{
    (void)state;
    struct rxt_config c, file;
    struct rxt_error err;
    assert_ok(config_named(&c, "beta-3b", &err));
    assert_int_equal(config_n_layer(&c.decoder), 25);
    assert_int_equal(c.decoder.self.n_kv, 4);
    assert_true(c.decoder.moe.router_bf16);
    assert_int_equal(c.memory.n_group, 3);
    assert_ok(config_named(&c, "alpha-12m", &err));
    assert_int_equal(c.memory.variant, STM_INTERLAYER);
    assert_int_equal(c.decoder.moe.n_shared, 0);
    assert_status(RXT_ENOTFOUND, config_named(&c, "gamma", &err));
    assert_non_null(strstr(err.text, "beta-3b, alpha-12m, preview and wide-memory"));

    assert_ok(config_named(&c, "wide-memory", &err));
    assert_int_equal(
        (int64_t)4 * config_n_layer(&c.decoder) * c.decoder.n_slot * c.decoder.embed_dim, 88080384);

    /* The shape of the bundled model, but for the vocabulary and the slots. */
    assert_ok(config_named(&c, "preview", &err));
    assert_ok(config_read(&file, "models/demo-15m", &err));
    assert_int_equal(c.decoder.n_vocab, 2048);
    assert_int_equal(c.decoder.n_slot, 64);
    file.decoder.n_vocab = file.encoder.n_vocab = 2048;
    file.decoder.n_slot = file.memory.n_slot = 64;
    assert_memory_equal(&c.decoder, &file.decoder, sizeof c.decoder);
    assert_memory_equal(&c.encoder, &file.encoder, sizeof c.encoder);
    assert_memory_equal(&c.memory, &file.memory, sizeof c.memory);
}

static enum rxt_status read_config(void *arg)
{
    struct rxt_config c;
    return config_read(&c, arg, NULL);
}

static void test_no_memory(void **state)
{
    (void)state;
    assert_survives_no_memory(read_config, "models/demo-15m");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bundled),        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_head_counts),    cmocka_unit_test(test_attention_gates),
        cmocka_unit_test(test_moe_fields),     cmocka_unit_test(test_variant_of_num_groups),
        cmocka_unit_test(test_refused_fields), cmocka_unit_test(test_grouped_refusals),
        cmocka_unit_test(test_ignored_fields), cmocka_unit_test(test_single_components),
        cmocka_unit_test(test_bad_text),       cmocka_unit_test(test_long_lists_and_texts),
        cmocka_unit_test(test_named_shapes),   cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
