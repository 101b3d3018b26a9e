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
