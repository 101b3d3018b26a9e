#include "rxt/tokenizer_impl.h"

#include "kernels/base/mem.h"
#include "tests/lib/test.h"

#include <jansson.h>
#include <pthread.h>

#define BUNDLED "models/demo-15m/tokenizer.json"

static struct tokenizer *open_bundled(void)
{
    struct tokenizer *t = NULL;
    struct rxt_error err = {""};
    assert_ok(tokenizer_open(&t, BUNDLED, &err));
    return t;
}

static struct tokenizer *parse(const char *json)
{
    struct tokenizer *t = NULL;
    struct rxt_error err = {""};
    enum rxt_status st = tokenizer_parse(&t, json, strlen(json), &err);
    if (st != RXT_OK)
        print_error("%s\n", err.text);
    assert_ok(st);
    return t;
}

static void assert_ids_n(const struct tokenizer *t, enum rxt_text_mode mode, const char *text,
                         size_t len, const int32_t *want, size_t n_want)
{
    int32_t ids[4096];
    size_t n;
    assert_ok(tokenizer_encode(t, mode, text, len, ids, 4096, &n, NULL));
    assert_int_equal(n, n_want);
    if (n)
        assert_memory_equal(ids, want, n * sizeof *ids);
}

#define assert_ids(t, mode, text, ...)                                                  \
    do {                                                                                \
        const int32_t want_[] = {__VA_ARGS__};                                          \
        assert_ids_n(t, mode, text, strlen(text), want_, sizeof want_ / sizeof *want_); \
    } while (0)

/* ---- against given answers -------------------------------------------------------------- */

static void assert_decodes_to(const struct tokenizer *t, const int32_t *ids, size_t n,
                              const char *want)
{
    char text[8192], piece[RXT_PIECE_MAX];
    size_t len = 0;
    struct rxt_text d = {0};
    for (size_t i = 0; i < n; i++) {
        size_t k = tokenizer_decode(t, &d, false, ids[i], piece);
        assert_true(len + k + 4 < sizeof text);
        memcpy(text + len, piece, k);
        len += k;
    }
    len += tokenizer_decode_end(&d, text + len);
    assert_int_equal(len, strlen(want));
    assert_memory_equal(text, want, len);
}

/* Texts, ids and decoded texts that the library gave for the bundled model. */
static void golden_vectors(void **state)
{
    (void)state;
    struct tokenizer *t = open_bundled();
    json_t *all = json_load_file("tests/golden/demo-15m/tokenizer_vectors.json", 0, NULL);
    assert_true(json_array_size(all) > 10);
    for (size_t v = 0; v < json_array_size(all); v++) {
        const json_t *one = json_array_get(all, v), *id = json_object_get(one, "ids");
        const json_t *text = json_object_get(one, "text");
        int32_t want[1024];
        size_t n = json_array_size(id);
        assert_true(n < 1024);
        for (size_t i = 0; i < n; i++)
            want[i] = (int32_t)json_integer_value(json_array_get(id, i));
        assert_ids_n(t, RXT_SPECIAL, json_string_value(text), json_string_length(text), want, n);
        assert_decodes_to(t, want, n, json_string_value(json_object_get(one, "decoded")));
    }
    json_decref(all);
    tokenizer_destroy(&t);
}

/* The example of spec 4. */
static void spec_example(void **state)
{
    (void)state;
    struct tokenizer *t = open_bundled();
    assert_ids(t, RXT_SPECIAL, "[BOS][Q]My name is Anna.", 2, 5, 538, 521, 289, 1783, 1259, 20);
    const int32_t answer[] = {999, 279, 1223, 276, 18, 1783, 1259, 7, 3};
    assert_decodes_to(t, answer, 9, "Nice to meet you, Anna!");
    assert_ids_n(t, RXT_PLAIN, "", 0, NULL, 0);
    assert_ids_n(t, RXT_SPECIAL, "", 0, NULL, 0);
    tokenizer_destroy(&t);
}

#define LETTERS \
    "\"h\":0,\"i\":1,\"\xC4\xA0\":2,\"[\":3,\"]\":4,\"Q\":5,\"A\":6,\"hi\":7,\"\xC4\xA0hi\":8"
#define ADDED(id, text, special)                                                       \
    "{\"id\":" #id ",\"content\":\"" text "\",\"single_word\":false,\"lstrip\":false," \
    "\"rstrip\":false,\"normalized\":false,\"special\":" #special "}"
#define FILE_OF(added, pre, merges)                                            \
    "{\"version\":\"1.0\",\"added_tokens\":[" added "],\"pre_tokenizer\":" pre \
    ",\"model\":{\"type\":\"BPE\",\"vocab\":{" LETTERS "},\"merges\":" merges "}}"
