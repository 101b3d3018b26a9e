/* The multiplications of the CUDA backend have several kernels for one result: for a few rows that
 * a block makes itself, for one, two or four groups of 8 rows, for many. A row must come out with
 * the same bits from each, aligned or not; see kernels/cuda/gemm.cu and gemm_tiles.cu. */
#include "kernels/backend.h"

#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"

enum { MOST = 131, DIM = 128, ODD = 192, TWO = 448, LONG = 768, OUT = 150 };
enum { WIDTH = 256, DEEP = 2048 }; /* hidden units */
/* Outputs for 102 large tiles of MOST rows, and of a head. */
enum { WIDE = 6450, WIDEST = 8200, WIDE_DIM = 256 };

struct subject {
    struct lane *ln;
    int32_t dim;
    struct weight *norm, *linear, *ff;
    float *values;
};

static struct lane *wide_lane(struct backend *be)
{
    const struct lane_limits limits = {
        .max_rows = MOST, .max_seq = 1, .max_keys = 1, .max_width = DEEP, .max_vocab = OUT};
    struct lane *ln;
    assert_ok(lane_create(&ln, be, LANE_ANSWER, &limits));
    return ln;
}

static void subject_open(struct subject *s, struct backend *be, int32_t dim, int32_t width)
{
    s->dim = dim;
    s->ln = wide_lane(be);
    s->values = random_values(3 * width * dim, 0.1f, 5);
    const float *v = s->values;
    const struct host_matrix m = matrix_of(v, OUT, dim);
    const struct host_vector bias = vector_of(v + 40, OUT);
    const struct norm_desc norm = {.kind = NORM_RMS, .dim = dim, .weight = vector_of(v + 9, dim)};
    const struct ff_desc ff = {
        .gated = true,
        .act = ACT_SILU,
        .w1 = matrix_of(v, 2 * width, dim),
        .w2 = matrix_of(v + 2 * width * dim, dim, width),
        .b1 = vector_of(v + 70, 2 * width),
        .b2 = vector_of(v + 20, dim),
    };
    assert_ok(weight_linear(&s->linear, be, &m, &bias, 1, DTYPE_BF16));
    assert_ok(weight_norm(&s->norm, be, &norm));
    assert_ok(weight_ff(&s->ff, be, &ff, DTYPE_BF16));
}

static void subject_close(struct subject *s, struct backend *be)
{
    weight_destroy(be, &s->linear);
    weight_destroy(be, &s->norm);
    weight_destroy(be, &s->ff);
    lane_destroy(&s->ln);
    free(s->values);
}

/* What each of n rows becomes: linear [OUT], the same with a norm [OUT], feed-forward [dim]. */
struct results {
    float *linear, *normed, *ff;
};

static struct results results_of(int32_t n, int32_t dim)
{
    struct results r = {malloc((size_t)n * OUT * sizeof(float)),
                        malloc((size_t)n * OUT * sizeof(float)),
                        malloc((size_t)n * (size_t)dim * sizeof(float))};
    assert_true(r.linear && r.normed && r.ff);
    return r;
}

static void results_free(struct results *r)
{
    free(r->linear);
    free(r->normed);
    free(r->ff);
}

static void run(const struct subject *s, struct backend *be, const float *x, int32_t n,
                bool is_aligned, struct results *r)
{
    struct tensor tx = is_aligned ? aligned(be, x, n, s->dim) : guarded(be, x, n, s->dim);
    float *zeros = calloc((size_t)n * OUT, sizeof *zeros);
    assert_non_null(zeros);
    struct tensor a = guarded(be, zeros, n, OUT), b = guarded(be, zeros, n, OUT);
    assert_ok(op_linear(s->ln, a, tx, NULL, s->linear));
    assert_ok(op_linear(s->ln, b, tx, s->norm, s->linear));
    assert_ok(op_ff_add(s->ln, tx, s->norm, s->ff));
    assert_ok(lane_sync(s->ln));
    guarded_take(be, a, r->linear);
    guarded_take(be, b, r->normed);
    if (is_aligned)
        aligned_take(be, tx, r->ff);
    else
        guarded_take(be, tx, r->ff);
    free(zeros);
}

/* Row `row` of the results r, as it came out alone. */
static void check_row(const struct results *r, int32_t at, const struct results *alone, int32_t row,
                      int32_t dim)
{
    assert_same_bits(r->linear + at * OUT, alone->linear + row * OUT, OUT, "linear", row);
    assert_same_bits(r->normed + at * OUT, alone->normed + row * OUT, OUT, "normed", row);
    assert_same_bits(r->ff + at * dim, alone->ff + row * dim, dim, "ff", row);
}

