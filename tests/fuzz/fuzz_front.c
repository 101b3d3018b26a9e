/* The whole front: clients that send anything in any order, an engine that answers, connections
 * that go, credit that runs out, time that passes. An input is a program of 4-byte steps.
 * What a client gets must keep the order of bridge/PROTOCOL.md: nothing of a request behind its
 * FINAL, no gap in the tokens, tokens only while there is credit, DRAINING and PONG without an id.
 * covers: bridge/front.c bridge/front_bulk.c bridge/front_peer.c bridge/front_stream.c */
#include "bridge/front_impl.h"
#include "kernels/base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define ROUTES 4
#define IDS 6
#define STREAMS 64
#define CREDIT_MAX 2000
#define IMPORTED 49u /* bytes of the last chunk of an import */

/* What a client knows of a request. */
struct seen {
    bool open;  /* it has sent the request or RESUME and got no FINAL since */
    bool chose; /* each CHOOSE has an answer of its own: there may be several FINALs */
    uint32_t n[WIRE_CANDIDATES_MAX];
};
struct running { /* what the engine knows */
    struct stream *stream;
    bool accepted, done, exports, imports;
};

static struct {
    struct front *front;
    uint64_t now_us;
    enum front_sent answer;
    int64_t credit[ROUTES];
    struct seen seen[ROUTES][IDS + 1];
    struct running run[STREAMS];
    int n_run;
    struct order *file[STREAMS]; /* READ and WRITE that have not been carried out */
    int n_file;
    uint32_t chunk_n, chunk_sequence; /* of the CHUNK that is sent next */
    uint64_t ticket;
} f;

/* ---- what comes out ---------------------------------------------------------------------- */

static void check_stream(int route, const struct front_message *m, const struct wire_body *b)
{
    uint8_t id = m->header.id[0];
    assert(id > 0 && id <= IDS);
    struct seen *s = &f.seen[route][id];
    assert(m->header.type == WIRE_ERROR || s->open || s->chose);
    if (m->header.type == WIRE_TOKEN) {
        uint32_t *n = &s->n[b->candidate];
        assert(m->header.sequence <= *n || s->chose); /* again is allowed, a gap is not */
        if (m->header.sequence + b->ids.n > *n)
            *n = m->header.sequence + b->ids.n;
        assert(f.credit[route] > 0);
        f.credit[route] -= WIRE_HEADER_BYTES + m->header.body_bytes;
    }
    if (m->header.flags & WIRE_FINAL)
        *s = (struct seen){.chose = s->chose};
}

static enum front_sent on_send(void *arg, enum front_endpoint at, struct wire_text route,
                               const struct front_message *m)
{
    static struct wire_info sessions[WIRE_ITEMS_MAX];
    struct wire_body b = {.sessions = sessions, .cap_sessions = WIRE_ITEMS_MAX};
    struct wire_fault fault;
    static const uint8_t zero[WIRE_ID_BYTES];
    (void)arg;
    if (f.answer != FRONT_SENT)
        return f.answer;
    assert(wire_type_from_server(m->header.type));
    assert(wire_type_at(m->header.type, at == FRONT_TURN ? 't' : at == FRONT_STATE ? 's' : 'a'));
    enum wire_error e = wire_decode(m->header.type, m->body, m->header.body_bytes, &b, &fault);
    assert(e == WIRE_OK);
    if (memcmp(m->header.id, zero, sizeof zero) == 0)
        assert(wire_type_id_zero(m->header.type) || m->header.type == WIRE_ERROR);
    else if (at == FRONT_TURN) /* the other endpoints are other connections */
        check_stream(route.p[0] - 'a', m, &b);
    return FRONT_SENT;
}

static void on_order(void *arg, struct order *o)
{
    (void)arg;
    if (o->kind == ORDER_READ || o->kind == ORDER_WRITE) {
        assert(f.n_file < STREAMS);
        f.file[f.n_file++] = o;
        return;
    }
    if (o->kind == ORDER_SUBMIT && f.n_run < STREAMS)
        f.run[f.n_run++] = (struct running){.stream = o->stream,
                                            .exports = o->r.verb == BRIDGE_EXPORT,
                                            .imports = o->r.verb == BRIDGE_IMPORT};
    else
        assert(o->kind == ORDER_CANCEL || o->kind == ORDER_SUBMIT || o->kind == ORDER_DROP);
    mem_free(o);
}