#define PREFIXED "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}"
#define UNPREFIXED "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define MERGES "[[\"h\",\"i\"],[\"\xC4\xA0\",\"hi\"]]"

/* The prefix space goes before each segment between special tokens that has none (spec 4). */
static void prefix_space(void **state)
{
    (void)state;
    struct tokenizer *t = parse(FILE_OF(ADDED(9, "[Q]", true), PREFIXED, MERGES));
    assert_ids(t, RXT_SPECIAL, "[Q]hi[Q] hi[Q][Q] ", 9, 8, 9, 8, 9, 9, 2);
    assert_ids(t, RXT_PLAIN, "hi", 8);
    assert_ids_n(t, RXT_SPECIAL, "", 0, NULL, 0);
    tokenizer_destroy(&t);
}

/* In plain text the string of a special token is its letters; another added token is still cut. */
static void two_modes(void **state)
{
    (void)state;
    struct tokenizer *t =
        parse(FILE_OF(ADDED(9, "[Q]", true) "," ADDED(10, "[A]", false), UNPREFIXED, MERGES));
    assert_ids(t, RXT_SPECIAL, "hi[Q]hi[A]", 7, 9, 7, 10);
    assert_ids(t, RXT_PLAIN, "hi[Q]hi[A]", 7, 3, 5, 4, 7, 10);
    struct rxt_error err = {""};
    assert_ok(tokenizer_mark_special(t, 10, &err));
    assert_ids(t, RXT_PLAIN, "[A]", 3, 6, 4);
    assert_true(tokenizer_is_special(t, 10));
    assert_status(RXT_EINVAL, tokenizer_mark_special(t, 11, &err));
    assert_status(RXT_EINVAL, tokenizer_mark_special(t, -1, &err));
    assert_status(RXT_EUNSUPPORTED, tokenizer_mark_special(t, 7, &err)); /* a merge makes it */
    assert_status(RXT_EUNSUPPORTED, tokenizer_mark_special(t, 0, &err)); /* a letter */
    tokenizer_destroy(&t);
}

/* No text of letters and brackets yields a special id in plain mode. */
static void plain_text_forges_nothing(void **state)
{
    (void)state;
    struct tokenizer *t = open_bundled();
    const char *parts[] = {"[PAD]", "[BOS]", "[EOS]", "[Q]", "[A]", "[", "]", " ", "Q", "\n"};
    uint32_t r = 1;
    for (int round = 0; round < 2000; round++) {
        char text[256] = "";
        int32_t ids[256];
        size_t n;
        for (int k = 0; k < 12; k++) {
            r = r * 1664525 + 1013904223;
            strcat(text, parts[(r >> 16) % 10]);
        }
        assert_ok(tokenizer_encode(t, RXT_PLAIN, text, strlen(text), ids, 256, &n, NULL));
        for (size_t i = 0; i < n; i++)
            assert_false(tokenizer_is_special(t, ids[i]));
        assert_decodes_to(t, ids, n, text);
    }
    tokenizer_destroy(&t);
}

/* Bytes that the vocabulary lacks: nothing, the unknown token for each, or one for a run. */
static void unknown_bytes(void **state)
{
    (void)state;
    struct tokenizer *t = parse(FILE_OF("", UNPREFIXED, MERGES));
    assert_ids(t, RXT_PLAIN, "hxixxhi", 7, 7); /* what is left closes up, and merges */
    tokenizer_destroy(&t);
    const char *unk =
        "{\"added_tokens\":[],\"pre_tokenizer\":" UNPREFIXED ",\"model\":{\"vocab\":{" LETTERS
        ",\"<u>\":9},\"merges\":" MERGES ",\"unk_token\":\"<u>\"}}";
    t = parse(unk);
    assert_ids(t, RXT_PLAIN, "hxixxhi", 0, 9, 1, 9, 9, 7);
    tokenizer_destroy(&t);
    const char *fused = "{\"added_tokens\":[],\"pre_tokenizer\":" UNPREFIXED
                        ",\"model\":{\"fuse_unk\":true,\"merges\":" MERGES
                        ",\"unk_token\":\"<u>\",\"vocab\":{" LETTERS ",\"<u>\":9}}}";
    t = parse(fused);
    assert_ids(t, RXT_PLAIN, "hxixxhi x", 0, 9, 1, 9, 7, 2, 9);
    tokenizer_destroy(&t);
}

/* ---- limits and refusals ---------------------------------------------------------------- */

