#include "kernels/backend.h"

#include "kernels/backend_impl.h"
#include "kernels/base/count.h"
#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"

static const struct lane_limits limits = {
    .max_rows = 4, .max_seq = 1, .max_keys = 8, .max_width = 32, .max_vocab = 10};

static void names(void **state)
{
    (void)state;
    struct backend *be;
    struct rxt_error err;
    assert_ok(backend_create(&be, &(struct backend_config){.name = "cpu", .n_thread = 2}, &err));
    assert_string_equal(backend_name(be), "cpu");
    assert_string_equal(backend_bit_class(be), "cpu-f32/1");
    assert_non_null(strstr(backend_describe(be), "2 threads"));
    assert_int_equal(backend_act_dtype(be), DTYPE_F32);
    backend_destroy(&be);
    assert_null(be);
    backend_destroy(&be);
    assert_ok(backend_create(&be, &(struct backend_config){.name = NULL, .n_thread = 0}, NULL));
    backend_destroy(&be);
    assert_string_equal(dtype_name(DTYPE_BF16), "bf16");
    assert_int_equal(dtype_bytes(DTYPE_F32) + dtype_bytes(DTYPE_BF16) + dtype_bytes(DTYPE_F16), 8);
}

static void refusals(void **state)
{
    (void)state;
    struct backend *be;
    struct rxt_error err;
    assert_status(
        RXT_EINVAL,
        backend_create(&be, &(struct backend_config){.name = "abacus", .n_thread = 1}, &err));
    assert_non_null(strstr(err.text, "abacus"));
    assert_status(
        RXT_EINVAL,
        backend_create(&be, &(struct backend_config){.name = "cpu", .n_thread = -1}, &err));
    assert_status(
        RXT_EINVAL,
        backend_create(&be, &(struct backend_config){.name = "cpu", .n_thread = 100000}, &err));
    assert_non_null(strstr(err.text, "threads"));
    assert_int_equal(setenv("RXT_ISA", "mmx", 1), 0);
    assert_status(
        RXT_EINVAL,
        backend_create(&be, &(struct backend_config){.name = "cpu", .n_thread = 1}, &err));
    unsetenv("RXT_ISA");
    assert_null(be);
}

/* A table without a row is refused, whichever row it is. */
static void missing_rows(void **state)
{
    (void)state;
    struct setting s;
    assert_true(setting_open(&s, "scalar", 1));
    struct backend_ops ops = *s.be->ops;
    assert_null(backend_ops_missing(&ops));
    ops.gate = NULL;
    assert_string_equal(backend_ops_missing(&ops), "gate");
    ops = *s.be->ops;
    ops.destroy = NULL;
    assert_string_equal(backend_ops_missing(&ops), "destroy");
    ops = *s.be->ops;
    ops.finite = NULL;
    assert_string_equal(backend_ops_missing(&ops), "finite");
    setting_close(&s);
}

static void views(void **state)
{
    (void)state;
    float v[24];
    const struct tensor t = {v, DTYPE_F32, 4, 5, 6};
    struct tensor part = tensor_rows(tensor_cols(t, 2, 3), 1, 2);
    assert_ptr_equal(part.data, &v[1 * 6 + 2]);
    assert_int_equal(part.rows, 2);
    assert_int_equal(part.cols, 3);
    assert_int_equal(part.stride, 6);
    struct tensor half = t;
    half.dtype = DTYPE_BF16;
    assert_ptr_equal(tensor_cols(half, 2, 3).data, &v[1]);
}

