/* Merging and what stands before it, against plain loops: pieces of all lengths (cached, short,
 * with a heap), long hostile ones, marks in any number. */
#include "rxt/token_impl.h"

#include "kernels/base/utf8.h"
#include "tests/lib/test.h"

/* A tokenizer of four letters whose merges are drawn at random: tokens that can arise in several
 * ways, in any order of rank. */
#define N_MERGE 40
struct random_bpe {
    char token[N_MERGE + 4][64];
    int left[N_MERGE], right[N_MERGE], n_token, n_merge;
    struct tokenizer *t;
};

static uint32_t draw(uint32_t *r, uint32_t below)
{
    *r = *r * 1664525 + 1013904223;
    return (*r >> 8) % below;
}

static int token_of(const struct random_bpe *b, const char *s)
{
    for (int i = 0; i < b->n_token; i++)
        if (strcmp(b->token[i], s) == 0)
            return i;
    return -1;
}

static bool has_merge(const struct random_bpe *b, int left, int right)
{
    for (int i = 0; i < b->n_merge; i++)
        if (b->left[i] == left && b->right[i] == right)
            return true;
    return false;
}

static void make_random_bpe(struct random_bpe *b, uint32_t seed, bool ignore_merges)
{
    char json[16384];
    *b = (struct random_bpe){.n_token = 4};
    for (int i = 0; i < 4; i++)
        b->token[i][0] = (char)('a' + i);
    while (b->n_merge < N_MERGE) {
        int l = (int)draw(&seed, (uint32_t)b->n_token), r = (int)draw(&seed, (uint32_t)b->n_token);
        char made[128];
        (void)snprintf(made, sizeof made, "%s%s", b->token[l], b->token[r]);
        if (strlen(made) > 20 || has_merge(b, l, r))
            continue;
        if (token_of(b, made) < 0)
            strcpy(b->token[b->n_token++], made);
        b->left[b->n_merge] = l;
        b->right[b->n_merge++] = r;
    }
    int n = snprintf(json, sizeof json,
                     "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
                     "\"model\":{\"ignore_merges\":%s,\"vocab\":{",
                     ignore_merges ? "true" : "false");
    for (int i = 0; i < b->n_token; i++)
        n += snprintf(json + n, sizeof json - (size_t)n, "%s\"%s\":%d", i ? "," : "", b->token[i],
                      i);
    n += snprintf(json + n, sizeof json - (size_t)n, "},\"merges\":[");
    for (int i = 0; i < b->n_merge; i++)
        n += snprintf(json + n, sizeof json - (size_t)n, "%s\"%s %s\"", i ? "," : "",
                      b->token[b->left[i]], b->token[b->right[i]]);
    n += snprintf(json + n, sizeof json - (size_t)n, "]}}");
    assert_ok(tokenizer_parse(&b->t, json, (size_t)n, NULL));
}

/* Spec 4.5, word for word: the adjacent pair of lowest rank, the leftmost first. */
static size_t merge_plainly(const struct random_bpe *b, const char *text, size_t n, int32_t *id)
{
    for (size_t i = 0; i < n; i++)
        id[i] = text[i] - 'a';
    for (;;) {
        int rank = b->n_merge;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (int m = 0; m < rank; m++)
                if (b->left[m] == id[i] && b->right[m] == id[i + 1]) {
                    rank = m;
                    at = i;
                }
        if (rank == b->n_merge)
            return n;
        char made[128];
        (void)snprintf(made, sizeof made, "%s%s", b->token[id[at]], b->token[id[at + 1]]);
        id[at] = token_of(b, made);
        memmove(id + at + 1, id + at + 2, (n - at - 2) * sizeof *id);
        n--;
    }
}

static void pieces_of_all_lengths(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 12; seed++) {
        struct random_bpe b;
        uint32_t r = seed;
        make_random_bpe(&b, seed, seed % 3 == 0);
        for (int round = 0; round < 120; round++) {
            char text[256];
            int32_t want[256], got[256];
            size_t len = 1 + draw(&r, round < 80 ? 60 : 200), n;
            for (size_t i = 0; i < len; i++)
                text[i] = (char)('a' + draw(&r, 4));
            text[len] = '\0';
            size_t n_want = merge_plainly(&b, text, len, want);
            if (seed % 3 == 0 && token_of(&b, text) >= 0) {
                want[0] = token_of(&b, text);
                n_want = 1;
            }
            for (int twice = 0; twice < 2; twice++) { /* the second time from the cache */
                assert_ok(tokenizer_encode(b.t, RXT_PLAIN, text, len, got, 256, &n, NULL));
                assert_int_equal(n, n_want);
                assert_memory_equal(got, want, n * sizeof *got);
            }
        }
        tokenizer_destroy(&b.t);
    }
}

