/* Same bits rule at the level of the engine (design-gpu F): a row of logits, a drawn token and a
 * memory depend on nothing but their own session. On the CPU, or with RXT_TEST_BACKEND=cuda-f32 or
 * cuda-bf16 on a card, where more shapes are run. */
#include "tests/emulator/emulator.h"
#include "tests/rxt/engine.h"

#include <math.h>

enum { MOST = 255, PROMPT = 45, UPDATES = 8, TURN = 24 };

struct subject {
    const char *folder, *shape; /* one of them */
    bool any_dtype;             /* its head size is one that bf16 kernels have */
};
static const struct subject subjects[] = {
    {"tests/golden/beta-tiny", NULL, false},
    {NULL, "preview", true},
    {NULL, "alpha-12m", true},
};

/* There where the emulator is linked, which is too slow for large models and batches. */
__attribute__((weak)) void emulator_backwards(bool backwards);

/* Calls test with an engine of each subject that this backend runs. */
static void with_each(void (*test)(struct engine *e))
{
    const char *backend = getenv("RXT_TEST_BACKEND");
    bool half = backend && strcmp(backend, "cuda-bf16") == 0;
    size_t n = backend && !emulator_backwards ? sizeof subjects / sizeof *subjects : 1;
    int n_run = 0;
    for (size_t i = 0; i < n; i++) {
        if (half && !subjects[i].any_dtype)
            continue;
        const struct engine_options opt = {
            .model = {.n_thread = 2},
            .worker = {.max_seq = MOST, .max_rows = MOST + PROMPT},
            .seed = 1,
            .shape = subjects[i].shape,
        };
        struct engine e;
        engine_open(&e, subjects[i].folder, &opt);
        assert_ok(stm_restart(e.memory, rxt_worker_lane(e.w), 0, STM_NOISE, 1));
        assert_ok(rxt_read_build(e.read, e.w, e.memory));
        test(&e);
        engine_close(&e);
        n_run++;
    }
    assert_true(n_run > 0);
}

/* Row r of the last forward, as it lies in the backend; free() it. */
static void *row_of_logits(struct engine *e, int32_t r, size_t *bytes)
{
    struct tensor t = rxt_logits(e->w);
    size_t one = dtype_bytes(t.dtype);
    *bytes = (size_t)t.cols * one;
    assert_true(r < t.rows);
    void *row = engine_alloc(*bytes, 1);
    assert_ok(lane_download(rxt_worker_lane(e->w), row,
                            (char *)t.data + (size_t)(r * t.stride) * one, *bytes));
    return row;
}

/* Rows [start, start + n) of the engine's own session. */
static void prefill(struct engine *e, const int32_t *ids, int32_t start, int32_t n)
{
    const int32_t offset[2] = {0, n};
    assert_ok(rxt_forward(e->w, &(struct rxt_batch){
                                    .rows = {1, offset, &start},
                                    .ids = ids + start,
                                    .slot = &e->slot,
                                    .read = (const struct rxt_read *const *)&e->read,
                                }));
}

static void whole_or_in_chunks(struct engine *e)
{
    const int32_t chunks[] = {1, 2, 3, 7, 16, 44};
    int32_t ids[PROMPT];
    size_t bytes;
    engine_ids(ids, PROMPT, e->info->n_vocab, 3);
    prefill(e, ids, 0, PROMPT);
    void *whole = row_of_logits(e, 0, &bytes);
    for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
        for (int32_t at = 0; at < PROMPT; at += chunks[c])
            prefill(e, ids, at, PROMPT - at < chunks[c] ? PROMPT - at : chunks[c]);
        void *cut = row_of_logits(e, 0, &bytes);
        assert_memory_equal(cut, whole, bytes);
        free(cut);
    }
    free(whole);
}

/* Others that share a step: a slot each, and two memories between them, the second not finite, so
 * that rows which read it are not either. */
struct crowd {
    struct rxt_slot *slot[MOST];
    struct rxt_read *tame, *wild;
    int32_t ids[MOST], start[MOST], offset[MOST + 1];
    const struct rxt_read *read[MOST];
    struct sampling how[MOST];
};

static void crowd_open(struct crowd *c, struct engine *e)
{
    struct stm_config cfg = rxt_model_stm(e->m, DTYPE_F32);
    struct lane *ln = rxt_worker_lane(e->w);
    struct stm *m = NULL;
    float *values = engine_alloc(e->n_value, sizeof *values);
    for (size_t i = 0; i < e->n_value; i++)
        values[i] = NAN;
    assert_ok(stm_create(&m, ln, &cfg, STM_NOISE, 7));
    assert_ok(rxt_read_create(&c->tame, e->m));
    assert_ok(rxt_read_create(&c->wild, e->m));
    assert_ok(rxt_read_build(c->tame, e->w, m));
    assert_ok(stm_import(m, ln, 0, values, e->n_value * sizeof *values));
    assert_ok(rxt_read_build(c->wild, e->w, m));
    for (int i = 0; i < MOST; i++)
        assert_ok(rxt_slot_create(&c->slot[i], e->m));
    stm_destroy(&m);
    free(values);
}

static void crowd_close(struct crowd *c)
{
    for (int i = 0; i < MOST; i++)
        rxt_slot_destroy(&c->slot[i]);
    rxt_read_destroy(&c->tame);
    rxt_read_destroy(&c->wild);
}

