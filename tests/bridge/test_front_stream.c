/* The stream of a request: answered, resumed, chosen from, cancelled, kept (bridge/PROTOCOL.md,
 * sections 8 and 9). */
#include "tests/bridge/front_rig.h"

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

static void test_resume(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    rig_hello(r, "b", WIRE_ABSENT);
    rig_end_turn(r, rig_run_turn(r, "a", 1));
    rig_drop_sent(r);
    for (uint32_t from = 0; from < 5; from++) {
        rig_resume(r, "b", 1, "s", from);
        rig_expect_stream(r, "b", 1, from);
    }
    rig_turn(r, "b", 1, "s"); /* the request again: the same, from the beginning */
    rig_expect_stream(r, "b", 1, 0);
    rig_simple(r, "b", WIRE_RESET, 1, "s"); /* another kind of request with this id */
    rig_error(r, "b", 1, WIRE_E_EXISTS);
    rig_turn(r, "b", 1, "other"); /* two streams of one id could not be told apart */
    rig_error(r, "b", 1, WIRE_E_EXISTS);
    rig_resume(r, "b", 1, "other", 0);
    rig_error(r, "b", 1, WIRE_E_NO_REQUEST);
    rig_resume(r, "b", 2, "s", 0);
    rig_error(r, "b", 2, WIRE_E_NO_REQUEST);
    rig_no_order(r);

    rig_tick(r, r->limits.grace_ms + 1);
    rig_drop_sent(r); /* it may have asked who is there */
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
    struct stream *s = rig_run_turn(r, "a", 1);
    rig_drop_sent(r);
    rig_resume(r, "b", 1, "s", 1);
    assert_int_equal(rig_error(r, "a", 1, WIRE_E_MOVED)->h.flags, WIRE_FINAL);
    rig_end_turn(r, s);
    rig_expect_stream(r, "b", 1, 1);
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
    struct stream *turn = rig_run_turn(r, "a", 1);
    rig_drop_sent(r);
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
    rig_expect_stream(r, "b", 1, 3);
    rig_quiet(r);
    assert_int_equal(front_counts(r->front).running, 0);

    rig_tick(r, r->limits.grace_ms + 1); /* its stream is forgotten: the choice tells by itself */
    rig_drop_sent(r);
    choose(r, "b", 1, 0);
    rig_message(r, rig_order(r, ORDER_SUBMIT)->stream, WIRE_DONE, WIRE_FINAL | WIRE_STORED);
    rig_expect(r, "b", WIRE_DONE, 1);
    rig_quiet(r);
}

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

static void test_disconnect_keep(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    struct stream *s = rig_run_turn(r, "a", 1);
    rig_drop_sent(r);
    rig_lose(r, "a");
    assert_int_equal(front_counts(r->front).connections, 0);
    rig_no_order(r);
    rig_end_turn(r, s);
    rig_hello(r, "b", WIRE_ABSENT);
    rig_resume(r, "b", 1, "s", 2);
    rig_expect_stream(r, "b", 1, 2);
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
    rig_lose(r, "a");
    rig_message(r, s, WIRE_DONE, WIRE_FINAL);
    assert_int_equal(front_counts(r->front).streams, 0);
}

static void test_kept_bytes(void **state)
{
    struct rig *r = *state;
    struct front_limits l = r->limits;
    l.max_kept_bytes = 8000;
    front_set_limits(r->front, &l);
    rig_hello(r, "a", WIRE_ABSENT);
    for (uint8_t id = 1; id < 40; id++)
        rig_end_turn(r, rig_run_turn(r, "a", id));
    struct front_counts c = front_counts(r->front);
    assert_true(c.kept > 0 && c.kept < 39);
    assert_true(c.kept_bytes <= 8000);
    rig_drop_sent(r);
    rig_resume(r, "a", 39, "s", 3);
    rig_expect_stream(r, "a", 39, 3);
    rig_resume(r, "a", 1, "s", 3); /* the oldest went first */
    rig_error(r, "a", 1, WIRE_E_NO_REQUEST);
}

/* What is kept to be resumed of a session goes with it; another tenant's of that name stays. */
static void test_erased(void **state)
{
    struct rig *r = *state;
    rig_hello(r, "a", WIRE_ABSENT);
    rig_hello(r, "B", WIRE_ABSENT);
    rig_end_turn(r, rig_run_turn(r, "a", 1));
    rig_end_turn(r, rig_run_turn(r, "B", 2));
    rig_drop_sent(r);
    rig_simple(r, "a", WIRE_ERASE, 3, "s");
    rig_message(r, rig_order(r, ORDER_SUBMIT)->stream, WIRE_DONE, WIRE_FINAL);
    rig_expect(r, "a", WIRE_DONE, 3);
    rig_resume(r, "a", 1, "s", 0);
    rig_error(r, "a", 1, WIRE_E_NO_REQUEST);
    assert_int_equal(front_counts(r->front).kept, 1);
    rig_resume(r, "B", 2, "s", 0);
    rig_expect_stream(r, "B", 2, 0);
}

/* Answers that have ended and wait for their client's credit, when the session or the fork that one
 * ran in is erased: the client gets the rest, and nobody gets it again. */
static void test_erased_while_sent(void **state)
{
    struct rig *r = *state;
    struct wire_body fork = {0};
    rig_hello(r, "a", 1);
    rig_hello(r, "b", WIRE_ABSENT);
    wire_init(WIRE_TURN, &fork);
    fork.session = wire_string("s");
    fork.query = wire_string("Hi");
    fork.on_busy = WIRE_BUSY_FORK;
    fork.fork_to = wire_string("t");
    rig_turn(r, "a", 1, "s");
    struct stream *plain = rig_order(r, ORDER_SUBMIT)->stream;
    rig_send(r, "a", WIRE_TURN, 2, &fork);
    struct stream *forked = rig_order(r, ORDER_SUBMIT)->stream;
    rig_token(r, plain, 10, "a", 0); /* takes the credit */
    rig_token(r, plain, 11, "b", 0);
    rig_token(r, forked, 12, "c", 0);
    rig_end_turn(r, plain);
    rig_end_turn(r, forked);
    rig_drop_sent(r);
    assert_int_equal(front_counts(r->front).kept, 0);
    rig_simple(r, "b", WIRE_ERASE, 3, "t");
    rig_message(r, rig_order(r, ORDER_SUBMIT)->stream, WIRE_DONE, WIRE_FINAL);
    rig_resume(r, "b", 2, "s", 0);
    rig_expect(r, "b", WIRE_DONE, 3);
    rig_error(r, "b", 2, WIRE_E_NO_REQUEST);
    rig_simple(r, "b", WIRE_ERASE, 4, "s");
    rig_message(r, rig_order(r, ORDER_SUBMIT)->stream, WIRE_DONE, WIRE_FINAL);
    rig_expect(r, "b", WIRE_DONE, 4);
    rig_credit(r, "a", 1000);
    assert_int_equal(rig_expect(r, "a", WIRE_TOKEN, 1)->h.sequence, 1);
    assert_int_equal(front_counts(r->front).streams, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(test_answer),          RIG_TEST(test_resume),
        RIG_TEST(test_moved),           RIG_TEST(test_candidates),
        RIG_TEST(test_choose),          RIG_TEST(test_cancel),
        RIG_TEST(test_disconnect_keep), RIG_TEST(test_disconnect_cancel),
        RIG_TEST(test_verb_of_nobody),  RIG_TEST(test_kept_bytes),
        RIG_TEST(test_erased),          RIG_TEST(test_erased_while_sent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
