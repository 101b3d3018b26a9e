/* What the parts of the emulated runtime tell each other of partitions. */
#ifndef RXT_EMULATOR_PARTITION_H
#define RXT_EMULATOR_PARTITION_H

#include "tests/emulator/cuda_runtime_api.h"

#include <stdbool.h>

void emulator_put_aside(cudaStream_t s); /* its launches are of a partition */
bool emulator_is_aside(cudaStream_t s);
void emulator_put_node_aside(cudaGraphNode_t node);

#endif