/* One decode step of n sessions; the engine's own one is at place `at` and decodes `id` there. */
static void step(struct engine *e, struct crowd *c, int32_t n, int32_t at, int32_t id, bool wild)
{
    struct rxt_slot *slot[MOST];
    engine_ids(c->ids, n, e->info->n_vocab, (uint64_t)(n * 2 + wild));
    for (int32_t i = 0; i < n; i++) {
        slot[i] = c->slot[i];
        c->read[i] = wild && i % 3 != 0 ? c->wild : c->tame;
        c->start[i] = i * 7 % 40;
        c->offset[i + 1] = i + 1;
        c->how[i] =
            (struct sampling){.temperature = 0.9f, .top_k = 20, .top_p = 0.9f, .seed = (uint64_t)i};
    }
    slot[at] = e->slot;
    c->read[at] = e->read;
    c->ids[at] = id;
    c->start[at] = PROMPT;
    c->how[at].seed = 99;
    assert_ok(rxt_forward(
        e->w, &(struct rxt_batch){
                  .rows = {n, c->offset, c->start}, .ids = c->ids, .slot = slot, .read = c->read}));
}

static bool finite_row(const struct engine *e, const void *row)
{
    enum dtype t = rxt_logits(e->w).dtype;
    for (int32_t i = 0; i < e->info->n_vocab; i++) {
        float v = dtype_value(row, t, (size_t)i);
        if (!(v - v == 0))
            return false;
    }
    return true;
}

static void alone_or_among_others(struct engine *e)
{
    const int32_t sizes[] = {1, 2, 7, 8, 9, 31, 64, MOST};
    static struct crowd c;
    int32_t ids[PROMPT], drawn[MOST], id = 11, alone_drawn;
    size_t bytes;
    c = (struct crowd){0};
    crowd_open(&c, e);
    engine_ids(ids, PROMPT, e->info->n_vocab, 4);
    prefill(e, ids, 0, PROMPT);
    step(e, &c, 1, 0, id, false);
    void *alone = row_of_logits(e, 0, &bytes);
    assert_true(finite_row(e, alone));
    assert_ok(rxt_sample(e->w, c.how, 1, &alone_drawn));
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const int32_t n = sizes[s], places[] = {0, n / 2, n - 1};
        if (emulator_backwards && n > 31)
            continue;
        for (int k = 0; k < 6; k++) {
            const int32_t at = places[k % 3];
            step(e, &c, n, at, id, k >= 3);
            void *row = row_of_logits(e, at, &bytes);
            assert_memory_equal(row, alone, bytes);
            free(row);
            if (k < 3) {
                assert_ok(rxt_sample(e->w, c.how, n, drawn));
                assert_int_equal(drawn[at], alone_drawn);
            }
        }
    }
    /* The others were what they were meant to be. */
    void *other = row_of_logits(e, 1, &bytes);
    assert_false(finite_row(e, other));
    free(other);
    free(alone);
    crowd_close(&c);
}

/* Memories of `n` sessions after one turn each, from session `first` on, packed. */
static void update_hashes(struct engine *e, struct stm_pool *pool, int first, int n,
                          uint8_t hash[UPDATES][16])
{
    struct stm_config cfg = rxt_model_stm(e->m, DTYPE_F32);
    struct lane *ln = rxt_worker_lane(e->w);
    struct stm *m[UPDATES] = {NULL};
    struct stm_spare *spare[UPDATES];
    int32_t ids[UPDATES * TURN], offset[UPDATES + 1] = {0};
    bool bad[UPDATES];
    for (int i = 0; i < n; i++) {
        int32_t length = 1 + (first + i) * 5 % TURN;
        engine_ids(ids + offset[i], length, e->info->n_vocab, (uint64_t)(first + i));
        offset[i + 1] = offset[i] + length;
        assert_ok(stm_create(&m[i], ln, &cfg, STM_NOISE, (uint64_t)(first + i)));
        spare[i] = stm_spare_take(pool);
    }
    assert_ok(rxt_update(e->w, m, spare, &(struct ragged){n, offset, NULL}, ids, bad));
    for (int i = 0; i < n; i++) {
        assert_ok(stm_commit(m[i], spare[i], 0));
        assert_ok(stm_hash(m[i], ln, hash[first + i]));
        stm_spare_give(pool, &spare[i]);
        stm_destroy(&m[i]);
    }
}

static void updated_alone_or_packed(struct engine *e)
{
    const int packs[][3] = {{0, 8, 0}, {0, 3, 5}, {0, 1, 7}}; /* first, n, n of the rest */
    struct stm_config cfg = rxt_model_stm(e->m, DTYPE_F32);
    struct stm_pool *pool;
    uint8_t alone[UPDATES][16], packed[UPDATES][16];
    assert_ok(stm_pool_create(&pool, rxt_model_backend(e->m), &cfg, UPDATES));
    for (int i = 0; i < UPDATES; i++)
        update_hashes(e, pool, i, 1, alone);
    assert_memory_not_equal(alone[0], alone[1], sizeof alone[0]);
    for (size_t p = 0; p < sizeof packs / sizeof *packs; p++) {
        memset(packed, 0, sizeof packed);
        update_hashes(e, pool, packs[p][0], packs[p][1], packed);
        if (packs[p][2] > 0)
            update_hashes(e, pool, packs[p][1], packs[p][2], packed);
        assert_memory_equal(packed, alone, sizeof packed);
    }
    for (int again = 0; again < 4; again++) { /* a graph by then, whose branches run in any order */
        if (emulator_backwards)
            emulator_backwards(again % 2);
        update_hashes(e, pool, 3, 1, packed);
        assert_memory_equal(packed[3], alone[3], sizeof *alone);
    }
    stm_pool_destroy(&pool);
}

static void chunking(void **state)
{
    (void)state;
    with_each(whole_or_in_chunks);
}

static void batches(void **state)
{
    (void)state;
    with_each(alone_or_among_others);
}

static void updates(void **state)
{
    (void)state;
    with_each(updated_alone_or_packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunking),
        cmocka_unit_test(batches),
        cmocka_unit_test(updates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
