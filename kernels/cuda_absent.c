/* Stands in for kernels/cuda/ in a build without CUDA. */
#include "kernels/backend_impl.h"

enum rxt_status cuda_backend_create(struct backend **out, const struct backend_config *cfg,
                                    struct rxt_error *err)
{
    (void)out;
    (void)cfg;
    return rxt_fail(err, RXT_EUNSUPPORTED,
                    "backend cuda is not built in (cmake --preset cuda); use cpu");
}
