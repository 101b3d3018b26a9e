/* Steps of a lane: the same bits as their ops one by one, replayed where they repeat, whatever
 * ids, positions, K/V and memories they have; limits and faults. */
#include "kernels/backend.h"

#include "kernels/base/mem.h"
#include "kernels/cuda/replay_impl.h"
#include "tests/kernels/step_rig.h"
#include "tests/lib/test.h"

/* Decode after decode: made a graph of at the second time, replayed from the third on. */
static void decode_steps_are_replayed(void **state)
{
    (void)state;
    struct layer step, plain;
    layer_open(&step);
    layer_open(&plain);
    int start[N_SEQ] = {3, 0, 11, 5};
    struct count before = count_read();
    for (int r = 0; r < 12; r++) {
        struct call c = call_of(r, 3, 1, start);
        check_call(&step, &plain, &c);
        for (int i = 0; i < 3; i++)
            start[c.place[i]]++;
        assert_steps(&before, (uint64_t)r + 1, r < 2 ? 0 : (uint64_t)r - 1);
    }
    layer_close(&step);
    layer_close(&plain);
}

/* A step of more launches than the device should wait for: each part is replayed. */
static void a_long_step_has_parts(void **state)
{
    (void)state;
    enum { LAYERS = 8, ROUNDS = 4 }; /* about 12 launches each */
    struct layer step, plain;
    layer_open(&step);
    layer_open(&plain);
    int start[N_SEQ] = {3, 0, 11, 5};
    struct count before = count_read();
    for (int r = 0; r < ROUNDS; r++) {
        float a[N_SEQ * V], b[N_SEQ * V];
        struct call c = {0};
        lane_step_begin(step.s.ln);
        for (int i = 0; i < LAYERS; i++) {
            c = call_of(i, 3, 1, start);
            assert_ok(run(&step, &c));
            assert_ok(run(&plain, &c));
            for (int k = 0; k < 3; k++)
                start[c.place[k]]++;
        }
        assert_ok(lane_step_end(step.s.ln));
        logits_of(&step, &c, a);
        logits_of(&plain, &c, b);
        for (int i = 0; i < c.n_seq; i++)
            assert_same_bits(a + (size_t)i * V, b + (size_t)i * V, V, "sequence", i);
    }
    assert_steps(&before, 2 * ROUNDS, 2 * (ROUNDS - 2));
    layer_close(&step);
    layer_close(&plain);
}

/* One, two, three, four sequences, one token and several: each is its own graph. */
static void every_shape_has_a_graph(void **state)
{
    (void)state;
    struct layer step, plain;
    layer_open(&step);
    layer_open(&plain);
    int start[N_SEQ] = {0};
    struct count before = count_read();
    for (int r = 0; r < 4; r++)
        for (int n_seq = 1; n_seq <= N_SEQ; n_seq++)
            for (int n = 1; n <= 5; n += 2) {
                struct call c = call_of(r, n_seq, n, start);
                check_call(&step, &plain, &c);
                for (int i = 0; i < n_seq; i++)
                    start[c.place[i]] = (start[c.place[i]] + n) % 50;
            }
    assert_steps(&before, 4 * 4 * 3, 2 * 4 * 3);
    layer_close(&step);
    layer_close(&plain);
}

