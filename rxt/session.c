#include "rxt/rxt_impl.h"

#include "kernels/base/mem.h"

#include <string.h>

/* Between two calls the session is in one of two states: n_ids > 0, the ids are the last turn,
 * which may be absorbed; n_ids == 0, there is none. */
struct rxt_session {
    const struct rxt_model *m;
    uint64_t seed;
    enum dtype dtype;
    struct rxt_worker *worker;
    struct stm *memory;
    struct stm_pool *pool; /* of one spare */
    struct rxt_read *read; /* always of the version in memory */
    struct rxt_slot *slot;
    int32_t *ids; /* [max_seq_len] */
    int32_t n_ids;
};

enum rxt_status rxt_session_create(struct rxt_session **out, const struct rxt_model *m,
                                   const struct rxt_session_options *opt, struct rxt_error *err)
{
    enum rxt_status st;
    const struct rxt_session_options none = {0};
    opt = opt ? opt : &none;
    *out = NULL;
    struct rxt_session *s = mem_alloc(sizeof *s);
    if (!s)
        return rxt_fail(err, RXT_ENOMEM, "out of memory for a session");
    s->m = m;
    s->seed = opt->seed;
    s->dtype = opt->stm_dtype;
    struct stm_config cfg = rxt_model_stm(m, s->dtype);
    struct lane *ln;
    TRY_OR(fail, rxt_worker_create(&s->worker, m, &(struct rxt_worker_config){0}));
    ln = rxt_worker_lane(s->worker);
    TRY_OR(fail, stm_create(&s->memory, ln, &cfg, m->info.stm_init, s->seed));
    TRY_OR(fail, stm_pool_create(&s->pool, m->be, &cfg, 1));
    TRY_OR(fail, rxt_read_create(&s->read, m));
    TRY_OR(fail, rxt_slot_create(&s->slot, m));
    s->ids = mem_alloc_n((size_t)m->info.max_seq_len, sizeof *s->ids);
    if (!s->ids) {
        st = RXT_ENOMEM;
        goto fail;
    }
    TRY_OR(fail, rxt_read_build(s->read, s->worker, s->memory));
    *out = s;
    return RXT_OK;
fail:
    rxt_session_destroy(&s);
    return rxt_fail(err, st, "a session of model %s (dtype %s): %s", m->info.name,
                    dtype_name(opt->stm_dtype), rxt_status_text(st));
}

void rxt_session_destroy(struct rxt_session **s)
{
    if (!*s)
        return;
    rxt_slot_destroy(&(*s)->slot);
    rxt_read_destroy(&(*s)->read);
    stm_pool_destroy(&(*s)->pool);
    stm_destroy(&(*s)->memory);
    rxt_worker_destroy(&(*s)->worker);
    mem_free((*s)->ids);
    mem_free(*s);
    *s = NULL;
}

/* ---- answer ----------------------------------------------------------------------------- */

/* The turn being answered. */
struct turn {
    struct rxt_session *s;
    struct sampling how;
    rxt_on_token on_token;
    void *user;
    struct rxt_text text;
    bool choose_start; /* thinking mode auto: the first token is [A] or [T] (spec 1.5) */
};

/* Runs the rows [first, n_ids) and draws the token behind them. */
static enum rxt_status next_token(struct turn *t, int32_t first, int32_t *id)
{
    struct rxt_session *s = t->s;
    const int32_t offset[2] = {0, s->n_ids - first};
    const struct rxt_batch batch = {.rows = {.n_seq = 1, .offset = offset, .start = &first},
                                    .ids = s->ids + first,
                                    .slot = &s->slot,
                                    .read = (const struct rxt_read *const[]){s->read}};
    TRY(rxt_forward(s->worker, &batch));
    struct sampling how = t->how;
    how.position = s->n_ids;
    if (t->choose_start) {
        how.n_choice = 2;
        how.choice[0] = s->m->info.answer;
        how.choice[1] = s->m->info.think;
        t->choose_start = false;
    }
    return rxt_sample(s->worker, &how, 1, id);
}

/* Hands a token to the caller; false: the turn is cancelled. */
static bool deliver(struct turn *t, int32_t id)
{
    char piece[RXT_PIECE_MAX];
    if (!t->on_token)
        return true;
    return t->on_token(t->user, id, piece, rxt_decode(t->s->m, &t->text, id, piece));
}

static bool deliver_end(struct turn *t)
{
    char piece[RXT_PIECE_MAX];
    size_t n = t->on_token ? rxt_decode_end(&t->text, piece) : 0;
    return n == 0 || t->on_token(t->user, -1, piece, n);
}

/* Decodes until [EOS] or the limit. Source: spec 1.2 step 4. */
static enum rxt_status answer(struct turn *t, enum rxt_finish *finish)
{
    struct rxt_session *s = t->s;
    int32_t first = 0;
    enum rxt_finish how = RXT_FINISH_LENGTH;
    while (s->n_ids < s->m->info.max_seq_len) {
        int32_t id;
        TRY(next_token(t, first, &id));
        first = s->n_ids;
        s->ids[s->n_ids++] = id;
        if (!deliver(t, id))
            return RXT_ECANCELLED;
        if (id == s->m->info.eos) {
            how = RXT_FINISH_EOS;
            break;
        }
    }
    if (!deliver_end(t))
        return RXT_ECANCELLED;
    *finish = how;
    return RXT_OK;
}

