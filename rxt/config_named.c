/* The shapes of spec 8 that benchmarks and counts use, written as the files they describe, so that
 * they go through the same parser. The token ids are those of the trainers' order where known; a
 * model of random weights has no tokenizer. */
#include "rxt/config_impl.h"

#include <string.h>

static const char beta_3b[] =
    "{\"decoder_config\":{"
    "\"num_layers\":21,\"vocab_size\":65536,\"embed_dim\":512,\"att_heads\":16,\"seq_len\":8192,"
    "\"stm_size\":4096,\"att_groups\":4,\"att_query_groups\":8,\"self_att_type\":\"sqa\","
    "\"cross_att_type\":\"sqa\",\"use_gated_attention\":true,\"use_gated_cross_attention\":false,"
    "\"use_attention_output_bias\":false,\"use_moe\":true,\"num_experts\":384,\"moe_top_k\":10,"
    "\"ff_dim\":192,\"num_shared_experts\":2,\"shared_expert_dim\":384,"
    "\"moe_bias_mode\":\"global\",\"moe_shared_experts_bias_mode\":\"global\","
    "\"router_amp\":true,\"router_dtype\":\"bfloat16\",\"dense_layer_dim\":1536,"
    "\"stateless_layers_config\":[\"dense\",\"moe\"],"
    "\"final_stateless_layers_config\":[\"moe\",\"moe\"],"
    "\"use_head_norm\":true,\"head_norm_type\":\"rms_norm\",\"rope_base\":100000},"
    "\"encoder_config\":{"
    "\"num_layers\":21,\"vocab_size\":65536,\"embed_dim\":512,\"att_heads\":16,\"seq_len\":8192,"
    "\"att_groups\":8,\"att_query_groups\":8,\"self_att_type\":\"sqa\",\"ff_dim\":1536,"
    "\"use_gated_attention\":true,\"use_attention_output_bias\":false,"
    "\"skip_memory_cross_attention\":true,\"rope_base\":100000},"
    "\"memory_attention_config\":{"
    "\"num_layers\":21,\"embed_dim\":512,\"att_heads\":16,\"seq_len\":8192,\"stm_size\":4096,"
    "\"att_type\":\"sqa\",\"att_groups\":8,\"att_query_groups\":8,"
    "\"interlayer_att_type\":\"sqa\",\"interlayer_att_groups\":8,"
    "\"interlayer_att_query_groups\":8,\"norm_type\":\"classic-rms\","
    "\"use_gated_residual\":true,\"residual_gate_type\":\"elementwise\","
    "\"residual_per_slot_gate\":true,\"use_tanh_residual_gate\":false,\"num_groups\":3,"
    "\"rope_base\":100000},"
    "\"memory_attention_variant\":\"grouped-self-interlayer\","
    "\"tokenizer_config\":{\"pad_token_id\":0,\"bos_token_id\":2,\"eos_token_id\":3,"
    "\"query_token_id\":5,\"answer_token_id\":6,\"think_token_id\":7,\"tool_call_token_id\":8,"
    "\"tool_use_token_id\":9,\"internal_token_id\":10},"
    "\"rope_layout\":\"interleaved\"}";

static const char alpha_12m[] =
    "{\"decoder_config\":{"
    "\"num_layers\":6,\"vocab_size\":7500,\"embed_dim\":128,\"att_heads\":8,\"seq_len\":256,"
    "\"stm_size\":256,\"att_groups\":4,\"att_query_groups\":4,\"self_att_type\":\"sqa\","
    "\"cross_att_type\":\"sqa\",\"use_moe\":true,\"num_experts\":12,\"moe_top_k\":2,"
    "\"ff_dim\":256,\"num_shared_experts\":0,\"moe_bias_mode\":\"local\"},"
    "\"encoder_config\":{"
    "\"num_layers\":6,\"vocab_size\":7500,\"embed_dim\":128,\"att_heads\":8,\"seq_len\":256,"
    "\"att_groups\":4,\"att_query_groups\":4,\"self_att_type\":\"sqa\",\"ff_dim\":384,"
    "\"skip_memory_cross_attention\":true},"
    "\"memory_attention_config\":{"
    "\"num_layers\":6,\"embed_dim\":128,\"att_heads\":8,\"seq_len\":256,\"stm_size\":256,"
    "\"att_type\":\"sqa\",\"att_groups\":4,\"att_query_groups\":4,"
    "\"interlayer_att_type\":\"sqa\",\"interlayer_att_groups\":4,"
    "\"interlayer_att_query_groups\":4,\"norm_type\":\"classic-rms\","
    "\"use_gated_residual\":true,\"residual_gate_type\":\"linear\","
    "\"residual_per_slot_gate\":true,\"use_tanh_residual_gate\":false},"
    "\"memory_attention_variant\":\"interlayer\","
    "\"tokenizer_config\":{\"pad_token_id\":0,\"bos_token_id\":2,\"eos_token_id\":3,"
    "\"query_token_id\":5,\"answer_token_id\":6},"
    "\"rope_layout\":\"split\"}";