/* Steps that nobody waits for: each has its own arguments all the same. */
static void steps_follow_each_other(void **state)
{
    (void)state;
    enum { N = 20 };
    struct layer l;
    layer_open(&l);
    float *table = numbers(V * D, 1);
    float all[N * ROWS * D];
    char *out = backend_alloc(l.s.be, sizeof all);
    assert_non_null(out);
    struct count before = count_read();
    for (int i = 0; i < N; i++) {
        int32_t id[ROWS];
        for (int r = 0; r < ROWS; r++)
            id[r] = (i * 3 + r) % V;
        struct tensor to = {out + (size_t)i * ROWS * D * sizeof(float), DTYPE_F32, ROWS, D, D};
        lane_step_begin(l.s.ln);
        assert_ok(op_embed(l.s.ln, view(l.x, ROWS, D), l.table, id));
        assert_ok(op_convert(l.s.ln, to, view(l.x, ROWS, D)));
        assert_ok(lane_step_end(l.s.ln));
    }
    assert_steps(&before, N, N - 2);
    assert_ok(lane_download(l.s.ln, all, out, sizeof all));
    for (int i = 0; i < N; i++)
        for (int r = 0; r < ROWS; r++)
            for (int d = 0; d < D; d++)
                assert_true(all[(i * ROWS + r) * D + d] == table[(i * 3 + r) % V * D + d]);
    free(table);
    backend_free(l.s.be, out);
    layer_close(&l);
}

/* The K/V of a memory: replayed wherever the memory lies and the K/V go. */
static void memories_may_lie_elsewhere(void **state)
{
    (void)state;
    struct layer step, plain;
    layer_open(&step);
    layer_open(&plain);
    struct layer *l[2] = {&step, &plain};
    struct weight *w[2];
    struct count before = count_read();
    uint64_t steps = 0;
    for (int k = 0; k < 2; k++)
        w[k] = linear_of(l[k]->s.be, 2 * N_KV * HD, D, 40);
    for (int i = 0; i < N_SEQ; i++) {
        float *v = numbers(S * D, 50 + (uint64_t)i);
        bool finite[2] = {false, false};
        v[7] = i % 2 ? INFINITY : v[7];
        for (int k = 0; k < 2; k++) {
            struct lane *ln = l[k]->s.ln;
            struct tensor stm = {to_backend(l[k]->s.be, v, S * D * sizeof *v), DTYPE_F32, S, D, D};
            if (k == 0)
                lane_step_begin(ln);
            assert_ok(op_finite(ln, &finite[k], stm));
            assert_ok(op_mem_kv(ln, l[k]->mem[i], 0, stm, l[k]->norm, w[k]));
            if (k == 0)
                assert_ok(lane_step_end(ln));
            assert_ok(lane_sync(ln));
            assert_int_equal(finite[k], i % 2 == 0);
            backend_free(l[k]->s.be, stm.data);
        }
        free(v);
        assert_steps(&before, ++steps, i < 2 ? 0 : (uint64_t)i - 1);
    }
    const int start[N_SEQ] = {0};
    struct call c = call_of(0, N_SEQ, 1, start);
    check_call(&step, &plain, &c);
    for (int k = 0; k < 2; k++)
        weight_destroy(l[k]->s.be, &w[k]);
    layer_close(&step);
    layer_close(&plain);
}

/* Waiting and copies between the ops of a step see what came before, and what follows goes on. */
static void a_step_may_wait(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    const int32_t id[2] = {7, 9};
    struct tensor x = view(l.x, 2, D), y = view(l.context, 2, D);
    float *table = numbers(V * D, 1), *got = malloc(2 * D * sizeof *got);
    char raw[2 * D * sizeof(float)];
    assert_non_null(got);
    size_t bytes = 2 * D * dtype_bytes(test_dtype());
    struct count before = count_read();
    for (int r = 0; r < 4; r++) {
        bool finite = false;
        lane_step_begin(l.s.ln);
        assert_ok(op_embed(l.s.ln, x, l.table, id));
        assert_ok(lane_copy(l.s.ln, y.data, x.data, bytes));
        assert_ok(op_finite(l.s.ln, &finite, y));
        assert_ok(lane_sync(l.s.ln));
        assert_true(finite);
        assert_ok(op_linear_add(l.s.ln, x, y, l.out));
        assert_ok(lane_download(l.s.ln, raw, y.data, bytes));
        assert_ok(lane_step_end(l.s.ln));
        for (size_t i = 0; i < 2 * D; i++)
            assert_true(dtype_value(raw, test_dtype(), i) == table[(size_t)id[i / D] * D + i % D]);
    }
    assert_steps(&before, 4 * 3, 2 * 3); /* cut in three, nothing behind the last */
    free(table);
    free(got);
    layer_close(&l);
}

