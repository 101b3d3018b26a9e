/* The front's state machines (bridge/PROTOCOL.md, sections 3 and 7 to 9), without sockets. */
#include "tests/bridge/front_rig.h"

static struct rig rig;

static int open_rig(void **state)
{
    *state = &rig;
    rig_open(&rig);
    return 0;
}

static int close_rig(void **state)
{
    rig_close(*state);
    return 0;
}

static void tick(struct rig *r, uint64_t ms)
{
    r->now_us += 1000 * ms;
    (void)front_tick(r->front, r->now_us);
}

/* ---- checks of a message ----------------------------------------------------------------- */

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

/* ---- requests ---------------------------------------------------------------------------- */

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

static void test_answer(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    rig_turn(r, "a", 1, "s");
    struct stream *s = rig_order(r, ORDER_SUBMIT)->stream;
    rig_ticket(r, s, 1);
    rig_message(r, s, WIRE_ACCEPTED, 0);
    rig_expect(r, "a", WIRE_ACCEPTED, 1);
    rig_token(r, s, 10, "He", 0);
    struct rig_sent *t = rig_expect(r, "a", WIRE_TOKEN, 1);
    assert_int_equal(t->h.sequence, 0);
    rig_token(r, s, 11, "llo", 0);
    t = rig_expect(r, "a", WIRE_TOKEN, 1);
    assert_int_equal(t->h.sequence, 1);
    assert_int_equal(t->body.ids.n, 1);
    assert_memory_equal(t->body.text.p, "llo", 3);
    rig_message(r, s, WIRE_DONE, 0);
    t = rig_expect(r, "a", WIRE_DONE, 1);
    assert_int_equal(t->h.sequence, 2);
    assert_int_equal(t->h.flags, 0);
    rig_message(r, s, WIRE_MEMORY, WIRE_FINAL);
    t = rig_expect(r, "a", WIRE_MEMORY, 1);
    assert_int_equal(t->h.flags, WIRE_FINAL);
    rig_quiet(r);
    assert_int_equal(front_counts(r->front).running, 0);
    assert_int_equal(front_counts(r->front).kept, 1);
}

/* A turn of three tokens that has run to its end; nobody listens if route is NULL. */
static struct stream *run_turn(struct rig *r, const char *route, uint8_t id)
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

static void end_turn(struct rig *r, struct stream *s)
{
    rig_message(r, s, WIRE_DONE, 0);
    rig_message(r, s, WIRE_MEMORY, WIRE_FINAL);
}

static void expect_stream(struct rig *r, const char *route, uint8_t id, uint32_t from)
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

static void drop_sent(struct rig *r)
{
    r->n_read = r->n_sent;
}

static void test_resume(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    rig_hello(r, "b", WIRE_ABSENT);
    end_turn(r, run_turn(r, "a", 1));
    drop_sent(r);
    for (uint32_t from = 0; from < 5; from++) {
        rig_resume(r, "b", 1, "s", from);
        expect_stream(r, "b", 1, from);
    }
    rig_turn(r, "b", 1, "s"); /* the request again: the same, from the beginning */
    expect_stream(r, "b", 1, 0);
    rig_simple(r, "b", WIRE_RESET, 1, "s"); /* another kind of request with this id */
    rig_error(r, "b", 1, WIRE_E_EXISTS);
    rig_turn(r, "b", 1, "other"); /* two streams of one id could not be told apart */
    rig_error(r, "b", 1, WIRE_E_EXISTS);
    rig_resume(r, "b", 1, "other", 0);
    rig_error(r, "b", 1, WIRE_E_NO_REQUEST);
    rig_resume(r, "b", 2, "s", 0);
    rig_error(r, "b", 2, WIRE_E_NO_REQUEST);
    rig_no_order(r);

    tick(r, r->limits.grace_ms + 1);
    drop_sent(r); /* it may have asked who is there */
    rig_resume(r, "b", 1, "s", 0);
    rig_error(r, "b", 1, WIRE_E_NO_REQUEST);
    assert_int_equal(front_counts(r->front).streams, 0);
    rig_turn(r, "b", 1, "s"); /* now the engine is asked, which has the journal */
    rig_order(r, ORDER_SUBMIT);
}

