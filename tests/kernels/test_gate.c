#include "kernels/backend.h"

#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"
#include "tests/ref/ref.h"

#include <math.h>

enum { N = 3 }; /* memories of a batch */

/* A gate of a test over random vectors. */
static struct gate_desc gate_of(enum gate_kind kind, bool tanh, bool per_slot, bool linear_status,
                                int32_t n_slot, int32_t dim)
{
    struct gate_desc d = {
        .kind = kind, .tanh = tanh, .per_slot = per_slot, .n_slot = n_slot, .dim = dim};
    int32_t n = per_slot ? n_slot : 1;
    if (kind == GATE_STATIC || kind == GATE_ELEMENTWISE)
        d.g = vector_of(random_values(n, 1.0f, 1), n);
    if (kind == GATE_LINEAR) {
        d.w = matrix_of(random_values(n * n_slot, 0.5f, 2), n, n_slot);
        d.b = vector_of(random_values(n, 1.0f, 3), n);
    }
    if (linear_status) {
        d.status_w = vector_of(random_values(dim, 0.3f, 4), dim);
        d.status_b = vector_of(random_values(1, 1.0f, 5), 1);
    }
    return d;
}

static void gate_free(const struct gate_desc *d)
{
    const void *data[] = {d->g.data, d->w.data, d->b.data, d->status_w.data, d->status_b.data};
    for (size_t i = 0; i < sizeof data / sizeof data[0]; i++)
        free((void *)data[i]);
}

/* n memories from m on; the result goes where `into` says: 0 elsewhere, 1 over old, 2 over new. */
static void run(struct setting *s, const struct gate_desc *d, const struct weight *w,
                const float *old, const float *new_, int32_t m, int32_t n, int into, float *out)
{
    int32_t rows = n * d->n_slot, at = m * d->n_slot * d->dim;
    struct tensor o = guarded(s->be, old + at, rows, d->dim);
    struct tensor x = guarded(s->be, new_ + at, rows, d->dim);
    struct tensor to = into == 1 ? o : into == 2 ? x : guarded(s->be, old + at, rows, d->dim);
    assert_ok(op_gate(s->ln, to, o, x, w));
    assert_ok(lane_sync(s->ln));
    guarded_take(s->be, to, out);
    if (into != 1)
        guarded_take(s->be, o, NULL);
    if (into != 2)
        guarded_take(s->be, x, NULL);
}

/* The same of memory m into a tensor of `dtype`; gives whether that is finite. */
static bool store(struct setting *s, const struct gate_desc *d, const struct weight *w,
                  const float *old, const float *new_, int32_t m, enum dtype dtype, float *out)
{
    int32_t at = m * d->n_slot * d->dim;
    bool finite = m & 1; /* neither is there by chance */
    struct tensor o = guarded(s->be, old + at, d->n_slot, d->dim);
    struct tensor x = guarded(s->be, new_ + at, d->n_slot, d->dim);
    struct tensor to = guarded_as(s->be, dtype, old + at, d->n_slot, d->dim);
    assert_ok(op_gate_store(s->ln, to, &finite, x, o, x, w));
    assert_ok(lane_sync(s->ln));
    guarded_take(s->be, to, out);
    guarded_take(s->be, o, NULL);
    guarded_take(s->be, x, NULL);
    return finite;
}

/* Each memory is stored as op_gate and op_convert would; memory 1 has a NaN if `bad`. */
static void check_stored(struct setting *s, const struct gate_desc *d, const struct weight *w,
                         const float *old, const float *new_, bool bad, const float *first,
                         float *out)
{
    int32_t size = d->n_slot * d->dim;
    for (int32_t m = 0; m < N; m++)
        for (int half = 0; half < 2; half++) {
            bool finite = store(s, d, w, old, new_, m, half ? DTYPE_BF16 : DTYPE_F32, out);
            assert_int_equal(finite, !(bad && m == 1));
            if (!finite)
                continue;
            for (int32_t i = 0; i < size; i++) {
                float f = first[m * size + i];
                if (half)
                    f = bf16_to_f32(bf16_from_f32(f));
                assert_memory_equal(&out[i], &f, sizeof f);
            }
        }
}

/* Half of the distance from x to the next number of bf16. */
static double half_step(float x)
{
    int exponent;
    (void)frexpf(x, &exponent);
    return x == 0 ? 0 : ldexp(1, exponent - 9);
}

/* Each memory is stored as the reference says, want[N,S,D], and in bf16 as the nearest to that,
 * which is half a step away at most. */
