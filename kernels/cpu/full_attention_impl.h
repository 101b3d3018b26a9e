/* Attention without a mask: the keys and values are first put into heads in the lane's scratch, as
 * many heads at once as fit. */
#ifndef RXT_CPU_FULL_ATTENTION_IMPL_H
#define RXT_CPU_FULL_ATTENTION_IMPL_H

#include "kernels/cpu/attend_impl.h"

struct scratch_need full_attention_need(const struct lane_limits *l);

#endif