static const char preview[] =
    "{\"decoder_config\":{"
    "\"num_layers\":6,\"vocab_size\":2048,\"embed_dim\":256,\"att_heads\":8,\"seq_len\":256,"
    "\"stm_size\":64,\"att_groups\":2,\"att_query_groups\":4,\"self_att_type\":\"sqa\","
    "\"cross_att_type\":\"sqa\",\"use_gated_attention\":true,\"use_gated_cross_attention\":false,"
    "\"use_attention_output_bias\":false,\"ff_dim\":768,\"dense_layer_dim\":768,"
    "\"stateless_layers_config\":[\"dense\"],"
    "\"use_head_norm\":true,\"head_norm_type\":\"rms_norm\"},"
    "\"encoder_config\":{"
    "\"num_layers\":6,\"vocab_size\":2048,\"embed_dim\":256,\"att_heads\":8,\"seq_len\":256,"
    "\"att_groups\":4,\"att_query_groups\":4,\"self_att_type\":\"sqa\",\"ff_dim\":768,"
    "\"use_gated_attention\":true,\"use_attention_output_bias\":false,"
    "\"skip_memory_cross_attention\":true},"
    "\"memory_attention_config\":{"
    "\"num_layers\":6,\"embed_dim\":256,\"att_heads\":8,\"seq_len\":256,\"stm_size\":64,"
    "\"att_type\":\"sqa\",\"att_groups\":4,\"att_query_groups\":4,"
    "\"interlayer_att_type\":\"sqa\",\"interlayer_att_groups\":4,"
    "\"interlayer_att_query_groups\":4,\"norm_type\":\"classic-rms\","
    "\"use_gated_residual\":true,\"residual_gate_type\":\"linear\","
    "\"residual_gate_slot_status_type\":\"linear\",\"residual_per_slot_gate\":true,"
    "\"use_tanh_residual_gate\":false},"
    "\"memory_attention_variant\":\"self-interlayer\","
    "\"tokenizer_config\":{\"pad_token_id\":0,\"bos_token_id\":1,\"eos_token_id\":2,"
    "\"query_token_id\":3,\"answer_token_id\":4},"
    "\"rope_layout\":\"interleaved\"}";

/* A memory as large as that of beta-3b, 88 MB, and little else. */
static const char wide_memory[] =
    "{\"decoder_config\":{"
    "\"num_layers\":6,\"vocab_size\":2048,\"embed_dim\":256,\"att_heads\":8,\"seq_len\":256,"
    "\"stm_size\":14336,\"att_groups\":2,\"att_query_groups\":4,\"self_att_type\":\"sqa\","
    "\"cross_att_type\":\"sqa\",\"ff_dim\":768,\"dense_layer_dim\":768},"
    "\"encoder_config\":{"
    "\"num_layers\":6,\"vocab_size\":2048,\"embed_dim\":256,\"att_heads\":8,\"seq_len\":256,"
    "\"att_groups\":4,\"att_query_groups\":4,\"self_att_type\":\"sqa\",\"ff_dim\":768,"
    "\"skip_memory_cross_attention\":true},"
    "\"memory_attention_config\":{"
    "\"num_layers\":6,\"embed_dim\":256,\"att_heads\":8,\"seq_len\":256,\"stm_size\":14336,"
    "\"att_type\":\"sqa\",\"att_groups\":4,\"att_query_groups\":4,"
    "\"norm_type\":\"classic-rms\",\"use_gated_residual\":true,"
    "\"residual_gate_type\":\"linear\",\"residual_per_slot_gate\":true,"
    "\"use_tanh_residual_gate\":false},"
    "\"memory_attention_variant\":\"simple\","
    "\"tokenizer_config\":{\"pad_token_id\":0,\"bos_token_id\":1,\"eos_token_id\":2,"
    "\"query_token_id\":3,\"answer_token_id\":4},"
    "\"rope_layout\":\"interleaved\"}";

enum rxt_status config_named(struct rxt_config *out, const char *name, struct rxt_error *err)
{
    static const struct {
        const char *name, *text;
    } shape[] = {{"beta-3b", beta_3b},
                 {"alpha-12m", alpha_12m},
                 {"preview", preview},
                 {"wide-memory", wide_memory}};
    for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++) {
        if (strcmp(name, shape[i].name) == 0)
            return config_parse(out, shape[i].text, strlen(shape[i].text), err);
    }
    return rxt_fail(err, RXT_ENOTFOUND,
                    "shape '%.32s' is not known; there are beta-3b, alpha-12m, "
                    "preview and wide-memory",
                    name);
}
