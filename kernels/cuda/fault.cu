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
    const cudaLaunchConfig_t one = {dim3(1), dim3(1), 0, stream, nullptr, 0};
    return cudaLaunchKernelExC(&one, KERNEL_ENTRY(broken), nullptr);
}
