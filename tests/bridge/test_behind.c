/* Sessions that are behind: turns that reported DONE stand in the journal, and the process ended
 * before the store was told that they are in the memory. They count as any other turn, whichever
 * verb comes first. */
#include "tests/bridge/rig.h"

static const char *const talk[] = {"My name is Anna.", "My dog is called Bruno.", "How are you?",
                                   "What is my name?"};
enum { TALK = sizeof talk / sizeof *talk, APPLIED = 2 };

static struct store_session row_of(const char *session)
{
    struct store *s = NULL;
    struct store_session x = {0};
    const struct store_options opt = {.read_only = true};
    assert_ok(store_open(&s, rig.store, &opt, NULL));
    assert_ok(store_session_get(s, "default", session, &x, NULL));
    store_close(&s);
    return x;
}

/* Its update fails once and is tried again when a clock goes on that stands still. */
static void tell(const char *session, const char *query, struct outcome *o)
{
    struct bridge_request q = question(session, query);
    q.on_stale = BRIDGE_STALE_PROCEED;
    submit(&rig, &q, o);
    while (!o->done || !rig.bridge->retry)
        if (!bridge_step(rig.bridge))
            bridge_wait(rig.bridge, 1000000);
}

/* A cold session of four turns, the last two of them not applied. want[v] = the memory of version
 * v, made by a session that absorbs the same turns and is not disturbed. */
static void leave_behind(const char *session, struct outcome want[TALK + 1])
{
    struct outcome turn[TALK] = {{0}};
    char straight[64];
    for (int i = 0; i < APPLIED; i++)
        converse(&rig, session, &talk[i], 1, &turn[i]);
    step_until_idle(&rig);
    stop_clock(&rig);
    fault_arm("update", RXT_EDEVICE, 1);
    for (int i = APPLIED; i < TALK; i++)
        tell(session, talk[i], &turn[i]);
    fault_arm(NULL, RXT_OK, 0);
    bridge_close(&rig.bridge, 0); /* waits for nothing */
    rig_reopen(&rig);
    struct store_session row = row_of(session);
    assert_int_equal(row.head, TALK);
    assert_int_equal(row.applied, APPLIED);

    (void)snprintf(straight, sizeof straight, "%s straight", session);
    open_session(&rig, straight);
    get(&rig, straight, &want[0]);
    for (int i = 0; i < TALK; i++)
        absorb(&rig, straight, turn[i].ids, turn[i].n_query + turn[i].n_answer, &want[i + 1]);
    assert_int_equal(row_of(session).applied, APPLIED); /* it is still cold */
}

static void assert_is(const char *session, uint64_t version, const struct outcome *memory)
{
    struct outcome o = {0};
    get(&rig, session, &o);
    assert_int_equal(o.info.version, version);
    assert_same_memory(&o, memory);
}

static enum rxt_status fork_at(const char *from, const char *to, uint64_t version,
                               struct outcome *o)
{
    struct bridge_request q = request(BRIDGE_FORK, from);
    q.version = version;
    (void)snprintf(q.to, sizeof q.to, "%s", to);
    return call(&rig, &q, o);
}

static void fork_has_every_turn(void **state)
{
    (void)state;
    struct outcome want[TALK + 1] = {{0}}, o = {0};
    leave_behind("f", want);
    for (uint64_t v = 0; v <= TALK; v++) {
        char to[32];
        (void)snprintf(to, sizeof to, "f %d", (int)v);
        assert_ok(fork_at("f", to, v, &o));
        assert_int_equal(o.info.version, v);
        assert_is(to, v, &want[v]);
    }
    assert_status(RXT_ESTALE, fork_at("f", "f none", TALK + 1, &o));
    assert_ok(fork_at("f", "f newest", BRIDGE_HEAD, &o));
    assert_string_equal(o.info.session, "f newest");
    assert_int_equal(o.info.version, TALK);
    assert_int_equal(o.info.origin_version, TALK);
    assert_ok(fork_at("f newest", "f of it", BRIDGE_HEAD, &o));
    rig_reopen(&rig);
    assert_is("f of it", TALK, &want[TALK]);
    assert_is("f newest", TALK, &want[TALK]);
    assert_is("f", TALK, &want[TALK]);
}

static void open_from_has_every_turn(void **state)
{
    (void)state;
    struct outcome want[TALK + 1] = {{0}}, o = {0};
    leave_behind("seed", want);
    const uint64_t version[] = {BRIDGE_HEAD, TALK - 1};
    for (int i = 0; i < 2; i++) {
        struct bridge_request q = request(BRIDGE_OPEN, i ? "explicit" : "newest");
        (void)snprintf(q.from, sizeof q.from, "seed");
        q.version = version[i];
        assert_ok(call(&rig, &q, &o));
        assert_int_equal(o.info.version, TALK - i);
        assert_is(q.session, (uint64_t)(TALK - i), &want[TALK - i]);
    }
}

