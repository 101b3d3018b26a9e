/* Who gets slots, bytes and the lane: fairness between tenants, bounds, deadlines, cancels, updates
 * that fail. */
#include "tests/bridge/rig.h"

/* ---- fairness --------------------------------------------------------------------------- */

static const char *order_of[64];
static int n_order;

static void note_order(void *user, const struct bridge_event *e)
{
    if (e->kind == BRIDGE_DONE)
        order_of[n_order++] = user;
}

static void submit_as(struct rig *r, char *tenant, const char *session)
{
    struct bridge_request q = question(session, "How are you?");
    (void)snprintf(q.tenant, sizeof q.tenant, "%s", tenant);
    q.max_tokens = 8;
    assert_ok(bridge_submit(r->bridge, &q, note_order, tenant, NULL, NULL));
}

static void open_as(struct rig *r, const char *tenant, const char *session)
{
    struct bridge_request q = request(BRIDGE_OPEN, session);
    struct outcome o = {0};
    (void)snprintf(q.tenant, sizeof q.tenant, "%s", tenant);
    assert_ok(call(r, &q, &o));
    q.verb = BRIDGE_GET; /* resident: from here on only slots are short */
    assert_ok(call(r, &q, &o));
}

/* A tenant with 20 turns and one with 4 that come after them: the four do not wait for the twenty.
 */
static void tenants_take_turns(void **state)
{
    (void)state;
    struct rig r;
    char many[] = "many", few[] = "few";
    const struct bridge_config cfg = {.max_live = 1};
    rig_open(&r, NULL, &cfg);
    for (int i = 0; i < 20; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "s%d", i);
        open_as(&r, many, name);
        if (i < 4)
            open_as(&r, few, name);
    }
    n_order = 0;
    for (int i = 0; i < 20; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "s%d", i);
        submit_as(&r, many, name);
    }
    for (int i = 0; i < 4; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "s%d", i);
        submit_as(&r, few, name);
    }
    step_until_idle(&r);
    assert_int_equal(n_order, 24);
    int last_few = 0;
    for (int i = 0; i < n_order; i++)
        if (strcmp(order_of[i], "few") == 0)
            last_few = i;
    assert_true(last_few < 12); /* about every second one is theirs until they are served */
    rig_close(&r);
}

/* A memory job is paid for, too: who absorbs long texts gets fewer turns. */
static void memory_is_charged(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL, NULL);
    open_as(&r, "reader", "s");
    struct session *s = NULL;
    assert_true(session_peek(r.bridge, "reader", "s", &s));
    int64_t before = s->tenant->balance;
    int32_t ids[190]; /* the bundled model has turns of 192 */
    for (int i = 0; i < 190; i++)
        ids[i] = 10 + i;
    struct bridge_request q = request(BRIDGE_REMEMBER, "s");
    struct outcome o = {0}, waits = {0};
    (void)snprintf(q.tenant, sizeof q.tenant, "reader");
    q.ids = ids;
    q.n_ids = 190;
    submit(&r, &q, &o);
    struct bridge_request next = question("s", "How are you?");
    (void)snprintf(next.tenant, sizeof next.tenant, "reader");
    submit(&r, &next, &waits); /* keeps the tenant busy: its account is not closed */
    while (!o.done)
        if (!bridge_step(r.bridge))
            bridge_wait(r.bridge, 1000000);
    while (s->remember && !s->job_out)
        if (!bridge_step(r.bridge))
            bridge_wait(r.bridge, 1000000);
    assert_true(s->tenant->balance <= before - 100); /* 190, less what a round has given */
    step_until_idle(&r);
    rig_close(&r);
}

