#include "kernels/cuda/fault_impl.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static char fault_name[16];
static atomic_long fault_left;
static pthread_once_t fault_once = PTHREAD_ONCE_INIT;

static void fault_read(void)
{
    const char *spec = getenv("RXT_DEVICE_FAULT");
    const char *colon = spec ? strchr(spec, ':') : NULL;
    if (!colon || (size_t)(colon - spec) >= sizeof fault_name)
        return;
    memcpy(fault_name, spec, (size_t)(colon - spec));
    atomic_store(&fault_left, strtol(colon + 1, NULL, 10));
}

static bool is_due(const char *point)
{
    pthread_once(&fault_once, fault_read);
    return fault_name[0] && strcmp(point, fault_name) == 0 && atomic_fetch_sub(&fault_left, 1) == 1;
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
