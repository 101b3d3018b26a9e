/* RXTP/1 as bytes: the golden vectors and tables of bridge/PROTOCOL.md, and what hostile bytes
 * get. msgpack-c is the second opinion on MessagePack itself. */
#include "bridge/wire_impl.h"
#include "tests/lib/test.h"

#include <math.h>

#include <msgpack.h>

#define DOCUMENT "bridge/PROTOCOL.md"

/* ---- the document ------------------------------------------------------------------------ */

static char *read_document(void)
{
    FILE *f = fopen(DOCUMENT, "r");
    assert_non_null(f);
    char *text = calloc(1, 1 << 20);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 20) - 1, f) > 10000);
    (void)fclose(f);
    return text;
}

struct vector {
    char type[32];
    uint8_t header[64], body[8192];
    size_t header_bytes, body_bytes;
};

static size_t unhex(const char *s, uint8_t *out)
{
    size_t n = 0;
    for (unsigned v; sscanf(s, "%2x", &v) == 1; s += 2)
        out[n++] = (uint8_t)v;
    return n;
}

/* Calls body for every vector of the document; returns how many there were. */
static int each_vector(void (*body)(const struct vector *v, void *arg), void *arg)
{
    char *text = read_document();
    char *line = strstr(text, "## 12. Golden vectors"), *save = NULL;
    assert_non_null(line);
    struct vector v = {0};
    bool in_body = false;
    int n = 0;
    for (line = strtok_r(strstr(line, "```") + 4, "\n", &save); line && line[0] != '`';
         line = strtok_r(NULL, "\n", &save)) {
        if (line[0] != ' ') {
            if (n++)
                body(&v, arg);
            v = (struct vector){0};
            assert_int_equal(sscanf(line, "%31s", v.type), 1);
        } else if (strncmp(line, "  header ", 9) == 0) {
            v.header_bytes = unhex(line + 9, v.header);
        } else if (strncmp(line, "  body   ", 9) == 0) {
            v.body_bytes = unhex(line + 9, v.body);
            in_body = true;
        } else if (strncmp(line, "  +      ", 9) == 0 && in_body) {
            v.body_bytes += unhex(line + 9, v.body + v.body_bytes);
        } else {
            assert_int_equal(strncmp(line, "  raw    ", 9), 0);
            in_body = false;
        }
    }
    body(&v, arg);
    free(text);
    return n;
}

/* ---- vectors ----------------------------------------------------------------------------- */

struct storage {
    struct wire_body body;
    struct wire_candidate candidates[WIRE_CANDIDATES_MAX];
    struct wire_info sessions[WIRE_ITEMS_MAX];
    int32_t ids[3][256];
};

static struct wire_body *storage_body(struct storage *s)
{
    s->body = (struct wire_body){
        .candidates = s->candidates,
        .cap_candidates = WIRE_CANDIDATES_MAX,
        .sessions = s->sessions,
        .cap_sessions = WIRE_ITEMS_MAX,
    };
    return &s->body;
}

static void read_ids(struct wire_ids *ids, int32_t *room)
{
    if (!ids->raw)
        return;
    assert_true(ids->n <= 256);
    wire_ids_copy(ids, room);
    ids->v = room;
}

static void encode_again(struct storage *s, uint8_t type, const uint8_t *want, size_t n)
{
    uint8_t out[8192];
    size_t n_out = 0;
    read_ids(&s->body.versions, s->ids[0]);
    read_ids(&s->body.ids, s->ids[1]);
    read_ids(&s->body.last_ids, s->ids[2]);
    assert_ok(wire_encode(type, &s->body, out, sizeof out, &n_out));
    assert_int_equal(n_out, n);
    assert_memory_equal(out, want, n);
    for (size_t cap = 0; cap < n; cap++)
        assert_status(RXT_ELIMIT, wire_encode(type, &s->body, out, cap, &n_out));
}

static void check_vector(const struct vector *v, void *arg)
{
    static struct storage s;
    bool *seen = arg;
    struct wire_header h;
    struct wire_fault f;
    uint8_t header[WIRE_HEADER_BYTES];
    assert_true(wire_header_get(v->header, v->header_bytes, &h));
    assert_int_equal(h.version, WIRE_VERSION);
    assert_string_equal(wire_type_name(h.type), v->type);
    assert_int_equal(h.body_bytes, v->body_bytes);
    static const uint8_t zero[WIRE_ID_BYTES];
    bool is_zero = memcmp(h.id, zero, sizeof zero) == 0;
    if (h.type != WIRE_ERROR && h.type != WIRE_CREDIT) /* these have either */
        assert_int_equal(is_zero, wire_type_id_zero(h.type));
    wire_header_put(&h, header);
    assert_memory_equal(header, v->header, sizeof header);

    enum wire_error e = wire_decode(h.type, v->body, v->body_bytes, storage_body(&s), &f);
    if (e != WIRE_OK)
        fail_msg("%s: %s %s: %s", v->type, wire_error_name(e), f.key, f.detail);
    encode_again(&s, h.type, v->body, v->body_bytes);
    seen[h.type] = true;

    for (size_t n = 0; n < v->body_bytes; n++) /* truncated anywhere */
        assert_int_equal(wire_decode(h.type, v->body, n, storage_body(&s), &f), WIRE_E_BAD_BODY);
}

