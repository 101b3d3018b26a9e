#include "kernels/cuda/fault_impl.h"

#include "kernels/base/fault.h"

static struct fault_order fault_order;
static pthread_once_t fault_once = PTHREAD_ONCE_INIT;

static void fault_read(void)
{
    fault_order_read(&fault_order, "RXT_DEVICE_FAULT");
}

static bool is_due(const char *point)
{
    pthread_once(&fault_once, fault_read);
    return fault_due(&fault_order, point);
}

cudaError_t fault_error(const char *point)
{
    return is_due(point) ? cudaErrorLaunchFailure : cudaSuccess;
}

cudaError_t fault_start(cudaStream_t stream)
{
    if (is_due("kernel"))
        return fault_kernel(stream);
    return fault_error("launch");
}
