#include "rxt/checkpoint_impl.h"

#include "kernels/base/bf16.h"
#include "kernels/base/mem.h"
#include "kernels/base/random.h"
#include "rxt/checkpoint_bind_impl.h"

#include <string.h>

/* Prefixes of tensor names, by component. */
static const char *decoder_prefix(const struct rxt_config *c)
{
    return c->single ? "model." : "decoder.model.";
}

static const char *encoder_prefix(const struct rxt_config *c)
{
    return c->single ? "model." : "encoder.model.";
}

static const char *memory_prefix(const struct rxt_config *c)
{
    return c->single ? "model." : "memory_attention.model.";
}

/* ---- what only the tensors tell --------------------------------------------------------- */

static enum rxt_status resolve_variant(struct bind *b, struct config_memory *m, const char *prefix)
{
    if (m->has_variant)
        return RXT_OK;
    m->has_variant = true;
    if (bind_has_prefix(b, bind_join(prefix, "self_attention_layers.").text))
        m->variant = STM_SELF;
    else if (bind_has_prefix(b, bind_join(prefix, "interlayer_gate_layers.").text))
        m->variant = STM_SELF_INTERLAYER;
    else if (!bind_has_prefix(b, bind_join(prefix, "mean_attention_layers.").text))
        m->variant = STM_SIMPLE;
    else if (m->gate.kind != GATE_ADD && m->gate.kind != GATE_REPLACE)
        m->variant = STM_INTERLAYER;
    else
        return rxt_fail(b->err, RXT_EINVAL,
                        "config.json: memory_attention_variant is missing, and without gates the "
                        "tensors do not tell interlayer from self-interlayer");
    bool has_heads = m->variant == STM_SELF             ? m->self.n_q > 0
                     : stm_variant_has_mean(m->variant) ? m->mean.n_q > 0
                                                        : true;
    if (!has_heads)
        return rxt_fail(b->err, RXT_EFORMAT, "config.json: %s is missing",
                        m->variant == STM_SELF ? "self_att_type" : "interlayer_att_type");
    return RXT_OK;
}

/* Old configs do not say how many shared experts there are, because there were none; newer ones may
 * leave the default of one away. */
static void resolve_shared(const struct bind *b, struct config_stack *s, const char *prefix)
{
    if (s->moe.n_shared >= 0)
        return;
    static const char *const lists[] = {"stateless_layers", "layers", "final_stateless_layers"};
    s->moe.n_shared = 1;
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        struct bind_name layer = bind_join(prefix, "%s.0.ff.", lists[i]);
        if (bind_has_prefix(b, bind_join(layer.text, "experts.").text) &&
            !bind_has_prefix(b, bind_join(layer.text, "shared_expert").text))
            s->moe.n_shared = 0;
    }
}

/* Configs of the first models may be silent on the norm before the head. */
static void resolve_head_norm(const struct bind *b, struct config_stack *s, const char *prefix)
{
    if (s->head_norm != CONFIG_HEAD_UNSAID)
        return;
    s->head_norm = CONFIG_HEAD_NONE;
    if (bind_has(b, prefix, "head_norm.weight"))
        s->head_norm = bind_has(b, prefix, "head_norm.bias") ? CONFIG_HEAD_LAYER : CONFIG_HEAD_RMS;
}

static void resolve_rope(const struct bind *b, struct rxt_config *c)
{
    if (c->rope != CONFIG_ROPE_UNSAID)
        return;
    c->rope = CONFIG_ROPE_INTERLEAVED;
    int32_t n = b->files ? safetensors_count(b->files) : 0;
    for (int32_t i = 0; i < n; i++) {
        if (strstr(safetensors_at(b->files, i)->name, ".ff.experts."))
            c->rope = CONFIG_ROPE_SPLIT;
    }
}

static enum rxt_status resolve(struct bind *b)
{
    struct rxt_config *c = &b->ck->config;
    if (c->single && c->has_decoder && c->has_encoder) {
        c->has_decoder = bind_has(b, "model.", "head.weight");
        c->has_encoder = !c->has_decoder;
    }
    if (c->has_decoder) {
        resolve_shared(b, &c->decoder, decoder_prefix(c));
        resolve_head_norm(b, &c->decoder, decoder_prefix(c));
    }
    if (c->has_encoder)
        resolve_shared(b, &c->encoder, encoder_prefix(c));
    if (c->has_memory)
        TRY(resolve_variant(b, &c->memory, memory_prefix(c)));
    resolve_rope(b, c);
    return RXT_OK;
}

/* ---- split layout of RoPE --------------------------------------------------------------- */

