/* Launches of kernels and of graphs of the emulated runtime: done when the call returns. */
#include "kernels/base/mem.h"
#include "tests/emulator/cuda_runtime_api.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/partition.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PARAM = 32, MAX_KERNEL = 512, MAX_AFTER = 64, MAX_NODE = 8192 };

static struct {
    pthread_mutex_t mutex;
    int n;
    struct emulated_kernel kernel[MAX_KERNEL];
} known = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* The mutex is held. */
static struct emulated_kernel *find_locked(const void *kernel)
{
    for (int i = 0; i < known.n; i++)
        if (known.kernel[i].kernel == kernel)
            return &known.kernel[i];
    return NULL;
}

const struct emulated_kernel *emulator_kernel(const void *kernel)
{
    (void)pthread_mutex_lock(&known.mutex);
    const struct emulated_kernel *k = find_locked(kernel);
    (void)pthread_mutex_unlock(&known.mutex);
    return k;
}

const void *emulator_know(struct emulated_kernel k)
{
    k.shared = (size_t)48 << 10;
    (void)pthread_mutex_lock(&known.mutex);
    if (!find_locked(k.kernel)) {
        assert(known.n < MAX_KERNEL);
        known.kernel[known.n++] = k;
    }
    (void)pthread_mutex_unlock(&known.mutex);
    return k.kernel;
}

/* Whether a launch may ask for so much dynamic shared memory. */
static bool may_share(const void *kernel, size_t bytes)
{
    (void)pthread_mutex_lock(&known.mutex);
    const struct emulated_kernel *k = find_locked(kernel);
    bool may = k && bytes <= k->shared;
    (void)pthread_mutex_unlock(&known.mutex);
    return may;
}

static struct {
    atomic_uint_fast64_t kernels, graphs, aside;
    atomic_int n_graph;
} counts;

struct emulated_counts emulator_counts(void)
{
    return (struct emulated_counts){counts.kernels, counts.graphs, counts.aside, counts.n_graph};
}

static struct emulated_index index_of(dim3 d)
{
    return (struct emulated_index){d.x, d.y, d.z};
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *kernel, void **param)
{
    if (!c->stream || c->gridDim.x == 0 || c->gridDim.y == 0 || c->gridDim.z == 0 ||
        c->blockDim.x == 0)
        return cudaErrorInvalidValue;
    if (emulator_fault() == EMULATED_LAUNCH)
        return cudaErrorLaunchFailure;
    if (!may_share(kernel, c->dynamicSmemBytes))
        return cudaErrorInvalidValue;
    counts.kernels++;
    counts.aside += emulator_is_aside(c->stream);
    emulator_launch(index_of(c->gridDim), index_of(c->blockDim), c->dynamicSmemBytes,
                    emulator_kernel(kernel), param);
    return cudaSuccess;
}

/* Static shared memory is not known here: as if there was none. */
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *kernel)
{
    *a = (struct cudaFuncAttributes){0};
    return emulator_kernel(kernel) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attr, int value)
{
    if (attr == cudaFuncAttributePreferredSharedMemoryCarveout)
        return value >= 0 && value <= 100 && emulator_kernel(kernel) ? cudaSuccess
                                                                     : cudaErrorInvalidValue;
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > 227 << 10)
        return cudaErrorInvalidValue;
    (void)pthread_mutex_lock(&known.mutex);
    struct emulated_kernel *k = find_locked(kernel);
    if (k)
        k->shared = (size_t)value;
    (void)pthread_mutex_unlock(&known.mutex);
    return k ? cudaSuccess : cudaErrorInvalidValue;
}

/* ---- graphs of kernels, not on the project's heap, as a driver's are not ---- */

struct emulated_node {
    struct cudaKernelNodeParams launch;
    void *param[MAX_PARAM];                /* copies */
    int number, after[MAX_AFTER], n_after; /* numbers of the nodes it waits for */
    bool done, aside;
    struct emulated_node *next;
};
struct emulated_graph {
    struct emulated_node *first, *last;
};

cudaError_t cudaGraphCreate(cudaGraph_t *g, unsigned flags)
{
    (void)flags;
    *g = calloc(1, sizeof **g);
    return *g ? cudaSuccess : cudaErrorMemoryAllocation;
}

static void free_node(struct emulated_node *n)
{
    for (int i = 0; i < MAX_PARAM; i++)
        free(n->param[i]);
    free(n);
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    while (g->first) {
        struct emulated_node *n = g->first;
        g->first = n->next;
        free_node(n);
    }
    free(g);
    return cudaSuccess;
}

