#include "kernels/cuda/step_impl.h"

#include "kernels/base/count.h"
#include "kernels/base/mem.h"
#include "kernels/cuda/fault_impl.h"
#include "kernels/cuda/partition_impl.h"
#include "kernels/cuda/replay_impl.h"
#include "kernels/cuda/scratch_impl.h"

#include <assert.h>
#include <string.h>

#define LIST_BYTES ((size_t)512 << 10) /* launches take 100 to 400 */
#define RING 3
#define SHARED_PLAIN 20480 /* dynamic shared memory of any kernel; 48 KB with static */
#define SHARED_PERCENT 44  /* of an SM's memory that is shared while such kernels run: 100 KB */
#define N_KNOWN 64         /* kernels that a lane remembers to have set up */
#define ALIGN ((size_t)16) /* of parameters and arguments */
#define TAIL 64            /* launches that one may wait for */
/* Launches after which an open step starts what is on the list, so that the device has work while
 * the host goes on: first, and then. A part costs the device a few us, so a small model has one. */
#define PART_FIRST 64
#define PART_NEXT 128

static_assert(sizeof(struct launch) % ALIGN == 0 && offsetof(struct launch, at) == 34);

struct step {
    bool open;
    int part;   /* launches on the list that start; PART_* */
    char *list; /* launches behind one another; without a kernel: put_branch */
    size_t bytes;
    int n_launch;             /* on the list */
    bool branched;            /* put_branch is on it */
    struct replay *replay[2]; /* on the whole card; in the partition, of a memory lane */
    int shared_most;          /* of a block, bytes */
    int n_known;
    struct {
        const void *kernel;
        bool much; /* may have all of it */
    } known[N_KNOWN];
    /* Arguments: [0,copied) are on their way to the device, [copied,used) are not. */
    size_t size, op_size, used, copied;
    char *device;
    char *host[RING]; /* pinned */
    cudaEvent_t free[RING];
    int now;
};

/* ---- create ---- */

static int n_replay(const struct cuda_lane *ln)
{
    return ln->be->aside && ln->base.priority == LANE_MEMORY ? 2 : 1;
}

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
    for (int i = 0; i < n_replay(ln); i++)
        TRY(replay_create(&s->replay[i], drop_graph));
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
    for (int i = 0; i < 2; i++)
        replay_destroy(&s->replay[i]);
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
    return sizeof(struct step) + (size_t)n_replay(ln) * replay_bytes() + LIST_BYTES +
           (1 + RING) * ln->step->size;
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
    assert(s->n_launch == 0);
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
    bool part = s->open && !s->branched && ln->branch == 0 && s->n_launch == s->part;
    if (part || bytes > LIST_BYTES - s->bytes) {
        enum rxt_status st = step_flush(ln);
        (void)st; /* cuda_done tells */
        s->part = PART_NEXT;
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
    s->n_launch += kernel != NULL;
    return l;
}

/* What follows on the list is of this branch, behind `after` too. */
static void put_branch(struct cuda_lane *ln, int32_t branch, int32_t after)
{
    const struct launch_shape shape = {.grid = {(uint32_t)branch, (uint32_t)after}};
    (void)launch_add(ln, NULL, shape, 0, NULL);
    ln->step->branched = true;
}