/* LIST is of no session, and of its tenant all the same. */
static void lists_count_for_their_tenant(void **state)
{
    (void)state;
    struct rig r;
    const struct bridge_config cfg = {.tenant = {.max_queue = 2}};
    rig_open(&r, NULL, &cfg);
    for (int round = 0; round < 2; round++) {
        struct outcome o[4] = {{0}};
        for (int i = 0; i < 4; i++) {
            struct bridge_request q = request(BRIDGE_LIST, "");
            q.limit = 1;
            (void)snprintf(q.tenant, sizeof q.tenant, i < 3 ? "a" : "b");
            submit(&r, &q, &o[i]);
        }
        assert_true(o[2].final);
        assert_status(RXT_EBUSY, o[2].status);
        step_until_idle(&r);
        assert_true(o[0].done && o[1].done && o[3].done);
    }
    rig_close(&r);
}

static void queues_are_bounded(void **state)
{
    (void)state;
    struct rig r;
    const struct bridge_config cfg = {.max_queue = 6, .tenant = {.max_queue = 2}, .max_live = 1};
    struct outcome o[8] = {{0}};
    rig_open(&r, NULL, &cfg);
    for (int i = 0; i < 3; i++) {
        struct bridge_request q = question("s", "How are you?");
        (void)snprintf(q.tenant, sizeof q.tenant, "a");
        submit(&r, &q, &o[i]);
    }
    assert_status(RXT_EBUSY, o[2].status); /* of the tenant */
    assert_true(bridge_retry_after_us(r.bridge) > 0);
    struct bridge_request q = question("s", "How are you?");
    (void)snprintf(q.tenant, sizeof q.tenant, "b");
    submit(&r, &q, &o[2]);
    assert_false(o[2].final);
    memset(q.id, 0x77, sizeof q.id);
    submit(&r, &q, &o[3]);
    assert_false(o[3].final);
    int joined = 0; /* repeats of it: they listen along, but not without bound */
    struct outcome repeat[16] = {{0}};
    for (; joined < 16; joined++) {
        submit(&r, &q, &repeat[joined]);
        if (repeat[joined].final)
            break;
    }
    assert_status(RXT_EBUSY, repeat[joined].status);
    assert_true(joined >= 1 && joined < 16);
    step_until_idle(&r);
    for (int i = 0; i < joined; i++)
        assert_status(RXT_ENOTFOUND, repeat[i].status); /* nobody has opened "s" */
    assert_int_equal(r.bridge->n_sink, 0);
    assert_null(r.bridge->all);
    rig_close(&r);
}

static void too_little_room_is_refused_at_open(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL, NULL);
    struct bridge *second = NULL;
    struct rxt_error err = {0};
    char path[320];
    (void)snprintf(path, sizeof path, "%s/second.db", r.dir);
    const struct bridge_config cfg = {.store_path = path, .max_bytes = room_price(r.bridge, 1) - 1};
    assert_status(RXT_ELIMIT, bridge_open(&second, r.model, &cfg, &err));
    assert_non_null(strstr(err.text, "max_bytes"));
    rig_close(&r);
}

/* ACCEPTED says the most that a turn can hold, and the bridge never holds more. */
static void the_price_is_kept(void **state)
{
    (void)state;
    enum { N = 12 };
    struct rig r;
    struct bridge_config cfg = {.max_live = 4};
    struct outcome o[N] = {{0}};
    rig_open(&r, NULL, NULL);
    cfg.max_bytes =
        3 * room_price(r.bridge, 1) + 1000; /* three at a time, though four have slots */
    rig_close(&r);
    rig_open(&r, NULL, &cfg);
    for (int i = 0; i < N; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "s%d", i);
        open_session(&r, name);
        struct bridge_request q = question(name, "My name is Anna.");
        submit(&r, &q, &o[i]);
    }
    int32_t most = 0;
    while (!bridge_idle(r.bridge)) {
        if (!bridge_step(r.bridge))
            bridge_wait(r.bridge, 1000000);
        assert_room(r.bridge);
        if (r.bridge->n_live > most)
            most = r.bridge->n_live;
    }
    assert_true(most >= 1 && most <= 3);
    for (int i = 0; i < N; i++) {
        assert_true(o[i].memory);
        assert_int_equal(o[i].price_bytes, room_price(r.bridge, 1));
        assert_same_memory(&o[i], &o[0]);
    }
    rig_close(&r);
}

