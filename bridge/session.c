#include "bridge/bridge_impl.h"

#include "kernels/base/log.h"
#include "kernels/base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define UPDATE_RETRIES 3
#define UPDATE_RETRY_US 10000u

/* ---- the table -------------------------------------------------------------------------- */

static size_t bucket_of(const char *tenant, const char *name)
{
    uint32_t h = 2166136261u; /* FNV-1a, the zero between the names included */
    for (const char *p = tenant; *p; p++)
        h = (h ^ (unsigned char)*p) * 16777619u;
    h *= 16777619u;
    for (const char *p = name; *p; p++)
        h = (h ^ (unsigned char)*p) * 16777619u;
    return (h ^ h >> 16) & (BRIDGE_BUCKETS - 1);
}

bool session_peek(struct bridge *b, const char *tenant, const char *name, struct session **out)
{
    for (struct session *s = b->bucket[bucket_of(tenant, name)]; s; s = s->chain)
        if (strcmp(s->tenant->name, tenant) == 0 && strcmp(s->name, name) == 0) {
            *out = s;
            return true;
        }
    return false;
}

enum rxt_status session_find(struct bridge *b, const char *tenant, const char *name,
                             struct session **out)
{
    if (session_peek(b, tenant, name, out))
        return RXT_OK;
    struct session **bucket = &b->bucket[bucket_of(tenant, name)];
    struct tenant *x = NULL;
    struct session *s = mem_alloc(sizeof *s);
    int32_t *last_ids = mem_alloc_n((size_t)b->max_seq_len, sizeof *last_ids);
    if (!s || !last_ids || tenant_find(b, tenant, &x) != RXT_OK) {
        mem_free(last_ids);
        mem_free(s);
        return RXT_ENOMEM;
    }
    x->n_session++;
    s->bridge = b;
    s->tenant = x;
    s->last_ids = last_ids;
    (void)snprintf(s->name, sizeof s->name, "%s", name);
    s->queue_last = &s->queue;
    s->remember_last = &s->remember;
    s->chain = *bucket;
    *bucket = s;
    *out = s;
    return RXT_OK;
}

bool session_forgettable(const struct session *s)
{
    bool unsaid = s->held && s->flags_dirty; /* the store could not be told */
    return s->phase == SESSION_COLD && !s->active && !s->queue && !s->remember && !s->undecided &&
           !s->job_out && !s->apply_out && s->retry_us == 0 && !unsaid;
}

void session_forget(struct session *s)
{
    struct session **at = &s->bridge->bucket[bucket_of(s->tenant->name, s->name)];
    while (*at != s)
        at = &(*at)->chain;
    *at = s->chain;
    session_drop(s);
    schedule_update_forget(s);
    room_rest(s);
    tenant_leave(s->tenant, s->bridge);
    mem_free(s->last_ids);
    mem_free(s);
}

/* Lane and writer have ended: nobody holds what they were lent. */
void session_abandon(struct session *s)
{
    struct bridge *b = s->bridge;
    if (s->job_out && s->job.kind == MEMORY_REBUILD)
        s->content->stm = s->job.stm;
    else if (s->job_out && s->job.source)
        stm_destroy(&s->job.stm);
    if (s->job_out)
        mem_free(s->job.image);
    s->job_out = false;
    if (s->next_read)
        room_read_release(b, s->next_read);
    if (s->apply_out)
        mem_free(s->apply.values);
    mem_free(s->image_values);
    session_load_free(s);
    session_forget(s);
}

size_t session_stm_bytes(const struct session *s)
{
    struct stm_config cfg = rxt_model_stm(s->bridge->model, (enum dtype)s->row.dtype);
    return stm_bytes(&cfg);
}

void session_drop(struct session *s)
{
    assert(!s->job_out);
    room_leave(s);
    content_release(s->bridge, &s->content);
    s->phase = SESSION_COLD;
}

bool session_in_use(const struct session *s)
{
    const struct task *t = s->queue;
    return s->phase == SESSION_LOADING || s->job_out || s->remember ||
           (t && (t->staged || t->state >= TASK_PREFILL));
}

