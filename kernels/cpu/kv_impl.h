/* Keys and values of the CPU backend: the self-attention K/V of a turn, and what memory
 * cross-attention reads. [layer][head], each as in attend_impl.h. */
#ifndef RXT_CPU_KV_IMPL_H
#define RXT_CPU_KV_IMPL_H

#include "kernels/cpu/attend_impl.h"

struct cpu_kv {
    struct kv base;
    float *heads;
};
struct cpu_mem_kv {
    struct mem_kv base;
    float *heads;
};

/* n_key: what there is room for. */
struct kv_head kv_head_of(const struct kv *kv, int32_t layer, int32_t head);
struct kv_head mem_kv_head(const struct mem_kv *kv, int32_t layer, int32_t head);

#endif
