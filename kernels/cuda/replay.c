#include "kernels/cuda/replay_impl.h"

#include "kernels/base/mem.h"

#include <assert.h>
#include <string.h>

struct kept {
    size_t at, bytes; /* of its list in the pool */
    void *graph;
};

struct replay {
    void (*drop)(void *graph);
    struct kept kept[REPLAY_GRAPHS]; /* the one used last comes first */
    int32_t n_kept;
    char *pool; /* lists without gaps */
    size_t used;
    uint64_t seen[REPLAY_SEEN]; /* a ring; 0: empty */
    uint32_t n_seen;
};

enum rxt_status replay_create(struct replay **out, void (*drop)(void *graph))
{
    *out = NULL;
    struct replay *r = mem_alloc(sizeof *r);
    if (!r)
        return RXT_ENOMEM;
    r->drop = drop;
    r->pool = mem_alloc(REPLAY_POOL);
    if (!r->pool) {
        mem_free(r);
        return RXT_ENOMEM;
    }
    *out = r;
    return RXT_OK;
}

void replay_destroy(struct replay **r)
{
    if (!*r)
        return;
    for (int32_t i = 0; i < (*r)->n_kept; i++)
        (*r)->drop((*r)->kept[i].graph);
    mem_free((*r)->pool);
    mem_free(*r);
    *r = NULL;
}

size_t replay_bytes(void)
{
    return sizeof(struct replay) + REPLAY_POOL;
}

/* Moves entry i to the front. */
static void use(struct replay *r, int32_t i)
{
    struct kept k = r->kept[i];
    memmove(r->kept + 1, r->kept, (size_t)i * sizeof k);
    r->kept[0] = k;
}

void *replay_find(struct replay *r, const void *list, size_t bytes)
{
    for (int32_t i = 0; i < r->n_kept; i++) {
        const struct kept *k = &r->kept[i];
        if (k->bytes == bytes && memcmp(r->pool + k->at, list, bytes) == 0) {
            use(r, i);
            return r->kept[0].graph;
        }
    }
    return NULL;
}

static uint64_t hash(const char *list, size_t bytes)
{
    uint64_t h = bytes;
    for (size_t i = 0; i < bytes; i += sizeof h) {
        uint64_t word;
        memcpy(&word, list + i, sizeof word);
        h = (h ^ word) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
    }
    return h | 1;
}

bool replay_again(struct replay *r, const void *list, size_t bytes)
{
    assert(bytes > 0 && bytes % sizeof(uint64_t) == 0);
    if (bytes > REPLAY_POOL)
        return false;
    uint64_t own = hash(list, bytes);
    for (int i = 0; i < REPLAY_SEEN; i++)
        if (r->seen[i] == own) {
            r->seen[i] = 0;
            return true;
        }
    r->seen[r->n_seen++ % REPLAY_SEEN] = own;
    return false;
}

/* Ends the graph that was not used for longest and closes the gap in the pool. */
static void drop_last(struct replay *r)
{
    struct kept k = r->kept[--r->n_kept];
    r->drop(k.graph);
    memmove(r->pool + k.at, r->pool + k.at + k.bytes, r->used - k.at - k.bytes);
    r->used -= k.bytes;
    for (int32_t i = 0; i < r->n_kept; i++)
        if (r->kept[i].at > k.at)
            r->kept[i].at -= k.bytes;
}

void replay_keep(struct replay *r, const void *list, size_t bytes, void *graph)
{
    assert(bytes <= REPLAY_POOL);
    while (r->n_kept == REPLAY_GRAPHS || REPLAY_POOL - r->used < bytes)
        drop_last(r);
    memcpy(r->pool + r->used, list, bytes);
    r->kept[r->n_kept] = (struct kept){r->used, bytes, graph};
    r->used += bytes;
    use(r, r->n_kept++);
}
