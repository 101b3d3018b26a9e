/* Runs kernels on the host: the threads of a block are fibers of one thread, blocks follow one
 * another. What a run proves: indices, tails, arithmetic (the same fmaf and rounding; the sums
 * inside an MMA excepted, whose order hardware does not tell) and, in two orders of the threads,
 * that no barrier is missing where it would show. It proves nothing of speed, and nothing of what
 * two blocks do to each other at once.
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

/* Runs fn(arg) once for each thread of each block. */
void emulator_launch(struct emulated_index grid, struct emulated_index block, size_t shared,
                     void (*fn)(const void *arg), const void *arg);
void *emulator_shared(void); /* the dynamic shared memory of the running block */
void emulator_sync_block(void);
void emulator_sync_warp(void);
/* The value that lane `from` of the warp gave to the same call, 8 bytes at most. */
uint64_t emulator_exchange(uint64_t own, unsigned from);

/* The order in which threads run between two barriers: rising, or falling. */
void emulator_backwards(bool backwards);

/* From now on the device fails, or works again: waiting for a stream is an error. */
void emulator_fail(bool fails);

/* c += A B of a warp, as the PTX ISA lays out the fragments; a, b: the words of a lane. k: 8, 16.
 */
void emulator_mma(float c[4], const uint32_t *a, const uint32_t *b, int k);

#ifdef __cplusplus
}
#endif
#endif
