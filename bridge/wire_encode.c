#include "bridge/wire_keys_impl.h"

#include "kernels/base/utf8.h"

#include <msgpack.h>
#include <string.h>

struct room {
    char *p;
    size_t left;
};

static int put(void *data, const char *bytes, size_t n)
{
    struct room *room = data;
    if (n > room->left)
        return -1;
    if (n == 0)
        return 0;
    memcpy(room->p, bytes, n);
    room->p += n;
    room->left -= n;
    return 0;
}

/* A key that may be left out is there if it has not its default; a map, if its first key has a
 * value. */
static bool has_value(const struct wire_key *k, const void *base)
{
    const char *at = (const char *)base + k->at;
    switch (k->kind) {
    case KIND_TEXT:
    case KIND_NAME:
    case KIND_BIN:
        return ((const struct wire_text *)at)->p;
    case KIND_UINT:
        return *(const uint64_t *)at != k->init;
    case KIND_BOOL:
        return *(const int *)at >= 0;
    case KIND_REAL:
        return *(const double *)at != k->real_init;
    case KIND_CHOICE:
        return *(const int *)at != 0;
    case KIND_IDS:
        return ((const struct wire_ids *)at)->v;
    case KIND_MAPS:
        return *(const uint32_t *)((const char *)base + k->count_at) != UINT32_MAX;
    case KIND_MAP:
        break;
    }
    return has_value(k->sub, at);
}

static bool is_there(const struct wire_key *k, const void *base)
{
    return k->must || has_value(k, base);
}

static uint32_t count_keys(const struct wire_key *table, const void *base)
{
    uint32_t n = 0;
    for (const struct wire_key *k = table; k->name; k++)
        n += is_there(k, base);
    return n;
}

static int put_str(msgpack_packer *pk, const char *s, size_t n)
{
    int failed = msgpack_pack_str(pk, n);
    return failed ? failed : msgpack_pack_str_body(pk, s, n);
}

/* A str is UTF-8. Where a text is not, because it was cut or comes out of somebody else's file,
 * each byte that is of no code point becomes '?'. */
static int put_text(msgpack_packer *pk, const struct wire_text *t)
{
    size_t at = utf8_valid(t->p, t->n);
    if (at == t->n)
        return put_str(pk, t->p, t->n);
    int failed = msgpack_pack_str(pk, t->n) || msgpack_pack_str_body(pk, t->p, at);
    while (at < t->n && !failed) {
        struct utf8_step bad = utf8_next(t->p + at, t->n - at);
        failed = msgpack_pack_str_body(pk, "???", bad.len);
        at += bad.len;
        size_t good = utf8_valid(t->p + at, t->n - at);
        failed = failed || msgpack_pack_str_body(pk, t->p + at, good);
        at += good;
    }
    return failed;
}

static int put_real(msgpack_packer *pk, double x)
{
    return (double)(float)x == x ? msgpack_pack_float(pk, (float)x) : msgpack_pack_double(pk, x);
}

static int put_ids(msgpack_packer *pk, const struct wire_ids *ids)
{
    int failed = msgpack_pack_array(pk, ids->n);
    for (uint32_t i = 0; i < ids->n && !failed; i++)
        failed = msgpack_pack_uint32(pk, (uint32_t)ids->v[i]);
    return failed;
}

static int put_map(msgpack_packer *pk, const struct wire_key *table, const void *base);

static int put_maps(msgpack_packer *pk, const struct wire_key *k, const void *base)
{
    const char *at = *(char *const *)((const char *)base + k->at);
    uint32_t n = *(const uint32_t *)((const char *)base + k->count_at);
    int failed = msgpack_pack_array(pk, n);
    for (uint32_t i = 0; i < n && !failed; i++)
        failed = put_map(pk, k->sub, at + i * k->sub_bytes);
    return failed;
}

static int put_value(msgpack_packer *pk, const struct wire_key *k, const void *base)
{
    const char *at = (const char *)base + k->at;
    const struct wire_text *text = (const struct wire_text *)at;
    switch (k->kind) {
    case KIND_TEXT:
    case KIND_NAME:
        return put_text(pk, text);
    case KIND_BIN: {
        int failed = msgpack_pack_bin(pk, text->n);
        return failed ? failed : msgpack_pack_bin_body(pk, text->p, text->n);
    }
    case KIND_UINT:
        return msgpack_pack_uint64(pk, *(const uint64_t *)at);
    case KIND_BOOL:
        return *(const int *)at ? msgpack_pack_true(pk) : msgpack_pack_false(pk);
    case KIND_REAL:
        return put_real(pk, *(const double *)at);
    case KIND_CHOICE: {
        const char *name = k->choice[*(const int *)at];
        return put_str(pk, name, strlen(name));
    }
    case KIND_IDS:
        return put_ids(pk, (const struct wire_ids *)at);
    case KIND_MAPS:
        return put_maps(pk, k, base);
    case KIND_MAP:
        break;
    }
    return put_map(pk, k->sub, at);
}

static int put_map(msgpack_packer *pk, const struct wire_key *table, const void *base)
{
    int failed = msgpack_pack_map(pk, count_keys(table, base));
    for (const struct wire_key *k = table; k->name && !failed; k++) {
        if (!is_there(k, base))
            continue;
        failed = put_str(pk, k->name, strlen(k->name));
        if (!failed)
            failed = put_value(pk, k, base);
    }
    return failed;
}

enum rxt_status wire_encode(uint8_t type, const struct wire_body *b, void *out, size_t cap,
                            size_t *n)
{
    struct room room = {out, cap};
    msgpack_packer pk;
    const struct wire_key *table = wire_keys(type);
    if (!table)
        return RXT_EINVAL;
    msgpack_packer_init(&pk, &room, put);
    if (put_map(&pk, table, b) != 0)
        return RXT_ELIMIT;
    *n = cap - room.left;
    return RXT_OK;
}
