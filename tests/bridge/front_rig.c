#include "tests/bridge/front_rig.h"

#include "kernels/base/mem.h"

/* ---- hooks ------------------------------------------------------------------------------- */

static enum front_sent on_send(void *arg, enum front_endpoint at, struct wire_text route,
                               const struct front_message *m)
{
    struct rig *r = arg;
    struct wire_fault fault;
    assert_true(route.n < sizeof r->answer_to);
    char name[8] = "";
    memcpy(name, route.p, route.n);
    if (r->answer != FRONT_SENT && (!r->answer_to[0] || strcmp(r->answer_to, name) == 0))
        return r->answer;
    assert_true(r->n_sent < RIG_MAX);
    struct rig_sent *s = &r->sent[r->n_sent++];
    *s = (struct rig_sent){.at = at, .h = m->header, .raw_bytes = m->raw.n};
    memcpy(s->route, name, sizeof name);
    s->bytes = malloc(m->header.body_bytes);
    assert_non_null(s->bytes);
    memcpy(s->bytes, m->body, m->header.body_bytes);
    enum wire_error e =
        wire_decode(m->header.type, s->bytes, m->header.body_bytes, &s->body, &fault);
    if (e != WIRE_OK)
        fail_msg("sent a %s that is %s: %s", wire_type_name(m->header.type), wire_error_name(e),
                 fault.detail);
    return FRONT_SENT;
}

static void on_order(void *arg, struct order *o)
{
    struct rig *r = arg;
    assert_true(r->n_order < RIG_MAX);
    r->order[r->n_order++] = o;
}

static void on_error(void *arg, enum wire_error code)
{
    (void)arg;
    (void)code;
}

static void on_admin(void *arg, uint8_t type, const struct wire_body *in, struct wire_body *out)
{
    (void)in;
    (void)out;
    ((struct rig *)arg)->admin = type;
}

void rig_open(struct rig *r)
{
    static struct wire_body welcome;
    static const uint8_t hash[16];
    const struct front_hooks hooks = {
        .arg = r, .send = on_send, .order = on_order, .error = on_error, .admin = on_admin};
    struct front_limits *l = &r->limits;
    wire_init(WIRE_WELCOME, &welcome);
    welcome.version = WIRE_VERSION;
    welcome.server = welcome.model = welcome.bit_class = wire_string("x");
    welcome.model_hash = wire_bytes(hash, sizeof hash);
    if (!l->credit_max)
        *l = (struct front_limits){
            .credit_max = 100000,
            .max_inflight = 8,
            .max_connections = 8,
            .max_tenant_connections = 8,
            .max_requests = 16,
            .max_kept_bytes = 1 << 20,
            .max_import_bytes = 3000000,
            .max_bulk = 2,
            .max_tenant_bulk = 2,
            .heartbeat_ms = 1000,
            .grace_ms = 10000,
            .stall_ms = 3000,
        };
    r->now_us = 1000000;
    assert_ok(front_create(&r->front, &hooks, l, &welcome));
}

void rig_close(struct rig *r)
{
    front_destroy(&r->front);
    assert_null(r->front);
    for (int i = 0; i < r->n_sent; i++)
        free(r->sent[i].bytes);
    for (int i = 0; i < r->n_order; i++)
        mem_free(r->order[i]);
    memset(r, 0, sizeof *r);
}

/* ---- clients ----------------------------------------------------------------------------- */

void rig_frames(struct rig *r, const char *route, const char *tenant, enum front_endpoint at,
                const struct wire_text *frame, size_t n)
{
    front_receive(r->front, at, wire_bytes(route, strlen(route)), tenant, frame, n, r->now_us);
}

const char *rig_tenant(const char *route)
{
    return route[0] >= 'A' && route[0] <= 'Z' ? "other" : "default";
}

static enum front_endpoint endpoint_of(uint8_t type)
{
    return wire_type_at(type, 't')   ? FRONT_TURN
           : wire_type_at(type, 's') ? FRONT_STATE
                                     : FRONT_ADMIN;
}

