#include "rxt/config_impl.h"

#include "rxt/config_fields_impl.h"

#include <jansson.h>
#include <string.h>

/* Bounds that keep every product of two or three dimensions inside 63 bits, far above any model. */
#define MAX_LAYER 1024
#define MAX_VOCAB (1 << 24)
#define MAX_DIM (1 << 16)
#define MAX_FF (1 << 20)
#define MAX_SLOT (1 << 20)
#define MAX_EXPERT (1 << 16)
#define MAX_STM ((int64_t)1 << 32) /* values of one memory */

enum att_type { ATT_MHA, ATT_GQA, ATT_MQA, ATT_SQA };

static const struct field_word att_types[] = {
    {"mha", ATT_MHA}, {"gqa", ATT_GQA}, {"mqa", ATT_MQA}, {"sqa", ATT_SQA}, {NULL, 0}};
static const struct field_word acts[] = {
    {"relu", ACT_RELU},       {"gelu", ACT_GELU},     {"silu", ACT_SILU}, {"swish", ACT_SILU},
    {"sigmoid", ACT_SIGMOID}, {"linear", ACT_LINEAR}, {NULL, 0}};
static const struct field_word biases[] = {{"local", CONFIG_BIAS_LOCAL},
                                           {"global", CONFIG_BIAS_GLOBAL},
                                           {"off", CONFIG_BIAS_OFF},
                                           {NULL, 0}};
static const struct field_word layer_kinds[] = {
    {"dense", CONFIG_LAYER_DENSE}, {"moe", CONFIG_LAYER_MOE}, {NULL, 0}};
static const struct field_word head_norms[] = {
    {"layer_norm", CONFIG_HEAD_LAYER}, {"rms_norm", CONFIG_HEAD_RMS}, {NULL, 0}};
static const struct field_word router_dtypes[] = {
    {"float32", 0}, {"torch.float32", 0}, {"bfloat16", 1}, {"torch.bfloat16", 1}, {NULL, 0}};
static const struct field_word variants[] = {
    {"simple", STM_SIMPLE},
    {"self", STM_SELF},
    {"interlayer", STM_INTERLAYER},
    {"self-interlayer", STM_SELF_INTERLAYER},
    {"grouped-self-interlayer", STM_GROUPED_SELF_INTERLAYER},
    {NULL, 0}};
static const struct field_word norms[] = {{"classic-rms", CONFIG_NORM_CLASSIC_RMS},
                                          {"layer", CONFIG_NORM_LAYER},
                                          {"rms", CONFIG_NORM_RMS},
                                          {"adaptive", CONFIG_NORM_ADAPTIVE},
                                          {"positional", CONFIG_NORM_POSITIONAL},
                                          {NULL, 0}};
static const struct field_word gate_kinds[] = {
    {"static", GATE_STATIC}, {"elementwise", GATE_ELEMENTWISE}, {"linear", GATE_LINEAR}, {NULL, 0}};
static const struct field_word slot_statuses[] = {{"mean", 0}, {"linear", 1}, {NULL, 0}};
static const struct field_word ropes[] = {
    {"interleaved", CONFIG_ROPE_INTERLEAVED}, {"split", CONFIG_ROPE_SPLIT}, {NULL, 0}};
static const struct field_word stm_inits[] = {
    {"noise", STM_NOISE}, {"checkpoint", STM_CHECKPOINT}, {"zeros", STM_ZEROS}, {NULL, 0}};

/* ---- attention -------------------------------------------------------------------------- */

/* Hq and Hk of spec 2.4 from the three fields of one attention, which reads the group fields its
 * type names and no other. A name may be NULL; `inherit` fills in for absent groups. */
struct att_fields {
    const char *type, *groups, *query_groups;
};

