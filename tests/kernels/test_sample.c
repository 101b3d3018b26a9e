#include "kernels/backend.h"

#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"
#include "tests/ref/ref.h"

#include <math.h>

enum { LARGE = 65536 };

static bool way_open(struct setting *s, int way)
{
    if (!setting_open_way(s, way))
        return false;
    lane_destroy(&s->ln);
    const struct lane_limits limits = {
        .max_rows = 64, .max_seq = 1, .max_keys = 1, .max_width = 1, .max_vocab = LARGE};
    assert_ok(lane_create(&s->ln, s->be, LANE_ANSWER, &limits));
    return true;
}

/* Logits with the spread of a model's; steps > 0: on a grid, so that many are equal. */
static float *logits_of(int rows, int n_vocab, float steps, uint64_t stream)
{
    float *x = random_values((int64_t)rows * n_vocab, 3.0f, stream);
    for (int i = 0; steps > 0 && i < rows * n_vocab; i++)
        x[i] = roundf(x[i] * steps) / steps;
    return x;
}

static const struct sampling kinds[] = {
    {.temperature = 0, .top_p = 1},
    {.temperature = 1, .top_p = 1},
    {.temperature = 0.7f, .top_k = 1, .top_p = 1},
    {.temperature = 0.7f, .top_k = 5, .top_p = 1},
    {.temperature = 1.3f, .top_k = 40, .top_p = 0.9f},
    {.temperature = 1, .top_p = 0.5f},
    {.temperature = 0.8f, .top_p = 0.95f},
    {.temperature = 2, .top_k = 100000, .top_p = 0.999f},
    {.temperature = 1, .top_p = 1e-6f},
};
enum { N_KIND = sizeof kinds / sizeof kinds[0], ROWS = 3 * N_KIND };

/* Row r of a batch: a kind, with a seed, a turn and a position of its own. */
static void fill(struct sampling how[ROWS])
{
    for (int r = 0; r < ROWS; r++) {
        how[r] = kinds[r % N_KIND];
        how[r].seed = (uint64_t)r * 1234567;
        how[r].turn = (uint64_t)r / 7;
        how[r].position = r * 11;
    }
}

static void like_sorting_everything(void **state)
{
    (void)state;
    static const int vocab[] = {1, 2, 15, 17, 300, 2048, 5000};
    struct sampling how[ROWS];
    fill(how);
    for (size_t v = 0; v < sizeof vocab / sizeof vocab[0]; v++)
        for (int grid = 0; grid < 2; grid++) {
            int n = vocab[v];
            float *x = logits_of(ROWS, n, grid ? 4 : 0, (uint64_t)v);
            int32_t want[ROWS], id[ROWS];
            for (int r = 0; r < ROWS; r++)
                want[r] = ref_sample(x + r * n, n, &how[r]);
            for (int way = 0; way < N_WAY; way++) {
                struct setting s;
                if (!way_open(&s, way))
                    continue;
                struct tensor t =
                    guarded_as(s.be, DTYPE_F32, x, ROWS, n); /* all rows, then each alone */
                assert_ok(op_sample(s.ln, id, t, how));
                assert_ok(lane_sync(s.ln));
                assert_memory_equal(id, want, sizeof want);
                for (int r = 0; r < ROWS; r++) {
                    assert_ok(op_sample(s.ln, id, tensor_rows(t, r, 1), &how[r]));
                    assert_ok(lane_sync(s.ln));
                    assert_int_equal(id[0], want[r]);
                }
                guarded_take(s.be, t, NULL);
                setting_close(&s);
            }
            free(x);
        }
}

/* Every token that remains is drawn about as often as its probability says, no other ever is. */
static void draws_follow_the_distribution(void **state)
{
    (void)state;
    enum { V = 8, N = 4000 };
    const float x[V] = {0, 1, 2, 2, -1, 1.5f, -INFINITY, 0.5f};
    struct sampling how = {.temperature = 1, .top_k = 4, .top_p = 1, .seed = 5};
    struct setting s;
    assert_true(way_open(&s, 0));
    struct tensor t = guarded_as(s.be, DTYPE_F32, x, 1, V);
    bool kept[V];
    ref_sample_kept(x, V, &how, kept);
    int count[V] = {0};
    for (how.position = 0; how.position < N; how.position++) {
        int32_t id;
        assert_ok(op_sample(s.ln, &id, t, &how));
        assert_ok(lane_sync(s.ln));
        count[id]++;
    }
    double total = 0;
    for (int i = 0; i < V; i++)
        total += kept[i] ? exp((double)x[i]) : 0;
    for (int i = 0; i < V; i++) {
        double p = kept[i] ? exp((double)x[i]) / total : 0;
        assert_true(fabs(count[i] - p * N) <= 4 * sqrt(N * p * (1 - p)));
    }
    guarded_take(s.be, t, NULL);
    setting_close(&s);
}

static void a_large_vocabulary(void **state)
{
    (void)state;
    struct sampling how[ROWS];
    fill(how);
    float *x = logits_of(N_KIND, LARGE, 0, 77);
    int32_t want[N_KIND], id[N_KIND];
    for (int r = 0; r < N_KIND; r++)
        want[r] = ref_sample(x + r * LARGE, LARGE, &how[r]);
    for (int way = 0; way < N_WAY; way++) {
        struct setting s;
        if (!way_open(&s, way))
            continue;
        const struct tensor t = guarded_as(s.be, DTYPE_F32, x, N_KIND, LARGE);
        assert_ok(op_sample(s.ln, id, t, how));
        assert_ok(lane_sync(s.ln));
        guarded_take(s.be, t, NULL);
        assert_memory_equal(id, want, sizeof want);
        setting_close(&s);
    }
    free(x);
}

