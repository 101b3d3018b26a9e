/* LIST, DIFF and EXPORT, and ERASE beside it. */
#define _GNU_SOURCE /* F_SETPIPE_SZ */
#include "tests/bridge/rig.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static void list(const char *after, const char *prefix, int32_t limit, struct outcome *o)
{
    struct bridge_request q = request(BRIDGE_LIST, after);
    (void)snprintf(q.prefix, sizeof q.prefix, "%s", prefix);
    q.limit = limit;
    assert_ok(call(&rig, &q, o));
    assert_true(o->done);
}

static void list_pages_and_prefixes(void **state)
{
    (void)state;
    struct outcome o = {0};
    for (int i = 0; i < 150; i++) { /* more than a page of the store's rows */
        char name[32];
        (void)snprintf(name, sizeof name, "b%03d", i);
        open_session(&rig, name);
    }
    open_session(&rig, "a");
    open_session(&rig, "b");
    open_session(&rig, "c");
    list("", "", 256, &o);
    assert_int_equal(o.n_list, 153);
    assert_false(o.more);
    assert_string_equal(o.list[0].session, "a");
    assert_string_equal(o.list[1].session, "b");
    list("", "b", 256, &o);
    assert_int_equal(o.n_list, 151);
    assert_string_equal(o.list[0].session, "b");
    list("", "b14", 4, &o);
    assert_int_equal(o.n_list, 4);
    assert_true(o.more);
    assert_string_equal(o.list[3].session, "b143");
    list("b143", "b14", 6, &o);
    assert_int_equal(o.n_list, 6);
    assert_false(o.more);
    list("", "d", 6, &o);
    assert_int_equal(o.n_list, 0);
    struct bridge_request q = request(BRIDGE_LIST, "");
    assert_status(RXT_EINVAL, call(&rig, &q, &o)); /* limit 0 */
    q.limit = 5;
    q.only_held = true;
    assert_ok(call(&rig, &q, &o));
    assert_int_equal(o.n_list, 0);
    (void)snprintf(q.tenant, sizeof q.tenant, "other");
    q.only_held = false;
    assert_ok(call(&rig, &q, &o));
    assert_int_equal(o.n_list, 0);
}

static void diff(const char *a, uint64_t va, const char *b, uint64_t vb, struct outcome *o)
{
    struct bridge_request q = request(BRIDGE_DIFF, a);
    q.version = va;
    (void)snprintf(q.to, sizeof q.to, "%s", b);
    q.to_version = vb;
    assert_ok(call(&rig, &q, o));
    assert_int_equal(o->last, BRIDGE_DONE);
}

static void diff_of_versions_and_sessions(void **state)
{
    (void)state;
    static const char *const talk[] = {"My name is Anna.", "My dog is called Bruno.",
                                       "How are you?", "What is my name?"};
    struct outcome o = {0}, other = {0};
    converse(&rig, "x", talk, 4, &o);
    converse(&rig, "y", talk, 2, &o);
    for (uint64_t v = 0; v <= 4; v++) { /* images are gone: the old ones are replayed */
        diff("x", v, "", v, &o);
        for (int i = 0; i < 8; i++) {
            assert_true(o.diff[i].change == 0);
            assert_true(o.diff[i].cosine > 0.999999f);
        }
    }
    diff("x", 2, "y", BRIDGE_HEAD, &o);
    assert_true(o.diff[0].change == 0);
    diff("x", 1, "", BRIDGE_HEAD, &o);
    diff("x", 1, "x", 4, &other);
    assert_true(o.diff[0].change > 0);
    assert_memory_equal(o.diff, other.diff, sizeof o.diff);
    diff("x", 4, "x", 1, &other); /* the other way round it is as far */
    assert_true(o.diff[3].change == other.diff[3].change);

    struct bridge_request q = request(BRIDGE_DIFF, "x");
    q.version = 1;
    q.to_version = 5;
    assert_status(RXT_ESTALE, call(&rig, &q, &o));
    q.to_version = 1;
    (void)snprintf(q.to, sizeof q.to, "nobody");
    assert_status(RXT_ENOTFOUND, call(&rig, &q, &o));

    struct outcome many[4] = {{0}}; /* one after the other */
    q.to[0] = '\0';
    for (int i = 0; i < 4; i++)
        submit(&rig, &q, &many[i]);
    step_until_idle(&rig);
    for (int i = 0; i < 4; i++)
        assert_true(many[i].done);
}

