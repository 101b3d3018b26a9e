/* Rows of a table, read where they lie. */
#ifndef RXT_CPU_EMBED_IMPL_H
#define RXT_CPU_EMBED_IMPL_H

#include "kernels/cpu/cpu_impl.h"

struct cpu_table {
    struct weight base;
    struct host_matrix m;
};

#endif