static void check_stored_like(struct setting *s, const struct gate_desc *d, const struct weight *w,
                              const float *old, const float *new_, const float *want)
{
    int32_t size = d->n_slot * d->dim;
    float *got = malloc((size_t)size * sizeof *got), *half = malloc((size_t)size * sizeof *half);
    assert_true(got && half);
    for (int32_t m = 0; m < N; m++) {
        assert_true(store(s, d, w, old, new_, m, DTYPE_F32, got));
        assert_true(store(s, d, w, old, new_, m, DTYPE_BF16, half));
        assert_like(got, want + m * size, (size_t)size, 3e-6);
        for (int32_t i = 0; i < size; i++)
            assert_true(fabs((double)half[i] - got[i]) <= half_step(got[i]));
    }
    free(got);
    free(half);
}

/* Reference, batches, instruction sets, threads, output over an input, NaN in another memory. */
static void check(const struct gate_desc *d)
{
    int32_t size = d->n_slot * d->dim, all = N * size;
    float *old = random_values(all, 1.0f, 10), *new_ = random_values(all, 1.0f, 11);
    float *first = malloc((size_t)all * sizeof *first), *out = malloc((size_t)all * sizeof *out);
    assert_true(first && out);
    for (int i = 0; i < N_WAY; i++) {
        struct setting s;
        if (!setting_open_way(&s, i))
            continue;
        struct weight *w;
        assert_ok(weight_gate(&w, s.be, d));
        if (i == 0) {
            for (int32_t m = 0; m < N; m++) {
                run(&s, d, w, old, new_, m, 1, 0, first + m * size);
                ref_gate(test_mode(), out + m * size, old + m * size, new_ + m * size, d);
            }
            assert_like(first, out, (size_t)all, 3e-6);
            check_stored_like(&s, d, w, old, new_, out);
        }
        for (int into = 0; into < 3; into++) {
            run(&s, d, w, old, new_, 0, N, into, out);
            assert_same_bits(out, first, all, backend_describe(s.be), into);
        }
        check_stored(&s, d, w, old, new_, false, first, out);
        float kept = new_[size];
        new_[size] = NAN;
        check_stored(&s, d, w, old, new_, true, first, out);
        run(&s, d, w, old, new_, 0, N, 0, out);
        assert_same_bits(out, first, size, backend_describe(s.be), 0);
        assert_same_bits(out + 2 * size, first + 2 * size, size, backend_describe(s.be), 2);
        new_[size] = kept;
        weight_destroy(s.be, &w);
        setting_close(&s);
    }
    free(old);
    free(new_);
    free(first);
    free(out);
}

static void every_gate(void **state)
{
    (void)state;
    for (enum gate_kind kind = GATE_REPLACE; kind <= GATE_LINEAR; kind++)
        for (int form = 0; form < 8; form++) {
            bool has_status = kind == GATE_ELEMENTWISE || kind == GATE_LINEAR;
            if (form & 4 && !has_status)
                continue;
            int32_t n_slot = form & 1 ? 20 : 7, dim = form & 1 ? 33 : 304;
            const struct gate_desc d = gate_of(kind, form & 1, form & 2, form & 4, n_slot, dim);
            check(&d);
            gate_free(&d);
        }
}

/* One large or infinite number: whether what is stored is finite is what the reference says of it,
 * rounded to the type that it is stored in. */
static void a_number_that_is_not_stored(void **state)
{
    (void)state;
    const float most = 0x1.FEp127f; /* of bf16; the sum with 0x1.8p119 is still one of float */
    const float number[][2] = {{1, 2},        {most, 0x1.8p119f}, {most, most},
                               {INFINITY, 1}, {1, -INFINITY},     {INFINITY, -INFINITY}};
    enum { SIZE = 7 * 304, AT = 3 * 304 + 301 };
    int n_finite = 0, n_only_f32 = 0;
    struct setting s;
    assert_true(setting_open_way(&s, 0));
    float *old = random_values(SIZE, 1.0f, 10), *new_ = random_values(SIZE, 1.0f, 11);
    float want[SIZE], out[SIZE];
    for (enum gate_kind kind = GATE_REPLACE; kind <= GATE_STATIC; kind++)
        for (size_t k = 0; k < sizeof number / sizeof *number; k++) {
            const struct gate_desc d = gate_of(kind, false, true, false, 7, 304);
            struct weight *w;
            assert_ok(weight_gate(&w, s.be, &d));
            old[AT] = number[k][0];
            new_[AT] = number[k][1];
            ref_gate(test_mode(), want, old, new_, &d);
            bool fits = isfinite(want[AT]), half = isfinite(ref_round(REF_BF16, want[AT]));
            assert_int_equal(store(&s, &d, w, old, new_, 0, DTYPE_F32, out), fits);
            assert_int_equal(isfinite(out[AT]) != 0, fits);
            assert_int_equal(store(&s, &d, w, old, new_, 0, DTYPE_BF16, out), half);
            assert_int_equal(isfinite(out[AT]) != 0, half);
            n_finite += fits;
            n_only_f32 += fits && !half;
            weight_destroy(s.be, &w);
            gate_free(&d);
        }
    assert_in_range(n_finite, 8, 9);
    assert_int_equal(n_only_f32, test_mode() == REF_BF16 ? 0 : 1);
    free(old);
    free(new_);
    setting_close(&s);
}