/* Old rows in the new order, head by head: row 2i is old row i, row 2i+1 old row i + dim/2. */
static void fill_split_rows(int32_t *row_of, int32_t n_head, int32_t dim)
{
    for (int32_t r = 0; r < n_head * dim; r++) {
        int32_t head = r / dim, i = r % dim;
        row_of[r] = head * dim + i / 2 + (i % 2) * (dim / 2);
    }
}

/* Rows for the decoder's cross-attention keys, then for memory attention's queries. A component
 * without rotation keeps its order. */
static enum rxt_status create_permutation(struct bind *b, const int32_t **keys,
                                          const int32_t **queries)
{
    struct rxt_config *c = &b->ck->config;
    *keys = *queries = NULL;
    if (c->rope != CONFIG_ROPE_SPLIT)
        return RXT_OK;
    const struct heads *k = &c->decoder.cross, *q = &c->memory.main;
    int32_t n_k = c->has_decoder && !c->decoder.nope ? k->n_kv * k->dim : 0;
    int32_t n_q = c->has_memory ? q->n_q * q->dim : 0;
    if (n_k + n_q == 0)
        return RXT_OK;
    b->ck->permuted = mem_alloc_n((size_t)n_k + (size_t)n_q, sizeof *b->ck->permuted);
    if (!b->ck->permuted)
        return rxt_fail(b->err, RXT_ENOMEM, "out of memory");
    if (n_k > 0) {
        fill_split_rows(b->ck->permuted, k->n_kv, k->dim);
        *keys = b->ck->permuted;
    }
    if (n_q > 0) {
        fill_split_rows(b->ck->permuted + n_k, q->n_q, q->dim);
        *queries = b->ck->permuted + n_k;
    }
    return RXT_OK;
}

/* ---- shared tensors --------------------------------------------------------------------- */

/* Decoder and encoder share one embedding: the encoder's, or the decoder's if the writer kept only
 * that alias (spec 3.3). A second copy must have the right shape and is not read. */
static void bind_embedding(struct bind *b)
{
    static const char name[] = "embedding.weight";
    struct checkpoint *ck = b->ck;
    const struct rxt_config *c = &ck->config;
    const struct config_stack *s = c->has_encoder ? &c->encoder : &c->decoder;
    const char *first = c->has_encoder ? encoder_prefix(c) : decoder_prefix(c);
    uint64_t n = (uint64_t)s->n_vocab * (uint64_t)s->embed_dim;
    b->count = c->has_encoder ? &ck->count.encoder : &ck->count.decoder;
    if (c->has_encoder && c->has_decoder) {
        const char *decoder = decoder_prefix(c);
        ck->count.decoder += n;
        if (bind_has(b, decoder, name)) {
            ck->embedding = bind_matrix(b, decoder, name, s->n_vocab, s->embed_dim);
            *b->count -= n;
        }
        if (ck->embedding.data && !bind_has(b, first, name)) {
            *b->count += n;
            return;
        }
    }
    ck->embedding = bind_matrix(b, first, name, s->n_vocab, s->embed_dim);
}

static const struct st_tensor *find_stored_memory(const struct bind *b, struct bind_name *name)
{
    const struct rxt_config *c = &b->ck->config;
    const struct st_tensor *t = NULL;
    if (c->has_decoder) {
        *name = bind_join(decoder_prefix(c), "stm.memory");
        t = safetensors_find(b->files, name->text);
    }
    if (c->has_memory) {
        *name = bind_join(memory_prefix(c), "stm.memory");
        const struct st_tensor *own = safetensors_find(b->files, name->text);
        t = own ? own : t;
    }
    return t;
}

/* The effective memory, if one of the right shape is there; it must be if sessions start from it.
 */
static void bind_stored_memory(struct bind *b)
{
    struct rxt_config *c = &b->ck->config;
    struct ckpt_memory *out = &b->ck->memory;
    if (!b->files || b->st != RXT_OK || !(c->has_memory || c->has_decoder))
        return;
    struct bind_name name;
    const struct st_tensor *t = find_stored_memory(b, &name);
    int64_t n_layer = c->has_memory ? c->memory.n_layer : c->decoder.n_layer;
    int64_t n_slot = c->has_memory ? c->memory.n_slot : c->decoder.n_slot;
    int64_t dim = c->has_memory ? c->memory.embed_dim : c->decoder.embed_dim;
    if (t && t->n_dim == 4 && t->shape[0] == n_layer && t->shape[1] == 1 && t->shape[2] == n_slot &&
        t->shape[3] == dim && bind_dtype(t, &out->stored_dtype))
        out->stored = t->data;
    if (!out->stored && c->stm_init == STM_CHECKPOINT)
        b->st = rxt_fail(b->err, RXT_ENOTFOUND,
                         "%s: tensor '%s' with the shape [%lld,1,%lld,%lld] is missing, and "
                         "stm_init is 'checkpoint'",
                         safetensors_file_name(b->files, t ? t->file : 0), name.text,
                         (long long)n_layer, (long long)n_slot, (long long)dim);
}