static struct bridge_request of_tenant(struct bridge_request q, const char *tenant)
{
    (void)snprintf(q.tenant, sizeof q.tenant, "%s", tenant);
    return q;
}

/* A tenant that may hold one turn's bytes: its second turn waits for its first one, that of another
 * tenant for neither, and what can never have room is refused. */
static void a_tenant_has_its_share_of_bytes(void **state)
{
    (void)state;
    struct rig r;
    struct rxt_error err = {0};
    struct outcome first = {0}, second = {0}, other = {0}, both = {0};
    rig_open(&r, NULL, NULL);
    const struct bridge_limits one = {.max_bytes = room_price(r.bridge, 1)}, none = {0};
    const struct bridge_limits less = {.max_bytes = one.max_bytes - 1};
    assert_ok(bridge_set_limits(r.bridge, &one, &err));
    assert_status(RXT_ELIMIT, bridge_set_limits(r.bridge, &less, &err));
    for (int i = 0; i < 6; i++) { /* GET: it is in memory, so that nothing waits for the disk */
        struct bridge_request there =
            request(i % 2 ? BRIDGE_GET : BRIDGE_OPEN, i / 2 == 1 ? "s1" : "s0");
        there = of_tenant(there, i / 2 == 2 ? "b" : "a");
        assert_ok(call(&r, &there, &both));
    }
    struct bridge_request q = of_tenant(question("s0", "Tell me a story."), "a");
    q.sampling = (struct sampling){.temperature = 50, .top_p = 1, .seed = 11}; /* has no end */
    submit(&r, &q, &first);
    while (first.n_token == 0)
        if (!bridge_step(r.bridge))
            bridge_wait(r.bridge, 1000000);
    q = of_tenant(question("s1", "Hello!"), "a");
    submit(&r, &q, &second);
    q = of_tenant(question("s0", "Hello!"), "b");
    submit(&r, &q, &other);
    while (other.n_token == 0)
        assert_true(bridge_step(r.bridge));
    assert_true(!first.done && second.n_token == 0);
    while (!bridge_idle(r.bridge)) {
        if (!bridge_step(r.bridge))
            bridge_wait(r.bridge, 1000000);
        assert_room(r.bridge);
        assert_true(r.bridge->n_live <= 2 && (first.done || second.n_token == 0));
    }
    assert_true(first.memory && second.memory && other.memory);
    q = of_tenant(question("s0", "Hello!"), "a");
    q.n_candidate = 2;
    assert_status(RXT_ELIMIT, call(&r, &q, &both));
    assert_ok(bridge_set_limits(r.bridge, &none, &err));
    memset(&both, 0, sizeof both);
    submit(&r, &q, &both);
    while (!both.undecided)
        if (!bridge_step(r.bridge))
            bridge_wait(r.bridge, 1000000);
    rig_close(&r);
}

/* ---- deadlines -------------------------------------------------------------------------- */

