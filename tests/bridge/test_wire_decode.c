/* Bodies that msgpack-c writes: what is taken of them, and which error the bad ones get. */
#include "bridge/wire_impl.h"
#include "tests/lib/test.h"

#include <math.h>

#include <msgpack.h>

/* A body as msgpack-c writes it. */
struct body {
    msgpack_sbuffer buffer;
    msgpack_packer pk;
};

static void begin(struct body *b, size_t n_keys)
{
    msgpack_sbuffer_init(&b->buffer);
    msgpack_packer_init(&b->pk, &b->buffer, msgpack_sbuffer_write);
    assert_int_equal(msgpack_pack_map(&b->pk, n_keys), 0);
}

static void str(struct body *b, const char *s)
{
    assert_int_equal(msgpack_pack_str(&b->pk, strlen(s)), 0);
    assert_int_equal(msgpack_pack_str_body(&b->pk, s, strlen(s)), 0);
}

static void pair(struct body *b, const char *key, const char *value)
{
    str(b, key);
    str(b, value);
}

static void number(struct body *b, const char *key, int64_t value)
{
    str(b, key);
    assert_int_equal(msgpack_pack_int64(&b->pk, value), 0);
}

static void real(struct body *b, const char *key, double value)
{
    str(b, key);
    assert_int_equal(msgpack_pack_double(&b->pk, value), 0);
}

static struct wire_body got;

static void expect(struct body *b, uint8_t type, enum wire_error want, const char *key)
{
    struct wire_fault f;
    enum wire_error e = wire_decode(type, b->buffer.data, b->buffer.size, &got, &f);
    if (e != want || strcmp(f.key, key) != 0)
        fail_msg("%s: got %s of \"%s\" (%s), want %s of \"%s\"", wire_type_name(type),
                 wire_error_name(e), f.key, f.detail, wire_error_name(want), key);
    msgpack_sbuffer_destroy(&b->buffer);
}

static void begin_turn(struct body *b, size_t n_more)
{
    begin(b, 2 + n_more);
    pair(b, "session", "anna");
    pair(b, "query", "Hi");
}

static void expect_real(const char *key, double value, enum wire_error want)
{
    struct body b;
    begin_turn(&b, 1);
    real(&b, key, value);
    expect(&b, WIRE_TURN, want, want == WIRE_OK ? "" : key);
}

static void expect_number(const char *key, int64_t value, enum wire_error want)
{
    struct body b;
    begin_turn(&b, 1);
    number(&b, key, value);
    expect(&b, WIRE_TURN, want, want == WIRE_OK ? "" : key);
}

static void expect_text(const char *key, const char *value, enum wire_error want)
{
    struct body b;
    begin_turn(&b, 1);
    pair(&b, key, value);
    expect(&b, WIRE_TURN, want, want == WIRE_OK ? "" : key);
}

static void test_defaults(void **state)
{
    (void)state;
    struct body b;
    begin_turn(&b, 0);
    expect(&b, WIRE_TURN, WIRE_OK, "");
    assert_true(got.top_p == 1 && got.temperature == 0);
    assert_int_equal(got.n, 1);
    assert_true(got.if_version == WIRE_ABSENT && got.min_version == 0);
    assert_null(got.internal.p);
    begin(&b, 0);
    expect(&b, WIRE_LIST, WIRE_OK, "");
    assert_int_equal(got.limit, 100);
}

