#include "bridge/bridge_impl.h"

#include "kernels/base/log.h"
#include "kernels/base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

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
        if (strcmp(s->tenant, tenant) == 0 && strcmp(s->name, name) == 0) {
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
    struct session *s = mem_alloc(sizeof *s);
    if (!s)
        return RXT_ENOMEM;
    s->last_ids = mem_alloc_n((size_t)b->max_seq_len, sizeof *s->last_ids);
    if (!s->last_ids) {
        mem_free(s);
        return RXT_ENOMEM;
    }
    s->bridge = b;
    (void)snprintf(s->tenant, sizeof s->tenant, "%s", tenant);
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
    return s->phase == SESSION_COLD && !s->active && !s->queue && !s->remember && !s->job_out &&
           !s->apply_out;
}

void session_forget(struct session *s)
{
    struct session **at = &s->bridge->bucket[bucket_of(s->tenant, s->name)];
    while (*at != s)
        at = &(*at)->chain;
    *at = s->chain;
    session_drop(s);
    mem_free(s->last_ids);
    mem_free(s);
}

/* ---- K/V of versions -------------------------------------------------------------------- */

static enum rxt_status take_read(struct bridge *b, struct shared_read **out)
{
    struct shared_read *r = b->free_read;
    if (r) {
        b->free_read = r->next;
    } else {
        r = mem_alloc(sizeof *r);
        if (!r)
            return RXT_ENOMEM;
        enum rxt_status st = rxt_read_create(&r->read, b->model);
        if (st != RXT_OK) {
            mem_free(r);
            return st;
        }
        b->resident_bytes += rxt_model_info(b->model)->read_bytes;
    }
    r->users = 1;
    *out = r;
    return RXT_OK;
}

void shared_read_release(struct bridge *b, struct shared_read *r)
{
    if (--r->users > 0)
        return;
    r->next = b->free_read;
    b->free_read = r;
}

/* The lane's K/V become the head's; turns that read the old ones keep them. */
static void publish_read(struct session *s)
{
    if (s->read)
        shared_read_release(s->bridge, s->read);
    s->read = s->next_read;
    s->next_read = NULL;
}

/* ---- in and out ------------------------------------------------------------------------- */

static size_t memory_bytes(const struct session *s)
{
    struct stm_config cfg = rxt_model_stm(s->bridge->model, (enum dtype)s->row.dtype);
    return stm_bytes(&cfg);
}

void session_drop(struct session *s)
{
    assert(!s->job_out);
    s->bridge->resident_bytes -= s->counted_bytes;
    s->counted_bytes = 0;
    stm_destroy(&s->stm);
    if (s->read)
        shared_read_release(s->bridge, s->read);
    s->read = NULL;
    s->phase = SESSION_COLD;
}

static bool droppable(const struct session *s)
{
    return s->phase == SESSION_RESIDENT && !s->active && !s->queue && !s->remember && !s->job_out &&
           !s->apply_out && s->row.applied == s->version;
}

/* Drops sessions that nobody uses, the longest unused first, until the limit is kept. */
void session_evict(struct bridge *b, struct session *but)
{
    while (b->resident_bytes > b->cfg.max_bytes) {
        struct session *oldest = NULL;
        for (size_t i = 0; i < BRIDGE_BUCKETS; i++)
            for (struct session *s = b->bucket[i]; s; s = s->chain)
                if (s != but && droppable(s) && (!oldest || s->used < oldest->used))
                    oldest = s;
        if (!oldest)
            return;
        session_forget(oldest);
        while (b->free_read) {
            struct shared_read *r = b->free_read;
            b->free_read = r->next;
            rxt_read_destroy(&r->read);
            mem_free(r);
            b->resident_bytes -= rxt_model_info(b->model)->read_bytes;
        }
    }
}

static void came_back(struct memory_job *job);

/* ---- 2: bring in ------------------------------------------------------------------------ */