static void read_heads(struct fields *f, const struct att_fields *name,
                       const struct att_fields *inherit, int32_t embed_dim, struct heads *out)
{
    int32_t n_head = field_int(f, "att_heads", 16, 1, MAX_DIM);
    int type = field_word(f, name->type, ATT_SQA, att_types);
    const char *kv_name = field_has(f, name->groups) ? name->groups : inherit->groups;
    const char *q_name =
        field_has(f, name->query_groups) ? name->query_groups : inherit->query_groups;
    out->n_q = out->n_kv = n_head;
    if (type == ATT_GQA || type == ATT_SQA)
        out->n_kv = field_int(f, kv_name, 1, 1, n_head);
    if (type == ATT_MQA)
        out->n_kv = 1;
    if (type == ATT_SQA) {
        field_require(f, q_name);
        out->n_q = field_int(f, q_name, 1, 1, n_head);
    }
    if (embed_dim % n_head != 0)
        field_fail(f, RXT_EINVAL, "att_heads (%d) must divide embed_dim (%d)", n_head, embed_dim);
    else if (out->n_q % out->n_kv != 0 && out->n_kv % out->n_q != 0)
        field_fail(f, RXT_EINVAL,
                   "%s: %d query heads and %d key-value heads: one must divide the other",
                   name->type, out->n_q, out->n_kv);
    out->dim = embed_dim / n_head;
    if (out->dim > BACKEND_HEAD_MAX)
        field_fail(f, RXT_ELIMIT,
                   "the head size embed_dim / att_heads is %d, at most %d are computed", out->dim,
                   BACKEND_HEAD_MAX);
}

static void check_rope(struct fields *f, int32_t head_dim)
{
    if (head_dim % 2 != 0)
        field_fail(f, RXT_EINVAL, "the head size embed_dim / att_heads (%d) must be even for RoPE",
                   head_dim);
}

static const struct att_fields self_att = {"self_att_type", "att_groups", "att_query_groups"};
static const struct att_fields cross_att = {"cross_att_type", "cross_att_groups",
                                            "cross_att_query_groups"};

/* ---- decoder, encoder ------------------------------------------------------------------- */

int32_t config_n_layer(const struct config_stack *s)
{
    return s->n_before + s->n_layer + s->n_after;
}

bool config_layer_stateful(const struct config_stack *s, int32_t i)
{
    return i >= s->n_before && i < s->n_before + s->n_layer;
}

enum config_layer config_layer_kind(const struct config_stack *s, int32_t i)
{
    if (i < s->n_before)
        return s->before[i];
    if (i < s->n_before + s->n_layer)
        return s->use_moe ? CONFIG_LAYER_MOE : CONFIG_LAYER_DENSE;
    return s->after[i - s->n_before - s->n_layer];
}

static void read_moe(struct fields *f, struct config_stack *s)
{
    struct config_moe *m = &s->moe;
    m->n_expert = field_int(f, "num_experts", 1, 1, MAX_EXPERT);
    m->top_k = field_int(f, "moe_top_k", 1, 1, m->n_expert);
    m->n_shared = field_int(f, "num_shared_experts", -1, 0, MAX_EXPERT);
    m->shared_dim = field_int(f, "shared_expert_dim", s->ff_dim, 1, MAX_FF);
    m->bias = (enum config_bias)field_word(f, "moe_bias_mode", CONFIG_BIAS_GLOBAL, biases);
    m->shared_bias =
        (enum config_bias)field_word(f, "moe_shared_experts_bias_mode", CONFIG_BIAS_LOCAL, biases);
    m->weighted_shared = field_bool(f, "moe_use_weighted_shared_experts", false);
    bool is_bf16 = field_word(f, "router_dtype", 0, router_dtypes) == 1;
    m->router_bf16 = field_bool(f, "router_amp", false) && is_bf16;

    int64_t n_moe = 0;
    for (int32_t i = 0; i < config_n_layer(s); i++)
        n_moe += config_layer_kind(s, i) == CONFIG_LAYER_MOE;
    if (n_moe * (m->n_expert + (m->n_shared > 0 ? m->n_shared : 1)) > CONFIG_MAX_EXPERTS)
        field_fail(f, RXT_ELIMIT, "num_experts and layers make more than %d experts",
                   CONFIG_MAX_EXPERTS);
}

static int32_t read_layer_list(struct fields *f, const char *name, enum config_layer *out)
{
    int kind[CONFIG_MAX_STATELESS];
    int32_t n = field_words(f, name, layer_kinds, kind, CONFIG_MAX_STATELESS);
    for (int32_t i = 0; i < n; i++)
        out[i] = (enum config_layer)kind[i];
    return n;
}

