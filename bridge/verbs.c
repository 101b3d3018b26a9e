#define _DEFAULT_SOURCE /* getentropy */
#include "bridge/bridge_impl.h"

#include "kernels/base/clock.h"
#include "kernels/base/random.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What has been journaled is in the memory. */
static bool remembered(const struct session *s)
{
    return !s->remember && !s->job_out && s->phase != SESSION_LOADING;
}

/* ... and the store knows it. If it could not be told it is told again; when that fails, so does
 * the task. */
static bool settled(struct task *t)
{
    struct session *s = t->session;
    bool known = (s->phase != SESSION_RESIDENT || s->row.applied == s->version) &&
                 !(s->held && s->flags_dirty);
    t->waits_store = remembered(s) && (s->apply_out || !known);
    if (t->waits_store && !s->apply_out)
        session_apply(s);
    return remembered(s) && !t->waits_store;
}

void verb_post(struct task *t, work_run run, work_done done, bool alone)
{
    t->work_out = true;
    t->write.max_sessions = t->bridge->cfg.tenant.max_sessions;
    t->write.work.alone = alone;
    bridge_post(t->bridge, &t->write.work, run, done, t);
}

void verb_finished(struct work *w)
{
    struct task *t = w->owner;
    t->work_out = false;
    if (w->status != RXT_OK) {
        task_fail(t, w->status, w->error.text);
        return;
    }
    event_done(t, true);
    task_end(t);
}

/* ---- open ------------------------------------------------------------------------------- */

enum rxt_status verb_check_sessions(const struct task *t, struct store *store,
                                    struct rxt_error *err)
{
    uint64_t n = 0, most = t->write.max_sessions;
    if (most == UINT64_MAX)
        return RXT_OK;
    TRY(store_session_count(store, t->r.tenant, &n, err));
    if (n < most)
        return RXT_OK;
    return rxt_fail(err, RXT_ELIMIT, "the tenant has %" PRIu64 " sessions, the limit is %" PRIu64,
                    n, most);
}

/* A new session that begins where another one of the tenant is. */
static enum rxt_status fork_from(struct task *t, struct store *store, const char *from,
                                 const char *to, uint64_t version, struct rxt_error *err)
{
    struct store_session row;
    TRY(store_session_get(store, t->r.tenant, from, &row, err));
    TRY(session_check_model(&row, rxt_model_info(t->bridge->model), err));
    TRY(verb_check_sessions(t, store, err));
    if (version == BRIDGE_HEAD)
        version = store_session_newest(&row);
    return store_session_fork(store, row.id, version, to, &t->write.session, err);
}

static enum rxt_status run_open(struct work *w, struct store *store, struct rxt_error *err)
{
    struct task *t = w->owner;
    struct store_session want = t->write.session;
    enum rxt_status st =
        store_session_get(store, t->r.tenant, t->r.session, &t->write.session, err);
    if (st != RXT_ENOTFOUND)
        return st;
    t->write.session = want;
    if (t->r.from[0])
        return fork_from(t, store, t->r.from, t->r.session, t->r.version, err);
    TRY(verb_check_sessions(t, store, err));
    return store_session_create(store, &t->write.session, err);
}

void verb_opened(struct work *w)
{
    struct task *t = w->owner;
    struct session *s = t->session;
    if (w->status == RXT_OK && s->phase == SESSION_COLD) {
        s->row = t->write.session;
        s->held = (s->row.flags & STORE_HELD) != 0;
        s->version = store_session_newest(&s->row);
    }
    verb_finished(w);
}

static void start_open(struct task *t)
{
    const struct rxt_info *info = rxt_model_info(t->bridge->model);
    struct store_session *row = &t->write.session;
    uint64_t seed = t->r.seed;
    while (seed == 0)
        if (getentropy(&seed, sizeof seed) != 0)
            seed = t->submitted_us;
    *row = (struct store_session){
        .dtype = (uint32_t)t->bridge->cfg.stm_dtype,
        .n_layer = (uint32_t)info->n_layer,
        .n_slot = (uint32_t)info->n_slot,
        .embed_dim = (uint32_t)info->embed_dim,
        .init = (uint32_t)info->stm_init,
        .generator = RANDOM_GENERATOR,
        .seed = seed,
    };
    (void)snprintf(row->tenant, sizeof row->tenant, "%s", t->r.tenant);
    (void)snprintf(row->name, sizeof row->name, "%s", t->r.session);
    (void)snprintf(row->model_name, sizeof row->model_name, "%s", info->name);
    memcpy(row->model_hash, info->hash, sizeof row->model_hash);
    verb_post(t, run_open, verb_opened, false);
}

