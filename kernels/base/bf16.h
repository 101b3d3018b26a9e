/* bfloat16: the upper half of a float32. Widening is exact; narrowing rounds to nearest, ties to
 * even, and keeps NaN a (quiet) NaN. */
#ifndef RXT_BASE_BF16_H
#define RXT_BASE_BF16_H

#include <stdint.h>
#include <string.h>

typedef uint16_t bf16; /* the one typedef of a scalar: bits, not a number */

static inline float bf16_to_f32(bf16 h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline bf16 bf16_from_f32(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u)
        return (bf16)((u >> 16) | 0x0040u);
    u += 0x7FFFu + ((u >> 16) & 1u);
    return (bf16)(u >> 16);
}

#endif