/* One comparison at a time: tenants take turns, and within one the first comes first. */
static void diff_takes_turns(void **state)
{
    (void)state;
    enum { MANY = 6 };
    struct outcome o = {0}, other = {0}, many[MANY] = {{0}};
    struct bridge_request q = request(BRIDGE_OPEN, "s");
    (void)snprintf(q.tenant, sizeof q.tenant, "other");
    assert_ok(call(&rig, &q, &o));
    q.verb = BRIDGE_DIFF;
    q.version = q.to_version = 0;
    assert_ok(call(&rig, &q, &o)); /* it has had its turn */
    for (int i = 0; i < MANY; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "d%d", i);
        open_session(&rig, name);
    }
    for (int i = 0; i < MANY; i++) {
        q = request(BRIDGE_DIFF, "");
        q.version = q.to_version = 0;
        (void)snprintf(q.session, sizeof q.session, "d%d", i);
        submit(&rig, &q, &many[i]);
        if (i != 1)
            continue;
        (void)snprintf(q.session, sizeof q.session, "s");
        (void)snprintf(q.tenant, sizeof q.tenant, "other");
        submit(&rig, &q, &other);
    }
    for (int done = 0; done < MANY; done++) {
        step_until_final(&rig, &many[done]);
        assert_true(other.final == (done > 0));
        for (int i = done + 1; i < MANY; i++)
            assert_false(many[i].final);
    }
    assert_true(other.done);
}

/* One that cannot begin, since its session has a turn to remember, holds up nobody. */
static void diff_waits_for_no_backlog(void **state)
{
    (void)state;
    struct rig r;
    struct outcome turn = {0}, slow = {0}, quick = {0};
    rig_open(&r, NULL, NULL);
    open_session(&r, "quick");
    struct bridge_request q = request(BRIDGE_OPEN, "slow");
    (void)snprintf(q.tenant, sizeof q.tenant, "other");
    assert_ok(call(&r, &q, &turn));
    stop_clock(&r);
    fault_arm("update", RXT_EDEVICE, 1); /* tried again when the clock goes on */
    q = question("slow", "hi");
    (void)snprintf(q.tenant, sizeof q.tenant, "other");
    submit(&r, &q, &turn);
    q = request(BRIDGE_DIFF, "slow");
    (void)snprintf(q.tenant, sizeof q.tenant, "other");
    q.version = q.to_version = 0;
    submit(&r, &q, &slow);
    while (!turn.done)
        step_or_wait(&r);
    test_now_us++;
    q = request(BRIDGE_DIFF, "quick");
    q.version = q.to_version = 0;
    submit(&r, &q, &quick);
    for (int i = 0; i < 1000 && !quick.final; i++)
        step_or_wait(&r);
    assert_true(quick.done && !slow.final);
    test_now_us += 1000000;
    step_until_final(&r, &slow);
    assert_true(slow.done && turn.memory);
    rig_close(&r);
}

