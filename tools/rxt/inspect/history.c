#include "tools/rxt/inspect/history.h"

#include "tools/rxt/cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- open ------------------------------------------------------------------------------- */

enum rxt_status history_shape(struct stm_config *out, const struct store_session *x,
                              struct rxt_error *err)
{
    const char *name = x->name[0] ? x->name : x->origin;
    if (x->dtype != DTYPE_F32 && x->dtype != DTYPE_BF16)
        return rxt_fail(err, RXT_ECORRUPT, "session \"%.60s\" has a memory of unknown dtype", name);
    *out = (struct stm_config){.n_layer = (int32_t)x->n_layer,
                               .n_slot = (int32_t)x->n_slot,
                               .embed_dim = (int32_t)x->embed_dim,
                               .dtype = (enum dtype)x->dtype};
    if (x->init > STM_ZEROS || stm_bytes(out) == 0)
        return rxt_fail(err, RXT_ECORRUPT, "session \"%.60s\" has a memory of no shape or origin",
                        name);
    return RXT_OK;
}

static enum rxt_status check_model(const struct history *h, const struct rxt_model *m,
                                   struct rxt_error *err)
{
    const struct rxt_info *info = rxt_model_info(m);
    if (memcmp(info->hash, h->session.model_hash, sizeof info->hash) == 0)
        return RXT_OK;
    return rxt_fail(err, RXT_EMISMATCH,
                    "session \"%.60s\" was made with the model %.60s, not with this %.60s: use "
                    "--model DIR",
                    h->session.name, h->session.model_name, info->name);
}

static enum rxt_status open_engine(struct history *h)
{
    const struct rxt_model *m = h->model;
    struct stm_config cfg = rxt_model_stm(m, h->cfg.dtype);
    TRY(rxt_worker_create(&h->worker, m, &(struct rxt_worker_config){0}));
    TRY(stm_pool_create(&h->pool, rxt_model_backend(m), &cfg, 1));
    return stm_create(&h->memory, rxt_worker_lane(h->worker), &cfg, STM_ZEROS, 0);
}

enum rxt_status history_open(struct history *h, struct store *s, const char *tenant,
                             const char *name, const struct rxt_model *m, struct rxt_error *err)
{
    *h = (struct history){.store = s};
    TRY(store_session_get(s, tenant, name, &h->session, err));
    TRY(history_shape(&h->cfg, &h->session, err));
    h->n_slot = (size_t)h->cfg.n_layer * (size_t)h->cfg.n_slot;
    if (!m)
        return RXT_OK;
    TRY(check_model(h, m, err));
    h->model = m;
    enum rxt_status st = open_engine(h);
    if (st != RXT_OK)
        return rxt_fail(err, st, "no memory to rebuild versions of \"%.60s\": %s", name,
                        rxt_status_text(st));
    return RXT_OK;
}

void history_close(struct history *h)
{
    if (h->model) {
        rxt_slot_destroy(&h->slot);
        rxt_read_destroy(&h->read);
        stm_destroy(&h->other);
        stm_destroy(&h->memory);
        stm_pool_destroy(&h->pool);
        rxt_worker_destroy(&h->worker);
    }
    *h = (struct history){0};
}

enum rxt_status history_row(struct history *h, uint64_t version, struct store_turn *row,
                            int32_t **ids, struct rxt_error *err)
{
    *ids = NULL;
    TRY(store_turn_get(h->store, h->session.id, version, row, err));
    *ids = malloc((row->n_ids + 1) * sizeof **ids);
    if (!*ids)
        return RXT_ENOMEM;
    if (row->n_ids)
        memcpy(*ids, row->ids, row->n_ids * sizeof **ids);
    row->ids = *ids;
    row->query_text = row->answer_text = NULL;
    return RXT_OK;
}

/* ---- one version ------------------------------------------------------------------------ */

/* The path back from a version to something that needs no row. */
struct path {
    uint64_t *absorb; /* versions whose rows are updates, newest first */
    size_t n, cap;
    uint64_t start;           /* version the path ends at */
    struct store_image image; /* of it; else the initial memory */
    bool has_image;
};

static bool push(struct path *p, uint64_t version)
{
    if (p->n == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 64;
        uint64_t *more = realloc(p->absorb, cap * sizeof *more);
        if (!more)
            return false;
        p->absorb = more;
        p->cap = cap;
    }
    p->absorb[p->n++] = version;
    return true;
}

/* The newest image at or below a version whose header can be read; version 0 if there is none. */
static enum rxt_status find_image(const struct history *h, uint64_t version,
                                  struct store_image *out, struct rxt_error *err)
{
    uint64_t newest = h->from_base ? h->session.base : version;
    enum rxt_status st = store_image_find(h->store, h->session.id, newest, out, err);
    if (st != RXT_ENOTFOUND)
        return st;
    *out = (struct store_image){0};
    return RXT_OK;
}

