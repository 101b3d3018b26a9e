/* The weights of a model in the backend's layout: a checkpoint, packed once at load. Projections
 * that read the same input are one matrix, in the order the ops expect. What a backend uses as it
 * lies (the embedding) stays in the mapped file; pages of what was packed are given back. */
#ifndef RXT_WEIGHTS_IMPL_H
#define RXT_WEIGHTS_IMPL_H

#include "rxt/checkpoint_impl.h"

struct attention_weights {
    struct heads heads;
    struct weight *in;  /* self: [q|k|v|gate]; cross: [q|gate] */
    struct weight *out; /* [D, Ho*hd] */
};

struct layer_weights {
    bool stateful, moe;
    struct weight *norm1, *norm3;
    struct weight *norm2, *stm_norm; /* stateful */
    struct attention_weights self, cross;
    struct weight *cross_kv; /* stateful: [k|v] over the memory */
    struct weight *ff;       /* dense, or experts if moe */
};

struct stack_weights { /* decoder or encoder */
    struct layer_weights *layer;
    int32_t n_layer;     /* all of them, in the order they run */
    struct weight *rope; /* NULL without */
};

struct model_weights {
    struct weight *embedding, *head_norm, *head; /* head_norm NULL without */
    struct stack_weights decoder, encoder;
    struct stm_weights memory;
};

/* Fills *w, which must be zeroed. storage: of matrices. max_seq_len: positions of the RoPE tables.
 * ck: all three components. ENOMEM, ESHAPE; on failure *w is empty. */
enum rxt_status weights_create(struct model_weights *w, struct backend *be,
                               const struct checkpoint *ck, enum dtype storage, int32_t max_seq_len,
                               struct rxt_error *err);
void weights_destroy(struct model_weights *w, struct backend *be); /* leaves it empty */
size_t weights_bytes(const struct model_weights *w);               /* resident, copies only */

#endif
