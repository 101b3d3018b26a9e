#include "bridge/wire_keys_impl.h"

#include "bridge/wire_read_impl.h"
#include "kernels/base/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- defaults ---------------------------------------------------------------------------- */

static void init_keys(const struct wire_key *table, void *base)
{
    for (const struct wire_key *k = table; k->name; k++) {
        char *at = (char *)base + k->at;
        switch (k->kind) {
        case KIND_UINT:
            *(uint64_t *)at = k->init;
            break;
        case KIND_BOOL:
            *(int *)at = -1;
            break;
        case KIND_REAL:
            *(double *)at = k->real_init;
            break;
        case KIND_MAP:
            init_keys(k->sub, at);
            break;
        case KIND_MAPS:
            *(uint32_t *)((char *)base + k->count_at) = UINT32_MAX;
            break;
        case KIND_TEXT:
        case KIND_NAME:
        case KIND_BIN:
        case KIND_CHOICE:
        case KIND_IDS:
            break; /* zero */
        }
    }
}

void wire_init(uint8_t type, struct wire_body *b)
{
    const struct wire_body keep = *b;
    *b = (struct wire_body){
        .candidates = keep.candidates,
        .cap_candidates = keep.cap_candidates,
        .sessions = keep.sessions,
        .cap_sessions = keep.cap_sessions,
    };
    const struct wire_key *table = wire_keys(type);
    if (table)
        init_keys(table, b);
}

/* ---- faults ------------------------------------------------------------------------------ */

static enum wire_error fault(struct wire_fault *f, enum wire_error code, const char *key,
                             const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static enum wire_error fault(struct wire_fault *f, enum wire_error code, const char *key,
                             const char *fmt, ...)
{
    va_list args;
    f->code = code;
    (void)snprintf(f->key, sizeof f->key, "%s", key);
    va_start(args, fmt);
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): va_start is above */
    (void)vsnprintf(f->detail, sizeof f->detail, fmt, args);
    va_end(args);
    return code;
}

static enum wire_error unknown_key(struct wire_fault *f, const struct wire_item *key)
{
    size_t n = key->u < sizeof f->key ? (size_t)key->u : sizeof f->key - 1;
    n = utf8_valid((const char *)key->p, n); /* cut between code points */
    (void)fault(f, WIRE_E_UNKNOWN_KEY, "",
                "this message has no such key; mark it with ? if it may be ignored");
    memcpy(f->key, key->p, n);
    f->key[n] = '\0';
    return f->code;
}

/* ---- values ------------------------------------------------------------------------------ */

static enum wire_error check_bytes(const struct wire_key *k, const struct wire_item *v,
                                   struct wire_fault *f)
{
    if (v->u >= k->lo && v->u <= k->hi)
        return WIRE_OK;
    return fault(f, WIRE_E_BAD_VALUE, k->name,
                 "%s has %" PRIu64 " bytes: use %" PRIu64 " to %" PRIu64, k->name, v->u, k->lo,
                 k->hi);
}

static enum wire_error get_text(const struct wire_key *k, const struct wire_item *v, void *at,
                                struct wire_fault *f)
{
    if (v->kind != ITEM_STR)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s must be a str", k->name);
    if (check_bytes(k, v, f) != WIRE_OK)
        return f->code;
    size_t n = (size_t)v->u, good = utf8_valid((const char *)v->p, n);
    if (good != n)
        return fault(f, WIRE_E_BAD_UTF8, k->name, "%s is not UTF-8 at byte %zu", k->name, good);
    for (size_t i = 0; i < n; i++)
        if (v->p[i] == 0 || (k->kind == KIND_NAME && (v->p[i] < 0x20 || v->p[i] == 0x7F)))
            return fault(f, WIRE_E_BAD_VALUE, k->name, "%s has a forbidden character at byte %zu",
                         k->name, i);
    *(struct wire_text *)at = wire_bytes(v->p, n);
    return WIRE_OK;
}

static enum wire_error get_bin(const struct wire_key *k, const struct wire_item *v, void *at,
                               struct wire_fault *f)
{
    if (v->kind != ITEM_BIN)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s must be a bin", k->name);
    if (check_bytes(k, v, f) != WIRE_OK)
        return f->code;
    *(struct wire_text *)at = wire_bytes(v->p, (size_t)v->u);
    return WIRE_OK;
}

static enum wire_error get_uint(const struct wire_key *k, const struct wire_item *v, void *at,
                                struct wire_fault *f)
{
    if (v->kind == ITEM_NINT)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s is negative", k->name);
    if (v->kind != ITEM_UINT)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s must be a uint", k->name);
    if (v->u < k->lo || v->u > k->hi)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s is %" PRIu64 ": use %" PRIu64 " to %" PRIu64,
                     k->name, v->u, k->lo, k->hi);
    *(uint64_t *)at = v->u;
    return WIRE_OK;
}

