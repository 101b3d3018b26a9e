/* Which instruction set the CPU backend may use on this machine. */
#ifndef RXT_BASE_CPU_H
#define RXT_BASE_CPU_H

#include "kernels/base/status.h"

enum cpu_isa { CPU_SCALAR, CPU_AVX2, CPU_AVX512 }; /* each includes the ones before it */

/* The best one of this machine (AVX2 means AVX2 + FMA; AVX512 means F, BW, DQ and VL), or what the
 * environment variable RXT_ISA = scalar | avx2 | avx512 asks for. EUNSUPPORTED if the machine
 * lacks it, EINVAL for another word. */
enum rxt_status cpu_isa_get(enum cpu_isa *out, struct rxt_error *err);
const char *cpu_isa_name(enum cpu_isa isa);

/* Processors this process may run on (its affinity mask, not the machine's count); at least 1. */
int cpu_count(void);

#endif
