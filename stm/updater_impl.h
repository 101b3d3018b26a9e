/* A lane's activations for stm_update: planned and allocated once, lent to every update. */
#ifndef RXT_STM_UPDATER_IMPL_H
#define RXT_STM_UPDATER_IMPL_H

#include "stm/stm_impl.h"

/* Activations of a layer under way. */
struct stm_work {
    void *normed, *c, *result; /* [N*S,D] */
    void *q, *context;         /* [N*S, Hq*hd], [N*S, Ho*hd] */
    void *kv;                  /* [max(N*S,T), 2*Hk*hd] */
};

/* Layers that share one mean are updated together: a group. Kinds without a mean have groups of
 * one layer. Letters: N memories of the batch, S slots, D embed_dim, T rows of ED of all memories,
 * G layers of a group, C layers under way at once: all of them on a lane with branches, else G.
 * Of a lane with branches, 0 is left to what makes ED, and each branch of layers has its own work;
 * layers take turns on them. */
#define STM_BRANCHES 3 /* of layers */
enum {
    STM_BRANCH_ATTENTION = 1, /* over all slots, one layer behind the other */
    STM_BRANCH_GROUP,         /* what the layers of the next group read */
    STM_BRANCH_LAYERS,
    STM_ALL_BRANCHES = STM_BRANCH_LAYERS + STM_BRANCHES,
};
struct stm_updater {
    struct lane *ln;
    struct backend *be;
    struct stm_config cfg;
    const struct stm_weights *w;
    int32_t n_memory, n_token; /* at most */
    int32_t group_size;        /* G */
    int32_t together;          /* C */
    int32_t n_work;

    int32_t *slot_offset;  /* [n_memory + 1]: memory i owns the rows from i * S */
    bool *finite;          /* [L][N] of a call: what op_gate_store found */
    struct tensor *member; /* [G]: the old memories of a group, for op_mean */

    void *block; /* of the backend; everything below is cut from it */
    void *old;   /* [C][N*S,D]: the old memories, then X of spec 2.7 */
    void *mean;  /* [C/G][N*S,D] */
    struct stm_work work[STM_BRANCHES];
};

/* Looks on while an update runs: called before each gate of the layer, whose inputs [N*S,D] it may
 * read, but not change. It allocates nothing. */
struct stm_observer {
    enum rxt_status (*on_gate)(struct stm_observer *o, int layer, enum stm_gate which,
                               struct tensor old, struct tensor new_, const struct weight *gate);
};
/* stm_update, watched by an observer; NULL = by nobody. */
enum rxt_status stm_update_observed(struct stm_updater *u, struct stm *const m[],
                                    struct stm_spare *const spare[], int n, const struct tensor *ed,
                                    const struct ragged *rows, struct stm_feed *feed, bool *bad,
                                    struct stm_observer *observer);

#endif