enum rxt_status rxt_session_turn(struct rxt_session *s, const struct rxt_prompt *p,
                                 const struct sampling *how, rxt_on_token on_token, void *user,
                                 struct rxt_answer *out, struct rxt_error *err)
{
    size_t n_query;
    struct turn t = {.s = s, .how = *how, .on_token = on_token, .user = user};
    struct rxt_answer none;
    out = out ? out : &none;
    *out = (struct rxt_answer){.ids = s->ids, .finish = RXT_FINISH_CANCEL};
    s->n_ids = 0;
    TRY(rxt_sampling_check(how, err));
    TRY(rxt_prompt_ids(s->m, p, s->ids, (size_t)s->m->info.max_seq_len, &n_query, err));
    if (t.how.seed == 0)
        t.how.seed = s->seed;
    t.how.turn = stm_version(s->memory);
    t.how.n_choice = 0;
    t.choose_start = p->thinking == RXT_AUTO;
    s->n_ids = (int32_t)n_query;
    enum rxt_status st = answer(&t, &out->finish);
    if (st != RXT_OK) {
        s->n_ids = 0;
        return rxt_fail(err, st, "the turn was not answered: %s", rxt_status_text(st));
    }
    out->n_query = (int32_t)n_query;
    out->n_answer = s->n_ids - out->n_query;
    return RXT_OK;
}

/* ---- remember --------------------------------------------------------------------------- */

static enum rxt_status remember(struct rxt_session *s, const int32_t *ids, int32_t n)
{
    const int32_t offset[2] = {0, n};
    const struct ragged rows = {.n_seq = 1, .offset = offset};
    struct stm_spare *spare = stm_spare_take(s->pool);
    enum rxt_status st = rxt_update(s->worker, &s->memory, &spare, &rows, ids, NULL);
    if (st == RXT_OK)
        st = stm_commit(s->memory, spare, stm_version(s->memory));
    stm_spare_give(s->pool, &spare);
    if (st == RXT_OK)
        st = rxt_read_build(s->read, s->worker, s->memory);
    return st;
}

enum rxt_status rxt_session_absorb(struct rxt_session *s, const int32_t *ids, size_t n,
                                   struct rxt_error *err)
{
    const struct rxt_info *info = &s->m->info;
    if (n == 0)
        return rxt_fail(err, RXT_EINVAL, "there is no turn to remember");
    if (n > (size_t)info->max_seq_len)
        return rxt_fail(err, RXT_ELIMIT, "the turn has %zu tokens; the limit is %d", n,
                        info->max_seq_len);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= info->n_vocab)
            return rxt_fail(err, RXT_EINVAL, "id %d at %zu is outside the vocabulary of %d", ids[i],
                            i, info->n_vocab);
    enum rxt_status st = remember(s, ids, (int32_t)n);
    if (st != RXT_OK)
        return rxt_fail(err, st, "the turn was not remembered: %s", rxt_status_text(st));
    s->n_ids = 0;
    return RXT_OK;
}

enum rxt_status rxt_session_update(struct rxt_session *s, struct rxt_error *err)
{
    return rxt_session_absorb(s, s->ids, (size_t)s->n_ids, err);
}

/* ---- memory ----------------------------------------------------------------------------- */

const struct stm *rxt_session_memory(const struct rxt_session *s)
{
    return s->memory;
}

struct lane *rxt_session_lane(struct rxt_session *s)
{
    return rxt_worker_lane(s->worker);
}

size_t rxt_session_image_bytes(const struct rxt_session *s)
{
    return stm_image_bytes(stm_config_of(s->memory));
}

enum rxt_status rxt_session_export(struct rxt_session *s, void *image, size_t size,
                                   struct rxt_error *err)
{
    struct stm_image_info info = {0};
    strncpy(info.bit_class, backend_bit_class(s->m->be), sizeof info.bit_class - 1);
    memcpy(info.model_hash, s->m->info.hash, sizeof info.model_hash);
    enum rxt_status st = stm_export(s->memory, rxt_session_lane(s), &info, image, size);
    if (st != RXT_OK)
        return rxt_fail(err, st, "the memory was not exported: %s", rxt_status_text(st));
    return RXT_OK;
}

enum rxt_status rxt_session_import(struct rxt_session *s, const void *image, size_t size,
                                   struct rxt_error *err)
{
    struct stm_image_info got, want;
    const void *values;
    size_t bytes;
    const struct stm_config *cfg = stm_config_of(s->memory);
    TRY(stm_image_parse(image, size, &got, &values, &bytes, err));
    want = got; /* a session of this level has no tenant and no name to insist on */
    memcpy(want.model_hash, s->m->info.hash, sizeof want.model_hash);
    want.n_layer = cfg->n_layer;
    want.n_slot = cfg->n_slot;
    want.embed_dim = cfg->embed_dim;
    want.dtype = cfg->dtype;
    TRY(stm_image_expect(&got, &want, err));
    s->n_ids = 0;
    enum rxt_status st = stm_import(s->memory, rxt_session_lane(s), got.version, values, bytes);
    if (st == RXT_OK)
        st = rxt_read_build(s->read, s->worker, s->memory);
    if (st != RXT_OK)
        return rxt_fail(err, st, "the memory was not imported: %s", rxt_status_text(st));
    return RXT_OK;
}
