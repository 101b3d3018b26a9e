/* What no golden folder exercises, against the plain reference of the whole model, on small models
 * with random weights: two turns each, the second on the memory that the first has left. */
#include "tests/ref/model.h"
#include "tests/ref/model_random.h"
#include "tests/rxt/engine.h"

#include <math.h>

#define DECODER(fields) "{\"decoder_config\":{" fields "}}"
#define ENCODER(fields) "{\"encoder_config\":{" fields "}}"
#define MEMORY(fields) "{\"memory_attention_config\":{" fields "}}"
#define VARIANT(variant, fields) \
    "{\"memory_attention_variant\":\"" variant "\",\"memory_attention_config\":{" fields "}}"
#define GATE(type, status, more) \
    "\"residual_gate_type\":\"" type "\",\"residual_gate_slot_status_type\":\"" status "\"" more
#define ONE_GATE ",\"residual_per_slot_gate\":false"
#define TANH ",\"use_tanh_residual_gate\":true"
#define SEQ_LEN_300                                                               \
    "{\"decoder_config\":{\"seq_len\":300},\"encoder_config\":{\"seq_len\":300}," \
    "\"memory_attention_config\":{\"seq_len\":300}}"

struct row {
    const char *name;
    struct random_model model;
    int32_t n; /* tokens of the second turn; 0 = 40 */
};

