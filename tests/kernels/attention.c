#include "tests/kernels/attention.h"

bool way_open(struct setting *s, int way)
{
    if (!setting_open_way(s, way))
        return false;
    lane_destroy(&s->ln);
    const struct lane_limits limits = {
        .max_rows = 1024, .max_seq = 64, .max_keys = MAX_POS, .max_width = 1024};
    assert_ok(lane_create(&s->ln, s->be, LANE_ANSWER, &limits));
    return true;
}

float *angles_of(int dim)
{
    float *a = malloc(MAX_POS * (size_t)(dim / 2) * sizeof *a);
    assert_non_null(a);
    for (int p = 0; p < MAX_POS; p++)
        for (int i = 0; i < dim / 2; i++)
            a[p * (dim / 2) + i] = (float)p * (1.0f / (float)pow(10000, 2.0 * i / dim));
    return a;
}

struct weight *rope_of(struct backend *be, const float *angle, int dim)
{
    struct weight *w = NULL;
    assert_ok(weight_rope(&w, be, angle, MAX_POS, dim / 2));
    return w;
}

int small_number(uint64_t *state, int n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return 1 + (int)((*state >> 33) % (uint64_t)n);
}

/* ---- chunks ---- */

void chunk_offsets(int32_t *offset, const struct chunk *chunk, int n_chunk)
{
    offset[0] = 0;
    for (int c = 0; c < n_chunk; c++)
        offset[c + 1] = offset[c] + chunk[c].n;
}

static int rows_of(const struct chunk *chunk, int n_chunk)
{
    int rows = 0;
    for (int c = 0; c < n_chunk; c++)
        rows += chunk[c].n;
    return rows;
}

/* Zeros for a matrix of one value at least. */
static float *dense(int rows, int cols)
{
    float *x = calloc((size_t)rows * (size_t)cols + 1, sizeof *x);
    assert_non_null(x);
    return x;
}

struct tensor chunks_in(struct backend *be, float *const *part, int cols, const struct chunk *chunk,
                        int n_chunk)
{
    int rows = rows_of(chunk, n_chunk);
    float *x = dense(rows, cols), *at = x;
    for (int c = 0; c < n_chunk; c++) {
        size_t n = (size_t)chunk[c].n * (size_t)cols;
        memcpy(at, part[chunk[c].seq] + (size_t)chunk[c].from * (size_t)cols, n * sizeof *x);
        at += n;
    }
    struct tensor t = guarded(be, x, rows, cols);
    free(x);
    return t;
}

struct tensor chunks_zero(struct backend *be, int cols, const struct chunk *chunk, int n_chunk)
{
    int rows = rows_of(chunk, n_chunk);
    float *x = dense(rows, cols);
    struct tensor t = guarded(be, x, rows, cols);
    free(x);
    return t;
}

void chunks_out(struct backend *be, struct tensor t, const struct chunk *chunk, int n_chunk,
                float *const out[])
{
    float *y = dense(t.rows, t.cols), *at = y;
    guarded_take(be, t, y);
    for (int c = 0; c < n_chunk; c++) {
        size_t n = (size_t)chunk[c].n * (size_t)t.cols;
        memcpy(out[c], at, n * sizeof *y);
        at += n;
    }
    free(y);
}

void assert_untouched(struct backend *be, struct tensor t)
{
    float *y = dense(t.rows, t.cols);
    guarded_take(be, t, y);
    for (int i = 0; i < t.rows * t.cols; i++)
        assert_true(y[i] == 0);
    free(y);
}