static void memory(void **state)
{
    (void)state;
    struct setting s;
    assert_true(setting_open(&s, "scalar", 1));
    static const size_t size[] = {1, 100, 3 << 20}; /* the last one is mapped */
    for (size_t i = 0; i < 3; i++) {
        unsigned char *p = backend_alloc(s.be, size[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        assert_int_equal(p[0] | p[size[i] / 2] | p[size[i] - 1], 0);
        backend_free(s.be, p);
    }
    backend_free(s.be, NULL);
    setting_close(&s);
}

static void lanes(void **state)
{
    (void)state;
    struct setting s;
    struct lane *ln;
    assert_true(setting_open(&s, "scalar", 2));
    assert_ok(lane_create(&ln, s.be, LANE_MEMORY, &limits));
    assert_ptr_equal(lane_backend(ln), s.be);
    assert_true(lane_bytes(ln) >= 4 * 32 * sizeof(float));
    lane_give_way(s.ln, 200);
    assert_false(backend_batch_pays(s.be, 1 << 20));
    assert_true(backend_batch_pays(s.be, (size_t)1 << 30));
    assert_ok(lane_sync(ln));
    int from[4] = {1, 2, 3, 4}, to[4] = {0}, back[4] = {0}, again[4] = {0};
    assert_ok(lane_upload(ln, to, from, sizeof from));
    assert_ok(lane_copy(ln, back, to, sizeof to));
    assert_ok(lane_download(ln, again, back, sizeof back));
    assert_memory_equal(from, again, sizeof from);
    lane_destroy(&ln);
    assert_null(ln);
    lane_destroy(&ln);

    struct lane_limits bad = limits;
    bad.max_rows = 0;
    assert_status(RXT_ESHAPE, lane_create(&ln, s.be, LANE_ANSWER, &bad));
    bad = limits;
    bad.max_width = 0;
    assert_status(RXT_ESHAPE, lane_create(&ln, s.be, LANE_ANSWER, &bad));
    bad = limits;
    bad.max_vocab = -1;
    assert_status(RXT_ESHAPE, lane_create(&ln, s.be, LANE_ANSWER, &bad));
    assert_null(ln);
    setting_close(&s);
}

/* What an op has to do, counted once: 2 flops a weight and row, the weights, the rows. */
static void counts(void **state)
{
    (void)state;
    struct setting s;
    struct weight *w;
    enum { K = 32, N = 64, ROWS = 3 };
    float *v = random_values(N * K, 1.0f, 1), x[ROWS * K] = {0}, y[ROWS * N];
    assert_true(setting_open(&s, "scalar", 1));
    const struct host_matrix m = matrix_of(v, N, K);
    assert_ok(weight_linear(&w, s.be, &m, NULL, 1, DTYPE_BF16));
    assert_true(weight_bytes(w) >= 2 * N * K);
    const struct tensor tx = {x, DTYPE_F32, ROWS, K, K}, ty = {y, DTYPE_F32, ROWS, N, N};
    struct count before = count_read();
    assert_ok(op_linear(s.ln, ty, tx, NULL, w));
    assert_status(RXT_ESHAPE, op_linear(s.ln, tx, tx, NULL, w)); /* not done, not counted */
    struct count after = count_read();
    assert_int_equal(after.ops - before.ops, 1);
    assert_int_equal(after.flops - before.flops, 2 * N * K * ROWS);
    assert_int_equal(after.bytes - before.bytes, weight_bytes(w) + sizeof x + sizeof y);
    weight_destroy(s.be, &w);
    weight_destroy(s.be, &w);
    setting_close(&s);
    free(v);
}

static void ceilings(void **state)
{
    (void)state;
    struct setting s;
    struct backend_ceiling c = {0};
    assert_true(setting_open(&s, "scalar", 1));
    assert_status(RXT_EINVAL, backend_measure(s.be, 0, &c));
    assert_ok(backend_measure(s.be, 3, &c));
    assert_true(c.flops > 0 && c.cache_bytes_s > 0 && c.dram_bytes_s > 0);
    setting_close(&s);
}

static enum rxt_status create_all(void *arg)
{
    (void)arg;
    struct backend *be;
    struct lane *ln = NULL;
    struct rxt_error err;
    TRY(backend_create(&be, &(struct backend_config){.name = "cpu", .n_thread = 2}, &err));
    enum rxt_status st = lane_create(&ln, be, LANE_ANSWER, &limits);
    lane_destroy(&ln);
    backend_destroy(&be);
    return st;
}

static void no_memory(void **state)
{
    (void)state;
    assert_survives_no_memory(create_all, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),  cmocka_unit_test(refusals), cmocka_unit_test(missing_rows),
        cmocka_unit_test(views),  cmocka_unit_test(memory),   cmocka_unit_test(lanes),
        cmocka_unit_test(counts), cmocka_unit_test(ceilings), cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
