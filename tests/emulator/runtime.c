#include "tests/emulator/cuda_runtime_api.h"

#include "kernels/base/clock.h"
#include "kernels/base/mem.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/partition.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaSuccess ? "no error" : "emulated error";
}

static enum emulated_fault now;

void emulator_fail(enum emulated_fault fault)
{
    now = fault;
}

enum emulated_fault emulator_fault(void)
{
    return now;
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    (void)device;
    *prop = (struct cudaDeviceProp){"emulator", 9, 0};
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
    (void)device;
    *value = attr == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 227 << 10 : 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device)
{
    (void)device;
    *pool = NULL;
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attr, void *value)
{
    (void)pool;
    (void)attr;
    (void)value;
    return cudaSuccess;
}

/* ---- streams and events: allocated, so that a leak is seen ---- */

/* A copy that a card may not have made yet: its source must stay as it was. Not on the project's
 * heap, as the driver's are not. */
struct copy {
    struct copy *next;
    unsigned number;
    const void *from;
    size_t bytes;
    char was[];
};
struct emulated_stream {
    int priority;
    bool aside;
    struct copy *first, **last; /* of one thread */
    atomic_uint n_copy;
};
struct emulated_event {
    uint64_t us;
    cudaStream_t stream; /* that it was recorded in, NULL: none */
    unsigned n_copy;     /* before it */
};

/* The host has waited for the first n copies of the stream. */
static void end_copies(cudaStream_t s, unsigned n)
{
    while (s->first && s->first->number < n) {
        struct copy *c = s->first;
        if (memcmp(c->from, c->was, c->bytes) != 0) {
            fprintf(stderr, "emulator: memory was written before its copy to the device ended\n");
            abort();
        }
        s->first = c->next;
        free(c);
    }
    if (!s->first)
        s->last = &s->first;
}

static cudaError_t begin_copy(cudaStream_t s, const void *from, size_t bytes)
{
    struct copy *c = malloc(sizeof *c + bytes);
    if (!c)
        return cudaErrorMemoryAllocation;
    *c = (struct copy){.number = s->n_copy++, .from = from, .bytes = bytes};
    memcpy(c->was, from, bytes);
    *s->last = c;
    s->last = &c->next;
    return cudaSuccess;
}

static cudaError_t or_no_memory(const void *p)
{
    return p ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority)
{
    (void)flags;
    *s = mem_alloc(sizeof **s);
    if (*s) {
        (*s)->priority = priority;
        (*s)->last = &(*s)->first;
    }
    return or_no_memory(*s);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    return cudaStreamCreateWithPriority(s, flags, 0);
}

void emulator_put_aside(cudaStream_t s)
{
    s->aside = true;
}

bool emulator_is_aside(cudaStream_t s)
{
    return s->aside;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *low, int *high)
{
    *low = 0;
    *high = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    if (!s)
        return cudaErrorInvalidValue;
    end_copies(s, s->n_copy);
    return now == EMULATED_WAIT ? cudaErrorLaunchFailure : cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
    (void)flags;
    return s && e ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    end_copies(s, s->n_copy);
    mem_free(s);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
    (void)flags;
    *e = mem_alloc(sizeof **e);
    return or_no_memory(*e);
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    if (!e || !s)
        return cudaErrorInvalidValue;
    e->us = clock_us();
    e->stream = s;
    e->n_copy = s->n_copy;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    if (!e)
        return cudaErrorInvalidValue;
    if (e->stream)
        end_copies(e->stream, e->n_copy);
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    *ms = (float)(end->us - begin->us) / 1000.0f;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    mem_free(e);
    return cudaSuccess;
}

/* ---- memory: counted and able to fail, as all of the project's ---- */

cudaError_t cudaMallocAsync(void **p, size_t bytes, cudaStream_t s)
{
    (void)s;
    *p = mem_alloc(bytes);
    if (*p)
        memset(*p, 0xFF, bytes); /* as dirty as a card's: NaN */
    return or_no_memory(*p);
}

cudaError_t cudaFreeAsync(void *p, cudaStream_t s)
{
    (void)s;
    mem_free(p);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags)
{
    (void)flags;
    *p = mem_alloc(bytes);
    return or_no_memory(*p);
}

cudaError_t cudaFreeHost(void *p)
{
    return cudaFreeAsync(p, NULL);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s)
{
    (void)s;
    memset(p, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t s)
{
    memcpy(dst, src, bytes);
    return kind == cudaMemcpyHostToDevice ? begin_copy(s, src, bytes) : cudaSuccess;
}
