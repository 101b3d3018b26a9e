#include "rxt/token_impl.h"

#include "rxt/token_json_impl.h"

#include "kernels/base/mem.h"

#include <string.h>

#define ADDED_MAX 65536

void token_put(struct tokenizer *t, struct json_reader *r, enum token_flag origin, uint32_t id,
               const char *s, size_t len)
{
    if (memchr(s, '\0', len)) {
        reader_fail(r, RXT_EUNSUPPORTED, "token", "NUL in its string");
        return;
    }
    enum rxt_status st = token_vocab_put(&t->vocab, origin, id, s, len);
    if (st == RXT_EEXIST)
        reader_fail(r, RXT_EFORMAT, "token", "its string or its id is there already");
    else if (st == RXT_ELIMIT)
        reader_fail(r, st, "token", "id of 1048576 or more, or a string of more than 338 letters");
    else if (st != RXT_OK)
        reader_fail(r, st, "token", rxt_status_text(st));
}

/* ---- added tokens ----------------------------------------------------------------------- */

/* Gives the token its id: that of its string in the vocabulary, else the next free one. The file
 * must say the same: a tokenizer whose ids are not those that the library would hand out was not
 * written by it. */
static void place_added(struct tokenizer *t, struct json_reader *r, const char *s, size_t len,
                        uint32_t id, uint32_t *next)
{
    uint32_t known = token_vocab_find(&t->vocab, s, len);
    if (known != TOKEN_NONE && t->vocab.entry[known].flags & TOKEN_ADDED)
        reader_fail(r, RXT_EFORMAT, "added_tokens", "a string given twice");
    else if (id != (known != TOKEN_NONE ? known : *next))
        reader_fail(r, RXT_EFORMAT, "added_tokens", "id is neither the vocabulary's nor the next");
    else if (known == TOKEN_NONE)
        token_put(t, r, TOKEN_ADDED, (*next)++, s, len);
}

static void read_added(struct tokenizer *t, struct json_reader *r, uint32_t *next)
{
    enum { ID, CONTENT, SINGLE_WORD, LSTRIP, RSTRIP, NORMALIZED, SPECIAL };
    static const char *const names[] = {"id",     "content",    "single_word", "lstrip",
                                        "rstrip", "normalized", "special",     NULL};
    char buf[RXT_PIECE_MAX];
    const char *s = NULL;
    size_t len = 0;
    struct token_added a = {0};
    bool *const flag[] = {NULL,      NULL,          &a.single_word, &a.lstrip,
                          &a.rstrip, &a.normalized, &a.special};
    uint32_t seen = 0;
    if (!reader_enter(r, '{'))
        return;
    for (int f; (f = reader_field(r, "added_tokens", names, &seen)) >= 0;) {
        if (f == ID)
            (void)reader_uint(r, "id", TOKEN_ID_MAX - 1, &a.id);
        else if (f == CONTENT)
            (void)reader_string(r, "content", buf, sizeof buf, &s, &len);
        else
            (void)reader_bool(r, names[f], flag[f]);
    }
    if (reader_status(r) != RXT_OK)
        return;
    if (seen != 0x7F || len == 0) {
        reader_fail(r, RXT_EFORMAT, "added_tokens", "a field is missing or empty");
        return;
    }
    place_added(t, r, s, len, a.id, next);
    if (reader_status(r) != RXT_OK)
        return;
    uint16_t *flags = &t->vocab.entry[a.id].flags;
    *flags |= TOKEN_ADDED;
    if (a.special) {
        *flags |= TOKEN_SPECIAL;
        if (*flags & TOKEN_MADE)
            reader_fail(r, RXT_EUNSUPPORTED, "added_tokens", "special, but plain text yields it");
    }
    t->added[t->n_added++] = a;
}

static void read_all_added(struct tokenizer *t, struct json_reader *r)
{
    size_t cap = 0;
    struct json_reader count = *r;
    if (reader_enter(&count, '['))
        for (; reader_item(&count); cap++)
            reader_skip(&count);
    r->st = reader_status(&count);
    if (cap > ADDED_MAX)
        reader_fail(r, RXT_ELIMIT, "added_tokens", "more than 65536");
    if (cap == 0 || !reader_enter(r, '['))
        return;
    t->added = mem_alloc_n(cap, sizeof *t->added);
    if (!t->added) {
        reader_fail(r, RXT_ENOMEM, "added_tokens", rxt_status_text(RXT_ENOMEM));
        return;
    }
    uint32_t next = (uint32_t)t->vocab.n_token;
    while (reader_item(r))
        read_added(t, r, &next);
}

/* ---- the file --------------------------------------------------------------------------- */

/* We decode as ByteLevel does, also where the file names no decoder (spec 4). */
static void check_decoder(struct json_reader *r)
{
    char buf[JSON_KEY_MAX];
    const char *key, *type;
    size_t len, type_len;
    bool byte_level = false;
    if (reader_null(r) || !reader_enter(r, '{'))
        return;
    while (reader_key(r, buf, sizeof buf, &key, &len)) {
        if (len != 4 || memcmp(key, "type", 4) != 0)
            reader_skip(r);
        else if (reader_string(r, "type", buf, sizeof buf, &type, &type_len))
            byte_level = type_len == 9 && memcmp(type, "ByteLevel", 9) == 0;
    }
    if (!byte_level)
        reader_fail(r, RXT_EUNSUPPORTED, "decoder", "only ByteLevel or null");
}

static void check_version(struct json_reader *r)
{
    char buf[JSON_KEY_MAX];
    const char *s;
    size_t len;
    if (reader_string(r, "version", buf, sizeof buf, &s, &len) &&
        !(len == 3 && memcmp(s, "1.0", 3) == 0))
        reader_fail(r, RXT_EUNSUPPORTED, "version", "only 1.0");
}

enum rxt_status token_file_read(struct tokenizer *t, const char *name, const char *text, size_t len,
                                struct rxt_error *err)
{
    enum {
        VERSION,
        TRUNCATION,
        PADDING,
        ADDED_TOKENS,
        NORMALIZER,
        PRE_TOKENIZER,
        POST_PROCESSOR,
        DECODER,
        MODEL
    };
    static const char *const names[] = {
        "version",       "truncation",     "padding", "added_tokens", "normalizer",
        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    struct json_reader r, added;
    uint32_t seen = 0;
    reader_start(&r, name, text, len, err);
    added = r;
    if (!reader_enter(&r, '{'))
        return reader_status(&r);
    for (int f; (f = reader_field(&r, "tokenizer", names, &seen)) >= 0;) {
        switch (f) {
        case VERSION:
            check_version(&r);
            break;
        case ADDED_TOKENS: /* later, when the vocabulary is known */
            added = r;
            reader_skip(&r);
            break;
        case NORMALIZER:
            if (!reader_null(&r))
                token_normalizer_read(t, &r);
            break;
        case PRE_TOKENIZER:
            token_pre_tokenizer_read(t, &r);
            break;
        case DECODER:
            check_decoder(&r);
            break;
        case MODEL:
            token_model_read(t, &r);
            break;
        default:
            reader_skip(&r);
        }
    }
    reader_finish(&r);
    if ((seen & (1u << MODEL | 1u << PRE_TOKENIZER)) != (1u << MODEL | 1u << PRE_TOKENIZER))
        reader_fail(&r, RXT_EFORMAT, "tokenizer", "no model or no pre_tokenizer");
    if (reader_status(&r) != RXT_OK || !(seen >> ADDED_TOKENS & 1))
        return reader_status(&r);
    read_all_added(t, &added);
    return reader_status(&added);
}
