#include "rxt/token_impl.h"

#include "kernels/base/utf8.h"

#include <string.h>

/* The bytes a token stands for. One that is not written in the byte alphabet stands for its own
 * string, as does an added one that merging never makes. */
static size_t token_bytes(const struct token_vocab *v, const struct token_entry *e, char *out)
{
    const char *s = v->text + e->at;
    size_t n = 0;
    bool letters = !(e->flags & TOKEN_ADDED) || e->flags & TOKEN_MADE;
    for (size_t i = 0, len; letters && i < e->len; i += len) {
        int byte = token_letter_byte(utf8_read(s + i, &len));
        if (byte < 0)
            break;
        out[n++] = (char)byte;
        if (i + len == e->len)
            return n;
    }
    memcpy(out, s, e->len);
    return e->len;
}

size_t tokenizer_decode(const struct tokenizer *t, struct rxt_text *d, bool keep_special,
                        int32_t id, char out[RXT_PIECE_MAX])
{
    const struct token_vocab *v = &t->vocab;
    if (id < 0 || (size_t)id >= v->n_id)
        return 0;
    const struct token_entry *e = &v->entry[id];
    if (e->flags == 0 || (e->flags & TOKEN_SPECIAL && !keep_special))
        return 0;

    char raw[sizeof d->held + RXT_PIECE_MAX];
    memcpy(raw, d->held, d->n_held);
    size_t n_raw = d->n_held + token_bytes(v, e, raw + d->n_held), n = 0;
    d->n_held = 0;
    for (size_t i = 0; i < n_raw;) {
        struct utf8_step step = utf8_next(raw + i, n_raw - i);
        if (step.cp >= 0) {
            memcpy(out + n, raw + i, step.len);
            n += step.len;
        } else if (step.cp == UTF8_BAD) {
            n += utf8_put(0xFFFD, out + n);
        } else {
            memcpy(d->held, raw + i, step.len);
            d->n_held = step.len;
        }
        i += step.len;
    }
    return n;
}

size_t tokenizer_decode_end(struct rxt_text *d, char out[RXT_PIECE_MAX])
{
    size_t n = d->n_held ? utf8_put(0xFFFD, out) : 0;
    d->n_held = 0;
    return n;
}
