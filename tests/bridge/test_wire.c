/* RXTP/1 as bytes: the golden vectors and tables of bridge/PROTOCOL.md, and what is sent. msgpack-c
 * is the second opinion on MessagePack itself. */
#include "bridge/wire_impl.h"
#include "tests/lib/test.h"

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
            v.header_bytes = test_unhex(line + 9, v.header);
        } else if (strncmp(line, "  body   ", 9) == 0) {
            v.body_bytes = test_unhex(line + 9, v.body);
            in_body = true;
        } else if (strncmp(line, "  +      ", 9) == 0 && in_body) {
            v.body_bytes += test_unhex(line + 9, v.body + v.body_bytes);
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

/* ---- what is sent ------------------------------------------------------------------------ */

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
        struct wire_body b = {0}, got;
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

/* What we write, msgpack-c reads. */
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
        cmocka_unit_test(test_text_is_utf8),
        cmocka_unit_test(test_other_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
