/* Several answers of one turn, and CHOOSE. */
#include "tests/bridge/rig.h"

static struct bridge_request several(const char *session, int32_t n, uint8_t id)
{
    struct bridge_request q = question(session, "what do you like?");
    q.n_candidate = n;
    q.sampling = (struct sampling){.temperature = 2, .top_p = 1};
    q.max_tokens = 12;
    memset(q.id, id, sizeof q.id);
    return q;
}

static struct bridge_request choice(const char *session, int32_t candidate, uint8_t id)
{
    struct bridge_request q = request(BRIDGE_CHOOSE, session);
    q.candidate = candidate;
    memset(q.id, id, sizeof q.id);
    return q;
}

static void until_undecided(struct rig *r, struct outcome *o)
{
    while (!o->undecided && !o->final)
        if (!bridge_step(r->bridge))
            bridge_wait(r->bridge, 1000000);
    assert_true(o->undecided);
}

static void the_chosen_one_is_the_turn(void **state)
{
    (void)state;
    struct outcome o = {0}, c = {0}, given = {0}, info = {0}, alone = {0};
    converse(&rig, "s", (const char *const[]){"My name is Anna."}, 1, &info);
    converse(&rig, "given", (const char *const[]){"My name is Anna."}, 1, &given);
    converse(&rig, "alone", (const char *const[]){"My name is Anna."}, 1, &alone);
    struct bridge_request q = several("s", 4, 1);
    submit(&rig, &q, &o);
    until_undecided(&rig, &o);
    assert_int_equal(o.n_candidate, 4);
    assert_int_equal(o.read_version, 1);
    assert_false(o.final);
    int differ = 0;
    for (int i = 1; i < 4; i++)
        differ += o.candidates[i].n != o.candidates[0].n ||
                  memcmp(o.candidates[i].ids, o.candidates[0].ids,
                         (size_t)o.candidates[0].n * sizeof(int32_t)) != 0;
    assert_true(differ > 0);
    get(&rig, "s", &info);
    assert_int_equal(info.info.version, 1);
    assert_int_equal(info.info.n_turn, 1);

    q = choice("s", 2, 1);
    assert_ok(call(&rig, &q, &c));
    assert_true(c.done && c.memory && o.done && o.memory); /* both hear it */
    assert_int_equal(o.candidate, 2);
    assert_int_equal(o.info.version, 2);
    absorb(&rig, "given", o.candidates[2].ids, o.candidates[2].n, &given);
    assert_same_memory(&o, &given);

    /* The first candidate is the turn as it would be without others. */
    q = several("alone", 1, 2);
    assert_ok(call(&rig, &q, &alone));
    assert_int_equal(alone.n_query + alone.n_answer, o.candidates[0].n);
    assert_memory_equal(alone.ids, o.candidates[0].ids,
                        (size_t)o.candidates[0].n * sizeof(int32_t));

    for (int round = 0; round < 2; round++) { /* repeats, also after a restart */
        q = choice("s", 2, 1);
        assert_ok(call(&rig, &q, &c));
        assert_true(c.stored);
        assert_int_equal(c.candidate, 2);
        q = choice("s", 1, 1);
        assert_status(RXT_EEXIST, call(&rig, &q, &c));
        q = several("s", 4, 1);
        assert_ok(call(&rig, &q, &c));
        assert_true(c.stored);
        get(&rig, "s", &info);
        assert_int_equal(info.info.version, 2);
        rig_reopen(&rig);
    }
}

static void others_wait_for_the_choice(void **state)
{
    (void)state;
    struct outcome o = {0}, c = {0}, next = {0}, reject = {0}, dry = {0};
    open_session(&rig, "wait");
    struct bridge_request q = several("wait", 2, 3);
    submit(&rig, &q, &o);
    until_undecided(&rig, &o);
    struct bridge_request n = question("wait", "How are you?");
    n.on_stale = BRIDGE_STALE_REJECT;
    assert_status(RXT_ESTALE, call(&rig, &n, &reject));
    n = question("wait", "How are you?");
    submit(&rig, &n, &next);
    for (int i = 0; i < 5; i++)
        (void)bridge_step(rig.bridge);
    assert_true(next.accepted && next.n_token == 0);
    submit(&rig, &q, &dry); /* a repeat of the turn hears what has been */
    until_undecided(&rig, &dry);
    q = choice("wait", 0, 3);
    assert_ok(call(&rig, &q, &c));
    step_until_final(&rig, &next);
    assert_true(next.memory);
    assert_int_equal(next.read_version, 1);
    assert_int_equal(next.info.version, 2);
    step_until_idle(&rig);
    assert_true(dry.memory);
}

static void who_does_not_choose_remembers_nothing(void **state)
{
    (void)state;
    struct rig r;
    struct outcome o = {0}, c = {0}, info = {0}, before = {0};
    rig_open(&r, NULL, NULL);
    open_session(&r, "late");
    get(&r, "late", &before);
    stop_clock(&r);
    struct bridge_request q = several("late", 3, 4);
    submit(&r, &q, &o);
    until_undecided(&r, &o);
    test_now_us += r.bridge->cfg.choose_us;
    step_until_final(&r, &o);
    assert_status(RXT_EEXPIRED, o.status);
    assert_false(o.done);
    q = choice("late", 0, 4);
    assert_status(RXT_EEXPIRED, call(&r, &q, &c));
    q = several("late", 3, 4);
    assert_status(RXT_EEXPIRED, call(&r, &q, &c));
    get(&r, "late", &info);
    assert_int_equal(info.info.version, 0);
    assert_same_memory(&info, &before);

    q = several("late", 3, 5); /* given up by a cancel, decoding and decided */
    o = (struct outcome){.cancel_after = 2};
    assert_status(RXT_ECANCELLED, call(&r, &q, &o));
    q = several("late", 3, 6);
    o = (struct outcome){0};
    submit(&r, &q, &o);
    until_undecided(&r, &o);
    bridge_cancel(r.bridge, o.ticket);
    step_until_final(&r, &o);
    assert_int_equal(o.last, BRIDGE_CANCELLED);
    get(&r, "late", &info);
    assert_same_memory(&info, &before);
    rig_close(&r);
}

