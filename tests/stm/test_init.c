#include "stm/stm_impl.h"

#include "tests/lib/test.h"
#include "tests/stm/fixture.h"

#include <math.h>

/* A shape with more values than are drawn, converted or hashed at a time. */
static const struct stm_config large = {
    .n_layer = 3, .n_slot = 50, .embed_dim = 128, .dtype = DTYPE_F32};
enum { LARGE = 3 * 50 * 128 };

static void has_hash(struct fixture *f, const struct stm_config *cfg, enum stm_init init,
                     const char *want)
{
    struct stm *m = NULL;
    uint8_t hash[16];
    char hex[33] = "";
    assert_ok(stm_create(&m, f->ln, cfg, init, 42));
    assert_int_equal(stm_version(m), 0);
    assert_ok(stm_hash(m, f->ln, hash));
    for (int i = 0; i < 16; i++)
        snprintf(hex + 2 * i, 3, "%02x", hash[i]);
    assert_string_equal(hex, want);
    stm_destroy(&m);
}

/* Recorded from a Python program of its own: Philox 4x32-10 as Salmon et al. give it, counters as
 * in kernels/base/random.h, uniform (k + 0.5) / 2^53 of the upper 53 bits of two words, then
 * statistics.NormalDist().inv_cdf, struct.pack("<f") (for bf16 rounded to nearest even), and
 * xxhash.xxh3_128(bytes).hexdigest(). */
static void noise_of_a_seed_is_recorded(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = large;
    has_hash(f, &cfg, STM_NOISE, "d93c8e60444cafe8b4beb00dd09b14b8");
    cfg.dtype = DTYPE_BF16;
    has_hash(f, &cfg, STM_NOISE, "d71ef4e8c6964a6213aba13a472d9261");
}

static void zeros_are_zeros(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    struct stm *m = fixture_memory(f->ln, &cfg, 1);
    const float zeros[FIXTURE_VALUES] = {0};
    assert_ok(stm_restart(m, f->ln, 2, STM_ZEROS, 5));
    fixture_holds(f->ln, m, zeros);
    stm_destroy(&m);
}

/* One number and its bits in every dtype that a checkpoint may have and a memory may want. */
static const struct {
    uint32_t f32;
    uint16_t bf16, f16;
} exact[] = {
    {0x00000000, 0x0000, 0x0000}, /* 0 */
    {0x3F800000, 0x3F80, 0x3C00}, /* 1 */
    {0xC0A00000, 0xC0A0, 0xC500}, /* -5 */
    {0x3E200000, 0x3E20, 0x3100}, /* 0.15625 */
    {0x33800000, 0x3380, 0x0001}, /* 2^-24, subnormal in f16 */
    {0x477C0000, 0x477C, 0x7BE0}, /* 64512 */
};
enum { N_EXACT = sizeof exact / sizeof *exact };

/* [2,3,8] filled with the numbers of `exact`, one after another. */
static void fill(void *out, enum dtype dtype)
{
    for (size_t i = 0; i < FIXTURE_VALUES; i++) {
        if (dtype == DTYPE_F32)
            ((uint32_t *)out)[i] = exact[i % N_EXACT].f32;
        else
            ((uint16_t *)out)[i] =
                dtype == DTYPE_BF16 ? exact[i % N_EXACT].bf16 : exact[i % N_EXACT].f16;
    }
}

static void checkpoint_is_converted_to_the_dtype_of_the_memory(void **state)
{
    struct fixture *f = *state;
    for (int from = DTYPE_F32; from <= DTYPE_F16; from++)
        for (int to = DTYPE_F32; to <= DTYPE_BF16; to++) {
            uint32_t stored[FIXTURE_VALUES], want[FIXTURE_VALUES];
            fill(stored, (enum dtype)from);
            fill(want, (enum dtype)to);
            struct stm_config cfg = fixture_config((enum dtype)to);
            cfg.stored = stored;
            cfg.stored_dtype = (enum dtype)from;
            struct stm *m = NULL;
            assert_ok(stm_create(&m, f->ln, &cfg, STM_CHECKPOINT, 0));
            fixture_holds(f->ln, m, want);
            stm_destroy(&m);
        }
}

static void conversion_rounds_to_nearest_even(void **state)
{
    struct fixture *f = *state;
    const uint32_t f32[] = {0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF818000};
    const uint16_t want[] = {0x3F80, 0x3F82, 0x3F81, 0x3F80, 0xBF82};
    uint32_t stored[LARGE];
    uint16_t expected[LARGE];
    for (int i = 0; i < LARGE; i++) {
        stored[i] = f32[i % 5];
        expected[i] = want[i % 5];
    }
    struct stm_config cfg = large;
    cfg.dtype = DTYPE_BF16;
    cfg.stored = stored;
    cfg.stored_dtype = DTYPE_F32;
    struct stm *m = NULL;
    assert_ok(stm_create(&m, f->ln, &cfg, STM_CHECKPOINT, 0));
    fixture_holds(f->ln, m, expected);
    stm_destroy(&m);
}

/* Wherever the value stands; also one that is finite until it is rounded to bf16. */
static void a_checkpoint_that_is_not_finite_is_refused(void **state)
{
    struct fixture *f = *state;
    static float stored[LARGE];
    const float bad[] = {NAN, INFINITY, -INFINITY, 3.4e38f};
    const int where[] = {0, 4095, 4096, LARGE - 1};
    struct stm_config cfg = large;
    cfg.stored = stored;
    cfg.stored_dtype = DTYPE_F32;
    for (int to = DTYPE_F32; to <= DTYPE_BF16; to++)
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 4; k++) {
                struct stm *m = NULL;
                bool fits = to == DTYPE_F32 && isfinite(bad[i]);
                cfg.dtype = (enum dtype)to;
                stored[where[k]] = bad[i];
                assert_status(fits ? RXT_OK : RXT_ENONFINITE,
                              stm_create(&m, f->ln, &cfg, STM_CHECKPOINT, 0));
                stored[where[k]] = 0;
                stm_destroy(&m);
            }
}

static void no_checkpoint_is_an_error(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    struct stm *m = NULL;
    assert_status(RXT_EINVAL, stm_create(&m, f->ln, &cfg, STM_CHECKPOINT, 0));
    assert_null(m);
}

#define with(test) cmocka_unit_test_setup_teardown(test, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with(noise_of_a_seed_is_recorded),
        with(zeros_are_zeros),
        with(checkpoint_is_converted_to_the_dtype_of_the_memory),
        with(conversion_rounds_to_nearest_even),
        with(a_checkpoint_that_is_not_finite_is_refused),
        with(no_checkpoint_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
