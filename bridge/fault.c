#include "bridge/fault_impl.h"

#include "kernels/base/fault.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

static struct fault_order fault_order;
static pthread_once_t fault_once = PTHREAD_ONCE_INIT;

static void fault_read(void)
{
    fault_order_read(&fault_order, "RXT_FAULT");
}

void fault_point(const char *point)
{
    pthread_once(&fault_once, fault_read);
    if (fault_due(&fault_order, point))
        (void)raise(SIGKILL);
}

static _Atomic(const char *) armed_point; /* literals of the tests */
static atomic_int armed_status, armed_left;

enum rxt_status fault_status(const char *point)
{
    const char *armed = atomic_load(&armed_point);
    if (!armed || strcmp(point, armed) != 0 || atomic_fetch_sub(&armed_left, 1) <= 0)
        return RXT_OK;
    return (enum rxt_status)atomic_load(&armed_status);
}

void fault_arm(const char *point, enum rxt_status st, int times)
{
    atomic_store(&armed_point, NULL);
    atomic_store(&armed_status, (int)st);
    atomic_store(&armed_left, times);
    atomic_store(&armed_point, point);
}
