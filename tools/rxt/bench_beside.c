#include "tools/rxt/bench_beside.h"

#include "tools/rxt/bench_samples.h"
#include "tools/rxt/cli.h"

#include "kernels/base/clock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_BATCH = 256, QUERY = 16, ANSWER = 64, SETTLE = 20 };

/* What the other thread does. */
struct updates {
    const struct rxt_model *m;
    struct rxt_worker *worker;
    struct stm *memory;
    struct stm_pool *pool;
    struct rxt_read *read;
    int32_t *ids, turn;
    atomic_bool stop;
    atomic_int n;
    enum rxt_status status;
};

struct answers {
    const struct rxt_model *m;
    struct rxt_worker *worker;
    struct rxt_read *read[MAX_BATCH];
    struct rxt_slot *slot[MAX_BATCH];
    int32_t batch, position;
    uint64_t seed;
};

/* ---- updates ------------------------------------------------------------------------------ */

static enum rxt_status updates_open(struct updates *u)
{
    const struct rxt_worker_config cfg = {
        .priority = LANE_MEMORY, .work = RXT_WORK_MEMORY, .max_rows = u->turn, .max_seq = 1};
    struct stm_config stm = rxt_model_stm(u->m, DTYPE_F32);
    u->ids = calloc((size_t)u->turn, sizeof *u->ids);
    if (!u->ids)
        return RXT_ENOMEM;
    TRY(rxt_worker_create(&u->worker, u->m, &cfg));
    TRY(stm_create(&u->memory, rxt_worker_lane(u->worker), &stm, rxt_model_info(u->m)->stm_init,
                   1));
    TRY(stm_pool_create(&u->pool, rxt_model_backend(u->m), &stm, 1));
    return rxt_read_create(&u->read, u->m);
}

static void updates_close(struct updates *u)
{
    rxt_read_destroy(&u->read);
    stm_pool_destroy(&u->pool);
    stm_destroy(&u->memory);
    rxt_worker_destroy(&u->worker);
    free(u->ids);
}

static enum rxt_status update(struct updates *u, uint64_t *seed)
{
    const int32_t offset[2] = {0, u->turn};
    const struct ragged rows = {.n_seq = 1, .offset = offset};
    struct stm_spare *spare = stm_spare_take(u->pool);
    draw_ids(u->ids, u->turn, rxt_model_info(u->m)->n_vocab, seed);
    /* Not committed: every round updates the same memory. */
    enum rxt_status st = rxt_update(u->worker, &u->memory, &spare, &rows, u->ids, NULL);
    stm_spare_give(u->pool, &spare);
    return st == RXT_OK ? rxt_read_build(u->read, u->worker, u->memory) : st;
}

static void *run_updates(void *arg)
{
    struct updates *u = arg;
    uint64_t seed = 2;
    while (u->status == RXT_OK && !atomic_load(&u->stop)) {
        u->status = update(u, &seed);
        u->n++;
    }
    return NULL;
}

/* ---- answers ------------------------------------------------------------------------------ */

static enum rxt_status answers_open(struct answers *a, const struct stm *memory)
{
    const struct rxt_worker_config cfg = {
        .work = RXT_WORK_ANSWER, .max_rows = a->batch * QUERY, .max_seq = a->batch};
    TRY(rxt_worker_create(&a->worker, a->m, &cfg));
    for (int32_t i = 0; i < a->batch; i++) {
        TRY(rxt_read_create(&a->read[i], a->m));
        TRY(rxt_slot_create(&a->slot[i], a->m));
        TRY(rxt_read_build(a->read[i], a->worker, memory));
    }
    return RXT_OK;
}

static void answers_close(struct answers *a)
{
    for (int32_t i = 0; i < a->batch; i++) {
        rxt_slot_destroy(&a->slot[i]);
        rxt_read_destroy(&a->read[i]);
    }
    rxt_worker_destroy(&a->worker);
}

