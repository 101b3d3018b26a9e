/* config.json of a checkpoint: every field of spec 3.1 and 8b with its default, read and checked.
 * What changes results and is not known is refused by name; what is for kernels only is ignored. */
#ifndef RXT_CONFIG_IMPL_H
#define RXT_CONFIG_IMPL_H

#include "stm/stm.h"

enum config_bias { CONFIG_BIAS_LOCAL, CONFIG_BIAS_GLOBAL, CONFIG_BIAS_OFF };
enum config_layer { CONFIG_LAYER_DENSE, CONFIG_LAYER_MOE };
enum config_head_norm { CONFIG_HEAD_UNSAID, CONFIG_HEAD_NONE, CONFIG_HEAD_LAYER, CONFIG_HEAD_RMS };
enum config_norm { /* norm_type of memory attention, spec 2.7 */
                   CONFIG_NORM_CLASSIC_RMS,
                   CONFIG_NORM_LAYER,
                   CONFIG_NORM_RMS,
                   CONFIG_NORM_ADAPTIVE,
                   CONFIG_NORM_POSITIONAL,
};
enum config_rope { CONFIG_ROPE_UNSAID, CONFIG_ROPE_INTERLEAVED, CONFIG_ROPE_SPLIT };

#define CONFIG_MAX_BYTES (1 << 20) /* of config.json */
#define CONFIG_MAX_STATELESS 64    /* layers in one of the two lists */
#define CONFIG_MAX_EXPERTS 1000000 /* routed and shared, in all layers together */
#define CONFIG_MAX_SEQ (1 << 20)   /* tokens of one interaction */

struct config_moe {
    int32_t n_expert, top_k;
    int32_t n_shared;   /* -1: the config does not say; the tensors decide (spec 3.1) */
    int32_t shared_dim; /* hidden width of a shared expert */
    enum config_bias bias, shared_bias;
    bool weighted_shared;
    bool router_bf16;
};

/* Decoder or encoder. */
struct config_stack {
    int32_t n_layer; /* L: decoder stateful layers, encoder layers */
    int32_t n_vocab, embed_dim, seq_len;
    int32_t n_slot;           /* decoder */
    struct heads self, cross; /* gate included; cross: decoder */
    bool out_bias, rms_norm;
    bool nope; /* no RoPE anywhere in this component */
    double rope_base;
    bool ff_gated;
    enum act ff_act;
    int32_t ff_dim;    /* hidden width of experts, or of dense stateful layers */
    int32_t dense_dim; /* of dense stateless layers */
    bool use_moe;      /* stateful layers (encoder: all) are MoE */
    struct config_moe moe;
    int32_t n_before, n_after; /* stateless layers; decoder */
    enum config_layer before[CONFIG_MAX_STATELESS], after[CONFIG_MAX_STATELESS];
    enum config_head_norm head_norm; /* decoder; unsaid: the tensors decide (spec 8) */
};

struct config_gate {
    enum gate_kind kind;
    bool tanh, per_slot, linear_status;
};

struct config_memory {
    bool has_variant; /* false: the tensors decide */
    enum stm_variant variant;
    int32_t n_layer, embed_dim, seq_len, n_slot;
    int32_t n_group;               /* 1 but for the grouped variant */
    struct heads main, mean, self; /* mean, self: n_q 0 where the config has no such attention */
    enum config_norm norm;
    bool norm_per_dim; /* scale of the positional norm: [D] instead of [S,1] */
    struct config_gate gate;
    bool self_gate; /* the self variant uses `gate`; else plain addition */
    double rope_base;
};

struct config_tokens { /* -1: the model has no such token */
    int32_t pad, bos, eos, query, answer, think, tool_call, tool_use, internal;
};

#define CONFIG_TITLE_MAX 128

struct rxt_config {
    /* A directory holds all three, or one component whose tensor names have no prefix. Then it may
     * be that only the tensors tell an encoder from a decoder: both `has` are set. */
    bool single;
    bool has_decoder, has_encoder, has_memory;
    struct config_stack decoder, encoder;
    struct config_memory memory;
    struct config_tokens tokens;
    enum config_rope rope;
    int32_t max_seq_len; /* tokens of one interaction; 0 without a decoder */
    enum stm_init stm_init;
    char system_title[CONFIG_TITLE_MAX]; /* of system prompts, "" = the default one */
};

/* Parses n bytes of JSON. err names the field. EFORMAT (no JSON, wrong type), EINVAL (value out of
 * range, fields that contradict each other), EUNSUPPORTED (unknown value), EMISMATCH (components of
 * different shape), ELIMIT, ENOMEM. */
enum rxt_status config_parse(struct rxt_config *out, const char *text, size_t n,
                             struct rxt_error *err);
/* Parses DIR/config.json. ENOTFOUND, EIO and the above. */
enum rxt_status config_read(struct rxt_config *out, const char *dir, struct rxt_error *err);
/* A shape of spec 8: "beta-3b", "alpha-12m", "preview"; and "wide-memory". ENOTFOUND naming those
 * there are. */
enum rxt_status config_named(struct rxt_config *out, const char *name, struct rxt_error *err);

/* The layers of a decoder in the order they run: before, stateful, after. */
int32_t config_n_layer(const struct config_stack *s);
/* Kind of layer i of these. */
enum config_layer config_layer_kind(const struct config_stack *s, int32_t i);
bool config_layer_stateful(const struct config_stack *s, int32_t i);

#endif
