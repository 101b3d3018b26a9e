/* Drawing at the door of the engine, against the plain sampler. */
#include "tests/rxt/engine.h"

#include "kernels/base/random.h"
#include "tests/ref/ref.h"

#include <math.h>

static void check_refused(struct sampling how, const char *names)
{
    struct rxt_error err = {0};
    assert_status(RXT_EINVAL, rxt_sampling_check(&how, &err));
    if (strncmp(err.text, names, strlen(names)) != 0)
        fail_msg("\"%s\" does not begin with \"%s\"", err.text, names);
}

static void parameters_out_of_range(void **state)
{
    (void)state;
    assert_ok(rxt_sampling_check(&RXT_GREEDY, NULL));
    assert_ok(
        rxt_sampling_check(&(struct sampling){.temperature = 2, .top_k = 5, .top_p = 0.1f}, NULL));
    check_refused((struct sampling){.temperature = NAN, .top_p = 1}, "temperature");
    check_refused((struct sampling){.temperature = INFINITY, .top_p = 1}, "temperature");
    check_refused((struct sampling){.temperature = -0.1f, .top_p = 1}, "temperature");
    check_refused((struct sampling){.top_k = -1, .top_p = 1}, "top_k");
    check_refused((struct sampling){.top_p = 0}, "top_p");
    check_refused((struct sampling){.top_p = 1.01f}, "top_p");
    check_refused((struct sampling){.top_p = NAN}, "top_p");
    check_refused((struct sampling){.top_p = 1, .n_choice = 3}, "n_choice");
}

static void draws_equal_the_plain_sampler(void **state)
{
    (void)state;
    enum { N = 6 };
    const struct engine_options opt = {.worker.max_seq = N};
    struct engine e;
    engine_open(&e, "tests/golden/beta-tiny", &opt);
    size_t n_vocab = (size_t)e.info->n_vocab;
    int32_t ids[N], got[N], offset[N + 1];
    struct rxt_slot *slot[N];
    const struct rxt_read *read[N];
    struct sampling how[N];
    engine_ids(ids, N, e.info->n_vocab, 11);
    for (int i = 0; i < N; i++) {
        offset[i] = i;
        assert_ok(rxt_slot_create(&slot[i], e.m));
        read[i] = e.read;
    }
    offset[N] = N;
    assert_ok(rxt_forward(
        e.w,
        &(struct rxt_batch){.rows = {N, offset, NULL}, .ids = ids, .slot = slot, .read = read}));
    float *logits = engine_alloc(N * n_vocab, sizeof *logits);
    assert_ok(lane_download(rxt_worker_lane(e.w), logits, rxt_logits(e.w).data,
                            N * n_vocab * sizeof *logits));
    const float temperatures[] = {0, 0.3f, 1, 1.7f}, top_ps[] = {1, 0.9f, 0.4f, 0.01f};
    const int32_t top_ks[] = {0, 1, 3, 40, 10000};
    for (int round = 0; round < 80; round++) {
        for (int i = 0; i < N; i++)
            how[i] = (struct sampling){.temperature = temperatures[(round + i) % 4],
                                       .top_k = top_ks[round % 5],
                                       .top_p = top_ps[round / 4 % 4],
                                       .seed = (uint64_t)round,
                                       .turn = (uint64_t)i,
                                       .position = round + 2 * i};
        assert_ok(rxt_sample(e.w, how, N, got));
        for (int i = 0; i < N; i++)
            assert_int_equal(got[i],
                             ref_sample(logits + (size_t)i * n_vocab, (int)n_vocab, &how[i]));
    }
    for (int i = 0; i < N; i++)
        how[i] =
            (struct sampling){.temperature = 1, .top_p = 1, .n_choice = 2, .choice = {i, i + 9}};
    assert_ok(rxt_sample(e.w, how, N, got));
    for (int i = 0; i < N; i++) {
        const float *row = logits + (size_t)i * n_vocab;
        assert_int_equal(got[i], row[i] > row[i + 9] ? i : i + 9);
    }
    how[2].temperature = NAN;
    assert_status(RXT_EINVAL, rxt_sample(e.w, how, N, got));
    assert_status(RXT_ESHAPE, rxt_sample(e.w, how, N + 1, got));
    for (int i = 0; i < N; i++)
        rxt_slot_destroy(&slot[i]);
    free(logits);
    engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_out_of_range),
        cmocka_unit_test(draws_equal_the_plain_sampler),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
