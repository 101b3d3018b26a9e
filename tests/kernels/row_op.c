#include "tests/kernels/row_op.h"

#include "kernels/base/bf16.h"
#include "kernels/base/random.h"
#include "tests/emulator/emulator.h"
#include "tests/lib/test.h"

#include <inttypes.h>
#include <math.h>

#define GUARD 0x7FC0DEADu /* a NaN that no op makes; of bf16 its upper half with an odd end */
#define GUARD_BF16 0x7FCDu
#define MARGIN 16 /* guards in front of and behind a tensor */
#define PAD 3     /* guards between its rows */

/* ---- the backend under test ---- */

/* There where the emulator is linked. */
__attribute__((weak)) void emulator_backwards(bool backwards);

bool test_on_cuda(void)
{
    return getenv("RXT_TEST_BACKEND") != NULL;
}

enum ref_mode test_mode(void)
{
    const char *name = getenv("RXT_TEST_BACKEND");
    if (!name)
        return REF_F32;
    assert_true(strcmp(name, "cuda-f32") == 0 || strcmp(name, "cuda-bf16") == 0);
    return strcmp(name, "cuda-bf16") == 0 ? REF_BF16 : REF_F32;
}

enum dtype test_dtype(void)
{
    return test_mode() == REF_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

static enum rxt_status open_backend(struct setting *s, const char *isa, int n_thread)
{
    struct rxt_error err = {""};
    const struct backend_config cpu = {.name = "cpu", .n_thread = n_thread};
    const struct backend_config cuda = {.name = "cuda", .dtype = test_dtype()};
    assert_int_equal(setenv("RXT_ISA", isa, 1), 0);
    enum rxt_status st = backend_create(&s->be, test_on_cuda() ? &cuda : &cpu, &err);
    unsetenv("RXT_ISA");
    if (st == RXT_EUNSUPPORTED && test_on_cuda())
        fail_msg("%s", err.text);
    return st;
}

/* ---- settings ---- */

bool setting_open(struct setting *s, const char *isa, int n_thread)
{
    *s = (struct setting){0};
    enum rxt_status st = open_backend(s, isa, n_thread);
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
    if (test_on_cuda() && way > 1)
        return false;
    if (emulator_backwards)
        emulator_backwards(way == 1);
    return setting_open(s, isa[way / 2], 1 + way % 2);
}

/* The lane that copies for a backend, until its setting is closed: one of CUDA zeroes 32 MB under a
 * sanitizer. */
static struct {
    struct backend *be;
    struct lane *ln;
} copies;

static struct lane *copy_lane(struct backend *be)
{
    const struct lane_limits least = {.max_rows = 1, .max_seq = 1, .max_keys = 1, .max_width = 1};
    if (copies.be != be) {
        lane_destroy(&copies.ln);
        assert_ok(lane_create(&copies.ln, be, LANE_ANSWER, &least));
        copies.be = be;
    }
    return copies.ln;
}

void setting_close(struct setting *s)
{
    if (copies.be == s->be) {
        lane_destroy(&copies.ln);
        copies.be = NULL;
    }
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

/* ---- memory of the backend ---- */

void *to_backend(struct backend *be, const void *data, size_t bytes)
{
    void *p = backend_alloc(be, bytes);
    assert_non_null(p);
    assert_ok(lane_upload(copy_lane(be), p, data, bytes));
    return p;
}

void from_backend(struct backend *be, void *data, const void *p, size_t bytes)
{
    assert_ok(lane_download(copy_lane(be), data, p, bytes));
}

/* ---- a tensor among guards ---- */

static size_t guarded_values(int32_t rows, int32_t cols)
{
    return (size_t)rows * (size_t)(cols + PAD) + 2 * MARGIN;
}

static void put_value(void *all, enum dtype dtype, size_t i, float v)
{
    if (dtype == DTYPE_BF16)
        ((bf16 *)all)[i] = bf16_from_f32(v);
    else
        ((float *)all)[i] = v;
}

static void put_guard(void *all, enum dtype dtype, size_t i)
{
    if (dtype == DTYPE_BF16)
        ((bf16 *)all)[i] = GUARD_BF16;
    else
        ((uint32_t *)all)[i] = GUARD;
}

static bool is_guard(const void *all, enum dtype dtype, size_t i)
{
    return dtype == DTYPE_BF16 ? ((const bf16 *)all)[i] == GUARD_BF16
                               : ((const uint32_t *)all)[i] == GUARD;
}

struct tensor guarded_as(struct backend *be, enum dtype dtype, const float *values, int32_t rows,
                         int32_t cols)
{
    size_t n = guarded_values(rows, cols), bytes = n * dtype_bytes(dtype);
    struct tensor t = {NULL, dtype, rows, cols, cols + PAD};
    void *all = malloc(bytes);
    assert_non_null(all);
    for (size_t i = 0; i < n; i++)
        put_guard(all, dtype, i);
    for (int32_t r = 0; r < rows; r++)
        for (int32_t c = 0; c < cols; c++)
            put_value(all, dtype, MARGIN + (size_t)(r * t.stride + c),
                      values[(size_t)r * (size_t)cols + (size_t)c]);
    t.data = (char *)to_backend(be, all, bytes) + MARGIN * dtype_bytes(dtype);
    free(all);
    return t;
}

struct tensor guarded(struct backend *be, const float *values, int32_t rows, int32_t cols)
{
    return guarded_as(be, backend_act_dtype(be), values, rows, cols);
}

void guarded_take(struct backend *be, struct tensor t, float *values)
{
    size_t n = guarded_values(t.rows, t.cols), bytes = n * dtype_bytes(t.dtype);
    char *at = (char *)t.data - MARGIN * dtype_bytes(t.dtype);
    void *all = malloc(bytes);
    assert_non_null(all);
    from_backend(be, all, at, bytes);
    for (size_t i = 0; i < n; i++) {
        int64_t place = (int64_t)i - MARGIN, r = place / t.stride, c = place % t.stride;
        bool inside = place >= 0 && r < t.rows && c < t.cols;
        if (!inside)
            assert_true(is_guard(all, t.dtype, i));
        else if (values)
            values[r * t.cols + c] = dtype_value(all, t.dtype, i);
    }
    free(all);
    backend_free(be, at);
}

struct tensor aligned(struct backend *be, const float *x, int32_t n, int32_t cols)
{
    enum dtype dtype = backend_act_dtype(be);
    size_t count = (size_t)n * (size_t)cols;
    bf16 *narrow = malloc(count * sizeof *narrow);
    assert_non_null(narrow);
    for (size_t i = 0; i < count; i++)
        narrow[i] = bf16_from_f32(x[i]);
    const void *from = dtype == DTYPE_BF16 ? (const void *)narrow : x;
    struct tensor t = {NULL, dtype, n, cols, cols};
    t.data = to_backend(be, from, count * dtype_bytes(dtype));
    free(narrow);
    return t;
}

void aligned_take(struct backend *be, struct tensor t, float *x)
{
    size_t count = (size_t)t.rows * (size_t)t.cols;
    void *all = malloc(count * dtype_bytes(t.dtype));
    assert_non_null(all);
    from_backend(be, all, t.data, count * dtype_bytes(t.dtype));
    for (size_t i = 0; x && i < count; i++)
        x[i] = dtype_value(all, t.dtype, i);
    free(all);
    backend_free(be, t.data);
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
        enum dtype dtype = op->out_f32 ? DTYPE_F32 : backend_act_dtype(s->be);
        struct tensor to =
            guarded_as(s->be, dtype, v->start + first * (size_t)op->out_cols, n_row, op->out_cols);
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
    /* around the tile of 6 rows and the block of 32 */
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

/* One step of bf16 at x. */
static double bf16_step(double x)
{
    int exponent;
    (void)frexp(x, &exponent);
    return ldexp(1.0, exponent - 8);
}

/* Design-gpu H. */
static void assert_like_on_cuda(const float *got, const float *want, size_t n)
{
    double error = 0, size = 0, bound = test_mode() == REF_BF16 ? 4e-3 : 1e-5;
    size_t apart = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        error += d * d;
        size += (double)want[i] * want[i];
        apart += !(d <= bf16_step(want[i]));
    }
    if (!(sqrt(error) <= bound * sqrt(size)))
        fail_msg("%g relative to the reference, allowed %g", sqrt(error / size), bound);
    if (apart > n / 1000)
        fail_msg("%zu of %zu more than one step of bf16 from the reference", apart, n);
}

void assert_like(const float *got, const float *want, size_t n, double bound)
{
    if (test_on_cuda()) {
        assert_like_on_cuda(got, want, n);
        return;
    }
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= worst))
            worst = d;
    }
    if (!(worst <= bound))
        fail_msg("%g from the reference, allowed %g", worst, bound);
}

static void check_reference(const struct row_op *op, const struct values *v)
{
    size_t n = ROW_OP_ROWS * (size_t)op->out_cols;
    float *want = malloc(n * sizeof *want);
    assert_non_null(want);
    memcpy(want, op->kind == ROW_OP_IN_PLACE ? v->x : v->start, n * sizeof *want);
    op->ref(op->arg, want, v->x, ROW_OP_ROWS);
    assert_like(v->alone, want, n, op->bound);
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
    if (hash != recorded && !test_on_cuda())
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

enum rxt_status kv_create_both(void *backend)
{
    static const struct kv_config turn = {3, 2, 24, 100};
    static const struct mem_kv_config memory = {3, 2, 24, 100};
    struct backend *be = backend;
    struct kv *kv;
    struct mem_kv *mem;
    TRY(kv_create(&kv, be, &turn));
    enum rxt_status st = mem_kv_create(&mem, be, &memory);
    kv_destroy(be, &kv);
    if (st == RXT_OK)
        mem_kv_destroy(be, &mem);
    return st;
}