static void test_moved(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    rig_hello(r, "b", WIRE_ABSENT);
    struct stream *s = run_turn(r, "a", 1);
    drop_sent(r);
    rig_resume(r, "b", 1, "s", 1);
    assert_int_equal(rig_error(r, "a", 1, WIRE_E_MOVED)->h.flags, WIRE_FINAL);
    end_turn(r, s);
    expect_stream(r, "b", 1, 1);
    rig_quiet(r);
}

static void test_tenants(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    rig_hello(r, "B", WIRE_ABSENT); /* of another tenant */
    struct stream *s = run_turn(r, "a", 1);
    drop_sent(r);
    rig_resume(r, "B", 1, "s", 0);
    assert_int_equal(rig_error(r, "B", 1, WIRE_E_NO_REQUEST)->h.flags, WIRE_FINAL);
    rig_simple(r, "B", WIRE_CANCEL, 1, "s");
    rig_no_order(r);
    rig_turn(r, "B", 1, "s"); /* the same id and name: a request of its own */
    struct order *o = rig_order(r, ORDER_SUBMIT);
    assert_string_equal(o->r.tenant, "other");
    assert_ptr_not_equal(o->stream, s);
    rig_token(r, o->stream, 5, "x", 0);
    rig_expect(r, "B", WIRE_TOKEN, 1);
    end_turn(r, s);
    rig_expect(r, "a", WIRE_DONE, 1);
    rig_expect(r, "a", WIRE_MEMORY, 1);
    rig_quiet(r);
}

/* libzmq gave the route of a connection that is gone to somebody else. */
static void test_route_of_another(void **state)
{
    struct rig *r = *state;
    uint8_t header[WIRE_HEADER_BYTES];
    struct wire_header h = {.version = WIRE_VERSION, .type = WIRE_PING, .body_bytes = 1};
    wire_header_put(&h, header);
    const struct wire_text ping[2] = {wire_bytes(header, sizeof header), wire_bytes("\x80", 1)};
    rig_hello(r, "a", WIRE_ABSENT);
    struct stream *s = run_turn(r, "a", 1);
    drop_sent(r);
    rig_frames(r, "a", "other", FRONT_TURN, ping, 2);
    rig_error(r, "a", 0, WIRE_E_HELLO_NEEDED);
    rig_token(r, s, 13, "secret", 0);
    rig_quiet(r);
    assert_int_equal(front_counts(r->front).connections, 1);
}

/* ---- flow control ------------------------------------------------------------------------ */

static void test_credit(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", 1);
    struct stream *s = run_turn(r, "a", 1);
    rig_expect(r, "a", WIRE_ACCEPTED, 1);
    rig_expect(r, "a", WIRE_TOKEN, 1); /* above zero: the first one goes, and below zero it is */
    rig_quiet(r);
    end_turn(r, s);
    rig_quiet(r); /* DONE stays behind the tokens */
    rig_credit(r, "a", 1);
    rig_quiet(r);
    rig_credit(r, "a", 1000);
    struct rig_sent *t = rig_expect(r, "a", WIRE_TOKEN, 1);
    assert_int_equal(t->h.sequence, 1);
    assert_int_equal(t->body.ids.n, 2); /* joined */
    assert_memory_equal(t->body.text.p, "bc", 2);
    rig_expect(r, "a", WIRE_DONE, 1);
    rig_expect(r, "a", WIRE_MEMORY, 1);
    rig_credit(r, "a", r->limits.credit_max);
    rig_error(r, "a", 0, WIRE_E_BAD_VALUE);
    rig_quiet(r);
}

static void test_stall(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", 0);
    rig_hello(r, "b", WIRE_ABSENT);
    struct stream *s = run_turn(r, "a", 1);
    struct stream *other = run_turn(r, "b", 2);
    end_turn(r, s);
    drop_sent(r);
    tick(r, r->limits.stall_ms - 1);
    end_turn(r, other); /* others are not slowed */
    drop_sent(r);
    tick(r, 2);
    struct rig_sent *e = NULL;
    while (!e || e->h.type != WIRE_ERROR) /* it also asks who is there */
        e = &r->sent[r->n_read++];
    assert_int_equal(e->body.code, WIRE_E_DETACHED);
    assert_string_equal(e->route, "a");
    drop_sent(r);
    assert_int_equal(front_counts(r->front).stalls, 1);
    assert_int_equal(front_counts(r->front).kept, 2);
    rig_credit(r, "a", 1000);
    rig_quiet(r);
    rig_resume(r, "a", 1, "s", 0);
    expect_stream(r, "a", 1, 0);
}