static const struct row rows[] = {
    {.name = "as it is", .model = {.patch = NULL}},
    {.name = "f32 tensors", .model = {.f32 = true}},
    {.name = "router in bf16",
     .model = {.patch = DECODER("\"router_amp\":true,\"router_dtype\":\"bfloat16\"")}},
    {.name = "reverse SQA",
     .model = {.patch = "{\"decoder_config\":{\"att_query_groups\":2,\"att_groups\":4},"
                        "\"encoder_config\":{\"att_query_groups\":1,\"att_groups\":2},"
                        "\"memory_attention_config\":{\"att_query_groups\":2,\"att_groups\":4,"
                        "\"interlayer_att_query_groups\":1,\"interlayer_att_groups\":4}}"}},
    {.name = "own groups of the cross-attention",
     .model = {.patch = DECODER("\"cross_att_groups\":2,\"cross_att_query_groups\":4")}},
    {.name = "mqa and gqa",
     .model = {.patch = DECODER(
                   "\"self_att_type\":\"gqa\",\"att_groups\":2,\"cross_att_type\":\"mqa\"")}},
    {.name = "gated cross-attention",
     .model = {.patch = DECODER("\"use_gated_cross_attention\":true")}},
    {.name = "cross-attention inherits the gate",
     .model = {.patch = DECODER("\"use_gated_cross_attention\":null")}},
    {.name = "gated by silu",
     .model = {.patch = DECODER("\"gated_attention_activation\":\"silu\","
                                "\"use_gated_cross_attention\":true")}},
    {.name = "gated by relu, encoder by gelu",
     .model = {.patch = "{\"decoder_config\":{\"gated_attention_activation\":\"relu\"},"
                        "\"encoder_config\":{\"gated_attention_activation\":\"gelu\"}}"}},
    {.name = "gated by linear",
     .model = {.patch = DECODER("\"gated_attention_activation\":\"linear\"")}},
    {.name = "output biases",
     .model = {.patch = "{\"decoder_config\":{\"use_attention_output_bias\":true},"
                        "\"encoder_config\":{\"use_attention_output_bias\":true}}"}},
    {.name = "LayerNorm everywhere",
     .model = {.patch =
                   "{\"decoder_config\":{\"use_rms_norm\":false,\"head_norm_type\":\"layer_norm\"},"
                   "\"encoder_config\":{\"use_rms_norm\":false}}"}},
    {.name = "no head norm", .model = {.patch = DECODER("\"use_head_norm\":false")}},
    {.name = "local biases of stacked experts",
     .model = {.patch = DECODER(
                   "\"moe_bias_mode\":\"local\",\"moe_shared_experts_bias_mode\":\"local\"")}},
    {.name = "no biases of stacked experts",
     .model = {.patch =
                   DECODER("\"moe_bias_mode\":\"off\",\"moe_shared_experts_bias_mode\":\"off\"")}},
    {.name = "one shared expert", .model = {.patch = DECODER("\"num_shared_experts\":1")}},
    {.name = "no shared expert", .model = {.patch = DECODER("\"num_shared_experts\":0")}},
    {.name = "weighted shared experts",
     .model = {.patch = DECODER("\"moe_use_weighted_shared_experts\":true")}},
    {.name = "one weighted shared expert",
     .model = {.patch =
                   DECODER("\"moe_use_weighted_shared_experts\":true,\"num_shared_experts\":1")}},
    {.name = "ungated experts",
     .model = {.patch = DECODER("\"use_gated\":false,\"ff_activation\":\"gelu\"")}},
    {.name = "ungated experts with local biases",
     .model = {.patch = DECODER("\"use_gated\":false,\"moe_bias_mode\":\"local\","
                                "\"moe_shared_experts_bias_mode\":\"local\"")}},
    {.name = "all experts of a token", .model = {.patch = DECODER("\"moe_top_k\":6")}},
    {.name = "one expert", .model = {.patch = DECODER("\"num_experts\":1,\"moe_top_k\":1")}},
    {.name = "legacy experts, two shared", .model = {.legacy_moe = true}},
    {.name = "legacy experts, ungated, one shared",
     .model = {.legacy_moe = true,
               .patch = DECODER("\"use_gated\":false,\"num_shared_experts\":1")}},
    {.name = "experts in the encoder",
     .model = {.patch = ENCODER("\"use_moe\":true,\"num_experts\":4,\"moe_top_k\":2,"
                                "\"num_shared_experts\":0")}},
    {.name = "dense everywhere",
     .model = {.patch = DECODER("\"use_moe\":false,\"stateless_layers_config\":null,"
                                "\"final_stateless_layers_config\":null")}},
    {.name = "activation relu", .model = {.patch = DECODER("\"ff_activation\":\"relu\"")}},
    {.name = "activation sigmoid", .model = {.patch = DECODER("\"ff_activation\":\"sigmoid\"")}},
    {.name = "activation linear", .model = {.patch = ENCODER("\"ff_activation\":\"linear\"")}},
    {.name = "no rotation",
     .model =
         {.patch =
              "{\"decoder_config\":{\"use_nope\":true},\"encoder_config\":{\"use_nope\":true}}"}},
    {.name = "split rotation", .model = {.patch = "{\"rope_layout\":\"split\"}"}},
    {.name = "split rotation, reverse SQA",
     .model = {.patch = "{\"rope_layout\":\"split\",\"decoder_config\":{\"att_query_groups\":2,"
                        "\"att_groups\":4},\"memory_attention_config\":{\"att_query_groups\":4,"
                        "\"att_groups\":2}}"}},
    {.name = "another base for each component",
     .model =
         {.patch =
              "{\"decoder_config\":{\"rope_base\":100000},\"encoder_config\":{\"rope_base\":500},"
              "\"memory_attention_config\":{\"rope_base\":50}}"}},
    {.name = "rounded angles above 256",
     .model = {.rope_tables = true, .patch = SEQ_LEN_300},
     .n = 290},
    {.name = "exact angles above 256", .model = {.patch = SEQ_LEN_300}, .n = 290},
    {.name = "simple memory", .model = {.patch = VARIANT("simple", "")}},
    {.name = "self memory", .model = {.patch = VARIANT("self", "")}},
    {.name = "self memory, gated",
     .model = {.patch = VARIANT("self", "\"use_gate_for_self_attention\":true")}},
    {.name = "interlayer memory", .model = {.patch = VARIANT("interlayer", "")}},
    {.name = "grouped memory",
     .model = {.patch =
                   "{\"memory_attention_variant\":\"grouped-self-interlayer\","
                   "\"decoder_config\":{\"num_layers\":6},\"encoder_config\":{\"num_layers\":6},"
                   "\"memory_attention_config\":{\"num_layers\":6,\"num_groups\":3}}"}},
    {.name = "norm layer", .model = {.patch = MEMORY("\"norm_type\":\"layer\"")}},
    {.name = "norm rms", .model = {.patch = MEMORY("\"norm_type\":\"rms\"")}},
    {.name = "norm adaptive", .model = {.patch = MEMORY("\"norm_type\":\"adaptive\"")}},
    {.name = "norm positional", .model = {.patch = MEMORY("\"norm_type\":\"positional\"")}},
    {.name = "norm positional, scale per dim",
     .model = {.patch = MEMORY("\"norm_type\":\"positional\",\"norm_per_dim_scale\":true")}},
    {.name = "no gate", .model = {.patch = MEMORY("\"use_gated_residual\":false")}},
    {.name = "gate static", .model = {.patch = MEMORY(GATE("static", "mean", ""))}},
    {.name = "gate static, one", .model = {.patch = MEMORY(GATE("static", "mean", ONE_GATE TANH))}},
    {.name = "gate elementwise, one",
     .model = {.patch = MEMORY(GATE("elementwise", "mean", ONE_GATE))}},
    {.name = "gate elementwise, one, linear status",
     .model = {.patch = MEMORY(GATE("elementwise", "linear", ONE_GATE TANH))}},
    {.name = "gate elementwise, linear status",
     .model = {.patch = MEMORY(GATE("elementwise", "linear", TANH))}},
    {.name = "gate linear", .model = {.patch = MEMORY(GATE("linear", "mean", TANH))}},
    {.name = "gate linear, linear status",
     .model = {.patch = MEMORY(GATE("linear", "linear", ""))}},
    {.name = "gate linear, one", .model = {.patch = MEMORY(GATE("linear", "mean", ONE_GATE))}},
    {.name = "gate linear, one, linear status",
     .model = {.patch = MEMORY(GATE("linear", "linear", ONE_GATE TANH))}},
};

