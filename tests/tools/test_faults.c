/* What rxt load does to a server, here a shell that takes its time to end. */
#include "tools/rxt/load/faults.h"
#include "tests/lib/test.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

static void put_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void await_file(const char *path)
{
    const struct timespec nap = {.tv_nsec = 10000000};
    while (access(path, F_OK) != 0)
        (void)nanosleep(&nap, NULL);
}

/* The last moment of a run: it was told to stop, and nobody looks whether it has. */
static void test_a_stopped_server_runs_again_behind_the_run(void **state)
{
    (void)state;
    struct faults *f = NULL;
    struct rxt_error err = {""};
    char *dir = test_dir_make(), plan[300], script[300], ready[300], command[320], text[1000];
    (void)snprintf(plan, sizeof plan, "%s/plan", dir);
    (void)snprintf(script, sizeof script, "%s/server", dir);
    (void)snprintf(ready, sizeof ready, "%s/ready", dir);
    (void)snprintf(command, sizeof command, "sh %s", script);
    (void)snprintf(text, sizeof text,
                   "trap 'sleep 0.5; exit 0' TERM\ntouch %s\nwhile :; do sleep 0.05; done\n",
                   ready);
    put_file(plan, "1 stop\n");
    put_file(script, text);
    const struct faults_config cfg = {.plan = plan, .command = command};
    assert_ok(faults_start(&f, &cfg, &err));
    await_file(ready);
    const int first = atomic_load(faults_pid(f));
    assert_ok(faults_tick(f, 1000000, NULL, &err));
    assert_int_equal(faults_count(f, FAULT_STOP), 1);
    assert_int_equal(atomic_load(faults_pid(f)), first);
    assert_ok(faults_settle(f, &err));
    const int second = atomic_load(faults_pid(f));
    assert_true(second > 0 && second != first);
    assert_int_equal(kill(second, 0), 0);
    assert_int_not_equal(kill(first, 0), 0); /* it has gone before the other came */
    assert_int_equal(faults_deaths(f), 0);
    faults_stop(&f);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_stopped_server_runs_again_behind_the_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
