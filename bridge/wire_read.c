#include "bridge/wire_read_impl.h"

#include "bridge/wire_impl.h"
#include "kernels/base/utf8.h"

#include <string.h>

static uint64_t big_endian(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

static bool take(struct wire_cursor *c, size_t n, const uint8_t **out)
{
    if ((size_t)(c->end - c->p) < n)
        return false;
    *out = c->p;
    c->p += n;
    return true;
}

static bool take_uint(struct wire_cursor *c, size_t n, uint64_t *out)
{
    const uint8_t *p;
    if (!take(c, n, &p))
        return false;
    *out = big_endian(p, n);
    return true;
}

static bool take_bytes(struct wire_cursor *c, size_t size_bytes, struct wire_item *out)
{
    if (!take_uint(c, size_bytes, &out->u))
        return false;
    return take(c, (size_t)out->u, &out->p);
}

static bool take_int(struct wire_cursor *c, size_t n, struct wire_item *out)
{
    if (!take_uint(c, n, &out->u))
        return false;
    out->kind = out->u >> (8 * n - 1) ? ITEM_NINT : ITEM_UINT;
    return true;
}

static bool take_real(struct wire_cursor *c, size_t n, struct wire_item *out)
{
    uint64_t bits;
    if (!take_uint(c, n, &bits))
        return false;
    if (n == 4) {
        uint32_t half = (uint32_t)bits;
        float f;
        memcpy(&f, &half, sizeof f);
        out->real = (double)f;
    } else {
        memcpy(&out->real, &bits, sizeof out->real);
    }
    return true;
}

static bool next_long(struct wire_cursor *c, uint8_t head, struct wire_item *out)
{
    switch (head) {
    case 0xC0:
        out->kind = ITEM_NIL;
        return true;
    case 0xC2:
    case 0xC3:
        out->kind = ITEM_BOOL;
        out->u = head & 1;
        return true;
    case 0xC4:
    case 0xC5:
    case 0xC6:
        out->kind = ITEM_BIN;
        return take_bytes(c, (size_t)1 << (head - 0xC4), out);
    case 0xCA:
    case 0xCB:
        out->kind = ITEM_REAL;
        return take_real(c, (size_t)4 << (head - 0xCA), out);
    case 0xCC:
    case 0xCD:
    case 0xCE:
    case 0xCF:
        out->kind = ITEM_UINT;
        return take_uint(c, (size_t)1 << (head - 0xCC), &out->u);
    case 0xD0:
    case 0xD1:
    case 0xD2:
    case 0xD3:
        return take_int(c, (size_t)1 << (head - 0xD0), out);
    case 0xD9:
    case 0xDA:
    case 0xDB:
        out->kind = ITEM_STR;
        return take_bytes(c, (size_t)1 << (head - 0xD9), out);
    case 0xDC:
    case 0xDD:
        out->kind = ITEM_ARRAY;
        return take_uint(c, (size_t)2 << (head - 0xDC), &out->u);
    case 0xDE:
    case 0xDF:
        out->kind = ITEM_MAP;
        return take_uint(c, (size_t)2 << (head - 0xDE), &out->u);
    default:
        out->kind = ITEM_OTHER;
        return true;
    }
}

bool wire_next(struct wire_cursor *c, struct wire_item *out)
{
    const uint8_t *head;
    *out = (struct wire_item){0};
    if (!take(c, 1, &head))
        return false;
    uint8_t h = *head;
    if (h >= 0xC0 && h < 0xE0)
        return next_long(c, h, out);
    if (h < 0x80) {
        out->kind = ITEM_UINT;
        out->u = h;
        return true;
    }
    if (h >= 0xE0) {
        out->kind = ITEM_NINT;
        return true;
    }
    if (h < 0xA0) {
        out->kind = h < 0x90 ? ITEM_MAP : ITEM_ARRAY;
        out->u = h & 0x0F;
        return true;
    }
    out->kind = ITEM_STR;
    out->u = h & 0x1F;
    return take(c, (size_t)out->u, &out->p);
}

static const char *check_key(struct wire_cursor *c, struct wire_text *seen, uint32_t n_seen)
{
    struct wire_item key;
    if (!wire_next(c, &key))
        return "the body is truncated";
    if (key.kind != ITEM_STR)
        return "a key of a map is not a str";
    if (utf8_valid((const char *)key.p, (size_t)key.u) != key.u)
        return "a key of a map is not UTF-8";
    for (uint32_t i = 0; i < n_seen; i++)
        if (seen[i].n == key.u && memcmp(seen[i].p, key.p, (size_t)key.u) == 0)
            return "a key comes twice";
    seen[n_seen] = (struct wire_text){(const char *)key.p, (uint32_t)key.u};
    return NULL;
}

static const char *check_map(struct wire_cursor *c, uint64_t n, int depth, uint32_t n_keys)
{
    struct wire_text seen[WIRE_KEYS_MAX];
    if (n > n_keys || n > WIRE_KEYS_MAX)
        return "a map has too many keys";
    for (uint32_t i = 0; i < n; i++) {
        const char *why = check_key(c, seen, i);
        if (!why)
            why = wire_check(c, depth, n_keys);
        if (why)
            return why;
    }
    return NULL;
}

/* NOLINTNEXTLINE(misc-no-recursion): at most WIRE_DEPTH_MAX deep */
const char *wire_check(struct wire_cursor *c, int depth, uint32_t n_keys)
{
    struct wire_item item;
    if (!wire_next(c, &item))
        return "the body is truncated";
    if (item.kind == ITEM_NIL)
        return "nil is not a value: leave the key out";
    if (item.kind == ITEM_OTHER)
        return "an extension type is not a value";
    if (item.kind != ITEM_ARRAY && item.kind != ITEM_MAP)
        return NULL;
    if (depth == 0)
        return "maps and arrays are nested too deep";
    if (item.kind == ITEM_MAP)
        return check_map(c, item.u, depth - 1, n_keys);
    for (uint64_t i = 0; i < item.u; i++) { /* each takes a byte at least: the input bounds it */
        const char *why = wire_check(c, depth - 1, n_keys);
        if (why)
            return why;
    }
    return NULL;
}

/* NOLINTNEXTLINE(misc-no-recursion): as wire_check */
void wire_skip(struct wire_cursor *c)
{
    struct wire_item item;
    if (!wire_next(c, &item))
        return;
    uint64_t n = item.kind == ITEM_MAP ? 2 * item.u : item.kind == ITEM_ARRAY ? item.u : 0;
    for (uint64_t i = 0; i < n; i++)
        wire_skip(c);
}