static void on_error(void *arg, enum wire_error code)
{
    (void)arg;
    (void)code;
}

static void on_admin(void *arg, uint8_t type, const struct wire_body *in, struct wire_body *out)
{
    (void)arg;
    (void)type;
    (void)in;
    (void)out;
}

/* ---- what goes in ------------------------------------------------------------------------ */

enum spoil { SOUND, NO_MAGIC, OTHER_VERSION, FLAGS, NO_BODY, THREE_FRAMES, LENGTH, LARGE, SPOILS };

static void deliver(int route, enum front_endpoint at, uint8_t type, uint8_t id,
                    const uint8_t *body, size_t n, enum spoil spoil)
{
    static const uint8_t large[WIRE_CHUNK_BYTES];
    static const char *const tenant[ROUTES] = {"default", "default", "third", "other"};
    const char name[2] = {(char)('a' + route), 0};
    uint8_t header[WIRE_HEADER_BYTES];
    struct wire_header h = {.version = WIRE_VERSION, .type = type, .body_bytes = (uint32_t)n};
    memset(h.id, id, sizeof h.id);
    h.sequence = type == WIRE_CHUNK ? f.chunk_sequence : 0;
    h.version = spoil == OTHER_VERSION ? WIRE_VERSION + 1 : WIRE_VERSION;
    h.flags = spoil == FLAGS ? 1 : 0;
    h.body_bytes += spoil == LENGTH;
    wire_header_put(&h, header);
    header[0] = spoil == NO_MAGIC ? 0 : header[0];
    const struct wire_text frame[3] = {
        wire_bytes(header, sizeof header),
        spoil == LARGE ? wire_bytes(large, WIRE_BODY_MAX + 1) : wire_bytes(body, n),
        wire_bytes(large, f.chunk_n),
    };
    size_t n_frame = spoil == NO_BODY ? 1 : spoil == THREE_FRAMES ? 3 : 2;
    front_receive(f.front, at, wire_bytes(name, 1), tenant[route], frame, n_frame, f.now_us);
}

static void client(uint8_t who, uint8_t what, uint8_t how)
{
    static const uint8_t types[] = {
        WIRE_HELLO,    WIRE_TURN,   WIRE_CANCEL, WIRE_CREDIT, WIRE_RESUME, WIRE_PING,
        WIRE_OPEN,     WIRE_GET,    WIRE_FORK,   WIRE_REWIND, WIRE_RESET,  WIRE_ERASE,
        WIRE_REMEMBER, WIRE_HEALTH, WIRE_LIST,   WIRE_CHOOSE, 0x7F};
    static const int32_t versions[] = {WIRE_VERSION};
    int route = who % ROUTES;
    uint8_t type = types[what % sizeof types], id = (uint8_t)(1 + how % IDS), body[512];
    enum front_endpoint at = who & 64 ? FRONT_ADMIN : who & 32 ? FRONT_STATE : FRONT_TURN;
    if (at == FRONT_STATE && type != WIRE_HELLO && type != WIRE_CANCEL && type != WIRE_CREDIT)
        type = what & 64 ? WIRE_CHUNK : what & 32 ? WIRE_IMPORT : WIRE_EXPORT;
    size_t n = 0;
    struct wire_body b = {0};
    wire_init(type, &b);
    b.session = b.to = b.answer = wire_string("s");
    if (type == WIRE_TURN || how & 64)
        b.query = wire_string("Hi");
    b.versions = (struct wire_ids){.v = versions, .n = 1};
    if (type == WIRE_REMEMBER && !(how & 64)) {
        b.answer.p = NULL;
        b.ids = (struct wire_ids){.v = versions, .n = 1};
    }
    b.version = b.from = how / IDS % 4;
    b.bytes = (uint64_t)how * 8 + 1;
    if (type == WIRE_IMPORT) /* one chunk, or two */
        b.bytes = how & 128 ? WIRE_CHUNK_BYTES + IMPORTED : IMPORTED;
    f.chunk_n = how & 64 ? WIRE_CHUNK_BYTES : IMPORTED + (how & 32 ? 1 : 0);
    f.chunk_sequence = how >> 7;
    b.credit = how & 128 ? WIRE_ABSENT : (uint64_t)how * 8;
    b.on_disconnect = how & 32 ? WIRE_DISCONNECT_CANCEL : WIRE_DISCONNECT_KEEP;
    if (type == 0x7F || wire_encode(type, &b, body, sizeof body, &n) != RXT_OK)
        body[n++] = 0x80;
    bool zero = type != 0x7F && wire_type_id_zero(type);
    if (!zero)
        f.seen[route][id].open = true; /* from the next answer on it must be in order */
    f.seen[route][id].chose |= type == WIRE_CHOOSE && at == FRONT_TURN;
    for (int i = 0; type == WIRE_RESUME && i < WIRE_CANDIDATES_MAX; i++)
        if (b.from > f.seen[route][id].n[i])
            f.seen[route][id].n[i] = (uint32_t)b.from;
    /* As the server counts it, or more. */
    int64_t *credit = &f.credit[route];
    if (at == FRONT_TURN && type == WIRE_HELLO)
        *credit = b.credit == WIRE_ABSENT ? CREDIT_MAX : (int64_t)b.credit;
    if (at == FRONT_TURN && type == WIRE_CREDIT)
        *credit += (int64_t)b.bytes;
    deliver(route, at, type, zero ? 0 : id, body, n, type == WIRE_CHUNK ? THREE_FRAMES : SOUND);
}

