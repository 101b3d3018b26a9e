/* State 2: a session is brought in. The reader reads its rows and plans a replay; if another
 * session has that memory already it is shared, else the reader reads the image and the lane
 * rebuilds. */
#include "bridge/bridge_impl.h"

#include "kernels/base/log.h"
#include "kernels/base/mem.h"
#include "kernels/base/random.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LOAD_RETRIES 3 /* of a rebuild that failed for a reason that may pass */

/* ---- on the reader's thread ------------------------------------------------------------- */

static void hex(char out[33], const uint8_t hash[16])
{
    for (size_t i = 0; i < 16; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", hash[i]);
}

/* The hash of the model fixes all of it but dtype and init: a row that says otherwise is of an
 * export that somebody has made by hand. */
static enum rxt_status check_shape(const struct store_session *row, const struct rxt_info *info,
                                   struct rxt_error *err)
{
    if (row->n_layer == (uint32_t)info->n_layer && row->n_slot == (uint32_t)info->n_slot &&
        row->embed_dim == (uint32_t)info->embed_dim && row->generator == RANDOM_GENERATOR &&
        (row->dtype == DTYPE_F32 || row->dtype == DTYPE_BF16) && row->init <= STM_ZEROS)
        return RXT_OK;
    return rxt_fail(err, RXT_EMISMATCH,
                    "session \"%.40s\" has a memory of %" PRIu32 " x %" PRIu32 " x %" PRIu32
                    ", dtype %" PRIu32 ", init %" PRIu32 ", generator %" PRIu32
                    ": not one of this model",
                    row->name, row->n_layer, row->n_slot, row->embed_dim, row->dtype, row->init,
                    row->generator);
}

enum rxt_status session_check_model(const struct store_session *row, const struct rxt_info *info,
                                    struct rxt_error *err)
{
    if (memcmp(row->model_hash, info->hash, sizeof info->hash) == 0)
        return check_shape(row, info, err);
    char was[33], is[33];
    hex(was, row->model_hash);
    hex(is, info->hash);
    return rxt_fail(err, RXT_EMISMATCH,
                    "session \"%.40s\" was made with model %.40s (%.8s), this is %.40s (%.8s)",
                    row->name, row->model_name, was, info->name, is);
}

/* The newest row that has ids, for people and for drivers that resume. */
static enum rxt_status read_last_turn(struct load *l, struct store *s, struct rxt_error *err)
{
    l->n_last = l->n_last_query = 0;
    for (uint64_t v = l->row.head; v > l->row.base; v--) {
        struct store_turn row;
        TRY(store_turn_get(s, l->row.id, v, &row, err));
        if (row.n_ids == 0)
            continue;
        l->last_ids = mem_dup(row.ids, row.n_ids * sizeof *row.ids);
        if (!l->last_ids)
            return RXT_ENOMEM;
        l->n_last = (int32_t)row.n_ids;
        l->n_last_query = (int32_t)row.n_query;
        return RXT_OK;
    }
    return RXT_OK;
}

static enum rxt_status read_rows(struct load *l, struct store *s, struct rxt_error *err)
{
    TRY(store_session_get(s, l->tenant, l->name, &l->row, err));
    TRY(session_check_model(&l->row, l->model, err));
    l->row_fits = true;
    TRY(read_last_turn(l, s, err));
    TRY(store_turn_requests(s, l->row.id, l->requests, &l->n_requests, err));
    /* A held session comes in as of its last good version: dry runs and inspection go on. */
    return replay_plan(&l->replay, s, &l->row, store_session_newest(&l->row), l->bit_class, err);
}

static enum rxt_status run_rows(struct work *w, struct store *s, struct rxt_error *err)
{
    struct session *session = w->owner;
    struct load *l = session->load;
    TRY(store_view_begin(s, err));
    enum rxt_status st = read_rows(l, s, err);
    store_view_end(s);
    return st;
}

static enum rxt_status run_values(struct work *w, struct store *s, struct rxt_error *err)
{
    struct session *session = w->owner;
    struct load *l = session->load;
    return replay_read_values(&l->replay, s, l->row.id, err);
}

/* ---- on the engine's -------------------------------------------------------------------- */

void session_load_free(struct session *s)
{
    if (!s->load)
        return;
    replay_free(&s->load->replay);
    mem_free(s->load->last_ids);
    mem_free(s->load);
    s->load = NULL;
}

/* Every request that waits for the session learns why it cannot come in. Damage holds the session:
 * nothing is overwritten, and a rewind to a sound version is the way out. What may pass leaves it
 * as it is; a rewind that is journaled is carried out when it next comes in. */
static void load_failed(struct session *s, enum rxt_status st, const char *sentence)
{
    struct rxt_error why;
    bool row_fits = s->load && s->load->row_fits;
    bool own_damage =
        row_fits && (st == RXT_ECORRUPT || st == RXT_EMISMATCH || st == RXT_ENONFINITE);
    (void)snprintf(why.text, sizeof why.text, "%s", sentence);
    if (row_fits) {
        s->row = s->load->row;
        s->version = s->row.applied;
    }
    session_load_free(s);
    session_drop(s);
    s->n_retry = 0;
    if (own_damage) {
        session_hold(s, st, why.text);
        return;
    }
    while (s->remember) {
        event_failed(s->remember, BRIDGE_MEMORY_FAILED, st, why.text, NULL);
        task_end(s->remember);
    }
    while (s->queue && !s->queue->work_out)
        task_fail(s->queue, st, why.text);
}

/* The row and what people ask of it. */
static void take_rows(struct session *s)
{
    struct load *l = s->load;
    s->row = l->row;
    s->held = (l->row.flags & STORE_HELD) != 0;
    s->n_recent = 0;
    for (size_t i = l->n_requests; i-- > 0;) /* newest first in the rows, newest last here */
        s->recent[s->n_recent++ % STORE_WINDOW] = l->requests[i];
    if (l->n_last > s->bridge->max_seq_len)
        l->n_last = l->n_last_query = 0;
    s->n_last = l->n_last;
    s->n_last_query = l->n_last_query;
    if (l->n_last)
        memcpy(s->last_ids, l->last_ids, (size_t)l->n_last * sizeof *s->last_ids);
    if (l->replay.other_class && !(s->row.flags & STORE_MIXED_CLASS)) {
        s->row.flags |= STORE_MIXED_CLASS;
        s->flags_dirty = true;
        log_event(LOG_WARN, "mixed_class", "\"version\":%" PRIu64, l->replay.target);
    }
    s->job = (struct memory_job){.target = l->replay.target};
}

static void came_in(struct session *s)
{
    s->bridge->n_loaded++;
    s->bridge->n_replayed += (uint64_t)s->load->replay.n_step;
    session_load_free(s);
    s->phase = SESSION_RESIDENT;
    session_took_version(s);
    bridge_activate(s->bridge, s);
}

/* Another session of the tenant stands where this one is to be: nothing has to be made. */
static bool share(struct session *s)
{
    const struct replay *r = &s->load->replay;
    struct bridge *b = s->bridge;
    if (!r->has_image || r->n_step > 0 || r->image.version != r->target)
        return false;
    struct content *c =
        content_find(b, s->tenant, r->image.hash, (enum dtype)s->row.dtype, r->target);
    if (!c)
        return false;
    content_release(b, &s->content);
    c->users++;
    s->content = c;
    memcpy(s->job.hash, c->hash, sizeof s->job.hash);
    came_in(s);
    return true;
}

static void values_done(struct work *w);

static void read_values(struct session *s)
{
    bridge_post_read(s->bridge, &s->load->work, run_values, values_done, s);
}

static void rebuilt(struct memory_job *job)
{
    struct session *s = job->owner;
    struct bridge *b = s->bridge;
    s->job_out = false;
    s->content->stm = job->stm;
    if (job->status != RXT_OK) {
        room_read_release(b, s->next_read);
        s->next_read = NULL;
        if (job->status != RXT_ENONFINITE && !bridge_device_failure(b) &&
            s->n_retry++ < LOAD_RETRIES) {
            log_event(LOG_WARN, "load_retry", "\"status\":\"%s\"", rxt_status_name(job->status));
            read_values(s);
            return;
        }
        load_failed(s, job->status,
                    job->status == RXT_ENONFINITE
                        ? "the memory update gave values that are not finite"
                        : "bringing the session in failed");
        bridge_activate(b, s);
        return;
    }
    came_in(s);
}

static void values_done(struct work *w)
{
    struct session *s = w->owner;
    struct bridge *b = s->bridge;
    enum rxt_status st = w->status;
    if (st != RXT_OK) {
        load_failed(s, st, w->error.text);
        return;
    }
    if (s->content && s->content->users > 1) /* a rewind leaves what it shares */
        content_release(b, &s->content);
    if (s->content)
        content_withdraw(b, s->content);
    else
        st = content_create(&s->content, s);
    if (st == RXT_OK)
        st = room_read_take(b, &s->next_read);
    if (st != RXT_OK) {
        load_failed(s, st, "no memory for one more session");
        return;
    }
    const struct replay *r = &s->load->replay;
    s->job = (struct memory_job){
        .kind = MEMORY_REBUILD,
        .done = rebuilt,
        .owner = s,
        .stm = s->content->stm,
        .dtype = (enum dtype)s->row.dtype,
        .read = s->next_read->read,
        .step = r->step,
        .n_step = r->n_step,
        .target = r->target,
        .values = {r->values},
        .values_bytes = r->values_bytes,
        .init = (enum stm_init)s->row.init,
        .seed = s->row.seed,
    };
    s->job_out = true;
    bridge_post_job(b, &s->job);
}

static void rows_done(struct work *w)
{
    struct session *s = w->owner;
    if (w->status != RXT_OK) {
        load_failed(s, w->status, w->error.text);
        return;
    }
    take_rows(s);
    if (!share(s))
        read_values(s);
}

void session_load(struct session *s)
{
    struct bridge *b = s->bridge;
    if (s->phase == SESSION_LOADING || s->job_out || s->apply_out)
        return;
    assert(s->reserved > 0); /* room was made */
    struct load *l = s->load = mem_alloc(sizeof *l);
    if (!l) {
        load_failed(s, RXT_ENOMEM, "no memory to bring one more session in");
        return;
    }
    s->phase = SESSION_LOADING;
    l->bit_class = backend_bit_class(rxt_model_backend(b->model));
    l->model = rxt_model_info(b->model);
    (void)snprintf(l->tenant, sizeof l->tenant, "%s", s->tenant->name);
    (void)snprintf(l->name, sizeof l->name, "%s", s->name);
    bridge_post_read(b, &l->work, run_rows, rows_done, s);
}
