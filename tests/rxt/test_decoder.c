/* Same bits rule, limits and costs of the decoder. */
#include "tests/rxt/engine.h"

#include "kernels/base/mem.h"
#include "tests/ref/model_random.h"

static const char *const folders[] = {"tests/golden/beta-tiny", "tests/golden/alpha-split-rope",
                                      "tests/golden/alpha-simple-ungated"};

/* One forward of 45 rows, and any cut of it, down to one row at a time: the cached decode. */
static void any_chunking_gives_the_same_bits(void **state)
{
    (void)state;
    enum { N = 45 };
    const int32_t chunks[] = {1, 2, 3, 7, 16, 44};
    for (size_t f = 0; f < sizeof folders / sizeof *folders; f++) {
        struct engine e;
        engine_open(&e, folders[f], NULL);
        size_t n = (size_t)N * (size_t)e.info->n_vocab;
        float *whole = engine_alloc(n, sizeof *whole), *cut = engine_alloc(n, sizeof *cut);
        int32_t ids[N];
        engine_ids(ids, N, e.info->n_vocab, 1);
        engine_logits(&e, ids, N, 0, whole);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            memset(cut, 0, n * sizeof *cut);
            engine_logits(&e, ids, N, chunks[c], cut);
            assert_memory_equal(cut, whole, n * sizeof *cut);
        }
        /* a slot needs no reset: what lay in it before is not seen */
        engine_ids(ids, N, e.info->n_vocab, 2);
        engine_logits(&e, ids, 20, 0, cut);
        engine_ids(ids, N, e.info->n_vocab, 1);
        engine_logits(&e, ids, N, 5, cut);
        assert_memory_equal(cut, whole, n * sizeof *cut);
        free(whole);
        free(cut);
        engine_close(&e);
    }
}

enum { SESSIONS = 6, LONGEST = 33 };

/* Sessions with memories, texts and lengths of their own. */
struct crowd {
    struct rxt_read *read[SESSIONS];
    struct rxt_slot *slot[SESSIONS];
    int32_t ids[SESSIONS][LONGEST], length[SESSIONS];
    float *alone[SESSIONS]; /* logits of every row, computed alone */
};

static void crowd_open(struct crowd *c, struct engine *e)
{
    const int32_t length[SESSIONS] = {1, 33, 17, 2, 8, 25};
    for (int s = 0; s < SESSIONS; s++) {
        c->length[s] = length[s];
        engine_ids(c->ids[s], length[s], e->info->n_vocab, (uint64_t)s);
        c->alone[s] =
            engine_alloc((size_t)length[s] * (size_t)e->info->n_vocab, sizeof *c->alone[s]);
        assert_ok(stm_restart(e->memory, rxt_worker_lane(e->w), 0, STM_NOISE, (uint64_t)s));
        assert_ok(rxt_read_build(e->read, e->w, e->memory));
        engine_logits(e, c->ids[s], length[s], 0, c->alone[s]);
        assert_ok(rxt_read_create(&c->read[s], e->m));
        assert_ok(rxt_read_build(c->read[s], e->w, e->memory));
        assert_ok(rxt_slot_create(&c->slot[s], e->m));
    }
}

static void crowd_close(struct crowd *c)
{
    for (int s = 0; s < SESSIONS; s++) {
        rxt_read_destroy(&c->read[s]);
        rxt_slot_destroy(&c->slot[s]);
        free(c->alone[s]);
    }
}

/* All sessions in one batch after another, each with as many rows as chance gives it: prefill,
 * chunks and decode steps together. Every row of logits is the one computed alone. */
static void crowd_run(struct crowd *c, struct engine *e, uint64_t seed)
{
    int32_t done[SESSIONS] = {0}, draw[64];
    size_t n_vocab = (size_t)e->info->n_vocab;
    engine_ids(draw, 64, 7, seed);
    for (int step = 0;; step++) {
        int32_t ids[SESSIONS * LONGEST], offset[SESSIONS + 1] = {0}, start[SESSIONS];
        struct rxt_slot *slot[SESSIONS];
        const struct rxt_read *read[SESSIONS];
        bool want[SESSIONS];
        int who[SESSIONS], n = 0, rows = 0;
        for (int s = 0; s < SESSIONS; s++) {
            int32_t left = c->length[s] - done[s], take = 1 + draw[(step * 5 + s * 3) % 64];
            take = take < left ? take : left;
            if (take == 0)
                continue;
            memcpy(ids + rows, c->ids[s] + done[s], (size_t)take * sizeof *ids);
            rows += take;
            start[n] = done[s];
            slot[n] = c->slot[s];
            read[n] = c->read[s];
            want[n] = (step + s) % 3 != 0;
            who[n++] = s;
            offset[n] = rows;
            done[s] += take;
        }
        if (n == 0)
            return;
        assert_ok(rxt_forward(
            e->w,
            &(struct rxt_batch){
                .rows = {n, offset, start}, .ids = ids, .slot = slot, .read = read, .want = want}));
        struct tensor logits = rxt_logits(e->w);
        int32_t row = 0;
        for (int i = 0; i < n; i++) {
            if (!want[i])
                continue;
            float *got = engine_alloc(n_vocab, sizeof *got);
            assert_ok(lane_download(rxt_worker_lane(e->w), got,
                                    (float *)logits.data + row++ * logits.stride,
                                    n_vocab * sizeof *got));
            assert_memory_equal(got, c->alone[who[i]] + (size_t)(done[who[i]] - 1) * n_vocab,
                                n_vocab * sizeof *got);
            free(got);
        }
        assert_int_equal(logits.rows, row);
    }
}