static void note(const struct note *n, const void *bytes)
{
    static struct {
        _Alignas(struct batch) uint8_t bytes[sizeof(struct batch) + 1024];
    } room;
    struct batch *b = (struct batch *)(void *)room.bytes;
    struct note *at = (struct note *)(void *)b->bytes;
    *at = *n;
    at->size = (uint32_t)((sizeof *n + n->bytes + 15) / 16 * 16);
    if (bytes)
        memcpy(at + 1, bytes, n->bytes);
    b->used = at->size;
    front_note(f.front, b, f.now_us);
}

static void message(struct running *r, uint8_t type, uint16_t flags)
{
    static const uint8_t hash[16];
    struct wire_body b = {0};
    uint8_t body[256];
    size_t n = 0;
    wire_init(type, &b);
    b.session = b.name = b.detail = wire_string("s");
    b.retryable = 0;
    b.stm_hash = wire_bytes(hash, sizeof hash);
    enum rxt_status st = wire_encode(type, &b, body, sizeof body, &n);
    assert(st == RXT_OK);
    note(&(struct note){.stream = r->stream,
                        .kind = NOTE_MESSAGE,
                        .type = type,
                        .flags = flags,
                        .bytes = (uint32_t)n},
         body);
    if (!(flags & WIRE_FINAL))
        return;
    *r = f.run[--f.n_run];
}

static void engine(uint8_t which, uint8_t what, uint8_t how)
{
    if (f.n_run == 0)
        return;
    struct running *r = &f.run[which % f.n_run];
    if (r->exports && what % 6 > 0 && what % 6 < 5) {
        struct stream *stream = r->stream;
        *r = f.run[--f.n_run];
        note(&(struct note){.stream = stream, .kind = NOTE_SPOOLED}, NULL);
        return;
    }
    if (r->imports && what % 6 > 0 && what % 6 < 5) { /* the front has said ACCEPTED */
        message(r, WIRE_DONE, WIRE_FINAL);
        return;
    }
    switch (what % 6) {
    case 0:
        note(&(struct note){.stream = r->stream, .kind = NOTE_TICKET, .ticket = ++f.ticket}, NULL);
        return;
    case 1:
        if (!r->accepted && !r->done)
            message(r, WIRE_ACCEPTED, 0);
        r->accepted = true;
        return;
    case 2:
        if (r->done)
            return;
        r->accepted = true;
        note(&(struct note){.stream = r->stream,
                            .kind = NOTE_TOKEN,
                            .token = how,
                            .candidate = how % 2,
                            .flags = how & 4 ? WIRE_STORED : 0,
                            .bytes = how % 8},
             "abcdefgh");
        return;
    case 3:
        if (!r->done)
            message(r, WIRE_DONE, how & 1 ? WIRE_FINAL : 0);
        if (!(how & 1))
            r->done = true;
        return;
    case 4:
        if (r->done)
            message(r, WIRE_MEMORY, WIRE_FINAL);
        return;
    default:
        message(r, how & 1 ? WIRE_ERROR : WIRE_CANCELLED, WIRE_FINAL);
        return;
    }
}

