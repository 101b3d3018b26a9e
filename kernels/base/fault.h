/* A fault that the environment orders, for tests: VARIABLE=point:n, at the nth time the process
 * gets to the named point. */
#ifndef RXT_BASE_FAULT_H
#define RXT_BASE_FAULT_H

#include <stdatomic.h>
#include <stdbool.h>

struct fault_order { /* zeros: none */
    char point[32];
    atomic_long left;
};

/* Reads the order; once, before the first fault_due (pthread_once). */
void fault_order_read(struct fault_order *o, const char *variable);
/* Whether this is the time. Any thread. */
bool fault_due(struct fault_order *o, const char *point);

#endif
