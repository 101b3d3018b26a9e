#include "bridge/bridge_impl.h"

#include "kernels/base/clock.h"
#include "kernels/base/mem.h"

#include <string.h>

/* ---- open and close --------------------------------------------------------------------- */

static void set_defaults(struct bridge_config *cfg)
{
    if (!cfg->max_bytes)
        cfg->max_bytes = (size_t)4 << 30;
    if (!cfg->max_live)
        cfg->max_live = 16;
    if (!cfg->max_queue)
        cfg->max_queue = 1024;
    if (!cfg->prefill_rows)
        cfg->prefill_rows = 256;
    if (!cfg->n_spare)
        cfg->n_spare = 4;
    if (!cfg->image_budget_us)
        cfg->image_budget_us = 250000;
}

static enum rxt_status plan_pass_buffers(struct bridge *b)
{
    size_t n = (size_t)b->cfg.max_live;
    b->live = mem_alloc_n(n, sizeof *b->live);
    b->slot = mem_alloc_n(n, sizeof *b->slot);
    b->pass_offset = mem_alloc_n(n + 1, sizeof *b->pass_offset);
    b->pass_start = mem_alloc_n(n, sizeof *b->pass_start);
    b->pass_ids = mem_alloc_n(n + (size_t)b->cfg.prefill_rows, sizeof *b->pass_ids);
    b->pass_slot = mem_alloc_n(n, sizeof *b->pass_slot);
    b->pass_read = mem_alloc_n(n, sizeof *b->pass_read);
    b->pass_want = mem_alloc_n(n, sizeof *b->pass_want);
    b->pass_sampling = mem_alloc_n(n, sizeof *b->pass_sampling);
    b->pass_choice = mem_alloc_n(n, sizeof *b->pass_choice);
    b->pass_task = mem_alloc_n(n, sizeof *b->pass_task);
    bool all = b->live && b->slot && b->pass_offset && b->pass_start && b->pass_ids &&
               b->pass_slot && b->pass_read && b->pass_want && b->pass_sampling && b->pass_choice &&
               b->pass_task;
    return all ? RXT_OK : RXT_ENOMEM;
}

/* A chain of about one sink, also when every request is joined once. */
static enum rxt_status make_tickets(struct bridge *b)
{
    b->n_ticket = 1;
    while (b->n_ticket < 2 * (size_t)b->cfg.max_queue)
        b->n_ticket *= 2;
    b->ticket = mem_alloc_n(b->n_ticket, sizeof *b->ticket);
    return b->ticket ? RXT_OK : RXT_ENOMEM;
}

/* As many as updates in flight: a commit that finds none writes no image, the journal has it. */
static enum rxt_status make_image_buffers(struct bridge *b)
{
    struct stm_config cfg = rxt_model_stm(b->model, DTYPE_F32);
    b->image_buffer = mem_alloc_n((size_t)b->cfg.n_spare, sizeof *b->image_buffer);
    if (!b->image_buffer)
        return RXT_ENOMEM;
    for (; b->n_image_buffer < b->cfg.n_spare; b->n_image_buffer++) {
        b->image_buffer[b->n_image_buffer] = mem_alloc(stm_bytes(&cfg));
        if (!b->image_buffer[b->n_image_buffer])
            return RXT_ENOMEM;
    }
    return RXT_OK;
}

static enum rxt_status open_writer(struct bridge *b, struct rxt_error *err)
{
    struct store *store = NULL;
    const struct store_options opt = {.sync = b->cfg.sync};
    TRY(store_open(&store, b->cfg.store_path, &opt, err));
    enum rxt_status st = store_lease_take(store, err);
    if (st == RXT_OK)
        st = writer_create(&b->writer, &store, &b->back);
    store_close(&store);
    return st;
}

static void destroy(struct bridge *b)
{
    memory_lane_destroy(&b->lane);
    writer_destroy(&b->writer);
    for (size_t i = 0; i < BRIDGE_BUCKETS; i++)
        while (b->bucket[i])
            session_forget(b->bucket[i]);
    while (b->free_read) {
        struct shared_read *r = b->free_read;
        b->free_read = r->next;
        rxt_read_destroy(&r->read);
        mem_free(r);
    }
    for (int32_t i = 0; i < b->n_slot; i++)
        rxt_slot_destroy(&b->slot[i]);
    for (int32_t i = 0; i < b->n_image_buffer; i++)
        mem_free(b->image_buffer[i]);
    rxt_worker_destroy(&b->worker);
    mailbox_destroy(&b->back);
    mem_free(b->ticket);
    mem_free(b->image_buffer);
    mem_free(b->live);
    mem_free(b->slot);
    mem_free(b->pass_offset);
    mem_free(b->pass_start);
    mem_free(b->pass_ids);
    mem_free(b->pass_slot);
    mem_free(b->pass_read);
    mem_free(b->pass_want);
    mem_free(b->pass_sampling);
    mem_free(b->pass_choice);
    mem_free(b->pass_task);
    mem_free(b);
}