/* A megabyte without a place to cut: time must not grow with its square, and it must be right. */
static void hostile_pieces(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    struct random_bpe b;
    make_random_bpe(&b, 5, false);
    char *text = malloc(N);
    int32_t *ids = malloc(N * sizeof *ids);
    assert_true(text && ids);
    uint32_t r = 9;
    for (int kind = 0; kind < 3; kind++) {
        size_t n, len = 0;
        for (size_t i = 0; i < N; i++)
            text[i] = (char)('a' + (kind == 0 ? 0 : kind == 1 ? i % 2 : draw(&r, 4)));
        assert_ok(tokenizer_encode(b.t, RXT_PLAIN, text, N, ids, N, &n, NULL));
        for (size_t i = 0; i < n; i++) {
            const char *token = b.token[ids[i]];
            assert_memory_equal(text + len, token, strlen(token));
            len += strlen(token);
        }
        assert_int_equal(len, N);
    }
    free(text);
    free(ids);
    tokenizer_destroy(&b.t);
}

/* ---- normalizing ------------------------------------------------------------------------ */

static struct token_scratch *scratch_of(struct tokenizer *t, enum token_normal_kind kind)
{
    struct token_scratch *s;
    *t = (struct tokenizer){.normal = {{.kind = kind}}, .n_normal = 1};
    assert_ok(token_scratch_create(&s, t));
    return s;
}

static void assert_normal(enum token_normal_kind kind, const char *text, const char *want)
{
    struct tokenizer t;
    struct token_scratch *s = scratch_of(&t, kind);
    const char *out;
    size_t n;
    assert_ok(token_normalize(s, text, strlen(text), &out, &n));
    assert_int_equal(n, strlen(want));
    assert_memory_equal(out, want, n);
    token_scratch_destroy(&s);
}

static void normal_forms(void **state)
{
    (void)state;
    assert_normal(NORMAL_NFC, "ae\xCC\x81z", "a\xC3\xA9z"); /* the mark joins the last of ASCII */
    assert_normal(NORMAL_NFD, "a\xC3\xA9z", "ae\xCC\x81z");
    assert_normal(NORMAL_NFC, "o\xCC\x82\xCC\xA3", "\xE1\xBB\x99"); /* marks change places */
    assert_normal(NORMAL_NFKC, "\xEF\xAC\x83", "ffi");
    assert_normal(NORMAL_NFKD, "\xE3\x8E\x8F", "kg");
    assert_normal(NORMAL_NFC, "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xEA\xB0\x81"); /* Hangul */
    assert_normal(NORMAL_LOWERCASE, "A\xC4\xB0\xCE\xA3", "ai\xCC\x87\xCF\x83"); /* no final sigma */
    assert_normal(NORMAL_NFC, "", "");
}

/* Half a million marks in the worst order are sorted without a square. */
static void hostile_marks(void **state)
{
    (void)state;
    enum { N = 500000 };
    struct tokenizer t;
    struct token_scratch *s = scratch_of(&t, NORMAL_NFD);
    char *text = malloc(2 * N);
    const char *out;
    size_t n;
    assert_non_null(text);
    for (size_t i = 0; i < N; i++)
        (void)utf8_put(i % 2 ? 0x323 : 0x301, text + 2 * i); /* class 220 after 230 */
    assert_ok(token_normalize(s, text, 2 * N, &out, &n));
    assert_int_equal(n, 2 * N);
    for (size_t i = 0; i < N; i++)
        assert_memory_equal(out + 2 * i, i < N / 2 ? "\xCC\xA3" : "\xCC\x81", 2);
    free(text);
    token_scratch_destroy(&s);
}

/* ---- patterns --------------------------------------------------------------------------- */

