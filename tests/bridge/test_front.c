/* What the front checks in a message, which limits it keeps, how it drains (bridge/PROTOCOL.md,
 * sections 3 and 11). */
#include "tests/bridge/front_rig.h"

static void test_hello(void **state)
{
    struct rig *r = *state;
    struct wire_body b = {0};
    const int32_t others[] = {2, 3}, many[] = {7, WIRE_VERSION};
    rig_turn(r, "a", 1, "s");
    rig_error(r, "a", 1, WIRE_E_HELLO_NEEDED);
    wire_init(WIRE_HELLO, &b);
    b.versions = (struct wire_ids){.v = others, .n = 2};
    rig_send(r, "a", WIRE_HELLO, 0, &b);
    rig_error(r, "a", 0, WIRE_E_BAD_VERSION);
    b.versions = (struct wire_ids){.v = many, .n = 2};
    b.credit = r->limits.credit_max + 1;
    rig_send(r, "a", WIRE_HELLO, 0, &b);
    rig_error(r, "a", 0, WIRE_E_BAD_VALUE);
    b.credit = WIRE_ABSENT;
    rig_send(r, "a", WIRE_HELLO, 0, &b);
    struct rig_sent *w = rig_expect(r, "a", WIRE_WELCOME, 0);
    assert_int_equal(w->body.credit_max, r->limits.credit_max);
    assert_int_equal(w->body.max_inflight, r->limits.max_inflight);
    assert_memory_equal(w->body.tenant.p, "default", 7);
    assert_memory_equal(w->body.endpoint.p, "turn", 4);
    rig_hello(r, "a", 5); /* again is allowed */
    rig_no_order(r);
    rig_quiet(r);
}

static void test_foreign(void **state)
{
    struct rig *r = *state;
    const struct wire_text http = wire_string("GET / HTTP/1.1");
    rig_hello(r, "a", WIRE_ABSENT);
    rig_turn(r, "a", 9, "s");
    struct stream *s = rig_order(r, ORDER_SUBMIT)->stream;
    rig_frames(r, "a", "default", FRONT_TURN, &http, 1);
    rig_token(r, s, 1, "x", 0);
    rig_turn(r, "a", 1, "s"); /* the connection is ignored from then on */
    rig_frames(r, "b", "default", FRONT_TURN, NULL, 0);
    rig_turn(r, "b", 1, "s");
    rig_quiet(r);
    rig_no_order(r);
}

struct bad_frame {
    enum wire_error want;
    void (*spoil)(struct wire_header *h, struct wire_text *frame, size_t *n);
};

static uint8_t large[WIRE_BODY_MAX + 1];

static void no_body(struct wire_header *h, struct wire_text *frame, size_t *n)
{
    (void)h;
    (void)frame;
    *n = 1;
}

static void three_frames(struct wire_header *h, struct wire_text *frame, size_t *n)
{
    (void)h;
    frame[2] = frame[1];
    *n = 3;
}

static void other_version(struct wire_header *h, struct wire_text *frame, size_t *n)
{
    (void)frame;
    (void)n;
    h->version = 2;
}

static void with_flags(struct wire_header *h, struct wire_text *frame, size_t *n)
{
    (void)frame;
    (void)n;
    h->flags = WIRE_FINAL;
}

static void too_large(struct wire_header *h, struct wire_text *frame, size_t *n)
{
    (void)n;
    frame[1] = wire_bytes(large, sizeof large);
    h->body_bytes = sizeof large;
}

static void wrong_length(struct wire_header *h, struct wire_text *frame, size_t *n)
{
    (void)frame;
    (void)n;
    h->body_bytes++;
}

static void unknown_type(struct wire_header *h, struct wire_text *frame, size_t *n)
{
    (void)frame;
    (void)n;
    h->type = 0x7F;
}

static void servers_type(struct wire_header *h, struct wire_text *frame, size_t *n)
{
    (void)frame;
    (void)n;
    h->type = WIRE_TOKEN;
}