enum rxt_status bridge_open(struct bridge **out, const struct rxt_model *m,
                            const struct bridge_config *cfg, struct rxt_error *err)
{
    enum rxt_status st;
    struct bridge *b = mem_alloc(sizeof *b);
    if (!b)
        return RXT_ENOMEM;
    b->model = m;
    b->cfg = *cfg;
    set_defaults(&b->cfg);
    b->max_seq_len = rxt_model_info(m)->max_seq_len;
    b->active_last = &b->active;
    st = mailbox_create(&b->back);
    if (st != RXT_OK) {
        mem_free(b);
        return st;
    }
    const struct rxt_worker_config worker = {
        .priority = LANE_ANSWER,
        .work = RXT_WORK_ANSWER,
        .max_rows = b->cfg.prefill_rows + b->cfg.max_live,
        .max_seq = b->cfg.max_live,
    };
    TRY_OR(fail, open_writer(b, err));
    TRY_OR(fail, plan_pass_buffers(b));
    TRY_OR(fail, make_tickets(b));
    TRY_OR(fail, make_image_buffers(b));
    TRY_OR(fail, rxt_worker_create(&b->worker, m, &worker));
    TRY_OR(fail, memory_lane_create(&b->lane, m, b->cfg.n_spare, &b->back));
    *out = b;
    return RXT_OK;
fail:
    destroy(b);
    return st;
}

static void cancel_all(struct bridge *b)
{
    while (b->n_live > 0)
        turn_cancel(b->live[b->n_live - 1]);
    for (size_t i = 0; i < BRIDGE_BUCKETS; i++)
        for (struct session *s = b->bucket[i]; s; s = s->chain)
            while (s->queue && !s->queue->work_out)
                turn_cancel(s->queue);
}

void bridge_close(struct bridge **bridge, uint64_t deadline_us)
{
    struct bridge *b = *bridge;
    if (!b)
        return;
    uint64_t end = clock_us() + deadline_us;
    cancel_all(b);
    while (!bridge_idle(b) && clock_us() < end)
        if (!bridge_step(b))
            bridge_wait(b, 10000);
    destroy(b);
    *bridge = NULL;
}

/* ---- step ------------------------------------------------------------------------------- */

void bridge_activate(struct bridge *b, struct session *s)
{
    if (s->active)
        return;
    s->active = true;
    s->active_next = NULL;
    *b->active_last = s;
    b->active_last = &s->active_next;
}

void bridge_post(struct bridge *b, struct work *w, work_run run, work_done done, void *owner)
{
    w->run = run;
    w->done = done;
    w->owner = owner;
    b->n_pending++;
    writer_post(b->writer, w);
}

static bool take_in(struct bridge *b)
{
    struct mail *mail = mailbox_take(&b->back);
    bool any = mail != NULL;
    while (mail) {
        struct mail *next = mail->next;
        b->n_pending--;
        if (mail->kind == MAIL_JOB)
            ((struct memory_job *)mail)->done((struct memory_job *)mail);
        else
            ((struct work *)mail)->done((struct work *)mail);
        mail = next;
    }
    return any;
}

/* A repeated request id gets what the first one got, never a second memory write. */
static bool is_repeat(const struct task *t)
{
    const struct session *s = t->session;
    uint32_t n = s->n_recent < STORE_WINDOW ? s->n_recent : STORE_WINDOW;
    for (uint32_t i = 0; i < n; i++)
        if (memcmp(s->recent[i].id, t->r.id, BRIDGE_ID_BYTES) == 0)
            return true;
    return false;
}

/* Starts the head of a session's queue if it can start; true if something moved. */
static bool advance(struct session *s)
{
    struct task *t = s->queue;
    if (!t || t->state > TASK_LOADING || t->work_out)
        return false;
    if (t->cancelled) {
        turn_cancel(t);
        return true;
    }
    if (s->phase == SESSION_RESIDENT && is_repeat(t)) {
        turn_repeat(t);
        return true;
    }
    return verb_start(t);
}

static bool advance_all(struct bridge *b)
{
    bool any = false;
    struct session *s = b->active;
    b->active = NULL;
    b->active_last = &b->active;
    while (s) {
        struct session *next = s->active_next;
        s->active = false;
        bool moved = advance(s);
        any |= moved;
        /* Look again while it moves, or while it waits for something that is not its own: a slot.
         */
        if (moved || (s->queue && s->queue->state == TASK_LOADING && b->n_live > 0))
            bridge_activate(b, s);
        else if (session_forgettable(s))
            session_forget(s);
        s = next;
    }
    return any;
}

bool bridge_step(struct bridge *b)
{
    bool any = take_in(b);
    any |= advance_all(b);
    any |= turn_pass(b);
    return any;
}

void bridge_wait(struct bridge *b, uint64_t timeout_us)
{
    mailbox_wait(&b->back, timeout_us);
}

void bridge_wake(struct bridge *b)
{
    mailbox_wake(&b->back);
}

bool bridge_idle(const struct bridge *b)
{
    return b->n_task == 0 && b->n_pending == 0;
}