/* ---- 6, 7: the lane --------------------------------------------------------------------- */

static bool can_image(const struct session *s)
{
    return !s->apply_out && !s->image_values && s->bridge->n_image_buffer > 0;
}

/* Whether the next commit should be written as an image: small ones always, large ones when a
 * replay has become dear (design 6). */
static bool image_due(const struct session *s)
{
    return can_image(s) && (session_stm_bytes(s) <= STORE_CHUNK_BYTES ||
                            s->replay_us > s->bridge->cfg.image_budget_us);
}

/* Room was made for two versions of the K/V. A turn that proceeds on an old one while newer ones
 * come holds the second: the update after next waits for its end. */
static bool reads_old(const struct session *s)
{
    const struct task *t = s->queue;
    return t && t->read && t->read != s->content->read;
}

void session_remember(struct session *s)
{
    const struct task *t = s->remember;
    if (!t || s->job_out || s->held || s->retry_us != 0)
        return;
    if (t->r.verb == BRIDGE_REWIND || t->r.verb == BRIDGE_RESET)
        session_load(s); /* its row is journaled: bringing the session in again is the rewind */
    else if (s->phase == SESSION_RESIDENT && !reads_old(s))
        schedule_update(s);
}

static void publish_read(struct session *s)
{
    struct bridge *b = s->bridge;
    if (s->content->read)
        room_read_release(b, s->content->read); /* turns that read it keep it */
    s->content->read = s->next_read;
    s->next_read = NULL;
}

static void update_done(struct memory_job *job)
{
    struct session *s = job->owner;
    struct bridge *b = s->bridge;
    s->job_out = false;
    b->n_update--;
    if (job->status == RXT_OK) {
        fault_point("updated");
        if (job->source) { /* it has a memory of its own now */
            struct content *own = NULL;
            job->status = content_create(&own, s);
            if (job->status == RXT_OK) {
                own->stm = job->stm;
                content_release(b, &s->content);
                s->content = own;
            } else {
                stm_destroy(&job->stm);
            }
        }
    }
    if (job->status == RXT_OK)
        session_took_version(s);
    else
        session_update_failed(s);
    bridge_activate(b, s);
}

void session_update(struct session *s)
{
    struct bridge *b = s->bridge;
    struct task *t = s->remember;
    struct content *c = s->content;
    bool alone = c->users == 1;
    s->job = (struct memory_job){.status = room_read_take(b, &s->next_read)};
    if (s->job.status != RXT_OK) {
        session_update_failed(s);
        return;
    }
    t->step = (struct memory_step){.ids = t->answer[0].ids, .n = t->answer[0].n_ids};
    s->job = (struct memory_job){
        .kind = MEMORY_UPDATE,
        .done = update_done,
        .owner = s,
        .stm = alone ? c->stm : NULL,
        .source = alone ? NULL : c->stm,
        .read = s->next_read->read,
        .step = &t->step,
        .n_step = 1,
        .target = s->version + 1,
    };
    if (alone)
        content_withdraw(b, c);
    if (image_due(s))
        s->job.image = b->image_buffer[--b->n_image_buffer];
    s->job_out = true;
    b->n_update++;
    bridge_post_job(b, &s->job);
}

/* The lane has written the values of this version: the next apply takes them along. */
static void note_image(struct session *s)
{
    struct store_image *image = &s->image;
    s->image_values = s->job.image;
    *image = (struct store_image){
        .version = s->version,
        .dtype = s->row.dtype,
        .n_layer = s->row.n_layer,
        .n_slot = s->row.n_slot,
        .embed_dim = s->row.embed_dim,
        .bytes = session_stm_bytes(s),
    };
    memcpy(image->model_hash, s->row.model_hash, sizeof image->model_hash);
    memcpy(image->hash, s->hash, sizeof image->hash);
    (void)snprintf(image->bit_class, sizeof image->bit_class, "%s",
                   backend_bit_class(rxt_model_backend(s->bridge->model)));
}

