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
    if (!cfg->choose_us)
        cfg->choose_us = 60000000;
}

static enum rxt_status plan_pass_buffers(struct bridge *b)
{
    size_t n = (size_t)b->cfg.max_live;
    b->live = mem_alloc_n(n, sizeof(struct answer *));
    b->slot = mem_alloc_n(n, sizeof(struct rxt_slot *));
    b->pass_offset = mem_alloc_n(n + 1, sizeof *b->pass_offset);
    b->pass_start = mem_alloc_n(n, sizeof *b->pass_start);
    b->pass_ids = mem_alloc_n(n + (size_t)b->cfg.prefill_rows, sizeof *b->pass_ids);
    b->pass_slot = mem_alloc_n(n, sizeof(struct rxt_slot *));
    b->pass_read = mem_alloc_n(n, sizeof(struct rxt_read *));
    b->pass_want = mem_alloc_n(n, sizeof *b->pass_want);
    b->pass_sampling = mem_alloc_n(n, sizeof *b->pass_sampling);
    b->pass_choice = mem_alloc_n(n, sizeof *b->pass_choice);
    b->pass_answer = mem_alloc_n(n, sizeof(struct answer *));
    bool all = b->live && b->slot && b->pass_offset && b->pass_start && b->pass_ids &&
               b->pass_slot && b->pass_read && b->pass_want && b->pass_sampling && b->pass_choice &&
               b->pass_answer;
    return all ? RXT_OK : RXT_ENOMEM;
}

