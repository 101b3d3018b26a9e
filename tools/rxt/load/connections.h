/* Which connection each session speaks on: first those of the sessions that read at once and stay,
 * then those that vanish, then those that read slowly. */
#ifndef RXT_TOOLS_LOAD_CONNECTIONS_H
#define RXT_TOOLS_LOAD_CONNECTIONS_H

#include "tools/rxt/load/plan.h"

enum { CONNECTIONS_MOST = 64 };
#define CONNECTIONS_SLOW_BYTES 512u /* of a slow session, a pause */
#define CONNECTIONS_PAUSE_MS 250u

struct connections {
    uint32_t n_plain, n_vanishing, n_slow;
    uint32_t slow_bytes[CONNECTIONS_MOST]; /* that each takes a pause; 0: what comes */
};

/* n_plain: at most CONNECTIONS_MOST - 2. */
void connections_lay_out(struct connections *c, const struct load_plan *p, uint32_t n_plain);
uint32_t connections_count(const struct connections *c);
uint32_t connections_of(const struct connections *c, const struct load_plan *p, uint32_t session);

#endif
