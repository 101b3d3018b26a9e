#define _GNU_SOURCE /* pthread_setname_np, SCHED_BATCH, syscall */
#include "kernels/base/thread.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of linux/sched/types.h, which cannot stand beside sched.h: the first version, 48 bytes. */
struct sched_attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};
static_assert(sizeof(struct sched_attributes) == 48, "what the kernel calls version 0");

void thread_name(const char *name)
{
    assert(strlen(name) < 16);
    (void)pthread_setname_np(pthread_self(), name);
}

enum rxt_status thread_slice(uint32_t us)
{
    const uint64_t want = us * UINT64_C(1000);
    struct sched_attributes a = {.size = sizeof a};
    if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) != 0)
        return RXT_EUNSUPPORTED;
    if (a.policy != SCHED_OTHER && a.policy != SCHED_BATCH)
        return RXT_EUNSUPPORTED;
    a.runtime_ns = want; /* of these two, the length of a slice */
    if (syscall(SYS_sched_setattr, 0, &a, 0) != 0 ||
        syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) != 0)
        return RXT_EUNSUPPORTED;
    return a.runtime_ns == want ? RXT_OK : RXT_EUNSUPPORTED; /* older ones take it and do nothing */
}
