/* fault.cu - a kernel that breaks on purpose (fault_impl.h).
 * Shapes   none.
 * Launch   one thread; started by tests only.
 * Roofline none.
 * Order    none. */
#include "kernels/cuda/fault_impl.h"

#include "kernels/cuda/device_impl.cuh"

static __global__ void broken()
{
    start_and_wait();
    __trap();
}

extern "C" cudaError_t fault_kernel(cudaStream_t stream)
{
    cudaLaunchConfig_t one = {};
    one.gridDim = one.blockDim = dim3(1);
    one.stream = stream;
    return cudaLaunchKernelExC(&one, KERNEL_ENTRY(broken), nullptr);
}
