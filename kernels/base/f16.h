/* IEEE half precision, as some checkpoints store it: widened exactly; we never write it. */
#ifndef RXT_BASE_F16_H
#define RXT_BASE_F16_H

#include <stdint.h>
#include <string.h>

/* Moves the bits to their places in a float32 and lets one multiplication mend the exponent, which
 * also normalises the subnormal numbers. */
static inline float f16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)(h & 0x7FFFu) << 13, sign = (uint32_t)(h & 0x8000u) << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    f *= 0x1p112f;
    memcpy(&u, &f, sizeof u);
    if ((h & 0x7C00u) == 0x7C00u)
        u |= 0x7F800000u; /* infinity, NaN */
    u |= sign;
    memcpy(&f, &u, sizeof f);
    return f;
}

#endif
