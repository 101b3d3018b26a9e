/* One model and one memory at the level of the engine, for the tests of rxt/. Whatever fails in a
 * helper fails the test. */
#ifndef RXT_TESTS_RXT_ENGINE_H
#define RXT_TESTS_RXT_ENGINE_H

#include "rxt/rxt.h"
#include "tests/lib/test.h"

struct engine {
    struct rxt_model *m;
    const struct rxt_info *info;
    struct rxt_worker *w;
    struct rxt_read *read;
    struct rxt_slot *slot;
    struct stm *memory; /* its initial memory, read built from it */
    struct stm_pool *pool;
    size_t n_value; /* of the memory: L*S*D */
};

struct engine_options { /* zeroed = defaults */
    struct rxt_model_options model;
    struct rxt_worker_config worker;
    enum dtype stm_dtype;
    uint64_t seed;
    const char *shape; /* random weights of this shape; the folder is then not read */
};

/* On the backend cuda if RXT_TEST_BACKEND is set, cuda-f32 or cuda-bf16. */
void engine_open(struct engine *e, const char *dir, const struct engine_options *opt);
void engine_close(struct engine *e);

/* Memory as float32 [L,S,D], and back (version 0). */
void engine_values(struct engine *e, float *out);
void engine_inject(struct engine *e, const float *values);
/* Logits [n,V] of ids at position 0.., in chunks of at most `chunk` rows (0 = all at once). */
void engine_logits(struct engine *e, const int32_t *ids, int32_t n, int32_t chunk, float *out);
/* One row of the decoder at this position; the greedy token behind it. */
int32_t engine_step(struct engine *e, int32_t id, int32_t position);
/* ED [L,n,D]. */
void engine_encode(struct engine *e, const int32_t *ids, int32_t n, float *out);
/* Encoder, memory attention, commit, K/V. */
void engine_update(struct engine *e, const int32_t *ids, int32_t n);
/* 32 hex digits of stm_hash. */
void engine_hash(struct engine *e, char hex[33]);

/* Ids of n tokens below n_vocab, drawn from seed. */
void engine_ids(int32_t *ids, int32_t n, int32_t n_vocab, uint64_t seed);
void *engine_alloc(size_t n, size_t size);                    /* zeroed; free() it */
float engine_worst(const float *a, const float *b, size_t n); /* largest |a - b| */

#endif