/* ---- what is left over ------------------------------------------------------------------ */

static bool starts_with(const char *s, const char *begin)
{
    return strncmp(s, begin, strlen(begin)) == 0;
}

/* Old encoders carry a memory and the parts that would read it; no release that matters uses them.
 */
static bool is_encoder_left_over(const struct rxt_config *c, const char *name)
{
    static const char *const parts[] = {"memory_cross_attention.", "norm2.", "stm_norm."};
    const char *prefix = encoder_prefix(c);
    if (!c->has_encoder || !starts_with(name, prefix))
        return false;
    name += strlen(prefix);
    if (starts_with(name, "stm."))
        return true;
    if (!starts_with(name, "layers."))
        return false;
    name += strlen("layers.");
    name += strspn(name, "0123456789");
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (*name == '.' && starts_with(name + 1, parts[i]))
            return true;
    }
    return false;
}

/* Tensors that may be there and are not read, beside those that bind_ignore marked. */
static bool may_be_there(const struct rxt_config *c, const char *name)
{
    if (bind_ends_with(name, ".rope.cache") || bind_ends_with(name, ".rope.inv_freq"))
        return true;
    if (c->has_decoder && strcmp(name, bind_join(decoder_prefix(c), "stm.memory").text) == 0)
        return true;
    if (c->has_memory && strcmp(name, bind_join(memory_prefix(c), "stm.memory").text) == 0)
        return true;
    return is_encoder_left_over(c, name);
}

/* A weight nobody reads means that the config tells of another model. */
static enum rxt_status check_rest(const struct bind *b)
{
    int32_t n = b->files ? safetensors_count(b->files) : 0;
    for (int32_t i = 0; i < n; i++) {
        const struct st_tensor *t = safetensors_at(b->files, i);
        if (!b->used[i] && !may_be_there(&b->ck->config, t->name))
            return rxt_fail(b->err, RXT_EFORMAT,
                            "%s: tensor '%s' has no place in the model that config.json describes",
                            safetensors_file_name(b->files, t->file), t->name);
    }
    return RXT_OK;
}

/* ---- all together ----------------------------------------------------------------------- */

static uint64_t ff_values(const struct ff_desc *f)
{
    return (uint64_t)f->w1.rows * (uint64_t)f->w1.cols +
           (uint64_t)f->w2.rows * (uint64_t)f->w2.cols + (uint64_t)f->b1.n + (uint64_t)f->b2.n;
}

static void finish_counts(struct bind *b)
{
    struct checkpoint *ck = b->ck;
    struct ckpt_count *n = &ck->count;
    n->total = n->decoder + n->encoder + n->memory;
    if (ck->config.has_decoder && ck->config.has_encoder)
        n->total -= (uint64_t)ck->embedding.rows * (uint64_t)ck->embedding.cols;
    n->decoder_active = n->decoder;
    for (int32_t i = 0; i < ck->decoder.n_layer; i++) {
        const struct moe_desc *m = &ck->decoder.layer[i].experts.desc;
        if (ck->decoder.layer[i].moe)
            n->decoder_active -= (uint64_t)(m->n_expert - m->top_k) * ff_values(m->expert);
    }
    ck->dtype = DTYPE_F32;
    for (enum dtype t = DTYPE_F32; t <= DTYPE_F16; t++) {
        if (b->n_of[t] > b->n_of[ck->dtype])
            ck->dtype = t;
    }
}

static enum rxt_status bind_all(struct bind *b)
{
    const int32_t *keys, *queries;
    struct rxt_config *c = &b->ck->config;
    TRY(resolve(b));
    TRY(create_permutation(b, &keys, &queries));
    if (c->has_decoder || c->has_encoder)
        bind_embedding(b);
    if (c->has_decoder && b->st == RXT_OK)
        bind_decoder(b, decoder_prefix(c), keys);
    if (c->has_encoder && b->st == RXT_OK)
        bind_encoder(b, encoder_prefix(c));
    if (c->has_memory && b->st == RXT_OK)
        bind_memory(b, memory_prefix(c), queries);
    bind_stored_memory(b);
    TRY(b->st);
    finish_counts(b);
    return check_rest(b);
}

