#include "kernels/backend.h"

#include "kernels/base/bf16.h"
#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"
#include "tests/ref/ref.h"

/* One linear layer of a test: sizes, what goes with it, and the weights while it runs. */
struct layer {
    int32_t k, n;
    bool has_bias, head;
    int norm; /* an enum norm_kind, or -1 for none */
    float *w, *b, *norm_w, *norm_b;
    struct weight *linear, *norm_weight;
};

static struct norm_desc norm_of(const struct layer *l)
{
    return (struct norm_desc){
        .kind = (enum norm_kind)l->norm,
        .dim = l->k,
        .weight = vector_of(l->norm_w, l->k),
        .bias = vector_of(l->norm == NORM_LAYER ? l->norm_b : NULL, l->k),
    };
}

static struct host_vector bias_of(const struct layer *l)
{
    return vector_of(l->has_bias ? l->b : NULL, l->n);
}

static enum rxt_status create(void *arg, struct backend *be, enum dtype storage)
{
    struct layer *l = arg;
    const struct host_matrix m = matrix_of(l->w, l->n, l->k);
    const struct host_vector b = bias_of(l);
    TRY(weight_linear(&l->linear, be, &m, l->has_bias ? &b : NULL, 1, storage));
    if (l->norm < 0)
        return RXT_OK;
    const struct norm_desc d = norm_of(l);
    enum rxt_status st = weight_norm(&l->norm_weight, be, &d);
    if (st != RXT_OK)
        weight_destroy(be, &l->linear);
    return st;
}

static void destroy(void *arg, struct backend *be)
{
    struct layer *l = arg;
    weight_destroy(be, &l->linear);
    weight_destroy(be, &l->norm_weight);
}

static enum rxt_status run_linear(void *arg, struct lane *ln, struct tensor out, struct tensor x)
{
    const struct layer *l = arg;
    return op_linear(ln, out, x, l->norm_weight, l->linear);
}

static enum rxt_status run_add(void *arg, struct lane *ln, struct tensor out, struct tensor x)
{
    const struct layer *l = arg;
    return op_linear_add(ln, out, x, l->linear);
}

static enum rxt_status run_head(void *arg, struct lane *ln, struct tensor out, struct tensor x)
{
    const struct layer *l = arg;
    int32_t row[ROW_OP_ROWS];
    for (int32_t r = 0; r < x.rows; r++)
        row[r] = r;
    return op_head(ln, out, x, row, l->norm_weight, l->linear);
}

static void ref(void *arg, float *out, const float *x, int n_row)
{
    const struct layer *l = arg;
    const struct host_matrix m = matrix_of(l->w, l->n, l->k);
    const struct host_vector b = bias_of(l);
    float *h = malloc(sizeof *h * (size_t)n_row * (size_t)l->k);
    float *y = malloc(sizeof *y * (size_t)n_row * (size_t)l->n);
    assert_true(h && y);
    memcpy(h, x, sizeof *h * (size_t)n_row * (size_t)l->k);
    if (l->norm >= 0) {
        const struct norm_desc d = norm_of(l);
        ref_norm(test_mode(), h, x, n_row, &d);
    }
    ref_linear(l->head ? REF_F32 : test_mode(), y, h, n_row, &m, &b);
    memcpy(out, y, sizeof *y * (size_t)n_row * (size_t)l->n);
    free(h);
    free(y);
}

static void ref_and_add(void *arg, float *out, const float *x, int n_row)
{
    const struct layer *l = arg;
    float *y = malloc(sizeof *y * (size_t)n_row * (size_t)l->n);
    assert_non_null(y);
    ref(arg, y, x, n_row);
    ref_add(test_mode(), out, y, n_row * l->n);
    free(y);
}

static void layer_fill(struct layer *l)
{
    l->w = random_values((int64_t)l->n * l->k, 0.1f, 1);
    l->b = random_values(l->n, 1.0f, 2);
    l->norm_w = random_values(l->k, 1.0f, 3);
    l->norm_b = random_values(l->k, 1.0f, 4);
}

static void layer_free(struct layer *l)
{
    free(l->w);
    free(l->b);
    free(l->norm_w);
    free(l->norm_b);
}

