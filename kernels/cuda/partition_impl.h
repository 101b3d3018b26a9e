/* A part of the card's SMs (a green context of the driver), on which memory lanes work while
 * answers are made: a block leaves its SM only when it ends, so by priority alone every launch of
 * an answer waits for blocks of an update.
 *
 * A launch of a partition's stream, and a node of a graph made for it, stays on its SMs, in
 * whichever stream the graph is started. Memory and events are those of the whole card. */
#ifndef RXT_CUDA_PARTITION_IMPL_H
#define RXT_CUDA_PARTITION_IMPL_H

#include "kernels/cuda/cuda_impl.h"

struct partition;

/* Gives *out, n_sm SMs or as many more as the driver rounds up to; NULL where the driver knows no
 * partitions, refuses one, or the card is too small to give so much away. ENOMEM. */
enum rxt_status partition_create(struct partition **out, int n_sm);
void partition_destroy(struct partition **p); /* NULL-safe; after its streams and graphs */
int partition_sms(const struct partition *p);

cudaError_t partition_stream(cudaStream_t *out, const struct partition *p, int priority);
/* As cudaGraphAddKernelNode, on the SMs of p. */
cudaError_t partition_add_kernel(cudaGraphNode_t *node, const struct partition *p,
                                 cudaGraph_t graph, const cudaGraphNode_t *after, size_t n_after,
                                 const struct cudaKernelNodeParams *params);

#endif
