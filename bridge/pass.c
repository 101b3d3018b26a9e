/* States 3 and 4: prefill and decode, one pass of the decoder over all live answers. */
#include "bridge/bridge_impl.h"

#include "kernels/base/random.h"

#include <string.h>

#define CHUNK_US 200u        /* of memory work after a step, when a memory waits at all */
#define CHUNKS_MOST_US 1000u /* or twice as long as the step, if that is more, */
#define STALL_US 10000u      /* but never so long that somebody sees it */

/* ---- in and out of the batch ------------------------------------------------------------ */

static void leave_live(struct answer *a)
{
    struct bridge *b = a->task->bridge;
    for (int32_t i = 0; i < b->n_live; i++) {
        if (b->live[i] != a)
            continue;
        /* In order: the batch stays first come, first served. */
        memmove(b->live + i, b->live + i + 1,
                (size_t)(b->n_live - i - 1) * sizeof(struct answer *));
        b->n_live--;
        break;
    }
    room_slot_release(b, &a->slot);
}

void turn_leave(struct task *t)
{
    struct bridge *b = t->bridge;
    if (!t->read)
        return;
    for (int32_t i = 0; i < t->n_answer; i++)
        if (t->answer[i].slot)
            leave_live(&t->answer[i]);
    room_read_release(b, t->read);
    t->read = NULL;
    /* What it did not use of what it was charged in advance. */
    int64_t unused = 0;
    for (int32_t i = 0; i < t->n_answer; i++)
        unused += t->limit - t->answer[i].n_ids;
    schedule_charge(t->session->tenant, -unused);
}

/* Candidates differ by their seeds only. The first one is what the turn would be without others;
 * counter purpose 0 is nobody else's (random.h). */
static uint64_t seed_of(const struct task *t, int32_t candidate)
{
    uint64_t seed = t->r.sampling.seed ? t->r.sampling.seed : t->session->row.seed;
    if (candidate == 0)
        return seed;
    struct random_block r = random_philox(seed, (const uint32_t[4]){(uint32_t)candidate});
    return (uint64_t)r.v[0] << 32 | r.v[1];
}

bool turn_live(struct task *t)
{
    struct bridge *b = t->bridge;
    struct session *s = t->session;
    if (b->n_live + t->n_answer > b->cfg.max_live || !room_take(s, t->n_answer))
        return false;
    schedule_forget(t);
    schedule_charge(s->tenant, (int64_t)t->n_answer * t->limit);
    t->live_us = b->clock();
    t->read = s->content->read;
    t->read->users++;
    t->read_version = s->version;
    t->n_open = t->n_answer;
    task_move(t, TASK_PREFILL);
    for (int32_t i = 0; i < t->n_answer; i++) {
        if (room_slot_take(b, &t->answer[i].slot) != RXT_OK) {
            task_fail(t, RXT_ENOMEM, "no memory for the K/V of one more turn");
            return true;
        }
        t->answer[i].seed = seed_of(t, i);
        b->live[b->n_live++] = &t->answer[i];
    }
    return true;
}

/* ---- tokens ----------------------------------------------------------------------------- */

static void token_event(struct answer *a, int32_t id, bool last)
{
    char text[2 * RXT_PIECE_MAX];
    const struct rxt_model *m = a->task->bridge->model;
    size_t n = rxt_decode(m, &a->decoder, id, text);
    if (last)
        n += rxt_decode_end(&a->decoder, text + n);
    event_token(a, id, text, n);
}

static void smooth(double *mean, double sample)
{
    *mean = *mean > 0 ? *mean + (sample - *mean) / 16 : sample;
}

void turn_answered(struct task *t)
{
    struct bridge *b = t->bridge;
    int32_t n_tokens = 0;
    t->answered_us = b->clock();
    for (int32_t i = 0; i < t->n_answer; i++)
        n_tokens += t->answer[i].n_ids - t->n_prompt;
    t->usage.n_query = t->n_prompt;
    t->usage.n_answer = t->answer[0].n_ids - t->n_prompt;
    t->usage.answer_us = t->answered_us - t->submitted_us;
    double took = (double)(t->answered_us - t->live_us);
    smooth(&b->turn_us, took);
    smooth(&b->token_us, took * t->n_answer / n_tokens);
    fault_point("answered");
    if (t->r.dry_run) {
        t->version = t->session->version;
        event_done(t, true);
        task_end(t);
    } else if (t->n_answer > 1) {
        candidates_journal(t);
    } else {
        turn_journal(t);
    }
}

static void accept_token(struct answer *a, int32_t id)
{
    struct task *t = a->task;
    if (t->state == TASK_PREFILL) {
        t->usage.first_token_us = t->bridge->clock() - t->submitted_us;
        task_move(t, TASK_DECODE);
    }
    a->ids[a->n_ids++] = id;
    bool eos = id == rxt_model_info(t->bridge->model)->eos;
    bool last = eos || a->n_ids == t->limit;
    fault_point("token");
    token_event(a, id, last);
    if (!last)
        return;
    a->finish = eos ? RXT_FINISH_EOS : RXT_FINISH_LENGTH;
    leave_live(a);
    if (--t->n_open == 0)
        turn_answered(t);
}