static void read_decoder_only(struct fields *f, struct config_stack *s)
{
    s->n_slot = field_int(f, "stm_size", 1024, 1, MAX_SLOT);
    if (field_bool(f, "skip_memory_cross_attention", false))
        field_fail(f, RXT_EUNSUPPORTED,
                   "skip_memory_cross_attention is true: a decoder that reads no memory");
    bool gated = field_bool(f, "use_gated_cross_attention", s->self.gate != ACT_NONE);
    read_heads(f, &cross_att, &self_att, s->embed_dim, &s->cross);
    s->cross.gate = ACT_NONE;
    if (gated)
        s->cross.gate = (enum act)field_word(f, "gated_attention_activation", ACT_SIGMOID, acts);
    int norm = field_word(f, "head_norm_type", CONFIG_HEAD_LAYER, head_norms);
    if (field_has(f, "use_head_norm"))
        s->head_norm =
            field_bool(f, "use_head_norm", false) ? (enum config_head_norm)norm : CONFIG_HEAD_NONE;
}

static void read_stack(struct fields *f, struct config_stack *s, bool is_decoder)
{
    s->n_layer = field_int(f, "num_layers", 12, 1, MAX_LAYER);
    s->n_vocab = field_int(f, "vocab_size", 20000, 1, MAX_VOCAB);
    s->embed_dim = field_int(f, "embed_dim", 512, 1, MAX_DIM);
    s->seq_len = field_int(f, "seq_len", 1024, 1, CONFIG_MAX_SEQ);
    s->ff_dim = field_int(f, "ff_dim", 1536, 1, MAX_FF);
    s->dense_dim = field_int(f, "dense_layer_dim", 1536, 1, MAX_FF);
    s->ff_gated = field_bool(f, "use_gated", true);
    s->ff_act = (enum act)field_word(f, "ff_activation", ACT_SILU, acts);
    s->out_bias = field_bool(f, "use_attention_output_bias", true);
    s->rms_norm = field_bool(f, "use_rms_norm", true);
    s->nope = field_bool(f, "use_nope", false);
    s->rope_base = field_real(f, "rope_base", 10000, 1, 1e12);
    s->use_moe = field_bool(f, "use_moe", false);
    s->n_before = read_layer_list(f, "stateless_layers_config", s->before);
    s->n_after = read_layer_list(f, "final_stateless_layers_config", s->after);
    if (!is_decoder && s->n_before + s->n_after > 0)
        field_fail(f, RXT_EUNSUPPORTED, "stateless_layers_config is for decoders");
    read_moe(f, s);

    read_heads(f, &self_att, &self_att, s->embed_dim, &s->self);
    s->self.gate = ACT_NONE;
    if (field_bool(f, "use_gated_attention", false))
        s->self.gate = (enum act)field_word(f, "gated_attention_activation", ACT_SIGMOID, acts);
    if (!s->nope)
        check_rope(f, s->self.dim);
    if (is_decoder)
        read_decoder_only(f, s);
}

/* ---- memory attention ------------------------------------------------------------------- */

static void read_gate(struct fields *f, struct config_gate *g)
{
    g->kind = GATE_ADD;
    if (field_bool(f, "disable_residual", false)) {
        g->kind = GATE_REPLACE;
    } else if (field_bool(f, "use_gated_residual", false)) {
        g->kind = (enum gate_kind)field_word(f, "residual_gate_type", GATE_STATIC, gate_kinds);
        field_require(f, "residual_per_slot_gate");
    }
    g->per_slot = field_bool(f, "residual_per_slot_gate", false);
    g->tanh = field_bool(f, "use_tanh_residual_gate", true);
    g->linear_status = field_word(f, "residual_gate_slot_status_type", 0, slot_statuses) == 1;
}

/* The variant stands beside the object; num_groups inside it is legal for one variant only. */
static void read_variant(struct fields *f, struct fields *top, struct config_memory *m)
{
    bool grouped = field_has(f, "num_groups");
    m->has_variant = grouped || field_has(top, "memory_attention_variant");
    m->variant = (enum stm_variant)field_word(top, "memory_attention_variant",
                                              STM_GROUPED_SELF_INTERLAYER, variants);
    m->n_group = field_int(f, "num_groups", 1, 1, MAX_LAYER);
    if (!m->has_variant)
        return;
    if (grouped != (m->variant == STM_GROUPED_SELF_INTERLAYER))
        field_fail(f, RXT_EINVAL,
                   "num_groups belongs to memory_attention_variant grouped-self-interlayer");
    else if (m->n_layer % m->n_group != 0)
        field_fail(f, RXT_EINVAL, "num_groups (%d) must divide num_layers (%d)", m->n_group,
                   m->n_layer);
}

