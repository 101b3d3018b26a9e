/* convert, finite, mean, embed: what goes through matrices element by element. */
#include "kernels/backend.h"

#include "kernels/base/bf16.h"
#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"
#include "tests/ref/ref.h"

#include <math.h>

enum { ROWS = 5, COLS = 37, ALL = ROWS * COLS };

/* Values that are hard to round: halves, limits, subnormals, NaN, infinity. */
static void hard_values(float *x)
{
    static const uint32_t bits[] = {0x3F808000, 0x3F818000, 0x3F80FFFF, 0xBF818000, 0x7F7FFFFF,
                                    0x00000001, 0x80008000, 0x7F800000, 0xFF800000, 0x7F800001,
                                    0x7FFFFFFF, 0x80000000, 0x00018000};
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++)
        memcpy(x + 3 * i, &bits[i], sizeof *x);
}

static void convert_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (int way = 0; way < N_WAY; way++) {
        struct setting s;
        if (!setting_open_way(&s, way))
            continue;
        float *x = random_values(ALL, 1.1f, 1), back[ALL];
        for (int i = 0; i < ALL; i++)
            x[i] *= 1.001f;
        hard_values(x);
        bf16 narrow[ROWS * 40];
        for (int i = 0; i < ROWS * 40; i++)
            narrow[i] = 0xBEEF;
        struct tensor from = guarded_as(s.be, DTYPE_F32, x, ROWS, COLS);
        void *data = to_backend(s.be, narrow, sizeof narrow);
        struct tensor to = {data, DTYPE_BF16, ROWS, COLS, 40};
        assert_ok(op_convert(s.ln, to, from));
        assert_ok(lane_sync(s.ln));
        from_backend(s.be, narrow, data, sizeof narrow);
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < 40; c++)
                assert_int_equal(narrow[r * 40 + c],
                                 c < COLS ? bf16_from_f32(x[r * COLS + c]) : 0xBEEF);
        assert_ok(op_convert(s.ln, from, to));
        assert_ok(lane_sync(s.ln));
        guarded_take(s.be, from, back);
        backend_free(s.be, data);
        for (int i = 0; i < ALL; i++) {
            float want = bf16_to_f32(bf16_from_f32(x[i]));
            assert_memory_equal(&back[i], &want, sizeof want);
        }
        free(x);
        setting_close(&s);
    }
}

static bool is_finite(struct setting *s, struct tensor t)
{
    bool finite = false;
    assert_ok(op_finite(s->ln, &finite, t));
    assert_ok(lane_sync(s->ln));
    return finite;
}

static void finite_sees_every_element(void **state)
{
    (void)state;
    static const float odd[] = {NAN, INFINITY, -INFINITY};
    for (int way = 0; way < N_WAY; way++) {
        struct setting s;
        if (!setting_open_way(&s, way))
            continue;
        float *x = random_values(ALL, 1.0f, 1);
        x[7] = 3.4e38f, x[8] = 1e-45f, x[9] = 3.4e38f;
        struct tensor t = guarded_as(s.be, DTYPE_F32, x, ROWS, COLS); /* NaN between the rows */
        assert_true(is_finite(&s, t));
        for (int i = 0; i < ALL; i++) {
            float *at = (float *)t.data + i / COLS * t.stride + i % COLS;
            assert_ok(lane_upload(s.ln, at, &odd[i % 3], sizeof *at));
            assert_false(is_finite(&s, t));
            assert_ok(lane_upload(s.ln, at, &x[i], sizeof *at));
        }
        guarded_take(s.be, t, NULL);
        for (int i = 0; i < ALL; i++)
            x[i] = x[i] > 1e38f ? 0 : x[i];
        t = guarded_as(s.be, DTYPE_BF16, x, ROWS, COLS);
        assert_true(is_finite(&s, t));
        bf16 *last = (bf16 *)t.data + (ROWS - 1) * t.stride + COLS - 1;
        const bf16 infinity = 0x7F80;
        assert_ok(lane_upload(s.ln, last, &infinity, sizeof infinity));
        assert_false(is_finite(&s, t));
        guarded_take(s.be, t, NULL);
        free(x);
        setting_close(&s);
    }
}

