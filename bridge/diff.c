/* DIFF: two memories are got back, as for a page-in, and compared on the memory lane. One at a
 * time, since each holds bytes that belong to no session. */
#include "bridge/bridge_impl.h"

#include "kernels/base/mem.h"

#include <inttypes.h>
#include <string.h>

struct side {
    struct store_session row;
    uint64_t version;
    struct replay replay;
    struct memory_job job;
    void *values; /* of the version, once they are there: the replay's own or made by the lane */
    bool made;
};

struct diff {
    struct side side[2];
    struct memory_job compare;
    struct stm_slot_diff *out;
    int n_out; /* jobs */
    enum rxt_status status;
};

void diff_destroy(struct diff **diff)
{
    struct diff *d = *diff;
    if (!d)
        return;
    for (int i = 0; i < 2; i++) {
        if (d->side[i].made)
            mem_free(d->side[i].values);
        replay_free(&d->side[i].replay);
        stm_destroy(&d->side[i].job.stm);
    }
    mem_free(d->out);
    mem_free(d);
    *diff = NULL;
}

/* ---- whose turn it is -------------------------------------------------------------------- */

/* Tenants take turns, as far as that is one between two; else who came first goes first. */
static bool goes_before(const struct task *a, const struct task *b)
{
    const struct tenant *last = a->bridge->diff_last;
    bool a_had = a->session->tenant == last, b_had = b->session->tenant == last;
    return a_had != b_had ? b_had : a->submitted_us < b->submitted_us;
}

/* Whether another one that can be begun goes first; it is looked at again. */
static bool must_wait(const struct task *t)
{
    struct bridge *b = t->bridge;
    if (b->diff_out)
        return true;
    for (struct task *o = b->all; o; o = o->all_next) {
        if (!o->diff_ready || o->session->queue != o || !goes_before(o, t))
            continue;
        bridge_activate(b, o->session);
        return true;
    }
    return false;
}

void diff_ended(const struct task *t)
{
    struct bridge *b = t->bridge;
    for (struct task *o = b->all; o; o = o->all_next)
        if (o != t && o->r.verb == BRIDGE_DIFF)
            bridge_activate(b, o->session);
}

void diff_unready(struct task *t)
{
    if (!t->diff_ready)
        return;
    t->diff_ready = false;
    diff_ended(t);
}

static void end(struct task *t)
{
    t->bridge->diff_out = false;
    task_end(t);
}

static void fail(struct task *t, enum rxt_status st, const char *sentence)
{
    event_failed(t, BRIDGE_ERROR, st, sentence, NULL);
    end(t);
}

/* ---- on the reader's thread ------------------------------------------------------------- */

static enum rxt_status plan_side(struct task *t, struct side *x, const char *name, uint64_t version,
                                 struct store *s, struct rxt_error *err)
{
    const struct rxt_model *m = t->bridge->model;
    TRY(store_session_get(s, t->r.tenant, name, &x->row, err));
    TRY(session_check_model(&x->row, rxt_model_info(m), err));
    uint64_t newest = store_session_newest(&x->row);
    x->version = version == BRIDGE_HEAD ? newest : version;
    if (x->version < x->row.base || x->version > newest)
        return rxt_fail(err, RXT_ESTALE,
                        "version %" PRIu64 " cannot be had: session has %" PRIu64 " to %" PRIu64,
                        x->version, x->row.base, newest);
    TRY(replay_plan(&x->replay, s, &x->row, x->version, backend_bit_class(rxt_model_backend(m)),
                    err));
    return replay_read_values(&x->replay, s, x->row.id, err);
}

static enum rxt_status run_plan(struct work *w, struct store *s, struct rxt_error *err)
{
    struct task *t = w->owner;
    struct diff *d = t->diff;
    const char *other = t->r.to[0] ? t->r.to : t->r.session;
    TRY(store_view_begin(s, err));
    enum rxt_status st = plan_side(t, &d->side[0], t->r.session, t->r.version, s, err);
    if (st == RXT_OK)
        st = plan_side(t, &d->side[1], other, t->r.to_version, s, err);
    store_view_end(s);
    return st;
}

