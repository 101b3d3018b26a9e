/* Streaming: the same text whatever the borders of the tokens, complete code points only. */
#include "rxt/token_impl.h"

#include "kernels/base/utf8.h"
#include "tests/lib/test.h"

static struct tokenizer *open_bundled(void)
{
    struct tokenizer *t = NULL;
    assert_ok(tokenizer_open(&t, "models/demo-15m/tokenizer.json", NULL));
    return t;
}

/* Token of one byte. */
static int32_t byte_token(const struct tokenizer *t, char byte)
{
    char s[4];
    size_t n = utf8_put(token_letter((unsigned char)byte), s);
    int32_t id = tokenizer_id(t, s, n);
    assert_true(id >= 0);
    return id;
}

static size_t decode_bytes(const struct tokenizer *t, const char *bytes, size_t n, char *out)
{
    struct rxt_text d = {0};
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = tokenizer_decode(t, &d, false, byte_token(t, bytes[i]), out + len);
        assert_int_equal(utf8_valid(out + len, k), k); /* never a part of a code point */
        assert_true(d.n_held < 4);
        len += k;
    }
    return len + tokenizer_decode_end(&d, out + len);
}

static const char *const text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z\xE0\xA4\x95\xE0\xA5\x8D"
                                "\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF\xC2\x80\xF0\x90\x80\x80!";

static void byte_by_byte(void **state)
{
    (void)state;
    struct tokenizer *t = open_bundled();
    char out[RXT_PIECE_MAX * 2];
    size_t n = strlen(text);
    assert_int_equal(decode_bytes(t, text, n, out), n);
    assert_memory_equal(out, text, n);
    tokenizer_destroy(&t);
}

/* A text cut at every byte: the front with its replaced tail, as one who looks at it whole says. */
static void cut_anywhere(void **state)
{
    (void)state;
    struct tokenizer *t = open_bundled();
    for (size_t n = 0; n <= strlen(text); n++) {
        char out[RXT_PIECE_MAX * 2], want[256];
        size_t whole = utf8_valid(text, n), n_want = whole;
        memcpy(want, text, whole);
        if (whole < n)
            n_want += utf8_put(0xFFFD, want + whole);
        assert_int_equal(decode_bytes(t, text, n, out), n_want);
        assert_memory_equal(out, want, n_want);
    }
    tokenizer_destroy(&t);
}

/* One U+FFFD for each maximal subpart, also where it spans tokens. R stands for U+FFFD. */
static void bad_bytes(void **state)
{
    (void)state;
    struct tokenizer *t = open_bundled();
    const char *const table[][2] = {
        {"a\x80z", "aRz"},
        {"\xC3(", "R("},
        {"\xE2\x82(", "R("},
        {"\xE2(\x82", "R(R"},
        {"\xF0\x9F\x98", "R"},
        {"\xF0\x9F\x98\xF0\x9F\x98\x80", "R\xF0\x9F\x98\x80"},
        {"\xED\xA0\x80", "RRR"},
        {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", "RRRRRRRRA"},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "RRRRA"},
        {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", "RRRRRARRB"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char out[RXT_PIECE_MAX * 2], want[256];
        size_t n_want = 0;
        for (const char *p = table[i][1]; *p; p++)
            n_want += *p == 'R' ? utf8_put(0xFFFD, want + n_want) : (want[n_want] = *p, (size_t)1);
        assert_int_equal(decode_bytes(t, table[i][0], strlen(table[i][0]), out), n_want);
        assert_memory_equal(out, want, n_want);
    }
    tokenizer_destroy(&t);
}

/* Special tokens add nothing and do not come between the bytes of a code point; nor do ids that
 * the model knows and the vocabulary does not. */
static void special_and_unknown_ids(void **state)
{
    (void)state;
    struct tokenizer *t = open_bundled();
    struct rxt_text d = {0};
    char out[RXT_PIECE_MAX];
    assert_int_equal(tokenizer_decode(t, &d, false, byte_token(t, '\xC3'), out), 0);
    assert_int_equal(d.n_held, 1);
    for (int32_t id = 0; id < 7; id++)
        assert_int_equal(tokenizer_decode(t, &d, false, id, out), 0);
    assert_int_equal(tokenizer_decode(t, &d, false, 6144, out), 0);
    assert_int_equal(tokenizer_decode(t, &d, false, -1, out), 0);
    assert_int_equal(tokenizer_decode(t, &d, false, INT32_MAX, out), 0);
    assert_int_equal(tokenizer_decode(t, &d, false, byte_token(t, '\xA9'), out), 2);
    assert_memory_equal(out, "\xC3\xA9", 2);
    assert_int_equal(d.n_held, 0);
    assert_int_equal(tokenizer_decode_end(&d, out), 0);

    assert_int_equal(tokenizer_decode(t, &d, false, byte_token(t, '\xC3'), out), 0);
    assert_int_equal(tokenizer_decode(t, &d, true, 5, out), 6); /* kept, it breaks the code point */
    assert_memory_equal(out, "\xEF\xBF\xBD[Q]", 6);
    tokenizer_destroy(&t);
}

/* The longest token the file may hold, of bytes that are all bad, still fits a piece. */
static void longest_token(void **state)
{
    (void)state;
    enum { N = (RXT_PIECE_MAX - 9) / 3 };
    struct tokenizer t = {0};
    char token[2 * N], out[RXT_PIECE_MAX];
    struct rxt_text d = {.held = {0xF0, 0x9F, 0x98}, .n_held = 3};
    for (int i = 0; i < N; i++)
        (void)utf8_put(token_letter(0xFF), token + 2 * i);
    assert_ok(token_vocab_put(&t.vocab, TOKEN_MODEL, 0, token, 2 * N));
    assert_int_equal(tokenizer_decode(&t, &d, false, 0, out), 3 * (N + 1));
    char more[2 * N + 2];
    memcpy(more, token, 2 * N);
    memcpy(more + 2 * N, token, 2);
    assert_status(RXT_ELIMIT, token_vocab_put(&t.vocab, TOKEN_MODEL, 1, more, 2 * N + 2));
    token_vocab_free(&t.vocab);
}

static void alphabet(void **state)
{
    (void)state;
    for (int b = 0; b < 256; b++)
        assert_int_equal(token_letter_byte(token_letter(b)), b);
    assert_int_equal(token_letter(' '), 0x120);
    assert_int_equal(token_letter('\n'), 0x10A);
    assert_int_equal(token_letter(0x7F), 0x121);
    assert_int_equal(token_letter(0xAD), 0x143);
    assert_int_equal(token_letter_byte(' '), -1);
    assert_int_equal(token_letter_byte(0xAD), -1);
    assert_int_equal(token_letter_byte(0x144), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_by_byte),  cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(bad_bytes),     cmocka_unit_test(special_and_unknown_ids),
        cmocka_unit_test(longest_token), cmocka_unit_test(alphabet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
