/* A disk that takes no more: the turn fails before DONE, the session is as it was, reads go on, and
 * when there is room again the next turn works (design 8). The disk is a limit on the size of files
 * that this process may write. */
#include "tests/bridge/rig.h"

#include <signal.h>
#include <sys/resource.h>

/* No file may grow beyond this; RLIM_INFINITY = any. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void full_disk_fails_the_turn_only(void **state)
{
    (void)state;
    struct rig r;
    struct outcome told = {0}, o = {0}, straight = {0};
    assert_true(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    rig_open(&r, NULL, NULL);
    converse(&r, "full", (const char *const[]){"My name is Anna."}, 1, &told);
    step_until_idle(&r);
    for (int round = 0; round < 3; round++) {
        limit_files(4096);
        struct bridge_request q = question("full", "My dog is called Bruno.");
        enum rxt_status st = call(&r, &q, &o);
        assert_true(st == RXT_EFULL || st == RXT_EIO);
        assert_false(o.done);
        assert_true(o.error[0]);
        struct bridge_request dry = question("full", "What is my name?"); /* reads go on */
        dry.dry_run = true;
        assert_ok(call(&r, &dry, &o));
        assert_says(&o, "Anna");
        limit_files(RLIM_INFINITY);
        struct bridge_request get = request(BRIDGE_GET, "full");
        assert_ok(call(&r, &get, &o));
        assert_int_equal(o.info.version, 1);
        assert_memory_equal(o.info.stm_hash, told.info.stm_hash, 16);
    }
    converse(&r, "full", (const char *const[]){"My dog is called Bruno."}, 1, &o);
    assert_int_equal(o.info.version, 2);
    converse(&r, "straight", (const char *const[]){"My name is Anna.", "My dog is called Bruno."},
             2, &straight);
    assert_memory_equal(o.info.stm_hash, straight.info.stm_hash, 16);
    rig_reopen(&r);
    struct bridge_request get = request(BRIDGE_GET, "full");
    assert_ok(call(&r, &get, &o));
    assert_memory_equal(o.info.stm_hash, straight.info.stm_hash, 16);
    rig_close(&r);
}

static void full_at_done(void *user, const struct bridge_event *e)
{
    if (e->kind == BRIDGE_DONE)
        limit_files(4096);
    on_outcome(user, e);
}

/* The disk is full when the store is to learn what is in the memory. Nobody waits for ever: GET
 * answers, a verb that needs the store fails with the reason, and works once there is room. */
static void full_disk_between_done_and_applied(void **state)
{
    (void)state;
    struct rig r;
    struct outcome told = {0}, o = {0};
    assert_true(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    rig_open(&r, NULL, NULL);
    open_session(&r, "s");
    struct bridge_request q = question("s", "My name is Anna.");
    assert_ok(bridge_submit(r.bridge, &q, full_at_done, &told, NULL, NULL));
    step_until_final(&r, &told);
    assert_true(told.memory);
    step_until_idle(&r);
    get(&r, "s", &o);
    assert_int_equal(o.info.version, 1);
    assert_memory_equal(o.info.stm_hash, told.info.stm_hash, 16);
    struct bridge_request fork = request(BRIDGE_FORK, "s"), rewind = request(BRIDGE_REWIND, "s");
    fork.version = BRIDGE_HEAD;
    (void)snprintf(fork.to, sizeof fork.to, "f");
    for (int round = 0; round < 2; round++) {
        assert_int_not_equal(call(&r, &fork, &o), RXT_OK);
        assert_true(o.error[0]);
        assert_int_not_equal(call(&r, &rewind, &o), RXT_OK);
    }
    limit_files(RLIM_INFINITY);
    assert_ok(call(&r, &fork, &o));
    get(&r, "f", &o);
    assert_int_equal(o.info.version, 1);
    assert_memory_equal(o.info.stm_hash, told.info.stm_hash, 16);
    rig_close(&r);
}

/* The rows are in, the image finds no room: the store knows more than was thought, and the next
 * time it is told goes on from there. */
static void full_disk_between_applied_and_image(void **state)
{
    (void)state;
    struct rig r;
    struct outcome told = {0}, o = {0};
    rig_open(&r, NULL, NULL);
    converse(&r, "s", (const char *const[]){"My name is Anna."}, 1, &o);
    step_until_idle(&r);
    fault_arm("image", RXT_EFULL, 1);
    converse(&r, "s", (const char *const[]){"My dog is called Bruno."}, 1, &o);
    step_until_idle(&r);
    converse(&r, "s", (const char *const[]){"How are you?"}, 1, &told);
    step_until_idle(&r);
    struct bridge_request fork = request(BRIDGE_FORK, "s");
    fork.version = BRIDGE_HEAD;
    (void)snprintf(fork.to, sizeof fork.to, "f");
    assert_ok(call(&r, &fork, &o));
    get(&r, "f", &o);
    assert_int_equal(o.info.version, 3);
    assert_memory_equal(o.info.stm_hash, told.info.stm_hash, 16);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_disk_fails_the_turn_only),
        cmocka_unit_test(full_disk_between_done_and_applied),
        cmocka_unit_test(full_disk_between_applied_and_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
