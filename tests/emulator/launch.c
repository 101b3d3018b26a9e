/* Launches of kernels and of graphs of the emulated runtime: done when the call returns. */
#include "kernels/base/mem.h"
#include "tests/emulator/cuda_runtime_api.h"
#include "tests/emulator/emulator.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PARAM = 32, MAX_KERNEL = 512 };

static struct {
    pthread_mutex_t mutex;
    int n;
    struct emulated_kernel kernel[MAX_KERNEL];
} known = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static struct emulated_kernel *find(const void *kernel)
{
    struct emulated_kernel *k = NULL;
    (void)pthread_mutex_lock(&known.mutex);
    for (int i = 0; i < known.n && !k; i++)
        if (known.kernel[i].kernel == kernel)
            k = &known.kernel[i];
    (void)pthread_mutex_unlock(&known.mutex);
    return k;
}

const struct emulated_kernel *emulator_kernel(const void *kernel)
{
    return find(kernel);
}

const void *emulator_know(struct emulated_kernel k)
{
    if (find(k.kernel))
        return k.kernel;
    k.shared = (size_t)48 << 10;
    (void)pthread_mutex_lock(&known.mutex);
    assert(known.n < MAX_KERNEL);
    known.kernel[known.n++] = k; /* twice, if two threads come at once: no harm */
    (void)pthread_mutex_unlock(&known.mutex);
    return k.kernel;
}

static struct emulated_counts counts;

struct emulated_counts emulator_counts(void)
{
    return counts;
}

static struct emulated_index index_of(dim3 d)
{
    return (struct emulated_index){d.x, d.y, d.z};
}

cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **param, size_t shared,
                             cudaStream_t s)
{
    if (!s || grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0)
        return cudaErrorInvalidValue;
    if (emulator_fault() == EMULATED_LAUNCH)
        return cudaErrorLaunchFailure;
    if (shared > find(kernel)->shared)
        return cudaErrorInvalidValue;
    counts.kernels++;
    emulator_launch(index_of(grid), index_of(block), shared, emulator_kernel(kernel), param);
    return cudaSuccess;
}

/* Static shared memory is not known here: as if there was none. */
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *kernel)
{
    *a = (struct cudaFuncAttributes){0};
    return find(kernel) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attr, int value)
{
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > 227 << 10)
        return cudaErrorInvalidValue;
    find(kernel)->shared = (size_t)value;
    return cudaSuccess;
}

/* ---- graphs: chains of kernels, not on the project's heap, as a driver's are not ---- */

struct emulated_node {
    struct cudaKernelNodeParams launch;
    void *param[MAX_PARAM]; /* copies */
    struct emulated_node *before, *next;
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

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    while (g->first) {
        struct emulated_node *n = g->first;
        g->first = n->next;
        for (int i = 0; i < MAX_PARAM; i++)
            free(n->param[i]);
        free(n);
    }
    free(g);
    return cudaSuccess;
}

/* A node comes after the one added last, and after no other: a chain. */
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t *node, cudaGraph_t g,
                                   const cudaGraphNode_t *after, size_t n_after,
                                   const struct cudaKernelNodeParams *params)
{
    const struct emulated_kernel *k = emulator_kernel(params->func);
    if (params->sharedMemBytes > k->shared || n_after != (g->last ? 1u : 0u) ||
        (g->last && after[0] != g->last) || k->n_param > MAX_PARAM)
        return cudaErrorInvalidValue;
    struct emulated_node *n = *node = calloc(1, sizeof *n);
    if (!n)
        return cudaErrorMemoryAllocation;
    n->launch = *params;
    n->launch.kernelParams = n->param;
    for (int i = 0; i < k->n_param; i++) {
        n->param[i] = malloc(k->size[i]);
        if (n->param[i])
            memcpy(n->param[i], params->kernelParams[i], k->size[i]);
    }
    *(g->last ? &g->last->next : &g->first) = n;
    g->last = n;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long flags)
{
    (void)flags;
    if (emulator_fault() == EMULATED_NO_GRAPH)
        return cudaErrorMemoryAllocation;
    cudaError_t e = cudaGraphCreate(exec, 0);
    cudaGraphNode_t last = NULL;
    for (struct emulated_node *n = g->first; n && e == cudaSuccess; n = n->next)
        e = cudaGraphAddKernelNode(&last, *exec, &last, last != NULL, &n->launch);
    counts.n_graph += e == cudaSuccess;
    return e;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    counts.n_graph--;
    return cudaGraphDestroy(exec);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    if (!s)
        return cudaErrorInvalidValue;
    if (emulator_fault() == EMULATED_LAUNCH)
        return cudaErrorLaunchFailure;
    counts.graphs++;
    for (struct emulated_node *n = exec->first; n; n = n->next)
        emulator_launch(index_of(n->launch.gridDim), index_of(n->launch.blockDim),
                        n->launch.sharedMemBytes, emulator_kernel(n->launch.func), n->param);
    return cudaSuccess;
}