static enum wire_error get_bool(const struct wire_key *k, const struct wire_item *v, void *at,
                                struct wire_fault *f)
{
    if (v->kind != ITEM_BOOL)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s must be a bool", k->name);
    *(int *)at = (int)v->u;
    return WIRE_OK;
}

static enum wire_error get_real(const struct wire_key *k, const struct wire_item *v, void *at,
                                struct wire_fault *f)
{
    if (v->kind == ITEM_NINT)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s is negative", k->name);
    if (v->kind != ITEM_REAL && v->kind != ITEM_UINT)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s must be a float", k->name);
    double x = v->kind == ITEM_REAL ? v->real : (double)v->u;
    if (!isfinite(x))
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s is not finite", k->name);
    if (x < 0 || (k->open_lo && x <= 0) || x > k->real_hi)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s is %g: use %s 0 to %g", k->name, x,
                     k->open_lo ? "above" : "from", k->real_hi);
    *(double *)at = x;
    return WIRE_OK;
}

static enum wire_error get_choice(const struct wire_key *k, const struct wire_item *v, void *at,
                                  struct wire_fault *f)
{
    char names[96] = "";
    if (v->kind != ITEM_STR)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s must be a str", k->name);
    for (int i = 0; k->choice[i]; i++) {
        size_t n = strlen(k->choice[i]);
        if (v->u == n && memcmp(v->p, k->choice[i], n) == 0) {
            *(int *)at = i;
            return WIRE_OK;
        }
        size_t used = strlen(names);
        (void)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", k->choice[i]);
    }
    return fault(f, WIRE_E_BAD_VALUE, k->name, "%s must be one of: %s", k->name, names);
}

static enum wire_error get_ids(const struct wire_key *k, const struct wire_item *v,
                               struct wire_cursor *c, void *at, struct wire_fault *f)
{
    if (v->kind != ITEM_ARRAY)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s must be an array", k->name);
    if (v->u < k->lo || v->u > k->hi)
        return fault(f, WIRE_E_BAD_VALUE, k->name,
                     "%s has %" PRIu64 " items: use %" PRIu64 " to %" PRIu64, k->name, v->u, k->lo,
                     k->hi);
    struct wire_ids *ids = at;
    *ids = (struct wire_ids){.raw = c->p, .n = (uint32_t)v->u};
    for (uint32_t i = 0; i < ids->n; i++) {
        struct wire_item id;
        bool whole = wire_next(c, &id);
        if (!whole || id.kind != ITEM_UINT || id.u > INT32_MAX)
            return fault(f, WIRE_E_BAD_VALUE, k->name, "item %" PRIu32 " of %s is not a uint31", i,
                         k->name);
    }
    return WIRE_OK;
}

static enum wire_error get_map(const struct wire_key *table, bool strict, uint64_t n,
                               struct wire_cursor *c, void *base, struct wire_fault *f);

static enum wire_error get_maps(const struct wire_key *k, bool strict, const struct wire_item *v,
                                struct wire_cursor *c, void *base, struct wire_fault *f)
{
    char *at = *(char **)((char *)base + k->at);
    uint32_t cap = *(uint32_t *)((char *)base + k->cap_at);
    if (v->kind != ITEM_ARRAY)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s must be an array", k->name);
    if (v->u > k->hi || v->u > cap)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s has %" PRIu64 " items: too many", k->name,
                     v->u);
    *(uint32_t *)((char *)base + k->count_at) = (uint32_t)v->u;
    for (uint32_t i = 0; i < v->u; i++) {
        struct wire_item map;
        bool whole = wire_next(c, &map);
        if (!whole || map.kind != ITEM_MAP)
            return fault(f, WIRE_E_BAD_VALUE, k->name, "item %" PRIu32 " of %s is not a map", i,
                         k->name);
        memset(at + i * k->sub_bytes, 0, k->sub_bytes);
        enum wire_error e = get_map(k->sub, strict, map.u, c, at + i * k->sub_bytes, f);
        if (e != WIRE_OK)
            return e;
    }
    return WIRE_OK;
}

static enum wire_error get_value(const struct wire_key *k, bool strict, struct wire_cursor *c,
                                 void *base, struct wire_fault *f)
{
    struct wire_item v;
    char *at = (char *)base + k->at;
    if (!wire_next(c, &v))
        return fault(f, WIRE_E_BAD_BODY, "", "the body is truncated");
    switch (k->kind) {
    case KIND_TEXT:
    case KIND_NAME:
        return get_text(k, &v, at, f);
    case KIND_BIN:
        return get_bin(k, &v, at, f);
    case KIND_UINT:
        return get_uint(k, &v, at, f);
    case KIND_BOOL:
        return get_bool(k, &v, at, f);
    case KIND_REAL:
        return get_real(k, &v, at, f);
    case KIND_CHOICE:
        return get_choice(k, &v, at, f);
    case KIND_IDS:
        return get_ids(k, &v, c, at, f);
    case KIND_MAPS:
        return get_maps(k, strict, &v, c, base, f);
    case KIND_MAP:
        break;
    }
    if (v.kind != ITEM_MAP)
        return fault(f, WIRE_E_BAD_VALUE, k->name, "%s must be a map", k->name);
    return get_map(k->sub, strict, v.u, c, at, f);
}

