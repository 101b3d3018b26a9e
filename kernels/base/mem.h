/* The project's one way to the heap: aligned, counted, and able to fail on purpose.
 *
 * Lifetimes are four (process, session, turn, request) and each has an arena (arena.h); this is
 * what arenas and handles are made of. Nothing here may be called between hot_enter() and
 * hot_leave(): a debug build aborts. Thread-safe. */
#ifndef RXT_BASE_MEM_H
#define RXT_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

/* Gives zeroed memory, aligned to 64 bytes (a cache line, an AVX-512 vector). NULL when out of
 * memory or when n == 0. Free with mem_free. */
void *mem_alloc(size_t n);
/* As mem_alloc for count items of size bytes each; NULL when the product overflows. */
void *mem_alloc_n(size_t count, size_t size);
/* Gives a larger (or smaller) block with the old content; the tail is zeroed. p may be NULL.
 * On failure NULL, p unchanged. */
void *mem_realloc(void *p, size_t n);
/* Copies of bytes and of strings. NULL when out of memory. */
void *mem_dup(const void *p, size_t n);
char *mem_strdup(const char *s);
void mem_free(void *p); /* NULL-safe */

/* Process totals. `count` and `bytes` only grow; `live_bytes` is what is not freed. */
struct mem_stats {
    uint64_t count;
    uint64_t bytes;
    uint64_t live_bytes;
};
struct mem_stats mem_stats(void);

/* For the out-of-memory loop of the tests: the nth allocation from now (1 = the next one) and all
 * later ones give NULL, in every thread, until mem_fail_never(). True if one has failed since. */
void mem_fail_from(uint64_t nth);
int mem_fail_never(void);

/* Marks the calling thread as being on the hot path (prefill to commit). Nests. */
void hot_enter(void);
void hot_leave(void);

#endif
