#include "tests/store/fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void without_it_nothing_is_written(void **state)
{
    struct fixture *fx = *state;
    struct store_session x = session_sample("x");
    must(fx, store_lease_release(fx->s, &fx->err));
    must(fx, store_lease_release(fx->s, &fx->err)); /* nothing to do */
    assert_true(store_lease_fence(fx->s) == 0);
    assert_refused(fx, RXT_EFENCED, "lease", store_session_create(fx->s, &x, &fx->err));
    assert_status(RXT_EFENCED, store_batch_begin(fx->s, NULL));
    assert_status(RXT_EFENCED, store_checkpoint(fx->s, NULL));
    assert_status(RXT_EFENCED, store_lease_renew(fx->s, NULL));
    assert_status(RXT_ENOTFOUND, store_session_get(fx->s, "acme", "x", &x, NULL));
    must(fx, store_lease_take(fx->s, &fx->err));
    must(fx, store_session_create(fx->s, &x, &fx->err));
}

static void fences_go_up(void **state)
{
    struct fixture *fx = *state;
    uint64_t fence = store_lease_fence(fx->s);
    assert_true(fence > 0);
    must(fx, store_lease_take(fx->s, &fx->err)); /* is ours already */
    assert_true(store_lease_fence(fx->s) == fence);
    must(fx, store_lease_renew(fx->s, &fx->err));
    fixture_reopen(fx);
    assert_true(store_lease_fence(fx->s) == fence + 1);
}

static void a_second_writer_is_told_who_has_it(void **state)
{
    struct fixture *fx = *state;
    struct store *second;
    char host[64] = "", pid[32];
    must(fx, store_open(&second, fx->path, NULL, &fx->err));
    snprintf(pid, sizeof pid, "process %d ", getpid());
    gethostname(host, sizeof host - 1);
    assert_refused(fx, RXT_EFENCED, pid, store_lease_take(second, &fx->err));
    assert_refused(fx, RXT_EFENCED, host, store_lease_take(second, &fx->err));
    assert_true(store_lease_fence(second) == 0);
    session_make(fx, "a"); /* the first is not disturbed */
    must(fx, store_lease_release(fx->s, &fx->err));
    must(fx, store_lease_take(second, &fx->err));
    assert_status(RXT_EFENCED, store_lease_take(fx->s, NULL));
    store_close(&second);
    must(fx, store_lease_take(fx->s, &fx->err));
}

/* The second line of defence: the lock file is deleted by hand, and two have a lock each. */
static void the_older_fence_writes_nothing(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    char lock[320];
    snprintf(lock, sizeof lock, "%s-lease", fx->path);
    assert_int_equal(unlink(lock), 0);
    assert_refused(fx, RXT_EFENCED, "replaced", store_lease_renew(fx->s, &fx->err));
    struct store *second;
    must(fx, store_open(&second, fx->path, NULL, &fx->err));
    must(fx, store_lease_take(second, &fx->err));

    int32_t ids[SAMPLE_IDS];
    struct store_turn t = turn_sample(1, ids);
    assert_refused(fx, RXT_EFENCED, "taken over", store_turn_put(fx->s, a.id, &t, &fx->err));
    assert_status(RXT_EFENCED, store_batch_begin(fx->s, NULL));
    assert_status(RXT_EFENCED, store_lease_renew(fx->s, NULL));
    must(fx, store_turn_put(second, a.id, &t, &fx->err));
    store_close(&fx->s); /* gives back nothing that is not its own */
    must(fx, store_lease_renew(second, &fx->err));
    t = turn_sample(2, ids);
    must(fx, store_turn_put(second, a.id, &t, &fx->err));
    store_close(&second);
    fixture_open(fx);
    assert_true(session_load(fx, "a").head == 2);
}

static void readers_need_none(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a"), x;
    const struct store_options look = {.read_only = true};
    struct store *reader;
    struct store_turn t;
    must(fx, store_open(&reader, fx->path, &look, &fx->err));
    turn_add(fx, a.id, 1);
    must(fx, store_session_get(reader, "acme", "a", &x, &fx->err));
    assert_true(x.head == 1);
    must(fx, store_turn_get(reader, a.id, 1, &t, &fx->err));
    turn_check(&t, 1);
    assert_refused(fx, RXT_EINVAL, "read-only", store_lease_take(reader, &fx->err));
    assert_refused(fx, RXT_EINVAL, "read-only", store_turn_applied(reader, a.id, 2, &fx->err));
    must(fx, store_check(reader, &fx->err));
    store_close(&reader);
}

/* A child that takes the lease, says so, and is killed with it. */
static void a_killed_owner_leaves_it(void **state)
{
    struct fixture *fx = *state;
    session_make(fx, "a");
    store_close(&fx->s);
    int says[2];
    assert_int_equal(pipe(says), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct store *s;
        struct store_session x = session_sample("b");
        bool ok = store_open(&s, fx->path, NULL, NULL) == RXT_OK &&
                  store_lease_take(s, NULL) == RXT_OK &&
                  store_session_create(s, &x, NULL) == RXT_OK;
        (void)!write(says[1], ok ? "y" : "n", 1);
        for (;;)
            pause();
    }
    char answer = 0, who[32];
    assert_int_equal(read(says[0], &answer, 1), 1);
    assert_int_equal(answer, 'y');
    must(fx, store_open(&fx->s, fx->path, NULL, &fx->err));
    snprintf(who, sizeof who, "process %d ", child);
    assert_refused(fx, RXT_EFENCED, who, store_lease_take(fx->s, &fx->err));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    must(fx, store_lease_take(fx->s, &fx->err));
    session_load(fx, "a");
    session_load(fx, "b");
    close(says[0]);
    close(says[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(without_it_nothing_is_written),
        store_unit_test(fences_go_up),
        store_unit_test(a_second_writer_is_told_who_has_it),
        store_unit_test(the_older_fence_writes_nothing),
        store_unit_test(readers_need_none),
        store_unit_test(a_killed_owner_leaves_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