static void other_endpoint(struct wire_header *h, struct wire_text *frame, size_t *n)
{
    (void)frame;
    (void)n;
    h->type = WIRE_HEALTH;
}

static void zero_id(struct wire_header *h, struct wire_text *frame, size_t *n)
{
    (void)frame;
    (void)n;
    memset(h->id, 0, sizeof h->id);
}

static void id_of_ping(struct wire_header *h, struct wire_text *frame, size_t *n)
{
    (void)frame;
    (void)n;
    h->type = WIRE_PING;
}

static void not_a_map(struct wire_header *h, struct wire_text *frame, size_t *n)
{
    (void)n;
    frame[1] = wire_bytes("\x01", 1);
    h->body_bytes = 1;
}

static void test_bad_frames(void **state)
{
    static const struct bad_frame cases[] = {
        {WIRE_E_BAD_FRAME, no_body},
        {WIRE_E_BAD_FRAME, three_frames},
        {WIRE_E_BAD_VERSION, other_version},
        {WIRE_E_BAD_FRAME, with_flags},
        {WIRE_E_TOO_LARGE, too_large},
        {WIRE_E_BAD_FRAME, wrong_length},
        {WIRE_E_UNKNOWN_TYPE, unknown_type},
        {WIRE_E_UNKNOWN_TYPE, servers_type},
        {WIRE_E_WRONG_ENDPOINT, other_endpoint},
        {WIRE_E_BAD_ID, zero_id},
        {WIRE_E_BAD_ID, id_of_ping},
        {WIRE_E_BAD_BODY, not_a_map},
    };
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t header[WIRE_HEADER_BYTES];
        struct wire_header h = {.version = WIRE_VERSION, .type = WIRE_GET, .body_bytes = 1};
        struct wire_text frame[3] = {wire_bytes(header, sizeof header), wire_bytes("\x80", 1)};
        size_t n = 2;
        memset(h.id, 7, sizeof h.id);
        cases[i].spoil(&h, frame, &n);
        wire_header_put(&h, header);
        rig_frames(r, "a", "default", FRONT_TURN, frame, n);
        struct rig_sent *s = rig_error(r, "a", h.id[0], cases[i].want);
        assert_int_equal(s->h.flags, h.id[0] ? WIRE_FINAL : 0);
    }
    /* The connection lives. */
    rig_simple(r, "a", WIRE_GET, 1, "s");
    rig_order(r, ORDER_SUBMIT);
    rig_quiet(r);
}

static void test_order(void **state)
{
    struct rig *r = *state;
    struct wire_body b = {0};
    rig_hello(r, "a", WIRE_ABSENT);
    wire_init(WIRE_TURN, &b);
    b.session = wire_string("anna");
    b.query = wire_string("How are you?");
    b.internal = wire_string("be kind");
    b.thinking = WIRE_AUTO;
    b.temperature = 0.5;
    b.top_k = 40;
    b.top_p = 0.75;
    b.seed = 9;
    b.max_tokens = 11;
    b.commit = WIRE_COMMIT_NEVER;
    b.on_busy = WIRE_BUSY_REJECT;
    b.on_stale = WIRE_STALE_REJECT;
    b.on_cancel = WIRE_CANCEL_COMMIT;
    b.min_version = 3;
    b.if_version = 4;
    rig_send(r, "a", WIRE_TURN, 5, &b);
    const struct bridge_request *q = &rig_order(r, ORDER_SUBMIT)->r;
    assert_int_equal(q->verb, BRIDGE_TURN);
    assert_string_equal(q->tenant, "default");
    assert_string_equal(q->session, "anna");
    assert_int_equal(q->id[0], 5);
    assert_string_equal(q->prompt.query, "How are you?");
    assert_string_equal(q->prompt.internal, "be kind");
    assert_null(q->prompt.tool_result);
    assert_int_equal(q->prompt.thinking, RXT_AUTO);
    assert_true(q->sampling.temperature == 0.5f && q->sampling.top_p == 0.75f);
    assert_true(q->sampling.top_k == 40 && q->sampling.seed == 9);
    assert_int_equal(q->max_tokens, 11);
    assert_true(q->dry_run);
    assert_int_equal(q->on_busy, BRIDGE_BUSY_REJECT);
    assert_int_equal(q->on_stale, BRIDGE_STALE_REJECT);
    assert_int_equal(q->on_cancel, BRIDGE_CANCEL_COMMIT);
    assert_true(q->min_version == 3 && q->if_version == 4);

    const int32_t ids[] = {1, 300, 70000};
    wire_init(WIRE_REMEMBER, &b);
    b.session = wire_string("anna");
    b.ids = (struct wire_ids){.v = ids, .n = 3};
    rig_send(r, "a", WIRE_REMEMBER, 6, &b);
    q = &rig_order(r, ORDER_SUBMIT)->r;
    assert_int_equal(q->verb, BRIDGE_REMEMBER);
    assert_int_equal(q->n_ids, 3);
    assert_memory_equal(q->ids, ids, sizeof ids);
    assert_true(q->if_version == BRIDGE_HEAD);

    wire_init(WIRE_FORK, &b);
    b.session = wire_string("anna");
    b.to = wire_string("bert");
    rig_send(r, "a", WIRE_FORK, 7, &b);
    q = &rig_order(r, ORDER_SUBMIT)->r;
    assert_int_equal(q->verb, BRIDGE_FORK);
    assert_string_equal(q->to, "bert");
    assert_true(q->version == BRIDGE_HEAD);
}

