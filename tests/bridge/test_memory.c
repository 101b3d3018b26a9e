/* The memory lane by itself: rounds of one step a job, copies of what is shared. */
#include "bridge/fault_impl.h"
#include "bridge/memory_impl.h"

#include "tests/lib/test.h"

#define MODEL_DIR "models/demo-15m"

#if defined(RXT_SANITIZED) /* where a step takes ten times as long */
enum { STEPS = 12 };
#else
enum { STEPS = 60 };
#endif
enum { TOKENS = 12, SPARES = 3 };

struct bench {
    struct rxt_model *model;
    struct rxt_worker *worker; /* for memories made here */
    struct memory_lane *lane;
    struct mailbox back;
    int32_t ids[STEPS][TOKENS];
    struct memory_step step[STEPS];
};

static void bench_open(struct bench *x)
{
    *x = (struct bench){0};
    const struct rxt_model_options opt = {.backend = "cpu", .n_thread = 2};
    const struct rxt_worker_config worker = {.work = RXT_WORK_MEMORY};
    assert_ok(rxt_model_open(&x->model, MODEL_DIR, &opt, NULL));
    assert_ok(rxt_worker_create(&x->worker, x->model, &worker));
    assert_ok(mailbox_create(&x->back));
    assert_ok(memory_lane_create(&x->lane, x->model, SPARES, &x->back));
    for (int i = 0; i < STEPS; i++) {
        for (int k = 0; k < TOKENS; k++)
            x->ids[i][k] = 10 + (i * 31 + k * 7) % 400;
        x->step[i] = (struct memory_step){.ids = x->ids[i], .n = TOKENS};
    }
}

static void bench_close(struct bench *x)
{
    memory_lane_destroy(&x->lane);
    mailbox_destroy(&x->back);
    rxt_worker_destroy(&x->worker);
    rxt_model_close(&x->model);
}

static struct memory_job *next_back(struct bench *x)
{
    static struct mail *rest;
    while (!rest) {
        mailbox_wait(&x->back, UINT64_MAX);
        rest = mailbox_take(&x->back);
    }
    struct mail *mail = rest;
    rest = mail->next;
    return (struct memory_job *)mail;
}

static struct memory_job replay(const struct bench *x, int n)
{
    return (struct memory_job){
        .kind = MEMORY_REBUILD,
        .dtype = DTYPE_F32,
        .step = x->step,
        .n_step = n,
        .target = (uint64_t)n,
        .init = rxt_model_info(x->model)->stm_init,
        .seed = 7,
    };
}

/* From version 1 of a memory that others read. */
static struct memory_job update_of(const struct bench *x, const struct stm *shared)
{
    return (struct memory_job){
        .kind = MEMORY_UPDATE,
        .source = shared,
        .step = &x->step[1],
        .n_step = 1,
        .target = 2,
    };
}

static struct stm *memory_of(struct bench *x, int n)
{
    struct memory_job job = replay(x, n);
    memory_lane_post(x->lane, &job);
    assert_ptr_equal(next_back(x), &job);
    assert_ok(job.status);
    assert_int_equal(stm_version(job.stm), (uint64_t)n);
    return job.stm;
}

static void a_long_replay_delays_nobody(void **state)
{
    (void)state;
    struct bench x;
    uint8_t hash[16];
    bench_open(&x);
    struct stm *other = memory_of(&x, 1), *want = memory_of(&x, 2);
    struct memory_job slow = replay(&x, STEPS), quick = {
                                                    .kind = MEMORY_UPDATE,
                                                    .stm = other,
                                                    .step = &x.step[1],
                                                    .n_step = 1,
                                                    .target = 2,
                                                };
    memory_lane_post(x.lane, &slow);
    memory_lane_post(x.lane, &quick);
    assert_ptr_equal(next_back(&x), &quick); /* though it came second */
    assert_ptr_equal(next_back(&x), &slow);
    assert_ok(quick.status);
    assert_ok(slow.status);
    assert_int_equal(stm_version(slow.stm), STEPS);
    assert_ok(stm_hash(want, rxt_worker_lane(x.worker), hash));
    assert_memory_equal(quick.hash, hash, sizeof hash); /* the same bits as in a replay alone */
    stm_destroy(&slow.stm);
    stm_destroy(&other);
    stm_destroy(&want);
    bench_close(&x);
}

