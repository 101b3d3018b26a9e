/* Branches of a step: the same bits as without them, in whatever order they run. */
#include "kernels/backend.h"

#include "tests/kernels/step_rig.h"
#include "tests/lib/test.h"

/* Side by side or one after the other: the same bits, also where the graph may take the branches in
 * another order than they were put. */
static void branches_are_the_same_bits(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    struct lane *many = branches_open(&l, BRANCHES + 1), *one = branches_open(&l, 1);
    assert_int_equal(lane_branches(one), 1);
    for (int r = 0; r < 8; r++) {
        float a[ROWS * D], b[ROWS * D];
        if (emulator_backwards)
            emulator_backwards(r % 2);
        branched(&l, many, r, a);
        branched(&l, one, r, b);
        for (int i = 0; i < ROWS; i++)
            assert_same_bits(a + (size_t)i * D, b + (size_t)i * D, D, "row", i);
    }
    const struct lane_limits limits = {
        .max_rows = S, .max_seq = 1, .max_keys = 8, .max_width = 2 * F, .max_branch = 17};
    struct lane *refused;
    assert_status(RXT_ESHAPE, lane_create(&refused, l.s.be, LANE_MEMORY, &limits));
    lane_destroy(&many);
    lane_destroy(&one);
    layer_close(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(branches_are_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
