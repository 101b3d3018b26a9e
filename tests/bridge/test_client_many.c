/* The client for many requests, and the server without a model, against each other over loopback.
 */
#include "bridge/client_many.h"
#include "bridge/server.h"
#include "kernels/base/clock.h"
#include "tests/lib/test.h"

#include <pthread.h>

#define FOREVER_US 60000000u

struct pair {
    struct server_null *server;
    pthread_t thread;
    struct client_many *client;
};

static void *run_server(void *arg)
{
    server_null_run(arg);
    return NULL;
}

static struct pair start(uint64_t step_us, uint32_t n_connection, uint32_t max_requests)
{
    struct pair p = {0};
    struct rxt_error err = {""};
    const struct server_config cfg = {.turn = "tcp://127.0.0.1:*"};
    assert_ok(server_null_open(&p.server, &cfg, step_us, &err));
    assert_int_equal(pthread_create(&p.thread, NULL, run_server, p.server), 0);
    const struct client_many_config many = {
        .server = {.endpoint = server_null_endpoint(p.server), .name = "test"},
        .n_connection = n_connection,
        .max_requests = max_requests};
    enum rxt_status st = client_many_open(&p.client, &many, &err);
    if (st != RXT_OK)
        fail_msg("%s", err.text);
    return p;
}

static void end(struct pair *p)
{
    client_many_close(&p->client);
    server_null_stop(p->server);
    (void)pthread_join(p->thread, NULL);
    server_null_close(&p->server);
}

/* Ids as random ones are: their first bytes spread. */
static struct client_request turn(uint32_t number, uint32_t max_tokens)
{
    struct client_request r = {
        .verb = CLIENT_TURN, .session = "anna", .query = "hi", .max_tokens = max_tokens};
    uint32_t spread = number * 2654435761u;
    memcpy(r.id, &spread, sizeof spread);
    r.id[15] = 1;
    return r;
}

static void begin(const struct pair *p, uint32_t connection, uint32_t number, uint32_t max_tokens)
{
    struct rxt_error err;
    const struct client_request r = turn(number, max_tokens);
    assert_ok(client_many_start(p->client, connection, number, &r, &err));
}

static struct client_many_event next(const struct pair *p)
{
    struct client_many_event e;
    struct rxt_error err = {""};
    enum rxt_status st = client_many_next(p->client, clock_us() + FOREVER_US, &e, &err);
    if (st != RXT_OK)
        fail_msg("%s", err.text);
    assert_int_not_equal(e.kind, CLIENT_MANY_IDLE);
    return e;
}

/* ------------------------------------------------------------------------------------------- */

static void test_many_turns_at_a_time(void **state)
{
    (void)state;
    enum { N = 120, CONNECTIONS = 3 };
    struct pair p = start(0, CONNECTIONS, 0);
    static struct {
        uint32_t tokens, accepted, done, memory;
    } seen[N];
    uint32_t ended = 0;
    memset(seen, 0, sizeof seen);
    for (uint32_t i = 0; i < N; i++) /* of different lengths: they end in another order */
        begin(&p, i % CONNECTIONS, i, 1 + i % 7);
    assert_int_equal(client_many_inflight(p.client), N);
    while (ended < N) {
        const struct client_many_event e = next(&p);
        assert_int_equal(e.kind, CLIENT_MANY_EVENT);
        assert_true(e.tag < N);
        const uint32_t i = (uint32_t)e.tag;
        assert_int_equal(e.connection, i % CONNECTIONS);
        if (e.event.kind == CLIENT_TOKEN) {
            assert_int_equal(e.sequence, seen[i].tokens);
            assert_int_equal(e.event.text_bytes, 5 * e.event.n_ids);
            seen[i].tokens += (uint32_t)e.event.n_ids;
        } else if (e.event.kind == CLIENT_DONE) {
            assert_int_equal(e.event.n_answer, 1 + i % 7);
            seen[i].done++;
        }
        seen[i].accepted += e.event.kind == CLIENT_ACCEPTED;
        seen[i].memory += e.event.kind == CLIENT_MEMORY;
        ended += e.final;
    }
    assert_int_equal(client_many_inflight(p.client), 0);
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(seen[i].tokens, 1 + i % 7);
        assert_int_equal(seen[i].accepted, 1);
        assert_int_equal(seen[i].done, 1);
        assert_int_equal(seen[i].memory, 1);
    }
    end(&p);
}