static int32_t one(struct setting *s, const float *x, int n, struct sampling how)
{
    int32_t id = -1;
    const struct tensor t = guarded_as(s->be, DTYPE_F32, x, 1, n);
    assert_ok(op_sample(s->ln, &id, t, &how));
    assert_ok(lane_sync(s->ln));
    guarded_take(s->be, t, NULL);
    return id;
}

static void odd_logits(void **state)
{
    (void)state;
    const struct sampling draw = {.temperature = 1, .top_k = 3, .top_p = 0.9f}, greedy = {0};
    struct sampling cold = draw;
    cold.temperature = 1e-38f;
    for (int way = 0; way < N_WAY; way++) {
        struct setting s;
        if (!way_open(&s, way))
            continue;
        float x[300];
        for (int i = 0; i < 300; i++)
            x[i] = NAN;
        assert_int_equal(one(&s, x, 300, draw), 0);
        assert_int_equal(one(&s, x, 300, greedy), 0);
        x[270] = -5; /* the only number */
        assert_int_equal(one(&s, x, 300, draw), 270);
        assert_int_equal(one(&s, x, 300, greedy), 270);
        x[290] = x[280] = INFINITY;
        assert_int_equal(one(&s, x, 300, draw), 280);
        for (int i = 0; i < 300; i++)
            x[i] = -INFINITY;
        assert_int_equal(one(&s, x, 300, draw), 0);
        for (int i = 0; i < 300; i++)
            x[i] = i == 123 || i == 124 ? 2.0f : 1.0f;
        assert_int_equal(one(&s, x, 300, greedy), 123);
        assert_int_equal(one(&s, x, 300, cold), 123); /* 2 / 1e-38 overflows */
        setting_close(&s);
    }
}

/* Thinking mode auto: the earlier id only if strictly greater; nothing is drawn. */
static void choices(void **state)
{
    (void)state;
    const float x[5] = {1, 3, 3, 0, 9};
    struct setting s;
    assert_true(way_open(&s, 0));
    struct sampling how = {.temperature = 1, .top_p = 1, .n_choice = 2, .choice = {1, 2}};
    assert_int_equal(one(&s, x, 5, how), 2);
    how.choice[0] = 2, how.choice[1] = 1;
    assert_int_equal(one(&s, x, 5, how), 1);
    how.choice[1] = 0;
    assert_int_equal(one(&s, x, 5, how), 2);
    how.n_choice = 1;
    how.choice[0] = 3;
    assert_int_equal(one(&s, x, 5, how), 3);
    setting_close(&s);
}

static void recorded_draws(void **state)
{
    (void)state;
    struct setting s;
    assert_true(way_open(&s, 0));
    struct sampling how[ROWS];
    fill(how);
    float *x = logits_of(ROWS, 2048, 0, 1), drawn[ROWS];
    int32_t id[ROWS];
    const struct tensor t = {x, DTYPE_F32, ROWS, 2048, 2048};
    assert_ok(op_sample(s.ln, id, t, how));
    for (int r = 0; r < ROWS; r++)
        drawn[r] = (float)id[r];
    assert_bits_recorded(drawn, ROWS, 0xD4891DB88A3B7A57);
    free(x);
    setting_close(&s);
}

static void what_does_not_fit(void **state)
{
    (void)state;
    struct setting s;
    assert_true(way_open(&s, 0));
    const float x[4] = {0};
    int32_t id = -1;
    struct tensor t = {(void *)x, DTYPE_F32, 1, 4, 4};
    const struct sampling bad[] = {
        {.temperature = -1},
        {.temperature = NAN},
        {.temperature = INFINITY},
        {.temperature = 1, .top_p = 1.5f},
        {.temperature = 1, .top_p = NAN},
        {.temperature = 1, .top_k = -1},
        {.temperature = 1, .position = -1},
        {.n_choice = 3},
        {.n_choice = 1, .choice = {4}},
        {.n_choice = 2, .choice = {0, -1}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_status(RXT_EINVAL, op_sample(s.ln, &id, t, &bad[i]));
    const struct sampling good = {0};
    t.dtype = DTYPE_BF16;
    assert_status(RXT_ESHAPE, op_sample(s.ln, &id, t, &good));
    t.dtype = DTYPE_F32;
    t.cols = LARGE + 1;
    assert_status(RXT_ESHAPE, op_sample(s.ln, &id, t, &good));
    assert_int_equal(id, -1);
    setting_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(like_sorting_everything),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(a_large_vocabulary),
        cmocka_unit_test(odd_logits),
        cmocka_unit_test(choices),
    };
    /* of the fronts, which are the same for every backend, and of the CPU's recorded bits */
    const struct CMUnitTest once[] = {
        cmocka_unit_test(recorded_draws),
        cmocka_unit_test(what_does_not_fit),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (!test_on_cuda())
        failed += cmocka_run_group_tests(once, NULL, NULL);
    return failed;
}
