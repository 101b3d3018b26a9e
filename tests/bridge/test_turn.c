/* The turn: its events, what it may not do, and what a session is after it. */
#include "tests/bridge/rig.h"

#include <jansson.h>

static void assert_ids(const json_t *want, const int32_t *got, int32_t n)
{
    assert_int_equal(json_array_size(want), n);
    for (int32_t i = 0; i < n; i++)
        assert_int_equal(json_integer_value(json_array_get(want, (size_t)i)), got[i]);
}

/* The 20 turns of the reference, every id; the store is closed and opened after each of them in a
 * second session, which must stay equal to the first bit by bit. */
static void conversation_of_the_reference(void **state)
{
    (void)state;
    if (!rig_bundled())
        skip();
    json_t *turns = json_load_file("tests/golden/demo-15m/conversation.json", 0, NULL);
    assert_int_equal(json_array_size(turns), 20);
    open_session(&rig, "straight");
    open_session(&rig, "reopened");
    for (size_t i = 0; i < json_array_size(turns); i++) {
        const json_t *turn = json_array_get(turns, i);
        const char *text = json_string_value(json_object_get(turn, "query"));
        struct outcome a = {0}, b = {0};
        struct bridge_request q = question("straight", text);
        assert_ok(call(&rig, &q, &a));
        assert_ids(json_object_get(turn, "query_ids"), a.ids, a.n_query);
        assert_ids(json_object_get(turn, "answer_ids"), a.ids + a.n_query, a.n_answer);
        assert_string_equal(json_string_value(json_object_get(turn, "answer")), a.text);
        assert_int_equal(a.n_token, a.n_answer);
        assert_int_equal(a.finish, RXT_FINISH_EOS);
        assert_int_equal(a.read_version, i);
        assert_int_equal(a.info.version, i + 1);
        q = question("reopened", text);
        assert_ok(call(&rig, &q, &b));
        assert_memory_equal(a.info.stm_hash, b.info.stm_hash, sizeof a.info.stm_hash);
        rig_reopen(&rig);
    }
    json_decref(turns);
}

static void refused_before_any_compute(void **state)
{
    (void)state;
    struct outcome o = {0};
    char longest[4096];
    open_session(&rig, "refusals");
    struct bridge_request q = question("refusals", "");
    assert_status(RXT_EINVAL, call(&rig, &q, &o));
    q = question("refusals", "caf\xC3");
    assert_status(RXT_EUTF8, call(&rig, &q, &o));
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    q = question("refusals", longest);
    assert_status(RXT_ELIMIT, call(&rig, &q, &o));
    assert_non_null(strstr(o.error, "192")); /* the limit */
    q = question("refusals", "hi");
    q.sampling.temperature = -1;
    assert_status(RXT_EINVAL, call(&rig, &q, &o));
    assert_non_null(strstr(o.error, "temperature"));
    q = question("refusals", "hi");
    q.max_tokens = -1;
    assert_status(RXT_EINVAL, call(&rig, &q, &o));
    q = question("", "hi");
    assert_status(RXT_EINVAL, call(&rig, &q, &o));
    q = question("a\nb", "hi");
    assert_status(RXT_EINVAL, call(&rig, &q, &o));
    memset(q.session, 'a', sizeof q.session);
    assert_status(RXT_ELIMIT, call(&rig, &q, &o));
    q = request(BRIDGE_GET, "refusals");
    assert_ok(call(&rig, &q, &o));
    assert_int_equal(o.info.version, 0);
    assert_int_equal(o.info.n_turn, 0);
}