static enum rxt_status find_path(const struct history *h, uint64_t version, struct path *p,
                                 struct rxt_error *err)
{
    struct store_turn row;
    TRY(find_image(h, version, &p->image, err));
    while (version > 0) {
        if (p->image.version == version) {
            p->has_image = true;
            break;
        }
        TRY(store_turn_get(h->store, h->session.id, version, &row, err));
        if (row.kind == STORE_RESET)
            break;
        if (row.kind == STORE_REWIND) {
            if (row.parent >= version)
                return rxt_fail(err, RXT_ECORRUPT,
                                "the rewind at version %" PRIu64 " goes to version %" PRIu64,
                                version, row.parent);
            version = row.parent;
            TRY(find_image(h, version, &p->image, err));
            continue;
        }
        if (!push(p, version))
            return RXT_ENOMEM;
        version--;
    }
    p->start = version;
    return RXT_OK;
}

static enum rxt_status need_model(const struct history *h, uint64_t version, struct rxt_error *err)
{
    if (h->model)
        return RXT_OK;
    return rxt_fail(err, RXT_EUNSUPPORTED,
                    "version %" PRIu64 " has no image: to rebuild it takes the model %.60s",
                    version, h->session.model_name);
}

static enum rxt_status get_image(struct history *h, const struct store_image *image, void *values,
                                 struct rxt_error *err)
{
    if (image->bytes != stm_bytes(&h->cfg))
        return rxt_fail(err, RXT_ECORRUPT, "image of version %" PRIu64 " has %" PRIu64 " bytes",
                        image->version, image->bytes);
    return store_image_get(h->store, h->session.id, image, values, image->bytes, err);
}

static enum rxt_status start(struct history *h, const struct path *p, struct rxt_error *err)
{
    struct lane *ln = rxt_worker_lane(h->worker);
    if (!p->has_image)
        return stm_restart(h->memory, ln, p->start, (enum stm_init)h->session.init,
                           h->session.seed);
    void *values = malloc(p->image.bytes ? p->image.bytes : 1);
    if (!values)
        return RXT_ENOMEM;
    enum rxt_status st = get_image(h, &p->image, values, err);
    if (st == RXT_OK)
        st = stm_import(h->memory, ln, p->start, values, p->image.bytes);
    free(values);
    return st;
}

static enum rxt_status absorb(struct history *h, const struct store_turn *row,
                              struct stm_slot_probe *probe)
{
    const int32_t offset[2] = {0, (int32_t)row->n_ids};
    const struct ragged rows = {.n_seq = 1, .offset = offset};
    struct stm_spare *spare = stm_spare_take(h->pool);
    enum rxt_status st =
        probe ? rxt_probe_update(h->worker, h->memory, spare, row->ids, (int32_t)row->n_ids, probe)
              : rxt_update(h->worker, &h->memory, &spare, &rows, row->ids, NULL);
    if (st == RXT_OK)
        st = stm_commit(h->memory, spare, stm_version(h->memory));
    stm_spare_give(h->pool, &spare);
    return st;
}

static enum rxt_status failed(enum rxt_status st, uint64_t version, struct rxt_error *err)
{
    return rxt_fail(err, st, "version %" PRIu64 " cannot be made again: %s", version,
                    rxt_status_text(st));
}

/* The row's update of h->memory, whatever version that counts itself to be. */
static enum rxt_status absorb_version(struct history *h, uint64_t version,
                                      struct stm_slot_probe *probe, struct rxt_error *err)
{
    struct store_turn row;
    int32_t *ids;
    TRY(history_row(h, version, &row, &ids, err));
    enum rxt_status st = absorb(h, &row, probe);
    free(ids);
    return st == RXT_OK ? st : failed(st, version, err);
}

/* Gives the memory the number of a version; the content stays. */
static enum rxt_status rename_memory(struct history *h, uint64_t version)
{
    size_t bytes = stm_bytes(&h->cfg);
    void *values = malloc(bytes);
    if (!values)
        return RXT_ENOMEM;
    enum rxt_status st = history_memory(h, values);
    if (st == RXT_OK)
        st = stm_import(h->memory, rxt_worker_lane(h->worker), version, values, bytes);
    free(values);
    return st;
}