/* An export writes into a file of a disk that does not answer: sessions come in all the same. */
static void nobody_waits_for_an_export(void **state)
{
    (void)state;
    struct outcome out = {0}, o = {0};
    char path[400], part[420];
    assert_true(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    converse(&rig, "large", (const char *const[]){"My name is Anna."}, 1, &o);
    struct bridge_request q = request(BRIDGE_FORK, "large");
    q.version = BRIDGE_HEAD;
    (void)snprintf(q.to, sizeof q.to, "cold");
    assert_ok(call(&rig, &q, &o));
    rig_reopen(&rig);
    (void)snprintf(path, sizeof path, "%s/export", rig.dir);
    (void)snprintf(part, sizeof part, "%s.part", path);
    assert_int_equal(mkfifo(part, 0600), 0); /* opened for writing, it waits for a reader */
    q = request(BRIDGE_EXPORT, "large");
    q.path = path;
    submit(&rig, &q, &out);
    q = request(BRIDGE_GET, "cold");
    submit(&rig, &q, &o);
    for (int i = 0; i < 3000 && !o.final; i++)
        step_or_wait(&rig);
    assert_true(o.final && !out.final);
    assert_int_equal(o.info.version, 1);
    while (!out.final) { /* a reader that goes, as often as it takes: the export may open it late */
        int reader = open(part, O_RDONLY | O_NONBLOCK);
        if (reader >= 0)
            assert_int_equal(close(reader), 0);
        step_or_wait(&rig);
    }
    assert_int_not_equal(out.status, RXT_OK);
}

/* A reader, as an export is, keeps the log from being emptied: the ERASE goes on when it has ended,
 * and turns of others are journaled meanwhile. */
static void nobody_waits_for_an_erase(void **state)
{
    (void)state;
    struct outcome erase = {0}, turn = {0}, o = {0};
    const struct store_options look = {.read_only = true};
    struct store *reader = NULL;
    struct store_session row;
    open_session(&rig, "erased");
    open_session(&rig, "other");
    assert_ok(store_open(&reader, rig.store, &look, NULL));
    assert_ok(store_view_begin(reader, NULL));
    assert_ok(store_session_get(reader, "default", "erased", &row, NULL));
    struct bridge_request q = request(BRIDGE_ERASE, "erased");
    submit(&rig, &q, &erase);
    q = question("other", "hi");
    submit(&rig, &q, &turn);
    for (int i = 0; i < 3000 && !turn.final; i++)
        step_or_wait(&rig);
    assert_true(turn.done && turn.memory && !erase.final);
    store_view_end(reader);
    step_until_final(&rig, &erase);
    assert_ok(erase.status);
    assert_true(erase.done);
    q = request(BRIDGE_ERASE, "erased");
    assert_status(RXT_ENOTFOUND, call(&rig, &q, &o));

    /* but not for ever behind another program */
    assert_ok(store_view_begin(reader, NULL));
    uint64_t (*clock)(void) = rig.bridge->clock;
    stop_clock(&rig);
    q = request(BRIDGE_ERASE, "other");
    erase = (struct outcome){0};
    submit(&rig, &q, &erase);
    for (int i = 0; i < 20; i++)
        step_or_wait(&rig);
    assert_false(erase.final);
    while (!erase.final) { /* its time counts from the end of the first try, whenever that is */
        test_now_us += 1000000;
        step_or_wait(&rig);
    }
    assert_status(RXT_EBUSY, erase.status);
    rig.bridge->clock = clock;
    store_close(&reader);
}

/* An export of `session` into a pipe that nobody reads from: it holds the log of the store until
 * the reader that is given back is read or closed. */
static int begin_export(const char *session, struct outcome *out)
{
    char path[400], part[420];
    (void)snprintf(path, sizeof path, "%s/pipe", rig.dir);
    (void)snprintf(part, sizeof part, "%s.part", path);
    (void)unlink(path); /* the pipe of an earlier one that ended well */
    assert_int_equal(mkfifo(part, 0600), 0);
    int reader = open(part, O_RDONLY | O_NONBLOCK), waiting = 0, before = -1;
    assert_true(reader >= 0);
    assert_true(fcntl(reader, F_SETPIPE_SZ, 4096) > 0);
    struct bridge_request q = request(BRIDGE_EXPORT, session);
    q.path = path;
    submit(&rig, &q, out);
    while (waiting == 0 || waiting != before) { /* until the pipe is full */
        before = waiting;
        if (!bridge_step(rig.bridge))
            bridge_wait(rig.bridge, 20000);
        assert_int_equal(ioctl(reader, FIONREAD, &waiting), 0);
    }
    assert_false(out->final);
    return reader;
}

static void read_all(int reader)
{
    char bytes[4096];
    while (read(reader, bytes, sizeof bytes) > 0)
        ;
}

static bool waits_for_export(void)
{
    for (const struct task *t = rig.bridge->all; t; t = t->all_next)
        if (t->waits_export)
            return true;
    return false;
}

/* However long an export of another session takes, an ERASE behind it ends well; exports that come
 * later do not go before it. */
static void an_erase_waits_for_exports(void **state)
{
    (void)state;
    struct outcome out = {0}, erase = {0}, late = {0}, o = {0};
    char path[400];
    converse(&rig, "kept", (const char *const[]){"My name is Anna."}, 1, &o);
    open_session(&rig, "gone");
    open_session(&rig, "third");
    int reader = begin_export("kept", &out);
    struct bridge_request q = request(BRIDGE_ERASE, "gone");
    submit(&rig, &q, &erase);
    (void)snprintf(path, sizeof path, "%s/late", rig.dir);
    q = request(BRIDGE_EXPORT, "third");
    q.path = path;
    submit(&rig, &q, &late);
    while (!waits_for_export()) { /* it has tried */
        assert_false(erase.final);
        step_or_wait(&rig);
    }
    uint64_t (*clock)(void) = rig.bridge->clock;
    stop_clock(&rig);
    test_now_us += 60000000; /* a reader of another program might not be in the way so long */
    for (int i = 0; i < 20; i++)
        step_or_wait(&rig);
    assert_true(waits_for_export() && !erase.final);
    assert_int_equal(rig.bridge->n_export, 1); /* the late one did not begin */
    while (!erase.final) {
        read_all(reader);
        step_or_wait(&rig);
    }
    assert_ok(erase.status);
    assert_true(erase.done);
    step_until_final(&rig, &late);
    assert_ok(late.status);
    assert_int_equal(close(reader), 0);
    rig.bridge->clock = clock;
}

/* Nor do ERASEs that come later go before an export: however many come, its turn comes. */
static void an_export_waits_for_no_later_erase(void **state)
{
    (void)state;
    enum { N = 20 };
    static struct outcome erase[N];
    struct outcome out = {0}, o = {0};
    struct bridge_request q;
    char path[400], name[N][16];
    converse(&rig, "kept", (const char *const[]){"My name is Anna."}, 1, &o);
    for (int i = 0; i < N; i++) {
        (void)snprintf(name[i], sizeof name[i], "erased %d", i);
        open_session(&rig, name[i]);
        erase[i] = (struct outcome){0};
    }
    q = request(BRIDGE_ERASE, name[0]);
    submit(&rig, &q, &erase[0]);
    while (rig.bridge->n_erase == 0)
        step_or_wait(&rig);
    (void)snprintf(path, sizeof path, "%s/export", rig.dir);
    q = request(BRIDGE_EXPORT, "kept");
    q.path = path;
    submit(&rig, &q, &out);
    (void)bridge_step(rig.bridge);
    assert_int_equal(rig.bridge->n_export, 0);
    for (int i = 1; i < N; i++) { /* there is always one that waits */
        q = request(BRIDGE_ERASE, name[i]);
        submit(&rig, &q, &erase[i]);
        step_until_final(&rig, &erase[i - 1]);
        assert_ok(erase[i - 1].status);
    }
    assert_true(out.final || rig.bridge->n_export == 1); /* it has begun; its thread may be slow */
    step_until_final(&rig, &out);
    assert_ok(out.status);
    step_until_final(&rig, &erase[N - 1]);
    assert_ok(erase[N - 1].status);
}

/* An export that waits and is cancelled holds up no ERASE. */
static void an_export_that_goes_lets_erases_on(void **state)
{
    (void)state;
    struct outcome out = {0}, late = {0}, erase[2] = {0}, o = {0};
    char path[400];
    converse(&rig, "kept", (const char *const[]){"My name is Anna."}, 1, &o);
    open_session(&rig, "first");
    open_session(&rig, "second");
    int reader = begin_export("kept", &out);
    struct bridge_request q = request(BRIDGE_ERASE, "first");
    submit(&rig, &q, &erase[0]);
    while (!waits_for_export())
        step_or_wait(&rig);
    (void)snprintf(path, sizeof path, "%s/late", rig.dir);
    q = request(BRIDGE_EXPORT, "second");
    q.path = path;
    submit(&rig, &q, &late);
    (void)bridge_step(rig.bridge);
    open_session(&rig, "third");
    q = request(BRIDGE_ERASE, "third");
    submit(&rig, &q, &erase[1]);
    (void)bridge_step(rig.bridge);
    assert_int_equal(rig.bridge->n_erase, 1); /* the export goes first */
    bridge_cancel(rig.bridge, late.ticket);
    step_until_final(&rig, &late);
    assert_status(RXT_ECANCELLED, late.status);
    while (!erase[0].final || !erase[1].final) {
        read_all(reader);
        step_or_wait(&rig);
    }
    assert_ok(erase[0].status);
    assert_ok(erase[1].status);
    assert_int_equal(close(reader), 0);
}

/* Who erases a session wants no export of it: one that runs ends, and so does one that waits. */
static void an_erase_ends_exports_of_its_session(void **state)
{
    (void)state;
    struct outcome out = {0}, next = {0}, erase = {0}, o = {0};
    converse(&rig, "secret", (const char *const[]){"My name is Anna."}, 1, &o);
    int reader = begin_export("secret", &out);
    struct bridge_request q = request(BRIDGE_EXPORT, "secret");
    char path[400];
    (void)snprintf(path, sizeof path, "%s/next", rig.dir);
    q.path = path;
    submit(&rig, &q, &next);
    q = request(BRIDGE_ERASE, "secret");
    submit(&rig, &q, &erase);
    while (!erase.final) {
        read_all(reader);
        step_or_wait(&rig);
    }
    assert_ok(erase.status);
    assert_status(RXT_ENOTFOUND, out.status);
    assert_non_null(strstr(out.error, "erased"));
    assert_status(RXT_ENOTFOUND, next.status);
    (void)snprintf(path, sizeof path, "%s/pipe", rig.dir);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(close(reader), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list_pages_and_prefixes),
        cmocka_unit_test(diff_of_versions_and_sessions),
        cmocka_unit_test(diff_takes_turns),
        cmocka_unit_test(diff_waits_for_no_backlog),
        cmocka_unit_test(nobody_waits_for_an_erase),
        cmocka_unit_test(nobody_waits_for_an_export),
        cmocka_unit_test(an_erase_waits_for_exports),
        cmocka_unit_test(an_export_waits_for_no_later_erase),
        cmocka_unit_test(an_export_that_goes_lets_erases_on),
        cmocka_unit_test(an_erase_ends_exports_of_its_session),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