static void small_room(void **state)
{
    (void)state;
    struct tokenizer *t = open_bundled();
    struct rxt_error err = {""};
    const int32_t want[] = {538, 521, 289, 1783, 1259, 20};
    for (size_t cap = 0; cap <= 6; cap++) {
        int32_t ids[8] = {-7, -7, -7, -7, -7, -7, -7, -7};
        size_t n;
        assert_status(cap < 6 ? RXT_ELIMIT : RXT_OK,
                      tokenizer_encode(t, RXT_PLAIN, "My name is Anna.", 16, ids, cap, &n, &err));
        assert_int_equal(n, 6);
        assert_memory_equal(ids, want, cap * sizeof *ids);
        for (size_t i = cap; i < 8; i++)
            assert_int_equal(ids[i], -7);
    }
    tokenizer_destroy(&t);
}

static void bad_utf8(void **state)
{
    (void)state;
    struct tokenizer *t = open_bundled();
    const struct {
        const char *text;
        size_t at;
    } table[] = {
        {"\x80", 0},              /* continuation without a lead */
        {"abc\xFF", 3},           /* no lead at all */
        {"abcdefgh\xC0\x80", 8},  /* overlong NUL */
        {"a\xE0\x9F\xBF", 1},     /* overlong */
        {"a\xED\xA0\x80", 1},     /* surrogate */
        {"a\xF4\x90\x80\x80", 1}, /* above U+10FFFF */
        {"a\xF0\x8F\xBF\xBF", 1}, /* overlong */
        {"ab\xE2\x82", 2},        /* cut short */
        {"\xE2\x82\xAC\xC3", 3},  /* cut short after a whole one */
        {"[Q]\xC3[Q]", 3},        /* between special tokens */
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        for (int mode = RXT_PLAIN; mode <= RXT_SPECIAL; mode++) {
            struct rxt_error err = {""};
            char where[32];
            int32_t ids[16];
            size_t n = 99;
            assert_status(RXT_EUTF8, tokenizer_encode(t, (enum rxt_text_mode)mode, table[i].text,
                                                      strlen(table[i].text), ids, 16, &n, &err));
            assert_int_equal(n, 0);
            (void)snprintf(where, sizeof where, "at byte %zu ", table[i].at);
            assert_non_null(strstr(err.text, where));
        }
    tokenizer_destroy(&t);
}

static void names_of_ids(void **state)
{
    (void)state;
    struct tokenizer *t = open_bundled();
    assert_int_equal(tokenizer_n_id(t), 6144);
    assert_int_equal(tokenizer_id(t, "[EOS]", 5), 3);
    assert_int_equal(tokenizer_id(t, "[EO", 3), -1);
    assert_int_equal(tokenizer_id(t, "", 0), -1);
    assert_string_equal(tokenizer_token(t, 6), "[A]");
    assert_string_equal(tokenizer_token(t, 1783), "\xC4\xA0"
                                                  "An");
    assert_null(tokenizer_token(t, 6144));
    assert_null(tokenizer_token(t, -1));
    for (int32_t id = 0; id < 6144; id++) {
        const char *s = tokenizer_token(t, id);
        assert_int_equal(tokenizer_id(t, s, strlen(s)), id);
        assert_int_equal(tokenizer_is_special(t, id), id < 7);
    }
    assert_false(tokenizer_is_special(t, 99999));
    tokenizer_destroy(&t);
}

static void files(void **state)
{
    (void)state;
    struct tokenizer *t = NULL;
    struct rxt_error err = {""};
    char *dir = test_dir_make(), path[512];
    assert_status(RXT_EFORMAT, tokenizer_open(&t, dir, &err));
    (void)snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    assert_status(RXT_EIO, tokenizer_open(&t, path, &err));
    assert_non_null(strstr(err.text, path));
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    (void)fclose(f);
    assert_status(RXT_EFORMAT, tokenizer_open(&t, path, &err));
    f = fopen(path, "wb");
    (void)fputs("{\"model\": 1}", f);
    (void)fclose(f);
    assert_status(RXT_EFORMAT, tokenizer_open(&t, path, &err));
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "byte 10"));
    assert_null(t);
    test_dir_remove(dir);
}

/* ---- memory and threads ----------------------------------------------------------------- */