/* Heads of an attention that has the named type field; none without it. */
static void read_memory_heads(struct fields *f, const struct att_fields *name, int32_t embed_dim,
                              struct heads *out)
{
    if (!field_has(f, name->type))
        return;
    read_heads(f, name, name, embed_dim, out);
    out->gate = ACT_NONE;
}

static void read_memory(struct fields *f, struct fields *top, struct config_memory *m)
{
    static const char *const required[] = {"num_layers", "embed_dim", "att_heads",
                                           "seq_len",    "stm_size",  "att_type"};
    static const struct att_fields main_att = {"att_type", "att_groups", "att_query_groups"};
    static const struct att_fields mean_att = {"interlayer_att_type", "interlayer_att_groups",
                                               "interlayer_att_query_groups"};
    static const struct att_fields own_att = {"self_att_type", "self_att_groups",
                                              "self_att_query_groups"};
    for (size_t i = 0; i < sizeof required / sizeof required[0]; i++)
        field_require(f, required[i]);
    m->n_layer = field_int(f, "num_layers", 1, 1, MAX_LAYER);
    m->embed_dim = field_int(f, "embed_dim", 1, 1, MAX_DIM);
    m->seq_len = field_int(f, "seq_len", 1, 1, CONFIG_MAX_SEQ);
    m->n_slot = field_int(f, "stm_size", 1, 1, MAX_SLOT);
    m->rope_base = field_real(f, "rope_base", 10000, 1, 1e12);
    m->norm = (enum config_norm)field_word(f, "norm_type", CONFIG_NORM_CLASSIC_RMS, norms);
    m->norm_per_dim = field_bool(f, "norm_per_dim_scale", false);
    m->self_gate = field_bool(f, "use_gate_for_self_attention", false);
    read_variant(f, top, m);
    read_gate(f, &m->gate);
    read_memory_heads(f, &main_att, m->embed_dim, &m->main);
    check_rope(f, m->main.dim);
    if (m->has_variant)
        field_require(f, m->variant == STM_SELF             ? own_att.type
                         : stm_variant_has_mean(m->variant) ? mean_att.type
                                                            : main_att.type);
    if (!m->has_variant || stm_variant_has_mean(m->variant))
        read_memory_heads(f, &mean_att, m->embed_dim, &m->mean);
    if (!m->has_variant || m->variant == STM_SELF)
        read_memory_heads(f, &own_att, m->embed_dim, &m->self);
    if ((int64_t)m->n_layer * m->n_slot * m->embed_dim > MAX_STM)
        field_fail(f, RXT_ELIMIT, "num_layers * stm_size * embed_dim is over 2^32");
}

/* ---- the whole file --------------------------------------------------------------------- */

static void read_tokens(struct fields *f, int32_t n_vocab, struct config_tokens *t)
{
    const struct {
        const char *name;
        int32_t *id;
        bool required;
    } row[] = {{"bos_token_id", &t->bos, true},
               {"eos_token_id", &t->eos, true},
               {"query_token_id", &t->query, true},
               {"answer_token_id", &t->answer, true},
               {"pad_token_id", &t->pad, false},
               {"think_token_id", &t->think, false},
               {"tool_call_token_id", &t->tool_call, false},
               {"tool_use_token_id", &t->tool_use, false},
               {"internal_token_id", &t->internal, false}};
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        if (row[i].required)
            field_require(f, row[i].name);
        *row[i].id = field_int(f, row[i].name, -1, 0, n_vocab - 1);
    }
}

static enum rxt_status read_own_fields(struct fields *top, struct rxt_config *c)
{
    c->rope = (enum config_rope)field_word(top, "rope_layout", CONFIG_ROPE_UNSAID, ropes);
    c->stm_init = (enum stm_init)field_word(top, "stm_init", STM_NOISE, stm_inits);
    c->max_seq_len =
        field_int(top, "max_seq_len", c->has_decoder ? c->decoder.seq_len : 0, 1, CONFIG_MAX_SEQ);
    field_text(top, "system_prompt_title", c->system_title, sizeof c->system_title);
    return top->st;
}