static void check(struct layer l, enum row_op_kind kind,
                  enum rxt_status (*run)(void *, struct lane *, struct tensor, struct tensor),
                  uint64_t hash)
{
    layer_fill(&l);
    const struct row_op op = {
        .kind = kind,
        .in_cols = l.k,
        .out_cols = l.n,
        .out_f32 = l.head,
        .arg = &l,
        .create = create,
        .destroy = destroy,
        .run = run,
        .ref = kind == ROW_OP_ADD ? ref_and_add : ref,
        .bound = 2e-6 + 1e-8 * l.k,
        .hash = hash,
    };
    row_op_check(&op);
    layer_free(&l);
}

static void linear_plain(void **state)
{
    (void)state;
    check((struct layer){.k = 96, .n = 200, .norm = -1}, ROW_OP_STORE, run_linear,
          0x280060DB52BEA67D);
}

static void linear_odd_sizes(void **state)
{
    (void)state;
    check((struct layer){.k = 1, .n = 1, .has_bias = true, .norm = -1}, ROW_OP_STORE, run_linear,
          0x8C305E4C8878925);
    check((struct layer){.k = 33, .n = 70, .has_bias = true, .norm = -1}, ROW_OP_STORE, run_linear,
          0x14C9CCF5698B10B4);
    check((struct layer){.k = 17, .n = 24, .norm = -1}, ROW_OP_STORE, run_linear,
          0xC4530B81A295B54F);
}

static void linear_with_norm(void **state)
{
    (void)state;
    check((struct layer){.k = 48, .n = 130, .norm = NORM_RMS}, ROW_OP_STORE, run_linear,
          0x57E35AA6BA5C5761);
    check((struct layer){.k = 51, .n = 40, .has_bias = true, .norm = NORM_LAYER}, ROW_OP_STORE,
          run_linear, 0xC0443B07AFDE8BC4);
}

static void linear_added(void **state)
{
    (void)state;
    check((struct layer){.k = 128, .n = 100, .has_bias = true, .norm = -1}, ROW_OP_ADD, run_add,
          0x4B4966EFFD20A8AA);
}

static void head_of_chosen_rows(void **state)
{
    (void)state;
    check((struct layer){.k = 48, .n = 300, .has_bias = true, .head = true, .norm = NORM_RMS},
          ROW_OP_STORE, run_head, 0x380581C8A0ECE172);
    check((struct layer){.k = 20, .n = 65, .head = true, .norm = -1}, ROW_OP_STORE, run_head,
          0x8999BD9DA1337DCE);
}

/* Row i of the logits is row[i] of x, whether there is a norm or not. */
static void head_picks_rows(void **state)
{
    (void)state;
    enum { ROWS = 5, PICKED = 4 };
    static const int32_t all[ROWS] = {0, 1, 2, 3, 4}, row[PICKED] = {3, 0, 4, 3};
    for (int norm = -1; norm <= NORM_RMS; norm++) {
        struct setting s;
        struct layer l = {.k = 20, .n = 30, .norm = norm};
        layer_fill(&l);
        assert_true(setting_open(&s, "scalar", 1));
        assert_ok(create(&l, s.be, DTYPE_F32));
        float *x = random_values(ROWS * l.k, 1.0f, 9), every[ROWS * 30], some[PICKED * 30];
        static const float zeros[ROWS * 30];
        const struct tensor tx = guarded(s.be, x, ROWS, l.k);
        const struct tensor te = guarded_as(s.be, DTYPE_F32, zeros, ROWS, l.n);
        const struct tensor ts = guarded_as(s.be, DTYPE_F32, zeros, PICKED, l.n);
        assert_ok(op_head(s.ln, te, tx, all, l.norm_weight, l.linear));
        assert_ok(op_head(s.ln, ts, tx, row, l.norm_weight, l.linear));
        assert_ok(lane_sync(s.ln));
        guarded_take(s.be, tx, NULL);
        guarded_take(s.be, te, every);
        guarded_take(s.be, ts, some);
        for (int i = 0; i < PICKED; i++)
            assert_memory_equal(&some[i * l.n], &every[row[i] * l.n], (size_t)l.n * sizeof *x);
        destroy(&l, s.be);
        setting_close(&s);
        layer_free(&l);
        free(x);
    }
}

/* ---- many blocks of rows ---- */