static void test_full(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    rig_turn(r, "a", 1, "s");
    struct stream *s = rig_order(r, ORDER_SUBMIT)->stream;
    r->answer = FRONT_FULL;
    rig_message(r, s, WIRE_ACCEPTED, 0);
    rig_token(r, s, 10, "a", 0);
    rig_token(r, s, 11, "b", 0);
    rig_token(r, s, 12, "c", 0);
    end_turn(r, s);
    tick(r, 1);
    rig_quiet(r);
    r->answer = FRONT_SENT;
    tick(r, 20);
    expect_stream(r, "a", 1, 0);
    rig_quiet(r);
}

static void test_candidates(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    rig_turn(r, "a", 1, "s");
    struct stream *s = rig_order(r, ORDER_SUBMIT)->stream;
    rig_token(r, s, 10, "a", 0);
    rig_token(r, s, 20, "x", 1);
    rig_token(r, s, 21, "y", 1);
    assert_int_equal(rig_expect(r, "a", WIRE_TOKEN, 1)->body.candidate, 0);
    struct rig_sent *t = rig_expect(r, "a", WIRE_TOKEN, 1);
    assert_true(t->body.candidate == 1 && t->h.sequence == 0);
    t = rig_expect(r, "a", WIRE_TOKEN, 1);
    assert_true(t->body.candidate == 1 && t->h.sequence == 1);
    rig_resume(r, "a", 1, "s", 1); /* of every candidate */
    t = rig_expect(r, "a", WIRE_TOKEN, 1);
    assert_true(t->body.candidate == 1 && t->h.sequence == 1);
    rig_quiet(r);
}

static void choose(struct rig *r, const char *route, uint8_t id, uint64_t candidate)
{
    struct wire_body b = {0};
    wire_init(WIRE_CHOOSE, &b);
    b.session = wire_string("s");
    b.candidate = candidate;
    rig_send(r, route, WIRE_CHOOSE, id, &b);
}

/* What a choice brings about comes on the stream of the turn; what it is refused for, by itself. */
static void test_choose(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    rig_hello(r, "b", WIRE_ABSENT);
    struct stream *turn = run_turn(r, "a", 1);
    drop_sent(r);
    choose(r, "b", 1, 7);
    struct order *o = rig_order(r, ORDER_SUBMIT);
    assert_true(o->r.verb == BRIDGE_CHOOSE && o->r.candidate == 7);
    assert_ptr_not_equal(o->stream, turn);
    rig_message(r, o->stream, WIRE_ERROR, WIRE_FINAL);
    assert_int_equal(rig_expect(r, "b", WIRE_ERROR, 1)->h.flags, 0); /* the turn goes on */

    choose(r, "a", 1, 0);
    struct stream *choice = rig_order(r, ORDER_SUBMIT)->stream;
    rig_ticket(r, choice, 9);
    rig_message(r, turn, WIRE_DONE, 0);
    rig_message(r, choice, WIRE_DONE, 0);
    rig_message(r, turn, WIRE_MEMORY, WIRE_FINAL);
    rig_message(r, choice, WIRE_MEMORY, WIRE_FINAL);
    rig_expect(r, "a", WIRE_DONE, 1); /* once */
    rig_expect(r, "a", WIRE_MEMORY, 1);
    rig_quiet(r);

    choose(r, "b", 1, 0); /* again: the engine has it in the journal */
    rig_message(r, rig_order(r, ORDER_SUBMIT)->stream, WIRE_DONE, WIRE_FINAL | WIRE_STORED);
    expect_stream(r, "b", 1, 3);
    rig_quiet(r);
    assert_int_equal(front_counts(r->front).running, 0);

    tick(r, r->limits.grace_ms + 1); /* its stream is forgotten: the choice tells by itself */
    drop_sent(r);
    choose(r, "b", 1, 0);
    rig_message(r, rig_order(r, ORDER_SUBMIT)->stream, WIRE_DONE, WIRE_FINAL | WIRE_STORED);
    rig_expect(r, "b", WIRE_DONE, 1);
    rig_quiet(r);
}