static struct sampling sampling_of(const struct answer *a)
{
    const struct task *t = a->task;
    struct sampling how = t->r.sampling;
    how.seed = a->seed;
    how.turn = t->read_version;
    how.position = a->n_ids;
    how.n_choice = 0;
    if (t->r.prompt.thinking == RXT_AUTO && a->n_ids == t->n_prompt) {
        const struct rxt_info *info = rxt_model_info(t->bridge->model);
        how.n_choice = 2;
        how.choice[0] = info->think; /* [A] only if strictly greater, spec 1.5 */
        how.choice[1] = info->answer;
    }
    return how;
}

/* ---- the pass --------------------------------------------------------------------------- */

/* Adds rows of one answer to the pass: all it has ready, at most `budget` of them. */
static int32_t add_rows(struct bridge *b, int32_t seq, struct answer *a, int32_t budget)
{
    struct task *t = a->task;
    int32_t at = b->pass_offset[seq];
    int32_t n = a->n_ids - a->n_done;
    if (n > budget)
        n = budget;
    memcpy(b->pass_ids + at, a->ids + a->n_done, (size_t)n * sizeof *a->ids);
    b->pass_offset[seq + 1] = at + n;
    b->pass_start[seq] = a->n_done;
    b->pass_slot[seq] = a->slot;
    b->pass_read[seq] = t->read->read;
    b->pass_want[seq] = a->n_done + n == a->n_ids;
    b->pass_answer[seq] = a;
    if (a->n_done == 0 && a->candidate == 0)
        t->usage.queue_us = b->clock() - t->submitted_us;
    a->n_done += n;
    return n;
}

static bool decodes(const struct answer *a)
{
    return a->n_ids > a->task->n_prompt;
}

static int32_t plan_pass(struct bridge *b)
{
    int32_t n_seq = 0, budget = b->cfg.prefill_rows;
    b->pass_offset[0] = 0;
    for (int32_t i = 0; i < b->n_live; i++)
        if (decodes(b->live[i]))
            (void)add_rows(b, n_seq++, b->live[i], 1);
    for (int32_t i = 0; i < b->n_live && budget > 0; i++)
        if (!decodes(b->live[i]))
            budget -= add_rows(b, n_seq++, b->live[i], budget);
    return n_seq;
}

static enum rxt_status run_pass(struct bridge *b, int32_t n_seq, int32_t *n_want)
{
    const struct rxt_batch batch = {
        .rows = {.n_seq = n_seq, .offset = b->pass_offset, .start = b->pass_start},
        .ids = b->pass_ids,
        .slot = b->pass_slot,
        .read = b->pass_read,
        .want = b->pass_want,
    };
    TRY(rxt_forward(b->worker, &batch));
    *n_want = 0;
    for (int32_t i = 0; i < n_seq; i++)
        if (b->pass_want[i]) {
            b->pass_sampling[*n_want] = sampling_of(b->pass_answer[i]);
            b->pass_answer[*n_want] = b->pass_answer[i];
            ++*n_want;
        }
    return *n_want ? rxt_sample(b->worker, b->pass_sampling, *n_want, b->pass_choice) : RXT_OK;
}

/* Between two passes the memory lane gets a chunk of time, or as much as gives a memory that waits
 * the same share of the machine as an answer that is decoded: a session whose memory waits, to be
 * updated or to come in, answers nothing, so that putting memories off makes batches of answers
 * small and every token dear. */
uint32_t bridge_owed_us(uint64_t pass_us, uint64_t n_waiting, uint64_t n_live)
{
    if (n_waiting == 0 || n_live == 0) /* without answers all time is its own */
        return 0;
    uint64_t us = pass_us * n_waiting / n_live;
    uint64_t most = 2 * pass_us > CHUNKS_MOST_US ? 2 * pass_us : CHUNKS_MOST_US;
    if (us < CHUNK_US)
        us = CHUNK_US;
    if (us > most)
        us = most;
    if (us > STALL_US)
        us = STALL_US;
    return (uint32_t)us;
}

void bridge_give_way(struct bridge *b)
{
    if (b->owed_us > 0)
        lane_give_way(rxt_worker_lane(b->worker), b->owed_us);
    b->owed_us = 0;
}

bool turn_pass(struct bridge *b)
{
    for (int32_t i = b->n_live; i-- > 0;) {
        if (i < b->n_live && b->live[i]->task->cancelled)
            task_cancel(b->live[i]->task);
    }
    int32_t n_seq = plan_pass(b), n_want = 0;
    if (n_seq == 0) {
        lane_rest(rxt_worker_lane(b->worker));
        return false;
    }
    uint64_t start = b->clock();
    enum rxt_status st = run_pass(b, n_seq, &n_want);
    if (st != RXT_OK) {
        /* The backend failed under all of them; their sessions are as they were (S6). */
        while (b->n_live > 0)
            task_fail(b->live[b->n_live - 1]->task, st, "the backend failed while answering");
        return true;
    }
    for (int32_t i = 0; i < n_want; i++)
        accept_token(b->pass_answer[i], b->pass_choice[i]);
    const uint64_t n_waiting = (uint64_t)(b->n_journaled > b->n_job ? b->n_journaled : b->n_job);
    b->owed_us = bridge_owed_us(b->clock() - start, n_waiting, (uint64_t)b->n_live);
    return true;
}