static void unknown_session_is_never_made(void **state)
{
    (void)state;
    struct outcome o = {0};
    for (int verb = BRIDGE_TURN; verb <= BRIDGE_EXPORT; verb++) {
        struct bridge_request q = question("nobody", "hi");
        q.verb = (enum bridge_verb)verb;
        q.question = "hi";
        q.answer = "hello.";
        q.version = 0;
        q.path = "unused";
        (void)snprintf(q.to, sizeof q.to, "to");
        if (verb == BRIDGE_OPEN)
            continue;
        assert_status(RXT_ENOTFOUND, call(&rig, &q, &o));
    }
    /* Another tenant's session looks the same. */
    open_session(&rig, "mine");
    struct bridge_request q = question("mine", "hi");
    (void)snprintf(q.tenant, sizeof q.tenant, "other");
    assert_status(RXT_ENOTFOUND, call(&rig, &q, &o));
}

static void cancel_discards(void **state)
{
    (void)state;
    struct outcome before = {0}, o = {.cancel_after = 2}, after = {0};
    converse(&rig, "cancel", (const char *const[]){"My name is Anna."}, 1, &before);
    struct bridge_request q = question("cancel", "What is my name?");
    assert_status(RXT_ECANCELLED, call(&rig, &q, &o));
    assert_int_equal(o.last, BRIDGE_CANCELLED);
    assert_false(o.done);
    assert_int_equal(o.n_token, 2);
    rig_reopen(&rig);
    q = request(BRIDGE_GET, "cancel");
    assert_ok(call(&rig, &q, &after));
    assert_int_equal(after.info.version, 1);
    assert_memory_equal(before.info.stm_hash, after.info.stm_hash, 16);
}

static void cancel_commits_what_was_said(void **state)
{
    (void)state;
    struct outcome o = {.cancel_after = 2}, given = {0};
    open_session(&rig, "partial");
    open_session(&rig, "given");
    struct bridge_request q = question("partial", "My name is Anna.");
    q.on_cancel = BRIDGE_CANCEL_COMMIT;
    assert_ok(call(&rig, &q, &o));
    assert_int_equal(o.finish, RXT_FINISH_CANCEL);
    assert_int_equal(o.n_answer, 2);
    assert_int_equal(o.info.version, 1);
    /* It is remembered as it was said: the same as absorbing those ids. */
    struct bridge_request r = request(BRIDGE_REMEMBER, "given");
    r.ids = o.ids;
    r.n_ids = (size_t)(o.n_query + o.n_answer);
    assert_ok(call(&rig, &r, &given));
    assert_memory_equal(o.info.stm_hash, given.info.stm_hash, 16);
}

static void dry_run_leaves_nothing(void **state)
{
    (void)state;
    struct outcome o = {0}, get = {0}, told = {0};
    converse(&rig, "dry", (const char *const[]){"My name is Anna."}, 1, &told);
    struct bridge_request q = question("dry", "What is my name?");
    q.dry_run = true;
    assert_ok(call(&rig, &q, &o));
    assert_int_equal(o.last, BRIDGE_DONE);
    assert_says(&o, "Anna");
    q = request(BRIDGE_GET, "dry");
    assert_ok(call(&rig, &q, &get));
    assert_int_equal(get.info.version, 1);
    assert_int_equal(get.info.n_turn, 1);
    assert_memory_equal(told.info.stm_hash, get.info.stm_hash, 16);
}

static void length_limit_is_an_end(void **state)
{
    (void)state;
    struct outcome o = {0}, given = {0};
    open_session(&rig, "short");
    open_session(&rig, "short given");
    struct bridge_request q = question("short", "My name is Anna!");
    q.max_tokens = 3;
    assert_ok(call(&rig, &q, &o));
    assert_int_equal(o.finish, RXT_FINISH_LENGTH);
    assert_int_equal(o.n_answer, 3);
    struct bridge_request r = request(BRIDGE_REMEMBER, "short given"); /* without [EOS] */
    r.ids = o.ids;
    r.n_ids = (size_t)(o.n_query + o.n_answer);
    assert_ok(call(&rig, &r, &given));
    assert_memory_equal(o.info.stm_hash, given.info.stm_hash, 16);
}

