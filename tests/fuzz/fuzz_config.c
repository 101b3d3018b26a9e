/* config.json. covers: rxt/config.c rxt/config_fields.c */
#include "rxt/config_impl.h"

#include <assert.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_heads(const struct heads *h, int32_t embed_dim)
{
    assert(h->n_q >= 1 && h->n_kv >= 1 && h->dim >= 1);
    assert(h->n_q % h->n_kv == 0 || h->n_kv % h->n_q == 0);
    assert(h->dim * h->n_q <= embed_dim && h->dim * h->n_kv <= embed_dim);
}

static void check_stack(const struct config_stack *s)
{
    assert(s->n_layer >= 1 && s->n_vocab >= 1 && s->embed_dim >= 1 && s->seq_len >= 1);
    assert(s->nope || s->self.dim % 2 == 0);
    check_heads(&s->self, s->embed_dim);
    int64_t experts = 0;
    for (int32_t i = 0; i < config_n_layer(s); i++)
        if (config_layer_kind(s, i) == CONFIG_LAYER_MOE)
            experts += s->moe.n_expert;
    assert(experts <= CONFIG_MAX_EXPERTS);
    assert(s->moe.top_k <= s->moe.n_expert);
}

/* What was accepted holds the bounds that the loader builds on. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rxt_config c;
    struct rxt_error err = {{0}};
    if (config_parse(&c, (const char *)data, size, &err) != RXT_OK) {
        assert(err.text[0] != '\0');
        return 0;
    }
    if (c.has_decoder) {
        check_stack(&c.decoder);
        check_heads(&c.decoder.cross, c.decoder.embed_dim);
    }
    if (c.has_encoder)
        check_stack(&c.encoder);
    if (c.has_memory) {
        check_heads(&c.memory.main, c.memory.embed_dim);
        assert(c.memory.n_group >= 1 && c.memory.n_slot >= 1);
        assert(!c.memory.has_variant || c.memory.n_layer % c.memory.n_group == 0);
    }
    return 0;
}