/* ---- ends -------------------------------------------------------------------------------- */

static void test_cancel(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    rig_turn(r, "a", 1, "s");
    struct stream *s = rig_order(r, ORDER_SUBMIT)->stream;
    rig_simple(r, "a", WIRE_CANCEL, 1, "s");
    rig_no_order(r); /* the engine has not named it yet */
    rig_ticket(r, s, 77);
    assert_int_equal(rig_order(r, ORDER_CANCEL)->ticket, 77);
    rig_message(r, s, WIRE_CANCELLED, WIRE_FINAL);
    rig_expect(r, "a", WIRE_CANCELLED, 1);
    rig_simple(r, "a", WIRE_CANCEL, 1, "s"); /* too late */
    rig_no_order(r);
    rig_resume(r, "a", 1, "s", 0); /* nothing remains */
    rig_error(r, "a", 1, WIRE_E_NO_REQUEST);
    assert_int_equal(front_counts(r->front).streams, 0);
}

static void lose(struct rig *r, const char *route)
{
    r->answer = FRONT_GONE;
    memcpy(r->answer_to, route, strlen(route) + 1);
    tick(r, r->limits.heartbeat_ms + 1); /* asks, and finds out */
}

static void test_disconnect_keep(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    struct stream *s = run_turn(r, "a", 1);
    drop_sent(r);
    lose(r, "a");
    assert_int_equal(front_counts(r->front).connections, 0);
    rig_no_order(r);
    end_turn(r, s);
    rig_hello(r, "b", WIRE_ABSENT);
    rig_resume(r, "b", 1, "s", 2);
    expect_stream(r, "b", 1, 2);
}

static void test_disconnect_cancel(void **state)
{
    struct rig *r = *state;
    struct wire_body b = {0};
    rig_hello(r, "a", WIRE_ABSENT);
    wire_init(WIRE_TURN, &b);
    b.session = wire_string("s");
    b.query = wire_string("Hi");
    b.on_disconnect = WIRE_DISCONNECT_CANCEL;
    rig_send(r, "a", WIRE_TURN, 1, &b);
    struct stream *s = rig_order(r, ORDER_SUBMIT)->stream;
    rig_ticket(r, s, 5);
    r->answer = FRONT_GONE;
    rig_token(r, s, 1, "x", 0); /* found out by sending */
    assert_int_equal(rig_order(r, ORDER_CANCEL)->ticket, 5);
    rig_message(r, s, WIRE_CANCELLED, WIRE_FINAL);
    assert_int_equal(front_counts(r->front).streams, 0);
}

/* A verb whose client is gone is not kept. */
static void test_verb_of_nobody(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    rig_simple(r, "a", WIRE_GET, 1, "s");
    struct stream *s = rig_order(r, ORDER_SUBMIT)->stream;
    lose(r, "a");
    rig_message(r, s, WIRE_DONE, WIRE_FINAL);
    assert_int_equal(front_counts(r->front).streams, 0);
}

/* ---- limits ------------------------------------------------------------------------------ */

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
    lose(r, "a");
    drop_sent(r);
    r->answer = FRONT_SENT;
    rig_hello(r, "d", WIRE_ABSENT);
}

/* Whoever never says HELLO does not fill the table. */
static void test_silent(void **state)
{
    struct rig *r = *state;
    const struct wire_text noise = wire_string("noise");
    rig_frames(r, "a", "default", FRONT_TURN, &noise, 1);
    rig_turn(r, "b", 1, "s");
    rig_error(r, "b", 1, WIRE_E_HELLO_NEEDED);
    rig_hello(r, "c", WIRE_ABSENT);
    tick(r, r->limits.heartbeat_ms);
    assert_int_equal(front_counts(r->front).connections, 3);
    tick(r, 3 * r->limits.heartbeat_ms);
    assert_int_equal(front_counts(r->front).connections, 1);
    drop_sent(r);
    rig_hello(r, "b", WIRE_ABSENT);
}