void rig_send_at(struct rig *r, const char *route, enum front_endpoint at, uint8_t type, uint8_t id,
                 const struct wire_body *b)
{
    static uint8_t body[WIRE_BODY_MAX];
    uint8_t header[WIRE_HEADER_BYTES];
    size_t n = 0;
    assert_ok(wire_encode(type, b, body, sizeof body, &n));
    struct wire_header h = {.version = WIRE_VERSION, .type = type, .body_bytes = (uint32_t)n};
    memset(h.id, id, sizeof h.id);
    wire_header_put(&h, header);
    const struct wire_text frame[2] = {wire_bytes(header, sizeof header), wire_bytes(body, n)};
    rig_frames(r, route, rig_tenant(route), at, frame, 2);
}

void rig_send(struct rig *r, const char *route, uint8_t type, uint8_t id, const struct wire_body *b)
{
    rig_send_at(r, route, endpoint_of(type), type, id, b);
}

void rig_hello_at(struct rig *r, const char *route, enum front_endpoint at, uint64_t credit)
{
    const int32_t versions[] = {WIRE_VERSION};
    struct wire_body b = {0};
    wire_init(WIRE_HELLO, &b);
    b.versions = (struct wire_ids){.v = versions, .n = 1};
    b.credit = credit;
    rig_send_at(r, route, at, WIRE_HELLO, 0, &b);
    (void)rig_expect(r, route, WIRE_WELCOME, 0);
}

void rig_hello(struct rig *r, const char *route, uint64_t credit)
{
    rig_hello_at(r, route, FRONT_TURN, credit);
}

void rig_turn(struct rig *r, const char *route, uint8_t id, const char *session)
{
    struct wire_body b = {0};
    wire_init(WIRE_TURN, &b);
    b.session = wire_string(session);
    b.query = wire_string("Hi");
    rig_send(r, route, WIRE_TURN, id, &b);
}

void rig_simple(struct rig *r, const char *route, uint8_t type, uint8_t id, const char *session)
{
    struct wire_body b = {0};
    wire_init(type, &b);
    b.session = wire_string(session);
    rig_send(r, route, type, id, &b);
}

void rig_credit(struct rig *r, const char *route, uint64_t bytes)
{
    struct wire_body b = {0};
    wire_init(WIRE_CREDIT, &b);
    b.bytes = bytes;
    rig_send(r, route, WIRE_CREDIT, 0, &b);
}

void rig_resume(struct rig *r, const char *route, uint8_t id, const char *session, uint64_t from)
{
    struct wire_body b = {0};
    wire_init(WIRE_RESUME, &b);
    b.session = wire_string(session);
    b.from = from;
    rig_send(r, route, WIRE_RESUME, id, &b);
}

struct rig_sent *rig_expect(struct rig *r, const char *route, uint8_t type, uint8_t id)
{
    if (r->n_read == r->n_sent)
        fail_msg("%s gets no %s", route, wire_type_name(type));
    struct rig_sent *s = &r->sent[r->n_read++];
    if (s->h.type != type || strcmp(s->route, route) != 0)
        fail_msg("%s gets %s (%.*s), not %s gets %s", s->route, wire_type_name(s->h.type),
                 (int)s->body.detail.n, s->body.detail.p ? s->body.detail.p : "", route,
                 wire_type_name(type));
    for (int i = 0; i < WIRE_ID_BYTES; i++)
        assert_int_equal(s->h.id[i], id);
    assert_int_equal(s->h.version, WIRE_VERSION);
    return s;
}

struct rig_sent *rig_error(struct rig *r, const char *route, uint8_t id, enum wire_error code)
{
    struct rig_sent *s = rig_expect(r, route, WIRE_ERROR, id);
    if (s->body.code != (uint64_t)code)
        fail_msg("got %.*s: %.*s", (int)s->body.name.n, s->body.name.p, (int)s->body.detail.n,
                 s->body.detail.p);
    assert_int_equal(s->body.retryable, wire_error_retryable(code));
    assert_true(s->body.detail.n > 0);
    return s;
}

void rig_quiet(struct rig *r)
{
    if (r->n_read < r->n_sent)
        fail_msg("%s gets a %s too many", r->sent[r->n_read].route,
                 wire_type_name(r->sent[r->n_read].h.type));
}

/* ---- engine ------------------------------------------------------------------------------ */

struct order *rig_order(struct rig *r, enum order_kind kind)
{
    if (r->n_taken == r->n_order)
        fail_msg("there is no order");
    struct order *o = r->order[r->n_taken++];
    assert_int_equal(o->kind, kind);
    return o;
}