/* A chain of about one sink, also when every request is joined once. */
static enum rxt_status make_tickets(struct bridge *b)
{
    b->n_ticket = 1;
    while (b->n_ticket < 2 * (size_t)b->cfg.max_queue)
        b->n_ticket *= 2;
    b->ticket = mem_alloc_n(b->n_ticket, sizeof(struct sink *));
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

static enum rxt_status open_reader(struct bridge *b, struct writer **out, struct rxt_error *err)
{
    struct store *store = NULL;
    const struct store_options opt = {.read_only = true};
    TRY(store_open(&store, b->cfg.store_path, &opt, err));
    enum rxt_status st = writer_create(out, &store, &b->back);
    store_close(&store);
    return st;
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

/* Tasks that a deadline left: what was journaled is replayed at the next open. */
static void drop_tasks(struct bridge *b)
{
    while (b->all)
        task_end(b->all);
}

static void destroy(struct bridge *b)
{
    memory_lane_destroy(&b->lane);
    writer_destroy(&b->exporter);
    writer_destroy(&b->reader);
    writer_destroy(&b->writer);
    drop_tasks(b);
    for (size_t i = 0; i < BRIDGE_BUCKETS; i++)
        while (b->bucket[i])
            session_abandon(b->bucket[i]);
    room_destroy(b);
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
    mem_free(b->pass_answer);
    mem_free(b);
}

static enum rxt_status check_room(const struct bridge *b, size_t max_bytes, const char *name,
                                  struct rxt_error *err)
{
    if (room_minimum(b) <= max_bytes)
        return RXT_OK;
    return rxt_fail(err, RXT_ELIMIT, "one turn of this model needs %zu bytes, %s is %zu",
                    room_minimum(b), name, max_bytes);
}

enum rxt_status bridge_check_limits(const struct bridge *b, const struct bridge_limits *tenant,
                                    struct rxt_error *err)
{
    size_t max_bytes = tenant->max_bytes ? tenant->max_bytes : b->cfg.max_bytes;
    return check_room(b, max_bytes, "max_bytes of a tenant", err);
}

enum rxt_status bridge_set_limits(struct bridge *b, const struct bridge_limits *tenant,
                                  struct rxt_error *err)
{
    struct bridge_limits t = *tenant;
    if (!t.max_queue)
        t.max_queue = b->cfg.max_queue;
    if (!t.max_sessions)
        t.max_sessions = UINT64_MAX;
    if (!t.max_bytes)
        t.max_bytes = b->cfg.max_bytes;
    TRY(bridge_check_limits(b, &t, err));
    b->cfg.tenant = t;
    return RXT_OK;
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
    b->clock = clock_us;
    b->next_deadline_us = NEVER_US;
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
    TRY_OR(fail, check_room(b, b->cfg.max_bytes, "max_bytes", err));
    TRY_OR(fail, bridge_set_limits(b, &cfg->tenant, err));
    TRY_OR(fail, open_writer(b, err));
    TRY_OR(fail, open_reader(b, &b->reader, err));
    TRY_OR(fail, open_reader(b, &b->exporter, err));
    TRY_OR(fail, plan_pass_buffers(b));
    TRY_OR(fail, make_tickets(b));
    TRY_OR(fail, make_image_buffers(b));
    TRY_OR(fail, rxt_worker_create(&b->worker, m, &worker));
    /* One after another each is ready sooner, and what only comes in waits for one of them. */
    bool batch_pays = backend_batch_pays(rxt_model_backend(m), rxt_model_info(m)->weight_bytes);
    TRY_OR(fail, memory_lane_create(&b->lane, m, batch_pays ? b->cfg.n_spare : 1, &b->back));
    *out = b;
    return RXT_OK;
fail:
    destroy(b);
    return st;
}

/* What has not been journaled is given up. */
static void cancel_all(struct bridge *b)
{
    for (struct task *t = b->all; t; t = t->all_next) {
        t->cancelled = true;
        if (t->session)
            bridge_activate(b, t->session);
    }
}

/* So that the next start replays nothing, as far as there is time. True if there is one to wait
 * for.
 */
static bool write_images(struct bridge *b)
{
    bool any = false;
    for (struct session *s = b->lru; s; s = s->lru_next)
        any |= session_image(s, 0);
    return any;
}

void bridge_close(struct bridge **bridge, uint64_t deadline_us)
{
    struct bridge *b = *bridge;
    if (!b)
        return;
    uint64_t end = clock_us() + deadline_us;
    cancel_all(b);
    while ((!bridge_idle(b) || write_images(b)) && clock_us() < end)
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

static void post(struct bridge *b, struct writer *to, struct work *w, work_run run, work_done done,
                 void *owner)
{
    w->run = run;
    w->done = done;
    w->owner = owner;
    b->n_pending++;
    writer_post(to, w);
}

void bridge_post(struct bridge *b, struct work *w, work_run run, work_done done, void *owner)
{
    post(b, b->writer, w, run, done, owner);
}

void bridge_post_read(struct bridge *b, struct work *w, work_run run, work_done done, void *owner)
{
    w->alone = true; /* a group is a transaction that writes */
    post(b, b->reader, w, run, done, owner);
}

void bridge_post_export(struct bridge *b, struct work *w, work_run run, work_done done, void *owner)
{
    w->alone = true;
    post(b, b->exporter, w, run, done, owner);
}

void bridge_post_job(struct bridge *b, struct memory_job *job)
{
    b->n_pending++;
    b->n_job++;
    memory_lane_post(b->lane, job);
}

static bool take_in(struct bridge *b)
{
    struct mail *mail = mailbox_take(&b->back);
    bool any = mail != NULL;
    while (mail) {
        struct mail *next = mail->next;
        b->n_pending--;
        if (mail->kind == MAIL_JOB) {
            b->n_job--;
            ((struct memory_job *)mail)->done((struct memory_job *)mail);
        } else {
            ((struct work *)mail)->done((struct work *)mail);
        }
        mail = next;
    }
    return any;
}

static bool drop_cancelled(struct session *s)
{
    bool any = false;
    struct task *u = s->undecided;
    for (struct task *t = s->queue, *next; t; t = next) {
        next = t->next;
        if (t->cancelled && !t->work_out && t->state <= TASK_LOADING) {
            task_cancel(t);
            any = true;
        }
    }
    if (u && u->cancelled && !u->work_out && u->chosen < 0) {
        task_cancel(u);
        any = true;
    }
    return any;
}

/* Something has happened to the session: its next task starts if it can, and its next update. */
static bool advance(struct session *s)
{
    bool any = drop_cancelled(s);
    for (struct task *t = s->remember; t; t = t->next)
        event_late(t);
    if (s->undecided)
        event_late(s->undecided);
    session_remember(s);
    struct task *t = s->queue;
    if (t && !t->work_out && t->listed == LIST_NONE &&
        (t->state <= TASK_LOADING || t->state == TASK_UNDECIDED))
        any |= verb_start(t);
    if (!session_in_use(s))
        room_rest(s);
    return any;
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
        any |= advance(s);
        if (session_forgettable(s))
            session_forget(s);
        s = next;
    }
    return any;
}

bool bridge_step(struct bridge *b)
{
    bridge_give_way(b);
    bool any = take_in(b);
    any |= deadline_check(b);
    any |= advance_all(b);
    any |= schedule_run(b);
    any |= turn_pass(b);
    return any;
}

void bridge_wait(struct bridge *b, uint64_t timeout_us)
{
    if (b->active) /* activated since the last step */
        return;
    if (b->next_deadline_us != NEVER_US) {
        uint64_t now = b->clock();
        uint64_t left = b->next_deadline_us > now ? b->next_deadline_us - now : 0;
        timeout_us = left < timeout_us ? left : timeout_us;
    }
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
