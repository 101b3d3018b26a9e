/* The formats of the CUDA backend, without it: every weight has a place of its own, and what the
 * tensor cores would make of fragments read from there is W x. The fragments are spelt out here
 * from the PTX ISA ("Matrix Fragments for mma.m16n8k16 / m16n8k8", .bf16): lane l has of A the
 * rows l/4 and l/4 + 8, of B the column l/4, of both k = l%4 * 2 + {0,1}, and of m16n8k16 the same
 * 8 further; of C the same rows at columns l%4 * 2 + {0,1}. Which input stands at which k is ours
 * to choose. */
#include "kernels/cuda/pack_impl.h"

#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"

enum { ROWS = 8 }; /* of an MMA */

/* Whole numbers, so that every sum is exact in any order. */
static float *numbers(size_t n, uint32_t seed)
{
    float *v = malloc(n * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        v[i] = (float)(seed >> 28) - 7.0f;
    }
    return v;
}

/* C += A B of a warp; a[lane], b[lane]: its elements in the order of the registers. */
static void mma(float c[16][8], bf16 a[32][8], bf16 b[32][4], int n_k)
{
    float full_a[16][16] = {{0}}, full_b[16][8] = {{0}};
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < n_k / 2; i++) {
            int row = lane / 4 + i / 2 % 2 * 8, k = lane % 4 * 2 + i % 2 + i / 4 * 8;
            full_a[row][k] = bf16_to_f32(a[lane][i]);
        }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < n_k / 4; i++)
            full_b[lane % 4 * 2 + i % 2 + i / 2 * 8][lane / 4] = bf16_to_f32(b[lane][i]);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 8; n++)
            for (int k = 0; k < n_k; k++)
                c[m][n] += full_a[m][k] * full_b[k][n];
}

/* Tile m of outputs times 8 rows, as a kernel reads both: out[16][8]. */
static void run_tile(float out[16][8], const struct tiles *t, const bf16 *w, const bf16 *x,
                     int32_t m)
{
    bf16 a[32][8], b[32][4];
    memset(out, 0, 16 * sizeof *out);
    for (int32_t range = 0; range < t->n_range; range++) {
        int32_t first = tiles_range_k(t, range);
        for (int32_t j = 0; j < t->range_tile + t->tail; j++) {
            int tail = j == t->range_tile, n = tail ? 4 : 8;
            const bf16 *tile = w + (tail ? tiles_tail_at(t, m, range) : tiles_at(t, m, range, j));
            for (int lane = 0; lane < 32; lane++) {
                memcpy(a[lane], tile + lane * n, (size_t)n * sizeof(bf16));
                memcpy(b[lane], x + lane / 4 * t->k + first + 16 * j + lane % 4 * n / 2,
                       (size_t)n / 2 * sizeof(bf16));
            }
            mma(out, a, b, tail ? 8 : 16);
        }
    }
}

/* rows[ROWS,n], filled up. */
static bf16 *rows_of(const float *rows, int32_t n)
{
    bf16 *g = calloc((size_t)pack_fill(n) * ROWS, sizeof *g);
    assert_non_null(g);
    for (int32_t r = 0; r < ROWS; r++)
        for (int32_t k = 0; k < n; k++)
            g[r * pack_fill(n) + k] = bf16_from_f32(rows[r * n + k]);
    return g;
}

