#include "bridge/memory_impl.h"

#include "bridge/fault_impl.h"
#include "kernels/base/clock.h"
#include "kernels/base/mem.h"
#include "kernels/base/thread.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

struct memory_lane {
    const struct rxt_model *model;
    struct rxt_worker *worker;
    struct stm_pool *pool[2]; /* by dtype: F32, BF16; made when first needed */
    int n_spare;
    int32_t max_rows;
    struct mailbox inbox;
    struct mailbox *back;
    struct memory_job *waiting, **waiting_last; /* taken in; in order */
    struct memory_job **batch;                  /* n_spare of them */
    struct stm **batch_stm;
    struct stm_spare **batch_spare;
    int32_t *batch_offset, *batch_ids;
    bool *batch_bad;
    bool stopping;
    pthread_t thread;
};

static struct memory_job *next_of(struct memory_job *job)
{
    return (struct memory_job *)job->mail.next;
}

static enum rxt_status pool_of(struct memory_lane *l, enum dtype dtype, struct stm_pool **out)
{
    struct stm_pool **pool = &l->pool[dtype == DTYPE_BF16];
    if (!*pool) {
        struct stm_config cfg = rxt_model_stm(l->model, dtype);
        TRY(stm_pool_create(pool, rxt_model_backend(l->model), &cfg, l->n_spare));
    }
    *out = *pool;
    return RXT_OK;
}

/* ---- a job begins and ends -------------------------------------------------------------- */

/* The version before the first step: given values, or an initial memory. */
static enum rxt_status start_content(struct memory_lane *l, struct memory_job *job)
{
    struct lane *ln = rxt_worker_lane(l->worker);
    uint64_t version = job->target - (uint64_t)job->n_step;
    const void *values = job->values[0];
    if (!job->stm) {
        struct stm_config cfg = rxt_model_stm(l->model, job->dtype);
        TRY(stm_create(&job->stm, ln, &cfg, values ? STM_ZEROS : job->init, job->seed));
    }
    if (values)
        return stm_import(job->stm, ln, version, values, job->values_bytes);
    return stm_restart(job->stm, ln, version, job->init, job->seed);
}

static enum rxt_status start(struct memory_lane *l, struct memory_job *job)
{
    if (job->started)
        return RXT_OK;
    if (job->kind == MEMORY_REBUILD)
        TRY(start_content(l, job));
    else if (!job->stm)
        TRY(stm_clone(&job->stm, rxt_worker_lane(l->worker), job->source));
    job->started = true;
    return RXT_OK;
}

/* The values [L,S,D] as the store keeps them. */
static enum rxt_status copy_values(struct memory_job *job, struct lane *ln)
{
    const struct stm_config *cfg = stm_config_of(job->stm);
    size_t layer_bytes = stm_bytes(cfg) / (size_t)cfg->n_layer;
    for (int i = 0; i < cfg->n_layer; i++)
        TRY(lane_download(ln, (char *)job->image + (size_t)i * layer_bytes,
                          stm_read(job->stm, i).data, layer_bytes));
    return RXT_OK;
}

/* K/V, hash and image of what has been made: all that readers and the store need. */
static enum rxt_status publish(struct memory_lane *l, struct memory_job *job)
{
    struct lane *ln = rxt_worker_lane(l->worker);
    if (job->read)
        TRY(rxt_read_build(job->read, l->worker, job->stm));
    TRY(stm_hash(job->stm, ln, job->hash));
    if (job->image)
        TRY(copy_values(job, ln));
    return lane_sync(ln);
}

static void give_back(struct memory_lane *l, struct memory_job *job, enum rxt_status st)
{
    job->status = st;
    if (st != RXT_OK && job->kind == MEMORY_UPDATE && job->source)
        stm_destroy(&job->stm); /* the clone */
    mailbox_post(l->back, &job->mail);
}

static enum rxt_status compare(const struct memory_lane *l, struct memory_job *job)
{
    struct stm_config cfg = rxt_model_stm(l->model, job->dtype);
    return stm_diff(job->values[0], job->dtype, job->values[1], job->dtype_b, &cfg, job->diff);
}

/* ---- rounds ----------------------------------------------------------------------------- */

static int32_t rows_of(const struct memory_job *job)
{
    return job->at < job->n_step ? job->step[job->at].n : 0;
}