static void test_a_session_counts_its_turns(void **state)
{
    (void)state;
    struct pair p = start(0, 1, 0);
    struct rxt_error err;
    for (uint32_t i = 0; i < 3; i++) {
        begin(&p, 0, i, 2);
        while (!next(&p).final)
            ;
    }
    static const enum client_verb verb[] = {CLIENT_OPEN, CLIENT_GET, CLIENT_ERASE, CLIENT_GET};
    static const uint64_t turns[] = {3, 3, 0, 0};
    for (uint32_t i = 0; i < 4; i++) {
        struct client_request r = turn(100 + i, 0);
        r.verb = verb[i];
        assert_ok(client_many_start(p.client, 0, 100 + i, &r, &err));
        const struct client_many_event e = next(&p);
        assert_true(e.kind == CLIENT_MANY_EVENT && e.final && e.event.kind == CLIENT_DONE);
        assert_int_equal(e.event.n_turn, turns[i]);
    }
    end(&p);
}

static void test_a_refusal_is_an_event(void **state)
{
    (void)state;
    struct pair p = start(0, 1, 0);
    struct rxt_error err;
    struct client_many_event e;
    struct client_request r = turn(5, 0);
    r.verb = CLIENT_REWIND;
    r.version = &(uint32_t){1};
    assert_ok(client_many_start(p.client, 0, 5, &r, &err));
    assert_ok(client_many_next(p.client, clock_us() + FOREVER_US, &e, &err));
    assert_true(e.kind == CLIENT_MANY_FAILED && e.final && e.tag == 5);
    assert_int_equal(e.status, RXT_EUNSUPPORTED);
    assert_int_equal(e.code, 210);
    assert_non_null(strstr(err.text, "unsupported"));
    end(&p);
}

static void test_cancel_and_forget(void **state)
{
    (void)state;
    struct pair p = start(2000, 1, 0);
    const struct client_request one = turn(1, 1000000), two = turn(2, 1000000);
    begin(&p, 0, 1, 1000000);
    begin(&p, 0, 2, 1000000);
    client_many_forget(p.client, two.id);
    assert_status(RXT_ENOTFOUND, client_many_cancel(p.client, two.id, "anna"));
    struct client_many_event e = next(&p);
    while (e.event.kind != CLIENT_TOKEN)
        e = next(&p);
    assert_ok(client_many_cancel(p.client, one.id, "anna"));
    while (!e.final) {
        e = next(&p);
        assert_int_equal(e.tag, 1);
    }
    assert_true(e.kind == CLIENT_MANY_FAILED && e.status == RXT_ECANCELLED && e.code == 0);
    end(&p);
}

static void test_a_new_connection_is_seen_and_answers_are_resumed(void **state)
{
    (void)state;
    struct pair p = start(1000, 2, 0);
    struct rxt_error err;
    const struct client_request r = turn(1, 60);
    uint32_t tokens = 0, connected = 0;
    bool left = false;
    struct client_many_event e = {0};
    begin(&p, 1, 1, 60);
    while (!e.final) {
        e = next(&p);
        if (e.kind == CLIENT_MANY_CONNECTED) {
            assert_int_equal(e.connection, 1);
            connected++;
            assert_ok(client_many_resume(p.client, r.id, "anna", tokens));
        } else if (e.event.kind == CLIENT_TOKEN) {
            assert_int_equal(e.sequence, tokens);
            tokens += (uint32_t)e.event.n_ids;
            if (!left && tokens >= 20)
                assert_ok(client_many_reconnect(p.client, 1, &err));
            left |= tokens >= 20;
        }
    }
    assert_int_equal(connected, 1);
    assert_int_equal(tokens, 60);
    assert_status(RXT_EINVAL, client_many_reconnect(p.client, 2, &err));
    end(&p);
}

