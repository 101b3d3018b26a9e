/* The part of the CUDA driver that kernels/cuda/ uses, on the host: partitions of SMs. It is asked
 * for by name, as the runtime does it (partition.c). */
#ifndef RXT_EMULATOR_CUDA_TYPEDEFS_H
#define RXT_EMULATOR_CUDA_TYPEDEFS_H

#include "tests/emulator/cuda_runtime_api.h"

typedef enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_SUPPORTED = 801
} CUresult;

typedef int CUdevice;
typedef struct emulated_green *CUgreenCtx;
typedef struct emulated_green *CUcontext;
typedef struct emulated_resource *CUdevResourceDesc;
typedef struct {
    struct {
        unsigned smCount;
    } sm;
} CUdevResource;
typedef enum { CU_DEV_RESOURCE_TYPE_SM = 1 } CUdevResourceType;
enum { CU_GREEN_CTX_DEFAULT_STREAM = 1, CU_STREAM_NON_BLOCKING = 1 };

typedef struct {
    unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
    void **kernelParams;
    cudaKernel_t kern;
    CUcontext ctx;
} CUDA_KERNEL_NODE_PARAMS;

typedef CUresult (*PFN_cuDeviceGetDevResource_v12040)(CUdevice device, CUdevResource *out,
                                                      CUdevResourceType type);
typedef CUresult (*PFN_cuDevSmResourceSplitByCount_v12040)(CUdevResource *out, unsigned *n,
                                                           const CUdevResource *from,
                                                           CUdevResource *rest, unsigned flags,
                                                           unsigned n_sm);
typedef CUresult (*PFN_cuDevResourceGenerateDesc_v12040)(CUdevResourceDesc *out,
                                                         CUdevResource *resource, unsigned n);
typedef CUresult (*PFN_cuGreenCtxCreate_v12040)(CUgreenCtx *out, CUdevResourceDesc desc,
                                                CUdevice device, unsigned flags);
typedef CUresult (*PFN_cuGreenCtxDestroy_v12040)(CUgreenCtx green);
typedef CUresult (*PFN_cuCtxFromGreenCtx_v12040)(CUcontext *out, CUgreenCtx green);
typedef CUresult (*PFN_cuGreenCtxStreamCreate_v12050)(cudaStream_t *out, CUgreenCtx green,
                                                      unsigned flags, int priority);
typedef CUresult (*PFN_cuGraphAddKernelNode_v12000)(cudaGraphNode_t *node, cudaGraph_t g,
                                                    const cudaGraphNode_t *after, size_t n_after,
                                                    const CUDA_KERNEL_NODE_PARAMS *params);

#endif
