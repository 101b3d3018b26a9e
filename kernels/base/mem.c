#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, madvise */
#include "kernels/base/mem.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* In front of every block: its size, so that live bytes and realloc need no help from the caller,
 * and the bytes mapped for it, or 0. One cache line, which keeps the block itself aligned. */
#define ALIGN ((size_t)64)
struct header {
    size_t size;
    size_t mapped;
};

/* From here on blocks are mapped: the system's pages are zero already (weights of gigabytes are
 * not written twice), and huge ones spare the TLB when they are streamed at every token. */
#if defined(RXT_SANITIZE_ADDRESS)
#define MAP_FROM SIZE_MAX /* the sanitizer knows leaks and borders of heap blocks only */
#else
#define MAP_FROM ((size_t)1 << 20)
#endif
static_assert(sizeof(struct header) <= ALIGN, "header must fit in front of an aligned block");

static atomic_uint_fast64_t n_alloc, n_bytes, n_live;
static atomic_uint_fast64_t fail_countdown; /* 0 = off, k = the kth allocation from now fails */
static atomic_int has_failed;
static _Thread_local int hot_depth;

static int must_fail(void)
{
    uint_fast64_t k = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    while (k > 1) {
        if (atomic_compare_exchange_weak(&fail_countdown, &k, k - 1))
            return 0;
    }
    if (k == 0)
        return 0;
    atomic_store(&has_failed, 1);
    return 1;
}

static struct header *header_of(void *p)
{
    return (struct header *)((char *)p - ALIGN);
}

void *mem_alloc(size_t n)
{
    assert(hot_depth == 0 && "allocation on the hot path");
    if (n == 0 || n > PTRDIFF_MAX - 2 * ALIGN || must_fail())
        return NULL;
    size_t whole = n + ALIGN;
    void *raw;
    size_t mapped = 0;
    if (whole >= MAP_FROM) {
        raw = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (raw == MAP_FAILED)
            return NULL;
        (void)madvise(raw, whole, MADV_HUGEPAGE); /* a hint: without it only speed is lost */
        mapped = whole;
    } else {
        if (posix_memalign(&raw, ALIGN, whole) != 0)
            return NULL;
        memset(raw, 0, whole);
    }
    *(struct header *)raw = (struct header){.size = n, .mapped = mapped};
    atomic_fetch_add_explicit(&n_alloc, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&n_bytes, n, memory_order_relaxed);
    atomic_fetch_add_explicit(&n_live, n, memory_order_relaxed);
    return (char *)raw + ALIGN;
}

void *mem_alloc_n(size_t count, size_t size)
{
    size_t n;
    if (__builtin_mul_overflow(count, size, &n))
        return NULL;
    return mem_alloc(n);
}

void *mem_realloc(void *p, size_t n)
{
    void *q = mem_alloc(n);
    if (!q || !p)
        return q;
    size_t old = header_of(p)->size;
    memcpy(q, p, old < n ? old : n);
    mem_free(p);
    return q;
}

void *mem_dup(const void *p, size_t n)
{
    void *q = mem_alloc(n);
    if (q)
        memcpy(q, p, n);
    return q;
}

char *mem_strdup(const char *s)
{
    return mem_dup(s, strlen(s) + 1);
}

void mem_free(void *p)
{
    if (!p)
        return;
    struct header *h = header_of(p);
    atomic_fetch_sub_explicit(&n_live, h->size, memory_order_relaxed);
    if (h->mapped)
        munmap(h, h->mapped);
    else
        free(h);
}

struct mem_stats mem_stats(void)
{
    return (struct mem_stats){
        .count = atomic_load_explicit(&n_alloc, memory_order_relaxed),
        .bytes = atomic_load_explicit(&n_bytes, memory_order_relaxed),
        .live_bytes = atomic_load_explicit(&n_live, memory_order_relaxed),
    };
}

void mem_fail_from(uint64_t nth)
{
    atomic_store(&has_failed, 0);
    atomic_store(&fail_countdown, nth);
}

int mem_fail_never(void)
{
    atomic_store(&fail_countdown, 0);
    return atomic_exchange(&has_failed, 0);
}

void hot_enter(void)
{
    hot_depth++;
}

void hot_leave(void)
{
    assert(hot_depth > 0);
    hot_depth--;
}