enum rxt_status history_load(struct history *h, uint64_t version, struct rxt_error *err)
{
    struct path p = {0};
    TRY(need_model(h, version, err));
    if (version < h->session.base || version > h->session.head)
        return rxt_fail(err, RXT_ENOTFOUND,
                        "session \"%.60s\" has the versions %" PRIu64 " to %" PRIu64
                        ", not %" PRIu64,
                        h->session.name, h->session.base, h->session.head, version);
    enum rxt_status st = find_path(h, version, &p, err);
    if (st == RXT_OK) {
        st = start(h, &p, err);
        if (st != RXT_OK && st != RXT_ECORRUPT && st != RXT_EMISMATCH)
            st = failed(st, p.start, err);
    }
    struct progress progress;
    progress_start(&progress, "rebuilding a version");
    for (size_t i = p.n; i-- > 0 && st == RXT_OK;) {
        st = absorb_version(h, p.absorb[i], NULL, err);
        progress_step(&progress, p.n - i, p.n);
    }
    progress_end(&progress);
    if (st == RXT_OK && stm_version(h->memory) != version)
        st = rename_memory(h, version);
    free(p.absorb);
    return st;
}

enum rxt_status history_step(struct history *h, uint64_t version, struct stm_slot_probe *probe,
                             struct rxt_error *err)
{
    struct store_turn row;
    TRY(need_model(h, version, err));
    TRY(store_turn_get(h->store, h->session.id, version, &row, err));
    if (probe)
        memset(probe, 0, h->n_slot * sizeof *probe);
    if (row.kind == STORE_TURN || row.kind == STORE_REMEMBER)
        return absorb_version(h, version, probe, err);
    return history_load(h, version, err);
}

enum rxt_status history_memory(struct history *h, void *values)
{
    size_t layer = stm_bytes(&h->cfg) / (size_t)h->cfg.n_layer;
    for (int32_t i = 0; i < h->cfg.n_layer; i++)
        TRY(lane_download(rxt_worker_lane(h->worker), (char *)values + (size_t)i * layer,
                          stm_read(h->memory, i).data, layer));
    return RXT_OK;
}

enum rxt_status history_values(struct history *h, uint64_t version, void *values,
                               struct rxt_error *err)
{
    struct store_image image;
    TRY(find_image(h, version, &image, err));
    if (version > 0 && image.version == version)
        return get_image(h, &image, values, err);
    TRY(history_load(h, version, err));
    return history_memory(h, values);
}

/* ---- an answer again -------------------------------------------------------------------- */

/* The memory that a row read, as K/V. */
static enum rxt_status read_of(struct history *h, const struct store_turn *row,
                               struct rxt_error *err)
{
    if (!h->read)
        TRY(rxt_read_create(&h->read, h->model));
    if (!h->slot)
        TRY(rxt_slot_create(&h->slot, h->model));
    if (row->read_version == stm_version(h->memory))
        return rxt_read_build(h->read, h->worker, h->memory);
    /* An older version: rebuilt in the place of the memory, which is kept meanwhile. */
    stm_destroy(&h->other);
    TRY(stm_clone(&h->other, rxt_worker_lane(h->worker), h->memory));
    enum rxt_status st = history_load(h, row->read_version, err);
    if (st == RXT_OK)
        st = rxt_read_build(h->read, h->worker, h->memory);
    struct stm *was = h->memory;
    h->memory = h->other;
    h->other = was;
    return st;
}

static enum rxt_status answer_again(struct history *h, const struct store_turn *row, int32_t *wrong)
{
    const struct rxt_info *info = rxt_model_info(h->model);
    int32_t first = 0;
    for (int32_t at = (int32_t)row->n_query; at < (int32_t)row->n_ids; at++) {
        const int32_t offset[2] = {0, at - first};
        struct sampling how = {.temperature = row->temperature,
                               .top_k = (int32_t)row->top_k,
                               .top_p = row->top_p,
                               .seed = row->seed,
                               .turn = row->read_version,
                               .position = at};
        int32_t last = row->ids[at - 1], id = 0;
        if (at == (int32_t)row->n_query && last != info->answer && last != info->think) {
            how.n_choice = 2; /* thinking mode auto: no start token was given (spec 1.5) */
            how.choice[0] = info->think;
            how.choice[1] = info->answer;
        }
        TRY(rxt_forward(h->worker,
                        &(struct rxt_batch){.rows = {.n_seq = 1, .offset = offset, .start = &first},
                                            .ids = row->ids + first,
                                            .slot = &h->slot,
                                            .read = (const struct rxt_read *const[]){h->read}}));
        TRY(rxt_sample(h->worker, &how, 1, &id));
        first = at;
        if (id != row->ids[at]) {
            *wrong = at;
            return RXT_OK;
        }
    }
    return RXT_OK;
}

enum rxt_status history_answer(struct history *h, const struct store_turn *row, int32_t *wrong,
                               struct rxt_error *err)
{
    *wrong = -1;
    if (row->kind != STORE_TURN || row->n_query == 0 || row->n_ids <= row->n_query)
        return RXT_OK;
    TRY(read_of(h, row, err));
    enum rxt_status st = answer_again(h, row, wrong);
    return st == RXT_OK ? st : failed(st, row->version, err);
}