static void hex(char out[33], const uint8_t hash[16])
{
    for (int i = 0; i < 16; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", hash[i]);
}

static enum rxt_status check_model(const struct load *l, struct rxt_error *err)
{
    if (memcmp(l->row.model_hash, l->model_hash, sizeof l->model_hash) == 0)
        return RXT_OK;
    char was[33], is[33];
    hex(was, l->row.model_hash);
    hex(is, l->model_hash);
    return rxt_fail(err, RXT_EMISMATCH,
                    "session \"%.40s\" was made with model %.40s (%.8s), this is %.40s (%.8s)",
                    l->name, l->row.model_name, was, l->model_name, is);
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
    TRY(check_model(l, err));
    l->row_fits = true;
    TRY(read_last_turn(l, s, err));
    TRY(store_turn_requests(s, l->row.id, l->requests, &l->n_requests, err));
    /* A held session comes in as of its last good version: dry runs and inspection go on. */
    uint64_t target = l->row.flags & STORE_HELD ? l->row.applied : l->row.head;
    return replay_plan(&l->replay, s, &l->row, target, l->bit_class, err);
}

static enum rxt_status run_load(struct work *w, struct store *s, struct rxt_error *err)
{
    struct session *session = w->owner;
    struct load *l = &session->load;
    TRY(store_view_begin(s, err));
    enum rxt_status st = read_rows(l, s, err);
    store_view_end(s);
    return st;
}

static void free_load(struct load *l)
{
    replay_free(&l->replay);
    mem_free(l->last_ids);
    l->last_ids = NULL;
}

/* Every request that waits for the session learns why it cannot come in. Damage holds the session:
 * nothing is overwritten, and a rewind to a sound version is the way out. */
static void load_failed(struct session *s, enum rxt_status st, const char *sentence)
{
    struct rxt_error why;
    struct load *l = &s->load;
    (void)snprintf(why.text, sizeof why.text, "%s", sentence);
    bool own_damage = l->row_fits && (st == RXT_ECORRUPT || st == RXT_EMISMATCH);
    if (l->row_fits)
        s->row = l->row;
    free_load(l);
    session_drop(s);
    if (own_damage || s->remember) {
        session_hold(s, st, why.text);
        return;
    }
    while (s->queue && !s->queue->work_out)
        turn_fail(s->queue, st, why.text);
}

static void load_done(struct work *w)
{
    struct session *s = w->owner;
    struct load *l = &s->load;
    struct bridge *b = s->bridge;
    if (w->status != RXT_OK) {
        load_failed(s, w->status, w->error.text);
        return;
    }
    s->row = l->row;
    s->held = (l->row.flags & STORE_HELD) != 0;
    s->n_recent = 0;
    for (size_t i = l->n_requests; i-- > 0;) /* newest first in the rows, newest last here */
        s->recent[s->n_recent++ % STORE_WINDOW] = l->requests[i];
    if (l->n_last > b->max_seq_len)
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
    if (s->counted_bytes == 0)
        b->resident_bytes += s->counted_bytes = memory_bytes(s);
    session_evict(b, s);
    enum rxt_status st = take_read(b, &s->next_read);
    if (st != RXT_OK) {
        load_failed(s, st, "no memory for the K/V of one more session");
        return;
    }
    s->job = (struct memory_job){
        .kind = MEMORY_REBUILD,
        .done = came_back,
        .owner = s,
        .stm = s->stm,
        .dtype = (enum dtype)s->row.dtype,
        .read = s->next_read->read,
        .step = l->replay.step,
        .n_step = l->replay.n_step,
        .target = l->replay.target,
        .values = {l->replay.values},
        .values_bytes = l->replay.values_bytes,
        .init = (enum stm_init)s->row.init,
        .seed = s->row.seed,
    };
    s->job_out = true;
    b->n_pending++;
    memory_lane_post(b->lane, &s->job);
}

void session_load(struct session *s)
{
    struct bridge *b = s->bridge;
    if (s->phase == SESSION_LOADING || s->job_out || s->apply_out)
        return;
    const struct rxt_info *info = rxt_model_info(b->model);
    struct load *l = &s->load;
    s->phase = SESSION_LOADING;
    *l = (struct load){
        .bit_class = backend_bit_class(rxt_model_backend(b->model)),
        .model_name = info->name,
    };
    memcpy(l->model_hash, info->hash, sizeof l->model_hash);
    (void)snprintf(l->tenant, sizeof l->tenant, "%s", s->tenant);
    (void)snprintf(l->name, sizeof l->name, "%s", s->name);
    l->work.alone = true;
    bridge_post(b, &l->work, run_load, load_done, s);
}

/* ---- 6, 7: the lane --------------------------------------------------------------------- */

/* Whether the next commit should be written as an image: small ones always, large ones when a
 * replay has become dear (design 6). */
static bool image_due(const struct session *s)
{
    const struct bridge *b = s->bridge;
    if (s->apply_out || s->image_values || b->n_image_buffer == 0)
        return false;
    return memory_bytes(s) <= STORE_CHUNK_BYTES || s->replay_us > b->cfg.image_budget_us;
}

void session_remember(struct session *s)
{
    struct bridge *b = s->bridge;
    struct task *t = s->remember;
    if (!t || s->job_out || s->held)
        return;
    if (t->r.verb == BRIDGE_REWIND || t->r.verb == BRIDGE_RESET) {
        session_load(s); /* its row is journaled: bringing the session in again is the rewind */
        return;
    }
    if (s->phase != SESSION_RESIDENT)
        return;
    enum rxt_status st = take_read(b, &s->next_read);
    if (st != RXT_OK) {
        session_hold(s, st, "no memory for the K/V of the next version");
        return;
    }
    t->step = (struct memory_step){.ids = t->ids, .n = t->n_ids};
    s->job = (struct memory_job){
        .kind = MEMORY_UPDATE,
        .done = came_back,
        .owner = s,
        .stm = s->stm,
        .read = s->next_read->read,
        .step = &t->step,
        .n_step = 1,
        .target = s->version + 1,
    };
    if (image_due(s))
        s->job.image = b->image_buffer[--b->n_image_buffer];
    s->job_out = true;
    b->n_pending++;
    memory_lane_post(b->lane, &s->job);
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
        .bytes = memory_bytes(s),
    };
    memcpy(image->model_hash, s->row.model_hash, sizeof image->model_hash);
    memcpy(image->hash, s->hash, sizeof image->hash);
    (void)snprintf(image->bit_class, sizeof image->bit_class, "%s",
                   backend_bit_class(rxt_model_backend(s->bridge->model)));
}

