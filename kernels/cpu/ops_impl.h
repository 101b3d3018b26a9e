/* The functions behind the rows of backend_impl.h: cpu_NAME, one op a file. */
#ifndef RXT_CPU_OPS_IMPL_H
#define RXT_CPU_OPS_IMPL_H

#include "kernels/cpu/cpu_impl.h"

#define CPU_OP_PROTOTYPE(result, name, args) result cpu_##name args;
BACKEND_OPS(CPU_OP_PROTOTYPE)
#undef CPU_OP_PROTOTYPE

#endif