static enum wire_error get_map(const struct wire_key *table, bool strict, uint64_t n,
                               struct wire_cursor *c, void *base, struct wire_fault *f)
{
    uint64_t seen = 0;
    init_keys(table, base);
    for (uint64_t i = 0; i < n; i++) {
        struct wire_item key;
        if (!wire_next(c, &key))
            return fault(f, WIRE_E_BAD_BODY, "", "the body is truncated");
        const struct wire_key *k = table;
        while (k->name && (strlen(k->name) != key.u || memcmp(k->name, key.p, (size_t)key.u) != 0))
            k++;
        if (!k->name) {
            if (strict && (key.u == 0 || key.p[0] != '?'))
                return unknown_key(f, &key);
            wire_skip(c);
            continue;
        }
        seen |= UINT64_C(1) << (k - table);
        enum wire_error e = get_value(k, strict, c, base, f);
        if (e != WIRE_OK)
            return e;
    }
    for (const struct wire_key *k = table; k->name; k++)
        if (k->must && !(seen >> (k - table) & 1))
            return fault(f, WIRE_E_MISSING_KEY, k->name, "%s must be there", k->name);
    return WIRE_OK;
}

/* ---- keys that hang together ------------------------------------------------------------- */

static enum wire_error check_turn(const struct wire_body *b, struct wire_fault *f)
{
    if (!b->query.p && !b->tool_result.p)
        return fault(f, WIRE_E_MISSING_KEY, "query", "query or tool_result must be there");
    if (b->query.p && b->tool_result.p)
        return fault(f, WIRE_E_BAD_VALUE, "tool_result", "query is there already: one of the two");
    if (b->on_busy == WIRE_BUSY_FORK && !b->fork_to.p)
        return fault(f, WIRE_E_MISSING_KEY, "fork_to", "on_busy fork needs fork_to");
    if (b->on_busy != WIRE_BUSY_FORK && b->fork_to.p)
        return fault(f, WIRE_E_BAD_VALUE, "fork_to", "fork_to is only for on_busy fork");
    return WIRE_OK;
}

static enum wire_error check_remember(const struct wire_body *b, struct wire_fault *f)
{
    if (b->ids.raw && (b->query.p || b->answer.p))
        return fault(f, WIRE_E_BAD_VALUE, "ids", "ids, or query and answer: not both");
    if (b->ids.raw)
        return WIRE_OK;
    if (!b->query.p)
        return fault(f, WIRE_E_MISSING_KEY, "query", "ids, or query and answer, must be there");
    if (!b->answer.p)
        return fault(f, WIRE_E_MISSING_KEY, "answer", "query needs answer");
    return WIRE_OK;
}

static enum wire_error check_together(uint8_t type, const struct wire_body *b, struct wire_fault *f)
{
    if (type == WIRE_TURN)
        return check_turn(b, f);
    if (type == WIRE_REMEMBER)
        return check_remember(b, f);
    if (type == WIRE_OPEN && b->from_version != WIRE_ABSENT && !b->from_session.p)
        return fault(f, WIRE_E_MISSING_KEY, "from", "from_version needs from");
    return WIRE_OK;
}

enum wire_error wire_decode(uint8_t type, const void *bytes, size_t n, struct wire_body *out,
                            struct wire_fault *f)
{
    const uint8_t *p = bytes;
    struct wire_cursor check = {p, p + n}, c = check;
    struct wire_item map;
    *f = (struct wire_fault){0};
    wire_init(type, out);
    const char *why = wire_check(&check, WIRE_DEPTH_MAX, WIRE_KEYS_MAX);
    if (why)
        return fault(f, WIRE_E_BAD_BODY, "", "%s", why);
    if (check.p != check.end)
        return fault(f, WIRE_E_BAD_BODY, "", "%zu bytes follow the map",
                     (size_t)(check.end - check.p));
    bool whole = wire_next(&c, &map);
    if (!whole || map.kind != ITEM_MAP)
        return fault(f, WIRE_E_BAD_BODY, "", "the body is not a map");
    const struct wire_key *table = wire_keys(type);
    if (!table)
        return fault(f, WIRE_E_UNKNOWN_TYPE, "", "there is no message type 0x%02x", type);
    enum wire_error e = get_map(table, wire_type_from_client(type), map.u, &c, out, f);
    return e == WIRE_OK ? check_together(type, out, f) : e;
}

void wire_ids_copy(const struct wire_ids *ids, int32_t *out)
{
    if (ids->n == 0)
        return; /* raw may be NULL, to which C adds nothing, not even 0 */
    struct wire_cursor c = {ids->raw, ids->raw + 9 * (size_t)ids->n}; /* checked when decoded */
    for (uint32_t i = 0; i < ids->n; i++) {
        struct wire_item id;
        out[i] = wire_next(&c, &id) ? (int32_t)id.u : 0;
    }
}