/* ---- fork ------------------------------------------------------------------------------- */

static enum rxt_status run_fork(struct work *w, struct store *store, struct rxt_error *err)
{
    struct task *t = w->owner;
    return fork_from(t, store, t->r.session, t->r.to, t->r.version, err);
}

/* The turn's session is the fork; a fork that is there is one that an earlier try has made. */
static enum rxt_status run_busy_fork(struct work *w, struct store *store, struct rxt_error *err)
{
    struct task *t = w->owner;
    enum rxt_status st = store_session_get(store, t->r.tenant, t->r.to, &t->write.session, err);
    if (st == RXT_OK && strcmp(t->write.session.origin, t->r.session) != 0)
        return rxt_fail(err, RXT_EEXIST, "session \"%.100s\" is there and no fork of that one",
                        t->r.to);
    if (st != RXT_ENOTFOUND)
        return st;
    return fork_from(t, store, t->r.session, t->r.to, BRIDGE_HEAD, err);
}

static void busy_fork_done(struct work *w)
{
    struct task *t = w->owner;
    t->work_out = false;
    if (w->status != RXT_OK) {
        task_fail(t, w->status, w->error.text);
        return;
    }
    t->forked = true;
    bridge_activate(t->bridge, t->session);
}

/* ---- rewind, reset ---------------------------------------------------------------------- */

static enum rxt_status rewind_rows(struct task *t, struct store *store, struct rxt_error *err)
{
    struct store_session *row = &t->write.session;
    if (row->flags & STORE_HELD) {
        uint32_t flags = row->flags & ~(uint32_t)STORE_HELD;
        TRY(store_turn_void(store, row->id, NULL, err));
        TRY(store_session_set_state(store, row->id, flags, NULL, err));
        row->head = row->applied;
        row->flags = flags;
    }
    t->write.row.version = row->head + 1;
    t->write.row.parent = t->r.verb == BRIDGE_REWIND ? t->r.version : 0;
    TRY(store_turn_put(store, row->id, &t->write.row, err));
    row->head++;
    return RXT_OK;
}

/* A rewind is a row like a turn. On a held session it is the repair: what was journaled and never
 * applied is given up first, in the same transaction. */
static enum rxt_status run_rewind(struct work *w, struct store *store, struct rxt_error *err)
{
    struct task *t = w->owner;
    struct store_session *row = &t->write.session;
    TRY(store_session_get(store, t->r.tenant, t->r.session, row, err));
    uint64_t newest = store_session_newest(row);
    if (t->r.verb == BRIDGE_REWIND && (t->r.version > newest || t->r.version < row->base))
        return rxt_fail(err, RXT_ESTALE,
                        "version %" PRIu64 " cannot be had: session has %" PRIu64 " to %" PRIu64,
                        t->r.version, row->base, newest);
    TRY(store_batch_begin(store, err));
    enum rxt_status st = rewind_rows(t, store, err);
    if (st == RXT_OK)
        return store_batch_commit(store, err);
    store_batch_abort(store);
    return st;
}

static void rewind_done(struct work *w)
{
    struct task *t = w->owner;
    struct session *s = t->session;
    t->work_out = false;
    if (w->status == RXT_EEXIST) { /* a repeat */
        turn_repeat(t);
        return;
    }
    if (w->status != RXT_OK) {
        task_fail(t, w->status, w->error.text);
        return;
    }
    s->row = t->write.session;
    s->held = false;
    t->version = t->write.row.version;
    turn_journaled(t);
}

