#include "rxt/rxt_impl.h"

#include "kernels/base/mem.h"

enum rxt_status rxt_slot_create(struct rxt_slot **out, const struct rxt_model *m)
{
    *out = NULL;
    struct rxt_slot *s = mem_alloc(sizeof *s);
    if (!s)
        return RXT_ENOMEM;
    s->m = m;
    struct kv_config cfg = model_kv_config(m);
    enum rxt_status st = kv_create(&s->kv, m->be, &cfg);
    if (st == RXT_OK)
        *out = s;
    else
        mem_free(s);
    return st;
}

void rxt_slot_destroy(struct rxt_slot **s)
{
    if (!*s)
        return;
    kv_destroy((*s)->m->be, &(*s)->kv);
    mem_free(*s);
    *s = NULL;
}
