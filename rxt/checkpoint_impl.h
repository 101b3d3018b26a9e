/* A checkpoint bound to its config: every tensor of spec 3.2 found by its exact name and shape and
 * put where the model wants it. Nothing is copied: the tree below points into the mapped files and
 * is written in the terms of the backend, so that the older and the newer layouts of experts and of
 * RoPE look alike to whoever reads it.
 *
 * Strict: a missing tensor, a wrong shape and a tensor that the config does not explain are
 * refusals, but for the aliases and left-overs that spec 3.3 lists. */
#ifndef RXT_CHECKPOINT_IMPL_H
#define RXT_CHECKPOINT_IMPL_H

#include "rxt/config_impl.h"

struct ckpt_attention {
    struct host_matrix q, k, v;
    struct host_matrix gate; /* data NULL if not gated */
    struct host_matrix out;
    struct host_vector out_bias; /* data NULL if there is none */
};

/* A mixture of experts owns the arrays that desc points to. */
struct ckpt_moe {
    struct moe_desc desc;
    struct ff_desc *expert, *shared;
};

struct ckpt_layer {
    bool stateful, moe;
    struct norm_desc norm1, norm3;
    struct norm_desc norm2, stm_norm; /* stateful */
    struct ckpt_attention self;
    struct ckpt_attention cross; /* stateful */
    struct ff_desc ff;           /* not moe */
    struct ckpt_moe experts;     /* moe */
};

/* The angles of one component: the rows of its rope.cache, and how to go on behind them. */
struct ckpt_rope {
    bool none;                /* use_nope */
    struct host_matrix table; /* data NULL: the file has none */
    double base;
    int32_t head_dim;
};

struct ckpt_stack { /* decoder or encoder */
    struct ckpt_layer *layer;
    int32_t n_layer; /* all of them, in the order they run */
    struct ckpt_rope rope;
};

struct ckpt_memory_layer {
    struct ckpt_attention main, mean, self; /* mean: interlayer kinds; self: STM_SELF */
    struct norm_desc norm_input, norm_mem, norm_mean, norm_self;
    struct gate_desc gate, gate_mean, gate_interlayer, gate_self;
};

struct ckpt_memory {
    struct ckpt_memory_layer *layer;
    struct norm_desc norm_m; /* interlayer kinds */
    struct ckpt_rope rope;
    const void *stored; /* [L,1,S,D], the effective stm.memory; NULL if there is none */
    enum dtype stored_dtype;
};

/* Parameters: weights and biases; no memory, no RoPE table, no statistics. */
struct ckpt_count {
    uint64_t decoder, encoder, memory;
    uint64_t total;          /* the shared embedding once */
    uint64_t decoder_active; /* those that one token uses: K of E experts */
};

struct checkpoint {
    struct rxt_config config;     /* with what the tensors decided: variant, n_shared, rope */
    struct host_matrix embedding; /* [V,D], shared by decoder and encoder */
    struct ckpt_stack decoder, encoder;
    struct norm_desc head_norm; /* weight.data NULL if there is none */
    struct host_matrix head;    /* [V,D] */
    struct host_vector head_bias;
    struct ckpt_memory memory;
    struct ckpt_count count;
    enum dtype dtype; /* of the file: what most of its parameters have */

    struct safetensors *files; /* NULL: not from files */
    void *random;              /* values behind a checkpoint of random numbers */
    int32_t *permuted;         /* row_of for the split layout of RoPE */
};

/* Opens config.json and the weights of a folder. Gives *out. err names file and tensor or field.
 * ENOTFOUND (file or tensor), ESHAPE, EUNSUPPORTED (dtype of a weight), EFORMAT (unexpected
 * tensor), and those of config_read and safetensors_open. */
enum rxt_status checkpoint_open(struct checkpoint **out, const char *dir, struct rxt_error *err);
/* A checkpoint of this config whose weights are random numbers, N(0, 0.05^2) in bf16; tensors share
 * memory, so it is small. For benchmarks. ENOMEM. */
enum rxt_status checkpoint_random(struct checkpoint **out, const struct rxt_config *config,
                                  uint64_t seed, struct rxt_error *err);
void checkpoint_close(struct checkpoint **ck); /* NULL-safe */

/* Parameters of a config without any weights. ENOMEM. */
enum rxt_status checkpoint_count(struct ckpt_count *out, const struct rxt_config *config,
                                 struct rxt_error *err);

/* XXH3-128, canonical bytes, over the files of a folder: config.json, tokenizer.json if there is
 * one, then the weight files in the order of their names; of each its name with the terminating
 * zero, its size as 8 bytes little endian, and its bytes. */
enum rxt_status checkpoint_hash(const struct checkpoint *ck, const char *dir, uint8_t hash[16],
                                struct rxt_error *err);

/* Angles of positions [0, n_pos) into out [n_pos, hd/2]: the rows of the file's table, computed
 * behind them (spec 2.3). Not for r->none. */
void checkpoint_rope(const struct ckpt_rope *r, int32_t n_pos, float *out);

#endif
