#include "stm/stm_impl.h"

#include "tests/lib/test.h"
#include "tests/stm/fixture.h"

#include <math.h>

#define assert_near(a, b) \
    assert_true(fabs((double)(a) - (double)(b)) <= 1e-6 * (1 + fabs((double)(b))))

/* Slots whose figures are known: (3,4), (-6,0), (0,0). */
static void statistics_of_known_slots(void **state)
{
    struct fixture *f = *state;
    const struct stm_config cfg = {.n_layer = 1, .n_slot = 3, .embed_dim = 2, .dtype = DTYPE_F32};
    const float x[] = {3, 4, -6, 0, 0, 0};
    struct stm *m = NULL;
    struct stm_slot_stat stat[3];
    assert_ok(stm_create(&m, f->ln, &cfg, STM_ZEROS, 0));
    assert_ok(stm_import(m, f->ln, 1, x, sizeof x));
    assert_ok(stm_stats(m, f->ln, stat));
    assert_near(stat[0].rms, sqrt(12.5));
    assert_near(stat[0].max_abs, 4);
    assert_near(stat[0].mean, 3.5);
    assert_near(stat[1].rms, sqrt(18));
    assert_near(stat[1].max_abs, 6);
    assert_near(stat[1].mean, -3);
    assert_true(stat[2].rms == 0 && stat[2].max_abs == 0 && stat[2].mean == 0);
    stm_destroy(&m);
}

/* Every slot of both dtypes against the plain sums; slots longer than are fetched at a time. */
static void statistics_equal_plain_sums(void **state)
{
    struct fixture *f = *state;
    for (int k = DTYPE_F32; k <= DTYPE_BF16; k++) {
        const struct stm_config cfg = {
            .n_layer = 2, .n_slot = 2, .embed_dim = 5000, .dtype = (enum dtype)k};
        struct stm *m = NULL;
        struct stm_slot_stat stat[4];
        assert_ok(stm_create(&m, f->ln, &cfg, STM_NOISE, 4));
        assert_ok(stm_stats(m, f->ln, stat));
        for (size_t s = 0; s < 4; s++) {
            double sum = 0, squares = 0, top = 0;
            for (size_t i = 5000 * s; i < 5000 * (s + 1); i++) {
                double v = dtype_value(m->values, cfg.dtype, i);
                sum += v;
                squares += v * v;
                top = fmax(top, fabs(v));
            }
            assert_near(stat[s].rms, sqrt(squares / 5000));
            assert_near(stat[s].max_abs, top);
            assert_near(stat[s].mean, sum / 5000);
        }
        stm_destroy(&m);
    }
}

static void difference_of_known_slots(void **state)
{
    (void)state;
    const struct stm_config cfg = {.n_layer = 2, .n_slot = 3, .embed_dim = 2, .dtype = DTYPE_F32};
    const float a[] = {3, 4, 1, 0, 0, 0, 1, 2, 2, 0, 1, 1};
    const float b[] = {3, 4, 0, 2, 5, 1, -1, -2, 4, 0, 1, 0};
    const struct stm_slot_diff want[] = {
        {0, 1},           {1.5811388f, 0}, {3.6055513f, 0},
        {3.1622777f, -1}, {1.4142136f, 1}, {0.70710678f, 0.70710678f},
    };
    struct stm_slot_diff diff[6];
    assert_ok(stm_diff(a, DTYPE_F32, b, DTYPE_F32, &cfg, diff));
    for (int i = 0; i < 6; i++) {
        assert_near(diff[i].change, want[i].change);
        assert_near(diff[i].cosine, want[i].cosine);
    }
}

/* Two dtypes meet, and neither side is aligned: images come out of a file as they come. */
static void difference_across_dtypes_and_alignment(void **state)
{
    (void)state;
    struct stm_config wide = fixture_config(DTYPE_F32), narrow = fixture_config(DTYPE_BF16);
    char a[1 + 192], b[1 + 96];
    void *x = fixture_values(&wide), *y = fixture_values(&narrow);
    memcpy(a + 1, x, 192);
    memcpy(b + 1, y, 96);
    struct stm_slot_diff diff[6];
    assert_ok(stm_diff(a + 1, DTYPE_F32, b + 1, DTYPE_BF16, &wide, diff));
    for (int s = 0; s < 6; s++) {
        assert_true(diff[s].change == 0);
        assert_near(diff[s].cosine, 1);
    }
    ((char *)b)[1 + 2 * 8 + 1] ^= (char)0x80; /* the sign of the first value of slot 1, -3 */
    assert_ok(stm_diff(a + 1, DTYPE_F32, b + 1, DTYPE_BF16, &wide, diff));
    for (int s = 0; s < 6; s++)
        assert_int_equal(diff[s].change != 0, s == 1);
    assert_near(diff[1].change, 6 / sqrt(8));
    free(x);
    free(y);
}

static void impossible_shapes_are_refused(void **state)
{
    (void)state;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    cfg.n_layer = 0;
    const float x[1] = {0};
    struct stm_slot_diff diff[1];
    assert_status(RXT_ESHAPE, stm_diff(x, DTYPE_F32, x, DTYPE_F32, &cfg, diff));
}

#define with(test) cmocka_unit_test_setup_teardown(test, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with(statistics_of_known_slots),
        with(statistics_equal_plain_sums),
        cmocka_unit_test(difference_of_known_slots),
        cmocka_unit_test(difference_across_dtypes_and_alignment),
        cmocka_unit_test(impossible_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