/* Every setting that allocates: pattern, normalizer, added tokens. */
static const char *const everything = "{\"added_tokens\":[" ADDED(
    9, "[Q]",
    true) ",{\"id\":10,\"content\":\"QQ\",\"single_word\":"
          "false,\"lstrip\":true,\"rstrip\":true,\"normalized\":true,\"special\":false}],"
          "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKD\"},"
          "{\"type\":\"Prepend\",\"prepend\":\"h\"},{\"type\":\"Replace\",\"pattern\":"
          "{\"String\":\"x\"},\"content\":\"hi\"}]},"
          "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
          "\"pattern\":"
          "{\"Regex\":\"\\\\s+|\\\\p{N}\"},\"behavior\":\"Isolated\",\"invert\":false}," PREFIXED
          "]},\"model\":{\"ignore_merges\":true,\"vocab\":{" LETTERS "},\"merges\":" MERGES "}}";

/* One long piece behind a special token and a mark to normalize. */
static void fill_text(char *text, size_t n)
{
    static const char head[] = "[Q]hi \xC3\xA9";
    memset(text, 'x', n);
    memcpy(text, head, sizeof head - 1);
}

static enum rxt_status open_and_encode(void *arg)
{
    (void)arg;
    enum rxt_status st;
    struct tokenizer *t = NULL;
    char text[3000];
    int32_t ids[4096];
    size_t n;
    fill_text(text, sizeof text);
    TRY_OR(end, tokenizer_parse(&t, everything, strlen(everything), NULL));
    TRY_OR(end, tokenizer_encode(t, RXT_SPECIAL, text, sizeof text, ids, 4096, &n, NULL));
end:
    tokenizer_destroy(&t);
    return st;
}

static enum rxt_status open_a_file(void *arg)
{
    (void)arg;
    struct tokenizer *t = NULL;
    struct rxt_error err;
    enum rxt_status st = tokenizer_open(&t, BUNDLED, &err);
    tokenizer_destroy(&t);
    return st;
}

static void out_of_memory(void **state)
{
    (void)state;
    assert_survives_no_memory(open_and_encode, NULL);
    assert_survives_no_memory(open_a_file, NULL);
}

static void second_call_allocates_nothing(void **state)
{
    (void)state;
    struct tokenizer *t = parse(everything);
    char text[5000];
    int32_t ids[16384];
    size_t n;
    fill_text(text, sizeof text);
    assert_ok(tokenizer_encode(t, RXT_SPECIAL, text, sizeof text, ids, 16384, &n, NULL));
    uint64_t before = mem_stats().count;
    for (size_t len = 8; len <= sizeof text; len += 499)
        assert_ok(tokenizer_encode(t, RXT_PLAIN, text, len, ids, 16384, &n, NULL));
    assert_int_equal(mem_stats().count, before);
    tokenizer_destroy(&t);
}

#define N_THREAD 4
struct reader {
    const struct tokenizer *t;
    pthread_t thread;
    uint32_t sum;
};

static void *encode_many(void *arg)
{
    struct reader *r = arg;
    int32_t ids[64];
    for (int i = 0; i < 500; i++) {
        char text[64];
        size_t n;
        int len = snprintf(text, sizeof text, "[Q]number %d is%*s not %d", i, i % 7, "", 500 - i);
        if (tokenizer_encode(r->t, i % 2 ? RXT_PLAIN : RXT_SPECIAL, text, (size_t)len, ids, 64, &n,
                             NULL) != RXT_OK)
            break;
        for (size_t k = 0; k < n; k++)
            r->sum = r->sum * 31 + (uint32_t)ids[k];
    }
    return NULL;
}

static void threads_share_a_tokenizer(void **state)
{
    (void)state;
    struct tokenizer *t = open_bundled();
    struct reader alone = {.t = t}, r[N_THREAD];
    (void)encode_many(&alone);
    assert_true(alone.sum != 0);
    for (int i = 0; i < N_THREAD; i++) {
        r[i] = (struct reader){.t = t};
        assert_int_equal(pthread_create(&r[i].thread, NULL, encode_many, &r[i]), 0);
    }
    for (int i = 0; i < N_THREAD; i++)
        assert_int_equal(pthread_join(r[i].thread, NULL), 0);
    for (int i = 0; i < N_THREAD; i++)
        assert_int_equal(r[i].sum, alone.sum);
    tokenizer_destroy(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_vectors),
        cmocka_unit_test(spec_example),
        cmocka_unit_test(prefix_space),
        cmocka_unit_test(two_modes),
        cmocka_unit_test(plain_text_forges_nothing),
        cmocka_unit_test(unknown_bytes),
        cmocka_unit_test(small_room),
        cmocka_unit_test(bad_utf8),
        cmocka_unit_test(names_of_ids),
        cmocka_unit_test(files),
        cmocka_unit_test(out_of_memory),
        cmocka_unit_test(second_call_allocates_nothing),
        cmocka_unit_test(threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