static void start_rewind(struct task *t)
{
    struct store_turn *row = &t->write.row;
    *row = (struct store_turn){
        .kind = t->r.verb == BRIDGE_REWIND ? STORE_REWIND : STORE_RESET,
        .state = STORE_LIVE,
        .top_p = 1,
        .wall_us = clock_wall_us(),
    };
    memcpy(row->request, t->r.id, sizeof row->request);
    (void)snprintf(row->bit_class, sizeof row->bit_class, "%s",
                   backend_bit_class(rxt_model_backend(t->bridge->model)));
    task_move(t, TASK_JOURNAL);
    verb_post(t, run_rewind, rewind_done, true);
}

/* ---- erase ------------------------------------------------------------------------------ */

/* What reads the file for another program may be in the way so long. */
#define ERASE_BUSY_US 5000000u

/* Rows, then images by chunks, between which others commit, then what is left in file and log. */
static enum rxt_status run_erase(struct work *w, struct store *store, struct rxt_error *err)
{
    struct task *t = w->owner;
    enum rxt_status st;
    if (!t->write.erased) {
        st = store_session_erase_begin(store, t->r.tenant, t->r.session, err);
        t->write.erased = w->again = st == RXT_OK;
        if (st != RXT_ENOTFOUND)
            return st;
    } else {
        TRY(store_sweep(store, &w->again, err));
        if (w->again)
            return RXT_OK;
    }
    st = store_session_erase(store, t->r.tenant, t->r.session, err);
    return st == RXT_ENOTFOUND && t->write.erased ? RXT_OK : st;
}

static void erase_done(struct work *w);

static void post_erase(struct task *t)
{
    verb_post(t, run_erase, erase_done, true);
}

static void start_erase(struct task *t)
{
    if (t->bridge->n_export_waits > 0)
        return;
    session_drop(t->session);
    t->bridge->n_erase++;
    post_erase(t);
}

/* Its bytes are still in the log, which a reader keeps from being emptied: an export of ours, that
 * ends by itself, or another program. Others commit between the tries. */
static bool erase_again(struct task *t)
{
    struct bridge *b = t->bridge;
    if (b->n_export > 0) {
        t->waits_export = true;
        t->write.busy_us = 0;
        return true;
    }
    uint64_t now = b->clock();
    if (t->write.busy_us == 0)
        t->write.busy_us = now;
    if (now - t->write.busy_us >= ERASE_BUSY_US)
        return false;
    post_erase(t);
    return true;
}

void erases_go_on(struct bridge *b)
{
    for (struct task *t = b->all; t; t = t->all_next) {
        if (!t->waits_export)
            continue;
        t->waits_export = false;
        post_erase(t);
    }
}

void verbs_look_again(struct bridge *b, enum bridge_verb verb)
{
    for (struct task *t = b->all; t; t = t->all_next)
        if (t->r.verb == verb && !t->work_out)
            bridge_activate(b, t->session);
}

static void erase_done(struct work *w)
{
    struct task *t = w->owner;
    struct session *s = t->session;
    if (w->status == RXT_EBUSY && erase_again(t))
        return;
    if (--t->bridge->n_erase == 0) /* no export began meanwhile */
        verbs_look_again(t->bridge, BRIDGE_EXPORT);
    if (w->status == RXT_OK) {
        s->row = (struct store_session){0};
        s->held = false;
        s->version = 0;
        s->n_last = s->n_last_query = 0;
        memset(s->last_ids, 0, (size_t)t->bridge->max_seq_len * sizeof *s->last_ids);
    }
    verb_finished(w);
}

/* ---- all -------------------------------------------------------------------------------- */

