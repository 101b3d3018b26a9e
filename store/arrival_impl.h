/* A session that comes in piece by piece. It has its rows from the first piece on, so that none of
 * the transactions is long, but belongs to nobody until it is whole: no verb with a tenant finds
 * it, and what is given up, or was left by a process that died, is swept. */
#ifndef RXT_STORE_ARRIVAL_IMPL_H
#define RXT_STORE_ARRIVAL_IMPL_H

#include "store/store.h"

/* As store_session_create, but hidden: x->id takes rows, its names are not there yet. EINVAL,
 * ELIMIT. */
enum rxt_status arrival_begin(struct store *s, struct store_session *x, struct rxt_error *err);
/* It is there now, under its names, with `applied` as it is in x. EEXIST: the name is taken.
 * ENOTFOUND: it was given up. */
enum rxt_status arrival_finish(struct store *s, const struct store_session *x,
                               struct rxt_error *err);
/* store_sweep removes it. */
enum rxt_status arrival_give_up(struct store *s, int64_t session, struct rxt_error *err);

#endif