static void a_batch_equals_each_alone(void **state)
{
    (void)state;
    float *other = NULL;
    for (int n_thread = 1; n_thread <= 2; n_thread++) {
        const struct engine_options opt = {.model.n_thread = n_thread,
                                           .worker.max_seq = SESSIONS,
                                           .worker.max_rows = SESSIONS * 7};
        struct engine e;
        struct crowd c;
        engine_open(&e, folders[0], &opt);
        crowd_open(&c, &e);
        for (uint64_t seed = 0; seed < 3; seed++)
            crowd_run(&c, &e, seed);
        size_t bytes = (size_t)c.length[1] * (size_t)e.info->n_vocab * sizeof *other;
        if (n_thread == 1)
            memcpy(other = engine_alloc(bytes, 1), c.alone[1], bytes);
        else
            assert_memory_equal(other, c.alone[1], bytes);
        crowd_close(&c);
        engine_close(&e);
    }
    free(other);
}

static enum rxt_status try_rows(struct engine *e, int32_t n, int32_t start, int32_t id)
{
    int32_t ids[200];
    const int32_t offset[2] = {0, n};
    for (int i = 0; i < 200; i++)
        ids[i] = 5;
    ids[n > 0 ? n - 1 : 0] = id;
    return rxt_forward(e->w, &(struct rxt_batch){
                                 .rows = {1, offset, &start},
                                 .ids = ids,
                                 .slot = &e->slot,
                                 .read = (const struct rxt_read *const *)&e->read,
                             });
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    const struct engine_options opt = {.model.max_seq_len = 40, .worker.max_rows = 20};
    struct engine e;
    engine_open(&e, folders[0], &opt);
    int32_t id;
    assert_int_equal(e.info->max_seq_len, 40);
    assert_ok(try_rows(&e, 20, 0, 5));
    assert_ok(try_rows(&e, 20, 20, 5));
    assert_ok(rxt_sample(e.w, &RXT_GREEDY, 1, &id));
    assert_status(RXT_ESHAPE, try_rows(&e, 21, 0, 5));               /* max_rows */
    assert_status(RXT_ESHAPE, rxt_sample(e.w, &RXT_GREEDY, 1, &id)); /* no logits after that */
    assert_status(RXT_ESHAPE, try_rows(&e, 20, 21, 5));              /* max_seq_len */
    assert_status(RXT_ESHAPE, try_rows(&e, 1, 40, 5));
    assert_status(RXT_ESHAPE, try_rows(&e, 1, INT32_MAX, 5));
    assert_status(RXT_ESHAPE, try_rows(&e, 1, -1, 5));
    assert_status(RXT_ESHAPE, try_rows(&e, 0, 0, 5));
    assert_status(RXT_ESHAPE, try_rows(&e, 3, 0, -1));
    assert_status(RXT_ESHAPE, try_rows(&e, 3, 0, e.info->n_vocab));
    const int32_t two[3] = {0, 1, 2}, ids[2] = {1, 2};
    struct rxt_slot *slot[2] = {e.slot, e.slot};
    const struct rxt_read *read[2] = {e.read, e.read};
    assert_status(RXT_ESHAPE, rxt_forward(e.w, &(struct rxt_batch){.rows = {2, two, NULL},
                                                                   .ids = ids,
                                                                   .slot = slot,
                                                                   .read = read})); /* max_seq */
    engine_close(&e);
}

