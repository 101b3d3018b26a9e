#include "rxt/token_impl.h"

#include "rxt/token_json_impl.h"

#include "kernels/base/utf8.h"

#include <string.h>

#define MERGE_MAX (UINT32_C(1) << 24)

static void read_vocab(struct tokenizer *t, struct json_reader *r)
{
    char buf[RXT_PIECE_MAX];
    const char *s;
    size_t len;
    uint32_t id;
    if (!reader_enter(r, '{'))
        return;
    while (reader_key(r, buf, sizeof buf, &s, &len))
        if (reader_uint(r, "id of a token", TOKEN_ID_MAX - 1, &id))
            token_put(t, r, TOKEN_MODEL, id, s, len);
}

static uint32_t find_part(struct tokenizer *t, struct json_reader *r, const char *s, size_t len)
{
    uint32_t id = len ? token_vocab_find(&t->vocab, s, len) : TOKEN_NONE;
    if (id == TOKEN_NONE)
        reader_fail(r, RXT_EFORMAT, "merges", "a part or the result is not in the vocabulary");
    return id;
}

static void put_merge(struct tokenizer *t, struct json_reader *r, const char *left, size_t n_left,
                      const char *right, size_t n_right, uint32_t rank)
{
    char whole[4 * RXT_PIECE_MAX];
    memcpy(whole, left, n_left);
    memcpy(whole + n_left, right, n_right);
    uint32_t a = find_part(t, r, left, n_left);
    uint32_t b = find_part(t, r, right, n_right);
    uint32_t made = find_part(t, r, whole, n_left + n_right);
    if (reader_status(r) != RXT_OK)
        return;
    t->vocab.entry[made].flags |= TOKEN_MADE;
    enum rxt_status st = token_merges_put(&t->merges, a, b, rank, made);
    if (st != RXT_OK)
        reader_fail(r, st, "merges", rxt_status_text(st));
}

/* "left right". False for the comment that the format this comes from begins with. */
static bool read_merge_line(struct tokenizer *t, struct json_reader *r, uint32_t rank)
{
    char buf[2 * RXT_PIECE_MAX];
    const char *s;
    size_t len;
    if (!reader_string(r, "merges", buf, sizeof buf, &s, &len))
        return false;
    if (len >= 8 && memcmp(s, "#version", 8) == 0)
        return false;
    const char *space = memchr(s, ' ', len);
    size_t n_left = space ? (size_t)(space - s) : 0, n_right = space ? len - n_left - 1 : 0;
    if (!space || memchr(space + 1, ' ', n_right))
        reader_fail(r, RXT_EFORMAT, "merges", "not two parts with a space between");
    else
        put_merge(t, r, s, n_left, space + 1, n_right, rank);
    return true;
}

/* ["left", "right"] */
static void read_merge_pair(struct tokenizer *t, struct json_reader *r, uint32_t rank)
{
    char buf[2][RXT_PIECE_MAX];
    const char *part[2];
    size_t len[2], n = 0;
    if (!reader_enter(r, '['))
        return;
    for (; reader_item(r); n++) {
        if (n == 2) {
            reader_fail(r, RXT_EFORMAT, "merges", "more than two parts");
            return;
        }
        if (!reader_string(r, "merges", buf[n], sizeof buf[n], &part[n], &len[n]))
            return;
    }
    if (n < 2)
        reader_fail(r, RXT_EFORMAT, "merges", "less than two parts");
    else if (reader_status(r) == RXT_OK)
        put_merge(t, r, part[0], len[0], part[1], len[1], rank);
}

static void read_merges(struct tokenizer *t, struct json_reader *r)
{
    uint32_t rank = 0;
    if (token_merges_init(&t->merges) != RXT_OK)
        reader_fail(r, RXT_ENOMEM, "merges", rxt_status_text(RXT_ENOMEM));
    if (!reader_enter(r, '['))
        return;
    while (reader_item(r)) {
        if (rank == MERGE_MAX) {
            reader_fail(r, RXT_ELIMIT, "merges", "more than 16777216");
            return;
        }
        if (reader_peek(r) == '"')
            rank += read_merge_line(t, r, rank);
        else
            read_merge_pair(t, r, rank++);
    }
}