static enum rxt_status create(struct checkpoint **out, const struct rxt_config *config,
                              struct rxt_error *err)
{
    *out = mem_alloc(sizeof **out);
    if (!*out)
        return rxt_fail(err, RXT_ENOMEM, "out of memory for a checkpoint");
    (*out)->config = *config;
    return RXT_OK;
}

static enum rxt_status bind_files(struct checkpoint *ck, struct rxt_error *err)
{
    struct bind b = {.ck = ck, .files = ck->files, .err = err};
    b.used = mem_alloc((size_t)safetensors_count(ck->files) + 1);
    if (!b.used)
        return rxt_fail(err, RXT_ENOMEM, "out of memory");
    enum rxt_status st = bind_all(&b);
    mem_free(b.used);
    return st;
}

enum rxt_status checkpoint_open(struct checkpoint **out, const char *dir, struct rxt_error *err)
{
    *out = NULL;
    enum rxt_status st;
    struct rxt_config config;
    struct checkpoint *ck = NULL;
    TRY(config_read(&config, dir, err));
    TRY(create(&ck, &config, err));
    TRY_OR(fail, safetensors_open(&ck->files, dir, err));
    TRY_OR(fail, bind_files(ck, err));
    *out = ck;
    return RXT_OK;
fail:
    checkpoint_close(&ck);
    return st;
}

/* A block of random values, repeated: drawing each of 3 G weights would take longer than the
 * benchmark. The length of the block is odd, so that rows do not repeat. */
static bf16 *create_pool(uint64_t n, uint64_t seed)
{
    enum { BLOCK = 1000003, CHUNK = 4096 };
    float chunk[CHUNK];
    bf16 *pool = mem_alloc_n(n, sizeof *pool);
    uint64_t drawn = n < BLOCK ? n : BLOCK;
    for (uint64_t i = 0; pool && i < drawn; i += CHUNK) {
        uint64_t part = drawn - i < CHUNK ? drawn - i : CHUNK;
        random_normal_fill(chunk, part, seed, RANDOM_BENCH, 0, i);
        for (uint64_t k = 0; k < part; k++)
            pool[i + k] = bf16_from_f32(0.05f * chunk[k]);
    }
    for (uint64_t i = drawn; pool && i < n; i += BLOCK)
        memcpy(pool + i, pool, (n - i < BLOCK ? n - i : BLOCK) * sizeof *pool);
    return pool;
}

/* Binds a config to no tensors: counts, and the size of the largest. */
static enum rxt_status bind_nothing(struct ckpt_count *count, uint64_t *largest,
                                    const struct rxt_config *config, struct rxt_error *err)
{
    struct checkpoint *ck = NULL;
    TRY(create(&ck, config, err));
    struct bind b = {.ck = ck, .err = err};
    enum rxt_status st = bind_all(&b);
    *count = ck->count;
    *largest = b.largest;
    checkpoint_close(&ck);
    return st;
}

enum rxt_status checkpoint_count(struct ckpt_count *out, const struct rxt_config *config,
                                 struct rxt_error *err)
{
    uint64_t largest;
    return bind_nothing(out, &largest, config, err);
}

enum rxt_status checkpoint_random(struct checkpoint **out, const struct rxt_config *config,
                                  uint64_t seed, struct rxt_error *err)
{
    *out = NULL;
    enum rxt_status st;
    struct ckpt_count count;
    uint64_t largest;
    struct checkpoint *ck = NULL;
    TRY(bind_nothing(&count, &largest, config, err));
    TRY(create(&ck, config, err));
    struct bind b = {.ck = ck, .pool_n = 2 * largest, .err = err};
    ck->random = create_pool(b.pool_n, seed);
    if (!ck->random) {
        st = rxt_fail(err, RXT_ENOMEM, "out of memory for random weights");
        goto fail;
    }
    b.pool = ck->random;
    TRY_OR(fail, bind_all(&b));
    ck->dtype = DTYPE_BF16;
    *out = ck;
    return RXT_OK;
fail:
    checkpoint_close(&ck);
    return st;
}

static void free_stack(struct ckpt_stack *s)
{
    for (int32_t i = 0; s->layer && i < s->n_layer; i++) {
        mem_free(s->layer[i].experts.expert);
        mem_free(s->layer[i].experts.shared);
    }
    mem_free(s->layer);
}

void checkpoint_close(struct checkpoint **out)
{
    struct checkpoint *ck = *out;
    if (!ck)
        return;
    free_stack(&ck->decoder);
    free_stack(&ck->encoder);
    mem_free(ck->memory.layer);
    mem_free(ck->permuted);
    mem_free(ck->random);
    safetensors_close(&ck->files);
    mem_free(ck);
    *out = NULL;
}