static void test_values(void **state)
{
    (void)state;
    expect_real("temperature", 0.5, WIRE_OK);
    expect_real("temperature", -0.5, WIRE_E_BAD_VALUE);
    expect_real("temperature", (double)NAN, WIRE_E_BAD_VALUE);
    expect_real("temperature", (double)INFINITY, WIRE_E_BAD_VALUE);
    expect_number("temperature", 1, WIRE_OK);
    expect_number("temperature", -1, WIRE_E_BAD_VALUE);
    expect_text("temperature", "hot", WIRE_E_BAD_VALUE);
    expect_real("top_p", 0, WIRE_E_BAD_VALUE);
    expect_real("top_p", 1, WIRE_OK);
    expect_real("top_p", 1.5, WIRE_E_BAD_VALUE);
    expect_number("top_k", INT32_MAX, WIRE_OK);
    expect_number("top_k", (int64_t)INT32_MAX + 1, WIRE_E_BAD_VALUE);
    expect_number("top_k", -1, WIRE_E_BAD_VALUE);
    expect_number("top_k", -1000, WIRE_E_BAD_VALUE);
    expect_real("top_k", 1, WIRE_E_BAD_VALUE);
    expect_number("n", 0, WIRE_E_BAD_VALUE);
    expect_number("n", 8, WIRE_OK);
    expect_number("n", 9, WIRE_E_BAD_VALUE);
    expect_number("if_version", INT64_C(0x80000000), WIRE_E_BAD_VALUE);
    expect_text("commit", "never", WIRE_OK);
    expect_text("commit", "maybe", WIRE_E_BAD_VALUE);
    expect_number("commit", 1, WIRE_E_BAD_VALUE);
    expect_text("internal", "", WIRE_OK);
    expect_number("internal", 1, WIRE_E_BAD_VALUE);
    expect_text("internal", "\xC3\x28", WIRE_E_BAD_UTF8);
    expect_text("colour", "red", WIRE_E_UNKNOWN_KEY);
    expect_text("", "red", WIRE_E_UNKNOWN_KEY);
    expect_text("?colour", "red", WIRE_OK);
}

/* A key that is not known comes back, cut between code points. */
static void test_long_key(void **state)
{
    (void)state;
    struct body b;
    begin_turn(&b, 1);
    pair(&b, "a key of more than thirty-one b\xC3\xA4", "x");
    expect(&b, WIRE_TURN, WIRE_E_UNKNOWN_KEY, "a key of more than thirty-one b");
    begin_turn(&b, 1);
    pair(&b, "a key of more than thirty-one \xC3\xA4", "x");
    expect(&b, WIRE_TURN, WIRE_E_UNKNOWN_KEY, "a key of more than thirty-one ");
}

static void test_names(void **state)
{
    (void)state;
    char longest[WIRE_NAME_MAX + 2];
    static const struct {
        const char *name;
        enum wire_error want;
    } cases[] = {
        {"", WIRE_E_BAD_VALUE},
        {"a", WIRE_OK},
        {"a b/c\xC3\xA4", WIRE_OK},
        {"a\nb", WIRE_E_BAD_VALUE},
        {"a\x7F", WIRE_E_BAD_VALUE},
        {"\xFF", WIRE_E_BAD_UTF8},
        {"\xED\xA0\x80", WIRE_E_BAD_UTF8},
    };
    struct body b;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        begin(&b, 1);
        pair(&b, "session", cases[i].name);
        expect(&b, WIRE_GET, cases[i].want, cases[i].want == WIRE_OK ? "" : "session");
    }
    memset(longest, 'x', sizeof longest);
    longest[WIRE_NAME_MAX + 1] = '\0';
    begin(&b, 1);
    pair(&b, "session", longest);
    expect(&b, WIRE_GET, WIRE_E_BAD_VALUE, "session");
    longest[WIRE_NAME_MAX] = '\0';
    begin(&b, 1);
    pair(&b, "session", longest);
    expect(&b, WIRE_GET, WIRE_OK, "");
    begin(&b, 2);
    pair(&b, "session", "s");
    str(&b, "query");
    assert_int_equal(msgpack_pack_str(&b.pk, 3), 0);
    assert_int_equal(msgpack_pack_str_body(&b.pk, "a\0b", 3), 0);
    expect(&b, WIRE_TURN, WIRE_E_BAD_VALUE, "query"); /* U+0000 */
}

