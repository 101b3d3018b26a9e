/* What a tokenizer.json may not say, and what is answered: the status, and the words that tell a
 * person where to look. */
#include "rxt/token_impl.h"
#include "rxt/token_json_impl.h"

#include "kernels/base/mem.h"
#include "tests/lib/test.h"

#define ADDED                                                               \
    "{\"id\":3,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false," \
    "\"rstrip\":false,\"normalized\":false,\"special\":true}"
#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define MODEL "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\",\"b\"]]}"

/* A file of three parts, each given or as above. */
static char *file_of(const char *added, const char *normalizer, const char *pre, const char *model)
{
    static char json[65536];
    (void)snprintf(json, sizeof json,
                   "{\"version\":\"1.0\",\"truncation\":null,\"padding\":{\"x\":[1,-2.5e3,true]},"
                   "\"added_tokens\":[%s],\"normalizer\":%s,\"pre_tokenizer\":%s,"
                   "\"post_processor\":{\"type\":\"any\"},\"decoder\":null,\"model\":%s}",
                   added ? added : ADDED, normalizer ? normalizer : "null", pre ? pre : BYTE_LEVEL,
                   model ? model : MODEL);
    return json;
}

static void assert_refused_n(const char *json, size_t len, enum rxt_status want, const char *words)
{
    struct tokenizer *t = NULL;
    struct rxt_error err = {""};
    uint64_t live = mem_stats().live_bytes;
    enum rxt_status got = tokenizer_parse(&t, json, len, &err);
    if (got != want || !strstr(err.text, words))
        fail_msg("%.300s\n  %s: %s\n  want %s: %s", json, rxt_status_name(got), err.text,
                 rxt_status_name(want), words);
    assert_null(t);
    assert_int_equal(mem_stats().live_bytes, live);
}

static void assert_refused(const char *json, enum rxt_status want, const char *words)
{
    assert_refused_n(json, strlen(json), want, words);
}

static void assert_accepted(const char *json)
{
    struct tokenizer *t = NULL;
    struct rxt_error err = {""};
    if (tokenizer_parse(&t, json, strlen(json), &err) != RXT_OK)
        fail_msg("%s\n  %s", json, err.text);
    tokenizer_destroy(&t);
}

struct row {
    const char *part;
    enum rxt_status want;
    const char *words;
};