/* All rows, so many at a time. */
static void run_rows(struct setting *s, const struct layer *l, const float *x, int32_t n_row,
                     int32_t at_once, float *y)
{
    float *zeros = calloc((size_t)n_row * (size_t)l->n, sizeof *zeros);
    assert_non_null(zeros);
    const struct tensor tx = guarded(s->be, x, n_row, l->k);
    const struct tensor ty = guarded(s->be, zeros, n_row, l->n);
    for (int32_t r = 0; r < n_row; r += at_once)
        assert_ok(op_linear(s->ln, tensor_rows(ty, r, at_once), tensor_rows(tx, r, at_once), NULL,
                            l->linear));
    assert_ok(lane_sync(s->ln));
    guarded_take(s->be, tx, NULL);
    guarded_take(s->be, ty, y);
    free(zeros);
}

/* Rows in several blocks have the bits of each alone: on one thread, two and three, which do not
 * divide them, in either storage. */
static void check_blocks(int32_t k, int32_t n, int32_t n_row)
{
    static const char *const isa[] = {"scalar", "avx2", "avx512"};
    const struct lane_limits limits = {
        .max_rows = n_row, .max_seq = 1, .max_keys = 1, .max_width = n};
    struct layer l = {.k = k, .n = n, .has_bias = true, .norm = -1};
    size_t n_out = (size_t)n_row * (size_t)n;
    float *x = random_values((int64_t)n_row * k, 1.0f, 9);
    float *alone = malloc(n_out * sizeof *alone), *y = malloc(n_out * sizeof *y);
    assert_true(alone && y);
    layer_fill(&l);
    for (int way = 0; way < 9; way++) {
        struct setting s;
        if (!setting_open(&s, isa[way / 3], 1 + way % 3))
            continue;
        lane_destroy(&s.ln);
        assert_ok(lane_create(&s.ln, s.be, LANE_ANSWER, &limits));
        for (int bf16_stored = 0; bf16_stored < 2; bf16_stored++) {
            assert_ok(create(&l, s.be, bf16_stored ? DTYPE_BF16 : DTYPE_F32));
            if (way == 0 && !bf16_stored) {
                run_rows(&s, &l, x, n_row, 1, alone);
                ref(&l, y, x, n_row);
                assert_like(alone, y, n_out, 2e-6 + 1e-8 * k);
            }
            run_rows(&s, &l, x, n_row, n_row, y);
            for (int32_t r = 0; r < n_row; r++)
                assert_same_bits(y + (size_t)r * (size_t)n, alone + (size_t)r * (size_t)n, n,
                                 backend_describe(s.be), r);
            destroy(&l, s.be);
        }
        setting_close(&s);
    }
    layer_free(&l);
    free(x);
    free(alone);
    free(y);
}

/* Above 1 MB in either storage: all rows of some panels are a thread's. */
static void blocks_by_panels(void **state)
{
    (void)state;
    check_blocks(260, 2100, 70);
}

/* A small one: all panels of some rows are. */
static void blocks_by_rows(void **state)
{
    (void)state;
    check_blocks(40, 150, 100);
}

/* ---- weights from many places ---- */

enum { K = 37, N = 90 };

/* y of one row through a weight made of these parts. */
static void apply(float *y, const struct host_matrix *part, const struct host_vector *bias,
                  int n_part, enum dtype storage)
{
    struct setting s;
    struct weight *w;
    float *x = random_values(K, 1.0f, 9);
    assert_true(setting_open(&s, "scalar", 2));
    assert_ok(weight_linear(&w, s.be, part, bias, n_part, storage));
    static const float zeros[N];
    const struct tensor tx = guarded(s.be, x, 1, K), ty = guarded(s.be, zeros, 1, N);
    assert_ok(op_linear(s.ln, ty, tx, NULL, w));
    assert_ok(lane_sync(s.ln));
    guarded_take(s.be, tx, NULL);
    guarded_take(s.be, ty, y);
    weight_destroy(s.be, &w);
    setting_close(&s);
    free(x);
}

