#include "kernels/base/f16.h"

#include "tests/lib/test.h"

#include <math.h>

/* Every half there is, against its definition: sign, 2^(exponent - 15), 10 bits of fraction. */
static void every_half(void **state)
{
    (void)state;
    for (uint32_t h = 0; h <= 0xFFFF; h++) {
        int exponent = (int)(h >> 10 & 31), fraction = (int)(h & 1023);
        double magnitude =
            exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
        float f = f16_to_f32((uint16_t)h);
        assert_int_equal(signbit(f) != 0, h >> 15);
        if (exponent < 31)
            assert_true(fabs((double)f) == magnitude);
        else
            assert_true(fraction ? isnan(f) : isinf(f));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
