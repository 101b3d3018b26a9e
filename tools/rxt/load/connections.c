#include "tools/rxt/load/connections.h"

#include <assert.h>

#define CREDIT_MAX (1u << 24) /* that a server takes (bridge/PROTOCOL.md, limits) */

enum { OF_A_KIND = 16 };

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* A connection for a few of the sessions of a kind, so that they do not all vanish at a time, or
 * wait for each other. */
void connections_lay_out(struct connections *c, const struct load_plan *p, uint32_t n_plain)
{
    uint32_t vanishing = 0, slow = 0;
    for (uint32_t i = 0; i < p->n_session; i++) {
        vanishing += plan_vanishes(p, i);
        slow += plan_is_slow(p, i);
    }
    const uint32_t room = CONNECTIONS_MOST - n_plain;
    *c = (struct connections){.n_plain = n_plain};
    c->n_slow = least(least(slow, OF_A_KIND), room - (vanishing > 0));
    c->n_vanishing = least(least(vanishing, OF_A_KIND), room - c->n_slow);
    for (uint32_t i = 0; i < p->n_session; i++) {
        uint32_t *bytes = &c->slow_bytes[connections_of(c, p, i)];
        if (plan_is_slow(p, i))
            *bytes = least(*bytes + CONNECTIONS_SLOW_BYTES, CREDIT_MAX);
    }
}

uint32_t connections_count(const struct connections *c)
{
    return c->n_plain + c->n_vanishing + c->n_slow;
}

uint32_t connections_of(const struct connections *c, const struct load_plan *p, uint32_t session)
{
    assert(c->n_slow > 0 || !plan_is_slow(p, session));
    assert(c->n_vanishing > 0 || !plan_vanishes(p, session));
    if (c->n_slow > 0 && plan_is_slow(p, session))
        return c->n_plain + c->n_vanishing + session % c->n_slow;
    if (c->n_vanishing > 0 && plan_vanishes(p, session))
        return c->n_plain + session % c->n_vanishing;
    return session % c->n_plain;
}
