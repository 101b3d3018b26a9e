/* How to get a version back (design 5 and 6): the newest image it can start from and the
 * interactions to absorb after it. Made on the store writer's thread from rows, carried out by the
 * memory lane. Knows rows and bytes, no tensor. */
#ifndef RXT_BRIDGE_REPLAY_IMPL_H
#define RXT_BRIDGE_REPLAY_IMPL_H

#include "bridge/memory_impl.h"
#include "store/store.h"

struct replay {
    uint64_t target; /* the version this makes */
    bool has_image;  /* else it starts from the initial memory */
    struct store_image image;
    void *values; /* of the image, once replay_read_values has been called */
    size_t values_bytes;
    struct memory_step *step; /* in order; their ids lie in `ids` */
    int32_t n_step;
    bool other_class; /* some part was made under another bit class than the running one */
    int32_t *ids;
};

/* Gives *r. bit_class: the running one. ECORRUPT, EMISMATCH (image), ENOTFOUND (a row is missing),
 * ENOMEM and the store's others. */
enum rxt_status replay_plan(struct replay *r, struct store *s, const struct store_session *session,
                            uint64_t target, const char *bit_class, struct rxt_error *err);
/* Reads the values of the image, if there is one; session as in the plan. ECORRUPT, EMISMATCH,
 * ENOTFOUND (pruned since), ENOMEM. */
enum rxt_status replay_read_values(struct replay *r, struct store *s, int64_t session,
                                   struct rxt_error *err);
void replay_free(struct replay *r); /* leaves it zeroed */

#endif
