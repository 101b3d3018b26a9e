#include "rxt/rxt_impl.h"

#include "kernels/base/mem.h"
#include "rxt/tokenizer_impl.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct kv_config model_kv_config(const struct rxt_model *m)
{
    const struct config_stack *d = &m->cfg->decoder;
    return (struct kv_config){config_n_layer(d), d->self.n_kv, d->self.dim, m->info.max_seq_len};
}

struct mem_kv_config model_mem_kv_config(const struct rxt_model *m)
{
    const struct config_stack *d = &m->cfg->decoder;
    return (struct mem_kv_config){d->n_layer, d->cross.n_kv, d->cross.dim, d->n_slot};
}

struct stm_config rxt_model_stm(const struct rxt_model *m, enum dtype dtype)
{
    return (struct stm_config){.n_layer = m->info.n_layer,
                               .n_slot = m->info.n_slot,
                               .embed_dim = m->info.embed_dim,
                               .dtype = dtype,
                               .stored = m->ck->memory.stored,
                               .stored_dtype = m->ck->memory.stored_dtype};
}

const struct rxt_info *rxt_model_info(const struct rxt_model *m)
{
    return &m->info;
}

struct backend *rxt_model_backend(const struct rxt_model *m)
{
    return m->be;
}

/* ---- open ------------------------------------------------------------------------------- */

/* A runtime needs all three components; a file of one of them is for other tools. */
static enum rxt_status require_whole(const struct rxt_model *m, struct rxt_error *err)
{
    const struct rxt_config *c = m->cfg;
    if (!c->single)
        return RXT_OK;
    return rxt_fail(err, RXT_EUNSUPPORTED,
                    "model %s is a single component (%s%s%s); answering needs decoder, encoder and "
                    "memory attention in one folder",
                    m->info.name, c->has_decoder ? "decoder" : "", c->has_encoder ? "encoder" : "",
                    c->has_memory ? "memory attention" : "");
}

static enum rxt_status choose_limit(struct rxt_model *m, int32_t wish, struct rxt_error *err)
{
    if (wish < 0 || (wish > 0 && wish <= RXT_ANSWER_MIN) || wish > CONFIG_MAX_SEQ)
        return rxt_fail(err, RXT_EINVAL,
                        "max_seq_len must be more than the %d tokens kept for an answer and at "
                        "most %d: got %d",
                        RXT_ANSWER_MIN, CONFIG_MAX_SEQ, wish);
    m->info.max_seq_len = wish ? wish : m->cfg->max_seq_len;
    return RXT_OK;
}

static enum rxt_status choose_storage(const char *wish, enum dtype of_file, enum dtype *out,
                                      struct rxt_error *err)
{
    *out = of_file == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    if (!wish)
        return RXT_OK;
    if (!strcmp(wish, "f32"))
        *out = DTYPE_F32;
    else if (!strcmp(wish, "bf16"))
        *out = DTYPE_BF16;
    else
        return rxt_fail(err, RXT_EINVAL, "dtype must be f32 or bf16: got \"%.20s\"", wish);
    return RXT_OK;
}

static void fill_info(struct rxt_model *m, enum dtype storage)
{
    const struct rxt_config *c = m->cfg;
    struct rxt_info *i = &m->info;
    struct kv_config kv;
    struct mem_kv_config mem;
    struct stm_config stm;
    i->n_layer = c->decoder.n_layer;
    i->n_slot = c->decoder.n_slot;
    i->embed_dim = c->decoder.embed_dim;
    i->n_vocab = c->decoder.n_vocab;
    i->n_param_decoder = m->ck->count.decoder;
    i->n_param_encoder = m->ck->count.encoder;
    i->n_param_memory = m->ck->count.memory;
    i->storage = storage;
    i->stm_init = c->stm_init;
    i->has_tokenizer = m->tokenizer;
    i->has_thinking = c->tokens.think >= 0;
    i->has_tool = c->tokens.tool_use >= 0 && c->tokens.tool_call >= 0;
    i->has_internal = c->tokens.internal >= 0;
    i->eos = c->tokens.eos;
    i->answer = c->tokens.answer;
    i->think = c->tokens.think;
    kv = model_kv_config(m);
    mem = model_mem_kv_config(m);
    stm = rxt_model_stm(m, DTYPE_F32);
    i->weight_bytes = weights_bytes(&m->w);
    i->stm_bytes = stm_bytes(&stm);
    i->read_bytes = mem_kv_plan(m->be, &mem);
    i->slot_bytes = kv_plan(m->be, &kv);
}

