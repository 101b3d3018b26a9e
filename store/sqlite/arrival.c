#include "store/arrival_impl.h"
#include "store/sqlite/sqlite_impl.h"

#include <inttypes.h>
#include <stdio.h>

#define SWEEP_ROWS 16

static enum rxt_status begin(struct store *s, struct store_session *x, struct rxt_error *err)
{
    struct store_session hidden = *x;
    hidden.tenant[0] = '\0';
    /* As unique as an upload: what is left of another process was swept when the lease was taken.
     */
    (void)snprintf(hidden.name, sizeof hidden.name, "%" PRId64, upload_next(s).id);
    TRY(session_insert(s, &hidden, 0, err));
    x->id = hidden.id;
    x->created_us = hidden.created_us;
    return orphan_put(s, -x->id, s->fence, err);
}

enum rxt_status arrival_begin(struct store *s, struct store_session *x, struct rxt_error *err)
{
    TRY(session_prepare(x, err));
    TRY(tx_begin(s, err));
    return tx_end(s, begin(s, x, err), err);
}

static enum rxt_status finish(struct store *s, const struct store_session *x, struct rxt_error *err)
{
    TRY(orphan_check(s, -x->id, err));
    TRY(orphan_delete(s, -x->id, err));
    struct query q = query_open(s, SQL_SESSION_ARRIVE);
    bind_int(&q, x->id);
    bind_text(&q, x->tenant);
    bind_text(&q, x->name);
    bind_u64(&q, session_seal(x));
    bind_u64(&q, x->applied);
    enum rxt_status st = query_done(&q, "bring a session in", err);
    if (st == RXT_EEXIST)
        return rxt_fail(err, st, "session %s is there already", x->name);
    return st;
}

enum rxt_status arrival_finish(struct store *s, const struct store_session *x,
                               struct rxt_error *err)
{
    TRY(tx_begin(s, err));
    return tx_end(s, finish(s, x, err), err);
}

static enum rxt_status give_up(struct store *s, int64_t session, struct rxt_error *err)
{
    TRY(orphan_check(s, -session, err));
    return orphan_put(s, -session, NOBODY, err);
}

enum rxt_status arrival_give_up(struct store *s, int64_t session, struct rxt_error *err)
{
    TRY(tx_begin(s, err));
    return tx_end(s, give_up(s, session, err), err);
}

static enum rxt_status delete_session(struct store *s, int64_t session, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_SESSION_DELETE);
    bind_int(&q, session);
    return query_done(&q, "sweep a session", err);
}

enum rxt_status arrival_sweep(struct store *s, int64_t session, bool *gone, struct rxt_error *err)
{
    int64_t last;
    enum rxt_status st = turn_last_key(s, session, true, &last, err);
    *gone = st == RXT_ENOTFOUND;
    if (*gone)
        return delete_session(s, session, err);
    if (st != RXT_OK)
        return st;
    int64_t all = key_of(session, 0), some = last - SWEEP_ROWS;
    struct query q = query_open(s, SQL_TURN_DELETE);
    bind_int(&q, some > all ? some : all);
    bind_int(&q, last + 1);
    return query_done(&q, "sweep the rows of a session", err);
}
