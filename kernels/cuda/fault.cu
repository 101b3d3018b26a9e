/* fault.cu - a kernel that breaks on purpose (fault_impl.h).
 * Shapes   none.
 * Launch   one thread; started by tests only.
 * Roofline none.
 * Order    none. */
#include "kernels/cuda/fault_impl.h"

#include "kernels/cuda/device_impl.cuh"

static __global__ void broken()
{
    __trap();
}

extern "C" cudaError_t fault_kernel(cudaStream_t stream)
{
    return cudaLaunchKernel(KERNEL_ENTRY(broken), 1, 1, nullptr, 0, stream);
}
