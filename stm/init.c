#include "stm/stm_impl.h"

#include "kernels/base/random.h"

#include <math.h>

/* Values made, converted and copied at a time: they live on the stack, nothing is allocated. */
enum { CHUNK = 4096 };

/* x[0..n) = the initial values first .. first + n, already rounded to cfg->dtype. */
static void make(const struct stm_config *cfg, enum stm_init init, uint64_t seed, size_t first,
                 float *x, size_t n)
{
    switch (init) {
    case STM_NOISE: /* whatever the version: a reset gives the same memory again */
        random_normal_fill(x, n, seed, RANDOM_STM_INIT, 0, first);
        break;
    case STM_CHECKPOINT:
        for (size_t i = 0; i < n; i++)
            x[i] = dtype_value(cfg->stored, cfg->stored_dtype, first + i);
        break;
    case STM_ZEROS:
        memset(x, 0, n * sizeof *x);
        break;
    }
    for (size_t i = 0; cfg->dtype == DTYPE_BF16 && i < n; i++)
        x[i] = bf16_to_f32(bf16_from_f32(x[i]));
}

static size_t chunk_at(size_t first, size_t n)
{
    return n - first < CHUNK ? n - first : CHUNK;
}

/* A stored value may be beyond bf16: what counts is what the memory would hold. */
static enum rxt_status check_stored(const struct stm_config *cfg, size_t n)
{
    if (!cfg->stored)
        return RXT_EINVAL;
    float x[CHUNK];
    for (size_t first = 0; first < n; first += CHUNK) {
        size_t len = chunk_at(first, n);
        make(cfg, STM_CHECKPOINT, 0, first, x, len);
        for (size_t i = 0; i < len; i++)
            if (!isfinite(x[i]))
                return RXT_ENONFINITE;
    }
    return RXT_OK;
}

enum rxt_status stm_fill(struct lane *ln, const struct stm_config *cfg, void *values,
                         enum stm_init init, uint64_t seed)
{
    size_t bytes = dtype_bytes(cfg->dtype), n = stm_bytes(cfg) / bytes;
    if (init == STM_CHECKPOINT)
        TRY(check_stored(cfg, n));
    float x[CHUNK];
    bf16 half[CHUNK];
    for (size_t first = 0; first < n; first += CHUNK) {
        size_t len = chunk_at(first, n);
        make(cfg, init, seed, first, x, len);
        for (size_t i = 0; cfg->dtype == DTYPE_BF16 && i < len; i++)
            half[i] = bf16_from_f32(x[i]);
        const void *from = cfg->dtype == DTYPE_BF16 ? (const void *)half : (const void *)x;
        TRY(lane_upload(ln, (char *)values + first * bytes, from, len * bytes));
    }
    return RXT_OK;
}
