#include "bridge/bridge_impl.h"

#include "kernels/base/mem.h"

#include <assert.h>
#include <string.h>

static struct content **content_bucket(struct bridge *b, const uint8_t hash[16])
{
    uint32_t h;
    memcpy(&h, hash, sizeof h);
    return &b->content[h & (BRIDGE_BUCKETS - 1)];
}

enum rxt_status content_create(struct content **out, struct session *s)
{
    struct content *c = mem_alloc(sizeof *c);
    if (!c)
        return RXT_ENOMEM;
    c->tenant = s->tenant;
    c->users = 1;
    *out = c;
    return RXT_OK;
}

void content_release(struct bridge *b, struct content **content)
{
    struct content *c = *content;
    *content = NULL;
    if (!c || --c->users > 0)
        return;
    assert(c->n_idle == 0);
    content_withdraw(b, c);
    stm_destroy(&c->stm);
    if (c->read)
        room_read_release(b, c->read);
    mem_free(c);
}

void content_offer(struct bridge *b, struct content *c, const uint8_t hash[16])
{
    struct content **bucket = content_bucket(b, hash);
    assert(!c->shareable);
    memcpy(c->hash, hash, sizeof c->hash);
    c->shareable = true;
    c->chain = *bucket;
    *bucket = c;
}

void content_withdraw(struct bridge *b, struct content *c)
{
    if (!c->shareable)
        return;
    struct content **at = content_bucket(b, c->hash);
    while (*at != c)
        at = &(*at)->chain;
    *at = c->chain;
    c->shareable = false;
}

struct content *content_find(struct bridge *b, const struct tenant *t, const uint8_t hash[16],
                             enum dtype dtype, uint64_t version)
{
    for (struct content *c = *content_bucket(b, hash); c; c = c->chain)
        if (c->tenant == t && memcmp(c->hash, hash, sizeof c->hash) == 0 &&
            stm_config_of(c->stm)->dtype == dtype && stm_version(c->stm) == version)
            return c;
    return NULL;
}
