#include "tests/kernels/row_op.h"

#include "kernels/base/bf16.h"
#include "kernels/base/random.h"
#include "tests/lib/test.h"

#include <inttypes.h>
#include <math.h>

#define GUARD 0x7FC0DEADu /* a NaN that no op makes */
#define MARGIN 16         /* guards in front of and behind a tensor */
#define PAD 3             /* guards between its rows */

/* ---- settings ---- */

bool setting_open(struct setting *s, const char *isa, int n_thread)
{
    struct rxt_error err;
    *s = (struct setting){0};
    assert_int_equal(setenv("RXT_ISA", isa, 1), 0);
    const struct backend_config cfg = {.name = "cpu", .n_thread = n_thread};
    enum rxt_status st = backend_create(&s->be, &cfg, &err);
    unsetenv("RXT_ISA");
    if (st == RXT_EUNSUPPORTED)
        return false;
    assert_ok(st);
    const struct lane_limits limits = {
        .max_rows = ROW_OP_ROWS,
        .max_seq = ROW_OP_ROWS,
        .max_keys = 256,
        .max_width = 512,
        .max_vocab = 512,
        .max_expert = 16,
        .max_active = 8,
    };
    assert_ok(lane_create(&s->ln, s->be, LANE_ANSWER, &limits));
    return true;
}

bool setting_open_way(struct setting *s, int way)
{
    static const char *const isa[] = {"scalar", "avx2", "avx512"};
    return setting_open(s, isa[way / 2], 1 + way % 2);
}

void setting_close(struct setting *s)
{
    lane_destroy(&s->ln);
    backend_destroy(&s->be);
}

/* ---- values ---- */

float *random_values(int64_t n, float scale, uint64_t stream)
{
    float *v = malloc((size_t)n * sizeof *v);
    assert_non_null(v);
    random_normal_fill(v, (uint64_t)n, 1, RANDOM_BENCH, stream, 0);
    for (int64_t i = 0; i < n; i++)
        v[i] = bf16_to_f32(bf16_from_f32(v[i] * scale));
    return v;
}

struct host_matrix matrix_of(const float *data, int32_t rows, int32_t cols)
{
    return (struct host_matrix){.data = data, .dtype = DTYPE_F32, .rows = rows, .cols = cols};
}

struct host_vector vector_of(const float *data, int32_t n)
{
    return (struct host_vector){.data = data, .dtype = DTYPE_F32, .n = n};
}

/* ---- a tensor among guards ---- */

static size_t guarded_floats(int32_t rows, int32_t cols)
{
    return (size_t)rows * (size_t)(cols + PAD) + 2 * MARGIN;
}

struct tensor guarded(struct backend *be, const float *values, int32_t rows, int32_t cols)
{
    size_t n = guarded_floats(rows, cols);
    uint32_t *all = backend_alloc(be, n * sizeof *all);
    assert_non_null(all);
    for (size_t i = 0; i < n; i++)
        all[i] = GUARD;
    struct tensor t = {all + MARGIN, DTYPE_F32, rows, cols, cols + PAD};
    for (int32_t r = 0; r < rows; r++)
        memcpy((float *)t.data + r * t.stride, values + (size_t)r * (size_t)cols,
               (size_t)cols * sizeof(float));
    return t;
}

void guarded_take(struct backend *be, struct tensor t, float *values)
{
    uint32_t *all = (uint32_t *)t.data - MARGIN;
    size_t n = guarded_floats(t.rows, t.cols);
    for (size_t i = 0; i < n; i++) {
        int64_t at = (int64_t)i - MARGIN;
        bool inside = at >= 0 && at / t.stride < t.rows && at % t.stride < t.cols;
        if (!inside)
            assert_int_equal(all[i], GUARD);
    }
    for (int32_t r = 0; values && r < t.rows; r++)
        memcpy(values + (size_t)r * (size_t)t.cols, (float *)t.data + r * t.stride,
               (size_t)t.cols * sizeof(float));
    backend_free(be, all);
}

/* ---- the properties ---- */

struct values {
    float *x;     /* [ROWS,in] */
    float *start; /* [ROWS,out]: what ROW_OP_ADD adds to */
    float *alone; /* [ROWS,out]: every row by itself, scalar, one thread */
};

/* n_row rows from `from` on through the op; where nan_at says so, NaN companions instead. */
static void run_batch(const struct row_op *op, struct setting *s, const struct values *v,
                      int32_t from, int32_t n_row, bool with_nan, float *out)
{
    size_t in = (size_t)op->in_cols, first = (size_t)from;
    float *x = malloc((size_t)n_row * in * sizeof *x);
    assert_non_null(x);
    memcpy(x, v->x + first * in, (size_t)n_row * in * sizeof *x);
    for (int32_t r = 1; with_nan && r < n_row; r += 2)
        for (size_t i = 0; i < in; i++)
            x[(size_t)r * in + i] = i % 3 == 0 ? NAN : INFINITY;
    struct tensor tx = guarded(s->be, x, n_row, op->in_cols);
    if (op->kind == ROW_OP_IN_PLACE) {
        assert_ok(op->run(op->arg, s->ln, tx, tx));
        assert_ok(lane_sync(s->ln));
        guarded_take(s->be, tx, out);
    } else {
        struct tensor to =
            guarded(s->be, v->start + first * (size_t)op->out_cols, n_row, op->out_cols);
        assert_ok(op->run(op->arg, s->ln, to, tx));
        assert_ok(lane_sync(s->ln));
        guarded_take(s->be, to, out);
        guarded_take(s->be, tx, NULL);
    }
    free(x);
}

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

