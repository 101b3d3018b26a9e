/* The memory lane: one thread that makes the next version of memories (style 1, states 6 and 7).
 *
 * The engine lends a session's `stm` with a job and gets it back with the job; nobody else touches
 * it meanwhile. Jobs of different sessions are updated in one batch; a session has at most one job
 * here at a time, which keeps its turns in order. */
#ifndef RXT_BRIDGE_MEMORY_IMPL_H
#define RXT_BRIDGE_MEMORY_IMPL_H

#include "bridge/mailbox_impl.h"
#include "rxt/rxt.h"

/* One interaction that a replay absorbs. */
struct memory_step {
    const int32_t *ids;
    int32_t n;
};

enum memory_kind {
    MEMORY_UPDATE,  /* absorb `step[0]`: version base -> base + 1 */
    MEMORY_REBUILD, /* start content, then every step, arriving at version `target` */
    MEMORY_IMAGE,   /* nothing new: hash and image of the version that is there */
    MEMORY_STOP,    /* ends the thread */
};

struct memory_job { /* filled by the engine; owned by the lane from post until it comes back */
    struct mail mail;
    enum memory_kind kind;
    void *owner;     /* the engine's: whose job it is */
    struct stm *stm; /* REBUILD makes it, in `dtype`, where it is NULL */
    enum dtype dtype;
    struct rxt_read *read; /* K/V of the result are built into it */

    const struct memory_step *step;
    int32_t n_step;
    uint64_t base, target;
    const void
        *values; /* REBUILD: start content in the dtype of stm; NULL = as init and seed say */
    size_t values_bytes;
    enum stm_init init;
    uint64_t seed;

    void *image; /* if given: the values of the result are written here, stm_bytes of them */

    enum rxt_status status; /* the result; on failure stm is unchanged after UPDATE, void after
                             * REBUILD */
    uint8_t hash[16];
    uint64_t update_us; /* time of encoder, memory attention and K/V build */
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
