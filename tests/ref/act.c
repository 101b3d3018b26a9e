#include "tests/ref/ref.h"

#include <math.h>

float ref_act(enum ref_mode mode, enum act act, float x)
{
    switch (act) {
    case ACT_NONE:
    case ACT_LINEAR:
        return x;
    case ACT_RELU:
        return x > 0 ? x : 0;
    case ACT_GELU:
        return ref_round(mode, 0.5 * x * (1 + erf(x * 0.70710678118654752440)));
    case ACT_SILU:
        return ref_round(mode, x / (1 + exp(-(double)x)));
    case ACT_SIGMOID:
        return ref_round(mode, 1 / (1 + exp(-(double)x)));
    }
    return 0;
}
