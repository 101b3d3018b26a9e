/* A lane's activations for stm_update: planned and allocated once, lent to every update. */
#ifndef RXT_STM_UPDATER_IMPL_H
#define RXT_STM_UPDATER_IMPL_H

#include "stm/stm_impl.h"

/* Layers that share one mean are updated together: a group. Kinds without a mean have groups of
 * one layer. Letters: N memories of the batch, S slots, D embed_dim, T rows of ED of all memories,
 * G layers of a group. */
struct stm_updater {
    struct lane *ln;
    struct backend *be;
    struct stm_config cfg;
    const struct stm_weights *w;
    int32_t n_memory, n_token; /* at most */
    int32_t group_size;        /* G */

    int32_t *slot_offset;  /* [n_memory + 1]: memory i owns the rows from i * S */
    bool *finite;          /* [L][N] of a call: what op_finite found */
    struct tensor *member; /* [G]: the old memories of a group, for op_mean */

    void *block;                      /* of the backend; everything below is cut from it */
    void *old;                        /* [G][N*S,D] */
    void *mean, *normed, *x, *result; /* [N*S,D] */
    void *q, *context;                /* [N*S, Hq*hd], [N*S, Ho*hd] */
    void *kv;                         /* [max(N*S,T), 2*Hk*hd] */
};

/* Kinds whose layers attend to a mean over layers. */
bool stm_has_mean(const struct stm_weights *w);

#endif
