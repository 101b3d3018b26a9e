#include "kernels/base/bf16.h"

#include "tests/lib/test.h"

#include <float.h>
#include <math.h>

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Every bf16 there is: widening is exact, so narrowing gives it back. */
static void round_trip(void **state)
{
    (void)state;
    for (uint32_t h = 0; h <= 0xFFFF; h++) {
        float f = bf16_to_f32((bf16)h);
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        assert_int_equal(bits, h << 16);
        if (isnan(f))
            assert_true(isnan(bf16_to_f32(bf16_from_f32(f))));
        else
            assert_int_equal(bf16_from_f32(f), h);
    }
}

/* The nearer neighbour, found in double, where the two differences are exact. */
static bf16 nearest(uint32_t bits)
{
    uint32_t low = bits >> 16;
    double f = (double)float_of(bits), below = (double)float_of(low << 16);
    double above =
        (low & 0x7FFF) == 0x7F7F ? copysign(0x1p128, f) : (double)float_of((low + 1) << 16);
    double down = fabs(f - below), up = fabs(above - f);
    if (down == up)
        return (bf16)(low + (low & 1));
    return (bf16)(down < up ? low : low + 1);
}

static void narrowing_rounds_to_nearest_even(void **state)
{
    (void)state;
    static const uint32_t tail[] = {0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF};
    for (uint32_t h = 0; h <= 0xFFFF; h++) {
        if ((h & 0x7FFF) >= 0x7F80)
            continue; /* infinities and NaN */
        for (size_t i = 0; i < sizeof tail / sizeof *tail; i++)
            assert_int_equal(bf16_from_f32(float_of(h << 16 | tail[i])),
                             nearest(h << 16 | tail[i]));
    }
}

static void values_beyond_numbers(void **state)
{
    (void)state;
    assert_int_equal(bf16_from_f32(INFINITY), 0x7F80);
    assert_int_equal(bf16_from_f32(-INFINITY), 0xFF80);
    assert_int_equal(bf16_from_f32(FLT_MAX), 0x7F80); /* nearer to infinity than to 0x7F7F */
    assert_int_equal(bf16_from_f32(-0.0f), 0x8000);
    /* A NaN whose payload lies in the lower half must not become an infinity. */
    assert_int_equal(bf16_from_f32(float_of(0x7F800001)), 0x7FC0);
    assert_int_equal(bf16_from_f32(float_of(0xFFFFFFFF)), 0xFFFF);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(narrowing_rounds_to_nearest_even),
        cmocka_unit_test(values_beyond_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