/* Within 2e-5 for values up to 10, as in the golden folders, in proportion above: the tanh gate
 * lets memories grow. */
static void check_near(const char *name, const char *what, int turn, const float *got,
                       const float *want, size_t n)
{
    float largest = 10, error = engine_worst(got, want, n);
    for (size_t i = 0; i < n; i++)
        largest = fmaxf(largest, fabsf(want[i]));
    if (!(error <= 2e-6f * largest))
        fail_msg("%s: %s of turn %d is off by %g (values up to %g)", name, what, turn,
                 (double)error, (double)largest);
}

static void check_row(const struct row *r)
{
    char *dir = test_dir_make();
    struct engine e;
    random_model_write(dir, &r->model);
    struct ref_model *ref = ref_model_open(dir, false);
    engine_open(&e, dir, NULL);
    size_t most = (size_t)(r->n ? r->n : 40), n_vocab = (size_t)e.info->n_vocab;
    size_t dim = (size_t)e.info->embed_dim, n_layer = (size_t)e.info->n_layer;
    float *stm = engine_alloc(e.n_value, sizeof *stm),
          *next = engine_alloc(e.n_value, sizeof *next);
    float *got = engine_alloc(most * n_vocab + most * n_layer * dim + e.n_value, sizeof *got);
    float *want = engine_alloc(most * n_vocab + most * n_layer * dim, sizeof *want);
    int32_t *ids = engine_alloc(most, sizeof *ids);
    engine_values(&e, stm);
    for (int turn = 1; turn <= 2; turn++) {
        int32_t n = turn == 1 ? 9 : (int32_t)most;
        engine_ids(ids, n, e.info->n_vocab, (uint64_t)turn);
        ref_decode(ref, ids, n, stm, want);
        engine_logits(&e, ids, n, 0, got);
        check_near(r->name, "logits", turn, got, want, (size_t)n * n_vocab);
        ref_encode(ref, ids, n, want);
        engine_encode(&e, ids, n, got);
        check_near(r->name, "encoded", turn, got, want, n_layer * (size_t)n * dim);
        ref_remember(ref, want, n, stm, next);
        engine_update(&e, ids, n);
        engine_values(&e, got);
        check_near(r->name, "memory", turn, got, next, e.n_value);
        memcpy(stm, next, e.n_value * sizeof *stm);
        engine_inject(&e, stm); /* errors of one turn at a time */
    }
    free(stm);
    free(next);
    free(got);
    free(want);
    free(ids);
    engine_close(&e);
    ref_model_close(ref);
    test_dir_remove(dir);
}

static void equals_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_row(&rows[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
