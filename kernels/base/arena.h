/* A block of memory that is cut from the front and given back as a whole: one arena a lifetime.
 *
 * Plan, then allocate: run the cutting code once over an arena of no memory (arena_plan) and its
 * `used` is the bytes to create; run it again over the real one. Every cut is aligned to 64 bytes.
 * One owner at a time; not thread-safe. */
#ifndef RXT_BASE_ARENA_H
#define RXT_BASE_ARENA_H

#include "kernels/base/status.h"

#include <stddef.h>

struct arena {
    char *base; /* NULL while planning */
    size_t size;
    size_t used;
};

/* An arena that only counts: cuts give NULL and `used` grows. */
struct arena arena_plan(void);
/* Allocates size bytes, zeroed. ENOMEM; on failure *a is empty. */
enum rxt_status arena_create(struct arena *a, size_t size);
void arena_destroy(struct arena *a); /* NULL-safe; leaves it empty */

/* count items of size bytes. NULL when it does not fit (then *a is unchanged) or while planning. */
void *arena_cut(struct arena *a, size_t count, size_t size);
/* Gives everything back at once; the content stays as it is. */
void arena_reset(struct arena *a);

#endif