/* N embeddings of ids that only the last of them decides; how many steps they became. */
static uint64_t long_step(struct layer *l, struct lane *ln, int shift, const float *table)
{
    enum { N = 4500 };
    struct tensor x = view(l->x, ROWS, D), y = {l->projected, DTYPE_F32, ROWS, D, D};
    float got[ROWS * D];
    int32_t id[ROWS];
    uint64_t before = count_read().steps;
    lane_step_begin(ln);
    for (int i = 0; i < N; i++) {
        for (int r = 0; r < ROWS; r++)
            id[r] = (i + r + shift) % V;
        assert_ok(op_embed(ln, tensor_rows(x, 0, i < N - 1 ? 1 + i % 3 : ROWS), l->table, id));
    }
    assert_ok(op_convert(ln, y, x));
    assert_ok(lane_step_end(ln));
    assert_ok(lane_download(ln, got, y.data, sizeof got));
    for (int r = 0; r < ROWS; r++)
        for (int d = 0; d < D; d++)
            assert_true(got[r * D + d] == table[(N - 1 + r + shift) % V * D + d]);
    return count_read().steps - before;
}

/* More launches than a list holds, on a small lane more arguments: cut, and each part replayed. */
static void a_long_step_is_cut(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    const struct lane_limits small = {
        .max_rows = ROWS, .max_seq = 1, .max_keys = 8, .max_width = D, .max_vocab = V};
    struct lane *narrow;
    assert_ok(lane_create(&narrow, l.s.be, LANE_ANSWER, &small));
    float *table = numbers(V * D, 1);
    uint64_t by_list = long_step(&l, l.s.ln, 0, table), by_args = long_step(&l, narrow, 0, table);
    assert_true(by_list > 1 && by_args > by_list);
    for (int i = 1; i < 3; i++) {
        uint64_t replayed = count_read().replayed;
        assert_int_equal(long_step(&l, l.s.ln, i, table), by_list);
        assert_int_equal(long_step(&l, narrow, i, table), by_args);
        if (i == 2)
            assert_int_equal(count_read().replayed - replayed, by_list + by_args);
    }
    free(table);
    lane_destroy(&narrow);
    layer_close(&l);
}

/* A step that ends with its lane, and steps without ops. */
static void open_and_empty_steps(void **state)
{
    (void)state;
    uint64_t live = mem_stats().live_bytes;
    struct layer l;
    layer_open(&l);
    struct count before = count_read();
    lane_step_begin(l.s.ln);
    assert_ok(lane_step_end(l.s.ln));
    assert_steps(&before, 0, 0);
    const int32_t id[1] = {1};
    lane_step_begin(l.s.ln);
    assert_ok(op_embed(l.s.ln, view(l.x, 1, D), l.table, id));
    lane_destroy(&l.s.ln);
    assert_steps(&before, 0, 0);
    layer_close(&l);
    assert_int_equal(mem_stats().live_bytes, live);
}

/* ---- on the emulator: graphs counted, faults on purpose ---- */

static struct call some_call(void)
{
    const int start[N_SEQ] = {1, 2, 3, 4};
    return call_of(1, 2, 1, start);
}

static void a_replay_starts_no_kernel(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    struct call c = some_call();
    struct emulated_counts before = emulator_counts();
    assert_ok(run_step(&l, &c));
    struct emulated_counts once = emulator_counts();
    assert_true(once.kernels > before.kernels + 10 && once.graphs == before.graphs);
    for (int i = 1; i < 5; i++) {
        assert_ok(run_step(&l, &c));
        struct emulated_counts now = emulator_counts();
        assert_int_equal(now.kernels, once.kernels);
        assert_int_equal(now.graphs - once.graphs, i);
        assert_int_equal(now.n_graph - before.n_graph, 1);
    }
    layer_close(&l);
    assert_int_equal(emulator_counts().n_graph, before.n_graph);
}

