/* Runs kernels on the host: the threads of a block are fibers of one thread, blocks follow one
 * another. What a run proves: indices, tails, arithmetic (the same fmaf and rounding; the sums
 * inside an MMA excepted, whose order hardware does not tell) and, in two orders of the threads,
 * that no barrier is missing where it would show. It proves nothing of speed, and nothing of what
 * two blocks do to each other at once.
 *
 * A copy to the device is made at once, but its source must stay as it is until the host has waited
 * for it, or the run aborts: so memory that is used again too early is seen.
 *
 * A thread runs until a barrier; the block goes on when all threads that are left have met it. A
 * barrier that not all of a warp or block can meet is an abort. Dynamic shared memory and fresh
 * device memory are NaN. */
#ifndef RXT_EMULATOR_H
#define RXT_EMULATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct emulated_index {
    unsigned x, y, z;
};
extern struct emulated_index emulated_thread, emulated_block, emulated_block_dim, emulated_grid_dim;

/* A kernel, by which a launch names it: run calls it with the parameters at these addresses. */
struct emulated_kernel {
    const void *kernel;
    void (*run)(const void *kernel, void *const *param);
    int n_param;
    const size_t *size;
    size_t shared; /* dynamic, that a launch may ask for */
};
/* Remembers how a kernel is called; gives its name, k.kernel. */
const void *emulator_know(struct emulated_kernel k);
const struct emulated_kernel *emulator_kernel(const void *kernel); /* one that is known */
/* Runs a kernel once for each thread of each block. */
void emulator_launch(struct emulated_index grid, struct emulated_index block, size_t shared,
                     const struct emulated_kernel *kernel, void *const *param);
void *emulator_shared(void); /* the dynamic shared memory of the running block */
void emulator_sync_block(void);
void emulator_sync_warp(void);
void emulator_wait_for_previous(void); /* the thread has waited, as each must before it ends */
/* The value that lane `from` of the warp gave to the same call, 8 bytes at most. */
uint64_t emulator_exchange(uint64_t own, unsigned from);

/* The order in which threads run between two barriers, and those kernels of a graph that do not
 * wait for each other: rising, or falling. */
void emulator_backwards(bool backwards);
bool emulator_is_backwards(void);

/* What the device does from now on. */
enum emulated_fault {
    EMULATED_WORKS,
    EMULATED_WAIT,         /* waiting for a stream is an error */
    EMULATED_LAUNCH,       /* a launch, of a kernel or a graph, is an error */
    EMULATED_NO_GRAPH,     /* there is no memory for a graph */
    EMULATED_NO_PARTITION, /* the driver knows no partitions of SMs */
};
void emulator_fail(enum emulated_fault fault);
enum emulated_fault emulator_fault(void);

/* Launches of kernels so far, those of graphs not counted, and of graphs; kernels that ran in a
 * partition, those of graphs too; graphs there are. */
struct emulated_counts {
    uint64_t kernels, graphs, aside;
    int n_graph;
};
struct emulated_counts emulator_counts(void);

/* c += A B of a warp, as the PTX ISA lays out the fragments; a, b: the words of a lane. k: 8, 16.
 */
void emulator_mma(float c[4], const uint32_t *a, const uint32_t *b, int k);

#ifdef __cplusplus
}
#endif
#endif