static void mean_adds_in_order(void **state)
{
    (void)state;
    enum { N = 151 };
    float *x[N], first[ALL], out[ALL];
    for (int i = 0; i < N; i++)
        x[i] = random_values(ALL, 1.0f, (uint64_t)i);
    for (int way = 0; way < N_WAY; way++) {
        struct setting s;
        if (!setting_open_way(&s, way))
            continue;
        for (int n = 1; n <= N; n += 50) {
            struct tensor t[N], to = guarded(s.be, x[0], ROWS, COLS);
            for (int i = 0; i < n; i++)
                t[i] = guarded(s.be, x[i], ROWS, COLS);
            assert_ok(op_mean(s.ln, to, t, n));
            assert_ok(lane_sync(s.ln));
            guarded_take(s.be, to, out);
            for (int i = 0; i < n; i++)
                guarded_take(s.be, t[i], NULL);
            ref_mean(test_mode(), first, (const float *const *)x, n, ALL);
            for (int i = 0; i < ALL; i++) {
                float sum = x[0][i];
                for (int j = 1; j < n; j++)
                    sum += x[j][i];
                /* the order is part of the contract */
                assert_true(out[i] == ref_round(test_mode(), sum / (float)n));
            }
            assert_like(out, first, ALL, 1e-6);
        }
        struct tensor a = {out, backend_act_dtype(s.be), ROWS, COLS, COLS},
                      b = tensor_rows(a, 0, ROWS - 1);
        assert_status(RXT_ESHAPE, op_mean(s.ln, a, &b, 1));
        assert_status(RXT_ESHAPE, op_mean(s.ln, a, &a, 0));
        setting_close(&s);
    }
    for (int i = 0; i < N; i++)
        free(x[i]);
}

static enum rxt_status create_table(void *arg)
{
    struct backend *be = arg;
    const float row[2] = {1, 2};
    const struct host_matrix m = matrix_of(row, 1, 2);
    struct weight *w;
    TRY(weight_table(&w, be, &m));
    weight_destroy(be, &w);
    return RXT_OK;
}

/* IEEE half precision of a value that is exact in it and not subnormal. */
static uint16_t half_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t magnitude = f == 0 ? 0 : ((u & 0x7FFFFFFF) >> 13) - ((127 - 15) << 10);
    return (uint16_t)((u >> 16 & 0x8000) | magnitude);
}

/* The same rows from a table in each dtype: the values are exact in all three. A table lies where
 * it does, at an odd address too. */
static void embed_reads_the_table_where_it_lies(void **state)
{
    (void)state;
    enum { V = 50, R = 9 };
    float *table = random_values(V * COLS, 1.0f, 1), want[R * COLS], out[R * COLS];
    bf16 narrow[V * COLS];
    uint16_t half[V * COLS];
    for (int i = 0; i < V * COLS; i++) {
        table[i] = roundf(table[i] * 64) / 64;
        narrow[i] = bf16_from_f32(table[i]);
        half[i] = half_of(table[i]);
    }
    static _Alignas(4) char odd[3][4 + sizeof(float) * V * COLS];
    const void *data[] = {table, narrow, half};
    for (enum dtype t = DTYPE_F32; t <= DTYPE_F16; t++)
        memcpy(odd[t] + 1, data[t], V * COLS * dtype_bytes(t));
    int32_t id[R] = {0, V - 1, 7, 7, 31, 2, 0, 48, 5};
    ref_embed(want, table, id, R, COLS);
    for (int way = 0; way < N_WAY; way++) {
        struct setting s;
        if (!setting_open_way(&s, way))
            continue;
        for (enum dtype t = DTYPE_F32; t <= DTYPE_F16; t++) {
            const void *at = way % 2 ? data[t] : odd[t] + 1;
            struct host_matrix m = {.data = at, .dtype = t, .rows = V, .cols = COLS};
            struct weight *w;
            assert_ok(weight_table(&w, s.be, &m));
            struct tensor to = guarded(s.be, table, R, COLS);
            assert_ok(op_embed(s.ln, to, w, id));
            assert_ok(lane_sync(s.ln));
            id[3] = V;
            assert_status(RXT_ESHAPE, op_embed(s.ln, to, w, id));
            id[3] = -1;
            assert_status(RXT_ESHAPE, op_embed(s.ln, to, w, id));
            id[3] = 7;
            assert_status(RXT_ESHAPE, op_embed(s.ln, tensor_cols(to, 0, COLS - 1), w, id));
            guarded_take(s.be, to, out);
            assert_memory_equal(out, want, sizeof want);
            weight_destroy(s.be, &w);
        }
        if (way == 0)
            assert_survives_no_memory(create_table, s.be);
        setting_close(&s);
    }
    free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convert_rounds_to_nearest_even),
        cmocka_unit_test(finite_sees_every_element),
        cmocka_unit_test(mean_adds_in_order),
        cmocka_unit_test(embed_reads_the_table_where_it_lies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
