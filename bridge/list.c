#include "bridge/bridge_impl.h"

#include "kernels/base/mem.h"

#include <string.h>

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

struct list_work {
    struct waited waited;
    const char *tenant, *after;
    struct store_session *rows;
    size_t cap, n;
};

static enum rxt_status run_list(struct work *w, struct store *s, struct rxt_error *err)
{
    struct list_work *l = (struct list_work *)w;
    return store_session_list(s, l->tenant, l->after, l->rows, l->cap, &l->n, err);
}

static void row_info(const struct store_session *row, struct bridge_session_info *out)
{
    struct session s = {.phase = SESSION_COLD, .row = *row, .version = row->applied};
    memcpy(s.name, row->name, sizeof s.name);
    s.held = (row->flags & STORE_HELD) != 0;
    session_info(&s, out);
}

enum rxt_status bridge_list(struct bridge *b, const char *tenant, const char *after,
                            struct bridge_session_info *out, size_t cap, size_t *n,
                            struct rxt_error *err)
{
    *n = 0;
    if (cap == 0)
        return RXT_OK;
    struct list_work l = {.tenant = tenant, .after = after, .cap = cap};
    l.rows = mem_alloc_n(cap, sizeof *l.rows);
    if (!l.rows)
        return RXT_ENOMEM;
    enum rxt_status st = run_and_wait(b, &l.waited, run_list, err);
    for (size_t i = 0; st == RXT_OK && i < l.n; i++) {
        struct session *live = NULL;
        row_info(&l.rows[i], &out[i]);
        if (session_peek(b, tenant, l.rows[i].name, &live) && live->phase == SESSION_RESIDENT)
            session_info(live, &out[i]);
    }
    *n = st == RXT_OK ? l.n : 0;
    mem_free(l.rows);
    return st;
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
