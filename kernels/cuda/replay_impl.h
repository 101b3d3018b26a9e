/* Graphs of lists of launches that came before: a lane's steps repeat. Plain C, it knows a list as
 * bytes and a graph as a pointer; nothing allocates but replay_create.
 *
 * A graph is found by the whole list, byte for byte. At most REPLAY_GRAPHS are kept, their lists in
 * a pool of REPLAY_POOL bytes; the one not used for longest goes. Not thread-safe. */
#ifndef RXT_CUDA_REPLAY_IMPL_H
#define RXT_CUDA_REPLAY_IMPL_H

#include "kernels/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REPLAY_GRAPHS 256
#define REPLAY_POOL ((size_t)32 << 20)
#define REPLAY_SEEN 256 /* lists without a graph that are remembered */

struct replay;

/* Gives *out. drop ends a graph that goes. ENOMEM. */
enum rxt_status replay_create(struct replay **out, void (*drop)(void *graph));
void replay_destroy(struct replay **r); /* NULL-safe; drops all graphs */
size_t replay_bytes(void);              /* of one */

/* The graph of this list, NULL if there is none. bytes: a multiple of 8, more than 0. */
void *replay_find(struct replay *r, const void *list, size_t bytes);
/* Whether the list came before and a graph of it could be kept: then one is worth its price.
 * Remembers it, and forgets it with a yes: a list whose graph could not be made, or went, has to
 * come twice again. Goes by a hash, so that two lists in 2^64 are taken for one: a graph too early.
 */
bool replay_again(struct replay *r, const void *list, size_t bytes);
/* Takes a graph of a list that replay_find does not know. */
void replay_keep(struct replay *r, const void *list, size_t bytes, void *graph);

#endif
