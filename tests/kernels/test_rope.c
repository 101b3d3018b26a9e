#include "kernels/cpu/rope_impl.h"

#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"

#include <math.h>

/* The nearest float32 of cos and sin, over small angles, large ones and those next to multiples of
 * pi/2, where cancellation is worst. */
static void sincos_is_rounded_once(void **state)
{
    (void)state;
    static const float base[] = {10000, 100000};
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < 16; i++)
            for (int p = 0; p < 8192; p += 1 + p / 64) {
                float angle = (float)p * (1.0f / powf(base[b], (float)i / 16)), s, c;
                rope_sincos(angle, &s, &c);
                assert_true(s == (float)sin((double)angle) && c == (float)cos((double)angle));
            }
    for (int k = -4000; k <= 4000; k += 7) {
        float near = (float)(k * 1.57079632679489661923), s, c;
        for (int step = -2; step <= 2; step++) {
            float angle = near;
            for (int n = 0; n < abs(step); n++)
                angle = nextafterf(angle, step < 0 ? -INFINITY : INFINITY);
            rope_sincos(angle, &s, &c);
            assert_true(s == (float)sin((double)angle) && c == (float)cos((double)angle));
        }
    }
}

struct table {
    struct backend *be;
    const float *angle;
};

static enum rxt_status create_once(void *arg)
{
    struct table *t = arg;
    struct weight *w;
    TRY(weight_rope(&w, t->be, t->angle, 3, 2));
    weight_destroy(t->be, &w);
    return RXT_OK;
}

static void table_of_angles(void **state)
{
    (void)state;
    struct setting s;
    assert_true(setting_open(&s, "scalar", 1));
    const float angle[6] = {0, 0, 1, 0.01f, 2, 0.02f};
    struct table t = {s.be, angle};
    assert_survives_no_memory(create_once, &t);
    struct weight *w;
    assert_status(RXT_ESHAPE, weight_rope(&w, s.be, angle, 0, 2));
    assert_status(RXT_ESHAPE, weight_rope(&w, s.be, angle, 3, 0));
    assert_status(RXT_ESHAPE, weight_rope(&w, s.be, NULL, 3, 2));
    assert_null(w);
    assert_ok(weight_rope(&w, s.be, angle, 3, 2));
    struct rotation r = rope_rotation(w);
    for (int i = 0; i < 6; i++)
        assert_true(r.cos[i] == (float)cos((double)angle[i]) &&
                    r.sin[i] == (float)sin((double)angle[i]));
    weight_destroy(s.be, &w);
    assert_null(rope_rotation(NULL).cos);
    setting_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sincos_is_rounded_once),
        cmocka_unit_test(table_of_angles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