/* What was made is the head: readers may have it, the store hears of it. */
static void take_version(struct session *s)
{
    s->version = s->job.target;
    memcpy(s->hash, s->job.hash, sizeof s->hash);
    publish_read(s);
    s->replay_us += s->job.update_us;
    if (s->job.image)
        note_image(s);
    while (s->remember && s->remember->version <= s->version)
        turn_committed(s->remember);
}

static void came_back(struct memory_job *job)
{
    struct session *s = job->owner;
    struct bridge *b = s->bridge;
    s->job_out = false;
    s->stm = job->stm;
    if (job->kind == MEMORY_REBUILD) {
        free_load(&s->load);
        s->phase = SESSION_RESIDENT;
    }
    if (job->status == RXT_OK) {
        fault_point("updated");
        take_version(s);
        session_apply(s);
        session_remember(s);
    } else {
        if (job->image)
            b->image_buffer[b->n_image_buffer++] = job->image;
        shared_read_release(b, s->next_read);
        s->next_read = NULL;
        if (job->kind == MEMORY_REBUILD)
            session_drop(s); /* half rebuilt: of no use to anybody */
        session_hold(s, job->status,
                     job->status == RXT_ENONFINITE
                         ? "the memory update gave values that are not finite"
                         : "the memory update failed");
    }
    bridge_activate(b, s);
}

/* S2: the session stays at its version; what is journaled and not applied waits for repair. */
void session_hold(struct session *s, enum rxt_status st, const char *why)
{
    s->held = true;
    s->row.flags |= STORE_HELD;
    (void)snprintf(s->row.held_reason, sizeof s->row.held_reason, "%s (%s)", why,
                   rxt_status_text(st));
    log_event(LOG_ERROR, "session_held", "\"status\":\"%s\",\"version\":%" PRIu64,
              rxt_status_name(st), s->version);
    while (s->remember) {
        event_failed(s->remember, BRIDGE_MEMORY_FAILED, st, s->row.held_reason);
        task_end(s->remember);
    }
    if (!s->read) {
        session_drop(s);
        while (s->queue && !s->queue->work_out)
            turn_fail(s->queue, RXT_EHELD, s->row.held_reason);
    }
    s->flags_dirty = true;
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

static enum rxt_status run_apply(struct work *w, struct store *s, struct rxt_error *err)
{
    struct session *session = w->owner;
    struct apply *a = &session->apply;
    if (!a->uploading) {
        for (uint64_t v = a->from; v < a->to; v++)
            TRY(store_turn_applied(s, a->session, v + 1, err));
        if (a->has_flags)
            TRY(store_session_set_state(s, a->session, a->flags, a->reason, err));
    }
    if (!a->values)
        return RXT_OK;
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
