/* Shared by the files of the room: what a memory and a spare are made of. */
#ifndef RXT_STM_STM_IMPL_H
#define RXT_STM_STM_IMPL_H

#include "stm/stm.h"

#include <assert.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "hash and image take values as they lie");

struct stm {
    struct backend *be;
    struct stm_config cfg;
    uint64_t version;
    void *values; /* [L,S,D] of cfg.dtype in the backend's memory; the published buffer */
};

struct stm_spare {
    struct backend *be;
    struct stm_config cfg;
    void *values;
    enum rxt_status content; /* RXT_OK: may be committed. Else what stm_commit answers: RXT_EINVAL
                              * while it is empty, RXT_ENONFINITE after such an update */
};

bool stm_dims_equal(const struct stm_config *a, const struct stm_config *b);

/* View [S,D] of one layer of values. */
struct tensor stm_layer(const struct stm_config *cfg, void *values, int layer);

/* Writes the initial memory into values. Refuses (EINVAL, ENONFINITE) before it writes. */
enum rxt_status stm_fill(struct lane *ln, const struct stm_config *cfg, void *values,
                         enum stm_init init, uint64_t seed);

/* XXH3-128 of n bytes of host memory, canonical. */
void stm_digest(const void *bytes, size_t n, uint8_t hash[16]);

#endif
