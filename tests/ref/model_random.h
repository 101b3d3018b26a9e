/* Small checkpoints with random weights for any config: what no golden folder exercises is compared
 * with the reference model on these. */
#ifndef RXT_TESTS_REF_MODEL_RANDOM_H
#define RXT_TESTS_REF_MODEL_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct random_model {
    const char *patch; /* JSON object laid over a small config in the style of Beta; NULL = none */
    uint64_t seed;
    bool f32;         /* tensors in F32; else BF16 */
    bool legacy_moe;  /* per-expert tensors instead of stacked ones */
    bool rope_tables; /* with rope.cache of every component, in BF16: angles are rounded */
};
/* Writes DIR/config.json and DIR/model.safetensors with every tensor of spec 3.2. */
void random_model_write(const char *dir, const struct random_model *r);

#endif
