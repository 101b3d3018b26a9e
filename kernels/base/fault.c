#include "kernels/base/fault.h"

#include <stdlib.h>
#include <string.h>

void fault_order_read(struct fault_order *o, const char *variable)
{
    const char *spec = getenv(variable);
    const char *colon = spec ? strchr(spec, ':') : NULL;
    if (!colon || (size_t)(colon - spec) >= sizeof o->point)
        return;
    memcpy(o->point, spec, (size_t)(colon - spec));
    atomic_store(&o->left, strtol(colon + 1, NULL, 10));
}

bool fault_due(struct fault_order *o, const char *point)
{
    return o->point[0] && strcmp(point, o->point) == 0 && atomic_fetch_sub(&o->left, 1) == 1;
}
