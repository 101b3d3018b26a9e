/* The choice of experts of the CUDA backend, bit for bit: what a row chooses, in which order, its
 * shares, and where its results will lie. The plain rule stands here; see kernels/cuda/route.cu. */
#include "kernels/cuda/moe_impl.h"

#include "tests/kernels/row_op.h"
#include "tests/kernels/simd_probe.h"
#include "tests/lib/test.h"

#include <math.h>

enum { LANES = 32 }; /* a sum over experts is one for each of them, then a tree */

/* What a call leaves: [R,K], but for the items. */
struct routed {
    int32_t *expert, *slot, *slot_row, n_item;
    float *share;
    struct gemm_item *item;
};

static struct routed routed_of(size_t n)
{
    struct routed r = {
        .expert = calloc(n, sizeof(int32_t)),
        .slot = calloc(n, sizeof(int32_t)),
        .slot_row = calloc(n, sizeof(int32_t)),
        .share = calloc(n, sizeof(float)),
        .item = calloc(n, sizeof(struct gemm_item)),
    };
    assert_true(r.expert && r.slot && r.slot_row && r.share && r.item);
    return r;
}

static void routed_free(struct routed *r)
{
    free(r->expert);
    free(r->slot);
    free(r->slot_row);
    free(r->share);
    free(r->item);
}

/* ---- the plain rule ---- */

/* p[n] of logit[n]; a NaN is passed over in the highest and makes all of them NaN. */
static void plain_softmax(float *p, const float *logit, int32_t n)
{
    float x[ROUTE_MAX_EXPERT] = {0}, e[ROUTE_MAX_EXPERT], sum[LANES] = {0}, top = -INFINITY;
    for (int32_t i = 0; i < n; i++)
        top = logit[i] > top ? logit[i] : top;
    for (int32_t i = 0; i < n; i++)
        x[i] = logit[i] - top;
    probes_scalar.map[PROBE_EXP](e, x, (n + 15) / 16 * 16);
    for (int32_t i = 0; i < n; i++)
        sum[i % LANES] += e[i];
    for (int apart = LANES / 2; apart > 0; apart /= 2)
        for (int i = 0; i < apart; i++)
            sum[i] += sum[i + apart];
    for (int32_t i = 0; i < n; i++)
        p[i] = e[i] / sum[0];
}

/* The best that is not taken: the larger, then the lower index; a NaN is less than nothing. */
static int32_t plain_best(const float *p, const bool *taken, int32_t n)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++)
        if (!taken[i] && (best < 0 || p[i] > p[best] || (isnan(p[best]) && !isnan(p[i]))))
            best = i;
    return best;
}

static void plain_row(int32_t *expert, float *share, const float *logit, int32_t n, int32_t top_k)
{
    float p[ROUTE_MAX_EXPERT], sum = 0;
    bool taken[ROUTE_MAX_EXPERT] = {0};
    plain_softmax(p, logit, n);
    for (int32_t k = 0; k < top_k; k++) {
        expert[k] = plain_best(p, taken, n);
        taken[expert[k]] = true;
        sum += p[expert[k]];
    }
    for (int32_t k = 0; k < top_k; k++)
        share[k] = p[expert[k]] / (sum + 1e-9f);
}

/* The slots of an expert lie together, by rising row, in items of GEMM_ITEM at the most. */
static void plain_plan(struct routed *r, int32_t n_row, int32_t n_expert, int32_t top_k)
{
    int32_t slot = 0;
    for (int32_t e = 0; e < n_expert; e++) {
        int32_t first = slot;
        for (int32_t i = 0; i < n_row * top_k; i++)
            if (r->expert[i] == e) {
                r->slot_row[slot] = i / top_k;
                r->slot[i] = slot++;
            }
        for (int32_t at = first; at < slot; at += GEMM_ITEM)
            r->item[r->n_item++] = (struct gemm_item){
                .expert = e, .first = at, .n = slot - at < GEMM_ITEM ? slot - at : GEMM_ITEM};
    }
}

/* ---- the device's ---- */

static struct routed run(struct setting *s, const float *logits, int32_t n_row, int32_t n_expert,
                         int32_t top_k)
{
    size_t n = (size_t)n_row * (size_t)top_k;
    struct routed got = routed_of(n);
    struct backend *be = s->be;
    const struct route r = {
        .n_row = n_row,
        .n_expert = n_expert,
        .top_k = top_k,
        .n_shared = 1,
        .max_item = (int32_t)n,
        .logits = to_backend(be, logits, (size_t)n_row * (size_t)n_expert * sizeof *logits),
        .expert = to_backend(be, got.expert, n * sizeof *got.expert),
        .share = to_backend(be, got.share, n * sizeof *got.share),
        .slot = to_backend(be, got.slot, n * sizeof *got.slot),
        .slot_row = to_backend(be, got.slot_row, n * sizeof *got.slot_row),
        .item = to_backend(be, got.item, n * sizeof *got.item),
        .n_item = to_backend(be, &got.n_item, sizeof got.n_item),
    };
    struct cuda_lane *ln = cuda_lane(s->ln);
    assert_ok(cuda_ready(ln));
    route_launch(ln, &r);
    assert_ok(cuda_done(ln));
    assert_ok(lane_sync(s->ln));
    from_backend(be, got.expert, r.expert, n * sizeof *got.expert);
    from_backend(be, got.share, r.share, n * sizeof *got.share);
    from_backend(be, got.slot, r.slot, n * sizeof *got.slot);
    from_backend(be, got.slot_row, r.slot_row, n * sizeof *got.slot_row);
    from_backend(be, got.item, r.item, n * sizeof *got.item);
    from_backend(be, &got.n_item, r.n_item, sizeof got.n_item);
    void *const all[] = {r.logits, r.expert, r.share, r.slot, r.slot_row, r.item, r.n_item};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        backend_free(be, all[i]);
    return got;
}

