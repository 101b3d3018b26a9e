/* A tokenizer.json and a text.
 * covers: rxt/token_json.c rxt/token_file.c rxt/token_model.c rxt/token_steps.c rxt/token_regex.c
 *
 * Input: the file, the byte 0xFF (which UTF-8 does not have), the text. What is accepted must
 * encode the text the same way twice, give no special id to plain text, and where its settings lose
 * nothing, decode to the text again. */
#include "rxt/token_impl.h"

#include "kernels/base/utf8.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 4096
#define ID_MAX (8 * TEXT_MAX)

static int32_t first[ID_MAX], again[ID_MAX];
static char decoded[TEXT_MAX + 2 * RXT_PIECE_MAX];

/* Whether decode(encode(x)) == x for every x. */
static bool is_lossless(const struct tokenizer *t)
{
    if (t->n_normal || t->add_prefix_space)
        return false;
    for (int b = 0; b < 256; b++)
        if (t->byte_id[b] == TOKEN_NONE)
            return false;
    for (size_t i = 0; i < t->n_split; i++)
        if (t->split[i].behavior == SPLIT_REMOVED)
            return false;
    for (size_t i = 0; i < t->n_added; i++) /* strips, or is a letter and a string in one */
        if (t->added[i].lstrip || t->added[i].rstrip ||
            t->vocab.entry[t->added[i].id].flags & TOKEN_MODEL)
            return false;
    return true;
}

static void check_decoding(const struct tokenizer *t, const int32_t *ids, size_t n,
                           const char *text, size_t len)
{
    struct rxt_text d = {0};
    size_t n_out = 0;
    bool lossless = is_lossless(t);
    for (size_t i = 0; i < n; i++) {
        char out[RXT_PIECE_MAX];
        size_t k = tokenizer_decode(t, &d, true, ids[i], out);
        assert(k <= sizeof out && utf8_valid(out, k) == k);
        if (!lossless)
            continue;
        assert(n_out + k <= len);
        memcpy(decoded + n_out, out, k);
        n_out += k;
    }
    if (lossless)
        assert(d.n_held == 0 && n_out == len && memcmp(decoded, text, len) == 0);
}

static void check_mode(const struct tokenizer *t, enum rxt_text_mode mode, const char *text,
                       size_t len)
{
    size_t n, n_again, cap = len / 2;
    struct rxt_error err;
    enum rxt_status st = tokenizer_encode(t, mode, text, len, first, ID_MAX, &n, &err);
    if (utf8_valid(text, len) != len) {
        assert(st == RXT_EUTF8);
        return;
    }
    assert(st == RXT_OK || st == RXT_ELIMIT);
    if (st != RXT_OK)
        return;
    st = tokenizer_encode(t, mode, text, len, again, cap, &n_again, &err);
    assert(st == (n > cap ? RXT_ELIMIT : RXT_OK) && n_again == n);
    assert(memcmp(first, again, (n < cap ? n : cap) * sizeof *first) == 0);
    for (size_t i = 0; i < n; i++) {
        assert(tokenizer_token(t, first[i]));
        assert(mode == RXT_SPECIAL || !tokenizer_is_special(t, first[i]) ||
               (uint32_t)first[i] == t->unk);
    }
    check_decoding(t, first, n, text, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *t;
    struct rxt_error err;
    const uint8_t *end = size ? memchr(data, 0xFF, size) : NULL;
    size_t n_json = end ? (size_t)(end - data) : size;
    size_t n_text = end ? size - n_json - 1 : 0;
    if (n_text > TEXT_MAX)
        n_text = TEXT_MAX;
    if (tokenizer_parse(&t, (const char *)data, n_json, &err) != RXT_OK) {
        assert(t == NULL);
        return 0;
    }
    const char *text = end ? (const char *)end + 1 : "";
    check_mode(t, RXT_PLAIN, text, n_text);
    check_mode(t, RXT_SPECIAL, text, n_text);
    tokenizer_destroy(&t);
    return 0;
}
