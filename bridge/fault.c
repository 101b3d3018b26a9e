#include "bridge/fault_impl.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static char fault_name[32];
static atomic_long fault_left;
static pthread_once_t fault_once = PTHREAD_ONCE_INIT;

static void fault_read(void)
{
    const char *spec = getenv("RXT_FAULT");
    const char *colon = spec ? strchr(spec, ':') : NULL;
    if (!colon || (size_t)(colon - spec) >= sizeof fault_name)
        return;
    memcpy(fault_name, spec, (size_t)(colon - spec));
    atomic_store(&fault_left, strtol(colon + 1, NULL, 10));
}

void fault_point(const char *point)
{
    pthread_once(&fault_once, fault_read);
    if (!fault_name[0] || strcmp(point, fault_name) != 0)
        return;
    if (atomic_fetch_sub(&fault_left, 1) == 1)
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