/* One component alone: only memory attention has an att_type, an encoder may say that it does not
 * read memory, and stateless layers are a decoder's. */
static enum rxt_status read_single(struct fields *top, struct rxt_config *c)
{
    c->single = true;
    if (field_has(top, "att_type")) {
        c->has_memory = true;
        read_memory(top, top, &c->memory);
        return top->st;
    }
    c->has_decoder = !field_bool(top, "skip_memory_cross_attention", false);
    if (c->has_decoder)
        read_stack(top, &c->decoder, true);
    c->has_encoder = c->decoder.n_before + c->decoder.n_after == 0;
    if (c->has_encoder)
        read_stack(top, &c->encoder, false);
    return top->st;
}

static enum rxt_status read_component(struct fields *top, const char *name, struct fields *f)
{
    field_require(top, name);
    *f = (struct fields){.object = field_object(top, name), .where = name, .err = top->err};
    return top->st;
}

static enum rxt_status read_full(struct fields *top, struct rxt_config *c)
{
    struct fields f;
    c->has_decoder = c->has_encoder = c->has_memory = true;
    TRY(read_component(top, "decoder_config", &f));
    read_stack(&f, &c->decoder, true);
    TRY(f.st);
    TRY(read_component(top, "encoder_config", &f));
    read_stack(&f, &c->encoder, false);
    TRY(f.st);
    TRY(read_component(top, "memory_attention_config", &f));
    read_memory(&f, top, &c->memory);
    TRY(f.st);
    return top->st;
}

static enum rxt_status check_equal(const char *field, int32_t decoder, int32_t other,
                                   const char *name, struct rxt_error *err)
{
    if (decoder == other)
        return RXT_OK;
    return rxt_fail(err, RXT_EMISMATCH, "config.json: %s is %d in decoder_config, %d in %s", field,
                    decoder, other, name);
}

static enum rxt_status check_components(const struct rxt_config *c, struct rxt_error *err)
{
    const struct config_stack *d = &c->decoder, *e = &c->encoder;
    const struct config_memory *m = &c->memory;
    TRY(check_equal("num_layers", d->n_layer, e->n_layer, "encoder_config", err));
    TRY(check_equal("embed_dim", d->embed_dim, e->embed_dim, "encoder_config", err));
    TRY(check_equal("vocab_size", d->n_vocab, e->n_vocab, "encoder_config", err));
    TRY(check_equal("num_layers", d->n_layer, m->n_layer, "memory_attention_config", err));
    TRY(check_equal("embed_dim", d->embed_dim, m->embed_dim, "memory_attention_config", err));
    return check_equal("stm_size", d->n_slot, m->n_slot, "memory_attention_config", err);
}

static enum rxt_status read_root(struct rxt_config *c, const json_t *root, struct rxt_error *err)
{
    struct fields top = {.object = root, .where = "config.json", .err = err};
    if (!json_is_object(root))
        return rxt_fail(err, RXT_EFORMAT, "config.json: must be an object");
    if (field_has(&top, "decoder_config") || field_has(&top, "encoder_config") ||
        field_has(&top, "memory_attention_config")) {
        TRY(read_full(&top, c));
        TRY(check_components(c, err));
    } else {
        TRY(read_single(&top, c));
    }
    const json_t *tokens = field_object(&top, "tokenizer_config");
    if (tokens && !(c->single && c->has_memory)) {
        struct fields f = {.object = tokens, .where = "tokenizer_config", .err = err};
        read_tokens(&f, c->has_encoder ? c->encoder.n_vocab : c->decoder.n_vocab, &c->tokens);
        TRY(f.st);
    }
    return read_own_fields(&top, c);
}

enum rxt_status config_parse(struct rxt_config *out, const char *text, size_t n,
                             struct rxt_error *err)
{
    *out = (struct rxt_config){.tokens = {-1, -1, -1, -1, -1, -1, -1, -1, -1}};
    if (n > CONFIG_MAX_BYTES)
        return rxt_fail(err, RXT_ELIMIT, "config.json: %zu bytes are over the limit of %d", n,
                        CONFIG_MAX_BYTES);
    json_t *root = NULL;
    TRY(config_json(&root, text, n, "config.json", err));
    enum rxt_status st = read_root(out, root, err);
    json_decref(root);
    return st;
}
