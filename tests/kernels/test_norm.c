#include "kernels/backend.h"

#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"
#include "tests/ref/ref.h"

#include <math.h>

/* A norm of a test: its descriptor over random vectors, and the weight while it runs. */
struct norm {
    struct norm_desc d;
    struct weight *w;
};

/* Vectors of a kind; the caller frees with norm_free. */
static struct norm norm_of(enum norm_kind kind, int32_t dim, int32_t n_slot, bool scale_by_slot)
{
    struct norm_desc d = {.kind = kind, .dim = dim, .scale_by_slot = scale_by_slot};
    if (kind == NORM_RMS || kind == NORM_LAYER || kind == NORM_MIX_LAYER)
        d.weight = vector_of(random_values(dim, 1.0f, 1), dim);
    if (kind == NORM_LAYER || kind == NORM_MIX_LAYER)
        d.bias = vector_of(random_values(dim, 1.0f, 2), dim);
    if (kind != NORM_RMS && kind != NORM_LAYER) {
        int32_t n = scale_by_slot ? n_slot : dim, n_gate = kind == NORM_MIX_SLOT ? n_slot : 1;
        d.scale = vector_of(random_values(n, 1.0f, 3), n);
        d.gate = vector_of(random_values(n_gate, 1.0f, 4), n_gate);
    }
    if (kind == NORM_MIX_SLOT) {
        float *ema = random_values(n_slot, 1.0f, 5);
        for (int32_t s = 0; s < n_slot; s++)
            ema[s] = fabsf(ema[s]);
        d.ema_rms = vector_of(ema, n_slot);
    }
    return (struct norm){d, NULL};
}

static void norm_free(struct norm *n)
{
    const struct host_vector v[] = {n->d.weight, n->d.bias, n->d.scale, n->d.gate, n->d.ema_rms};
    for (size_t i = 0; i < sizeof v / sizeof v[0]; i++)
        free((void *)v[i].data);
}

static enum rxt_status create(void *arg, struct backend *be, enum dtype storage)
{
    (void)storage;
    struct norm *n = arg;
    return weight_norm(&n->w, be, &n->d);
}

static void destroy(void *arg, struct backend *be)
{
    struct norm *n = arg;
    weight_destroy(be, &n->w);
}

static enum rxt_status run(void *arg, struct lane *ln, struct tensor out, struct tensor x)
{
    const struct norm *n = arg;
    return op_norm(ln, out, x, n->w);
}

static void ref(void *arg, float *out, const float *x, int n_row)
{
    const struct norm *n = arg;
    ref_norm(test_mode(), out, x, n_row, &n->d);
}

static void check(enum norm_kind kind, int32_t dim, enum row_op_kind how, uint64_t hash)
{
    struct norm n = norm_of(kind, dim, 0, false);
    const struct row_op op = {.kind = how,
                              .in_cols = dim,
                              .out_cols = dim,
                              .arg = &n,
                              .create = create,
                              .destroy = destroy,
                              .run = run,
                              .ref = ref,
                              .bound = 3e-6,
                              .hash = hash};
    row_op_check(&op);
    norm_free(&n);
}

static void norms_of_rows(void **state)
{
    (void)state;
    check(NORM_RMS, 48, ROW_OP_STORE, 0xEC2C17B8BB892C0A);
    check(NORM_RMS, 77, ROW_OP_IN_PLACE, 0x436C8CE74B91D1D7);
    check(NORM_LAYER, 48, ROW_OP_STORE, 0xEEDAB5DB8DC7540A);
    check(NORM_LAYER, 9, ROW_OP_IN_PLACE, 0x57F169754360701);
    check(NORM_MIX_LAYER, 50, ROW_OP_STORE, 0x24EEC58D02C35AF2);
    check(NORM_MIX_LAYER, 48, ROW_OP_IN_PLACE, 0x9B14C17787667CCF);
    check(NORM_MIX_RMS, 50, ROW_OP_STORE, 0xDBADD775F5A587DA);
    check(NORM_MIX_RMS, 48, ROW_OP_IN_PLACE, 0xF1376EB5EBB7E9BD);
}