static void imaged(struct memory_job *job)
{
    struct session *s = job->owner;
    s->job_out = false;
    if (job->status == RXT_OK)
        note_image(s);
    else
        s->bridge->image_buffer[s->bridge->n_image_buffer++] = job->image;
    job->image = NULL;
    session_apply(s);
    bridge_activate(s->bridge, s);
}

bool session_image(struct session *s, uint64_t worth_us)
{
    struct bridge *b = s->bridge;
    if (s->phase != SESSION_RESIDENT || s->held || s->remember || s->job_out ||
        s->replay_us <= worth_us || s->image_tried == s->version + 1 || !can_image(s))
        return false;
    s->image_tried = s->version + 1; /* if the store does not take it, the journal has it */
    s->job = (struct memory_job){
        .kind = MEMORY_UPDATE,
        .done = imaged,
        .owner = s,
        .stm = s->content->stm,
        .image = b->image_buffer[--b->n_image_buffer],
        .target = s->version,
    };
    s->job_out = true;
    bridge_post_job(b, &s->job);
    return true;
}

void session_took_version(struct session *s)
{
    s->version = s->job.target;
    memcpy(s->hash, s->job.hash, sizeof s->hash);
    if (s->next_read)
        publish_read(s);
    if (!s->content->shareable)
        content_offer(s->bridge, s->content, s->hash);
    if (s->job.n_step > 0)
        s->replay_us += s->job.update_us;
    s->n_retry = 0;
    if (s->job.image)
        note_image(s);
    while (s->remember && s->remember->version <= s->version)
        turn_committed(s->remember);
    session_apply(s);
    session_remember(s);
}

/* The memory is as it was. What is not finite will never be; anything else may pass: it is tried
 * again after 10, 40 and 160 ms, then the session is held. A device that has failed is no matter of
 * the session's. */
void session_update_failed(struct session *s)
{
    struct bridge *b = s->bridge;
    enum rxt_status st = s->job.status;
    if (s->job.image)
        b->image_buffer[b->n_image_buffer++] = s->job.image;
    s->job.image = NULL;
    if (s->next_read)
        room_read_release(b, s->next_read);
    s->next_read = NULL;
    if (s->content && !s->content->shareable)
        content_offer(b, s->content, s->hash);
    if (bridge_device_failure(b)) {
        session_hold(s, RXT_EDEVICE, "the journal has the turn, the next start its memory");
    } else if (st == RXT_ENONFINITE) {
        session_hold(s, st, "the memory update gave values that are not finite");
    } else if (s->n_retry == UPDATE_RETRIES) {
        s->n_retry = 0;
        session_hold(s, st, "the memory update failed again and again");
    } else {
        log_event(LOG_WARN, "update_retry", "\"status\":\"%s\",\"version\":%" PRIu64,
                  rxt_status_name(st), s->version);
        deadline_retry(s, b->clock() + (UPDATE_RETRY_US << 2 * s->n_retry++));
    }
}

enum rxt_status session_held_status(const struct session *s)
{
    return bridge_device_failure(s->bridge) ? RXT_EDEVICE : RXT_EHELD;
}

/* S2: the session stays at its version; what is journaled and not applied waits for repair. */
void session_hold(struct session *s, enum rxt_status st, const char *why)
{
    const char *failure = bridge_device_failure(s->bridge);
    s->held = true;
    (void)snprintf(s->row.held_reason, sizeof s->row.held_reason, "%s (%s)", why,
                   failure ? failure : rxt_status_text(st));
    if (!failure) {
        s->row.flags |= STORE_HELD;
        log_event(LOG_ERROR, "session_held", "\"status\":\"%s\",\"version\":%" PRIu64,
                  rxt_status_name(st), s->version);
    }
    schedule_update_forget(s);
    while (s->remember) {
        event_failed(s->remember, BRIDGE_MEMORY_FAILED, st, s->row.held_reason, NULL);
        task_end(s->remember);
    }
    if (!s->content) {
        session_drop(s);
        while (s->queue && !s->queue->work_out)
            task_fail(s->queue, session_held_status(s), s->row.held_reason);
    }
    s->flags_dirty |= !failure;
    session_apply(s);
}

