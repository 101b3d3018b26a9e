/* The whole model in plain loops, straight from the text of docs/rxt.md: the oracle for what no
 * golden folder exercises. Reads config.json and model.safetensors with code of its own, shares
 * nothing with rxt/, stm/ or kernels/; no batches, no cache, no packing of weights. Values are
 * float32 between steps, sums are formed in double. A file it cannot read fails the test. */
#ifndef RXT_TESTS_REF_MODEL_H
#define RXT_TESTS_REF_MODEL_H

#include <stdbool.h>

struct ref_model;

/* bf16: rounds where a run of the model in bfloat16 rounds (spec 6.1). */
struct ref_model *ref_model_open(const char *dir, bool bf16);
void ref_model_close(struct ref_model *m);

struct ref_shape {
    int n_layer, n_slot, dim, n_vocab;
};
struct ref_shape ref_model_shape(const struct ref_model *m);

/* logits [T,V] of all of ids, reading stm [L,S,D]. */
void ref_decode(const struct ref_model *m, const int *ids, int n, const float *stm, float *logits);
/* ed [L,T,D]. */
void ref_encode(const struct ref_model *m, const int *ids, int n, float *ed);
/* out [L,S,D] = memory attention of stm over ed. */
void ref_remember(const struct ref_model *m, const float *ed, int n, const float *stm, float *out);

#endif