void rig_no_order(struct rig *r)
{
    assert_int_equal(r->n_taken, r->n_order);
}

static void say(struct rig *r, struct note note, const void *bytes)
{
    note.size = (uint32_t)(sizeof note + note.bytes + 15) / 16 * 16;
    struct batch *b = calloc(1, sizeof *b + note.size);
    assert_non_null(b);
    b->used = note.size;
    memcpy(b->bytes, &note, sizeof note);
    if (bytes)
        memcpy(b->bytes + sizeof note, bytes, note.bytes);
    front_note(r->front, b, r->now_us);
    free(b);
}

void rig_ticket(struct rig *r, struct stream *s, uint64_t ticket)
{
    say(r, (struct note){.stream = s, .kind = NOTE_TICKET, .ticket = ticket}, NULL);
}

void rig_token(struct rig *r, struct stream *s, int32_t id, const char *text, int32_t candidate)
{
    say(r,
        (struct note){.stream = s,
                      .kind = NOTE_TOKEN,
                      .token = id,
                      .candidate = candidate,
                      .bytes = (uint32_t)strlen(text)},
        text);
}

void rig_note(struct rig *r, struct stream *s, enum note_kind kind, uint64_t ticket,
              enum rxt_status st, const void *bytes, size_t n)
{
    say(r,
        (struct note){
            .stream = s, .kind = kind, .ticket = ticket, .status = st, .bytes = (uint32_t)n},
        bytes);
}

void rig_message(struct rig *r, struct stream *s, uint8_t type, uint16_t flags)
{
    static const uint8_t hash[16];
    struct wire_body b = {0};
    uint8_t body[512];
    size_t n = 0;
    wire_init(type, &b);
    b.session = wire_string("s");
    b.version = b.code = 1;
    b.name = b.detail = wire_string("x");
    b.retryable = 0;
    b.stm_hash = wire_bytes(hash, sizeof hash);
    assert_ok(wire_encode(type, &b, body, sizeof body, &n));
    say(r,
        (struct note){
            .stream = s, .kind = NOTE_MESSAGE, .type = type, .flags = flags, .bytes = (uint32_t)n},
        body);
}

/* ---- for tests --------------------------------------------------------------------------- */

static struct rig test_rig;

int rig_test_open(void **state)
{
    *state = &test_rig;
    rig_open(&test_rig);
    return 0;
}

int rig_test_close(void **state)
{
    rig_close(*state);
    return 0;
}

void rig_tick(struct rig *r, uint64_t ms)
{
    r->now_us += 1000 * ms;
    (void)front_tick(r->front, r->now_us);
}

struct stream *rig_run_turn(struct rig *r, const char *route, uint8_t id)
{
    rig_turn(r, route, id, "s");
    struct stream *s = rig_order(r, ORDER_SUBMIT)->stream;
    rig_ticket(r, s, id);
    rig_message(r, s, WIRE_ACCEPTED, 0);
    rig_token(r, s, 10, "a", 0);
    rig_token(r, s, 11, "b", 0);
    rig_token(r, s, 12, "c", 0);
    return s;
}

void rig_end_turn(struct rig *r, struct stream *s)
{
    rig_message(r, s, WIRE_DONE, 0);
    rig_message(r, s, WIRE_MEMORY, WIRE_FINAL);
}

void rig_expect_stream(struct rig *r, const char *route, uint8_t id, uint32_t from)
{
    rig_expect(r, route, WIRE_ACCEPTED, id);
    if (from < 3) {
        struct rig_sent *t = rig_expect(r, route, WIRE_TOKEN, id);
        assert_int_equal(t->h.sequence, from);
        assert_int_equal(t->body.ids.n, 3 - from);
        assert_memory_equal(t->body.text.p, &"abc"[from], 3 - from);
    }
    rig_expect(r, route, WIRE_DONE, id);
    assert_int_equal(rig_expect(r, route, WIRE_MEMORY, id)->h.flags, WIRE_FINAL);
}

void rig_drop_sent(struct rig *r)
{
    r->n_read = r->n_sent;
}

void rig_lose(struct rig *r, const char *route)
{
    r->answer = FRONT_GONE;
    memcpy(r->answer_to, route, strlen(route) + 1);
    rig_tick(r, r->limits.heartbeat_ms + 1); /* asks, and finds out */
}
