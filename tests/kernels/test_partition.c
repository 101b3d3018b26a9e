/* Partitions of the card: what a memory lane runs beside answers stays in one, and has the same
 * bits as on the whole card. */
#include "kernels/backend.h"

#include "tests/kernels/step_rig.h"
#include "tests/lib/test.h"

/* Kernels that ran in a partition; on a card nobody knows. */
static uint64_t n_aside(void)
{
    return emulator_counts ? emulator_counts().aside : 0;
}

/* An op of an answer, which gives the lane something to do. */
static void answer(struct layer *l)
{
    const int32_t id[1] = {1};
    uint64_t before = n_aside();
    assert_ok(op_embed(l->s.ln, view(l->context, 1, D), l->table, id));
    assert_int_equal(n_aside(), before);
}

static void update(struct layer *l, struct lane *memory, int shift, float *out, bool aside)
{
    uint64_t before = n_aside();
    branched(l, memory, shift, out);
    if (emulator_counts)
        assert_int_equal(n_aside() > before, aside);
}

/* A memory lane leaves most of the card while an answer lane has something to do, unless that gives
 * way for longer than it took. Wherever a step runs, launch by launch or as a graph: the same bits.
 */
static void updates_stand_aside(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    struct lane *memory = branches_open(&l, BRANCHES + 1);
    lane_give_way(l.s.ln, 0);
    for (int r = 0; r < 4; r++) {
        float alone[ROWS * D], beside[ROWS * D], first[ROWS * D];
        lane_rest(l.s.ln);
        update(&l, memory, r, alone, false);
        answer(&l);
        update(&l, memory, r, beside, true);
        lane_give_way(l.s.ln, UINT32_MAX);
        update(&l, memory, r, first, false);
        lane_give_way(l.s.ln, 0);
        update(&l, memory, r, beside, true);
        for (int i = 0; i < ROWS; i++) {
            assert_same_bits(beside + (size_t)i * D, alone + (size_t)i * D, D, "row", i);
            assert_same_bits(first + (size_t)i * D, alone + (size_t)i * D, D, "row", i);
        }
    }
    lane_destroy(&l.s.ln); /* with something to do */
    l.s.ln = memory;
    float out[ROWS * D];
    update(&l, memory, 0, out, false);
    layer_close(&l);
}

/* A step of a shape that has a graph for the whole card is one at once where it stands aside. */
static void both_places_have_graphs(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    const struct lane_limits limits = {
        .max_rows = S, .max_seq = 1, .max_keys = 8, .max_width = 2 * F};
    struct lane *memory;
    assert_ok(lane_create(&memory, l.s.be, LANE_MEMORY, &limits));
    lane_rest(l.s.ln);
    struct emulated_counts before = emulator_counts();
    for (int r = 0; r < 10; r++) {
        if (r == 5)
            answer(&l);
        lane_step_begin(memory);
        assert_ok(op_convert(memory, view(l.x, 1, D), view(l.projected, 1, D)));
        assert_ok(lane_step_end(memory));
    }
    struct emulated_counts now = emulator_counts();
    assert_int_equal(now.n_graph - before.n_graph, 2);
    assert_int_equal(now.graphs - before.graphs, 9);
    assert_int_equal(now.aside - before.aside, 5);
    lane_destroy(&memory);
    layer_close(&l);
}

/* A driver without partitions: all is on the whole card, and the backend says so. */
static void a_driver_may_have_no_partitions(void **state)
{
    (void)state;
    for (int there = 0; there < 2; there++) {
        const struct lane_limits limits = {
            .max_rows = S, .max_seq = 1, .max_keys = 8, .max_width = 2 * F};
        struct layer l;
        struct lane *memory;
        emulator_fail(there ? EMULATED_WORKS : EMULATED_NO_PARTITION);
        layer_open(&l);
        assert_ok(lane_create(&memory, l.s.be, LANE_MEMORY, &limits));
        assert_non_null(strstr(backend_describe(l.s.be),
                               there ? "beside answers on 32 SMs" : "beside answers on all SMs"));
        answer(&l);
        uint64_t before = n_aside();
        assert_ok(op_convert(memory, view(l.x, 1, D), view(l.projected, 1, D)));
        assert_int_equal(n_aside() - before, there);
        lane_destroy(&memory);
        layer_close(&l);
    }
    emulator_fail(EMULATED_WORKS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(updates_stand_aside),
    };
    const struct CMUnitTest emulated[] = {
        cmocka_unit_test(both_places_have_graphs),
        cmocka_unit_test(a_driver_may_have_no_partitions),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (emulator_fail)
        failed += cmocka_run_group_tests(emulated, NULL, NULL);
    return failed;
}