static void conditions_on_the_version(void **state)
{
    (void)state;
    struct outcome o = {0};
    converse(&rig, "version", (const char *const[]){"My name is Anna."}, 1, &o);
    struct bridge_request q = question("version", "How are you?");
    q.if_version = 0;
    assert_status(RXT_ESTALE, call(&rig, &q, &o));
    q.if_version = BRIDGE_HEAD;
    q.min_version = 2;
    assert_status(RXT_ESTALE, call(&rig, &q, &o));
    q.min_version = 1;
    q.if_version = 1;
    assert_ok(call(&rig, &q, &o));
    assert_int_equal(o.info.version, 2);
}

/* Two turns at once: in order, each with the version it was given, and the memory of the second is
 * that of the first plus the second, whichever version it was read from. */
static void turns_of_a_session_are_in_order(void **state)
{
    (void)state;
    for (int mode = BRIDGE_STALE_WAIT; mode <= BRIDGE_STALE_PROCEED; mode++) {
        char name[32], copy[32];
        struct outcome a = {0}, b = {0}, given = {0};
        (void)snprintf(name, sizeof name, "order %d", mode);
        (void)snprintf(copy, sizeof copy, "order %d copy", mode);
        open_session(&rig, name);
        open_session(&rig, copy);
        struct bridge_request q = question(name, "My name is Anna.");
        struct bridge_request p = question(name, "What is my name?");
        p.on_stale = (enum bridge_on_stale)mode;
        submit(&rig, &q, &a);
        submit(&rig, &p, &b);
        step_until_final(&rig, &a);
        step_until_final(&rig, &b);
        assert_true(a.memory && b.memory);
        assert_int_equal(a.pending_version, 1);
        assert_int_equal(b.pending_version, 2);
        if (mode == BRIDGE_STALE_WAIT)
            assert_int_equal(b.read_version, 1);
        else
            assert_true(b.read_version <= 1);
        const struct outcome *each[] = {&a, &b};
        for (int i = 0; i < 2; i++) {
            struct bridge_request r = request(BRIDGE_REMEMBER, copy);
            r.ids = each[i]->ids;
            r.n_ids = (size_t)(each[i]->n_query + each[i]->n_answer);
            assert_ok(call(&rig, &r, &given));
        }
        assert_memory_equal(b.info.stm_hash, given.info.stm_hash, 16);
    }
}

static void repeated_request_id(void **state)
{
    (void)state;
    struct outcome a = {0}, joined = {0}, again = {0};
    open_session(&rig, "repeat");
    struct bridge_request q = question("repeat", "My name is Anna.");
    memset(q.id, 0xA5, sizeof q.id);
    submit(&rig, &q, &a);
    submit(&rig, &q, &joined); /* joins the running one */
    step_until_final(&rig, &a);
    step_until_final(&rig, &joined);
    assert_true(a.done && joined.done);
    assert_int_equal(joined.n_answer, a.n_answer);
    for (int round = 0; round < 2; round++) {
        assert_ok(call(&rig, &q, &again)); /* from the journal, also after a restart */
        assert_true(again.stored);
        assert_int_equal(again.n_token, 0);
        assert_int_equal(again.n_query, a.n_query);
        assert_int_equal(again.n_answer, a.n_answer);
        assert_memory_equal(again.ids, a.ids, (size_t)(a.n_query + a.n_answer) * sizeof *a.ids);
        assert_int_equal(again.info.version, 1);
        rig_reopen(&rig);
        struct bridge_request get = request(BRIDGE_GET, "repeat");
        assert_ok(call(&rig, &get, &again));
        assert_int_equal(again.info.version, 1);
    }
}