/* Adds a node behind those of the numbers `after`. */
static cudaError_t add_node(struct emulated_node **node, cudaGraph_t g, const int *after,
                            size_t n_after, const struct cudaKernelNodeParams *params)
{
    const struct emulated_kernel *k = emulator_kernel(params->func);
    int number = g->last ? g->last->number + 1 : 0;
    if (!may_share(params->func, params->sharedMemBytes) || n_after > MAX_AFTER ||
        number == MAX_NODE || k->n_param > MAX_PARAM)
        return cudaErrorInvalidValue;
    struct emulated_node *n = calloc(1, sizeof *n);
    if (!n)
        return cudaErrorMemoryAllocation;
    n->number = number;
    n->n_after = (int)n_after;
    if (n_after > 0)
        memcpy(n->after, after, n_after * sizeof *after);
    n->launch = *params;
    n->launch.kernelParams = n->param;
    for (int i = 0; i < k->n_param; i++) {
        n->param[i] = malloc(k->size[i]);
        if (!n->param[i]) {
            free_node(n);
            return cudaErrorMemoryAllocation;
        }
        memcpy(n->param[i], params->kernelParams[i], k->size[i]);
    }
    *node = n;
    *(g->last ? &g->last->next : &g->first) = n;
    g->last = n;
    return cudaSuccess;
}

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t *node, cudaGraph_t g,
                                   const cudaGraphNode_t *after, size_t n_after,
                                   const struct cudaKernelNodeParams *params)
{
    int number[MAX_AFTER];
    for (size_t i = 0; i < n_after && i < MAX_AFTER; i++)
        number[i] = after[i]->number;
    return add_node(node, g, number, n_after, params);
}

void emulator_put_node_aside(cudaGraphNode_t node)
{
    node->aside = true;
}

/* Of the node added last, by the edge of a launch that may start early. */
cudaError_t cudaGraphAddDependencies(cudaGraph_t g, const cudaGraphNode_t *from,
                                     const cudaGraphNode_t *to, const cudaGraphEdgeData *edge,
                                     size_t n)
{
    if (n != 1 || *to != g->last || *from == *to || (*to)->n_after != 0 ||
        edge->from_port != cudaGraphKernelNodePortProgrammatic || edge->to_port != 0 ||
        edge->type != cudaGraphDependencyTypeProgrammatic)
        return cudaErrorInvalidValue;
    (*to)->after[(*to)->n_after++] = (*from)->number;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long flags)
{
    (void)flags;
    if (emulator_fault() == EMULATED_NO_GRAPH)
        return cudaErrorMemoryAllocation;
    cudaError_t e = cudaGraphCreate(exec, 0);
    cudaGraphNode_t last = NULL;
    for (struct emulated_node *n = g->first; n && e == cudaSuccess; n = n->next) {
        e = add_node(&last, *exec, n->after, (size_t)n->n_after, &n->launch);
        if (e == cudaSuccess)
            last->aside = n->aside;
    }
    if (e == cudaSuccess) {
        counts.n_graph++;
    } else if (*exec) {
        (void)cudaGraphDestroy(*exec);
        *exec = NULL;
    }
    return e;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    counts.n_graph--;
    return cudaGraphDestroy(exec);
}

/* It has not run, but all it waits for. */
static bool is_ready(struct emulated_node *const *node, const struct emulated_node *n)
{
    for (int i = 0; i < n->n_after; i++)
        if (!node[n->after[i]]->done)
            return false;
    return !n->done;
}

/* One order of many: of the nodes that are ready the one added first, or last. */
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    static _Thread_local struct emulated_node *node[MAX_NODE];
    int count = 0;
    if (!s)
        return cudaErrorInvalidValue;
    if (emulator_fault() == EMULATED_LAUNCH)
        return cudaErrorLaunchFailure;
    counts.graphs++;
    for (struct emulated_node *n = exec->first; n; n = n->next) {
        n->done = false;
        node[count++] = n;
    }
    for (int left = count; left > 0; left--) {
        int i = emulator_is_backwards() ? count - 1 : 0, step = i > 0 ? -1 : 1;
        while (!is_ready(node, node[i]))
            i += step;
        struct emulated_node *n = node[i];
        emulator_launch(index_of(n->launch.gridDim), index_of(n->launch.blockDim),
                        n->launch.sharedMemBytes, emulator_kernel(n->launch.func), n->param);
        n->done = true;
        counts.aside += n->aside;
    }
    return cudaSuccess;
}
