#include "kernels/cuda/partition_impl.h"

#include "kernels/base/mem.h"

#include <cudaTypedefs.h>
#include <string.h>

struct partition {
    int n_sm;
    CUgreenCtx green;
    CUcontext context; /* of it, for nodes of graphs */
    PFN_cuGreenCtxDestroy_v12040 destroy;
    PFN_cuGreenCtxStreamCreate_v12050 stream_create;
    PFN_cuGraphAddKernelNode_v12000 add_kernel;
};

/* Puts into *f, which points to a function, the driver's function of this name as the CUDA version
 * brought it; nothing links libcuda. */
static bool find(void *f, const char *name, unsigned version)
{
    enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    void *at = NULL;
    if (cudaGetDriverEntryPointByVersion(name, &at, version, cudaEnableDefault, &found) !=
        cudaSuccess)
        (void)cudaGetLastError();
    memcpy(f, &at, sizeof at);
    return found == cudaDriverEntryPointSuccess && at;
}

/* What partition_create needs besides. */
struct driver {
    PFN_cuDeviceGetDevResource_v12040 resource;
    PFN_cuDevSmResourceSplitByCount_v12040 split;
    PFN_cuDevResourceGenerateDesc_v12040 describe;
    PFN_cuGreenCtxCreate_v12040 create;
    PFN_cuCtxFromGreenCtx_v12040 context;
};

static bool find_all(struct partition *p, struct driver *d)
{
    return find(&p->destroy, "cuGreenCtxDestroy", 12040) &&
           find(&p->stream_create, "cuGreenCtxStreamCreate", 12050) &&
           find(&p->add_kernel, "cuGraphAddKernelNode", 12000) &&
           find(&d->resource, "cuDeviceGetDevResource", 12040) &&
           find(&d->split, "cuDevSmResourceSplitByCount", 12040) &&
           find(&d->describe, "cuDevResourceGenerateDesc", 12040) &&
           find(&d->create, "cuGreenCtxCreate", 12040) &&
           find(&d->context, "cuCtxFromGreenCtx", 12040);
}

/* At most a third of the card. */
static CUresult split(struct partition *p, int n_sm)
{
    struct driver d;
    CUdevResource all, part;
    CUdevResourceDesc desc;
    unsigned n = 1;
    if (!find_all(p, &d))
        return CUDA_ERROR_NOT_SUPPORTED;
    CUresult r = d.resource(0, &all, CU_DEV_RESOURCE_TYPE_SM);
    if (r == CUDA_SUCCESS && all.sm.smCount < 3 * (unsigned)n_sm)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (r == CUDA_SUCCESS)
        r = d.split(&part, &n, &all, NULL, 0, (unsigned)n_sm);
    if (r == CUDA_SUCCESS && n != 1)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (r == CUDA_SUCCESS)
        r = d.describe(&desc, &part, 1);
    if (r == CUDA_SUCCESS)
        r = d.create(&p->green, desc, 0, CU_GREEN_CTX_DEFAULT_STREAM);
    if (r == CUDA_SUCCESS)
        r = d.context(&p->context, p->green);
    if (r == CUDA_SUCCESS)
        p->n_sm = (int)part.sm.smCount;
    return r;
}

enum rxt_status partition_create(struct partition **out, int n_sm)
{
    *out = mem_alloc(sizeof **out);
    if (!*out)
        return RXT_ENOMEM;
    CUresult r = split(*out, n_sm);
    if (r != CUDA_SUCCESS)
        partition_destroy(out);
    return r == CUDA_ERROR_OUT_OF_MEMORY ? RXT_ENOMEM : RXT_OK;
}

void partition_destroy(struct partition **p)
{
    if (*p && (*p)->green)
        (void)(*p)->destroy((*p)->green);
    mem_free(*p);
    *p = NULL;
}

int partition_sms(const struct partition *p)
{
    return p->n_sm;
}

/* The driver's errors have the numbers of the runtime's. */
cudaError_t partition_stream(cudaStream_t *out, const struct partition *p, int priority)
{
    return (cudaError_t)p->stream_create(out, p->green, CU_STREAM_NON_BLOCKING, priority);
}

cudaError_t partition_add_kernel(cudaGraphNode_t *node, const struct partition *p,
                                 cudaGraph_t graph, const cudaGraphNode_t *after, size_t n_after,
                                 const struct cudaKernelNodeParams *params)
{
    cudaKernel_t kernel;
    cudaError_t e = cudaGetKernel(&kernel, params->func);
    if (e != cudaSuccess)
        return e;
    const CUDA_KERNEL_NODE_PARAMS there = {
        .gridDimX = params->gridDim.x,
        .gridDimY = params->gridDim.y,
        .gridDimZ = params->gridDim.z,
        .blockDimX = params->blockDim.x,
        .blockDimY = params->blockDim.y,
        .blockDimZ = params->blockDim.z,
        .sharedMemBytes = params->sharedMemBytes,
        .kernelParams = params->kernelParams,
        .kern = kernel,
        .ctx = p->context,
    };
    return (cudaError_t)p->add_kernel(node, graph, after, n_after, &there);
}