static void check(struct setting *s, const float *logits, int32_t n_row, int32_t n_expert,
                  int32_t top_k)
{
    size_t n = (size_t)n_row * (size_t)top_k;
    struct routed want = routed_of(n);
    for (int32_t r = 0; r < n_row; r++)
        plain_row(want.expert + r * top_k, want.share + r * top_k, logits + r * n_expert, n_expert,
                  top_k);
    plain_plan(&want, n_row, n_expert, top_k);
    struct routed got = run(s, logits, n_row, n_expert, top_k);
    assert_memory_equal(got.expert, want.expert, n * sizeof *want.expert);
    for (size_t i = 0; i < n; i++)
        if (!isnan(want.share[i]) || !isnan(got.share[i]))
            assert_same_bits(&got.share[i], &want.share[i], 1, "share", (int32_t)i);
    assert_memory_equal(got.slot, want.slot, n * sizeof *want.slot);
    assert_memory_equal(got.slot_row, want.slot_row, n * sizeof *want.slot_row);
    assert_int_equal(got.n_item, want.n_item);
    assert_memory_equal(got.item, want.item, (size_t)want.n_item * sizeof *want.item);
    routed_free(&want);
    routed_free(&got);
}

/* ---- logits ---- */

/* Of expert e, v being N(0,1). */
typedef float logit_of(int32_t e, float v);

static float drawn(int32_t e, float v)
{
    (void)e;
    return v;
}
static float far_apart(int32_t e, float v) /* most probabilities are 0, some next to it */
{
    (void)e;
    return 50.0f * v;
}
static float close_by(int32_t e, float v) /* so that many probabilities round to the same */
{
    (void)e;
    return 1e-7f * roundf(v);
}
static float of_three(int32_t e, float v)
{
    (void)e;
    return roundf(v / 2.0f);
}
static float equal(int32_t e, float v)
{
    (void)e, (void)v;
    return 0.5f;
}
static float rising(int32_t e, float v)
{
    (void)v;
    return (float)e / 64.0f;
}
static float falling(int32_t e, float v)
{
    (void)v;
    return -(float)e / 64.0f;
}
static float of_one_lane(int32_t e, float v) /* the best ones are read by the same lane */
{
    return e % LANES == 5 ? 8.0f + v : v;
}
static float of_two_lanes(int32_t e, float v) /* more than are chosen, and equal ones among them */
{
    return e % LANES == 5 || e % LANES == 30 ? 8.0f : v;
}
static float mostly_infinite(int32_t e, float v) /* fewer are possible than are chosen */
{
    return e % 97 == 3 ? v : -INFINITY;
}
static float infinite(int32_t e, float v)
{
    (void)e, (void)v;
    return -INFINITY;
}
static float with_infinity(int32_t e, float v)
{
    return e == 0 ? INFINITY : v;
}
static float with_nan(int32_t e, float v)
{
    return e % 40 == 7 || e == 0 ? NAN : v;
}
static float no_number(int32_t e, float v)
{
    (void)e, (void)v;
    return NAN;
}

static logit_of *const kind[] = {
    drawn,       far_apart,    close_by,        of_three, equal,         rising,   falling,
    of_one_lane, of_two_lanes, mostly_infinite, infinite, with_infinity, with_nan, no_number};
enum { N_KIND = sizeof kind / sizeof *kind };

/* Rows of every kind, each on its own, then all of them together and as many once more. */
static void check_shape(struct setting *s, int32_t n_expert, int32_t top_k)
{
    const int32_t n_row = 2 * N_KIND;
    float *v = random_values((int64_t)n_row * n_expert, 1.0f, (uint64_t)(n_expert + top_k));
    for (int32_t i = 0; i < n_row * n_expert; i++)
        v[i] = kind[i / n_expert % N_KIND](i % n_expert, v[i]);
    for (int32_t r = 0; r < N_KIND; r++)
        check(s, v + r * n_expert, 1, n_expert, top_k);
    for (int32_t few = 3; few <= 8; few += 5)
        for (int32_t r = 0; r + few <= N_KIND; r += few)
            check(s, v + r * n_expert, few, n_expert, top_k);
    check(s, v, n_row, n_expert, top_k);
    free(v);
}

static void every_kind_of_row(void **state)
{
    (void)state;
    static const int32_t n_expert[] = {1,   2,   5,   31,  32,  33,   63,
                                       100, 383, 384, 385, 513, 2047, 2048};
    static const int32_t top_k[] = {1, 2, 4, 10, 12, 20, 31, 32, 33, 64, 70, 128, 129, 200};
    struct setting s;
    for (int way = 0; setting_open_way(&s, way); way++) {
        for (size_t e = 0; e < sizeof n_expert / sizeof *n_expert; e++)
            for (size_t k = e % 2; k < sizeof top_k / sizeof *top_k && top_k[k] <= n_expert[e];
                 k += n_expert[e] > 500 ? 4 : 2)
                check_shape(&s, n_expert[e], top_k[k]);
        check_shape(&s, 31, 31); /* all of them */
        check_shape(&s, 40, 40);
        check_shape(&s, 384, 10);
        setting_close(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
