#include "bridge/wire_impl.h"

#include <string.h>

static const uint8_t magic[4] = {'R', 'X', 'T', 'P'};

/* ---- header ------------------------------------------------------------------------------ */

static void put_le(uint8_t *out, uint32_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get_le(const uint8_t *p, size_t n)
{
    uint32_t v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (uint32_t)p[i] << (8 * i);
    return v;
}

void wire_header_put(const struct wire_header *h, uint8_t out[WIRE_HEADER_BYTES])
{
    memcpy(out, magic, sizeof magic);
    out[4] = h->version;
    out[5] = h->type;
    put_le(out + 6, h->flags, 2);
    memcpy(out + 8, h->id, WIRE_ID_BYTES);
    put_le(out + 24, h->sequence, 4);
    put_le(out + 28, h->body_bytes, 4);
}

bool wire_header_get(const void *bytes, size_t n, struct wire_header *h)
{
    const uint8_t *p = bytes;
    if (n != WIRE_HEADER_BYTES || memcmp(p, magic, sizeof magic) != 0)
        return false;
    h->version = p[4];
    h->type = p[5];
    h->flags = (uint16_t)get_le(p + 6, 2);
    memcpy(h->id, p + 8, WIRE_ID_BYTES);
    h->sequence = get_le(p + 24, 4);
    h->body_bytes = get_le(p + 28, 4);
    return true;
}

/* ---- types ------------------------------------------------------------------------------- */

enum from { CLIENT = 1, SERVER = 2, BOTH = 3 };
struct type_row {
    const char *name; /* NULL: no such type */
    enum from from;
    const char *where;
    char id;
};
static const struct type_row types[256] = {
#define TYPE_ROW(name_, number, from_, where_, id_) \
    [number] = {.name = #name_, .from = from_, .where = where_, .id = id_},
    WIRE_TYPE_TABLE(TYPE_ROW)
#undef TYPE_ROW
};

const char *wire_type_name(uint8_t type)
{
    return types[type].name;
}

bool wire_type_from_client(uint8_t type)
{
    return types[type].from & CLIENT;
}

bool wire_type_from_server(uint8_t type)
{
    return types[type].from & SERVER;
}

bool wire_type_at(uint8_t type, char endpoint)
{
    return types[type].where && strchr(types[type].where, endpoint);
}

bool wire_type_id_zero(uint8_t type)
{
    return types[type].id == 'z';
}

struct wire_text wire_string(const char *s)
{
    return s ? wire_bytes(s, strlen(s)) : wire_bytes("", 0);
}
