#include "stm/stm_impl.h"

#include "kernels/base/mem.h"

#include <pthread.h>

struct stm_pool {
    pthread_mutex_t mutex; /* of n_free and free: the engine and memory lanes take and give */
    struct backend *be;
    int n, n_free;
    struct stm_spare **free; /* the first n_free are here, the others are lent */
    struct stm_spare spare[];
};

enum rxt_status stm_pool_create(struct stm_pool **out, struct backend *be,
                                const struct stm_config *cfg, int n)
{
    *out = NULL;
    size_t bytes = stm_bytes(cfg);
    if (bytes == 0 || n <= 0)
        return RXT_ESHAPE;
    struct stm_pool *p = mem_alloc(sizeof *p + (size_t)n * sizeof p->spare[0]);
    if (!p)
        return RXT_ENOMEM;
    p->be = be;
    pthread_mutex_init(&p->mutex, NULL);
    p->free = mem_alloc_n((size_t)n, sizeof(struct stm_spare *));
    bool ok = p->free != NULL;
    for (; ok && p->n < n; p->n++) {
        struct stm_spare *s = &p->spare[p->n];
        *s = (struct stm_spare){.be = be, .cfg = *cfg, .content = RXT_EINVAL};
        s->values = backend_alloc(be, bytes);
        p->free[p->n_free++] = s;
        ok = s->values != NULL;
    }
    if (!ok) {
        stm_pool_destroy(&p);
        return RXT_ENOMEM;
    }
    *out = p;
    return RXT_OK;
}

void stm_pool_destroy(struct stm_pool **p)
{
    if (!p || !*p)
        return;
    struct stm_pool *pool = *p;
    assert(pool->n_free == pool->n && "a spare is still lent");
    for (int i = 0; i < pool->n; i++)
        backend_free(pool->be, pool->spare[i].values);
    pthread_mutex_destroy(&pool->mutex);
    mem_free(pool->free);
    mem_free(pool);
    *p = NULL;
}

struct stm_spare *stm_spare_take(struct stm_pool *p)
{
    pthread_mutex_lock(&p->mutex);
    struct stm_spare *s = p->n_free > 0 ? p->free[--p->n_free] : NULL;
    pthread_mutex_unlock(&p->mutex);
    if (s)
        s->content = RXT_EINVAL;
    return s;
}

void stm_spare_give(struct stm_pool *p, struct stm_spare **s)
{
    if (!s || !*s)
        return;
    assert(*s >= p->spare && *s < p->spare + p->n && "a spare of another pool");
    pthread_mutex_lock(&p->mutex);
    assert(p->n_free < p->n);
    p->free[p->n_free++] = *s;
    pthread_mutex_unlock(&p->mutex);
    *s = NULL;
}

enum rxt_status stm_spare_init(struct stm_spare *spare, struct lane *ln, enum stm_init init,
                               uint64_t seed)
{
    spare->content = RXT_EINVAL;
    TRY(stm_fill(ln, &spare->cfg, spare->values, init, seed));
    spare->content = RXT_OK;
    return RXT_OK;
}

enum rxt_status stm_spare_load(struct stm_spare *spare, struct lane *ln, const void *values,
                               size_t bytes)
{
    spare->content = RXT_EINVAL;
    if (bytes != stm_bytes(&spare->cfg))
        return RXT_ESHAPE;
    TRY(lane_upload(ln, spare->values, values, bytes));
    spare->content = RXT_OK;
    return RXT_OK;
}