/* Takes jobs from the front of the queue while their next steps fit into one batch. */
static int next_batch(struct memory_lane *l)
{
    int n = 0;
    int32_t rows = 0;
    while (l->waiting && n < l->n_spare) {
        struct memory_job *job = l->waiting;
        if (n > 0 && (job->alone || l->batch[0]->alone || rows + rows_of(job) > l->max_rows))
            break;
        rows += rows_of(job);
        l->waiting = next_of(job);
        l->batch[n++] = job;
    }
    if (!l->waiting)
        l->waiting_last = &l->waiting;
    return n;
}

static void put_last(struct memory_lane *l, struct memory_job *job)
{
    job->mail.next = NULL;
    *l->waiting_last = job;
    l->waiting_last = (struct memory_job **)&job->mail.next;
}

static void put_first(struct memory_lane *l, struct memory_job *job)
{
    if (!l->waiting) {
        put_last(l, job);
        return;
    }
    job->mail.next = &l->waiting->mail;
    l->waiting = job;
}

/* Takes a job in: in order, but what only comes in and has nothing to absorb goes first. Its turn
 * waits for it, it takes a tenth of an update, and there is no more than one for each turn. */
static void put(struct memory_lane *l, struct memory_job *job)
{
    struct memory_job **at = &l->waiting;
    if (job->kind != MEMORY_REBUILD || job->n_step > 0) {
        put_last(l, job);
        return;
    }
    while (*at && (*at)->kind == MEMORY_REBUILD && (*at)->n_step == 0)
        at = (struct memory_job **)&(*at)->mail.next;
    if (!*at) {
        put_last(l, job);
        return;
    }
    job->mail.next = &(*at)->mail;
    *at = job;
}

/* Absorbs the next step of each of the n jobs. */
static enum rxt_status absorb(struct memory_lane *l, int n)
{
    enum rxt_status st = RXT_OK;
    int lent = 0;
    l->batch_offset[0] = 0;
    for (; lent < n; lent++) {
        struct memory_job *job = l->batch[lent];
        struct stm_pool *pool = NULL;
        TRY_OR(done, pool_of(l, stm_config_of(job->stm)->dtype, &pool));
        l->batch_stm[lent] = job->stm;
        l->batch_spare[lent] = stm_spare_take(pool);
        assert(l->batch_spare[lent]); /* a batch has at most n_spare memories */
        int32_t at = l->batch_offset[lent];
        const struct memory_step *step = &job->step[job->at];
        memcpy(l->batch_ids + at, step->ids, (size_t)step->n * sizeof *step->ids);
        l->batch_offset[lent + 1] = at + step->n;
    }
    const struct ragged rows = {.n_seq = n, .offset = l->batch_offset};
    TRY_OR(done, fault_status("update"));
    st = rxt_update(l->worker, l->batch_stm, l->batch_spare, &rows, l->batch_ids, l->batch_bad);
done:
    for (int i = 0; i < n; i++) {
        struct memory_job *job = l->batch[i];
        job->status = st == RXT_ENONFINITE && !l->batch_bad[i] ? RXT_OK : st;
        uint64_t base = job->target - (uint64_t)(job->n_step - job->at);
        if (job->status == RXT_OK)
            job->status = stm_commit(job->stm, l->batch_spare[i], base);
        if (i < lent)
            stm_spare_give(l->pool[stm_config_of(job->stm)->dtype == DTYPE_BF16],
                           &l->batch_spare[i]);
    }
    return st;
}

/* One round: what cannot start is given back, what has no step left is published, the others absorb
 * one step together. A result that is not finite fails its own memory only; a device that fails
 * takes the whole batch, so each of them is tried again alone. */
static void run_round(struct memory_lane *l, int n_taken)
{
    uint64_t begin = clock_us();
    int n = 0;
    for (int i = 0; i < n_taken; i++) {
        struct memory_job *job = l->batch[i];
        enum rxt_status st = job->kind == MEMORY_DIFF ? compare(l, job) : start(l, job);
        if (st != RXT_OK || job->kind == MEMORY_DIFF)
            give_back(l, job, st);
        else if (job->at == job->n_step)
            give_back(l, job, publish(l, job));
        else
            l->batch[n++] = job;
    }
    if (n == 0)
        return;
    enum rxt_status st = absorb(l, n);
    bool whole = st != RXT_OK && st != RXT_ENONFINITE;
    for (int i = n; i-- > 0 && whole && n > 1;) {
        l->batch[i]->alone = true;
        put_first(l, l->batch[i]);
    }
    if (whole && n > 1)
        return;
    int n_over = 0;
    for (int i = 0; i < n; i++) {
        struct memory_job *job = l->batch[i];
        bool over = job->status != RXT_OK || ++job->at == job->n_step;
        job->alone = false;
        if (over && job->status == RXT_OK)
            job->status = publish(l, job);
        job->update_us += clock_us() - begin;
        if (over)
            l->batch[n_over++] = job;
        else
            put_last(l, job);
    }
    /* All at once: turns that wait for them are then answered in one batch. */
    for (int i = 0; i < n_over; i++)
        give_back(l, l->batch[i], l->batch[i]->status);
}