/* By hand and by PCRE2: the same pieces of the GPT-2 expression. */
static void two_ways_to_split(void **state)
{
    (void)state;
    static const int32_t alphabet[] = {
        'a',     'Z',   '\'',  's',  'r',   'e',    'l',    ' ',    ' ',  '\t',
        '\n',    '7',   '!',   0xA0, 0x85,  0x2003, 0x3000, 0x180E, 0xE9, 0x65E5,
        0x1F600, 0x301, 0x93F, 0xB2, 0x660, 0x2167, 0x200D, 0,      0x1C, 0x2028};
    struct token_regex *re;
    struct token_matcher *m;
    uint32_t r = 3;
    assert_ok(token_regex_create(&re, TOKEN_GPT2, strlen(TOKEN_GPT2), NULL));
    assert_ok(token_matcher_create(&m));
    for (int round = 0; round < 3000; round++) {
        char text[200];
        size_t n = 0;
        for (uint32_t k = draw(&r, 40); k > 0; k--)
            n += utf8_put(alphabet[draw(&r, sizeof alphabet / sizeof *alphabet)], text + n);
        for (size_t at = 0; at < n;) {
            size_t from, to;
            assert_ok(token_regex_find(re, m, text, n, at, &from, &to, NULL));
            assert_int_equal(from, at);
            assert_int_equal(token_gpt2_next(text + at, text + n) - text, to);
            at = to;
        }
    }
    token_matcher_destroy(&m);
    token_regex_destroy(&re);
}

static void refused_patterns(void **state)
{
    (void)state;
    static const char *const bad[] = {"^a",
                                      "a$",
                                      "\\w+",
                                      "\\bx",
                                      "\\h",
                                      "\\x41",
                                      "\\u0041",
                                      "\\1",
                                      "\\K",
                                      "\\",
                                      "[[:alpha:]]",
                                      "[a&&b]",
                                      "[]a]",
                                      "[^]a]",
                                      "[a",
                                      "a{,3}",
                                      "a{2}+",
                                      "a{2}?",
                                      "a{2}{3}",
                                      "a{",
                                      "{",
                                      "(?<n>a)",
                                      "(?#x)",
                                      "(?m:a)",
                                      "(?i)a",
                                      "(*FAIL)",
                                      "(?~a)",
                                      "(?i:ss)",
                                      "(?i:aFI)",
                                      "(?i:\xC3\xA9)",
                                      "(?i:[\xC3\xA9])",
                                      "(?i:a(?:st))",
                                      "\\pL",
                                      "\\p{^L}",
                                      "\\p{L",
                                      "\\p{Nonsense}",
                                      "\\p{}",
                                      "a**",
                                      "(a",
                                      "a)",
                                      "(?<=a+)b",
                                      ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct token_regex *re;
        struct rxt_error why = {""};
        if (token_regex_create(&re, bad[i], strlen(bad[i]), &why) == RXT_OK)
            fail_msg("accepted: %s", bad[i]);
        assert_null(re);
        assert_true(strncmp(why.text, "regular expression: ", 20) == 0);
    }
    char deep[100];
    memset(deep, '(', 50);
    memset(deep + 50, ')', 50);
    struct token_regex *re;
    assert_status(RXT_EUNSUPPORTED, token_regex_create(&re, deep, 100, NULL));
}

/* A pattern that backtracks without end is given up, with or without the help of the text. */
static void endless_pattern(void **state)
{
    (void)state;
    struct token_regex *re;
    struct token_matcher *m;
    char text[64];
    size_t from, to;
    struct rxt_error err = {""};
    memset(text, 'a', sizeof text);
    assert_ok(token_regex_create(&re, "(?:a|a|aa)+\\d", 13, NULL));
    assert_ok(token_matcher_create(&m));
    assert_status(RXT_ELIMIT, token_regex_find(re, m, text, sizeof text, 0, &from, &to, &err));
    assert_non_null(strstr(err.text, "gives up"));
    assert_status(RXT_ENOTFOUND, token_regex_find(re, m, text, 8, 0, &from, &to, &err));
    token_matcher_destroy(&m);
    token_regex_destroy(&re);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_of_all_lengths), cmocka_unit_test(hostile_pieces),
        cmocka_unit_test(normal_forms),          cmocka_unit_test(hostile_marks),
        cmocka_unit_test(two_ways_to_split),     cmocka_unit_test(refused_patterns),
        cmocka_unit_test(endless_pattern),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
