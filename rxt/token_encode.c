#include "rxt/token_impl.h"

#include "kernels/base/mem.h"
#include "kernels/base/utf8.h"

#include <string.h>

enum rxt_status token_buffer_room(struct token_buffer *b, size_t more)
{
    if (b->cap - b->n >= more)
        return RXT_OK;
    size_t cap = b->cap ? b->cap : 4096;
    while (cap - b->n < more)
        cap *= 2;
    char *data = mem_realloc(b->data, cap);
    if (!data)
        return RXT_ENOMEM;
    b->data = data;
    b->cap = cap;
    return RXT_OK;
}

enum rxt_status token_buffer_put(struct token_buffer *b, const char *s, size_t n)
{
    TRY(token_buffer_room(b, n));
    if (n)
        memcpy(b->data + b->n, s, n);
    b->n += n;
    return RXT_OK;
}

enum rxt_status token_scratch_create(struct token_scratch **out, const struct tokenizer *t)
{
    enum rxt_status st;
    *out = NULL;
    struct token_scratch *s = mem_alloc(sizeof *s);
    if (!s)
        return RXT_ENOMEM;
    s->t = t;
    TRY_OR(fail, token_matcher_create(&s->matcher));
    TRY_OR(fail, token_bpe_create(&s->bpe));
    *out = s;
    return RXT_OK;
fail:
    token_scratch_destroy(&s);
    return st;
}

void token_scratch_destroy(struct token_scratch **s)
{
    if (*s) {
        token_matcher_destroy(&(*s)->matcher);
        token_bpe_destroy(&(*s)->bpe);
        mem_free((*s)->normal[0].data);
        mem_free((*s)->normal[1].data);
        mem_free((*s)->points.data);
        mem_free((*s)->prefixed.data);
    }
    mem_free(*s);
    *s = NULL;
}

size_t token_scratch_bytes(const struct token_scratch *s)
{
    return s->normal[0].cap + s->normal[1].cap + s->points.cap + s->prefixed.cap +
           token_bpe_bytes(s->bpe);
}

/* A part between the tokens that are cut from the text as it came. */
static enum rxt_status encode_part(struct token_scratch *s, const char *text, size_t n)
{
    TRY(token_normalize(s, text, n, &text, &n));
    return token_cut(s, &s->t->normalized, text, n, token_split_part);
}

enum rxt_status token_encode(struct token_scratch *s, const char *text, size_t n)
{
    if (n > TOKENIZER_TEXT_MAX)
        return rxt_fail(s->err, RXT_ELIMIT, "text of %zu bytes; the limit is %zu", n,
                        TOKENIZER_TEXT_MAX);
    size_t good = utf8_valid(text, n);
    if (good < n)
        return rxt_fail(s->err, RXT_EUTF8, "text is not valid UTF-8 at byte %zu of %zu", good, n);
    return token_cut(s, &s->t->raw, text, n, encode_part);
}
