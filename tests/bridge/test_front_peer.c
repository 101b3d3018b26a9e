/* Connections: whose they are, their credit, those that do not read or say nothing
 * (bridge/PROTOCOL.md, sections 7 and 9). */
#include "tests/bridge/front_rig.h"

static void test_tenants(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    rig_hello(r, "B", WIRE_ABSENT); /* of another tenant */
    struct stream *s = rig_run_turn(r, "a", 1);
    rig_drop_sent(r);
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
    rig_end_turn(r, s);
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
    struct stream *s = rig_run_turn(r, "a", 1);
    rig_drop_sent(r);
    rig_frames(r, "a", "other", FRONT_TURN, ping, 2);
    rig_error(r, "a", 0, WIRE_E_HELLO_NEEDED);
    rig_token(r, s, 13, "secret", 0);
    rig_quiet(r);
    assert_int_equal(front_counts(r->front).connections, 1);
}

static void test_credit(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", 1);
    struct stream *s = rig_run_turn(r, "a", 1);
    rig_expect(r, "a", WIRE_ACCEPTED, 1);
    rig_expect(r, "a", WIRE_TOKEN, 1); /* above zero: the first one goes, and below zero it is */
    rig_quiet(r);
    rig_end_turn(r, s);
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
    struct stream *s = rig_run_turn(r, "a", 1);
    struct stream *other = rig_run_turn(r, "b", 2);
    rig_end_turn(r, s);
    rig_drop_sent(r);
    rig_tick(r, r->limits.stall_ms - 1);
    rig_end_turn(r, other); /* others are not slowed */
    rig_drop_sent(r);
    rig_tick(r, 2);
    struct rig_sent *e = NULL;
    while (!e || e->h.type != WIRE_ERROR) /* it also asks who is there */
        e = &r->sent[r->n_read++];
    assert_int_equal(e->body.code, WIRE_E_DETACHED);
    assert_string_equal(e->route, "a");
    rig_drop_sent(r);
    assert_int_equal(front_counts(r->front).stalls, 1);
    assert_int_equal(front_counts(r->front).kept, 2);
    rig_credit(r, "a", 1000);
    rig_quiet(r);
    rig_resume(r, "a", 1, "s", 0);
    rig_expect_stream(r, "a", 1, 0);
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
    rig_end_turn(r, s);
    rig_tick(r, 1);
    rig_quiet(r);
    r->answer = FRONT_SENT;
    rig_tick(r, 20);
    rig_expect_stream(r, "a", 1, 0);
    rig_quiet(r);
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
    rig_tick(r, r->limits.heartbeat_ms);
    assert_int_equal(front_counts(r->front).connections, 3);
    rig_tick(r, 3 * r->limits.heartbeat_ms);
    assert_int_equal(front_counts(r->front).connections, 1);
    rig_drop_sent(r);
    rig_hello(r, "b", WIRE_ABSENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(test_tenants), RIG_TEST(test_route_of_another),
        RIG_TEST(test_credit),  RIG_TEST(test_stall),
        RIG_TEST(test_full),    RIG_TEST(test_silent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