/* A crash between the answers and the choice: the turn sent again is undecided again. */
static void a_restart_keeps_the_candidates(void **state)
{
    (void)state;
    struct outcome o = {0}, again = {0}, c = {0}, given = {0};
    open_session(&rig, "restart");
    open_session(&rig, "restart given");
    struct bridge_request q = several("restart", 3, 7);
    submit(&rig, &q, &o);
    until_undecided(&rig, &o);
    bridge_close(&rig.bridge, 0); /* no time to give them up */
    assert_ok(bridge_open(&rig.bridge, rig.model, &rig.cfg, NULL));
    struct bridge_request early = choice("restart", 1, 7);
    assert_status(RXT_ENOTFOUND, call(&rig, &early, &c));
    q.n_candidate = 2;
    assert_status(RXT_EEXIST, call(&rig, &q, &again));
    q.n_candidate = 3;
    submit(&rig, &q, &again);
    until_undecided(&rig, &again);
    assert_int_equal(again.n_token, 0);
    assert_int_equal(again.n_candidate, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(again.candidates[i].n, o.candidates[i].n);
        assert_memory_equal(again.candidates[i].ids, o.candidates[i].ids,
                            (size_t)o.candidates[i].n * sizeof(int32_t));
    }
    q = choice("restart", 1, 7);
    assert_ok(call(&rig, &q, &c));
    assert_int_equal(c.info.version, 1);
    absorb(&rig, "restart given", o.candidates[1].ids, o.candidates[1].n, &given);
    assert_same_memory(&c, &given);
}

/* What ends a turn after CHOOSE is of the chosen one, and says at which version the memory stays.
 */
static void a_failure_after_the_choice(void **state)
{
    (void)state;
    for (int updates = 0; updates < 2; updates++) { /* the session is held, or its update fails */
        struct rig r;
        struct outcome o = {0}, c = {0}, before = {0};
        struct session *s = NULL;
        rig_open(&r, NULL, NULL);
        converse(&r, "s", (const char *const[]){"hi", "hello"}, 2, &before);
        stop_clock(&r);
        struct bridge_request q = several("s", 3, 1);
        submit(&r, &q, &o);
        until_undecided(&r, &o);
        if (updates)
            fault_arm("update", RXT_EDEVICE, 1000);
        q = choice("s", 2, 1);
        submit(&r, &q, &c);
        assert_true(session_peek(r.bridge, "default", "s", &s));
        s->held = !updates;
        while (!o.final || !c.final) {
            test_now_us += s->retry_us ? 1000000 : 0;
            if (!bridge_step(r.bridge))
                bridge_wait(r.bridge, 1000);
        }
        fault_arm(NULL, RXT_OK, 0);
        assert_int_equal(o.last, updates ? BRIDGE_MEMORY_FAILED : BRIDGE_ERROR);
        assert_int_equal(o.candidate_at_end, 2);
        assert_int_equal(c.candidate_at_end, 2);
        if (updates)
            assert_int_equal(o.read_version, 2);
        rig_close(&r);
    }
}

static void wrong_numbers(void **state)
{
    (void)state;
    struct outcome o = {0}, c = {0};
    open_session(&rig, "wrong");
    struct bridge_request q = several("wrong", BRIDGE_CANDIDATES + 1, 8);
    assert_status(RXT_EINVAL, call(&rig, &q, &o));
    q = choice("wrong", BRIDGE_CANDIDATES, 8);
    assert_status(RXT_EINVAL, call(&rig, &q, &o));
    q = choice("wrong", 0, 8); /* of no turn */
    assert_status(RXT_ENOTFOUND, call(&rig, &q, &o));
    q = several("wrong", 2, 9);
    q.dry_run = true;
    assert_ok(call(&rig, &q, &o));
    assert_int_equal(o.n_candidate, 2);
    assert_int_equal(o.last, BRIDGE_DONE);
    q = several("wrong", 2, 10);
    submit(&rig, &q, &o);
    q = choice("wrong", 0, 10);
    assert_status(RXT_EBUSY, call(&rig, &q, &c)); /* not ready */
    until_undecided(&rig, &o);
    q = choice("wrong", 2, 10);
    assert_status(RXT_EINVAL, call(&rig, &q, &c));
    q = choice("wrong", 1, 10);
    assert_ok(call(&rig, &q, &c));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_chosen_one_is_the_turn),
        cmocka_unit_test(others_wait_for_the_choice),
        cmocka_unit_test(who_does_not_choose_remembers_nothing),
        cmocka_unit_test(a_restart_keeps_the_candidates),
        cmocka_unit_test(a_failure_after_the_choice),
        cmocka_unit_test(wrong_numbers),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
