#include "tests/ref/model_random.h"

#include "kernels/base/random.h"
#include "tests/lib/test.h"
#include "tests/ref/model_impl.h"

#include <math.h>

static const char base_config[] =
    "{\"decoder_config\": {\"num_layers\": 2, \"vocab_size\": 96, \"embed_dim\": 32,"
    "  \"ff_dim\": 24, \"dense_layer_dim\": 40, \"att_heads\": 4, \"seq_len\": 64,"
    "  \"stm_size\": 12, \"self_att_type\": \"sqa\", \"cross_att_type\": \"sqa\","
    "  \"att_groups\": 1, \"att_query_groups\": 2, \"use_moe\": true, \"num_experts\": 6,"
    "  \"moe_top_k\": 2, \"num_shared_experts\": 2, \"shared_expert_dim\": 16,"
    "  \"moe_bias_mode\": \"global\", \"moe_shared_experts_bias_mode\": \"global\","
    "  \"stateless_layers_config\": [\"dense\"], \"final_stateless_layers_config\": [\"moe\"],"
    "  \"use_gated_attention\": true, \"use_gated_cross_attention\": false,"
    "  \"use_attention_output_bias\": false, \"use_head_norm\": true,"
    "  \"head_norm_type\": \"rms_norm\"},"
    " \"encoder_config\": {\"num_layers\": 2, \"vocab_size\": 96, \"embed_dim\": 32,"
    "  \"ff_dim\": 40, \"att_heads\": 4, \"seq_len\": 64, \"stm_size\": 12,"
    "  \"self_att_type\": \"sqa\", \"att_groups\": 2, \"att_query_groups\": 2,"
    "  \"use_gated_attention\": true, \"use_attention_output_bias\": false,"
    "  \"skip_memory_cross_attention\": true},"
    " \"memory_attention_config\": {\"num_layers\": 2, \"embed_dim\": 32, \"att_heads\": 4,"
    "  \"seq_len\": 64, \"stm_size\": 12, \"att_type\": \"sqa\", \"att_groups\": 2,"
    "  \"att_query_groups\": 2, \"interlayer_att_type\": \"sqa\","
    "  \"interlayer_att_groups\": 2, \"interlayer_att_query_groups\": 2,"
    "  \"self_att_type\": \"sqa\", \"self_att_groups\": 2, \"self_att_query_groups\": 2,"
    "  \"norm_type\": \"classic-rms\", \"use_gated_residual\": true,"
    "  \"residual_gate_type\": \"elementwise\", \"residual_per_slot_gate\": true,"
    "  \"residual_gate_slot_status_type\": \"mean\", \"use_tanh_residual_gate\": false},"
    " \"memory_attention_variant\": \"self-interlayer\", \"rope_layout\": \"interleaved\","
    " \"stm_init\": \"checkpoint\","
    " \"tokenizer_config\": {\"pad_token_id\": 0, \"bos_token_id\": 1, \"eos_token_id\": 2,"
    "  \"query_token_id\": 3, \"answer_token_id\": 4}}";

struct writer {
    struct tensor_file file;
    const struct random_model *how;
    uint64_t n; /* tensors so far: the counter of the generator */
};

enum { NAME = 512 };