static void deadlines_of_a_turn(void **state)
{
    (void)state;
    struct rig r;
    const struct bridge_config cfg = {.max_live = 1};
    struct outcome first = {0}, o = {0}, info = {0};
    rig_open(&r, NULL, &cfg);
    open_session(&r, "a");
    open_session(&r, "b");
    get(&r, "a", &info);
    get(&r, "b", &info);
    stop_clock(&r);

    struct bridge_request q = question("a", "How are you?");
    submit(&r, &q, &first);
    while (first.n_token == 0)
        if (!bridge_step(r.bridge))
            bridge_wait(r.bridge, 1000000);
    q = question("b", "How are you?");
    q.deadline.queue_us = 1000;
    q.deadline.total_us = 5000;
    submit(&r, &q, &o);
    assert_true(bridge_step(r.bridge));
    assert_true(o.accepted && !o.final); /* it has its place, and waits for the slot */
    test_now_us += 1000;
    assert_true(bridge_step(r.bridge));
    assert_status(RXT_EDEADLINE, o.status);
    assert_string_equal(o.key, "queue");
    assert_true(o.retry_after_us > 0);
    step_until_final(&r, &first);

    q = question("b", "How are you?");
    q.deadline.first_token_us = 1000;
    submit(&r, &q, &o);
    test_now_us += 1000;
    step_until_final(&r, &o);
    assert_status(RXT_EDEADLINE, o.status);
    assert_string_equal(o.key, "first_token");
    assert_int_equal(o.n_token, 0);

    for (int commit = 0; commit < 2; commit++) { /* in the middle of the answer */
        q = question("b", "How are you?");
        q.deadline.total_us = 1000;
        q.on_cancel = commit ? BRIDGE_CANCEL_COMMIT : BRIDGE_CANCEL_DISCARD;
        o = (struct outcome){0};
        submit(&r, &q, &o);
        while (o.n_token < 2)
            if (!bridge_step(r.bridge))
                bridge_wait(r.bridge, 1000000);
        test_now_us += 1000;
        step_until_final(&r, &o);
        if (commit) {
            assert_true(o.memory);
            assert_int_equal(o.finish, RXT_FINISH_CANCEL);
        } else {
            assert_status(RXT_EDEADLINE, o.status);
            assert_string_equal(o.key, "total");
            assert_false(o.done);
        }
    }
    get(&r, "b", &info);
    assert_int_equal(info.info.version, 1); /* only what was to be committed */
    rig_close(&r);
}

/* A turn that waits for the memory of the one before, longer than it wants to. */
static void deadline_of_memory(void **state)
{
    (void)state;
    struct rig r;
    struct outcome a = {0}, b = {0};
    rig_open(&r, NULL, NULL);
    open_session(&r, "s");
    stop_clock(&r);
    fault_arm("update", RXT_EDEVICE, 1); /* tried again when the clock has moved on */
    struct bridge_request q = question("s", "My name is Anna.");
    submit(&r, &q, &a);
    while (!a.done || r.bridge->retry == NULL)
        if (!bridge_step(r.bridge))
            bridge_wait(r.bridge, 1000000);
    q = question("s", "What is my name?");
    q.deadline.memory_us = 5000;
    submit(&r, &q, &b);
    assert_true(bridge_step(r.bridge));
    assert_true(b.accepted && !b.final);
    test_now_us += 5000;
    assert_true(bridge_step(r.bridge));
    assert_status(RXT_EDEADLINE, b.status);
    assert_string_equal(b.key, "memory");
    test_now_us += 1000000;
    step_until_final(&r, &a);
    assert_true(a.memory); /* the memory itself comes */
    rig_close(&r);
}

/* ---- cancel ----------------------------------------------------------------------------- */

static void what_waits_is_dropped(void **state)
{
    (void)state;
    struct rig r;
    struct outcome o[3] = {{0}}, info = {0};
    rig_open(&r, NULL, NULL);
    open_session(&r, "s");
    for (int i = 0; i < 3; i++) {
        struct bridge_request q = question("s", "My name is Anna.");
        submit(&r, &q, &o[i]);
    }
    bridge_cancel(r.bridge, o[1].ticket); /* neither first nor last */
    bridge_cancel(r.bridge, o[1].ticket);
    bridge_cancel(r.bridge, 123456789); /* nobody's */
    step_until_idle(&r);
    assert_true(o[0].memory && o[2].memory);
    assert_int_equal(o[1].last, BRIDGE_CANCELLED);
    bridge_cancel(r.bridge, o[0].ticket); /* over */
    get(&r, "s", &info);
    assert_int_equal(info.info.version, 2);
    rig_close(&r);
}

/* ---- updates that fail ------------------------------------------------------------------ */

