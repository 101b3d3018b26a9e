#include "kernels/cpu/simd_impl.h"

#include "kernels/cpu/gemm_impl.h"
#include "kernels/cpu/math_impl.h"
#include "kernels/cpu/tsan_impl.h"

#define MAX_VECS (PANEL / VEC)

/* Sums of one tile, in memory between the chains over k and what happens to them. */
struct sums {
    _Alignas(64) float c[SIMD_TILE_ROWS][PANEL];
};

/* Vecs [first, first + n) of one k of a panel: w points at this k. n is 1 or even. */
SIMD_INLINE void load_weights(struct vec *b, const char *w, bool is_bf16, int first, int n)
{
    if (!is_bf16) {
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            b[j] = vec_load((const float *)(const void *)w + (first + j) * VEC);
    } else if (n == 1) {
        struct vec low, high;
        vec_load_pair((const uint32_t *)(const void *)w + first / 2 * VEC, &low, &high);
        b[0] = first % 2 == 0 ? low : high;
    } else {
#pragma GCC unroll 2
        for (int j = 0; j < n; j += 2)
            vec_load_pair((const uint32_t *)(const void *)w + (first + j) / 2 * VEC, &b[j],
                          &b[j + 1]);
    }
}

/* sums[r][first .. first + n vecs] = chains over k of n_row rows. All but x, w and k are constants
 * where it is called, so that the accumulators are registers. */
