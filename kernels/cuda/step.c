#include "kernels/cuda/step_impl.h"

#include "kernels/base/count.h"
#include "kernels/base/mem.h"
#include "kernels/cuda/fault_impl.h"
#include "kernels/cuda/replay_impl.h"
#include "kernels/cuda/scratch_impl.h"

#include <assert.h>
#include <string.h>

#define LIST_BYTES ((size_t)512 << 10) /* launches take 100 to 400 */
#define RING 3
#define SHARED_PLAIN 16384 /* dynamic shared memory of any kernel; 48 KB with static */
#define N_ALLOWED 32       /* kernels with more that a lane remembers */
#define ALIGN ((size_t)16) /* of parameters and arguments */

static_assert(sizeof(struct launch) % ALIGN == 0 && offsetof(struct launch, at) == 34);

struct step {
    bool open;
    char *list; /* launches behind one another */
    size_t bytes;
    struct replay *replay;
    int shared_most; /* of a block, bytes */
    int n_allowed;
    const void *allowed[N_ALLOWED]; /* kernels that may have all of it */
    /* Arguments: [0,copied) are on their way to the device, [copied,used) are not. */
    size_t size, op_size, used, copied;
    char *device;
    char *host[RING]; /* pinned */
    cudaEvent_t free[RING];
    int now;
};

/* ---- create ---- */

static void drop_graph(void *graph)
{
    (void)cudaGraphExecDestroy(graph); /* one that runs ends first */
}

static cudaError_t open_ring(struct step *s)
{
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < RING && e == cudaSuccess; i++) {
        e = cudaHostAlloc((void **)&s->host[i], s->size, cudaHostAllocDefault);
        if (e == cudaSuccess)
            e = cudaEventCreateWithFlags(&s->free[i], cudaEventDisableTiming);
    }
    return e;
}

enum rxt_status step_create(struct cuda_lane *ln)
{
    struct step *s = ln->step = mem_alloc(sizeof *s);
    if (!s)
        return RXT_ENOMEM;
    TRY(replay_create(&s->replay, drop_graph));
    s->op_size = args_need_op(&ln->base.limits);
    s->size = args_need(&ln->base.limits);
    s->list = mem_alloc(LIST_BYTES);
    s->device = cuda_alloc(&ln->be->base, s->size);
    if (!s->list || !s->device)
        return RXT_ENOMEM;
    cudaError_t e = open_ring(s);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&s->shared_most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
    if (e == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return RXT_ENOMEM;
    }
    return cuda_check(ln->be, e);
}

void step_destroy(struct cuda_lane *ln)
{
    struct step *s = ln->step;
    if (!s)
        return;
    replay_destroy(&s->replay);
    cuda_free(&ln->be->base, s->device);
    for (int i = 0; i < RING; i++) {
        if (s->free[i])
            (void)cudaEventDestroy(s->free[i]);
        (void)cudaFreeHost(s->host[i]);
    }
    mem_free(s->list);
    mem_free(s);
    ln->step = NULL;
}

size_t step_bytes(const struct cuda_lane *ln)
{
    return sizeof(struct step) + replay_bytes() + LIST_BYTES + (1 + RING) * ln->step->size;
}

/* ---- arguments ---- */

void *args_room(struct cuda_lane *ln, size_t bytes)
{
    struct step *s = ln->step;
    assert(bytes <= s->size - s->used && "args_need_op asks for less than the op takes");
    (void)bytes;
    return s->host[s->now] + s->used;
}

void *args_put(struct cuda_lane *ln, size_t bytes)
{
    struct step *s = ln->step;
    char *at = s->device + s->used;
    s->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

/* From the start of the next pinned memory. Nothing of the old may be waiting for its copy. */
static cudaError_t restart_args(struct cuda_lane *ln)
{
    struct step *s = ln->step;
    if (s->used == 0)
        return cudaSuccess;
    assert(s->bytes == 0);
    cudaError_t e = cudaEventRecord(s->free[s->now], ln->stream);
    s->now = (s->now + 1) % RING;
    s->used = s->copied = 0;
    return e == cudaSuccess ? cudaEventSynchronize(s->free[s->now]) : e;
}

static cudaError_t copy_args(struct cuda_lane *ln)
{
    struct step *s = ln->step;
    size_t n = s->used - s->copied;
    if (n == 0)
        return cudaSuccess;
    const char *from = s->host[s->now] + s->copied;
    cudaError_t e =
        cudaMemcpyAsync(s->device + s->copied, from, n, cudaMemcpyHostToDevice, ln->stream);
    s->copied = s->used;
    return e;
}

/* ---- launches ---- */

struct launch *launch_add(struct cuda_lane *ln, const void *kernel, struct launch_shape shape,
                          int n_param, const size_t *size)
{
    struct step *s = ln->step;
    size_t bytes = sizeof(struct launch);
    for (int i = 0; i < n_param; i++)
        bytes += (size[i] + ALIGN - 1) / ALIGN * ALIGN;
    assert(n_param <= LAUNCH_PARAMS && bytes <= UINT16_MAX);
    if (bytes > LIST_BYTES - s->bytes) {
        enum rxt_status st = step_flush(ln);
        (void)st; /* cuda_done tells */
    }
    struct launch *l = (struct launch *)(void *)(s->list + s->bytes);
    memset(l, 0, bytes);
    l->kernel = kernel;
    l->shape = shape;
    l->bytes = (uint32_t)bytes;
    l->n_param = (uint16_t)n_param;
    size_t at = sizeof *l;
    for (int i = 0; i < n_param; i++) {
        l->at[i] = (uint16_t)at;
        at += (size[i] + ALIGN - 1) / ALIGN * ALIGN;
    }
    s->bytes += bytes;
    return l;
}

/* The launch at `at` of a list, as the runtime wants it; param: LAUNCH_PARAMS addresses. */
static struct cudaKernelNodeParams node_of(char *list, size_t at, void **param)
{
    struct launch *l = (struct launch *)(void *)(list + at);
    for (int i = 0; i < l->n_param; i++)
        param[i] = (char *)l + l->at[i];
    return (struct cudaKernelNodeParams){
        .func = (void *)(uintptr_t)l->kernel,
        .gridDim = {l->shape.grid[0], l->shape.grid[1], l->shape.grid[2]},
        .blockDim = {l->shape.block, 1, 1},
        .sharedMemBytes = l->shape.shared,
        .kernelParams = param,
    };
}

static size_t next_at(const char *list, size_t at)
{
    return at + ((const struct launch *)(const void *)(list + at))->bytes;
}

/* Lets a launch have the dynamic shared memory that it asks for, and the kernel as much as there
 * is: the same however launches and graphs of it follow each other. */
static cudaError_t allow_shared(struct step *s, const void *kernel, size_t bytes)
{
    struct cudaFuncAttributes a;
    if (bytes <= SHARED_PLAIN)
        return cudaSuccess;
    for (int i = 0; i < s->n_allowed; i++)
        if (s->allowed[i] == kernel)
            return cudaSuccess;
    cudaError_t e = cudaFuncGetAttributes(&a, kernel);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 s->shared_most - (int)a.sharedSizeBytes);
    if (e == cudaSuccess && s->n_allowed < N_ALLOWED)
        s->allowed[s->n_allowed++] = kernel;
    return e;
}