/* ---- on the engine's -------------------------------------------------------------------- */

static void compared(struct memory_job *job)
{
    struct task *t = job->owner;
    if (job->status != RXT_OK) {
        fail(t, job->status, "comparing the memories failed");
        return;
    }
    event_diff(t, t->diff->out);
    end(t);
}

static void compare(struct task *t)
{
    struct diff *d = t->diff;
    if (d->status != RXT_OK) {
        fail(t, d->status, "one of the memories could not be rebuilt");
        return;
    }
    d->compare = (struct memory_job){
        .kind = MEMORY_DIFF,
        .done = compared,
        .owner = t,
        .dtype = (enum dtype)d->side[0].row.dtype,
        .dtype_b = (enum dtype)d->side[1].row.dtype,
        .values = {d->side[0].values, d->side[1].values},
        .diff = d->out,
    };
    bridge_post_job(t->bridge, &d->compare);
}

static void rebuilt(struct memory_job *job)
{
    struct task *t = job->owner;
    struct diff *d = t->diff;
    if (job->status != RXT_OK)
        d->status = job->status;
    if (--d->n_out == 0)
        compare(t);
}

static enum rxt_status make_side(struct task *t, struct side *x)
{
    struct stm_config cfg = rxt_model_stm(t->bridge->model, (enum dtype)x->row.dtype);
    const struct replay *r = &x->replay;
    if (r->values && r->values_bytes != stm_bytes(&cfg))
        return RXT_ESHAPE;
    if (r->values && r->n_step == 0) {
        x->values = r->values;
        return RXT_OK;
    }
    x->values = mem_alloc(stm_bytes(&cfg));
    if (!x->values)
        return RXT_ENOMEM;
    x->made = true;
    x->job = (struct memory_job){
        .kind = MEMORY_REBUILD,
        .done = rebuilt,
        .owner = t,
        .dtype = cfg.dtype,
        .image = x->values,
        .step = r->step,
        .n_step = r->n_step,
        .target = x->version,
        .values = {r->values},
        .values_bytes = r->values_bytes,
        .init = (enum stm_init)x->row.init,
        .seed = x->row.seed,
    };
    return RXT_OK;
}

static void plan_done(struct work *w)
{
    struct task *t = w->owner;
    struct diff *d = t->diff;
    enum rxt_status st = w->status;
    t->work_out = false;
    if (st != RXT_OK) {
        fail(t, st, w->error.text);
        return;
    }
    for (int i = 0; i < 2 && st == RXT_OK; i++)
        st = make_side(t, &d->side[i]);
    if (st != RXT_OK) {
        fail(t, st, "the memories cannot be compared");
        return;
    }
    t->work_out = true; /* nothing can stop it now */
    for (int i = 0; i < 2; i++)
        d->n_out += d->side[i].made;
    if (d->n_out == 0) {
        compare(t);
        return;
    }
    for (int i = 0; i < 2; i++)
        if (d->side[i].made)
            bridge_post_job(t->bridge, &d->side[i].job);
}

void diff_start(struct task *t)
{
    struct bridge *b = t->bridge;
    const struct rxt_info *info = rxt_model_info(b->model);
    t->diff_ready = true;
    if (must_wait(t))
        return;
    b->diff_out = true;
    b->diff_last = t->session->tenant;
    t->diff = mem_alloc(sizeof *t->diff);
    if (t->diff)
        t->diff->out =
            mem_alloc_n((size_t)info->n_layer * (size_t)info->n_slot, sizeof *t->diff->out);
    if (!t->diff || !t->diff->out) {
        fail(t, RXT_ENOMEM, "no memory to compare two memories");
        return;
    }
    t->work_out = true;
    bridge_post_read(b, &t->write.work, run_plan, plan_done, t);
}