static void test_together(void **state)
{
    (void)state;
    struct body b;
    begin(&b, 1);
    pair(&b, "query", "Hi");
    expect(&b, WIRE_TURN, WIRE_E_MISSING_KEY, "session");
    begin(&b, 1);
    pair(&b, "session", "a");
    expect(&b, WIRE_TURN, WIRE_E_MISSING_KEY, "query");
    expect_text("tool_result", "4", WIRE_E_BAD_VALUE);
    begin(&b, 2);
    pair(&b, "session", "a");
    pair(&b, "tool_result", "4");
    expect(&b, WIRE_TURN, WIRE_OK, "");
    expect_text("fork_to", "b", WIRE_E_BAD_VALUE);
    begin_turn(&b, 1);
    pair(&b, "on_busy", "fork");
    expect(&b, WIRE_TURN, WIRE_E_MISSING_KEY, "fork_to");
    begin_turn(&b, 2);
    pair(&b, "on_busy", "fork");
    pair(&b, "fork_to", "b");
    expect(&b, WIRE_TURN, WIRE_OK, "");

    begin(&b, 1);
    pair(&b, "session", "a");
    expect(&b, WIRE_REMEMBER, WIRE_E_MISSING_KEY, "query");
    begin(&b, 2);
    pair(&b, "session", "a");
    pair(&b, "query", "q");
    expect(&b, WIRE_REMEMBER, WIRE_E_MISSING_KEY, "answer");
    begin(&b, 3);
    pair(&b, "session", "a");
    pair(&b, "answer", "");
    pair(&b, "query", "q");
    expect(&b, WIRE_REMEMBER, WIRE_OK, "");
    begin(&b, 3);
    pair(&b, "session", "a");
    pair(&b, "query", "q");
    str(&b, "ids");
    assert_int_equal(msgpack_pack_array(&b.pk, 1) + msgpack_pack_int(&b.pk, 1), 0);
    expect(&b, WIRE_REMEMBER, WIRE_E_BAD_VALUE, "ids");
    begin(&b, 2);
    pair(&b, "session", "a");
    pair(&b, "on_busy", "fork");
    expect(&b, WIRE_REMEMBER, WIRE_E_BAD_VALUE, "on_busy");

    begin(&b, 2);
    pair(&b, "session", "a");
    number(&b, "from_version", 1);
    expect(&b, WIRE_OPEN, WIRE_E_MISSING_KEY, "from");
}

static void test_ids(void **state)
{
    (void)state;
    struct body b;
    int32_t ids[4];
    begin(&b, 2);
    pair(&b, "session", "a");
    str(&b, "ids");
    /* Every width msgpack has for small numbers is taken. */
    assert_int_equal(msgpack_pack_array(&b.pk, 4) + msgpack_pack_fix_uint8(&b.pk, 1) +
                         msgpack_pack_fix_uint64(&b.pk, 2) + msgpack_pack_fix_int16(&b.pk, 3) +
                         msgpack_pack_uint32(&b.pk, INT32_MAX),
                     0);
    struct wire_fault f;
    assert_int_equal(wire_decode(WIRE_REMEMBER, b.buffer.data, b.buffer.size, &got, &f), WIRE_OK);
    assert_int_equal(got.ids.n, 4);
    wire_ids_copy(&got.ids, ids);
    assert_true(ids[0] == 1 && ids[1] == 2 && ids[2] == 3 && ids[3] == INT32_MAX);
    msgpack_sbuffer_destroy(&b.buffer);

    for (int bad = 0; bad < 4; bad++) {
        begin(&b, 2);
        pair(&b, "session", "a");
        str(&b, "ids");
        int failed = 0;
        if (bad == 0)
            failed = msgpack_pack_array(&b.pk, 0);
        else if (bad == 1)
            failed = msgpack_pack_array(&b.pk, 1) + msgpack_pack_int(&b.pk, -1);
        else if (bad == 2)
            failed = msgpack_pack_array(&b.pk, 1) + msgpack_pack_uint32(&b.pk, 0x80000000);
        else
            failed = msgpack_pack_int(&b.pk, 1);
        assert_int_equal(failed, 0);
        expect(&b, WIRE_REMEMBER, WIRE_E_BAD_VALUE, "ids");
    }
}