static enum rxt_status forward(struct answers *a, int32_t tokens)
{
    static int32_t ids[MAX_BATCH * QUERY];
    const struct rxt_read *read[MAX_BATCH];
    struct sampling how[MAX_BATCH];
    int32_t offset[MAX_BATCH + 1] = {0}, start[MAX_BATCH], next[MAX_BATCH];
    for (int32_t i = 0; i < a->batch; i++) {
        offset[i + 1] = offset[i] + tokens;
        start[i] = a->position;
        read[i] = a->read[i];
        how[i] = RXT_GREEDY;
    }
    draw_ids(ids, a->batch * tokens, rxt_model_info(a->m)->n_vocab, &a->seed);
    const struct rxt_batch b = {
        .rows = {.n_seq = a->batch, .offset = offset, .start = start},
        .ids = ids,
        .slot = a->slot,
        .read = read,
    };
    TRY(rxt_forward(a->worker, &b));
    TRY(rxt_sample(a->worker, how, a->batch, next));
    a->position += tokens;
    return RXT_OK;
}

/* Steps for so long, at least 5. Behind each the lane is told what a server owes a memory that
 * waits: on a card, updates keep to their partition where that is less than the step took. */
static enum rxt_status decode(struct answers *a, double seconds, struct samples *s)
{
    uint64_t end = clock_us() + (uint64_t)(1e6 * seconds);
    for (int i = 0; i < SETTLE + 5 || clock_us() < end; i++) {
        if (a->position == 0 || a->position >= QUERY + ANSWER) {
            a->position = 0;
            TRY(forward(a, QUERY));
        }
        uint64_t start = clock_ns();
        TRY(forward(a, 1));
        const uint64_t step_us = (clock_ns() - start) / 1000;
        lane_give_way(rxt_worker_lane(a->worker), bridge_owed_us(step_us, 1, (uint64_t)a->batch));
        if (i >= SETTLE) /* the first ones make what later ones use again */
            samples_add(s, start);
    }
    return RXT_OK;
}

/* ------------------------------------------------------------------------------------------- */

static enum rxt_status decode_beside(struct answers *a, struct updates *u, double seconds,
                                     struct samples *s)
{
    pthread_t thread;
    u->stop = false;
    if (pthread_create(&thread, NULL, run_updates, u) != 0)
        return RXT_EIO;
    enum rxt_status st = decode(a, seconds, s);
    lane_rest(rxt_worker_lane(a->worker)); /* for the last update */
    u->stop = true;
    (void)pthread_join(thread, NULL);
    return st == RXT_OK ? u->status : st;
}

static void report(struct samples *alone, struct samples *beside, const struct answers *a,
                   const struct updates *u, bool json)
{
    double p50[2] = {samples_quantile(alone, 0.5), samples_quantile(beside, 0.5)};
    double p99[2] = {samples_quantile(alone, 0.99), samples_quantile(beside, 0.99)};
    if (json)
        print_json(json_pack("{si si si sf sf sf sf sf}", "beside", a->batch, "turn", u->turn,
                             "updates", atomic_load(&u->n), "token_p50_ms", p50[0], "token_p99_ms",
                             p99[0], "token_beside_p50_ms", p50[1], "token_beside_p99_ms", p99[1],
                             "token_beside_p99_share", p99[1] / p99[0]));
    else
        printf("time per token, batch %d   p50 %.3f ms  p99 %.3f ms   beside %d updates of %d "
               "tokens: p50 %.3f ms  p99 %.3f ms, %.2f x\n",
               a->batch, p50[0], p99[0], atomic_load(&u->n), u->turn, p50[1], p99[1],
               p99[1] / p99[0]);
}

enum rxt_status bench_beside(const struct rxt_model *m, int32_t batch, int32_t turn, bool json,
                             double seconds)
{
    static struct samples alone, beside;
    struct updates u = {.m = m, .turn = turn};
    struct answers a = {.m = m, .batch = batch, .seed = 1};
    enum rxt_status st = updates_open(&u);
    if (st == RXT_OK)
        st = answers_open(&a, u.memory);
    for (int i = 0; i < 2 && st == RXT_OK; i++) {
        st = decode(&a, seconds, &alone);
        if (st == RXT_OK)
            st = decode_beside(&a, &u, seconds, &beside);
    }
    if (st == RXT_OK)
        report(&alone, &beside, &a, &u, json);
    answers_close(&a);
    updates_close(&u);
    return st;
}
