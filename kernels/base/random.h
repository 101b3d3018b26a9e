/* Random numbers, generator 1 (design 5): Philox 4x32-10, a function of key and counter without
 * state, so that any draw can be repeated alone, in any order, on any machine.
 *
 * Key = seed of the session or of the turn. Counter = (purpose, turn, position or index). */
#ifndef RXT_BASE_RANDOM_H
#define RXT_BASE_RANDOM_H

#include <stdint.h>

/* Kept in the session row; a change of any bit below is a new number. */
#define RANDOM_GENERATOR 1

enum random_purpose {
    RANDOM_STM_INIT = 1, /* turn = version whose content is drawn, index = element in [L,S,D] */
    RANDOM_SAMPLE = 2,   /* turn = read version, index = position of the token in the interaction */
    RANDOM_BENCH = 3,    /* random weights of named shapes; turn = tensor number */
};

/* Four words. Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". */
struct random_block {
    uint32_t v[4];
};
struct random_block random_philox(uint64_t key, const uint32_t counter[4]);

/* The block of (purpose, turn, index): counter words = index low, index high and purpose packed,
 * turn low, turn high; see random.c for the layout. index < 2^48. */
struct random_block random_at(uint64_t seed, enum random_purpose purpose, uint64_t turn,
                              uint64_t index);

/* Uniform in (0,1), never 0 or 1: (k + 0.5) / 2^53 with 53 bits of two words. */
double random_uniform(uint32_t hi, uint32_t lo);

/* Quantile of the standard normal at u in (0,1), by rational approximation in double with only
 * + x fma sqrt and the exact scaling of log's argument: the same bits on every IEEE machine.
 * Source: Wichura 1988, algorithm AS 241 (PPND16), relative error 1e-16. */
double random_normal(double u);

/* out[i] = N(0,1) for index = first + i; element index takes the block index / 2. */
void random_normal_fill(float *out, uint64_t n, uint64_t seed, enum random_purpose purpose,
                        uint64_t turn, uint64_t first);

#endif