static float dot(const float *a, const float *b, int32_t n)
{
    float sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static void linear_multiplies_right(void **state)
{
    (void)state;
    static const int32_t size[][2] = {{1, 1}, {16, 64}, {24, 17}, {70, 33}, {130, 200}, {16, 512}};
    for (size_t s = 0; s < sizeof size / sizeof *size; s++) {
        int32_t n = size[s][0], k = size[s][1];
        float *w = numbers((size_t)(n * k), 1), *x = numbers((size_t)(ROWS * k), 2);
        const struct tiles t = tiles_linear(n, k);
        bf16 *packed = calloc(tiles_linear_elements(&t), sizeof *packed), *rows = rows_of(x, k);
        assert_non_null(packed);
        const struct host_matrix m = matrix_of(w, n, k);
        assert_ok(pack_linear(packed, DTYPE_BF16, &m, 1, DTYPE_BF16));
        for (int32_t tile = 0; tile < t.n_tile; tile++) {
            float out[16][8];
            run_tile(out, &t, packed, rows, tile);
            for (int32_t o = 0; o < 16; o++)
                for (int32_t r = 0; r < ROWS; r++)
                    assert_true(
                        out[o][r] ==
                        (tile * 16 + o < n ? dot(w + (tile * 16 + o) * k, x + r * k, k) : 0));
        }
        free(w);
        free(x);
        free(packed);
        free(rows);
    }
}

/* Both matrices of a feed-forward out of one block: 8 slices with and without tails. */
static void feed_forward_multiplies_right(void **state)
{
    (void)state;
    static const int32_t size[][2] = {{64, 192},  {20, 33},   {48, 24},
                                      {130, 256}, {512, 192}, {5, 1}};
    for (size_t s = 0; s < sizeof size / sizeof *size; s++)
        for (int gated = 0; gated < 2; gated++) {
            int32_t dim = size[s][0], width = size[s][1], inner = gated ? 2 * width : width;
            float *w1 = numbers((size_t)(inner * dim), 1), *w2 = numbers((size_t)(dim * width), 2);
            float *x = numbers((size_t)(ROWS * dim), 3), *h = numbers((size_t)(ROWS * width), 4);
            const struct ff_desc d = {
                .gated = gated, .w1 = matrix_of(w1, inner, dim), .w2 = matrix_of(w2, dim, width)};
            bf16 *packed = calloc(tiles_ff_elements(dim, width), sizeof *packed);
            bf16 *gx = rows_of(x, dim), *gh = rows_of(h, width);
            assert_non_null(packed);
            assert_ok(pack_ff(packed, DTYPE_BF16, &d, DTYPE_BF16));
            const struct tiles up = tiles_up(dim, width), down = tiles_down(dim, width);
            float out[16][8];
            for (int32_t tile = 0; tile < up.n_tile; tile++) {
                run_tile(out, &up, packed, gx, tile);
                for (int32_t o = 0; o < 16; o++)
                    for (int32_t r = 0; r < ROWS; r++) {
                        int32_t unit = tile * 8 + o % 8, row = unit + o / 8 * width;
                        bool exists = unit < width && (o < 8 || gated);
                        assert_true(out[o][r] ==
                                    (exists ? dot(w1 + row * dim, x + r * dim, dim) : 0));
                    }
            }
            for (int32_t tile = 0; tile < down.n_tile; tile++) {
                run_tile(out, &down, packed, gh, tile);
                for (int32_t o = 0; o < 16; o++)
                    for (int32_t r = 0; r < ROWS; r++) {
                        int32_t row = tile * 16 + o;
                        assert_true(out[o][r] ==
                                    (row < dim ? dot(w2 + row * width, h + r * width, width) : 0));
                    }
            }
            free(w1);
            free(w2);
            free(x);
            free(h);
            free(packed);
            free(gx);
            free(gh);
        }
}

static void take(char *taken, int64_t at, int64_t n)
{
    assert_true(at >= 0 && at < n && !taken[at]);
    taken[at] = 1;
}

/* No element of a tile is met twice, and none is left: in both dtypes, linear and feed-forward. */
static void places_are_their_own(void **state)
{
    (void)state;
    const struct tiles linear = tiles_linear(40, 70);
    const struct tiles part[2] = {tiles_up(96, 192), tiles_down(96, 192)};
    size_t size[2] = {tiles_linear_elements(&linear), tiles_ff_elements(96, 192)};
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
        for (int ff = 0; ff < 2; ff++) {
            char *taken = calloc(size[ff], 1);
            assert_non_null(taken);
            for (int p = 0; p < 1 + ff; p++) {
                const struct tiles *t = ff ? &part[p] : &linear;
                for (int32_t m = 0; m < t->n_tile; m++)
                    for (int32_t range = 0; range < t->n_range; range++)
                        for (int32_t j = 0; j < t->range_tile + t->tail; j++)
                            for (int32_t o = 0; o < 16; o++)
                                for (int32_t k = 0; k < (j < t->range_tile ? 16 : 8); k++)
                                    take(taken,
                                         j < t->range_tile
                                             ? tiles_at(t, m, range, j) + tile_element(dtype, o, k)
                                             : tiles_tail_at(t, m, range) +
                                                   tail_element(dtype, o, k),
                                         (int64_t)size[ff]);
            }
            for (size_t i = 0; i < size[ff]; i++)
                assert_true(taken[i]);
            free(taken);
        }
}

/* An expert of Beta is 8 slices of 72 KB: three tiles of W1 at K 512, then k16 and k8 of W2. */
static void slices_of_beta(void **state)
{
    (void)state;
    const struct tiles up = tiles_up(512, 192), down = tiles_down(512, 192);
    assert_int_equal(up.slice_tile, 3);
    assert_int_equal(up.slice_step * 2, 72 << 10);
    assert_int_equal(down.range_step, up.slice_step);
    assert_int_equal(down.first * 2, 48 << 10);
    assert_int_equal(down.range_tile, 1);
    assert_int_equal(down.tail, 1);
    assert_int_equal(tiles_ff_elements(512, 192) * 2, 8 * 72 << 10);
}

/* Values of f32 survive; rounded on the way where the storage says so. */
static void f32_keeps_values(void **state)
{
    (void)state;
    enum { N = 20, K = 70 };
    float *w = random_values(N * K, 1.0f, 1);
    for (int i = 0; i < N * K; i++)
        w[i] *= 1.001f;
    const struct tiles t = tiles_linear(N, K);
    const struct host_matrix m = matrix_of(w, N, K);
    for (enum dtype storage = DTYPE_F32; storage <= DTYPE_BF16; storage++) {
        float *packed = calloc(tiles_linear_elements(&t), sizeof *packed);
        assert_non_null(packed);
        assert_ok(pack_linear(packed, DTYPE_F32, &m, 1, storage));
        for (int32_t n = 0; n < N; n++)
            for (int32_t k = 0; k < K; k++) {
                int32_t range = k / (t.k / 4), in = k % (t.k / 4);
                float got = packed[tiles_at(&t, n / 16, range, in / 16) +
                                   tile_element(DTYPE_F32, n % 16, in % 16)];
                float want = w[n * K + k];
                assert_true(got ==
                            (storage == DTYPE_BF16 ? bf16_to_f32(bf16_from_f32(want)) : want));
            }
        free(packed);
    }
    free(w);
}

static void divides(void **state)
{
    (void)state;
    static const int32_t by[] = {1, 2, 3, 7, 24, 48, 1000, 4096, 65535, 65536};
    const int32_t end = 1 << 24;
    for (size_t i = 0; i < sizeof by / sizeof *by; i++) {
        uint64_t inverse = pack_inverse(by[i]);
        for (int32_t n = 0; n < 70000; n++)
            assert_true(pack_divide(n, inverse) == n / by[i]);
        for (int32_t n = by[i]; n < end - by[i]; n += (251 + end / 3000 / by[i]) * by[i]) {
            assert_true(pack_divide(n, inverse) == n / by[i]);
            assert_true(pack_divide(n - 1, inverse) == n / by[i] - 1);
        }
    }
}

/* A block of keys or of values holds each element once; what a lane reads at once lies together. */
static void key_blocks(void **state)
{
    (void)state;
    static const int32_t dims[] = {8, 12, 16, 24, 32, 64, 128, 256, 6};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
            int32_t dim = dims[i];
            char *keys = calloc((size_t)(KV_BLOCK * dim), 1);
            char *values = calloc((size_t)(KV_BLOCK * dim), 1);
            assert_non_null(keys);
            assert_non_null(values);
            for (int32_t row = 0; row < KV_BLOCK; row++)
                for (int32_t d = 0; d < dim; d++) {
                    int32_t key = key_element(dim, row, d);
                    int32_t value = value_element(dtype, dim, row, d);
                    take(keys, key, KV_BLOCK * dim);
                    take(values, value, KV_BLOCK * dim);
                    if (d > 0)
                        assert_int_equal(key, key_element(dim, row, d - 1) + 1);
                    if (dtype == DTYPE_BF16 && row % 32 > 0)
                        assert_int_equal(value, value_element(dtype, dim, row - 1, d) + 1);
                }
            free(keys);
            free(values);
        }
}

static enum rxt_status pack_once(void *arg)
{
    const struct host_matrix *m = arg;
    bf16 out[64 * 16];
    return pack_linear(out, DTYPE_BF16, m, 1, DTYPE_BF16);
}

static void no_memory(void **state)
{
    (void)state;
    const float v[6] = {1, 2, 3, 4, 5, 6};
    struct host_matrix m = matrix_of(v, 2, 3);
    assert_survives_no_memory(pack_once, &m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_multiplies_right),
        cmocka_unit_test(feed_forward_multiplies_right),
        cmocka_unit_test(places_are_their_own),
        cmocka_unit_test(slices_of_beta),
        cmocka_unit_test(f32_keeps_values),
        cmocka_unit_test(divides),
        cmocka_unit_test(key_blocks),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