/* ---- 8: tell the store ------------------------------------------------------------------ */

static enum rxt_status upload_image(struct apply *a, struct work *w, struct store *s,
                                    struct rxt_error *err)
{
    if (!a->uploading) {
        TRY(store_image_begin(s, &a->upload, err));
        a->uploading = true;
        a->written = 0;
    } else if (a->written < a->image.bytes) {
        size_t n = a->image.bytes - a->written;
        if (n > STORE_CHUNK_BYTES)
            n = STORE_CHUNK_BYTES;
        TRY(store_image_chunk(s, &a->upload, (char *)a->values + a->written, n, err));
        a->written += n;
    } else {
        return store_image_commit(s, &a->upload, a->session, &a->image, err);
    }
    w->again = true;
    return RXT_OK;
}

/* A try before this one may have got that far and failed behind it. */
static enum rxt_status apply_row(const struct session *session, uint64_t version, struct store *s,
                                 struct rxt_error *err)
{
    struct store_session row;
    enum rxt_status st = store_turn_applied(s, session->apply.session, version, err);
    if (st != RXT_ESTALE)
        return st;
    TRY(store_session_get(s, session->tenant->name, session->name, &row, NULL));
    return row.applied >= version ? RXT_OK : st;
}

static enum rxt_status run_apply(struct work *w, struct store *s, struct rxt_error *err)
{
    struct session *session = w->owner;
    struct apply *a = &session->apply;
    if (!a->uploading) {
        for (uint64_t v = a->from + 1; v <= a->to; v++)
            TRY(apply_row(session, v, s, err));
        if (a->has_flags)
            TRY(store_session_set_state(s, a->session, a->flags, a->reason, err));
    }
    if (!a->values)
        return RXT_OK;
    TRY(fault_status("image"));
    if (w->alone)
        return upload_image(a, w, s, err);
    return store_image_put(s, a->session, &a->image, a->values, err);
}

static void apply_done(struct work *w)
{
    struct session *s = w->owner;
    struct apply *a = &s->apply;
    struct bridge *b = s->bridge;
    s->apply_out = false;
    if (w->status == RXT_OK) {
        s->row.applied = a->to;
        if (a->values) {
            s->replay_us = 0;
            fault_point("imaged");
        }
    } else {
        /* The journal has the turns: the next apply, or a replay, makes up for it. */
        log_event(LOG_ERROR, "apply_failed", "\"status\":\"%s\"", rxt_status_name(w->status));
        s->flags_dirty |= a->has_flags;
        if (s->queue && s->queue->waits_store)
            task_fail(s->queue, w->status, w->error.text);
    }
    if (a->values)
        b->image_buffer[b->n_image_buffer++] = a->values;
    a->values = NULL;
    if (w->status == RXT_OK)
        session_apply(s);
    session_remember(s); /* a rewind waits until the store knows what is applied */
    bridge_activate(b, s);
}

void session_apply(struct session *s)
{
    struct apply *a = &s->apply;
    if (s->apply_out || s->row.id == 0)
        return;
    bool rows = s->phase == SESSION_RESIDENT && s->row.applied < s->version;
    if (!rows && !s->image_values && !s->flags_dirty)
        return;
    *a = (struct apply){
        .session = s->row.id,
        .from = s->row.applied,
        .to = rows ? s->version : s->row.applied,
        .has_flags = s->flags_dirty,
        .flags = s->row.flags,
        .values = s->image_values,
        .image = s->image,
    };
    (void)snprintf(a->reason, sizeof a->reason, "%s", s->held ? s->row.held_reason : "");
    s->flags_dirty = false;
    s->image_values = NULL;
    s->apply_out = true;
    a->work.alone = a->values && a->image.bytes > STORE_CHUNK_BYTES;
    bridge_post(s->bridge, &a->work, run_apply, apply_done, s);
}