static void test_kept_bytes(void **state)
{
    struct rig *r = *state;
    struct front_limits l = r->limits;
    l.max_kept_bytes = 8000;
    front_set_limits(r->front, &l);
    rig_hello(r, "a", WIRE_ABSENT);
    for (uint8_t id = 1; id < 40; id++)
        end_turn(r, run_turn(r, "a", id));
    struct front_counts c = front_counts(r->front);
    assert_true(c.kept > 0 && c.kept < 39);
    assert_true(c.kept_bytes <= 8000);
    drop_sent(r);
    rig_resume(r, "a", 39, "s", 3);
    expect_stream(r, "a", 39, 3);
    rig_resume(r, "a", 1, "s", 3); /* the oldest went first */
    rig_error(r, "a", 1, WIRE_E_NO_REQUEST);
}

static void test_drain(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    struct stream *s = run_turn(r, "a", 1);
    drop_sent(r);
    front_drain(r->front, 500);
    assert_int_equal(rig_expect(r, "a", WIRE_DRAINING, 0)->body.deadline_ms, 500);
    rig_turn(r, "a", 2, "s");
    rig_error(r, "a", 2, WIRE_E_DRAINS);
    rig_turn(r, "a", 1, "s"); /* what runs can be joined */
    rig_expect(r, "a", WIRE_ACCEPTED, 1);
    rig_expect(r, "a", WIRE_TOKEN, 1);
    end_turn(r, s);
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
    tick(r, r->limits.heartbeat_ms + 1); /* silent for a heartbeat: asked */
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

/* ---- exports and imports ----------------------------------------------------------------- */

static uint8_t chunk[WIRE_CHUNK_BYTES];

static void hello_state(struct rig *r, uint64_t credit)
{
    const int32_t versions[] = {WIRE_VERSION};
    struct wire_body b = {0};
    uint8_t header[WIRE_HEADER_BYTES], body[64];
    size_t n = 0;
    wire_init(WIRE_HELLO, &b);
    b.versions = (struct wire_ids){.v = versions, .n = 1};
    b.credit = credit;
    assert_ok(wire_encode(WIRE_HELLO, &b, body, sizeof body, &n));
    struct wire_header h = {.version = 1, .type = WIRE_HELLO, .body_bytes = (uint32_t)n};
    wire_header_put(&h, header);
    const struct wire_text frame[2] = {wire_bytes(header, sizeof header), wire_bytes(body, n)};
    rig_frames(r, "a", "default", FRONT_STATE, frame, 2);
    rig_expect(r, "a", WIRE_WELCOME, 0);
}

static void send_chunk(struct rig *r, uint8_t id, uint32_t sequence, size_t n)
{
    uint8_t header[WIRE_HEADER_BYTES];
    struct wire_header h = {
        .version = 1, .type = WIRE_CHUNK, .body_bytes = 1, .sequence = sequence};
    memset(h.id, id, sizeof h.id);
    wire_header_put(&h, header);
    const struct wire_text frame[3] = {wire_bytes(header, sizeof header), wire_bytes("\x80", 1),
                                       wire_bytes(chunk, n)};
    rig_frames(r, "a", "default", FRONT_STATE, frame, 3);
}

static void begin_import(struct rig *r, uint8_t id, uint64_t bytes)
{
    struct wire_body b = {0};
    wire_init(WIRE_IMPORT, &b);
    b.session = wire_string("new");
    b.bytes = bytes;
    rig_send(r, "a", WIRE_IMPORT, id, &b);
}

static void test_export(void **state)
{
    struct rig *r = *state;
    hello_state(r, 1);
    rig_simple(r, "a", WIRE_EXPORT, 1, "s");
    struct order *o = rig_order(r, ORDER_SUBMIT);
    struct stream *s = o->stream;
    assert_int_equal(o->r.verb, BRIDGE_EXPORT);
    assert_true(o->spool > 0);
    rig_note(r, s, NOTE_SPOOLED, 0, RXT_OK, NULL, 0);
    o = rig_order(r, ORDER_READ);
    assert_true(o->offset == 0 && o->n_bytes == WIRE_CHUNK_BYTES);
    rig_note(r, s, NOTE_CHUNK, WIRE_CHUNK_BYTES + 5, RXT_OK, chunk, WIRE_CHUNK_BYTES);
    struct rig_sent *c = rig_expect(r, "a", WIRE_CHUNK, 1);
    assert_true(c->h.sequence == 0 && c->raw_bytes == WIRE_CHUNK_BYTES);
    o = rig_order(r, ORDER_READ);
    assert_int_equal(o->offset, WIRE_CHUNK_BYTES);
    rig_note(r, s, NOTE_CHUNK, WIRE_CHUNK_BYTES + 5, RXT_OK, chunk, 5);
    rig_quiet(r); /* the credit is used up, and no more than one chunk is read ahead */
    rig_no_order(r);
    hello_state(r, 100); /* credit begins anew */
    c = rig_expect(r, "a", WIRE_CHUNK, 1);
    assert_true(c->h.sequence == 1 && c->raw_bytes == 5);
    c = rig_expect(r, "a", WIRE_DONE, 1);
    assert_true(c->body.bytes == WIRE_CHUNK_BYTES + 5 && c->body.chunks == 2);
    assert_int_equal(c->h.flags, WIRE_FINAL);
    rig_order(r, ORDER_DROP);
    assert_int_equal(front_counts(r->front).streams, 0);
}

static void test_export_fails(void **state)
{
    struct rig *r = *state;
    hello_state(r, WIRE_ABSENT);
    for (int how = 0; how < 3; how++) {
        uint8_t id = (uint8_t)(1 + how);
        rig_simple(r, "a", WIRE_EXPORT, id, "s");
        struct stream *s = rig_order(r, ORDER_SUBMIT)->stream;
        if (how == 0) { /* the engine refuses */
            rig_message(r, s, WIRE_ERROR, WIRE_FINAL);
            rig_expect(r, "a", WIRE_ERROR, id);
        } else if (how == 1) { /* the file cannot be read */
            rig_note(r, s, NOTE_SPOOLED, 0, RXT_OK, NULL, 0);
            rig_order(r, ORDER_READ);
            rig_note(r, s, NOTE_CHUNK, 0, RXT_EIO, NULL, 0);
            rig_error(r, "a", id, WIRE_E_IO);
        } else { /* the client changes its mind while a chunk is read */
            rig_note(r, s, NOTE_SPOOLED, 0, RXT_OK, NULL, 0);
            rig_order(r, ORDER_READ);
            struct wire_body b = {0};
            uint8_t header[WIRE_HEADER_BYTES], body[64];
            size_t n = 0;
            wire_init(WIRE_CANCEL, &b);
            b.session = wire_string("s");
            assert_ok(wire_encode(WIRE_CANCEL, &b, body, sizeof body, &n));
            struct wire_header h = {.version = 1, .type = WIRE_CANCEL, .body_bytes = (uint32_t)n};
            memset(h.id, id, sizeof h.id);
            wire_header_put(&h, header);
            const struct wire_text frame[2] = {wire_bytes(header, sizeof header),
                                               wire_bytes(body, n)};
            rig_frames(r, "a", "default", FRONT_STATE, frame, 2);
            rig_expect(r, "a", WIRE_CANCELLED, id);
            rig_no_order(r); /* the file stays until the reader has let go */
            rig_note(r, s, NOTE_CHUNK, 9, RXT_OK, chunk, 9);
        }
        rig_order(r, ORDER_DROP);
        rig_quiet(r);
        assert_int_equal(front_counts(r->front).streams, 0);
        assert_int_equal(front_counts(r->front).running, 0);
    }
}

static void test_import(void **state)
{
    struct rig *r = *state;
    hello_state(r, WIRE_ABSENT);
    begin_import(r, 1, WIRE_CHUNK_BYTES + 5);
    struct rig_sent *a = rig_expect(r, "a", WIRE_ACCEPTED, 1);
    assert_int_equal(a->body.credit, 8 * WIRE_CHUNK_BYTES);
    rig_no_order(r); /* the engine hears of it when it is whole */
    send_chunk(r, 1, 0, WIRE_CHUNK_BYTES);
    struct order *o = rig_order(r, ORDER_WRITE);
    struct stream *s = o->stream;
    uint64_t spool = o->spool;
    assert_true(o->offset == 0 && o->n_bytes == WIRE_CHUNK_BYTES);
    send_chunk(r, 1, 1, 5);
    o = rig_order(r, ORDER_WRITE);
    assert_true(o->offset == WIRE_CHUNK_BYTES && o->n_bytes == 5 && o->spool == spool);
    rig_note(r, s, NOTE_WROTE, WIRE_CHUNK_BYTES, RXT_OK, NULL, 0);
    assert_int_equal(rig_expect(r, "a", WIRE_CREDIT, 1)->body.bytes, WIRE_CHUNK_BYTES);
    rig_no_order(r);
    rig_note(r, s, NOTE_WROTE, 5, RXT_OK, NULL, 0);
    o = rig_order(r, ORDER_SUBMIT);
    assert_int_equal(o->r.verb, BRIDGE_IMPORT);
    assert_true(o->spool == spool);
    assert_string_equal(o->r.session, "new");
    send_chunk(r, 1, 2, 5); /* one too many is refused alone: the engine has the import */
    assert_int_equal(rig_error(r, "a", 1, WIRE_E_BAD_FRAME)->h.flags, 0);
    rig_message(r, s, WIRE_DONE, WIRE_FINAL);
    rig_expect(r, "a", WIRE_DONE, 1);
    assert_int_equal(rig_order(r, ORDER_DROP)->spool, spool);
    send_chunk(r, 1, 2, 5); /* it is over */
    rig_error(r, "a", 1, WIRE_E_NO_REQUEST);
    rig_quiet(r);
}

static void test_import_fails(void **state)
{
    static const struct {
        uint32_t sequence;
        size_t bytes;
    } bad[] = {{1, 10}, {0, 9}, {0, 11}};
    struct rig *r = *state;
    hello_state(r, WIRE_ABSENT);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        begin_import(r, 1, 10);
        rig_expect(r, "a", WIRE_ACCEPTED, 1);
        send_chunk(r, 1, bad[i].sequence, bad[i].bytes);
        assert_int_equal(rig_error(r, "a", 1, WIRE_E_BAD_FRAME)->h.flags, WIRE_FINAL);
        rig_order(r, ORDER_DROP);
    }
    begin_import(r, 2, 10); /* the disk is full */
    rig_expect(r, "a", WIRE_ACCEPTED, 2);
    send_chunk(r, 2, 0, 10);
    struct stream *s = rig_order(r, ORDER_WRITE)->stream;
    rig_note(r, s, NOTE_WROTE, 10, RXT_EFULL, NULL, 0);
    rig_error(r, "a", 2, WIRE_E_DISK_FULL);
    rig_order(r, ORDER_DROP);

    begin_import(r, 3, r->limits.max_import_bytes + 1);
    rig_error(r, "a", 3, WIRE_E_LIMIT);
    begin_import(r, 4, 10);
    begin_import(r, 5, 10);
    begin_import(r, 6, 10); /* two at a time */
    rig_expect(r, "a", WIRE_ACCEPTED, 4);
    rig_expect(r, "a", WIRE_ACCEPTED, 5);
    rig_error(r, "a", 6, WIRE_E_BUSY);
    rig_no_order(r);
    lose(r, "a"); /* whoever imports is gone: the files go */
    rig_order(r, ORDER_DROP);
    rig_order(r, ORDER_DROP);
    assert_int_equal(front_counts(r->front).streams, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_rig, close_rig)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_hello),
        TEST(test_foreign),
        TEST(test_bad_frames),
        TEST(test_order),
        TEST(test_answer),
        TEST(test_resume),
        TEST(test_moved),
        TEST(test_tenants),
        TEST(test_route_of_another),
        TEST(test_credit),
        TEST(test_stall),
        TEST(test_full),
        TEST(test_candidates),
        TEST(test_choose),
        TEST(test_cancel),
        TEST(test_disconnect_keep),
        TEST(test_disconnect_cancel),
        TEST(test_verb_of_nobody),
        TEST(test_limits),
        TEST(test_kept_bytes),
        TEST(test_tenant_limit),
        TEST(test_silent),
        TEST(test_drain),
        TEST(test_export),
        TEST(test_export_fails),
        TEST(test_import),
        TEST(test_import_fails),
        TEST(test_ping_and_admin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
