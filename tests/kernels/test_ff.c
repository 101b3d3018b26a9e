#include "kernels/backend.h"

#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"
#include "tests/ref/ref.h"

/* A feed-forward of a test: what it is, and its weights while it runs. */
struct layer {
    int32_t dim, width;
    bool gated, has_bias, has_norm;
    enum act act;
    float *w1, *w2, *b1, *b2, *norm_w;
    struct weight *ff, *norm;
};

static struct ff_desc desc_of(const struct layer *l)
{
    int32_t inner = l->gated ? 2 * l->width : l->width;
    return (struct ff_desc){
        .gated = l->gated,
        .act = l->act,
        .w1 = matrix_of(l->w1, inner, l->dim),
        .w2 = matrix_of(l->w2, l->dim, l->width),
        .b1 = vector_of(l->has_bias ? l->b1 : NULL, inner),
        .b2 = vector_of(l->has_bias ? l->b2 : NULL, l->dim),
    };
}

static struct norm_desc norm_of(const struct layer *l)
{
    return (struct norm_desc){
        .kind = NORM_RMS, .dim = l->dim, .weight = vector_of(l->norm_w, l->dim)};
}

static void destroy(void *arg, struct backend *be)
{
    struct layer *l = arg;
    weight_destroy(be, &l->ff);
    weight_destroy(be, &l->norm);
}

static enum rxt_status create(void *arg, struct backend *be, enum dtype storage)
{
    struct layer *l = arg;
    const struct ff_desc d = desc_of(l);
    const struct norm_desc n = norm_of(l);
    enum rxt_status st = weight_ff(&l->ff, be, &d, storage);
    if (st == RXT_OK && l->has_norm)
        st = weight_norm(&l->norm, be, &n);
    if (st != RXT_OK)
        destroy(l, be);
    return st;
}

static enum rxt_status run(void *arg, struct lane *ln, struct tensor out, struct tensor x)
{
    (void)out;
    const struct layer *l = arg;
    return op_ff_add(ln, x, l->norm, l->ff);
}

static void ref(void *arg, float *out, const float *x, int n_row)
{
    const struct layer *l = arg;
    const struct ff_desc d = desc_of(l);
    const struct norm_desc n = norm_of(l);
    size_t size = (size_t)n_row * (size_t)l->dim * sizeof(float);
    float *h = malloc(size), *y = malloc(size);
    assert_true(h && y);
    memcpy(h, x, size);
    if (l->has_norm)
        ref_norm(test_mode(), h, x, n_row, &n);
    ref_ff(test_mode(), y, h, n_row, &d);
    ref_add(test_mode(), out, y, n_row * l->dim);
    free(h);
    free(y);
}

static void check(struct layer l, uint64_t hash)
{
    l.w1 = random_values(2 * (int64_t)l.width * l.dim, 0.2f, 1);
    l.w2 = random_values((int64_t)l.width * l.dim, 0.2f, 2);
    l.b1 = random_values(2 * l.width, 1.0f, 3);
    l.b2 = random_values(l.dim, 1.0f, 4);
    l.norm_w = random_values(l.dim, 1.0f, 5);
    const struct row_op op = {
        .kind = ROW_OP_IN_PLACE,
        .in_cols = l.dim,
        .out_cols = l.dim,
        .arg = &l,
        .create = create,
        .destroy = destroy,
        .run = run,
        .ref = ref,
        .bound = 1e-5,
        .hash = hash,
    };
    row_op_check(&op);
    free(l.w1);
    free(l.w2);
    free(l.b1);
    free(l.b2);
    free(l.norm_w);
}

static void gated(void **state)
{
    (void)state;
    check((struct layer){.dim = 48, .width = 24, .gated = true, .act = ACT_SILU, .has_norm = true},
          0xCE0064934A909A03);
    check((struct layer){.dim = 64, .width = 160, .gated = true, .act = ACT_SILU, .has_norm = true},
          0x2D467C473E2073EE);
    check((struct layer){.dim = 20, .width = 33, .gated = true, .act = ACT_GELU, .has_bias = true},
          0x4284449D1B1D725C);
    check((struct layer){.dim = 5, .width = 1, .gated = true, .act = ACT_SIGMOID},
          0x252143D58CC843D);
}

static void not_gated(void **state)
{
    (void)state;
    check((struct layer){.dim = 48, .width = 24, .act = ACT_GELU, .has_bias = true},
          0x186DB3BF0C806ADF);
    check((struct layer){.dim = 33, .width = 100, .act = ACT_RELU, .has_norm = true},
          0xEF9384D25D51146D);
    check((struct layer){.dim = 16, .width = 30, .act = ACT_LINEAR, .has_bias = true},
          0x41CDD001D4CE012E);
    check((struct layer){.dim = 16, .width = 30, .act = ACT_SILU}, 0xCD475EA43A61A235);
}

static void refuses_shapes(void **state)
{
    (void)state;
    struct setting s;
    struct weight *w;
    float *v = random_values(128, 1.0f, 1);
    assert_true(setting_open(&s, "scalar", 1));
    const struct ff_desc good = {
        .gated = true, .act = ACT_SILU, .w1 = matrix_of(v, 8, 6), .w2 = matrix_of(v, 6, 4)};
    struct ff_desc bad = good;
    bad.w1.rows = 7;
    assert_status(RXT_ESHAPE, weight_ff(&w, s.be, &bad, DTYPE_F32));
    bad = good;
    bad.w2 = matrix_of(v, 6, 8);
    assert_status(RXT_ESHAPE, weight_ff(&w, s.be, &bad, DTYPE_F32));
    bad.gated = false;
    assert_ok(weight_ff(&w, s.be, &bad, DTYPE_F32));
    weight_destroy(s.be, &w);
    bad = good;
    bad.b1 = vector_of(v, 4);
    assert_status(RXT_ESHAPE, weight_ff(&w, s.be, &bad, DTYPE_F32));
    bad = good;
    bad.b2 = vector_of(v, 8);
    assert_status(RXT_ESHAPE, weight_ff(&w, s.be, &bad, DTYPE_F32));
    bad = good;
    bad.w2.data = NULL;
    assert_status(RXT_ESHAPE, weight_ff(&w, s.be, &bad, DTYPE_F32));
    assert_null(w);

    assert_ok(weight_ff(&w, s.be, &good, DTYPE_F32));
    float x[12] = {0};
    const struct tensor narrow = {x, DTYPE_F32, 2, 5, 6};
    assert_status(RXT_ESHAPE, op_ff_add(s.ln, narrow, NULL, w));
    for (int i = 0; i < 12; i++)
        assert_true(x[i] == 0);
    weight_destroy(s.be, &w);
    setting_close(&s);
    free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gated),
        cmocka_unit_test(not_gated),
    };
    /* of the fronts, which are the same for every backend, and of the CPU's recorded bits */
    const struct CMUnitTest once[] = {
        cmocka_unit_test(refuses_shapes),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (!test_on_cuda())
        failed += cmocka_run_group_tests(once, NULL, NULL);
    return failed;
}
