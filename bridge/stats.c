#include "bridge/bridge_impl.h"

/* Work whose sender has nothing else to do: it steps until it is back. */
struct waited {
    struct work work;
    bool finished;
};

static void waited_done(struct work *w)
{
    ((struct waited *)w)->finished = true;
}

static enum rxt_status run_and_wait(struct bridge *b, struct waited *w, work_run run,
                                    struct rxt_error *err)
{
    w->work.alone = true;
    bridge_post(b, &w->work, run, waited_done, NULL);
    while (!w->finished)
        if (!bridge_step(b))
            bridge_wait(b, 1000000);
    if (w->work.status != RXT_OK)
        return rxt_fail(err, w->work.status, "%s", w->work.error.text);
    return RXT_OK;
}

struct stats_work {
    struct waited waited;
    struct store_stats stats;
};

static enum rxt_status run_stats(struct work *w, struct store *s, struct rxt_error *err)
{
    (void)err;
    ((struct stats_work *)w)->stats = store_stats(s);
    return RXT_OK;
}

enum rxt_status bridge_stats(struct bridge *b, struct bridge_stats *out, struct rxt_error *err)
{
    struct stats_work w = {0};
    TRY(run_and_wait(b, &w.waited, run_stats, err));
    *out = (struct bridge_stats){.count = count_read(), .mem = mem_stats(), .store = w.stats};
    return RXT_OK;
}

static void count_sessions(const struct bridge *b, struct bridge_gauges *out)
{
    struct bridge_session_info info;
    for (size_t i = 0; i < BRIDGE_BUCKETS; i++)
        for (const struct session *s = b->bucket[i]; s; s = s->chain) {
            session_info(s, &info);
            out->n_session[info.state]++;
        }
}

void bridge_gauges(const struct bridge *b, struct bridge_gauges *out)
{
    *out = (struct bridge_gauges){
        .n_request = b->n_task,
        .n_live = b->n_live,
        .n_ready = b->n_ready,
        .bytes = b->bytes,
        .max_bytes = b->cfg.max_bytes,
        .n_evicted = b->n_evicted,
        .n_loaded = b->n_loaded,
        .n_replayed = b->n_replayed,
    };
    for (const struct task *t = b->all; t; t = t->all_next)
        out->n_load += t->listed == LIST_BYTES;
    for (const struct task *t = b->oldest; t; t = t->journaled_next)
        out->n_update++;
    if (b->oldest)
        out->memory_age_us = b->clock() - b->oldest->durable_us;
    count_sessions(b, out);
}