/* Carries out one of the orders for files, well or not. */
static void disk(uint8_t which, uint8_t how)
{
    static const uint8_t bytes[64];
    if (f.n_file == 0)
        return;
    struct order **at = &f.file[which % f.n_file], *o = *at;
    *at = f.file[--f.n_file];
    struct note n = {.stream = o->stream, .kind = NOTE_WROTE, .ticket = o->n_bytes};
    if (o->kind == ORDER_READ) {
        n.kind = NOTE_CHUNK;
        n.bytes = 1 + how % 32;
        n.ticket = o->offset + n.bytes + (how & 64 ? 5 : 0);
    }
    if (how & 128)
        n.status = o->kind == ORDER_READ ? RXT_EIO : RXT_EFULL;
    mem_free(o);
    note(&n, n.bytes ? bytes : NULL);
}

static void open_front(void)
{
    static struct wire_body welcome;
    static const uint8_t hash[16];
    static const struct front_hooks hooks = {
        .send = on_send, .order = on_order, .error = on_error, .admin = on_admin};
    static const struct front_limits limits = {
        .credit_max = CREDIT_MAX,
        .max_inflight = 4,
        .max_connections = 3,
        .max_tenant_connections = 2,
        .max_requests = 10,
        .max_kept_bytes = 12000,
        .max_import_bytes = WIRE_CHUNK_BYTES + 1000,
        .max_bulk = 2,
        .max_tenant_bulk = 1,
        .heartbeat_ms = 100,
        .grace_ms = 400,
        .stall_ms = 200,
    };
    wire_init(WIRE_WELCOME, &welcome);
    welcome.version = WIRE_VERSION;
    welcome.server = welcome.model = welcome.bit_class = wire_string("x");
    welcome.model_hash = wire_bytes(hash, sizeof hash);
    memset(&f, 0, sizeof f);
    f.now_us = 1000000;
    enum rxt_status st = front_create(&f.front, &hooks, &limits, &welcome);
    assert(st == RXT_OK);
}

/* A front that has forgotten a connection has forgotten its credit, too. */
static void lose(uint8_t who, uint8_t ms)
{
    f.answer = who % 2 ? FRONT_GONE : FRONT_FULL;
    f.now_us += (uint64_t)ms * 1000;
    (void)front_tick(f.front, f.now_us);
    f.answer = FRONT_SENT;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 4096)
        return 0;
    open_front();
    for (; size >= 4; data += 4, size -= 4)
        switch (data[0] % 8) {
        case 0:
        case 1:
        case 2:
            client(data[1], data[2], data[3]);
            break;
        case 3:
            engine(data[1], data[2], data[3]);
            break;
        case 4:
            if (data[1] & 1)
                engine(data[1] >> 1, data[2], data[3]);
            else
                disk(data[2], data[3]);
            break;
        case 5:
            f.now_us += (uint64_t)data[1] * 1000;
            (void)front_tick(f.front, f.now_us);
            break;
        case 6:
            lose(data[1], data[2]);
            break;
        default:
            if (data[1] == 255) {
                front_drain(f.front, 1);
                break;
            }
            if (!(data[1] & 8))
                f.seen[data[1] % ROUTES][1].open = true;
            f.seen[data[1] % ROUTES][1].chose |= data[3] == WIRE_CHOOSE;
            f.credit[data[1] % ROUTES] = INT64_MAX / 2; /* it may be a HELLO */
            /* The body is what follows, whatever it is. */
            deliver(data[1] % ROUTES, (enum front_endpoint)(data[2] % FRONT_ENDPOINTS), data[3],
                    data[1] & 8 ? 0 : 1, data + 4, size - 4 < 32 ? size - 4 : 32,
                    (enum spoil)(data[1] >> 4 & (SPOILS - 1)));
            break;
        }
    front_destroy(&f.front);
    while (f.n_file > 0)
        mem_free(f.file[--f.n_file]);
    return 0;
}