static void parts_transposed_permuted(void **state)
{
    (void)state;
    float *w = random_values(N * K, 0.1f, 1), *b = random_values(N, 1.0f, 2);
    float whole[N], parts[N];
    const struct host_matrix one = matrix_of(w, N, K);
    const struct host_vector bias = vector_of(b, N);
    apply(whole, &one, &bias, 1, DTYPE_F32);

    /* rows 0..29 as they are, 30..59 transposed, 60..89 backwards with a list that turns them */
    float middle[30 * K], last[30 * K];
    int32_t back[30];
    for (int32_t r = 0; r < 30; r++) {
        back[r] = 29 - r;
        for (int32_t k = 0; k < K; k++)
            middle[k * 30 + r] = w[(30 + r) * K + k];
        memcpy(&last[(29 - r) * K], &w[(60 + r) * K], K * sizeof *w);
    }
    struct host_matrix part[3] = {matrix_of(w, 30, K), matrix_of(middle, 30, K),
                                  matrix_of(last, 30, K)};
    part[1].transposed = true;
    part[2].row_of = back;
    const struct host_vector biases[3] = {vector_of(b, 30), vector_of(b + 30, 30),
                                          vector_of(b + 60, 30)};
    apply(parts, part, biases, 3, DTYPE_F32);
    assert_memory_equal(whole, parts, sizeof whole);

    /* an absent bias counts as zero */
    struct host_vector some[3] = {biases[0], {.n = 30}, biases[2]};
    apply(parts, part, some, 3, DTYPE_F32);
    assert_memory_equal(whole, parts, 30 * sizeof *whole);
    assert_memory_equal(whole + 60, parts + 60, 30 * sizeof *whole);
    for (int i = 30; i < 60; i++)
        assert_true(parts[i] != whole[i]);
    free(w);
    free(b);
}

static void every_dtype_of_files(void **state)
{
    (void)state;
    float *w = random_values(N * K, 0.1f, 1), whole[N], other[N];
    uint16_t half[N * K];
    bf16 brain[N * K];
    const struct host_matrix one = matrix_of(w, N, K);
    for (int i = 0; i < N * K; i++) {
        w[i] = (float)(i % 61 - 30) / 32.0f; /* exact in all three */
        brain[i] = bf16_from_f32(w[i]);
        int e = 15;
        float m = w[i] < 0 ? -w[i] : w[i];
        for (; m != 0 && m < 1; e--)
            m *= 2;
        half[i] =
            (uint16_t)((w[i] < 0 ? 0x8000 : 0) | (m == 0 ? 0 : e << 10 | (int)((m - 1) * 1024)));
    }
    apply(whole, &one, NULL, 1, DTYPE_F32);
    struct host_matrix m = one;
    m.dtype = DTYPE_BF16;
    m.data = brain;
    apply(other, &m, NULL, 1, DTYPE_BF16);
    assert_memory_equal(whole, other, sizeof whole);
    m.dtype = DTYPE_F16;
    m.data = half;
    apply(other, &m, NULL, 1, DTYPE_F32);
    assert_memory_equal(whole, other, sizeof whole);
    free(w);
}

/* Rounding to bf16 on the way in is to nearest even. */
static void storage_rounds(void **state)
{
    (void)state;
    float *w = random_values(N * K, 0.1f, 1), exact[N], stored[N];
    struct host_matrix m = matrix_of(w, N, K);
    for (int i = 0; i < N * K; i++)
        w[i] *= 1.001f;
    apply(stored, &m, NULL, 1, DTYPE_BF16);
    for (int i = 0; i < N * K; i++)
        w[i] = bf16_to_f32(bf16_from_f32(w[i]));
    apply(exact, &m, NULL, 1, DTYPE_F32);
    assert_memory_equal(exact, stored, sizeof exact);
    free(w);
}

/* ---- refusals ---- */

static void refuses_weights(void **state)
{
    (void)state;
    struct setting s;
    struct weight *w;
    float *v = random_values(64, 1.0f, 1);
    int32_t row[4] = {0};
    assert_true(setting_open(&s, "scalar", 1));
    const struct host_matrix good = matrix_of(v, 4, 8);
    const struct host_vector short_bias = vector_of(v, 3);
    assert_status(RXT_ESHAPE, weight_linear(&w, s.be, &good, NULL, 0, DTYPE_F32));
    assert_status(RXT_ESHAPE, weight_linear(&w, s.be, &good, NULL, 1, DTYPE_F16));
    assert_status(RXT_ESHAPE, weight_linear(&w, s.be, &good, &short_bias, 1, DTYPE_F32));
    struct host_matrix two[2] = {good, matrix_of(v, 4, 7)};
    assert_status(RXT_ESHAPE, weight_linear(&w, s.be, two, NULL, 2, DTYPE_F32));
    struct host_matrix bad = good;
    bad.data = NULL;
    assert_status(RXT_ESHAPE, weight_linear(&w, s.be, &bad, NULL, 1, DTYPE_F32));
    bad = good;
    bad.rows = 0;
    assert_status(RXT_ESHAPE, weight_linear(&w, s.be, &bad, NULL, 1, DTYPE_F32));
    bad = good;
    bad.transposed = true;
    bad.row_of = row;
    assert_status(RXT_ESHAPE, weight_linear(&w, s.be, &bad, NULL, 1, DTYPE_F32));
    assert_null(w);
    setting_close(&s);
    free(v);
}

