/* K and V of a memory: a block of slots at a time is projected into scratch, then put
 * into the heads. */
#ifndef RXT_CPU_MEM_KV_IMPL_H
#define RXT_CPU_MEM_KV_IMPL_H

#include "kernels/cpu/cpu_impl.h"

struct scratch_need mem_kv_need(const struct lane_limits *l);

#endif