SIMD_INLINE void tile(struct sums *s, const float *const *x, const char *w, int32_t k, bool is_bf16,
                      int width, int n_row, int first, int n)
{
    struct vec acc[SIMD_TILE_ROWS][MAX_VECS], b[MAX_VECS];
    const int step = width * (is_bf16 ? 2 : 4);
#pragma GCC unroll 6
    for (int r = 0; r < n_row; r++)
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            acc[r][j] = vec_zero();
    for (int32_t i = 0; i < k; i++, w += step) {
        load_weights(b, w, is_bf16, first, n);
#pragma GCC unroll 6
        for (int r = 0; r < n_row; r++) {
            struct vec a = vec_set(x[r][i]);
#pragma GCC unroll 4
            for (int j = 0; j < n; j++)
                acc[r][j] = vec_fma(a, b[j], acc[r][j]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < n_row; r++)
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            vec_store(&s->c[r][(first + j) * VEC], acc[r][j]);
}

/* All vecs of a panel for n_row rows, in tiles that fit the registers. */
SIMD_INLINE void panel_rows(struct sums *s, const float *const *x, const char *w, int32_t k,
                            bool is_bf16, int width, int n_row)
{
    const int most = SIMD_TILE_VECS(n_row), n = most < width / VEC ? most : width / VEC;
#pragma GCC unroll 4
    for (int first = 0; first < width / VEC; first += n)
        tile(s, x, w, k, is_bf16, width, n_row, first, n);
}

SIMD_INLINE void panel_any(struct sums *s, const float *const *x, const char *w, int32_t k,
                           bool is_bf16, int width, int n_row)
{
    switch (n_row) {
    case 1:
        panel_rows(s, x, w, k, is_bf16, width, 1);
        break;
#if SIMD_TILE_ROWS > 1
    case 2:
        panel_rows(s, x, w, k, is_bf16, width, 2);
        break;
    case 3:
        panel_rows(s, x, w, k, is_bf16, width, 3);
        break;
    case 4:
        panel_rows(s, x, w, k, is_bf16, width, 4);
        break;
    case 5:
        panel_rows(s, x, w, k, is_bf16, width, 5);
        break;
    default:
        panel_rows(s, x, w, k, is_bf16, width, 6);
        break;
#endif
    }
}

static WITHOUT_TSAN void multiply(struct sums *s, const float *const *x, const struct packed *w,
                                  int32_t panel, int n_row)
{
    int width = panel_width(w, panel);
    const char *at = w->data + (size_t)panel * PANEL * (size_t)w->k * dtype_bytes(w->dtype);
    if (w->dtype == DTYPE_BF16 && width == PANEL)
        panel_any(s, x, at, w->k, true, PANEL, n_row);
    else if (w->dtype == DTYPE_BF16)
        panel_any(s, x, at, w->k, true, PANEL / 2, n_row);
    else if (width == PANEL)
        panel_any(s, x, at, w->k, false, PANEL, n_row);
    else
        panel_any(s, x, at, w->k, false, PANEL / 2, n_row);
}

/* out[0 .. n) from the sums c of a row, in a panel that is not gated. */
SIMD_INLINE void finish_plain(float *out, const float *c, const float *bias, int n,
                              enum gemm_end end, enum act act)
{
    for (int i = 0; i < n; i += VEC) {
        struct vec y = vec_add(vec_load(c + i), vec_load(bias + i));
        int left = vec_left(n - i);
        if (end == GEMM_ADD)
            y = vec_add(vec_load_n(out + i, left), y);
        else if (end == GEMM_ACT)
            y = vec_act(act, y);
        vec_store_n(out + i, y, left);
    }
}

SIMD_INLINE void finish_gated(float *out, const float *c, const float *bias, int n, enum act act)
{
    const int gate = PANEL / 2;
    for (int i = 0; i < n; i += VEC) {
        struct vec a = vec_add(vec_load(c + i), vec_load(bias + i));
        struct vec g = vec_add(vec_load(c + gate + i), vec_load(bias + gate + i));
        vec_store_n(out + i, vec_mul(a, vec_act(act, g)), vec_left(n - i));
    }
}

static WITHOUT_TSAN void finish(const struct gemm_job *job, const struct gemm_group *g,
                                int32_t panel, const struct sums *s, int32_t row, int n_row)
{
    const struct packed *w = g->w;
    const float *bias = w->bias + (size_t)panel * PANEL;
    int32_t step = w->gated ? PANEL / 2 : PANEL, at = panel * step;
    int n = w->n - at < step ? w->n - at : step;
    for (int r = 0; r < n_row; r++) {
        float *out = job->out + (row + r) * job->out_stride + at; // out[row+r, at:]
        if (w->gated)
            finish_gated(out, s->c[r], bias, n, g->act);
        else
            finish_plain(out, s->c[r], bias, n, job->end, g->act);
    }
}

SIMD_INLINE const float *row_of(const struct gemm_job *job, int32_t row)
{
    int32_t at = job->x_row ? job->x_row[row] : row;
    return job->x + at * job->x_stride; // x[at,:]
}

/* Asks for a whole row at once: it may lie in the cache of the thread that made it, and the chain
 * over k would wait for one line after another. */
static void fetch_row(const float *x, int32_t k)
{
    for (int32_t i = 0; i < k; i += VEC)
        __builtin_prefetch(x + i);
}

#ifdef TELLS_TSAN
/* The thread sanitizer hears here what a block reads and writes; its rows of x for the first panel
 * only, since nothing happens between two panels of one call. */
static void tell_tsan(const struct gemm_job *job, const struct gemm_group *g, int32_t panel,
                      int32_t first, int32_t last, bool new_rows)
{
    const struct packed *w = g->w;
    size_t width = (size_t)panel_width(w, panel), size = dtype_bytes(w->dtype);
    int32_t step = w->gated ? PANEL / 2 : PANEL, at = panel * step;
    int n = w->n - at < step ? w->n - at : step;
    /* of a panel, which nobody writes once it is made, its beginning */
    __tsan_read_range(w->data + (size_t)panel * PANEL * (size_t)w->k * size, width * size);
    __tsan_read_range(w->bias + (size_t)panel * PANEL, width * sizeof *w->bias);
    for (int32_t row = first; row < last; row++) {
        if (new_rows)
            __tsan_read_range(row_of(job, row), (size_t)w->k * sizeof *job->x);
        __tsan_write_range(job->out + row * job->out_stride + at, (size_t)n * sizeof *job->out);
    }
}
#endif

static void block(const struct gemm_job *job, const struct gemm_group *g, int32_t panel,
                  int32_t first, int32_t last)
{
    struct sums s;
    const float *x[SIMD_TILE_ROWS];
    int32_t n_tile = (last - first + SIMD_TILE_ROWS - 1) / SIMD_TILE_ROWS;
    for (int32_t row = first; row < last; n_tile--) {
        int n_row = (last - row + n_tile - 1) / n_tile;
        for (int r = 0; r < n_row; r++)
            x[r] = row_of(job, row + r);
        multiply(&s, x, g->w, panel, n_row);
        finish(job, g, panel, &s, row, n_row);
        row += n_row;
    }
}

/* The first row of a block of a group. */
static int32_t block_start(const struct gemm_group *g, int32_t block)
{
    return g->first_row + (int32_t)((int64_t)g->n_row * block / g->n_block);
}

void SIMD(gemm)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct gemm_job *job = arg;
    int32_t i = 0;
    for (int32_t item = first; item < last; item++) {
        while (i + 1 < job->n_group && job->group[i + 1].first_item <= item)
            i++;
        const struct gemm_group *g = &job->group[i];
        int32_t at = item - g->first_item, n_block = g->n_block;
        int32_t panel = g->by_rows ? at % g->w->n_panel : at / n_block;
        int32_t in_block = g->by_rows ? at / g->w->n_panel : at % n_block;
        int32_t from = block_start(g, in_block), to = block_start(g, in_block + 1);
        if (item == first || at == 0)
            fetch_row(row_of(job, from), g->w->k);
#ifdef TELLS_TSAN
        int32_t begun = first > g->first_item ? first : g->first_item;
        bool new_rows = g->by_rows ? item == begun || panel == 0 : item - begun < n_block;
        tell_tsan(job, g, panel, from, to, new_rows);
#endif
        block(job, g, panel, from, to);
    }
}
