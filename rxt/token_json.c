#include "rxt/token_json_impl.h"

#include "kernels/base/utf8.h"

#include <assert.h>
#include <string.h>

void reader_fail(struct json_reader *r, enum rxt_status st, const char *what, const char *why)
{
    if (r->st != RXT_OK)
        return;
    r->st =
        rxt_fail(r->err, st, "%s: byte %zu: %s: %s", r->name, (size_t)(r->at - r->text), what, why);
    for (char *c = r->err ? r->err->text : NULL; c && *c; c++)
        if ((unsigned char)*c < 0x20) /* a name of the file's own may be anything */
            *c = '?';
}

enum rxt_status reader_status(const struct json_reader *r)
{
    return r->st;
}

void reader_start(struct json_reader *r, const char *name, const char *text, size_t len,
                  struct rxt_error *err)
{
    *r = (struct json_reader){
        .name = name, .text = text, .at = text, .end = text + len, .st = RXT_OK, .err = err};
    size_t good = utf8_valid(text, len);
    r->at = text + good;
    if (good < len)
        reader_fail(r, RXT_EUTF8, "text", "not valid UTF-8");
    r->at = text;
}

static void skip_space(struct json_reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t'))
        r->at++;
}

char reader_peek(struct json_reader *r)
{
    if (r->st != RXT_OK)
        return '\0';
    skip_space(r);
    if (r->at == r->end)
        return '\0';
    return *r->at;
}

void reader_finish(struct json_reader *r)
{
    (void)reader_peek(r); /* a NUL byte is no end of the text */
    if (r->st == RXT_OK && r->at != r->end)
        reader_fail(r, RXT_EFORMAT, "text", "more than one JSON value");
}

bool reader_enter(struct json_reader *r, char bracket)
{
    if (reader_peek(r) != bracket) {
        reader_fail(r, RXT_EFORMAT, "value", bracket == '{' ? "not an object" : "not an array");
        return false;
    }
    if (r->depth == JSON_DEPTH_MAX) {
        reader_fail(r, RXT_ELIMIT, "value", "nested deeper than 64 levels");
        return false;
    }
    r->at++;
    r->depth++;
    r->first = true;
    return true;
}

/* Goes past the comma before the next element, or past the bracket that closes the container. */
static bool more(struct json_reader *r, char close)
{
    char c = reader_peek(r);
    if (r->st != RXT_OK)
        return false;
    assert(r->depth > 0);
    if (c == close) {
        r->at++;
        r->depth--;
        r->first = false;
        return false;
    }
    if (!r->first) {
        if (c != ',') {
            reader_fail(r, RXT_EFORMAT, "text", close == ']' ? "no , or ]" : "no , or }");
            return false;
        }
        r->at++;
    }
    r->first = false;
    return true;
}

bool reader_item(struct json_reader *r)
{
    return more(r, ']');
}

bool reader_key(struct json_reader *r, char *buf, size_t cap, const char **key, size_t *len)
{
    if (!more(r, '}') || !reader_string(r, "name of a field", buf, cap, key, len))
        return false;
    if (reader_peek(r) != ':') {
        reader_fail(r, RXT_EFORMAT, "text", "no : after the name of a field");
        return false;
    }
    r->at++;
    return true;
}

int reader_field(struct json_reader *r, const char *what, const char *const names[], uint32_t *seen)
{
    char buf[JSON_KEY_MAX];
    const char *key;
    size_t len;
    if (!reader_key(r, buf, sizeof buf, &key, &len))
        return -1;
    for (int i = 0; names[i]; i++) {
        if (strlen(names[i]) != len || memcmp(names[i], key, len) != 0)
            continue;
        if (*seen >> i & 1) {
            reader_fail(r, RXT_EFORMAT, names[i], "field given twice");
            return -1;
        }
        *seen |= UINT32_C(1) << i;
        return i;
    }
    char text[JSON_KEY_MAX + 32];
    size_t shown = len < JSON_KEY_MAX ? len : JSON_KEY_MAX;
    memcpy(text, "unknown field ", 14);
    memcpy(text + 14, key, shown);
    text[14 + shown] = '\0';
    reader_fail(r, RXT_EUNSUPPORTED, what, text);
    return -1;
}

/* Four hex digits at p, or -1. */
static int32_t hex4(const char *p, const char *end)
{
    int32_t v = 0;
    if (end - p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        v = v << 4 | digit;
    }
    return v;
}

/* The code point of the escape after a backslash at *p, which moves behind it; -1 if there is none
 * (half a surrogate pair included). */
static int32_t escape(const char **p, const char *end)
{
    if (*p == end)
        return -1;
    const char *s = *p;
    *p += 1;
    switch (*s) {
    case '"':
    case '\\':
    case '/':
        return *s;
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'u':
        break;
    default:
        return -1;
    }
    int32_t hi = hex4(*p, end);
    if (hi < 0)
        return -1;
    *p += 4;
    if (hi < 0xD800 || hi > 0xDFFF)
        return hi;
    if (hi > 0xDBFF || end - *p < 6 || (*p)[0] != '\\' || (*p)[1] != 'u')
        return -1;
    int32_t lo = hex4(*p + 2, end);
    if (lo < 0xDC00 || lo > 0xDFFF)
        return -1;
    *p += 6;
    return 0x10000 + ((hi - 0xD800) << 10) + (lo - 0xDC00);
}