static void test_vectors(void **state)
{
    (void)state;
    bool seen[256] = {0};
    assert_true(each_vector(check_vector, seen) >= 40);
    for (int type = 0; type < 256; type++)
        if (wire_type_name((uint8_t)type) && !seen[type])
            fail_msg("%s has no vector", wire_type_name((uint8_t)type));
}

static void flip_bytes(const struct vector *v, void *arg)
{
    static struct storage s;
    struct wire_header h;
    struct wire_fault f;
    uint8_t body[8192];
    (void)arg;
    assert_true(wire_header_get(v->header, v->header_bytes, &h));
    for (size_t i = 0; i < v->body_bytes; i++)
        for (unsigned value = 0; value < 256; value += 5) {
            memcpy(body, v->body, v->body_bytes);
            body[i] = (uint8_t)value;
            enum wire_error e = wire_decode(h.type, body, v->body_bytes, storage_body(&s), &f);
            assert_int_equal(e, f.code);
            assert_int_equal(e != WIRE_OK, f.detail[0] != '\0');
        }
}

static void test_flips(void **state)
{
    (void)state;
    (void)each_vector(flip_bytes, NULL);
}

/* ---- tables ------------------------------------------------------------------------------ */

static void test_errors_of_document(void **state)
{
    (void)state;
    char *text = read_document(), *save = NULL;
    char *line = strstr(text, "## 6. Errors"), *end = strstr(text, "## 7. Flow control");
    assert_true(line && end);
    *end = '\0';
    int n = 0, n_code = 0;
    for (line = strtok_r(line, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        int code;
        char name[32];
        if (sscanf(line, "| %d | %31s |", &code, name) != 2)
            continue;
        assert_string_equal(wire_error_name((enum wire_error)code), name);
        const char *retry = wire_error_retryable((enum wire_error)code) ? "| yes |" : "| no |";
        if (!strstr(line, retry))
            fail_msg("%s: the document does not say %s", name, retry);
        n++;
    }
#define COUNT(name, number, text_, retry) n_code++;
    WIRE_ERROR_TABLE(COUNT)
#undef COUNT
    assert_int_equal(n, n_code);
    free(text);
}

static void test_types_of_document(void **state)
{
    (void)state;
    char *text = read_document(), *save = NULL;
    char *line = strstr(text, "## 4. Messages"), *end = strstr(text, "## 5. Sequence");
    assert_true(line && end);
    *end = '\0';
    int n_client = 0, n_server = 0, in_server = 0, n_type = 0;
    for (line = strtok_r(line, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        unsigned number;
        char name[32];
        in_server |= strncmp(line, "### 4.2", 7) == 0;
        if (sscanf(line, "| 0x%x | %31s |", &number, name) != 2)
            continue;
        assert_string_equal(wire_type_name((uint8_t)number), name);
        if (in_server) {
            assert_true(wire_type_from_server((uint8_t)number));
            n_server++;
            continue;
        }
        assert_true(wire_type_from_client((uint8_t)number));
        bool all = strstr(line, "| all |");
        assert_int_equal(wire_type_at((uint8_t)number, 't'), all || strstr(line, "| turn"));
        assert_int_equal(wire_type_at((uint8_t)number, 's'),
                         all || strstr(line, "| state |") || strstr(line, "| turn, state |"));
        assert_int_equal(wire_type_at((uint8_t)number, 'a'), all || strstr(line, "| admin |"));
        assert_int_equal(wire_type_id_zero((uint8_t)number), strstr(line, "| zero |") != NULL);
        n_client++;
    }
    for (int type = 0; type < 256; type++) {
        n_type += wire_type_name((uint8_t)type) && wire_type_from_client((uint8_t)type);
        n_type += wire_type_name((uint8_t)type) && wire_type_from_server((uint8_t)type);
    }
    assert_int_equal(n_client + n_server, n_type);
    free(text);
}

static void test_statuses(void **state)
{
    (void)state;
    assert_int_equal(wire_error_of(RXT_OK), WIRE_OK);
    assert_int_equal(wire_error_of(RXT_ECANCELLED), WIRE_OK);
    assert_int_equal(wire_error_of(RXT_ESHAPE), WIRE_E_INTERNAL);
#define KNOWN(status, number, text)                                             \
    if (status != RXT_OK && status != RXT_ECANCELLED && status != RXT_ESHAPE) { \
        assert_true(wire_error_of(status) >= 101);                              \
        assert_int_not_equal(wire_error_of(status), WIRE_E_INTERNAL);           \
    }
    RXT_STATUS_TABLE(KNOWN)
#undef KNOWN
    assert_string_equal(wire_error_name((enum wire_error)999), "internal");
    assert_false(wire_error_retryable((enum wire_error)999));
}

static void test_header(void **state)
{
    (void)state;
    struct wire_header h = {.type = 9};
    uint8_t bytes[WIRE_HEADER_BYTES] = "RXTP";
    assert_false(wire_header_get(bytes, 31, &h));
    assert_false(wire_header_get(bytes, 33, &h));
    assert_int_equal(h.type, 9);
    assert_true(wire_header_get(bytes, 32, &h));
    for (size_t i = 0; i < 4; i++) {
        bytes[i] ^= 1;
        assert_false(wire_header_get(bytes, 32, &h));
        bytes[i] ^= 1;
    }
    assert_null(wire_type_name(0));
    assert_null(wire_type_name(0xFF));
    assert_false(wire_type_from_client(0xFF) || wire_type_from_server(0xFF));
    assert_false(wire_type_at(0xFF, 't'));
}

/* ---- what bad bodies get ----------------------------------------------------------------- */

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
        size_t n = unhex(cases[i].hex, bytes);
        enum wire_error e = wire_decode(WIRE_PING, bytes, n, &got, &f);
        if (e != WIRE_E_BAD_BODY)
            fail_msg("%s: got %s (%s)", cases[i].why, wire_error_name(e), f.detail);
    }
    /* Four deep is allowed, and optional keys may hold anything. */
    uint8_t deep[64];
    struct wire_fault f;
    size_t n = unhex("81a13f93919101cb0000000000000000d0ff", deep);
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

/* What we write, msgpack-c reads. */
/* What is sent as a str is UTF-8, whatever it was made of: the bytes of a name that was cut, of a
 * file that somebody else has written. */
static void test_text_is_utf8(void **state)
{
    static const struct {
        const char *text, *sent;
    } rows[] = {
        {"caf\xc3\xa9", "caf\xc3\xa9"}, {"caf\xc3", "caf?"},        {"\xff\xfe!", "\?\?!"},
        {"a\xed\xa0\x80z", "a\?\?\?z"}, {"\xf0\x9f\x92", "\?\?\?"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct wire_body b = {0};
        struct wire_fault why;
        uint8_t out[200];
        size_t n = 0;
        wire_init(WIRE_ERROR, &b);
        b.code = WIRE_E_BUSY;
        b.name = wire_string("busy");
        b.retryable = 1;
        b.retry_after_ms = 0;
        b.detail = wire_string(rows[i].text);
        assert_ok(wire_encode(WIRE_ERROR, &b, out, sizeof out, &n));
        assert_int_equal(wire_decode(WIRE_ERROR, out, n, &got, &why), WIRE_OK);
        assert_int_equal(got.detail.n, strlen(rows[i].sent));
        assert_memory_equal(got.detail.p, rows[i].sent, got.detail.n);
    }
}

static void test_other_reader(void **state)
{
    (void)state;
    char out[256];
    size_t n = 0, off = 0;
    struct wire_body b = {0};
    const int32_t ids[] = {1, 300, 70000};
    wire_init(WIRE_TOKEN, &b);
    b.text = wire_string("\xC3\xA4");
    b.ids = (struct wire_ids){.v = ids, .n = 3};
    b.candidate = 2;
    assert_ok(wire_encode(WIRE_TOKEN, &b, out, sizeof out, &n));
    msgpack_unpacked u;
    msgpack_unpacked_init(&u);
    assert_int_equal(msgpack_unpack_next(&u, out, n, &off), MSGPACK_UNPACK_SUCCESS);
    assert_int_equal(off, n);
    assert_int_equal(u.data.type, MSGPACK_OBJECT_MAP);
    assert_int_equal(u.data.via.map.size, 3);
    const msgpack_object_kv *kv = u.data.via.map.ptr;
    assert_memory_equal(kv[0].key.via.str.ptr, "text", 4);
    assert_int_equal(kv[0].val.via.str.size, 2);
    assert_int_equal(kv[1].val.via.array.size, 3);
    assert_int_equal(kv[1].val.via.array.ptr[2].via.u64, 70000);
    assert_int_equal(kv[2].val.via.u64, 2);
    msgpack_unpacked_destroy(&u);
    assert_status(RXT_EINVAL, wire_encode(0xFF, &b, out, sizeof out, &n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_flips),
        cmocka_unit_test(test_errors_of_document),
        cmocka_unit_test(test_types_of_document),
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_long_key),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_together),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_server_messages),
        cmocka_unit_test(test_text_is_utf8),
        cmocka_unit_test(test_other_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
