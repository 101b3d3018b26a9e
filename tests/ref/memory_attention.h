/* The plain-loop reference of memory attention (spec 2.7): one memory, float arrays, the ops of
 * ref.h put together as the text puts them. Never shipped. */
#ifndef RXT_TESTS_REF_MEMORY_ATTENTION_H
#define RXT_TESTS_REF_MEMORY_ATTENTION_H

#include "tests/ref/ref.h"

enum ref_variant {
    REF_SIMPLE,
    REF_SELF,
    REF_INTERLAYER,
    REF_SELF_INTERLAYER,
    REF_GROUPED_SELF_INTERLAYER,
};

struct ref_projections { /* as a checkpoint holds them; bias of the output, data NULL = none */
    struct heads heads;
    struct host_matrix q, k, v, out; /* [Hq*hd,D], [Hk*hd,D] twice, [D,Ho*hd] */
    struct host_vector bias;         /* [D] */
};

struct ref_memory_layer {
    struct ref_projections main, mean, self;
    struct norm_desc norm_input, norm_mem, norm_mean, norm_self;
    struct gate_desc gate, gate_mean, gate_interlayer, gate_self;
};

struct ref_memory_attention {
    enum ref_variant variant;
    int n_layer, n_slot, dim;
    int n_group;        /* of the grouped variant; 1 else */
    const float *angle; /* [n_pos, hd/2] of the keys of main; NULL without rotation */
    struct norm_desc norm_m;
    const struct ref_memory_layer *layer;
};

/* out [L,S,D] = memory attention of stm [L,S,D] over ed [L,T,D]. */
void ref_memory_attention(enum ref_mode mode, float *out, const struct ref_memory_attention *a,
                          const float *stm, const float *ed, int n_token);

#endif