static void print(char out[NAME], const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void print(char out[NAME], const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    assert_true(vsnprintf(out, NAME, fmt, ap) < NAME);
    va_end(ap);
}

/* Values N(center, spread^2). */
static void fill(struct writer *w, struct file_tensor *t, float center, float spread)
{
    t->bf16 = !w->how->f32;
    random_normal_fill(t->f, t->n, w->how->seed, RANDOM_BENCH, w->n++, 0);
    for (size_t i = 0; i < t->n; i++)
        t->f[i] = center + spread * t->f[i];
}

static void vector(struct writer *w, const char *prefix, const char *name, int n, float center,
                   float spread)
{
    char full[NAME];
    print(full, "%s.%s", prefix, name);
    fill(w, tensor_file_add(&w->file, full, 1, n), center, spread);
}

static void matrix(struct writer *w, const char *prefix, const char *name, int rows, int cols,
                   float spread)
{
    char full[NAME];
    print(full, "%s.%s", prefix, name);
    fill(w, tensor_file_add(&w->file, full, 2, rows, cols), 0, spread);
}

static void linear(struct writer *w, const char *prefix, const char *name, int out, int in)
{
    matrix(w, prefix, name, out, in, 1 / sqrtf((float)in));
}

static void stack(struct writer *w, const char *prefix, const char *name, int n, int in, int out)
{
    char full[NAME];
    print(full, "%s.%s", prefix, name);
    fill(w, tensor_file_add(&w->file, full, 3, n, in, out), 0, 1 / sqrtf((float)in));
}

static void norm(struct writer *w, const char *prefix, const char *name, int dim, bool bias)
{
    char sub[NAME];
    print(sub, "%s.%s", prefix, name);
    vector(w, sub, "weight", dim, 1, 0.2f);
    if (bias)
        vector(w, sub, "bias", dim, 0, 0.2f);
}

static void attention(struct writer *w, const char *prefix, const struct plain_attention *a,
                      int dim, int hd, bool out_bias)
{
    int n_out = a->n_q > a->n_kv ? a->n_q : a->n_kv;
    linear(w, prefix, "q_proj.weight", a->n_q * hd, dim);
    linear(w, prefix, "k_proj.weight", a->n_kv * hd, dim);
    linear(w, prefix, "v_proj.weight", a->n_kv * hd, dim);
    linear(w, prefix, "out_proj.weight", dim, n_out * hd);
    if (out_bias)
        vector(w, prefix, "out_proj.bias", dim, 0, 0.1f);
    if (a->gate)
        linear(w, prefix, "gate_proj.weight", n_out * hd, dim);
}

static void dense(struct writer *w, const json_t *cfg, const char *prefix, int dim, int hidden)
{
    bool gated = plain_bool(cfg, "use_gated", true);
    int width = gated ? 2 * hidden : hidden;
    linear(w, prefix, gated ? "fc1.linear.weight" : "fc1.weight", width, dim);
    vector(w, prefix, gated ? "fc1.linear.bias" : "fc1.bias", width, 0, 0.1f);
    linear(w, prefix, "fc2.weight", dim, hidden);
    vector(w, prefix, "fc2.bias", dim, 0, 0.1f);
}

static void experts(struct writer *w, const json_t *cfg, const char *prefix, const char *kind,
                    int n, int dim, int hidden, const char *mode)
{
    int width = plain_bool(cfg, "use_gated", true) ? 2 * hidden : hidden;
    char name[NAME];
    print(name, "%sw1", kind);
    stack(w, prefix, name, n, dim, width);
    print(name, "%sw2", kind);
    stack(w, prefix, name, n, hidden, dim);
    if (strcmp(mode, "local") != 0)
        return;
    print(name, "%sb1", kind);
    matrix(w, prefix, name, n, width, 0.1f);
    print(name, "%sb2", kind);
    matrix(w, prefix, name, n, dim, 0.1f);
}

static void moe(struct writer *w, const json_t *cfg, const char *prefix, int dim)
{
    int n = plain_int(cfg, "num_experts", 1), hidden = plain_int(cfg, "ff_dim", 1536);
    int n_shared = plain_int(cfg, "num_shared_experts", 1);
    int shared_dim = plain_int(cfg, "shared_expert_dim", hidden);
    const char *mode = plain_str(cfg, "moe_bias_mode", "global");
    const char *shared_mode = plain_str(cfg, "moe_shared_experts_bias_mode", "local");
    char sub[NAME];
    linear(w, prefix, "router.gate.weight", n, dim);
    for (int e = 0; w->how->legacy_moe && e < n; e++) {
        print(sub, "%s.experts.%d", prefix, e);
        dense(w, cfg, sub, dim, hidden);
    }
    for (int s = 0; w->how->legacy_moe && s < n_shared; s++) {
        print(sub, "%s.shared_experts.%d", prefix, s);
        dense(w, cfg, sub, dim, shared_dim);
    }
    if (n_shared > 1)
        linear(w, prefix, "shared_expert_gate.weight", n_shared, dim);
    if (w->how->legacy_moe)
        return;
    experts(w, cfg, prefix, "", n, dim, hidden, mode);
    if (!strcmp(mode, "global"))
        vector(w, prefix, "global_bias", dim, 0, 0.1f);
    if (n_shared == 1) {
        print(sub, "%s.shared_expert", prefix);
        dense(w, cfg, sub, dim, shared_dim);
    } else if (n_shared > 1) {
        experts(w, cfg, prefix, "shared_", n_shared, dim, shared_dim, shared_mode);
        if (!strcmp(shared_mode, "global"))
            vector(w, prefix, "shared_experts_bias", dim, 0, 0.1f);
    }
}

static void layer(struct writer *w, const json_t *cfg, const char *prefix, bool stateful,
                  bool is_moe, int hidden)
{
    int dim = plain_int(cfg, "embed_dim", 512), hd = dim / plain_int(cfg, "att_heads", 16);
    bool bias = !plain_bool(cfg, "use_rms_norm", true);
    bool out_bias = plain_bool(cfg, "use_attention_output_bias", true);
    bool gated = plain_bool(cfg, "use_gated_attention", false);
    struct plain_attention a = {.gate = gated ? "" : NULL};
    char sub[NAME];
    norm(w, prefix, "norm1", dim, bias);
    norm(w, prefix, "norm3", dim, bias);
    plain_heads(cfg, "self_att_type", "att_groups", "att_query_groups", &a);
    print(sub, "%s.attention", prefix);
    attention(w, sub, &a, dim, hd, out_bias);
    if (stateful) {
        norm(w, prefix, "norm2", dim, bias);
        norm(w, prefix, "stm_norm", dim, bias);
        a.gate = plain_bool(cfg, "use_gated_cross_attention", gated) ? "" : NULL;
        plain_cross_heads(cfg, &a);
        print(sub, "%s.memory_cross_attention", prefix);
        attention(w, sub, &a, dim, hd, out_bias);
    }
    print(sub, "%s.ff", prefix);
    if (is_moe)
        moe(w, cfg, sub, dim);
    else
        dense(w, cfg, sub, dim, hidden);
}

static void stack_of_layers(struct writer *w, const json_t *cfg, const char *prefix, bool decoder)
{
    int hidden = plain_int(cfg, "ff_dim", 1536);
    char sub[NAME];
    for (int i = 0; i < plain_int(cfg, "num_layers", 12); i++) {
        print(sub, "%s.layers.%d", prefix, i);
        layer(w, cfg, sub, decoder, plain_bool(cfg, "use_moe", false), hidden);
    }
    const char *lists[] = {"stateless_layers", "final_stateless_layers"};
    for (int k = 0; decoder && k < 2; k++) {
        print(sub, "%s_config", lists[k]);
        const json_t *list = json_object_get(cfg, sub);
        for (size_t i = 0; i < json_array_size(list); i++) {
            bool is_moe = !strcmp(json_string_value(json_array_get(list, i)), "moe");
            print(sub, "%s.%s.%zu", prefix, lists[k], i);
            layer(w, cfg, sub, false, is_moe, plain_int(cfg, "dense_layer_dim", 1536));
        }
    }
}

static void memory_norm(struct writer *w, const json_t *cfg, const char *prefix)
{
    const char *kind = plain_str(cfg, "norm_type", "classic-rms");
    int dim = plain_int(cfg, "embed_dim", 512), n_slot = plain_int(cfg, "stm_size", 1024);
    bool positional = !strcmp(kind, "positional");
    if (!strcmp(kind, "classic-rms")) {
        vector(w, prefix, "weight", dim, 1, 0.2f);
        return;
    }
    if (!strcmp(kind, "layer"))
        norm(w, prefix, "norm", dim, true);
    char full[NAME];
    print(full, "%s.ema_rms", prefix);
    if (positional)
        fill(w, tensor_file_add(&w->file, full, 2, n_slot, 1), 1, 0.1f);
    else if (!strcmp(kind, "adaptive"))
        vector(w, prefix, "ema_rms", 1, 1, 0.1f);
    if (positional && !plain_bool(cfg, "norm_per_dim_scale", false)) {
        print(full, "%s.scale", prefix);
        fill(w, tensor_file_add(&w->file, full, 2, n_slot, 1), 1, 0.2f);
    } else {
        vector(w, prefix, "scale", dim, 1, 0.2f);
    }
    if (positional)
        matrix(w, prefix, "gate", n_slot, 1, 1);
    else
        vector(w, prefix, "gate", 1, 0.5f, 0.5f);
}

/* on: the gate itself; a status may be in the file without one (spec 2.7). */
static void residual_gate(struct writer *w, const json_t *cfg, const char *prefix, bool on)
{
    int dim = plain_int(cfg, "embed_dim", 512), n_slot = plain_int(cfg, "stm_size", 1024);
    bool per_slot = plain_bool(cfg, "residual_per_slot_gate", true);
    if (on && !strcmp(plain_str(cfg, "residual_gate_type", "static"), "linear")) {
        linear(w, prefix, "gate.weight", per_slot ? n_slot : 1, n_slot);
        vector(w, prefix, "gate.bias", per_slot ? n_slot : 1, 0, 0.5f);
    } else if (on && per_slot) {
        matrix(w, prefix, "gate", n_slot, 1, 1);
    } else if (on) {
        vector(w, prefix, "gate", 1, 0.7f, 0.3f);
    }
    if (!strcmp(plain_str(cfg, "residual_gate_slot_status_type", "mean"), "linear")) {
        linear(w, prefix, "slot_status.weight", 1, dim);
        vector(w, prefix, "slot_status.bias", 1, 0, 0.5f);
    }
}

/* Attention, norm and gate of one kind in layer i. */
static void memory_block(struct writer *w, const json_t *cfg, int i, const char *attention_list,
                         const char *norm_list, const char *gate_list, bool gate_on,
                         const char *fields)
{
    const char *p = "memory_attention.model";
    int dim = plain_int(cfg, "embed_dim", 512), hd = dim / plain_int(cfg, "att_heads", 16);
    char sub[NAME], type[NAME], groups[NAME], query_groups[NAME];
    struct plain_attention a = {0};
    print(type, "%satt_type", fields);
    print(groups, "%satt_groups", fields);
    print(query_groups, "%satt_query_groups", fields);
    plain_heads(cfg, type, groups, query_groups, &a);
    print(sub, "%s.%s.%d", p, attention_list, i);
    attention(w, sub, &a, dim, hd, true);
    print(sub, "%s.%s.%d", p, norm_list, i);
    memory_norm(w, cfg, sub);
    print(sub, "%s.%s.%d", p, gate_list, i);
    residual_gate(w, cfg, sub, gate_on);
}

static void memory_attention(struct writer *w, const json_t *cfg, const char *variant)
{
    const char *p = "memory_attention.model";
    int dim = plain_int(cfg, "embed_dim", 512), n_slot = plain_int(cfg, "stm_size", 1024);
    int n_layer = plain_int(cfg, "num_layers", 12);
    bool self = !strcmp(variant, "self");
    bool interlayer = !self && strcmp(variant, "simple") != 0;
    bool gated = plain_bool(cfg, "use_gated_residual", false);
    char sub[NAME];
    print(sub, "%s.stm.memory", p);
    fill(w, tensor_file_add(&w->file, sub, 4, n_layer, 1, n_slot, dim), 0, 1);
    for (int i = 0; i < n_layer; i++) {
        memory_block(w, cfg, i, "attention_layers", "memory_norm_layers", "residual_gate_layers",
                     gated, "");
        print(sub, "%s.memory_input_norm_layers.%d", p, i);
        vector(w, sub, "weight", dim, 1, 0.2f);
        if (self)
            memory_block(w, cfg, i, "self_attention_layers", "self_memory_norm_layers",
                         "self_residual_gate_layers",
                         plain_bool(cfg, "use_gate_for_self_attention", false), "self_");
        if (interlayer)
            memory_block(w, cfg, i, "mean_attention_layers", "mean_memory_norm_layers",
                         "mean_residual_gate_layers", gated, "interlayer_");
        if (interlayer && strcmp(variant, "interlayer") != 0) {
            print(sub, "%s.interlayer_gate_layers.%d", p, i);
            residual_gate(w, cfg, sub, gated);
        }
    }
    if (interlayer) {
        print(sub, "%s.mean_stm_norm", p);
        memory_norm(w, cfg, sub);
    }
}

/* One alias of a component's table of angles, as a file in bfloat16 holds it. */
static void rope_table(struct writer *w, const json_t *cfg, const char *alias)
{
    int half = plain_int(cfg, "embed_dim", 512) / plain_int(cfg, "att_heads", 16) / 2;
    int n = plain_int(cfg, "seq_len", 1024);
    struct file_tensor *t = tensor_file_add(&w->file, alias, 2, n, half);
    t->bf16 = true;
    for (int pos = 0; pos < n; pos++)
        for (int i = 0; i < half; i++)
            t->f[pos * half + i] =
                (float)(pos * pow(plain_int(cfg, "rope_base", 10000), -1.0 * i / half));
}

void random_model_write(const char *dir, const struct random_model *r)
{
    json_error_t err;
    json_t *cfg = json_loads(base_config, 0, &err);
    assert_non_null(cfg);
    if (r->patch) {
        json_t *patch = json_loads(r->patch, 0, &err);
        if (!patch)
            fail_msg("%s: %s", r->patch, err.text);
        assert_int_equal(json_object_update_recursive(cfg, patch), 0);
        json_decref(patch);
    }
    const json_t *decoder = json_object_get(cfg, "decoder_config");
    const json_t *encoder = json_object_get(cfg, "encoder_config");
    const json_t *memory = json_object_get(cfg, "memory_attention_config");
    int dim = plain_int(decoder, "embed_dim", 512), n_vocab = plain_int(decoder, "vocab_size", 0);
    struct writer w = {.how = r};
    matrix(&w, "encoder.model", "embedding.weight", n_vocab, dim, 1);
    linear(&w, "decoder.model", "head.weight", n_vocab, dim);
    vector(&w, "decoder.model", "head.bias", n_vocab, 0, 0.1f);
    if (plain_bool(decoder, "use_head_norm", false))
        norm(&w, "decoder.model", "head_norm", dim,
             !strcmp(plain_str(decoder, "head_norm_type", "layer_norm"), "layer_norm"));
    stack_of_layers(&w, decoder, "decoder.model", true);
    stack_of_layers(&w, encoder, "encoder.model", false);
    memory_attention(&w, memory, plain_str(cfg, "memory_attention_variant", "interlayer"));
    if (r->rope_tables) {
        rope_table(&w, decoder, "decoder.model.layers.0.attention.rope.cache");
        rope_table(&w, encoder, "encoder.model.layers.0.attention.rope.cache");
        rope_table(&w, memory, "memory_attention.model.attention_layers.0.rope.cache");
    }
    char path[NAME];
    print(path, "%s/model.safetensors", dir);
    tensor_file_write(&w.file, path);
    print(path, "%s/config.json", dir);
    assert_int_equal(json_dump_file(cfg, path, JSON_INDENT(1)), 0);
    tensor_file_free(&w.file);
    json_decref(cfg);
}