/* Backend and weights of m->ck. */
static enum rxt_status build(struct rxt_model *m, const struct rxt_model_options *opt,
                             struct rxt_error *err)
{
    enum dtype storage;
    m->cfg = &m->ck->config;
    TRY(require_whole(m, err));
    TRY(choose_limit(m, opt->max_seq_len, err));
    TRY(choose_storage(opt->dtype, m->ck->dtype, &storage, err));
    const struct backend_config be = {
        .name = opt->backend, .n_thread = opt->n_thread, .dtype = storage};
    TRY(backend_create(&m->be, &be, err));
    TRY(weights_create(&m->w, m->be, m->ck, storage, m->info.max_seq_len, err));
    fill_info(m, storage);
    return RXT_OK;
}

/* The ids of the template are special whatever the tokenizer's file says of them. */
static enum rxt_status mark_special(struct rxt_model *m, struct rxt_error *err)
{
    const struct config_tokens *t = &m->cfg->tokens;
    const int32_t ids[] = {t->pad,   t->bos,       t->eos,      t->query,   t->answer,
                           t->think, t->tool_call, t->tool_use, t->internal};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i] >= 0)
            TRY(tokenizer_mark_special(m->tokenizer, ids[i], err));
    return RXT_OK;
}

/* An id that text can yield must have a row in the embedding. Special ones beyond it (spec 4: [CLS]
 * and [SEP] of some files) are never yielded. */
static enum rxt_status check_vocabulary(const struct rxt_model *m, struct rxt_error *err)
{
    for (int32_t id = m->cfg->decoder.n_vocab; id < tokenizer_n_id(m->tokenizer); id++)
        if (tokenizer_token(m->tokenizer, id) && !tokenizer_is_special(m->tokenizer, id))
            return rxt_fail(err, RXT_EMISMATCH,
                            "tokenizer.json has a token with id %d, the model a vocabulary of %d: "
                            "the two do not belong together",
                            id, m->cfg->decoder.n_vocab);
    return RXT_OK;
}

static enum rxt_status open_tokenizer(struct rxt_model *m, const char *dir, struct rxt_error *err)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/tokenizer.json", dir) >= (int)sizeof path)
        return rxt_fail(err, RXT_EINVAL, "the path of the model is too long");
    if (access(path, F_OK) != 0)
        return RXT_OK;
    TRY(tokenizer_open(&m->tokenizer, path, err));
    TRY(check_vocabulary(m, err));
    return mark_special(m, err);
}

/* The last part of a path, without slashes behind it. */
static void name_of(char name[64], const char *dir)
{
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    size_t first = n;
    while (first > 0 && dir[first - 1] != '/')
        first--;
    (void)snprintf(name, 64, "%.*s", (int)(n - first < 63 ? n - first : 63), dir + first);
}

enum rxt_status rxt_model_open(struct rxt_model **out, const char *dir,
                               const struct rxt_model_options *opt, struct rxt_error *err)
{
    enum rxt_status st;
    const struct rxt_model_options none = {0};
    *out = NULL;
    struct rxt_model *m = mem_alloc(sizeof *m);
    if (!m)
        return rxt_fail(err, RXT_ENOMEM, "out of memory for model %s", dir);
    name_of(m->info.name, dir);
    TRY_OR(fail, checkpoint_open(&m->ck, dir, err));
    TRY_OR(fail, build(m, opt ? opt : &none, err));
    TRY_OR(fail, open_tokenizer(m, dir, err));
    m->info.has_tokenizer = m->tokenizer;
    TRY_OR(fail, checkpoint_hash(m->ck, dir, m->info.hash, err));
    *out = m;
    return RXT_OK;
fail:
    rxt_model_close(&m);
    return st;
}

enum rxt_status rxt_model_random(struct rxt_model **out, const char *shape, uint64_t seed,
                                 const struct rxt_model_options *opt, struct rxt_error *err)
{
    enum rxt_status st;
    const struct rxt_model_options none = {0};
    struct rxt_config cfg;
    *out = NULL;
    TRY(config_named(&cfg, shape, err));
    struct rxt_model *m = mem_alloc(sizeof *m);
    if (!m)
        return rxt_fail(err, RXT_ENOMEM, "out of memory for model %s", shape);
    name_of(m->info.name, shape);
    TRY_OR(fail, checkpoint_random(&m->ck, &cfg, seed, err));
    TRY_OR(fail, build(m, opt ? opt : &none, err));
    *out = m;
    return RXT_OK;
fail:
    rxt_model_close(&m);
    return st;
}

void rxt_model_close(struct rxt_model **m)
{
    if (!*m)
        return;
    tokenizer_destroy(&(*m)->tokenizer);
    if ((*m)->be)
        weights_destroy(&(*m)->w, (*m)->be);
    backend_destroy(&(*m)->be);
    checkpoint_close(&(*m)->ck);
    mem_free(*m);
    *m = NULL;
}
