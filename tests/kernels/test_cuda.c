/* The CUDA backend itself: names, memory, lanes, failure. */
#include "kernels/backend.h"

#include "tests/emulator/emulator.h"
#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"

#include <math.h>

__attribute__((weak)) void emulator_fail(enum emulated_fault fault); /* not there on a card */

static const struct lane_limits limits = {
    .max_rows = 4, .max_seq = 1, .max_keys = 8, .max_width = 32, .max_vocab = 10};

static enum rxt_status open_cuda(struct backend **be)
{
    const struct backend_config cfg = {.name = "cuda", .dtype = test_dtype()};
    return backend_create(be, &cfg, NULL);
}

static void names(void **state)
{
    (void)state;
    struct backend *be;
    struct rxt_error err;
    assert_ok(open_cuda(&be));
    assert_string_equal(backend_name(be), "cuda");
    assert_int_equal(backend_act_dtype(be), test_dtype());
    const char *want = test_mode() == REF_BF16 ? "cuda-bf16/1-sm" : "cuda-f32/1-sm";
    assert_int_equal(strncmp(backend_bit_class(be), want, strlen(want)), 0);
    assert_non_null(strstr(backend_describe(be), dtype_name(test_dtype())));
    backend_destroy(&be);
    const struct backend_config automatic = {.name = "auto", .dtype = test_dtype()};
    assert_ok(backend_create(&be, &automatic, NULL));
    assert_string_equal(backend_name(be), "cuda");
    backend_destroy(&be);
    const struct backend_config other = {.dtype = DTYPE_F16, .n_thread = 1};
    assert_ok(backend_create(&be, &other, NULL)); /* what the device cannot */
    assert_string_equal(backend_name(be), "cpu");
    backend_destroy(&be);
    const struct backend_config half = {.name = "cuda", .dtype = DTYPE_F16};
    assert_status(RXT_EINVAL, backend_create(&be, &half, &err));
    assert_non_null(strstr(err.text, "f16"));
}

/* Larger than the staging memory, and not a multiple of it. */
static void copies(void **state)
{
    (void)state;
    enum { BYTES = (5 << 19) + 12345 };
    struct backend *be;
    struct lane *ln;
    assert_ok(open_cuda(&be));
    assert_ok(lane_create(&ln, be, LANE_MEMORY, &limits));
    assert_true(lane_bytes(ln) >= 4 * 32 * sizeof(uint16_t));
    char *from = malloc(BYTES), *to = malloc(BYTES);
    assert_true(from && to);
    for (int i = 0; i < BYTES; i++)
        from[i] = (char)(i * 7 + i / 1000);
    char *a = backend_alloc(be, BYTES), *b = backend_alloc(be, BYTES);
    assert_true(a && b && (uintptr_t)a % 64 == 0);
    assert_ok(lane_download(ln, to, a, BYTES));
    for (int i = 0; i < BYTES; i++)
        assert_int_equal(to[i], 0);
    assert_ok(lane_upload(ln, a, from, BYTES));
    assert_ok(lane_copy(ln, b, a, BYTES));
    assert_ok(lane_download(ln, to, b, BYTES));
    assert_memory_equal(from, to, BYTES);
    assert_null(backend_alloc(be, 0));
    backend_free(be, a);
    backend_free(be, b);
    backend_free(be, NULL);
    lane_give_way(ln, 200);
    lane_rest(ln);
    lane_destroy(&ln);
    backend_destroy(&be);
    free(from);
    free(to);
}

/* More results than a lane keeps between two waits: none is lost. */
static void many_results(void **state)
{
    (void)state;
    enum { N = 700 };
    struct setting s;
    assert_true(setting_open(&s, "scalar", 1));
    const float x[2] = {1, 2}, y[2] = {1, INFINITY};
    struct tensor good = guarded_as(s.be, DTYPE_F32, x, 1, 2);
    struct tensor bad = guarded_as(s.be, DTYPE_F32, y, 1, 2);
    bool finite[N];
    for (int i = 0; i < N; i++)
        assert_ok(op_finite(s.ln, &finite[i], i % 3 ? good : bad));
    assert_ok(lane_sync(s.ln));
    for (int i = 0; i < N; i++)
        assert_int_equal(finite[i], i % 3 != 0);
    guarded_take(s.be, good, NULL);
    guarded_take(s.be, bad, NULL);
    setting_close(&s);
}

static void ceilings(void **state)
{
    (void)state;
    struct backend *be;
    struct backend_ceiling c = {0};
    assert_ok(open_cuda(&be));
    assert_ok(backend_measure(be, 3, &c));
    assert_true(c.flops > 0 && c.cache_bytes_s > 0 && c.dram_bytes_s > 0);
    backend_destroy(&be);
}

/* A failure is for good: it surfaces where the lane waits, then everywhere. */
static void failure(void **state)
{
    (void)state;
    struct setting s;
    assert_true(setting_open(&s, "scalar", 1));
    const float x[2] = {1, 2};
    bool finite = false;
    struct tensor t = guarded_as(s.be, DTYPE_F32, x, 1, 2);
    struct weight *w;
    const struct host_matrix m = matrix_of(x, 1, 2);
    assert_null(backend_failure(s.be));
    emulator_fail(EMULATED_WAIT);
    assert_ok(op_finite(s.ln, &finite, t));
    assert_status(RXT_EDEVICE, lane_sync(s.ln));
    emulator_fail(EMULATED_WORKS);
    assert_false(finite);
    assert_string_equal(backend_failure(s.be), "emulated error");
    assert_status(RXT_EDEVICE, op_finite(s.ln, &finite, t));
    assert_status(RXT_EDEVICE, op_convert(s.ln, t, t));
    assert_status(RXT_EDEVICE, lane_sync(s.ln));
    float y[2];
    assert_status(RXT_EDEVICE, lane_upload(s.ln, t.data, x, sizeof x));
    assert_status(RXT_EDEVICE, lane_download(s.ln, y, t.data, sizeof y));
    assert_status(RXT_EDEVICE, weight_linear(&w, s.be, &m, NULL, 1, DTYPE_F32));
    struct lane *ln;
    assert_status(RXT_EDEVICE, lane_create(&ln, s.be, LANE_ANSWER, &limits));
    assert_null(backend_alloc(s.be, 64));
    backend_free(s.be, (char *)t.data - 16 * sizeof *x);
    setting_close(&s);
}

static enum rxt_status create_all(void *arg)
{
    (void)arg;
    struct backend *be;
    struct lane *ln = NULL;
    TRY(open_cuda(&be));
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

static void keys_and_values(void **state)
{
    (void)state;
    struct backend *be;
    assert_ok(open_cuda(&be));
    const struct kv_config turn = {3, 2, 24, 100}; /* two blocks of 64 tokens */
    size_t value = dtype_bytes(test_dtype()), least = 3 * 2 * (size_t)2 * 64 * 2 * 24 * value;
    assert_true(kv_plan(be, &turn) >= least && kv_plan(be, &turn) < least + 512);
    assert_survives_no_memory(kv_create_both, be);
    backend_destroy(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),           cmocka_unit_test(copies),
        cmocka_unit_test(many_results),    cmocka_unit_test(no_memory),
        cmocka_unit_test(keys_and_values), cmocka_unit_test(ceilings),
    };
    const struct CMUnitTest on_purpose[] = {cmocka_unit_test(failure)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (emulator_fail)
        failed += cmocka_run_group_tests(on_purpose, NULL, NULL);
    return failed;
}
