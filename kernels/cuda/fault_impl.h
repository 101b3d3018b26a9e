/* Faults of the device on purpose, for tests of what becomes of sessions then. */
#ifndef RXT_CUDA_FAULT_IMPL_H
#define RXT_CUDA_FAULT_IMPL_H

#include "kernels/cuda/cuda_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The device fails when the process gets to a point for the nth time: RXT_DEVICE_FAULT=point:n in
 * the environment. Points: launch (it refuses to start kernels), wait (the lane learns of a fault
 * where it waits), copy (a lane's, between host and device), kernel (a kernel breaks, as one with a
 * wild address does: a real fault, after which the driver refuses the process everything). */

/* cudaSuccess, or the fault of this point. */
cudaError_t fault_error(const char *point);
/* Before kernels are started: points launch and kernel. */
cudaError_t fault_start(cudaStream_t stream);
/* The kernel that breaks. */
cudaError_t fault_kernel(cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