static void test_limits(void **state)
{
    struct rig *r = *state;
    char route[16];
    rig_hello(r, "a", WIRE_ABSENT);
    for (uint32_t i = 1; i <= r->limits.max_inflight; i++) {
        rig_turn(r, "a", (uint8_t)i, "s");
        rig_order(r, ORDER_SUBMIT);
    }
    rig_turn(r, "a", 100, "s");
    rig_error(r, "a", 100, WIRE_E_TOO_MANY);
    rig_turn(r, "a", 1, "s"); /* a repeat is no new request */
    rig_quiet(r);
    rig_hello(r, "b", WIRE_ABSENT);
    for (uint32_t i = 0; i < r->limits.max_inflight; i++) {
        rig_turn(r, "b", (uint8_t)(50 + i), "s");
        rig_order(r, ORDER_SUBMIT);
    }
    rig_hello(r, "c", WIRE_ABSENT);
    rig_turn(r, "c", 101, "s");
    rig_error(r, "c", 101, WIRE_E_BUSY);
    for (uint32_t i = 3; i < r->limits.max_connections; i++) {
        (void)snprintf(route, sizeof route, "x%u", i % 100);
        rig_hello(r, route, WIRE_ABSENT);
    }
    rig_turn(r, "last", 102, "s"); /* no room for it: not answered */
    rig_quiet(r);
    rig_no_order(r);
}

static void test_tenant_limit(void **state)
{
    struct rig *r = *state;
    struct front_limits l = r->limits;
    struct wire_body b = {0};
    const int32_t versions[] = {WIRE_VERSION};
    l.max_tenant_connections = 2;
    front_set_limits(r->front, &l);
    rig_hello(r, "a", WIRE_ABSENT);
    rig_hello(r, "b", WIRE_ABSENT);
    rig_hello(r, "b", WIRE_ABSENT); /* not one more */
    rig_hello(r, "C", WIRE_ABSENT); /* of another tenant */
    wire_init(WIRE_HELLO, &b);
    b.versions = (struct wire_ids){.v = versions, .n = 1};
    rig_send(r, "d", WIRE_HELLO, 0, &b);
    rig_error(r, "d", 0, WIRE_E_TENANT_LIMIT);
    rig_turn(r, "d", 1, "s");
    rig_error(r, "d", 1, WIRE_E_HELLO_NEEDED);
    rig_lose(r, "a");
    rig_drop_sent(r);
    r->answer = FRONT_SENT;
    rig_hello(r, "d", WIRE_ABSENT);
}

