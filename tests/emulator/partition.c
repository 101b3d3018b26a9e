/* Partitions of the emulated device: what is started in one is counted, and runs as all else. */
#include "tests/emulator/partition.h"

#include "kernels/base/mem.h"
#include "tests/emulator/cudaTypedefs.h"
#include "tests/emulator/emulator.h"

#include <string.h>

enum { N_SM = 132, SM_STEP = 8 };

struct emulated_green {
    char none;
};

static CUresult resource(CUdevice device, CUdevResource *out, CUdevResourceType type)
{
    if (device != 0 || type != CU_DEV_RESOURCE_TYPE_SM)
        return CUDA_ERROR_INVALID_VALUE;
    out->sm.smCount = N_SM;
    return CUDA_SUCCESS;
}

static CUresult split(CUdevResource *out, unsigned *n, const CUdevResource *from,
                      CUdevResource *rest, unsigned flags, unsigned n_sm)
{
    out->sm.smCount = (n_sm + SM_STEP - 1) / SM_STEP * SM_STEP;
    if (*n != 1 || flags != 0 || out->sm.smCount > from->sm.smCount)
        return CUDA_ERROR_INVALID_VALUE;
    if (rest)
        rest->sm.smCount = from->sm.smCount - out->sm.smCount;
    return CUDA_SUCCESS;
}

static CUresult describe(CUdevResourceDesc *out, CUdevResource *resource, unsigned n)
{
    *out = (CUdevResourceDesc)(void *)resource;
    return n == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult create(CUgreenCtx *out, CUdevResourceDesc desc, CUdevice device, unsigned flags)
{
    if (!desc || device != 0 || flags != CU_GREEN_CTX_DEFAULT_STREAM)
        return CUDA_ERROR_INVALID_VALUE;
    *out = mem_alloc(sizeof **out);
    return *out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult destroy(CUgreenCtx green)
{
    mem_free(green);
    return CUDA_SUCCESS;
}

static CUresult context(CUcontext *out, CUgreenCtx green)
{
    *out = green;
    return CUDA_SUCCESS;
}

static CUresult stream_create(cudaStream_t *out, CUgreenCtx green, unsigned flags, int priority)
{
    if (!green || flags != CU_STREAM_NON_BLOCKING)
        return CUDA_ERROR_INVALID_VALUE;
    cudaError_t e = cudaStreamCreateWithPriority(out, flags, priority);
    if (e == cudaSuccess)
        emulator_put_aside(*out);
    return (CUresult)e;
}

static CUresult add_kernel(cudaGraphNode_t *node, cudaGraph_t g, const cudaGraphNode_t *after,
                           size_t n_after, const CUDA_KERNEL_NODE_PARAMS *params)
{
    const struct cudaKernelNodeParams here = {
        .func = (void *)params->kern,
        .gridDim = {params->gridDimX, params->gridDimY, params->gridDimZ},
        .blockDim = {params->blockDimX, params->blockDimY, params->blockDimZ},
        .sharedMemBytes = params->sharedMemBytes,
        .kernelParams = params->kernelParams,
    };
    cudaError_t e = cudaGraphAddKernelNode(node, g, after, n_after, &here);
    if (e == cudaSuccess && params->ctx)
        emulator_put_node_aside(*node);
    return (CUresult)e;
}

cudaError_t cudaGetKernel(cudaKernel_t *kernel, const void *entry)
{
    *kernel = (cudaKernel_t)(uintptr_t)entry;
    return emulator_kernel(entry) ? cudaSuccess : cudaErrorInvalidValue;
}

/* A driver that knows no partitions has no such names. */
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **f, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *found)
{
    static const struct {
        const char *name;
        unsigned version;
        void *f;
    } all[] = {
        {"cuDeviceGetDevResource", 12040, (void *)resource},
        {"cuDevSmResourceSplitByCount", 12040, (void *)split},
        {"cuDevResourceGenerateDesc", 12040, (void *)describe},
        {"cuGreenCtxCreate", 12040, (void *)create},
        {"cuGreenCtxDestroy", 12040, (void *)destroy},
        {"cuCtxFromGreenCtx", 12040, (void *)context},
        {"cuGreenCtxStreamCreate", 12050, (void *)stream_create},
        {"cuGraphAddKernelNode", 12000, (void *)add_kernel},
    };
    (void)flags;
    *f = NULL;
    *found = cudaDriverEntryPointSymbolNotFound;
    if (emulator_fault() == EMULATED_NO_PARTITION)
        return cudaSuccess;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].name, name) == 0 && all[i].version == version) {
            *f = all[i].f;
            *found = cudaDriverEntryPointSuccess;
        }
    return cudaSuccess;
}