/* What only comes in waits for the round that runs, not for the updates of others. */
static void what_comes_in_goes_first(void **state)
{
    (void)state;
    enum { UPDATES = 20 * SPARES };
    struct bench x;
    bench_open(&x);
    struct stm *shared = memory_of(&x, 1);
    struct memory_job job[UPDATES], load = replay(&x, 0);
    for (int i = 0; i < UPDATES; i++) {
        job[i] = update_of(&x, shared);
        memory_lane_post(x.lane, &job[i]);
    }
    memory_lane_post(x.lane, &load);
    int n = 0, before = 0, place = 0;
    for (struct mail *mail = mailbox_take(&x.back); mail; n++) {
        struct memory_job *back = (struct memory_job *)mail;
        mail = mail->next;
        place = back == &load ? n + 1 : place;
        stm_destroy(&back->stm);
    }
    for (before = n; n < UPDATES + 1; n++) {
        struct memory_job *back = next_back(&x);
        assert_ok(back->status);
        place = back == &load ? n + 1 : place;
        stm_destroy(&back->stm);
    }
    /* Behind what was back by then and the batch that ran, or that began just then. */
    assert_true(place > 0 && place <= before + 2 * SPARES + 1);
    stm_destroy(&shared);
    bench_close(&x);
}

/* Several sessions read it: an update works on a copy, and one that fails leaves none. */
static void what_is_shared_is_copied(void **state)
{
    (void)state;
    struct bench x;
    uint8_t before[16], after[16];
    bench_open(&x);
    struct stm *shared = memory_of(&x, 1), *want = memory_of(&x, 2);
    assert_ok(stm_hash(shared, rxt_worker_lane(x.worker), before));
    struct memory_job job[2 * SPARES];
    for (int i = 0; i < 2 * SPARES; i++) {
        job[i] = update_of(&x, shared);
        memory_lane_post(x.lane, &job[i]);
    }
    assert_ok(stm_hash(want, rxt_worker_lane(x.worker), after));
    for (int i = 0; i < 2 * SPARES; i++) {
        struct memory_job *back = next_back(&x);
        assert_ok(back->status);
        assert_ptr_not_equal(back->stm, shared);
        assert_memory_equal(back->hash, after, sizeof after);
        stm_destroy(&back->stm);
    }
    fault_arm("update", RXT_EDEVICE, 1);
    job[0] = update_of(&x, shared);
    memory_lane_post(x.lane, &job[0]);
    assert_status(RXT_EDEVICE, next_back(&x)->status);
    assert_null(job[0].stm);
    fault_arm(NULL, RXT_OK, 0);
    assert_int_equal(stm_version(shared), 1);
    assert_ok(stm_hash(shared, rxt_worker_lane(x.worker), after));
    assert_memory_equal(before, after, sizeof before);
    stm_destroy(&shared);
    stm_destroy(&want);
    bench_close(&x);
}

/* An update of another version than the one it was meant for changes nothing (S4). */
static void commit_is_compare_and_set(void **state)
{
    (void)state;
    struct bench x;
    uint8_t before[16], after[16];
    bench_open(&x);
    struct stm *m = memory_of(&x, 2);
    assert_ok(stm_hash(m, rxt_worker_lane(x.worker), before));
    struct memory_job job = {
        .kind = MEMORY_UPDATE, .stm = m, .step = x.step, .n_step = 1, .target = 2};
    memory_lane_post(x.lane, &job);
    assert_status(RXT_ESTALE, next_back(&x)->status);
    assert_int_equal(stm_version(m), 2);
    assert_ok(stm_hash(m, rxt_worker_lane(x.worker), after));
    assert_memory_equal(before, after, sizeof before);
    stm_destroy(&m);
    bench_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_long_replay_delays_nobody),
        cmocka_unit_test(what_comes_in_goes_first),
        cmocka_unit_test(what_is_shared_is_copied),
        cmocka_unit_test(commit_is_compare_and_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