/* Three memories of 5 slots at once give what each gives alone, for both forms of the scale, also
 * where S = D. */
static void norms_by_slot(void **state)
{
    (void)state;
    enum { N = 3 };
    static const int32_t size[][2] = {{5, 24}, {16, 16}};
    for (int form = 0; form < 4; form++) {
        int32_t n_slot = size[form / 2][0], dim = size[form / 2][1], all = N * n_slot * dim;
        struct norm n = norm_of(NORM_MIX_SLOT, dim, n_slot, form % 2);
        float *x = random_values(all, 1.0f, 9), *first = malloc((size_t)all * sizeof *x);
        float *out = malloc((size_t)all * sizeof *x);
        assert_true(first && out);
        for (int i = 0; i < N_WAY; i++) {
            struct setting s;
            if (!setting_open_way(&s, i))
                continue;
            assert_ok(create(&n, s.be, DTYPE_F32));
            struct tensor to = guarded(s.be, x, N * n_slot, dim);
            assert_ok(op_norm(s.ln, to, to, n.w));
            assert_ok(lane_sync(s.ln));
            guarded_take(s.be, to, out);
            if (i == 0) {
                memcpy(first, out, (size_t)all * sizeof *x);
                float *want = malloc((size_t)all * sizeof *x);
                assert_non_null(want);
                ref_norm(test_mode(), want, x, N * n_slot, &n.d);
                assert_like(out, want, (size_t)all, 3e-6);
                free(want);
            }
            assert_same_bits(out, first, all, backend_describe(s.be), 0);
            for (int32_t m = 0; m < N; m++) {
                struct tensor alone = guarded(s.be, x + m * n_slot * dim, n_slot, dim);
                assert_ok(op_norm(s.ln, alone, alone, n.w));
                assert_ok(lane_sync(s.ln));
                guarded_take(s.be, alone, out);
                assert_same_bits(out, first + m * n_slot * dim, n_slot * dim, "alone", m);
            }
            struct tensor odd = guarded(s.be, x, n_slot + 1, dim);
            assert_status(RXT_ESHAPE, op_norm(s.ln, odd, odd, n.w));
            guarded_take(s.be, odd, NULL);
            destroy(&n, s.be);
            setting_close(&s);
        }
        norm_free(&n);
        free(x);
        free(first);
        free(out);
    }
}

static void what_does_not_fit(void **state)
{
    (void)state;
    struct setting s;
    assert_true(setting_open(&s, "scalar", 1));
    for (enum norm_kind kind = NORM_RMS; kind <= NORM_MIX_SLOT; kind++) {
        struct norm n = norm_of(kind, 8, 4, false);
        struct norm_desc bad = n.d;
        bad.dim = 7;
        assert_status(RXT_ESHAPE, weight_norm(&n.w, s.be, &bad));
        assert_null(n.w);
        assert_ok(create(&n, s.be, DTYPE_F32));
        float x[4 * 9] = {0};
        struct tensor t = {x, DTYPE_F32, 4, 9, 9}, few = {x, DTYPE_F32, 3, 8, 9};
        assert_status(RXT_ESHAPE, op_norm(s.ln, t, t, n.w));
        assert_status(RXT_ESHAPE, op_norm(s.ln, tensor_cols(t, 0, 8), few, n.w));
        destroy(&n, s.be);
        norm_free(&n);
    }
    setting_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_of_rows),
        cmocka_unit_test(norms_by_slot),
    };
    /* of the fronts, which are the same for every backend, and of the CPU's recorded bits */
    const struct CMUnitTest once[] = {
        cmocka_unit_test(what_does_not_fit),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (!test_on_cuda())
        failed += cmocka_run_group_tests(once, NULL, NULL);
    return failed;
}