static void a_full_queue_says_so(void **state)
{
    (void)state;
    struct rig small;
    const struct bridge_config cfg = {.max_queue = 2};
    struct outcome o[3] = {{0}};
    rig_open(&small, NULL, &cfg);
    open_session(&small, "full");
    for (int i = 0; i < 3; i++) {
        struct bridge_request q = question("full", "How are you?");
        submit(&small, &q, &o[i]);
    }
    assert_status(RXT_EBUSY, o[2].status);
    step_until_final(&small, &o[0]);
    step_until_final(&small, &o[1]);
    assert_true(o[0].memory && o[1].memory);
    struct bridge_request q = question("full", "How are you?");
    assert_ok(call(&small, &q, &o[2]));
    rig_close(&small);
}

static void busy_session_may_reject(void **state)
{
    (void)state;
    struct outcome a = {0}, b = {0};
    open_session(&rig, "busy");
    struct bridge_request q = question("busy", "How are you?");
    submit(&rig, &q, &a);
    q.on_busy = BRIDGE_BUSY_REJECT;
    submit(&rig, &q, &b);
    assert_status(RXT_EBUSY, b.status);
    step_until_final(&rig, &a);
    assert_true(a.memory);
}

/* Answers that follow each other without pause leave time to whatever is on the memory lane:
 * updates, and also a session that comes in, though no turn is written meanwhile. */
static void answers_leave_time_to_loads(void **state)
{
    (void)state;
    struct outcome o = {0}, cold = {0};
    struct bridge *b;
    converse(&rig, "to come in", (const char *const[]){"Hello."}, 1, &o);
    open_session(&rig, "busy");
    step_until_idle(&rig);
    rig_reopen(&rig); /* both are cold */
    b = rig.bridge;
    struct bridge_request q = question("to come in", "Hello.");
    q.dry_run = true;
    submit(&rig, &q, &cold);
    while (b->n_job == 0) { /* it is counted from the step that sends for it */
        assert_false(cold.final);
        if (!bridge_step(b))
            bridge_wait(b, UINT64_MAX);
    }
    step_until_idle(&rig);
    assert_true(cold.done);
    assert_int_equal(b->n_job, 0);

    q = question("busy", "Hello.");
    submit(&rig, &q, &o);
    while (o.n_token == 0)
        if (!bridge_step(b))
            bridge_wait(b, UINT64_MAX);
    assert_int_equal(b->owed_us, 0); /* nobody waits */
    b->n_job++;
    (void)bridge_step(b);
    assert_true(b->owed_us > 0);
    b->n_job--;
    step_until_idle(&rig);
    assert_true(o.done);
}

/* A memory that waits gets the share of an answer, at least a chunk, at most two steps or 1 ms, and
 * never so much that somebody sees it. */
static void what_a_step_owes(void **state)
{
    (void)state;
    assert_int_equal(bridge_owed_us(2000, 0, 8), 0);
    assert_int_equal(bridge_owed_us(2000, 1, 0), 0);
    assert_int_equal(bridge_owed_us(2000, 1, 32), 200);
    assert_int_equal(bridge_owed_us(2000, 8, 32), 500);
    assert_int_equal(bridge_owed_us(100, 64, 1), 1000);
    assert_int_equal(bridge_owed_us(2000, 64, 1), 4000);
    assert_int_equal(bridge_owed_us(9000, 64, 1), 10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversation_of_the_reference),
        cmocka_unit_test(refused_before_any_compute),
        cmocka_unit_test(unknown_session_is_never_made),
        cmocka_unit_test(cancel_discards),
        cmocka_unit_test(cancel_commits_what_was_said),
        cmocka_unit_test(dry_run_leaves_nothing),
        cmocka_unit_test(length_limit_is_an_end),
        cmocka_unit_test(conditions_on_the_version),
        cmocka_unit_test(turns_of_a_session_are_in_order),
        cmocka_unit_test(repeated_request_id),
        cmocka_unit_test(a_full_queue_says_so),
        cmocka_unit_test(busy_session_may_reject),
        cmocka_unit_test(answers_leave_time_to_loads),
        cmocka_unit_test(what_a_step_owes),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
