/* A model that replays recorded turns, for `rxt verify`: one worker, one memory, all logits on the
 * host. */
#ifndef RXT_TOOLS_REPLICA_H
#define RXT_TOOLS_REPLICA_H

#include "rxt/rxt.h"

#include <jansson.h>

/* What one turn needs; made once for the model. */
struct replica {
    const struct rxt_model *model;
    struct rxt_worker *worker;
    struct rxt_read *read;
    struct rxt_slot *slot;
    struct stm *memory;
    struct stm_pool *pool;
    float *logits; /* [max_seq_len, V] */
};

/* The model is lent; replica_close must follow, also when it fails. */
enum rxt_status replica_open(struct replica *o, const struct rxt_model *m);
void replica_close(struct replica *o);

/* Runs n rows from position `start` and leaves all their logits in o->logits. The memory is the one
 * of the last rxt_read_build. */
enum rxt_status replica_forward(struct replica *o, const int32_t *ids, int32_t n, int32_t start);
/* The memory absorbs an interaction. */
enum rxt_status replica_update(struct replica *o, const int32_t *ids, int32_t n);
/* The published memory as float32 [L,S,D]; free() it. NULL: no memory, or the device failed. */
float *replica_memory(struct replica *o);

/* The highest of n values, and how far above the second it is. */
int32_t replica_argmax(const float *x, int32_t n, float *margin);
/* The numbers of an array, which must be ids of the model; gives how many, -1 if they are not, or
 * more than cap. */
int32_t replica_ids(const json_t *array, int32_t n_vocab, int32_t *out, int32_t cap);
/* The array of turns in a conversation.json; json_decref() it. EFORMAT. */
enum rxt_status replica_turns(json_t **out, const char *path, struct rxt_error *err);

#endif
