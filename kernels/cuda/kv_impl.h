/* Keys and values in device memory. Of a turn: blocks of 64 tokens over all layers and heads,
 * reached through a table of addresses, so that a later pool can give them out one by one. Of a
 * memory: [layer][head][S/64] blocks in a row. */
#ifndef RXT_CUDA_KV_IMPL_H
#define RXT_CUDA_KV_IMPL_H

#include "kernels/cuda/attend_impl.h"

struct cuda_kv {
    struct kv base;
    char *blocks; /* all of them */
    char **table; /* device: [ceil(max_tokens / 64)] addresses */
};
struct cuda_mem_kv {
    struct mem_kv base;
    char *blocks;
};

struct attend_keys kv_keys(const struct kv *kv, enum dtype act, int32_t layer);
struct attend_keys mem_kv_keys(const struct mem_kv *kv, enum dtype act, int32_t layer);

#endif