static void test_what_cannot_be_started(void **state)
{
    (void)state;
    struct pair p = start(1000, 1, 2);
    struct rxt_error err;
    struct client_request r = turn(1, 1000000);
    begin(&p, 0, 1, 1000000);
    assert_status(RXT_EINVAL, client_many_start(p.client, 0, 1, &r, &err)); /* in flight */
    r = turn(2, 4);
    assert_status(RXT_EINVAL, client_many_start(p.client, 1, 2, &r, &err)); /* no connection */
    static const enum client_verb elsewhere[] = {CLIENT_LIST, CLIENT_EXPORT, CLIENT_DIFF};
    for (int i = 0; i < 3; i++) {
        r.verb = elsewhere[i];
        assert_status(RXT_EINVAL, client_many_start(p.client, 0, 2, &r, &err));
        assert_non_null(strstr(err.text, "LIST, EXPORT and DIFF"));
    }
    r = turn(2, 4);
    r.session = "";
    assert_status(RXT_EINVAL, client_many_start(p.client, 0, 2, &r, &err));
    memset(r.id, 0, sizeof r.id);
    assert_status(RXT_EINVAL, client_many_start(p.client, 0, 2, &r, &err));
    assert_int_equal(client_many_inflight(p.client), 1);
    begin(&p, 0, 2, 1000000);
    r = turn(3, 4);
    assert_status(RXT_EBUSY, client_many_start(p.client, 0, 3, &r, &err));
    end(&p);
}

static void test_nothing_comes(void **state)
{
    (void)state;
    struct pair p = start(0, 1, 0);
    struct client_many_event e;
    struct rxt_error err;
    uint64_t until = clock_us() + 3000;
    assert_ok(client_many_next(p.client, until, &e, &err));
    assert_int_equal(e.kind, CLIENT_MANY_IDLE);
    assert_true(e.at_us >= until);
    end(&p);
}

static void test_a_slow_reader_gets_all_of_it(void **state)
{
    (void)state;
    struct pair p = start(0, 1, 0);
    struct client_many *slow = NULL;
    struct rxt_error err = {""};
    struct client_many_event e = {0};
    const struct client_request r = turn(9, 60);
    const struct client_many_config cfg = {.server = {.endpoint = server_null_endpoint(p.server)},
                                           .slow_bytes = (const uint32_t[]){200},
                                           .slow_pause_ms = 5};
    uint32_t tokens = 0;
    assert_ok(client_many_open(&slow, &cfg, &err));
    assert_ok(client_many_start(slow, 0, 9, &r, &err));
    while (!e.final) {
        assert_ok(client_many_next(slow, clock_us() + FOREVER_US, &e, &err));
        tokens += (uint32_t)e.event.n_ids;
    }
    assert_int_equal(tokens, 60);
    client_many_close(&slow);
    end(&p);
}

static void test_nobody_answers(void **state)
{
    (void)state;
    struct client_many *c = NULL;
    struct rxt_error err = {""};
    const struct client_many_config cfg = {
        .server = {.endpoint = "ipc:///nowhere/at/all", .timeout_ms = 50}};
    const struct client_many_config many = {.n_connection = 65};
    assert_status(RXT_EIO, client_many_open(&c, &cfg, &err));
    assert_null(c);
    assert_status(RXT_EINVAL, client_many_open(&c, &many, &err));
    assert_null(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_turns_at_a_time),
        cmocka_unit_test(test_a_session_counts_its_turns),
        cmocka_unit_test(test_a_refusal_is_an_event),
        cmocka_unit_test(test_cancel_and_forget),
        cmocka_unit_test(test_a_new_connection_is_seen_and_answers_are_resumed),
        cmocka_unit_test(test_what_cannot_be_started),
        cmocka_unit_test(test_nothing_comes),
        cmocka_unit_test(test_a_slow_reader_gets_all_of_it),
        cmocka_unit_test(test_nobody_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