static void graphs_are_limited(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    int before = emulator_counts().n_graph;
    for (int rows = 1; rows <= ROWS; rows++)
        for (int cols = 1; cols <= 12; cols++)
            for (int i = 0; i < 2; i++) {
                lane_step_begin(l.s.ln);
                assert_ok(op_convert(l.s.ln, view(l.context, rows, cols), view(l.x, rows, cols)));
                assert_ok(lane_step_end(l.s.ln));
            }
    assert_int_equal(emulator_counts().n_graph - before, REPLAY_GRAPHS);
    layer_close(&l);
    assert_int_equal(emulator_counts().n_graph, before);
}

/* There is no memory for a graph: the step runs all the same, and has one once there is some and it
 * has come twice again. */
static void steps_go_without_a_graph(void **state)
{
    (void)state;
    struct layer step, plain;
    layer_open(&step);
    layer_open(&plain);
    struct call c = some_call();
    int before = emulator_counts().n_graph;
    emulator_fail(EMULATED_NO_GRAPH);
    for (int i = 0; i < 4; i++)
        check_call(&step, &plain, &c);
    emulator_fail(EMULATED_WORKS);
    check_call(&step, &plain, &c);
    assert_int_equal(emulator_counts().n_graph, before);
    check_call(&step, &plain, &c);
    assert_int_equal(emulator_counts().n_graph, before + 1);
    layer_close(&step);
    layer_close(&plain);
}

/* After a fault every call fails; all can still be destroyed and nothing is left behind. */
static void check_fault(enum emulated_fault fault, int good_steps)
{
    uint64_t live = mem_stats().live_bytes;
    int graphs = emulator_counts().n_graph;
    struct layer l;
    layer_open(&l);
    struct call c = some_call();
    for (int i = 0; i < good_steps; i++)
        assert_ok(run_step(&l, &c));
    emulator_fail(fault);
    if (fault == EMULATED_WAIT)
        assert_ok(run_step(&l, &c));
    else
        assert_status(RXT_EDEVICE, run_step(&l, &c));
    assert_status(RXT_EDEVICE, lane_sync(l.s.ln));
    emulator_fail(EMULATED_WORKS);
    assert_status(RXT_EDEVICE, run_step(&l, &c));
    assert_status(RXT_EDEVICE, run(&l, &c));
    assert_status(RXT_EDEVICE, lane_sync(l.s.ln));
    layer_close(&l);
    assert_int_equal(mem_stats().live_bytes, live);
    assert_int_equal(emulator_counts().n_graph, graphs);
}

static void faults_surface_and_leave_nothing(void **state)
{
    (void)state;
    for (int good = 0; good < 4; good++) { /* launch by launch, while a graph is made, replayed */
        check_fault(EMULATED_LAUNCH, good);
        check_fault(EMULATED_WAIT, good);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_steps_are_replayed),  cmocka_unit_test(every_shape_has_a_graph),
        cmocka_unit_test(steps_follow_each_other),    cmocka_unit_test(a_step_may_wait),
        cmocka_unit_test(memories_may_lie_elsewhere), cmocka_unit_test(a_long_step_has_parts),
        cmocka_unit_test(a_long_step_is_cut),         cmocka_unit_test(open_and_empty_steps),
    };
    const struct CMUnitTest emulated[] = {
        cmocka_unit_test(a_replay_starts_no_kernel),
        cmocka_unit_test(graphs_are_limited),
        cmocka_unit_test(steps_go_without_a_graph),
        cmocka_unit_test(faults_surface_and_leave_nothing),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (emulator_fail)
        failed += cmocka_run_group_tests(emulated, NULL, NULL);
    return failed;
}