/* The launch at `at` of a list, as the runtime wants it; param: LAUNCH_PARAMS addresses. */
static struct cudaKernelNodeParams node_of(char *list, size_t at, void **param)
{
    struct launch *l = (struct launch *)(void *)(list + at);
    for (int i = 0; i < l->n_param; i++)
        param[i] = (char *)l + l->at[i];
    return (struct cudaKernelNodeParams){
        /* NOLINTNEXTLINE(performance-no-int-to-ptr): the runtime's field is not const */
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
 * is: the same however launches and graphs of it follow each other. The others cut an SM's memory
 * alike, because only kernels that do can be on it together. */
static cudaError_t set_up(struct step *s, const void *kernel, size_t bytes)
{
    struct cudaFuncAttributes a;
    bool much = bytes > SHARED_PLAIN;
    for (int i = 0; i < s->n_known; i++)
        if (s->known[i].kernel == kernel && s->known[i].much == much)
            return cudaSuccess;
    cudaError_t e = cudaFuncGetAttributes(&a, kernel);
    if (e == cudaSuccess && much)
        e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 s->shared_most - (int)a.sharedSizeBytes);
    if (e == cudaSuccess && !much)
        e = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                 SHARED_PERCENT);
    if (e == cudaSuccess && s->n_known < N_KNOWN) {
        s->known[s->n_known].kernel = kernel;
        s->known[s->n_known++].much = much;
    }
    return e;
}

/* Launches follow each other as in a stream, but each may start while the one before it runs: its
 * kernel waits (device_impl.cuh). */
static cudaError_t launch_all(struct cuda_lane *ln, cudaStream_t stream)
{
    struct step *s = ln->step;
    cudaError_t e = cudaSuccess;
    for (size_t at = 0; at < s->bytes && e == cudaSuccess; at = next_at(s->list, at)) {
        void *param[LAUNCH_PARAMS];
        struct cudaKernelNodeParams n = node_of(s->list, at, param);
        if (!n.func)
            continue;
        cudaLaunchAttribute early = {.id = cudaLaunchAttributeProgrammaticStreamSerialization,
                                     .val.programmaticStreamSerializationAllowed = 1};
        const cudaLaunchConfig_t config = {
            .gridDim = n.gridDim,
            .blockDim = n.blockDim,
            .dynamicSmemBytes = n.sharedMemBytes,
            .stream = stream,
            .attrs = &early,
            .numAttrs = 1,
        };
        e = set_up(s, n.func, n.sharedMemBytes);
        if (e == cudaSuccess)
            e = cudaLaunchKernelExC(&config, n.func, n.kernelParams);
    }
    return e;
}

/* In the partition, between what the lane's stream has before and behind it. */
static cudaError_t launch_aside(struct cuda_lane *ln)
{
    cudaError_t e = cudaEventRecord(ln->turn, ln->stream);
    if (e == cudaSuccess)
        e = cudaStreamWaitEvent(ln->aside, ln->turn, 0);
    if (e == cudaSuccess)
        e = launch_all(ln, ln->aside);
    if (e == cudaSuccess)
        e = cudaEventRecord(ln->turn, ln->aside);
    return e == cudaSuccess ? cudaStreamWaitEvent(ln->stream, ln->turn, 0) : e;
}

static cudaError_t launch_each(struct cuda_lane *ln, bool aside)
{
    return aside ? launch_aside(ln) : launch_all(ln, ln->stream);
}

/* What the next launch of a branch waits for. */
struct tail {
    int n;
    cudaGraphNode_t node[TAIL];
};

static void wait_for(struct tail *t, const struct tail *other)
{
    for (int i = 0; i < other->n; i++) {
        int k = 0;
        while (k < t->n && t->node[k] != other->node[i])
            k++;
        assert(k < TAIL);
        t->node[k] = other->node[i];
        t->n += k == t->n;
    }
}

/* Every launch waits for the one before it on its branch, as in a stream, and for those that
 * put_branch names. It may start early in a chain only: beside other branches its blocks, which
 * wait, would take the place of blocks that could run. */