void assert_same_bits(const float *a, const float *b, int32_t n, const char *what, int32_t row)
{
    if (memcmp(a, b, (size_t)n * sizeof *a) == 0)
        return;
    for (int32_t i = 0; i < n; i++)
        if (bits_of(a[i]) != bits_of(b[i]))
            fail_msg("%s: row %d column %d: %a is not %a", what, row, i, (double)a[i],
                     (double)b[i]);
}

static void check_batches(const struct row_op *op, struct setting *s, const struct values *v,
                          const char *what)
{
    /* around the tile of 6 rows and the block of 48 */
    static const int32_t size[] = {1, 2, 3, 4, 5, 6, 13, 49, ROW_OP_ROWS};
    float *out = malloc(ROW_OP_ROWS * (size_t)op->out_cols * sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < sizeof size / sizeof size[0]; i++)
        for (int with_nan = 0; with_nan < (size[i] > 5 ? 2 : 1); with_nan++) {
            int32_t n = size[i], from = (ROW_OP_ROWS - n) / 2;
            run_batch(op, s, v, from, n, with_nan, out);
            for (int32_t r = 0; r < n; r += 1 + with_nan)
                assert_same_bits(out + (size_t)r * (size_t)op->out_cols,
                                 v->alone + (size_t)(from + r) * (size_t)op->out_cols, op->out_cols,
                                 what, r);
        }
    free(out);
}

static void check_reference(const struct row_op *op, const struct values *v)
{
    size_t n = ROW_OP_ROWS * (size_t)op->out_cols;
    float *want = malloc(n * sizeof *want);
    assert_non_null(want);
    memcpy(want, op->kind == ROW_OP_IN_PLACE ? v->x : v->start, n * sizeof *want);
    op->ref(op->arg, want, v->x, ROW_OP_ROWS);
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)want[i] - (double)v->alone[i]);
        if (!(d <= worst))
            worst = d;
    }
    if (!(worst <= op->bound))
        fail_msg("%g from the reference, allowed %g", worst, op->bound);
    free(want);
}

/* FNV-1a over the bits. */
static uint64_t hash_of(const float *v, size_t n)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ bits_of(v[i])) * 0x100000001B3u;
    }
    return h;
}

void assert_bits_recorded(const float *v, size_t n, uint64_t recorded)
{
    uint64_t hash = hash_of(v, n);
    if (hash != recorded)
        fail_msg("the bits changed: hash 0x%" PRIX64 ", recorded 0x%" PRIX64
                 "; if that is meant, raise the kernel number and record the new one",
                 hash, recorded);
}

struct creation {
    const struct row_op *op;
    struct backend *be;
};

static enum rxt_status create_once(void *arg)
{
    const struct creation *c = arg;
    enum rxt_status st = c->op->create(c->op->arg, c->be, DTYPE_F32);
    if (st == RXT_OK)
        c->op->destroy(c->op->arg, c->be);
    return st;
}

void row_op_check(const struct row_op *op)
{
    size_t n_out = ROW_OP_ROWS * (size_t)op->out_cols;
    struct values v = {
        .x = random_values(ROW_OP_ROWS * (int64_t)op->in_cols, 1.0f, 1001),
        .start = random_values(ROW_OP_ROWS * (int64_t)op->out_cols, 1.0f, 1002),
        .alone = malloc(n_out * sizeof(float)),
    };
    assert_non_null(v.alone);
    for (int way = 0; way < N_WAY; way++)
        for (int bf16_stored = 0; bf16_stored < 2; bf16_stored++) {
            struct setting s;
            if (!setting_open_way(&s, way))
                continue;
            bool first = way == 0 && !bf16_stored;
            if (first) {
                struct creation c = {op, s.be};
                assert_survives_no_memory(create_once, &c);
            }
            assert_ok(op->create(op->arg, s.be, bf16_stored ? DTYPE_BF16 : DTYPE_F32));
            if (first) {
                for (int32_t r = 0; r < ROW_OP_ROWS; r++)
                    run_batch(op, &s, &v, r, 1, false, v.alone + (size_t)r * (size_t)op->out_cols);
                check_reference(op, &v);
            }
            char what[64];
            snprintf(what, sizeof what, "%s, weights in %s", backend_describe(s.be),
                     bf16_stored ? "bf16" : "f32");
            check_batches(op, &s, &v, what);
            op->destroy(op->arg, s.be);
            setting_close(&s);
        }
    assert_bits_recorded(v.alone, n_out, op->hash);
    free(v.x);
    free(v.start);
    free(v.alone);
}
