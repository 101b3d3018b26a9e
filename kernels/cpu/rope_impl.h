/* Rotary positions of the CPU backend. */
#ifndef RXT_CPU_ROPE_IMPL_H
#define RXT_CPU_ROPE_IMPL_H

#include "kernels/cpu/attend_impl.h"

struct cpu_rope {
    struct weight base;
    float *cos, *sin; /* [n_pos, hd/2] */
};

void cpu_rope_destroy(struct weight *w);

/* The tables of a weight; none of NULL. */
struct rotation rope_rotation(const struct weight *rope);

/* cos and sin of a float32 angle, rounded to float32 once. Own polynomials in double, because the
 * table is part of the bit class and a libm is not. */
void rope_sincos(float angle, float *sin, float *cos);

#endif