/* Busy because it is being brought in for another turn. */
static void busy_fork_has_every_turn(void **state)
{
    (void)state;
    struct outcome want[TALK + 1] = {{0}}, a = {0}, b = {0};
    leave_behind("busy", want);
    struct bridge_request q = question("busy", "How are you?");
    struct bridge_request f = question("busy", "What is my name?");
    f.on_busy = BRIDGE_BUSY_FORK;
    (void)snprintf(f.to, sizeof f.to, "busy fork");
    submit(&rig, &q, &a);
    submit(&rig, &f, &b);
    step_until_final(&rig, &a);
    step_until_final(&rig, &b);
    assert_true(a.memory && b.memory);
    assert_int_equal(a.read_version, TALK);
    assert_string_equal(b.ran_in, "busy fork");
    assert_int_equal(b.info.origin_version, TALK);
    assert_int_equal(b.read_version, TALK);
}

static void export_has_every_turn(void **state)
{
    (void)state;
    struct outcome want[TALK + 1] = {{0}}, o = {0};
    char path[400];
    leave_behind("export", want);
    (void)snprintf(path, sizeof path, "%s/export", rig.dir);
    struct bridge_request q = request(BRIDGE_EXPORT, "export");
    q.path = path;
    assert_ok(call(&rig, &q, &o));
    q = request(BRIDGE_IMPORT, "import");
    q.path = path;
    assert_ok(call(&rig, &q, &o));
    assert_int_equal(o.info.version, TALK);
    assert_is("import", TALK, &want[TALK]);
}

static void assert_no_difference(const char *a, uint64_t va, const char *b, uint64_t vb)
{
    struct bridge_request q = request(BRIDGE_DIFF, a);
    struct outcome o = {0};
    q.version = va;
    (void)snprintf(q.to, sizeof q.to, "%s", b);
    q.to_version = vb;
    assert_ok(call(&rig, &q, &o));
    for (int i = 0; i < 8; i++)
        assert_true(o.diff[i].change == 0 && o.diff[i].cosine > 0.999999f);
}

static void diff_has_every_turn(void **state)
{
    (void)state;
    struct outcome want[TALK + 1] = {{0}}, o = {0};
    leave_behind("diff", want);
    assert_no_difference("diff straight", TALK, "diff", BRIDGE_HEAD);
    assert_no_difference("diff", BRIDGE_HEAD, "diff straight", TALK);
    assert_no_difference("diff", TALK - 1, "diff straight", TALK - 1);
    struct bridge_request q = request(BRIDGE_DIFF, "diff");
    q.version = TALK + 1;
    assert_status(RXT_ESTALE, call(&rig, &q, &o));
}

static void rewind_reaches_every_turn(void **state)
{
    (void)state;
    struct outcome want[TALK + 1] = {{0}}, o = {0};
    leave_behind("rewind", want);
    struct bridge_request q = request(BRIDGE_REWIND, "rewind");
    q.version = TALK + 1;
    assert_status(RXT_ESTALE, call(&rig, &q, &o));
    q.version = TALK - 1;
    assert_ok(call(&rig, &q, &o));
    assert_is("rewind", TALK + 1, &want[TALK - 1]);
    q.version = TALK;
    assert_ok(call(&rig, &q, &o));
    assert_is("rewind", TALK + 2, &want[TALK]);
}

/* Who goes on after a restart learns how far it came, also without a page-in. */
static void open_and_list_count_every_turn(void **state)
{
    (void)state;
    struct outcome want[TALK + 1] = {{0}}, o = {0};
    leave_behind("told", want);
    struct bridge_request q = request(BRIDGE_LIST, "");
    q.limit = 1;
    (void)snprintf(q.prefix, sizeof q.prefix, "told");
    assert_ok(call(&rig, &q, &o));
    assert_string_equal(o.list[0].session, "told");
    assert_int_equal(o.list[0].state, BRIDGE_COLD);
    assert_int_equal(o.list[0].version, TALK);
    q = request(BRIDGE_OPEN, "told");
    assert_ok(call(&rig, &q, &o));
    assert_int_equal(o.info.version, TALK);
    assert_is("told", TALK, &want[TALK]);
}

/* What an update was refused for is nobody's newest version: it waits for the repair. */
static void held_gives_what_is_applied(void **state)
{
    (void)state;
    struct outcome told = {0}, o = {0};
    converse(&rig, "held", talk, 1, &told);
    fault_arm("update", RXT_EDEVICE, 1000000);
    struct bridge_request q = question("held", talk[1]);
    assert_status(RXT_EDEVICE, call(&rig, &q, &o));
    fault_arm(NULL, RXT_OK, 0);
    rig_reopen(&rig);
    struct store_session row = row_of("held");
    assert_true((row.flags & STORE_HELD) && row.head == 2 && row.applied == 1);
    assert_status(RXT_ESTALE, fork_at("held", "held 2", 2, &o));
    assert_ok(fork_at("held", "held newest", BRIDGE_HEAD, &o));
    assert_is("held newest", 1, &told);
    assert_no_difference("held", BRIDGE_HEAD, "held newest", 1);
    q = request(BRIDGE_REWIND, "held");
    q.version = 2;
    assert_status(RXT_ESTALE, call(&rig, &q, &o));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fork_has_every_turn),
        cmocka_unit_test(open_from_has_every_turn),
        cmocka_unit_test(busy_fork_has_every_turn),
        cmocka_unit_test(export_has_every_turn),
        cmocka_unit_test(diff_has_every_turn),
        cmocka_unit_test(rewind_reaches_every_turn),
        cmocka_unit_test(open_and_list_count_every_turn),
        cmocka_unit_test(held_gives_what_is_applied),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