static void test_drain(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    struct stream *s = rig_run_turn(r, "a", 1);
    rig_drop_sent(r);
    front_drain(r->front, 500);
    assert_int_equal(rig_expect(r, "a", WIRE_DRAINING, 0)->body.deadline_ms, 500);
    rig_turn(r, "a", 2, "s");
    rig_error(r, "a", 2, WIRE_E_DRAINS);
    rig_turn(r, "a", 1, "s"); /* what runs can be joined */
    rig_expect(r, "a", WIRE_ACCEPTED, 1);
    rig_expect(r, "a", WIRE_TOKEN, 1);
    rig_end_turn(r, s);
    rig_expect(r, "a", WIRE_DONE, 1);
    rig_expect(r, "a", WIRE_MEMORY, 1);
    rig_quiet(r);
}

static void test_ping_and_admin(void **state)
{
    struct rig *r = *state;
    struct wire_body b = {0};
    uint8_t header[WIRE_HEADER_BYTES];
    struct wire_header h = {
        .version = WIRE_VERSION, .type = WIRE_PING, .body_bytes = 1, .sequence = 12};
    wire_header_put(&h, header);
    const struct wire_text ping[2] = {wire_bytes(header, sizeof header), wire_bytes("\x80", 1)};
    rig_hello(r, "a", WIRE_ABSENT);
    rig_frames(r, "a", "default", FRONT_TURN, ping, 2);
    assert_int_equal(rig_expect(r, "a", WIRE_PONG, 0)->h.sequence, 12);
    rig_tick(r, r->limits.heartbeat_ms + 1); /* silent for a heartbeat: asked */
    rig_expect(r, "a", WIRE_PING, 0);

    const int32_t versions[] = {WIRE_VERSION};
    wire_init(WIRE_HELLO, &b);
    b.versions = (struct wire_ids){.v = versions, .n = 1};
    uint8_t body[64];
    size_t n = 0;
    assert_ok(wire_encode(WIRE_HELLO, &b, body, sizeof body, &n));
    h = (struct wire_header){.version = 1, .type = WIRE_HELLO, .body_bytes = (uint32_t)n};
    wire_header_put(&h, header);
    const struct wire_text hello[2] = {wire_bytes(header, sizeof header), wire_bytes(body, n)};
    rig_frames(r, "adm", "default", FRONT_ADMIN, hello, 2);
    rig_expect(r, "adm", WIRE_WELCOME, 0);
    wire_init(WIRE_HEALTH, &b);
    rig_send(r, "adm", WIRE_HEALTH, 3, &b);
    assert_int_equal(rig_expect(r, "adm", WIRE_DONE, 3)->h.flags, WIRE_FINAL);
    assert_int_equal(r->admin, WIRE_HEALTH);
}

/* Connections that never say HELLO count, too: those of one tenant leave room for another. */
static void test_connections_without_hello(void **state)
{
    struct rig *r = *state;
    struct front_limits l = r->limits;
    struct wire_body none = {0};
    char route[16];
    l.max_connections = 30;
    l.max_tenant_connections = 2;
    front_set_limits(r->front, &l);
    wire_init(WIRE_PING, &none);
    for (int i = 0; i < 40; i++) {
        (void)snprintf(route, sizeof route, "u%d", i);
        rig_send(r, route, WIRE_PING, 0, &none);
    }
    assert_true(front_counts(r->front).connections < 30);
    rig_drop_sent(r);
    rig_hello(r, "A", WIRE_ABSENT);
    rig_tick(r, 4 * l.heartbeat_ms); /* they are forgotten: the tenant can come */
    rig_drop_sent(r);
    rig_hello(r, "a", WIRE_ABSENT);
    rig_hello(r, "b", WIRE_ABSENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(test_hello),
        RIG_TEST(test_foreign),
        RIG_TEST(test_bad_frames),
        RIG_TEST(test_order),
        RIG_TEST(test_limits),
        RIG_TEST(test_tenant_limit),
        RIG_TEST(test_drain),
        RIG_TEST(test_ping_and_admin),
        RIG_TEST(test_connections_without_hello),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