static void test_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *why, *hex;
    } cases[] = {
        {"not a map", "01"},
        {"an array", "90"},
        {"nothing", ""},
        {"followed by a byte", "8000"},
        {"nil", "81a16bc0"},
        {"an extension", "81a16bd40000"},
        {"the unused byte", "81a16bc1"},
        {"a key that is a number", "810101"},
        {"a key that is bytes", "81c4016b01"},
        {"a key that is not UTF-8", "81a1ff01"},
        {"a key twice", "82a13fc2a13fc2"},
        {"a key twice, inside", "81a13f82a16101a16102"},
        {"nested too deep", "81a13f9191919101"},
        {"an array longer than memory", "81a13fddffffffff"},
        {"a map longer than memory", "dfffffffff"},
        {"a str longer than memory", "81a13fdbffffffff"},
        {"a bin longer than memory", "81a13fc6ffffffff"},
        {"a map of 65 keys", "de0041"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t bytes[64];
        struct wire_fault f;
        size_t n = test_unhex(cases[i].hex, bytes);
        enum wire_error e = wire_decode(WIRE_PING, bytes, n, &got, &f);
        if (e != WIRE_E_BAD_BODY)
            fail_msg("%s: got %s (%s)", cases[i].why, wire_error_name(e), f.detail);
    }
    /* Four deep is allowed, and optional keys may hold anything. */
    uint8_t deep[64];
    struct wire_fault f;
    size_t n = test_unhex("81a13f93919101cb0000000000000000d0ff", deep);
    assert_int_equal(wire_decode(WIRE_PING, deep, n, &got, &f), WIRE_OK);
    assert_int_equal(wire_decode(0xFF, deep, n, &got, &f), WIRE_E_UNKNOWN_TYPE);
}

/* What a server sends may have keys that we do not know, and must have those that we need. */
static void test_server_messages(void **state)
{
    (void)state;
    struct wire_candidate candidates[2];
    struct body b;
    begin(&b, 3);
    pair(&b, "text", "x");
    pair(&b, "new", "y");
    str(&b, "ids");
    assert_int_equal(msgpack_pack_array(&b.pk, 1) + msgpack_pack_int(&b.pk, 7), 0);
    expect(&b, WIRE_TOKEN, WIRE_OK, "");
    begin(&b, 1);
    pair(&b, "text", "x");
    expect(&b, WIRE_TOKEN, WIRE_E_MISSING_KEY, "ids");
    begin(&b, 2);
    pair(&b, "session", "a");
    pair(&b, "price", "high");
    expect(&b, WIRE_ACCEPTED, WIRE_E_BAD_VALUE, "price");
    begin(&b, 1);
    pair(&b, "more", "yes");
    expect(&b, WIRE_DONE, WIRE_E_BAD_VALUE, "more");
    begin(&b, 1);
    pair(&b, "change", "yes");
    expect(&b, WIRE_DONE, WIRE_E_BAD_VALUE, "change");
    begin(&b, 1);
    pair(&b, "candidates", "yes");
    expect(&b, WIRE_DONE, WIRE_E_BAD_VALUE, "candidates");
    for (int bad = 0; bad < 3; bad++) {
        got.candidates = candidates;
        got.cap_candidates = 2;
        begin(&b, 1);
        str(&b, "candidates");
        int failed = msgpack_pack_array(&b.pk, bad == 0 ? 3 : 1);
        for (int i = 0; i < (bad == 0 ? 3 : 1); i++)
            failed += bad == 1 ? msgpack_pack_int(&b.pk, 1) : msgpack_pack_map(&b.pk, 0);
        assert_int_equal(failed, 0);
        if (bad == 2)
            expect(&b, WIRE_DONE, WIRE_E_MISSING_KEY, "finish");
        else
            expect(&b, WIRE_DONE, WIRE_E_BAD_VALUE, "candidates");
    }
    begin(&b, 1);
    str(&b, "info");
    assert_int_equal(msgpack_pack_map(&b.pk, 1), 0);
    str(&b, "stm_hash");
    assert_int_equal(msgpack_pack_bin(&b.pk, 3) + msgpack_pack_bin_body(&b.pk, "abc", 3), 0);
    expect(&b, WIRE_DONE, WIRE_E_BAD_VALUE, "stm_hash");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_values),
        cmocka_unit_test(test_long_key), cmocka_unit_test(test_names),
        cmocka_unit_test(test_together), cmocka_unit_test(test_ids),
        cmocka_unit_test(test_shapes),   cmocka_unit_test(test_server_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