static void refuses_shapes(void **state)
{
    (void)state;
    struct setting s;
    struct layer l = {.k = 8, .n = 4, .norm = NORM_RMS};
    layer_fill(&l);
    assert_true(setting_open(&s, "scalar", 1));
    assert_ok(create(&l, s.be, DTYPE_F32));
    float x[16] = {0}, y[16] = {0};
    const struct tensor tx = {x, DTYPE_F32, 2, 8, 8}, ty = {y, DTYPE_F32, 2, 4, 4};
    const struct weight *nw = l.norm_weight, *lw = l.linear;
    struct tensor bad;
    for (int i = 0; i < 16; i++)
        y[i] = 5;

    bad = tensor_cols(tx, 0, 7);
    assert_status(RXT_ESHAPE, op_linear(s.ln, ty, bad, nw, lw));
    bad = tensor_rows(tx, 0, 1);
    assert_status(RXT_ESHAPE, op_linear(s.ln, ty, bad, nw, lw));
    bad = ty;
    bad.cols = 3;
    assert_status(RXT_ESHAPE, op_linear(s.ln, bad, tx, nw, lw));
    bad = ty;
    bad.stride = 3;
    assert_status(RXT_ESHAPE, op_linear(s.ln, bad, tx, nw, lw));
    bad = ty;
    bad.dtype = DTYPE_BF16;
    assert_status(RXT_ESHAPE, op_linear(s.ln, bad, tx, nw, lw));
    bad = ty;
    bad.data = NULL;
    assert_status(RXT_ESHAPE, op_linear(s.ln, bad, tx, nw, lw));
    assert_status(RXT_ESHAPE, op_linear_add(s.ln, tx, ty, lw));
    struct tensor many = {y, DTYPE_F32, ROW_OP_ROWS + 1, 4, 4},
                  more = {x, DTYPE_F32, ROW_OP_ROWS + 1, 8, 8};
    assert_status(RXT_ESHAPE, op_linear(s.ln, many, more, nw, lw));
    int32_t row[2] = {0, 2};
    assert_status(RXT_ESHAPE, op_head(s.ln, ty, tx, row, nw, lw));
    row[1] = -1;
    assert_status(RXT_ESHAPE, op_head(s.ln, ty, tx, row, nw, lw));
    for (int i = 0; i < 16; i++)
        assert_true(y[i] == 5); /* nothing was written */

    /* no rows: nothing to do */
    assert_ok(op_linear(s.ln, tensor_rows(ty, 0, 0), tensor_rows(tx, 0, 0), nw, lw));
    assert_true(y[0] == 5);
    destroy(&l, s.be);
    setting_close(&s);
    layer_free(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_plain),
        cmocka_unit_test(linear_odd_sizes),
        cmocka_unit_test(linear_with_norm),
        cmocka_unit_test(linear_added),
        cmocka_unit_test(head_of_chosen_rows),
        cmocka_unit_test(head_picks_rows),
        cmocka_unit_test(parts_transposed_permuted),
        cmocka_unit_test(every_dtype_of_files),
        cmocka_unit_test(storage_rounds),
    };
    /* of the fronts, which are the same for every backend, and of how the CPU cuts rows */
    const struct CMUnitTest once[] = {
        cmocka_unit_test(blocks_by_panels),
        cmocka_unit_test(blocks_by_rows),
        cmocka_unit_test(refuses_weights),
        cmocka_unit_test(refuses_shapes),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (!test_on_cuda())
        failed += cmocka_run_group_tests(once, NULL, NULL);
    return failed;
}
