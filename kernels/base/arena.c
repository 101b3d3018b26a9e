#include "kernels/base/arena.h"

#include "kernels/base/mem.h"

#include <stdint.h>

#define ALIGN ((size_t)64)

struct arena arena_plan(void)
{
    return (struct arena){.base = NULL, .size = SIZE_MAX, .used = 0};
}

enum rxt_status arena_create(struct arena *a, size_t size)
{
    *a = (struct arena){0};
    if (size == 0)
        return RXT_OK;
    a->base = mem_alloc(size);
    if (!a->base)
        return RXT_ENOMEM;
    a->size = size;
    return RXT_OK;
}

void arena_destroy(struct arena *a)
{
    if (!a)
        return;
    mem_free(a->base);
    *a = (struct arena){0};
}

void *arena_cut(struct arena *a, size_t count, size_t size)
{
    size_t n;
    if (__builtin_mul_overflow(count, size, &n) || n > SIZE_MAX - ALIGN)
        return NULL;
    n = (n + ALIGN - 1) / ALIGN * ALIGN;
    if (n > a->size - a->used)
        return NULL;
    char *p = a->base ? a->base + a->used : NULL;
    a->used += n;
    return p;
}

void arena_reset(struct arena *a)
{
    a->used = 0;
}
