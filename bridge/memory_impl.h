/* The memory lane: one thread that makes the next version of memories (style 1, states 6 and 7).
 *
 * The engine lends a session's `stm` with a job and gets it back with the job; nobody else changes
 * it meanwhile. A session has at most one job here at a time, which keeps its turns in order.
 *
 * A job is a start and some steps, each an interaction to absorb. The lane works in rounds: one
 * step of each of the first jobs in its queue, all in one batch; those with steps left go to the
 * end. So a long replay delays nobody by more than one step. */
#ifndef RXT_BRIDGE_MEMORY_IMPL_H
#define RXT_BRIDGE_MEMORY_IMPL_H

#include "bridge/mailbox_impl.h"
#include "rxt/rxt.h"

/* One interaction to absorb. */
struct memory_step {
    const int32_t *ids;
    int32_t n;
};

enum memory_kind {
    MEMORY_UPDATE,  /* from the version that is there (of `source`, if stm is NULL) */
    MEMORY_REBUILD, /* from given values or an initial memory, arriving at version `target` */
    MEMORY_DIFF,    /* compares values[0] with values[1] */
    MEMORY_STOP,    /* ends the thread */
};

struct memory_job { /* filled by the engine; owned by the lane from post until it comes back */
    struct mail mail;
    enum memory_kind kind;
    void (*done)(struct memory_job *job); /* the engine's: what to do when it has come back */
    void *owner;                          /* the engine's: whose job it is */

    struct stm *stm;          /* NULL: UPDATE clones `source`, REBUILD makes one in `dtype` */
    const struct stm *source; /* several sessions read it: not changed */
    enum dtype dtype;
    struct rxt_read *read; /* K/V of the result are built into it; NULL = not needed */
    void *image;           /* the values of the result are written here; NULL = not needed */

    const struct memory_step *step;
    int32_t n_step;
    uint64_t target;       /* the version after the last step */
    const void *values[2]; /* REBUILD: [0] = start content in the dtype of stm; NULL = as init and
                            * seed say. DIFF: both, in `dtype` and `dtype_b` */
    size_t values_bytes;
    enum stm_init init;
    uint64_t seed;
    enum dtype dtype_b;
    struct stm_slot_diff *diff; /* DIFF: the result, [L * S] */

    enum rxt_status status; /* the result. Failed: stm is unchanged after an UPDATE that lent it;
                             * otherwise it is NULL, or of no use */
    uint8_t hash[16];
    uint64_t update_us; /* time of its rounds: encoder, memory attention, K/V build */

    /* The lane's own. */
    int32_t at; /* steps absorbed */
    bool started;
    bool alone; /* a batch with it failed: it is tried without others */
};

struct memory_lane;

/* Starts the thread, with n_spare spares for each dtype in use: so many updates run as one batch.
 * Finished jobs are posted to `back`. ENOMEM, EIO. */
enum rxt_status memory_lane_create(struct memory_lane **out, const struct rxt_model *m, int n_spare,
                                   struct mailbox *back);
/* Lets queued jobs finish, then joins. NULL-safe. */
void memory_lane_destroy(struct memory_lane **l);
void memory_lane_post(struct memory_lane *l, struct memory_job *job);

#endif