static void advance_clock_until_final(struct rig *r, struct outcome *o)
{
    while (!o->final) {
        test_now_us += 100000;
        if (!bridge_step(r->bridge))
            bridge_wait(r->bridge, 1000);
    }
}

static void a_failing_update_is_tried_again(void **state)
{
    (void)state;
    struct rig r;
    struct outcome o = {0}, plain = {0};
    rig_open(&r, NULL, NULL);
    converse(&r, "plain", (const char *const[]){"My name is Anna."}, 1, &plain);
    open_session(&r, "s");
    stop_clock(&r);
    fault_arm("update", RXT_EDEVICE, 3);
    struct bridge_request q = question("s", "My name is Anna.");
    submit(&r, &q, &o);
    advance_clock_until_final(&r, &o);
    assert_true(o.done && o.memory);
    assert_same_memory(&o, &plain);
    rig_close(&r);
}

static void an_update_that_never_succeeds_holds(void **state)
{
    (void)state;
    struct rig r;
    struct outcome o = {0}, before = {0}, info = {0};
    rig_open(&r, NULL, NULL);
    open_session(&r, "s");
    get(&r, "s", &before);
    stop_clock(&r);
    fault_arm("update", RXT_EDEVICE, 1000000);
    struct bridge_request q = question("s", "My name is Anna.");
    submit(&r, &q, &o);
    advance_clock_until_final(&r, &o);
    fault_arm(NULL, RXT_OK, 0);
    assert_true(o.done);
    assert_int_equal(o.last, BRIDGE_MEMORY_FAILED);
    assert_non_null(strstr(o.error, "again"));
    get(&r, "s", &info);
    assert_int_equal(info.info.state, BRIDGE_HELD);
    assert_same_memory(&info, &before);
    assert_status(RXT_EHELD, call(&r, &q, &o));
    struct bridge_request back = request(BRIDGE_REWIND, "s");
    back.version = 0;
    assert_ok(call(&r, &back, &o));
    assert_ok(call(&r, &q, &o));
    rig_close(&r);
}

/* A failure of a batch of several fails none of them: they are tried one by one. */
static void a_failing_batch_is_tried_one_by_one(void **state)
{
    (void)state;
    enum { N = 4 };
    struct rig r;
    struct outcome o[N] = {{0}}, plain = {0};
    rig_open(&r, NULL, NULL);
    converse(&r, "plain", (const char *const[]){"My name is Anna."}, 1, &plain);
    int32_t ids[512];
    int32_t n = plain.n_query + plain.n_answer;
    memcpy(ids, plain.ids, (size_t)n * sizeof *ids);
    for (int i = 0; i < N; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "s%d", i);
        open_session(&r, name);
        get(&r, name, &o[i]);
    }
    fault_arm("update", RXT_EDEVICE, 2);
    for (int i = 0; i < N; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "s%d", i);
        struct bridge_request q = request(BRIDGE_REMEMBER, name);
        q.ids = ids;
        q.n_ids = (size_t)n;
        submit(&r, &q, &o[i]);
    }
    for (int i = 0; i < N; i++) {
        step_until_final(&r, &o[i]);
        assert_true(o[i].memory);
        assert_same_memory(&o[i], &plain);
    }
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tenants_take_turns),
        cmocka_unit_test(memory_is_charged),
        cmocka_unit_test(lists_count_for_their_tenant),
        cmocka_unit_test(queues_are_bounded),
        cmocka_unit_test(too_little_room_is_refused_at_open),
        cmocka_unit_test(the_price_is_kept),
        cmocka_unit_test(a_tenant_has_its_share_of_bytes),
        cmocka_unit_test(deadlines_of_a_turn),
        cmocka_unit_test(deadline_of_memory),
        cmocka_unit_test(what_waits_is_dropped),
        cmocka_unit_test(a_failing_update_is_tried_again),
        cmocka_unit_test(an_update_that_never_succeeds_holds),
        cmocka_unit_test(a_failing_batch_is_tried_one_by_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