/* The end of the run without quote, backslash and control character that starts at p. */
static const char *plain_run(const char *p, const char *end)
{
    while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20)
        p++;
    return p;
}

/* Reads the string whose quote is at r->at. buf NULL: only checks it. */
static bool read_string(struct json_reader *r, const char *what, char *buf, size_t cap,
                        const char **s, size_t *len)
{
    const char *start = r->at + 1;
    const char *p = plain_run(start, r->end);
    if (p < r->end && *p == '"' && (!buf || (size_t)(p - start) <= cap)) {
        *s = start;
        *len = (size_t)(p - start);
        r->at = p + 1;
        return true;
    }
    const char *run = start;
    size_t n = 0;
    for (;;) {
        size_t plain = (size_t)(p - run);
        if (buf && (n > cap || plain > cap - n)) {
            reader_fail(r, RXT_ELIMIT, what, "string too long");
            return false;
        }
        if (buf)
            memcpy(buf + n, run, plain);
        n += plain;
        r->at = p;
        if (p == r->end || (unsigned char)*p < 0x20) {
            reader_fail(r, RXT_EFORMAT, what,
                        p == r->end ? "string without an end" : "control character in a string");
            return false;
        }
        p++;
        if (p[-1] == '"')
            break;
        int32_t cp = escape(&p, r->end);
        if (cp < 0) {
            reader_fail(r, RXT_EFORMAT, what, "bad escape in a string");
            return false;
        }
        char utf8[4];
        size_t k = utf8_put(cp, utf8);
        if (buf && (n > cap || k > cap - n)) {
            reader_fail(r, RXT_ELIMIT, what, "string too long");
            return false;
        }
        if (buf)
            memcpy(buf + n, utf8, k);
        n += k;
        run = p;
        p = plain_run(p, r->end);
    }
    r->at = p;
    *s = buf;
    *len = n;
    return true;
}

bool reader_string(struct json_reader *r, const char *what, char *buf, size_t cap, const char **s,
                   size_t *len)
{
    if (reader_peek(r) != '"') {
        reader_fail(r, RXT_EFORMAT, what, "not a string");
        return false;
    }
    return read_string(r, what, buf, cap, s, len);
}

static bool is_digit(const struct json_reader *r)
{
    return r->at < r->end && *r->at >= '0' && *r->at <= '9';
}

bool reader_uint(struct json_reader *r, const char *what, uint32_t max, uint32_t *v)
{
    (void)reader_peek(r);
    if (r->st != RXT_OK)
        return false;
    uint64_t value = 0;
    const char *start = r->at;
    while (is_digit(r) && value <= max)
        value = value * 10 + (uint64_t)(*r->at++ - '0');
    bool whole = r->at > start && !(*start == '0' && r->at - start > 1) &&
                 !(r->at < r->end && (*r->at == '.' || *r->at == 'e' || *r->at == 'E'));
    if (value > max) {
        reader_fail(r, RXT_ELIMIT, what, "number too large");
        return false;
    }
    if (!whole) {
        reader_fail(r, RXT_EFORMAT, what, "not a whole number of 0 or more");
        return false;
    }
    *v = (uint32_t)value;
    return true;
}

static bool take_word(struct json_reader *r, const char *word)
{
    size_t n = strlen(word);
    if (r->st != RXT_OK || (size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0)
        return false;
    r->at += n;
    return true;
}

bool reader_bool(struct json_reader *r, const char *what, bool *v)
{
    char c = reader_peek(r);
    if (take_word(r, c == 't' ? "true" : "false")) {
        *v = c == 't';
        return true;
    }
    reader_fail(r, RXT_EFORMAT, what, "not true or false");
    return false;
}

bool reader_null(struct json_reader *r)
{
    (void)reader_peek(r);
    return take_word(r, "null");
}

static void skip_digits(struct json_reader *r)
{
    if (!is_digit(r))
        reader_fail(r, RXT_EFORMAT, "number", "a digit is missing");
    while (is_digit(r))
        r->at++;
}

static void skip_number(struct json_reader *r)
{
    if (*r->at == '-')
        r->at++;
    if (r->at < r->end && *r->at == '0')
        r->at++;
    else
        skip_digits(r);
    if (r->at < r->end && *r->at == '.') {
        r->at++;
        skip_digits(r);
    }
    if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
        r->at++;
        if (r->at < r->end && (*r->at == '+' || *r->at == '-'))
            r->at++;
        skip_digits(r);
    }
}

void reader_skip(struct json_reader *r)
{
    const char *s;
    size_t len;
    bool b;
    switch (reader_peek(r)) {
    case '{':
        if (reader_enter(r, '{'))
            while (reader_key(r, NULL, 0, &s, &len))
                reader_skip(r);
        return;
    case '[':
        if (reader_enter(r, '['))
            while (reader_item(r))
                reader_skip(r);
        return;
    case '"':
        (void)read_string(r, "string", NULL, 0, &s, &len);
        return;
    case 't':
    case 'f':
        (void)reader_bool(r, "value", &b);
        return;
    case 'n':
        if (!reader_null(r))
            reader_fail(r, RXT_EFORMAT, "value", "not null");
        return;
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9':
        skip_number(r);
        return;
    default:
        reader_fail(r, RXT_EFORMAT, "text", "a value is missing");
    }
}