/* Spec 2.7: old (1, -1), new (3, 0), G 0.5. */
static void example_of_the_spec(void **state)
{
    (void)state;
    struct setting s;
    assert_true(setting_open(&s, "scalar", 1));
    float old[2] = {1, -1}, new_[2] = {3, 0}, out[2], g = 0.5f;
    struct gate_desc d = {
        .kind = GATE_ELEMENTWISE, .per_slot = true, .n_slot = 1, .dim = 2, .g = vector_of(&g, 1)};
    const double want[2][2] = {{2.358357, -0.320821}, {5.270298, -0.364851}};
    for (int i = 0; i < 2; i++) {
        d.tanh = i == 1;
        struct weight *w;
        assert_ok(weight_gate(&w, s.be, &d));
        run(&s, &d, w, old, new_, 0, 1, 0, out);
        for (int j = 0; j < 2; j++)
            assert_true(fabs((double)out[j] - want[i][j]) < 1e-6);
        weight_destroy(s.be, &w);
    }
    setting_close(&s);
}

static void recorded_bits(void **state)
{
    (void)state;
    struct setting s;
    assert_true(setting_open(&s, "scalar", 1));
    const struct gate_desc d = gate_of(GATE_LINEAR, true, true, true, 20, 33);
    int32_t all = N * d.n_slot * d.dim;
    float *old = random_values(all, 1.0f, 10), *new_ = random_values(all, 1.0f, 11);
    struct weight *w;
    assert_ok(weight_gate(&w, s.be, &d));
    run(&s, &d, w, old, new_, 0, N, 1, new_);
    assert_bits_recorded(new_, (size_t)all, 0x3DBC52734F14E116);
    weight_destroy(s.be, &w);
    free(old);
    free(new_);
    gate_free(&d);
    setting_close(&s);
}

struct creation {
    struct backend *be;
    const struct gate_desc *d;
};

static enum rxt_status create_once(void *arg)
{
    const struct creation *c = arg;
    struct weight *w;
    TRY(weight_gate(&w, c->be, c->d));
    weight_destroy(c->be, &w);
    return RXT_OK;
}

static void creation_and_what_does_not_fit(void **state)
{
    (void)state;
    struct setting s;
    assert_true(setting_open(&s, "scalar", 1));
    const struct gate_desc d = gate_of(GATE_LINEAR, false, true, true, 6, 4);
    struct creation c = {s.be, &d};
    assert_survives_no_memory(create_once, &c);
    struct gate_desc bad[4] = {d, d, d, d};
    bad[0].w.rows = 1;
    bad[1].b.n = 1;
    bad[2].status_w.n = 3;
    bad[3].n_slot = 0;
    struct weight *w;
    for (int i = 0; i < 4; i++)
        assert_status(RXT_ESHAPE, weight_gate(&w, s.be, &bad[i]));
    assert_ok(weight_gate(&w, s.be, &d));
    float x[7 * 4] = {0};
    struct tensor t = {x, DTYPE_F32, 6, 4, 4}, more = {x, DTYPE_F32, 7, 4, 4};
    assert_status(RXT_ESHAPE, op_gate(s.ln, more, more, more, w));
    assert_status(RXT_ESHAPE, op_gate(s.ln, t, more, t, w));
    assert_status(RXT_ESHAPE, op_gate(s.ln, tensor_cols(t, 0, 3), t, t, w));
    weight_destroy(s.be, &w);
    gate_free(&d);
    setting_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_gate),
        cmocka_unit_test(a_number_that_is_not_stored),
    };
    /* of the fronts, which are the same for every backend, and of the CPU's recorded bits */
    const struct CMUnitTest once[] = {
        cmocka_unit_test(recorded_bits),
        cmocka_unit_test(creation_and_what_does_not_fit),
        cmocka_unit_test(example_of_the_spec),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (!test_on_cuda())
        failed += cmocka_run_group_tests(once, NULL, NULL);
    return failed;
}