static cudaError_t add_nodes(struct step *s, cudaGraph_t graph, const struct partition *aside)
{
    static const cudaGraphEdgeData early = {.from_port = cudaGraphKernelNodePortProgrammatic,
                                            .type = cudaGraphDependencyTypeProgrammatic};
    struct tail tail[LANE_BRANCHES], *now = tail;
    memset(tail, 0, sizeof tail);
    for (size_t at = 0; at < s->bytes; at = next_at(s->list, at)) {
        void *param[LAUNCH_PARAMS];
        struct cudaKernelNodeParams n = node_of(s->list, at, param);
        if (!n.func) {
            now = &tail[n.gridDim.x];
            wait_for(now, &tail[n.gridDim.y]);
            continue;
        }
        cudaGraphNode_t node;
        cudaError_t e = set_up(s, n.func, n.sharedMemBytes);
        size_t n_after = s->branched ? (size_t)now->n : 0;
        if (e == cudaSuccess)
            e = aside ? partition_add_kernel(&node, aside, graph, now->node, n_after, &n)
                      : cudaGraphAddKernelNode(&node, graph, now->node, n_after, &n);
        if (e == cudaSuccess && now->n > 0 && !s->branched)
            e = cudaGraphAddDependencies(graph, now->node, &node, &early, 1);
        if (e != cudaSuccess)
            return e;
        now->node[0] = node;
        now->n = 1;
    }
    return cudaSuccess;
}

static cudaError_t make_graph(cudaGraphExec_t *out, struct step *s, const struct partition *aside)
{
    cudaGraph_t graph;
    *out = NULL;
    cudaError_t e = cudaGraphCreate(&graph, 0);
    if (e != cudaSuccess)
        return e;
    e = add_nodes(s, graph, aside);
    if (e == cudaSuccess)
        e = cudaGraphInstantiate(out, graph, 0);
    cudaError_t ended = cudaGraphDestroy(graph);
    return e == cudaSuccess ? ended : e;
}

/* Whether the list came before, here, or often enough for a graph in the other place. */
static bool comes_again(struct step *s, bool aside)
{
    struct replay *other = s->replay[!aside];
    return (other && replay_find(other, s->list, s->bytes)) ||
           replay_again(s->replay[aside], s->list, s->bytes);
}

/* The list as a graph, if there is one or it is time to make one; else launch by launch. */
static cudaError_t start_step(struct cuda_lane *ln, bool aside)
{
    struct step *s = ln->step;
    struct replay *replay = s->replay[aside];
    cudaGraphExec_t graph = replay_find(replay, s->list, s->bytes);
    count_step(graph != NULL);
    if (!graph && comes_again(s, aside)) {
        cudaError_t e = make_graph(&graph, s, aside ? ln->be->aside : NULL);
        if (e == cudaErrorMemoryAllocation)
            (void)cudaGetLastError(); /* it goes without */
        else if (e != cudaSuccess)
            return e;
        if (graph)
            replay_keep(replay, s->list, s->bytes, graph);
    }
    return graph ? cudaGraphLaunch(graph, ln->stream) : launch_each(ln, aside);
}

static cudaError_t start(struct cuda_lane *ln)
{
    bool aside = cuda_stands_aside(ln);
    return ln->step->open ? start_step(ln, aside) : launch_each(ln, aside);
}

enum rxt_status step_flush(struct cuda_lane *ln)
{
    struct step *s = ln->step;
    cudaError_t e = cudaSuccess;
    if (s->n_launch > 0)
        e = copy_args(ln);
    if (s->n_launch > 0 && e == cudaSuccess)
        e = fault_start(ln->stream);
    if (s->n_launch > 0 && e == cudaSuccess)
        e = start(ln);
    s->bytes = 0;
    s->n_launch = 0;
    s->branched = false;
    if (ln->branch > 0)
        put_branch(ln, ln->branch, ln->branch);
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
    ln->step->part = PART_FIRST;
    enum rxt_status st = cuda_check(ln->be, restart_args(ln));
    (void)st; /* the ops tell */
}

enum rxt_status cuda_step_end(struct lane *l)
{
    struct cuda_lane *ln = cuda_lane(l);
    ln->branch = 0;
    enum rxt_status st = step_flush(ln);
    ln->step->open = false;
    return st;
}

void cuda_branch(struct lane *l, int32_t branch, int32_t after)
{
    struct cuda_lane *ln = cuda_lane(l);
    ln->branch = branch;
    put_branch(ln, branch, after);
}
