#define _GNU_SOURCE /* pthread_getname_np, syscall */
#include "kernels/base/thread.h"

#include "tests/lib/test.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void a_thread_has_its_name(void **state)
{
    (void)state;
    char before[16], name[16];
    assert_int_equal(pthread_getname_np(pthread_self(), before, sizeof before), 0);
    thread_name("fifteen-letters");
    assert_int_equal(pthread_getname_np(pthread_self(), name, sizeof name), 0);
    assert_string_equal(name, "fifteen-letters");
    thread_name(before);
}

/* What the kernel says of the calling thread, word for word. */
struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};

static void *read_attributes(void *arg)
{
    struct attributes *a = arg;
    if (syscall(SYS_sched_getattr, 0, a, sizeof *a, 0) != 0)
        memset(a, 0, sizeof *a);
    return NULL;
}

/* Linux 6.12 and later say how long a slice is. */
static bool has_slices(const struct attributes *a)
{
    return a->policy == SCHED_OTHER && a->runtime_ns != 0;
}

static void *ask_and_start_another(void *arg)
{
    struct attributes *a = arg; /* before, after, of a thread started then */
    pthread_t thread;
    (void)read_attributes(&a[0]);
    enum rxt_status st = thread_slice(THREAD_COMPUTES_US);
    assert_int_equal(st, has_slices(&a[0]) ? RXT_OK : RXT_EUNSUPPORTED);
    (void)read_attributes(&a[1]);
    assert_int_equal(pthread_create(&thread, NULL, read_attributes, &a[2]), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    return NULL;
}

static void a_slice_changes_nothing_else_and_is_inherited(void **state)
{
    (void)state;
    struct attributes a[3];
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, ask_and_start_another, a), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    for (int i = 1; i < 3; i++) {
        if (has_slices(&a[0]))
            assert_int_equal(a[i].runtime_ns, THREAD_COMPUTES_US * 1000);
        assert_int_equal(a[i].policy, a[0].policy);
        assert_int_equal(a[i].nice, a[0].nice);
        assert_int_equal(a[i].priority, a[0].priority);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thread_has_its_name),
        cmocka_unit_test(a_slice_changes_nothing_else_and_is_inherited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