static void whole_files(void **state)
{
    (void)state;
    static const struct row table[] = {
        {"", RXT_EFORMAT, "not an object"},
        {"[]", RXT_EFORMAT, "not an object"},
        {"nonsense", RXT_EFORMAT, "byte 0"},
        {"{", RXT_EFORMAT, "not a string"},
        {"{\"version\"", RXT_EFORMAT, "no :"},
        {"{\"version\":", RXT_EFORMAT, "not a string"},
        {"{\"version\":\"2.0\"}", RXT_EUNSUPPORTED, "only 1.0"},
        {"{\"version\":\"1.0\"}", RXT_EFORMAT, "no model"},
        {"{\"version\":\"1.0\",}", RXT_EFORMAT, "not a string"},
        {"{\"version\":\"1.0\" \"x\":1}", RXT_EFORMAT, "no , or }"},
        {"{,\"version\":\"1.0\"}", RXT_EFORMAT, "not a string"},
        {"{\"version\":\"1.0\",\"version\":\"1.0\"}", RXT_EFORMAT, "version: field given twice"},
        {"{\"colour\":1}", RXT_EUNSUPPORTED, "unknown field colour"},
        {"{\"a\\nb\":1}", RXT_EUNSUPPORTED, "unknown field a?b"},
        {"{\"padding\":01}", RXT_EFORMAT, "no , or }"},
        {"{\"padding\":1.}", RXT_EFORMAT, "digit is missing"},
        {"{\"padding\":-}", RXT_EFORMAT, "digit is missing"},
        {"{\"padding\":1e}", RXT_EFORMAT, "digit is missing"},
        {"{\"padding\":+1}", RXT_EFORMAT, "value is missing"},
        {"{\"padding\":nul}", RXT_EFORMAT, "not null"},
        {"{\"padding\":tru}", RXT_EFORMAT, "not true or false"},
        {"{\"padding\":[1 2]}", RXT_EFORMAT, "no , or ]"},
        {"{\"padding\":[1,]}", RXT_EFORMAT, "value is missing"},
        {"{\"padding\":\"\\x\"}", RXT_EFORMAT, "bad escape"},
        {"{\"padding\":\"\\u12g4\"}", RXT_EFORMAT, "bad escape"},
        {"{\"padding\":\"\\ud800\"}", RXT_EFORMAT, "bad escape"},
        {"{\"padding\":\"\\udc00\\ud800\"}", RXT_EFORMAT, "bad escape"},
        {"{\"padding\":\"\\ud800\\u0041\"}", RXT_EFORMAT, "bad escape"},
        {"{\"padding\":\"\\u12", RXT_EFORMAT, "bad escape"},
        {"{\"padding\":\"\\", RXT_EFORMAT, "bad escape"},
        {"{\"padding\":\"a", RXT_EFORMAT, "string without an end"},
        {"{\"padding\":\"a\nb\"}", RXT_EFORMAT, "control character"},
        {"{\"padding\":\"\xC3\"}", RXT_EUTF8, "byte 12"},
        {"\xEF\xBB\xBF{}", RXT_EFORMAT, "byte 0"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_refused(table[i].part, table[i].want, table[i].words);
    const char *good = file_of(NULL, NULL, NULL, NULL);
    assert_accepted(good);
    char more[70000];
    (void)snprintf(more, sizeof more, "%s x", good);
    assert_refused(more, RXT_EFORMAT, "more than one");
    (void)snprintf(more, sizeof more, " %s \t\r\n", good);
    assert_accepted(more);
    assert_refused_n(good, strlen(good) + 1, RXT_EFORMAT, "more than one"); /* a NUL behind it */
    for (size_t n = 0; n < strlen(good); n++) {                             /* cut at every byte */
        struct tokenizer *t = NULL;
        assert_status(RXT_EFORMAT, tokenizer_parse(&t, good, n, NULL));
    }
}

static void nesting(void **state)
{
    (void)state;
    char deep[20000] = "{\"padding\":";
    size_t n = strlen(deep);
    memset(deep + n, '[', 10000);
    assert_refused_n(deep, n + 10000, RXT_ELIMIT, "nested deeper");
    char steps[20000] = "";
    for (int i = 0; i < 40; i++)
        strcat(steps, "{\"type\":\"Sequence\",\"normalizers\":[");
    strcat(steps, "{\"type\":\"NFC\"}");
    for (int i = 0; i < 40; i++)
        strcat(steps, "]}");
    assert_refused(file_of(NULL, steps, NULL, NULL), RXT_ELIMIT, "nested deeper");
}

static void models(void **state)
{
    (void)state;
    static const struct row table[] = {
        {"null", RXT_EFORMAT, "not an object"},
        {"{}", RXT_EFORMAT, "no vocab or no merges"},
        {"{\"vocab\":{}}", RXT_EFORMAT, "no vocab or no merges"},
        {"{\"type\":\"Unigram\"}", RXT_EUNSUPPORTED, "only BPE"},
        {"{\"type\":7}", RXT_EFORMAT, "not a string"},
        {"{\"vocab\":[],\"merges\":[]}", RXT_EFORMAT, "not an object"},
        {"{\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}", RXT_EFORMAT, "there already"},
        {"{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}", RXT_EFORMAT, "there already"},
        {"{\"vocab\":{\"a\":-1},\"merges\":[]}", RXT_EFORMAT, "not a whole number"},
        {"{\"vocab\":{\"a\":1.5},\"merges\":[]}", RXT_EFORMAT, "not a whole number"},
        {"{\"vocab\":{\"a\":1e3},\"merges\":[]}", RXT_EFORMAT, "not a whole number"},
        {"{\"vocab\":{\"a\":007},\"merges\":[]}", RXT_EFORMAT, "not a whole number"},
        {"{\"vocab\":{\"a\":\"0\"},\"merges\":[]}", RXT_EFORMAT, "not a whole number"},
        {"{\"vocab\":{\"a\":null},\"merges\":[]}", RXT_EFORMAT, "not a whole number"},
        {"{\"vocab\":{\"a\":1048576},\"merges\":[]}", RXT_ELIMIT, "too large"},
        {"{\"vocab\":{\"a\":4294967296},\"merges\":[]}", RXT_ELIMIT, "too large"},
        {"{\"vocab\":{\"a\":99999999999999999999999999},\"merges\":[]}", RXT_ELIMIT, "too large"},
        {"{\"vocab\":{\"\\u0000\":0},\"merges\":[]}", RXT_EUNSUPPORTED, "NUL"},
        {"{\"vocab\":{\"a\":0},\"merges\":{}}", RXT_EFORMAT, "not an array"},
        {"{\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}", RXT_EFORMAT, "not in the vocabulary"},
        {"{\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}", RXT_EFORMAT, "not in the vocabulary"},
        {"{\"vocab\":{\"a\":0},\"merges\":[\"aa\"]}", RXT_EFORMAT, "two parts"},
        {"{\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]}", RXT_EFORMAT, "two parts"},
        {"{\"vocab\":{\"a\":0},\"merges\":[\" a\"]}", RXT_EFORMAT, "not in the vocabulary"},
        {"{\"vocab\":{\"a\":0,\"\":1},\"merges\":[[\"\",\"a\"]]}", RXT_EFORMAT, "vocabulary"},
        {"{\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}", RXT_EFORMAT, "less than two"},
        {"{\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"a\",\"a\"]]}", RXT_EFORMAT, "more than two"},
        {"{\"vocab\":{\"a\":0},\"merges\":[[\"a\",1]]}", RXT_EFORMAT, "not a string"},
        {"{\"vocab\":{\"a\":0},\"merges\":[7]}", RXT_EFORMAT, "not an array"},
        {"{\"vocab\":{},\"merges\":[],\"unk_token\":\"a\"}", RXT_EFORMAT, "unk_token: needed"},
        {"{\"dropout\":0.1}", RXT_EUNSUPPORTED, "dropout"},
        {"{\"dropout\":0}", RXT_EUNSUPPORTED, "dropout"},
        {"{\"byte_fallback\":true}", RXT_EUNSUPPORTED, "byte_fallback"},
        {"{\"continuing_subword_prefix\":\"##\"}", RXT_EUNSUPPORTED, "continuing_subword_prefix"},
        {"{\"end_of_word_suffix\":\"</w>\"}", RXT_EUNSUPPORTED, "end_of_word_suffix"},
        {"{\"ignore_merges\":null}", RXT_EFORMAT, "ignore_merges"},
        {"{\"fuse_unk\":1}", RXT_EFORMAT, "fuse_unk"},
        {"{\"speed\":1}", RXT_EUNSUPPORTED, "unknown field speed"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_refused(file_of("", NULL, NULL, table[i].part), table[i].want, table[i].words);
    /* Off is off, however it is written; holes between ids, merges before vocab, the comment. */
    assert_accepted(file_of("", NULL, NULL,
                            "{\"dropout\":null,\"byte_fallback\":false,\"end_of_word_suffix\":\"\","
                            "\"continuing_subword_prefix\":null,\"merges\":[\"#version: 0.2\","
                            "\"a b\"],\"vocab\":{\"a\":1048575,\"b\":7,\"ab\":0}}"));
}

static void long_tokens(void **state)
{
    (void)state;
    char model[4096] = "{\"vocab\":{\"";
    size_t n = strlen(model);
    memset(model + n, 'a', 338);
    strcpy(model + n + 338, "\":0},\"merges\":[]}");
    assert_accepted(file_of("", NULL, NULL, model));
    memset(model + n, 'a', 339);
    strcpy(model + n + 339, "\":0},\"merges\":[]}");
    assert_refused(file_of("", NULL, NULL, model), RXT_ELIMIT, "338 letters");
    memset(model + n, 'a', 2000);
    strcpy(model + n + 2000, "\":0},\"merges\":[]}");
    assert_refused(file_of("", NULL, NULL, model), RXT_ELIMIT, "too long");
    model[n] = '\\'; /* an escape takes the other way through the reader */
    model[n + 1] = 'n';
    assert_refused(file_of("", NULL, NULL, model), RXT_ELIMIT, "too long");
}

#define FLAGS ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":"
static void added_tokens(void **state)
{
    (void)state;
    static const struct row table[] = {
        {"7", RXT_EFORMAT, "not an object"},
        {"{}", RXT_EFORMAT, "missing"},
        {"{\"id\":3,\"content\":\"<s>\"" FLAGS "false}", RXT_EFORMAT, "missing"},
        {"{\"id\":3,\"content\":\"\"" FLAGS "false,\"special\":true}", RXT_EFORMAT, "empty"},
        {"{\"id\":4,\"content\":\"<s>\"" FLAGS "false,\"special\":true}", RXT_EFORMAT, "the next"},
        {"{\"id\":0,\"content\":\"<s>\"" FLAGS "false,\"special\":true}", RXT_EFORMAT, "the next"},
        {"{\"id\":1,\"content\":\"ab\"" FLAGS "false,\"special\":true}", RXT_EFORMAT, "the next"},
        {"{\"id\":2,\"content\":\"ab\"" FLAGS "false,\"special\":true}", RXT_EUNSUPPORTED,
         "yields"},
        {"{\"id\":0,\"content\":\"a\"" FLAGS "false,\"special\":true}", RXT_EUNSUPPORTED, "yields"},
        {"{\"id\":3,\"content\":\"\\u0000\"" FLAGS "false,\"special\":true}", RXT_EUNSUPPORTED,
         "NUL"},
        {"{\"id\":3,\"content\":7" FLAGS "false,\"special\":true}", RXT_EFORMAT, "not a string"},
        {"{\"id\":3,\"content\":\"<s>\"" FLAGS "0,\"special\":true}", RXT_EFORMAT, "normalized"},
        {"{\"id\":3,\"colour\":7}", RXT_EUNSUPPORTED, "colour"},
        {ADDED "," ADDED, RXT_EFORMAT, "given twice"},
        {ADDED ",", RXT_EFORMAT, "value is missing"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_refused(file_of(table[i].part, NULL, NULL, NULL), table[i].want, table[i].words);
    assert_accepted(
        file_of("{\"id\":2,\"content\":\"ab\"" FLAGS "false,\"special\":false}", NULL, NULL, NULL));
    /* Which of two would be meant, where the normalizer makes them one? */
    const char *lower = "{\"type\":\"Lowercase\"}";
    const char *two = "{\"id\":3,\"content\":\"X\"" FLAGS "true,\"special\":false},"
                      "{\"id\":4,\"content\":\"x\"" FLAGS "true,\"special\":false}";
    assert_accepted(file_of(two, NULL, NULL, NULL));
    assert_refused(file_of(two, lower, NULL, NULL), RXT_EUNSUPPORTED, "token 4 equal to another");
    assert_refused(file_of("{\"id\":3,\"content\":\"X\"" FLAGS "true,\"special\":false}",
                           "{\"type\":\"Replace\",\"pattern\":{\"String\":\"X\"},\"content\":\"\"}",
                           NULL, NULL),
                   RXT_EUNSUPPORTED, "token 3 equal to nothing");
}

static void normalizers(void **state)
{
    (void)state;
    static const struct row table[] = {
        {"7", RXT_EFORMAT, "not an object"},
        {"{}", RXT_EUNSUPPORTED, "type is not supported"},
        {"{\"type\":\"BertNormalizer\"}", RXT_EUNSUPPORTED, "BertNormalizer"},
        {"{\"type\":\"NFC\",\"type\":\"NFC\"}", RXT_EFORMAT, "twice"},
        {"{\"type\":\"NFC\",\"content\":\"x\"}", RXT_EUNSUPPORTED, "content"},
        {"{\"type\":\"Prepend\"}", RXT_EFORMAT, "missing"},
        {"{\"type\":\"Prepend\",\"prepend\":1}", RXT_EFORMAT, "not a string"},
        {"{\"type\":\"Replace\",\"content\":\"\"}", RXT_EFORMAT, "missing"},
        {"{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{}}", RXT_EFORMAT, "neither"},
        {"{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{\"String\":\"\"}}", RXT_EUNSUPPORTED,
         "empty"},
        {"{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{\"String\":\"a\",\"Regex\":\"a\"}}",
         RXT_EFORMAT, "both"},
        {"{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{\"Glob\":\"a\"}}", RXT_EUNSUPPORTED,
         "Glob"},
        {"{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{\"Regex\":\"a(\"}}", RXT_EUNSUPPORTED,
         "regular expression"},
        {"{\"type\":\"Sequence\"}", RXT_EFORMAT, "missing"},
        {"{\"type\":\"Sequence\",\"normalizers\":7}", RXT_EFORMAT, "not an array"},
        {"{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Strip\"}]}", RXT_EUNSUPPORTED,
         "Strip"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_refused(file_of(NULL, table[i].part, NULL, NULL), table[i].want, table[i].words);
    char many[4096] = "{\"normalizers\":[{\"type\":\"NFC\"}";
    for (int i = 0; i < 16; i++)
        strcat(many, ",{\"type\":\"NFC\"}");
    strcat(many, "],\"type\":\"Sequence\"}"); /* the type may stand last */
    assert_refused(file_of(NULL, many, NULL, NULL), RXT_ELIMIT, "16 steps");
}

#define SPLIT(pattern, behavior) \
    "{\"type\":\"Split\",\"pattern\":" pattern ",\"behavior\":" behavior ",\"invert\":false}"
#define AND_BYTE_LEVEL(step) "{\"type\":\"Sequence\",\"pretokenizers\":[" step "," BYTE_LEVEL "]}"
static void pre_tokenizers(void **state)
{
    (void)state;
    static const struct row table[] = {
        {"null", RXT_EFORMAT, "not an object"},
        {"{\"type\":\"Whitespace\"}", RXT_EUNSUPPORTED, "Whitespace"},
        {"{\"type\":\"Digits\",\"individual_digits\":true}", RXT_EUNSUPPORTED, "no ByteLevel"},
        {"{\"type\":\"ByteLevel\"}", RXT_EFORMAT, "missing"},
        {"{\"type\":\"ByteLevel\",\"add_prefix_space\":1}", RXT_EFORMAT, "add_prefix_space"},
        {AND_BYTE_LEVEL(BYTE_LEVEL), RXT_EUNSUPPORTED, "after ByteLevel"},
        {"{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL
         ",{\"type\":\"Digits\",\"individual_digits\":true}]}",
         RXT_EUNSUPPORTED, "after ByteLevel"},
        {"{\"type\":\"Sequence\",\"pretokenizers\":[]}", RXT_EUNSUPPORTED, "no ByteLevel"},
        {AND_BYTE_LEVEL("{\"type\":\"Digits\"}"), RXT_EFORMAT, "missing"},
        {AND_BYTE_LEVEL("{\"type\":\"Split\"}"), RXT_EFORMAT, "missing"},
        {AND_BYTE_LEVEL(SPLIT("\"a\"", "\"Removed\"")), RXT_EFORMAT, "not an object"},
        {AND_BYTE_LEVEL(SPLIT("{\"String\":\"a\"}", "\"Sideways\"")), RXT_EUNSUPPORTED, "behavior"},
        {AND_BYTE_LEVEL(SPLIT("{\"Regex\":\"\\\\w\"}", "\"Removed\"")), RXT_EUNSUPPORTED,
         "regular expression"},
        {AND_BYTE_LEVEL(SPLIT("{\"Regex\":7}", "\"Removed\"")), RXT_EFORMAT, "not a string"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_refused(file_of(NULL, NULL, table[i].part, NULL), table[i].want, table[i].words);
    assert_accepted(
        file_of(NULL, NULL, AND_BYTE_LEVEL(SPLIT("{\"Regex\":\"a+\"}", "\"Removed\"")), NULL));
    char many[8192] = "{\"type\":\"Sequence\",\"pretokenizers\":[";
    for (int i = 0; i < 17; i++)
        strcat(many, "{\"type\":\"Digits\",\"individual_digits\":true},");
    strcat(many, BYTE_LEVEL "]}");
    assert_refused(file_of(NULL, NULL, many, NULL), RXT_ELIMIT, "16 steps");
}

static void decoders(void **state)
{
    (void)state;
    char json[1024];
    const char *form = "{\"decoder\":%s,\"pre_tokenizer\":" BYTE_LEVEL ",\"model\":" MODEL "}";
    (void)snprintf(json, sizeof json, form, "{\"trim_offsets\":true,\"type\":\"ByteLevel\"}");
    assert_accepted(json);
    (void)snprintf(json, sizeof json, form, "{\"type\":\"WordPiece\"}");
    assert_refused(json, RXT_EUNSUPPORTED, "decoder");
    (void)snprintf(json, sizeof json, form, "7");
    assert_refused(json, RXT_EFORMAT, "not an object");
}

/* Strings as they are decoded: escapes of all kinds, lent or copied. */
static void strings(void **state)
{
    (void)state;
    static const struct {
        const char *json, *want;
    } table[] = {
        {"\"\"", ""},
        {"\"plain\"", "plain"},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"},
        {"\"\\u0041\\u00e9\\u20AC\\uD83d\\uDe00!\"", "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80!"},
        {"\"\xC4\xA0x\\u0120\"", "\xC4\xA0x\xC4\xA0"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct json_reader r;
        char buf[32];
        const char *s;
        size_t len, n = strlen(table[i].want);
        reader_start(&r, "test", table[i].json, strlen(table[i].json), NULL);
        assert_true(reader_string(&r, "string", buf, sizeof buf, &s, &len));
        reader_finish(&r);
        assert_ok(reader_status(&r));
        assert_int_equal(len, n);
        assert_memory_equal(s, table[i].want, n);
        for (size_t cap = 0; cap < n; cap++) {
            reader_start(&r, "test", table[i].json, strlen(table[i].json), NULL);
            assert_false(reader_string(&r, "string", buf, cap, &s, &len));
            assert_status(RXT_ELIMIT, reader_status(&r));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_files),    cmocka_unit_test(nesting),
        cmocka_unit_test(models),         cmocka_unit_test(long_tokens),
        cmocka_unit_test(added_tokens),   cmocka_unit_test(normalizers),
        cmocka_unit_test(pre_tokenizers), cmocka_unit_test(decoders),
        cmocka_unit_test(strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
