#include "rxt/rxt_impl.h"

#include "rxt/tokenizer_impl.h"

enum rxt_status rxt_encode(const struct rxt_model *m, enum rxt_text_mode mode, const char *text,
                           size_t bytes, int32_t *ids, size_t cap, size_t *n, struct rxt_error *err)
{
    if (!m->tokenizer)
        return rxt_fail(err, RXT_EUNSUPPORTED, "model %s has no tokenizer.json", m->info.name);
    return tokenizer_encode(m->tokenizer, mode, text, bytes, ids, cap, n, err);
}

size_t rxt_decode(const struct rxt_model *m, struct rxt_text *t, int32_t id,
                  char out[RXT_PIECE_MAX])
{
    return m->tokenizer ? tokenizer_decode(m->tokenizer, t, false, id, out) : 0;
}

size_t rxt_decode_end(struct rxt_text *t, char out[RXT_PIECE_MAX])
{
    return tokenizer_decode_end(t, out);
}

const char *rxt_token_text(const struct rxt_model *m, int32_t id)
{
    return m->tokenizer ? tokenizer_token(m->tokenizer, id) : NULL;
}