/* Needs the session in, and its conditions to hold. ACCEPTED once it has its place. */
static bool start_turn(struct task *t)
{
    struct session *s = t->session;
    bool forks = t->r.verb == BRIDGE_TURN && t->r.on_busy == BRIDGE_BUSY_FORK;
    if (forks && t->to_fork && !t->forked) {
        verb_post(t, run_busy_fork, busy_fork_done, true);
        return false;
    }
    if (s->phase != SESSION_RESIDENT) {
        if (s->phase == SESSION_COLD)
            schedule_task(t, LIST_BYTES);
        return false;
    }
    if (turn_is_repeat(t) || (forks && !t->to_fork && !t->fork_searched)) {
        t->write.session = s->row;
        turn_repeat(t);
        return false;
    }
    if (t->r.verb == BRIDGE_CHOOSE) {
        task_fail(t, RXT_ENOTFOUND, "no turn of this id waits for a choice");
        return true;
    }
    enum rxt_status st = task_conditions(t);
    if (st != RXT_OK && st != RXT_EBUSY)
        return true;
    bool tell = t->r.verb == BRIDGE_TURN && !t->accepted;
    if (tell)
        event_accepted(t);
    if (st == RXT_OK) {
        schedule_task(t, t->r.verb == BRIDGE_TURN ? LIST_READY : LIST_BYTES);
    } else {
        task_unstage(t);
        deadline_note(t->bridge, deadline_of(t, &(const char *){NULL}));
    }
    return tell;
}

static bool start_get(struct task *t)
{
    struct session *s = t->session;
    if (s->phase == SESSION_COLD)
        schedule_task(t, LIST_BYTES);
    if (s->phase != SESSION_RESIDENT || (!s->held && !remembered(s)))
        return false;
    event_done(t, true);
    task_end(t);
    return true;
}

bool verb_start(struct task *t)
{
    if (t->state == TASK_QUEUED)
        task_move(t, TASK_LOADING);
    switch (t->r.verb) {
    case BRIDGE_OPEN:
        start_open(t);
        break;
    case BRIDGE_GET:
        return start_get(t);
    case BRIDGE_FORK:
        if (settled(t))
            verb_post(t, run_fork, verb_finished, true);
        break;
    case BRIDGE_REWIND:
    case BRIDGE_RESET:
        if (settled(t))
            schedule_task(t, LIST_BYTES);
        break;
    case BRIDGE_ERASE:
        if (settled(t))
            start_erase(t);
        break;
    case BRIDGE_EXPORT:
        if (settled(t))
            export_start(t);
        break;
    case BRIDGE_IMPORT:
        import_start(t);
        break;
    case BRIDGE_DIFF:
        if (settled(t))
            diff_start(t);
        else
            diff_unready(t);
        break;
    case BRIDGE_LIST: /* of no session */
        break;
    case BRIDGE_TURN:
    case BRIDGE_REMEMBER:
    case BRIDGE_CHOOSE:
        if (t->state == TASK_UNDECIDED) { /* chosen */
            schedule_task(t, LIST_BYTES);
            break;
        }
        return start_turn(t);
    }
    return false;
}

/* Brings the session in for its first task. */
static bool stage(struct task *t)
{
    struct bridge *b = t->bridge;
    if (b->n_staged >= b->cfg.max_live || !room_take(t->session, t->n_answer))
        return false;
    schedule_forget(t);
    t->staged = true;
    b->n_staged++;
    session_load(t->session); /* t may be gone */
    return true;
}

bool verb_go(struct task *t)
{
    struct session *s = t->session;
    bool rewinds = t->r.verb == BRIDGE_REWIND || t->r.verb == BRIDGE_RESET;
    if (s->phase == SESSION_LOADING || (s->apply_out && (rewinds || s->phase == SESSION_COLD))) {
        schedule_forget(t); /* looked at again when that is over */
        return true;
    }
    if (s->phase == SESSION_COLD && !rewinds)
        return stage(t);
    if (t->state != TASK_UNDECIDED && !rewinds && t->r.verb != BRIDGE_GET) {
        enum rxt_status st = task_conditions(t); /* they may have changed meanwhile */
        if (st == RXT_EBUSY)
            schedule_forget(t);
        if (st != RXT_OK)
            return true;
    }
    if (t->r.verb == BRIDGE_TURN && t->state != TASK_UNDECIDED)
        return turn_live(t);
    if (!room_take(s, 1))
        return false;
    schedule_forget(t);
    if (rewinds)
        start_rewind(t);
    else if (t->state == TASK_UNDECIDED)
        candidates_choose(t);
    else if (t->r.verb == BRIDGE_GET)
        bridge_activate(t->bridge, s);
    else
        turn_journal(t);
    return true;
}