static cudaError_t launch_all(struct cuda_lane *ln)
{
    struct step *s = ln->step;
    cudaError_t e = cudaSuccess;
    for (size_t at = 0; at < s->bytes && e == cudaSuccess; at = next_at(s->list, at)) {
        void *param[LAUNCH_PARAMS];
        struct cudaKernelNodeParams n = node_of(s->list, at, param);
        e = allow_shared(s, n.func, n.sharedMemBytes);
        if (e == cudaSuccess)
            e = cudaLaunchKernel(n.func, n.gridDim, n.blockDim, n.kernelParams, n.sharedMemBytes,
                                 ln->stream);
    }
    return e;
}

/* A chain: every launch waits for the one before it, as in a stream. */
static cudaError_t add_nodes(struct step *s, cudaGraph_t graph)
{
    cudaGraphNode_t last = NULL;
    for (size_t at = 0; at < s->bytes; at = next_at(s->list, at)) {
        void *param[LAUNCH_PARAMS];
        struct cudaKernelNodeParams n = node_of(s->list, at, param);
        cudaGraphNode_t node;
        cudaError_t e = allow_shared(s, n.func, n.sharedMemBytes);
        if (e == cudaSuccess)
            e = cudaGraphAddKernelNode(&node, graph, &last, at > 0, &n);
        if (e != cudaSuccess)
            return e;
        last = node;
    }
    return cudaSuccess;
}

static cudaError_t make_graph(cudaGraphExec_t *out, struct step *s)
{
    cudaGraph_t graph;
    *out = NULL;
    cudaError_t e = cudaGraphCreate(&graph, 0);
    if (e != cudaSuccess)
        return e;
    e = add_nodes(s, graph);
    if (e == cudaSuccess)
        e = cudaGraphInstantiate(out, graph, 0);
    cudaError_t ended = cudaGraphDestroy(graph);
    return e == cudaSuccess ? ended : e;
}

/* The list as a graph, if there is one or it is time to make one; else launch by launch. */
static cudaError_t start_step(struct cuda_lane *ln)
{
    struct step *s = ln->step;
    cudaGraphExec_t graph = replay_find(s->replay, s->list, s->bytes);
    count_step(graph != NULL);
    if (!graph && replay_again(s->replay, s->list, s->bytes)) {
        cudaError_t e = make_graph(&graph, s);
        if (e == cudaErrorMemoryAllocation)
            (void)cudaGetLastError(); /* it goes without */
        else if (e != cudaSuccess)
            return e;
        if (graph)
            replay_keep(s->replay, s->list, s->bytes, graph);
    }
    return graph ? cudaGraphLaunch(graph, ln->stream) : launch_all(ln);
}

enum rxt_status step_flush(struct cuda_lane *ln)
{
    struct step *s = ln->step;
    if (s->bytes == 0)
        return RXT_OK;
    cudaError_t e = copy_args(ln);
    if (e == cudaSuccess)
        e = fault_start(ln->stream);
    if (e == cudaSuccess)
        e = s->open ? start_step(ln) : launch_all(ln);
    s->bytes = 0;
    return cuda_check(ln->be, e);
}

/* ---- steps ---- */

enum rxt_status step_ready(struct cuda_lane *ln)
{
    struct step *s = ln->step;
    if (s->size - s->used >= s->op_size)
        return RXT_OK;
    TRY(step_flush(ln));
    return cuda_check(ln->be, restart_args(ln));
}

enum rxt_status step_done(struct cuda_lane *ln)
{
    return ln->step->open ? RXT_OK : step_flush(ln);
}

void cuda_step_begin(struct lane *l)
{
    struct cuda_lane *ln = cuda_lane(l);
    assert(!ln->step->open);
    ln->step->open = true;
    enum rxt_status st = cuda_check(ln->be, restart_args(ln));
    (void)st; /* the ops tell */
}

enum rxt_status cuda_step_end(struct lane *l)
{
    struct cuda_lane *ln = cuda_lane(l);
    enum rxt_status st = step_flush(ln);
    ln->step->open = false;
    return st;
}