/* Runs of n_size numbers of rows, of which every `apart`-th row is compared. */
static void check(int32_t dim, int32_t width, const int32_t *size, int n_size, int32_t apart)
{
    struct setting set;
    struct subject s;
    for (int way = 0; setting_open_way(&set, way); way++) {
        subject_open(&s, set.be, dim, width);
        float *x = random_values(MOST * dim, 1.0f, 6);
        struct results alone = results_of(MOST, dim), r = results_of(MOST, dim);
        for (int32_t i = 0; i < MOST; i += apart) {
            struct results at = {alone.linear + i * OUT, alone.normed + i * OUT,
                                 alone.ff + i * dim};
            run(&s, set.be, x + i * dim, 1, i / apart % 2, &at);
        }
        for (int i = 0; i < n_size; i++)
            for (int is_aligned = 0; is_aligned < 2; is_aligned++) {
                int32_t first = (MOST - size[i]) / 2 / apart * apart;
                run(&s, set.be, x + first * dim, size[i], is_aligned, &r);
                for (int32_t at = 0; at < size[i]; at += apart)
                    check_row(&r, at, &alone, first + at, dim);
            }
        results_free(&alone);
        results_free(&r);
        free(x);
        subject_close(&s, set.be);
        setting_close(&set);
    }
}

/* Around every number of rows where another kernel takes over. */
static void one_result_from_every_kernel(void **state)
{
    (void)state;
    static const int32_t size[] = {2, 8, 9, 16, 17, 32, 33, 64, 65, 127, 128, 129, MOST};
    check(DIM, WIDTH, size, sizeof size / sizeof *size, 1);
}

/* 12 chunks of inputs, more than a block of gemm_tiles.cu has in flight, and ranges of 12 tiles,
 * more than a warp of gemm.cu holds; rows of two pieces a lane, the second not whole; ranges of 3
 * tiles. */
static void one_result_of_long_rows(void **state)
{
    (void)state;
    static const int32_t size[] = {7, 9, 17, 129};
    check(LONG, WIDTH, size, sizeof size / sizeof *size, 6);
    check(TWO, WIDTH, size, sizeof size / sizeof *size, 6);
    check(ODD, WIDTH, size, sizeof size / sizeof *size, 6);
}

/* So many hidden units that 129 rows of them are 64 large tiles of gemm_tiles.cu, and a range of
 * the second matrix is four of its chunks. */
static void one_result_of_many_hidden_units(void **state)
{
    (void)state;
    static const int32_t size[] = {33, 128, 129};
    check(DIM, DEEP, size, sizeof size / sizeof *size, 6);
}

/* y = W x + b and y += W x + b of n rows from `first` on. */
static void run_wide(struct lane *ln, const struct weight *w, struct tensor x, struct tensor y,
                     int32_t first, int32_t n)
{
    struct tensor from = tensor_rows(x, first, n), to = tensor_rows(y, first, n);
    assert_ok(op_linear(ln, to, from, NULL, w));
    assert_ok(op_linear_add(ln, to, from, w));
}

/* n rows through a matrix of `wide` outputs, all at once against `apart` at a time. */
static void check_wide(int32_t wide, int32_t n, int32_t apart)
{
    const struct lane_limits limits = {
        .max_rows = MOST, .max_seq = 1, .max_keys = 1, .max_width = WIDEST};
    struct setting set;
    if (test_dtype() != DTYPE_BF16) /* no such kernel */
        return;
    for (int way = 0; setting_open_way(&set, way); way++) {
        struct lane *ln;
        struct weight *w;
        float *v = random_values((int64_t)wide * WIDE_DIM, 0.1f, 8);
        const struct host_matrix m = matrix_of(v, wide, WIDE_DIM);
        const struct host_vector bias = vector_of(v + 11, wide);
        assert_ok(lane_create(&ln, set.be, LANE_ANSWER, &limits));
        assert_ok(weight_linear(&w, set.be, &m, &bias, 1, DTYPE_BF16));
        float *zeros = calloc((size_t)n * (size_t)wide, sizeof *zeros);
        float *got = malloc((size_t)n * (size_t)wide * sizeof *got);
        float *want = malloc((size_t)n * (size_t)wide * sizeof *want);
        assert_true(zeros && got && want);
        struct tensor x = aligned(set.be, v + 99, n, WIDE_DIM);
        struct tensor a = aligned(set.be, zeros, n, wide);
        struct tensor b = guarded(set.be, zeros, n, wide);
        run_wide(ln, w, x, a, 0, n);
        for (int32_t first = 0; first < n; first += apart)
            run_wide(ln, w, x, b, first, n - first < apart ? n - first : apart);
        assert_ok(lane_sync(ln));
        aligned_take(set.be, a, got);
        guarded_take(set.be, b, want);
        for (int32_t r = 0; r < n; r++)
            assert_same_bits(got + (size_t)r * (size_t)wide, want + (size_t)r * (size_t)wide, wide,
                             "row", r);
        backend_free(set.be, x.data);
        weight_destroy(set.be, &w);
        lane_destroy(&ln);
        free(zeros);
        free(got);
        free(want);
        free(v);
        setting_close(&set);
    }
}

/* So many outputs that the large tiles of gemm_tiles.cu fill a card. */
static void one_result_of_large_tiles(void **state)
{
    (void)state;
    check_wide(WIDE, MOST, 64);
}

/* So many that a few rows go there, in small tiles. */
static void one_result_of_a_head(void **state)
{
    (void)state;
    check_wide(WIDEST, 19, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_result_from_every_kernel),
        cmocka_unit_test(one_result_of_long_rows),
        cmocka_unit_test(one_result_of_many_hidden_units),
        cmocka_unit_test(one_result_of_large_tiles),
        cmocka_unit_test(one_result_of_a_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
