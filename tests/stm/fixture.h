/* A CPU backend, a lane and a small shape: what the tests of single functions need. */
#ifndef RXT_TESTS_STM_FIXTURE_H
#define RXT_TESTS_STM_FIXTURE_H

#include "stm/stm.h"

struct fixture {
    struct backend *be;
    struct lane *ln;
};
int fixture_open(void **state); /* *state becomes a struct fixture */
int fixture_close(void **state);

struct backend *fixture_backend(int n_thread);

/* [2,3,8], 48 values. */
struct stm_config fixture_config(enum dtype dtype);
enum { FIXTURE_VALUES = 48 };
/* The value of element i of the ramp, (i - 20) / 4: exact in either dtype. */
float fixture_ramp(size_t i);
/* The ramp as stored in cfg->dtype; free() it. */
void *fixture_values(const struct stm_config *cfg);
/* A memory that holds the ramp, at this version. */
struct stm *fixture_memory(struct lane *ln, const struct stm_config *cfg, uint64_t version);
/* Fails unless m holds these values. */
void fixture_holds(struct lane *ln, const struct stm *m, const void *values);

#endif
