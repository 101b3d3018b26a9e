/* Bodies and headers of RXTP/1. The first byte of an input is the message type, the rest the body.
 * What is taken is written again and must come back the same.
 * covers: bridge/wire.c bridge/wire_read.c bridge/wire_decode.c bridge/wire_encode.c */
#include "bridge/wire_impl.h"

#include <assert.h>
#include <string.h>

#define INPUT_MAX 8192

struct side {
    struct wire_body body;
    struct wire_candidate candidates[WIRE_CANDIDATES_MAX];
    struct wire_info sessions[WIRE_ITEMS_MAX];
    int32_t ids[3][INPUT_MAX];
};

static void prepare(struct side *s)
{
    s->body = (struct wire_body){
        .candidates = s->candidates,
        .cap_candidates = WIRE_CANDIDATES_MAX,
        .sessions = s->sessions,
        .cap_sessions = WIRE_ITEMS_MAX,
    };
}

static void keep_ids(struct wire_ids *ids, int32_t *room)
{
    if (!ids->raw)
        return;
    wire_ids_copy(ids, room);
    ids->v = room;
}

static size_t write_again(struct side *s, uint8_t type, uint8_t *out, size_t cap)
{
    size_t n = 0;
    keep_ids(&s->body.versions, s->ids[0]);
    keep_ids(&s->body.ids, s->ids[1]);
    keep_ids(&s->body.last_ids, s->ids[2]);
    enum rxt_status st = wire_encode(type, &s->body, out, cap, &n);
    assert(st == RXT_OK);
    return n;
}

static void try_header(const uint8_t *data, size_t size)
{
    struct wire_header h;
    uint8_t out[WIRE_HEADER_BYTES];
    if (!wire_header_get(data, size, &h))
        return;
    wire_header_put(&h, out);
    assert(memcmp(out, data, sizeof out) == 0);
    (void)wire_type_name(h.type);
    (void)wire_type_from_client(h.type);
    (void)wire_type_from_server(h.type);
    (void)wire_type_at(h.type, 't');
    (void)wire_type_id_zero(h.type);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct side a, b;
    static uint8_t first[4 * INPUT_MAX], second[4 * INPUT_MAX];
    struct wire_fault f;
    if (size == 0 || size > INPUT_MAX)
        return 0;
    try_header(data, size);
    uint8_t type = data[0];
    prepare(&a);
    enum wire_error e = wire_decode(type, data + 1, size - 1, &a.body, &f);
    assert(e == f.code);
    if (e != WIRE_OK) {
        assert(f.detail[0]);
        assert(strcmp(wire_error_name(e), "internal") != 0);
        assert(!wire_error_retryable(e));
        return 0;
    }
    size_t n = write_again(&a, type, first, sizeof first);
    prepare(&b);
    e = wire_decode(type, first, n, &b.body, &f);
    assert(e == WIRE_OK);
    size_t m = write_again(&b, type, second, sizeof second);
    assert(m == n && memcmp(first, second, n) == 0);
    return 0;
}