static void take_in(struct memory_lane *l, struct mail *mail)
{
    while (mail) {
        struct memory_job *job = (struct memory_job *)mail;
        mail = mail->next;
        if (job->kind == MEMORY_STOP)
            l->stopping = true;
        else
            put(l, job);
    }
}

static void *run(void *arg)
{
    struct memory_lane *l = arg;
    thread_name("rxt-memory");
    (void)thread_slice(THREAD_YIELDS_US);
    while (l->waiting || !l->stopping) {
        if (!l->waiting) {
            lane_rest(rxt_worker_lane(l->worker));
            mailbox_wait(&l->inbox, UINT64_MAX);
        }
        take_in(l, mailbox_take(&l->inbox));
        int n = next_batch(l);
        if (n > 0)
            run_round(l, n);
    }
    return NULL;
}

static void free_all(struct memory_lane *l)
{
    for (int i = 0; i < 2; i++)
        stm_pool_destroy(&l->pool[i]);
    rxt_worker_destroy(&l->worker);
    mem_free(l->batch);
    mem_free(l->batch_stm);
    mem_free(l->batch_spare);
    mem_free(l->batch_offset);
    mem_free(l->batch_ids);
    mem_free(l->batch_bad);
    mem_free(l);
}

enum rxt_status memory_lane_create(struct memory_lane **out, const struct rxt_model *m, int n_spare,
                                   struct mailbox *back)
{
    enum rxt_status st = RXT_ENOMEM;
    struct memory_lane *l = mem_alloc(sizeof *l);
    if (!l)
        return RXT_ENOMEM;
    l->model = m;
    l->n_spare = n_spare;
    l->back = back;
    l->waiting_last = &l->waiting;
    /* One interaction of the longest kind always fits; shorter ones share a batch. */
    l->max_rows = rxt_model_info(m)->max_seq_len;
    size_t n = (size_t)n_spare;
    l->batch = mem_alloc_n(n, sizeof(struct memory_job *));
    l->batch_stm = mem_alloc_n(n, sizeof(struct stm *));
    l->batch_spare = mem_alloc_n(n, sizeof(struct stm_spare *));
    l->batch_offset = mem_alloc_n(n + 1, sizeof *l->batch_offset);
    l->batch_ids = mem_alloc_n((size_t)l->max_rows, sizeof *l->batch_ids);
    l->batch_bad = mem_alloc_n(n, sizeof *l->batch_bad);
    if (!l->batch || !l->batch_stm || !l->batch_spare || !l->batch_offset || !l->batch_ids ||
        !l->batch_bad)
        goto fail;
    const struct rxt_worker_config cfg = {.priority = LANE_MEMORY,
                                          .work = RXT_WORK_MEMORY,
                                          .max_rows = l->max_rows,
                                          .max_seq = n_spare};
    TRY_OR(fail, rxt_worker_create(&l->worker, m, &cfg));
    TRY_OR(fail, mailbox_create(&l->inbox));
    if (pthread_create(&l->thread, NULL, run, l) != 0) {
        mailbox_destroy(&l->inbox);
        st = RXT_EIO;
        goto fail;
    }
    *out = l;
    return RXT_OK;
fail:
    free_all(l);
    return st;
}

void memory_lane_destroy(struct memory_lane **lane)
{
    struct memory_lane *l = *lane;
    if (!l)
        return;
    struct memory_job stop = {.kind = MEMORY_STOP};
    mailbox_post(&l->inbox, &stop.mail);
    pthread_join(l->thread, NULL);
    mailbox_destroy(&l->inbox);
    free_all(l);
    *lane = NULL;
}

void memory_lane_post(struct memory_lane *l, struct memory_job *job)
{
    job->mail.kind = MAIL_JOB;
    mailbox_post(&l->inbox, &job->mail);
}