static void a_worker_does_what_it_was_made_for(void **state)
{
    (void)state;
    struct engine e;
    struct rxt_worker *answers, *memorizes;
    engine_open(&e, folders[0], NULL);
    assert_ok(
        rxt_worker_create(&answers, e.m, &(struct rxt_worker_config){.work = RXT_WORK_ANSWER}));
    assert_ok(rxt_worker_create(
        &memorizes, e.m,
        &(struct rxt_worker_config){.work = RXT_WORK_MEMORY, .priority = LANE_MEMORY}));
    const int32_t offset[2] = {0, 3}, ids[3] = {1, 4, 7};
    const struct ragged rows = {1, offset, NULL};
    struct rxt_batch b = {
        .rows = rows, .ids = ids, .slot = &e.slot, .read = (const struct rxt_read *const *)&e.read};
    const struct tensor *ed;
    assert_ok(rxt_forward(answers, &b));
    assert_status(RXT_EINVAL, rxt_forward(memorizes, &b));
    assert_ok(rxt_memorize(memorizes, &rows, ids, &ed));
    assert_status(RXT_EINVAL, rxt_memorize(answers, &rows, ids, &ed));
    struct rxt_worker *none = memorizes;
    const struct rxt_worker_config below = {.max_rows = -1}, above = {.max_seq = INT32_MAX};
    assert_status(RXT_EINVAL, rxt_worker_create(&none, e.m, &below));
    assert_null(none);
    assert_status(RXT_ESHAPE, rxt_worker_create(&none, e.m, &above));
    /* each can build what readers read */
    assert_ok(rxt_read_build(e.read, answers, e.memory));
    assert_ok(rxt_read_build(e.read, memorizes, e.memory));
    rxt_worker_destroy(&answers);
    rxt_worker_destroy(&memorizes);
    engine_close(&e);
}

/* From prefill to commit nothing allocates. */
static void a_turn_allocates_nothing(void **state)
{
    (void)state;
    struct engine e;
    engine_open(&e, folders[0], NULL);
    int32_t ids[30], n = 20;
    engine_ids(ids, 30, e.info->n_vocab, 3);
    const int32_t offset[2] = {0, 20}, start = 0;
    struct rxt_batch b = {.rows = {1, offset, &start},
                          .ids = ids,
                          .slot = &e.slot,
                          .read = (const struct rxt_read *const *)&e.read};
    const struct sampling how = {.temperature = 0.8f, .top_k = 20, .top_p = 0.9f, .seed = 1};
    struct stm_spare *spare = stm_spare_take(e.pool);
    uint64_t before = mem_stats().count;
    assert_ok(rxt_forward(e.w, &b));
    assert_ok(rxt_sample(e.w, &how, 1, &ids[n]));
    while (++n < 30)
        ids[n] = engine_step(&e, ids[n - 1], n - 1);
    const int32_t whole[2] = {0, 30};
    const struct ragged rows = {1, whole, NULL};
    assert_ok(rxt_update(e.w, &e.memory, &spare, &rows, ids, NULL));
    assert_ok(stm_commit(e.memory, spare, 0));
    assert_ok(rxt_read_build(e.read, e.w, e.memory));
    assert_int_equal(mem_stats().count, before);
    stm_spare_give(e.pool, &spare);
    engine_close(&e);
}

/* A file in bf16 gives the same bits whether its weights are kept as bf16 or as float32. */
static void storage_does_not_change_the_bits(void **state)
{
    (void)state;
    enum { N = 21 };
    float *got[2];
    char hash[2][33];
    size_t n = 0;
    for (int k = 0; k < 2; k++) {
        const struct engine_options opt = {.model.dtype = k ? "bf16" : "f32"};
        struct engine e;
        int32_t ids[N];
        engine_open(&e, folders[0], &opt);
        assert_int_equal(e.info->storage, k ? DTYPE_BF16 : DTYPE_F32);
        engine_ids(ids, N, e.info->n_vocab, 1);
        n = (size_t)N * (size_t)e.info->n_vocab;
        got[k] = engine_alloc(n, sizeof *got[k]);
        engine_logits(&e, ids, N, 0, got[k]);
        engine_update(&e, ids, N);
        engine_hash(&e, hash[k]);
        engine_close(&e);
    }
    assert_memory_equal(got[0], got[1], n * sizeof *got[0]);
    assert_string_equal(hash[0], hash[1]);
    free(got[0]);
    free(got[1]);
}

static enum rxt_status make_everything(void *arg)
{
    enum rxt_status st;
    struct rxt_model *m = NULL;
    struct rxt_worker *w = NULL;
    struct rxt_read *read = NULL;
    struct rxt_slot *slot = NULL;
    TRY_OR(done, rxt_model_open(&m, arg, &(struct rxt_model_options){.n_thread = 2}, NULL));
    TRY_OR(done, rxt_worker_create(&w, m, &(struct rxt_worker_config){.max_seq = 2}));
    TRY_OR(done, rxt_read_create(&read, m));
    TRY_OR(done, rxt_slot_create(&slot, m));
done:
    rxt_slot_destroy(&slot);
    rxt_read_destroy(&read);
    rxt_worker_destroy(&w);
    rxt_model_close(&m);
    return st;
}

static void survives_no_memory(void **state)
{
    (void)state;
    char *dir = test_dir_make();
    random_model_write(dir, &(struct random_model){.seed = 1});
    assert_survives_no_memory(make_everything, dir);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_chunking_gives_the_same_bits),
        cmocka_unit_test(a_batch_equals_each_alone),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(a_worker_does_what_it_was_made_for),
        cmocka_unit_test(a_turn_allocates_nothing),
        cmocka_unit_test(storage_does_not_change_the_bits),
        cmocka_unit_test(survives_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
