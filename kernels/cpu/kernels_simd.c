#include "kernels/cpu/simd_impl.h"

#include "kernels/cpu/kernels_impl.h"

const struct kernels SIMD(kernels) = {
#define KERNELS_ROW(name) .name = SIMD(name),
    KERNELS(KERNELS_ROW)
#undef KERNELS_ROW
};