/* A feature we do not have: its field must be null, false or an empty string. */
static void expect_off(struct json_reader *r, const char *field)
{
    char buf[RXT_PIECE_MAX];
    const char *s;
    size_t len = 0;
    bool on = false;
    char c = reader_peek(r);
    bool off = reader_null(r);
    if (c == '"')
        off = reader_string(r, field, buf, sizeof buf, &s, &len) && len == 0;
    else if (c == 't' || c == 'f')
        off = reader_bool(r, field, &on) && !on;
    if (!off)
        reader_fail(r, RXT_EUNSUPPORTED, field, "only null, false or empty");
}

static void find_letters(struct tokenizer *t)
{
    for (int b = 0; b < 256; b++) {
        char s[4];
        size_t n = utf8_put(token_letter(b), s);
        t->byte_id[b] = token_vocab_find(&t->vocab, s, n);
        if (t->byte_id[b] != TOKEN_NONE)
            t->vocab.entry[t->byte_id[b]].flags |= TOKEN_MADE;
    }
}

void token_model_read(struct tokenizer *t, struct json_reader *r)
{
    enum {
        TYPE,
        DROPOUT,
        UNK,
        PREFIX,
        SUFFIX,
        FUSE_UNK,
        BYTE_FALLBACK,
        IGNORE_MERGES,
        VOCAB,
        MERGES
    };
    static const char *const names[] = {"type",
                                        "dropout",
                                        "unk_token",
                                        "continuing_subword_prefix",
                                        "end_of_word_suffix",
                                        "fuse_unk",
                                        "byte_fallback",
                                        "ignore_merges",
                                        "vocab",
                                        "merges",
                                        NULL};
    char buf[RXT_PIECE_MAX], unk_buf[RXT_PIECE_MAX];
    const char *s, *unk = NULL;
    size_t len, unk_len = 0;
    uint32_t seen = 0;
    struct json_reader merges = *r; /* they are read when the vocabulary is known */
    if (!reader_enter(r, '{'))
        return;
    for (int f; (f = reader_field(r, "model", names, &seen)) >= 0;) {
        switch (f) {
        case TYPE:
            if (reader_string(r, "type", buf, sizeof buf, &s, &len) &&
                !(len == 3 && memcmp(s, "BPE", 3) == 0))
                reader_fail(r, RXT_EUNSUPPORTED, "type of model", "only BPE");
            break;
        case UNK:
            if (!reader_null(r))
                (void)reader_string(r, "unk_token", unk_buf, sizeof unk_buf, &unk, &unk_len);
            break;
        case FUSE_UNK:
            (void)reader_bool(r, "fuse_unk", &t->fuse_unk);
            break;
        case IGNORE_MERGES:
            (void)reader_bool(r, "ignore_merges", &t->ignore_merges);
            break;
        case VOCAB:
            read_vocab(t, r);
            break;
        case MERGES:
            merges = *r;
            reader_skip(r);
            break;
        default:
            expect_off(r, names[f]);
        }
    }
    if (reader_status(r) != RXT_OK)
        return;
    if (!(seen >> VOCAB & 1) || !(seen >> MERGES & 1)) {
        reader_fail(r, RXT_EFORMAT, "model", "no vocab or no merges");
        return;
    }
    read_merges(t, &merges);
    r->st = reader_status(&merges);
    find_letters(t);
    t->unk = unk ? token_vocab_find(&t->vocab, unk, unk_len) : TOKEN_NONE;
    for (int b = 0; b < 256; b++)
        if (unk && t->unk == TOKEN_NONE && t->byte_id[b] == TOKEN_NONE)
            reader_fail(r, RXT_EFORMAT, "unk_token", "needed, but not in the vocabulary");
}
