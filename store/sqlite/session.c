#include "store/sqlite/seal_impl.h"
#include "store/sqlite/sqlite_impl.h"

#include "kernels/base/clock.h"

#include <inttypes.h>

#define FLAGS_ALL ((uint32_t)STORE_HELD | (uint32_t)STORE_MIXED_CLASS)

/* Over what is fixed when a session is made: a bit of the seed that flips on the disk would be a
 * different memory for ever. */
uint64_t session_seal(const struct store_session *x)
{
    XXH3_state_t h;
    (void)XXH3_64bits_reset(&h);
    seal_text(&h, x->tenant);
    seal_text(&h, x->name);
    seal_bytes(&h, x->model_hash, sizeof x->model_hash);
    seal_text(&h, x->model_name);
    seal_u64(&h, x->dtype);
    seal_u64(&h, x->n_layer);
    seal_u64(&h, x->n_slot);
    seal_u64(&h, x->embed_dim);
    seal_u64(&h, x->init);
    seal_u64(&h, x->generator);
    seal_u64(&h, x->seed);
    seal_u64(&h, x->base);
    seal_u64(&h, x->origin_version);
    seal_u64(&h, (uint64_t)x->created_us);
    return XXH3_64bits_digest(&h);
}

/* A text of SQL, as seal_text; as its bytes, see column_text. */
static void seal_value(XXH3_state_t *h, sqlite3_value *v)
{
    const void *text = sqlite3_value_blob(v);
    size_t n = (size_t)sqlite3_value_bytes(v);
    seal_u64(h, n);
    seal_bytes(h, text ? text : "", n);
}

/* session_seal(flags, held_reason, applied, origin, origin_name): over what may move, as SQL, since
 * an origin goes from many rows at once. Schema 1 had the first three alone. */
static void seal_state(sqlite3_context *ctx, int n, sqlite3_value **v)
{
    const struct store *s = sqlite3_user_data(ctx);
    XXH3_state_t h;
    (void)XXH3_64bits_reset(&h);
    seal_u64(&h, (uint64_t)sqlite3_value_int64(v[0]));
    seal_value(&h, v[1]);
    seal_u64(&h, (uint64_t)sqlite3_value_int64(v[2]));
    if (n == 5 && s->schema != 1) {
        seal_u64(&h, (uint64_t)sqlite3_value_int64(v[3])); /* an id, from 1 on; NULL is 0 */
        seal_value(&h, v[4]);
    }
    sqlite3_result_int64(ctx, (int64_t)XXH3_64bits_digest(&h));
}

enum rxt_status session_seal_register(struct store *s, struct rxt_error *err)
{
    for (int n = 3; n <= 5; n += 2) {
        int rc = sqlite3_create_function(s->db, "session_seal", n,
                                         SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_DIRECTONLY, s,
                                         seal_state, NULL, NULL);
        if (rc != SQLITE_OK)
            return sql_fail(s, rc, "open the store", err);
    }
    return RXT_OK;
}

/* Columns of SQL_SESSION. */
static enum rxt_status session_read(struct query *q, struct store_session *x, struct rxt_error *err)
{
    *x = (struct store_session){.id = column_int(q, 0)};
    column_text(q, 1, x->tenant, sizeof x->tenant);
    column_text(q, 2, x->name, sizeof x->name);
    column_bytes(q, 3, x->model_hash, sizeof x->model_hash);
    column_text(q, 4, x->model_name, sizeof x->model_name);
    x->dtype = (uint32_t)column_count(q, 5, UINT32_MAX);
    x->n_layer = (uint32_t)column_count(q, 6, UINT32_MAX);
    x->n_slot = (uint32_t)column_count(q, 7, UINT32_MAX);
    x->embed_dim = (uint32_t)column_count(q, 8, UINT32_MAX);
    x->init = (uint32_t)column_count(q, 9, UINT32_MAX);
    x->generator = (uint32_t)column_count(q, 10, UINT32_MAX);
    x->seed = column_u64(q, 11);
    x->base = column_count(q, 12, STORE_VERSION_MAX);
    column_text(q, 13, x->origin, sizeof x->origin);
    x->origin_version = column_count(q, 14, STORE_VERSION_MAX);
    x->created_us = column_int(q, 15);
    uint64_t seal = column_u64(q, 16);
    x->flags = (uint32_t)column_count(q, 17, UINT32_MAX);
    column_text(q, 18, x->held_reason, sizeof x->held_reason);
    x->applied = column_count(q, 19, STORE_VERSION_MAX);
    bool state_sound = column_int(q, 20) == 1;
    x->head = column_count(q, 21, STORE_VERSION_MAX);
    x->used_us = column_int(q, 22);
    TRY(query_check(q, "read a session", err));
    if (seal != session_seal(x) || !state_sound || x->applied < x->base || x->head < x->applied)
        return rxt_fail(err, RXT_ECORRUPT, "row of session %s is damaged (store %s)", x->name,
                        q->s->path);
    return RXT_OK;
}

static enum rxt_status name_check(const char *name, const char *what, struct rxt_error *err)
{
    size_t n = name ? strnlen(name, STORE_NAME_MAX) : 0;
    if (n == 0)
        return rxt_fail(err, RXT_EINVAL, "%s is empty", what);
    if (n == STORE_NAME_MAX)
        return rxt_fail(err, RXT_ELIMIT, "%s is longer than %d bytes", what, STORE_NAME_MAX - 1);
    return RXT_OK;
}

enum rxt_status session_prepare(struct store_session *x, struct rxt_error *err)
{
    TRY(name_check(x->tenant, "tenant name", err));
    TRY(name_check(x->name, "session name", err));
    if (strnlen(x->model_name, sizeof x->model_name) == sizeof x->model_name ||
        strnlen(x->origin, sizeof x->origin) == sizeof x->origin)
        return rxt_fail(err, RXT_EINVAL, "name of model or origin has no end");
    if (x->base > STORE_VERSION_MAX || x->origin_version > STORE_VERSION_MAX)
        return rxt_fail(err, RXT_EINVAL, "version %" PRIu64 " of session %s is above %u",
                        x->base > x->origin_version ? x->base : x->origin_version, x->name,
                        STORE_VERSION_MAX);
    x->flags = 0;
    x->held_reason[0] = '\0';
    x->head = x->applied = x->base;
    return RXT_OK;
}

enum rxt_status session_insert(struct store *s, struct store_session *x, int64_t origin,
                               struct rxt_error *err)
{
    if (x->created_us == 0)
        x->created_us = clock_wall_us();
    struct query q = query_open(s, SQL_SESSION_CREATE);
    bind_text(&q, x->tenant);
    bind_text(&q, x->name);
    bind_blob(&q, x->model_hash, sizeof x->model_hash);
    bind_text(&q, x->model_name);
    bind_int(&q, x->dtype);
    bind_int(&q, x->n_layer);
    bind_int(&q, x->n_slot);
    bind_int(&q, x->embed_dim);
    bind_int(&q, x->init);
    bind_int(&q, x->generator);
    bind_u64(&q, x->seed);
    bind_u64(&q, x->base);
    if (origin)
        bind_int(&q, origin);
    else
        q.n_bound++; /* stays NULL */
    bind_text(&q, origin ? "" : x->origin);
    bind_u64(&q, x->origin_version);
    bind_int(&q, x->created_us);
    bind_u64(&q, session_seal(x));
    bind_int(&q, x->flags);
    bind_u64(&q, x->applied);
    enum rxt_status st = query_done(&q, "make a session", err);
    if (st == RXT_EEXIST)
        return rxt_fail(err, st, "session %s is there already", x->name);
    x->id = sqlite3_last_insert_rowid(s->db);
    return st;
}

enum rxt_status store_session_create(struct store *s, struct store_session *x,
                                     struct rxt_error *err)
{
    TRY(session_prepare(x, err));
    TRY(tx_begin(s, err));
    TRY(tx_end(s, session_insert(s, x, 0, err), err));
    x->used_us = x->created_us;
    return RXT_OK;
}

uint64_t store_session_newest(const struct store_session *x)
{
    return x->flags & STORE_HELD ? x->applied : x->head;
}

/* What seems damaged to a handle that only reads may have been sealed anew by a process that has
 * moved the store forward: then the rows are to be read again. */
static bool sealed_anew(struct query *q, enum rxt_status st)
{
    if (st != RXT_ECORRUPT || !schema_moved(q->s))
        return false;
    query_again(q);
    return true;
}

static enum rxt_status first_row(struct query *q, struct store_session *out, struct rxt_error *err)
{
    TRY(query_row(q, "read a session", err));
    return session_read(q, out, err);
}

static enum rxt_status session_one(struct query *q, struct store_session *out,
                                   struct rxt_error *err)
{
    enum rxt_status st = first_row(q, out, err);
    if (sealed_anew(q, st))
        st = first_row(q, out, err);
    query_close(q);
    return st;
}

enum rxt_status session_by_id(struct store *s, int64_t session, struct store_session *out,
                              struct rxt_error *err)
{
    struct query q = query_open(s, SQL_SESSION_BY_ID);
    bind_int(&q, session);
    enum rxt_status st = session_one(&q, out, err);
    if (st == RXT_ENOTFOUND)
        return rxt_fail(err, st, "there is no session %" PRId64, session);
    return st;
}

enum rxt_status store_session_get(struct store *s, const char *tenant, const char *name,
                                  struct store_session *out, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_SESSION_GET);
    bind_text(&q, tenant);
    bind_text(&q, name);
    enum rxt_status st = session_one(&q, out, err);
    if (st == RXT_ENOTFOUND)
        return rxt_fail(err, st, "there is no session %.*s", STORE_NAME_MAX, name);
    return st;
}

static enum rxt_status all_rows(struct query *q, struct store_session *out, size_t cap, size_t *n,
                                struct rxt_error *err)
{
    for (*n = 0; *n < cap; ++*n) {
        TRY(query_row(q, "list the sessions", err));
        TRY(session_read(q, &out[*n], err));
    }
    return RXT_OK;
}

enum rxt_status store_session_list(struct store *s, const char *tenant, const char *after,
                                   struct store_session *out, size_t cap, size_t *n,
                                   struct rxt_error *err)
{
    struct query q = query_open(s, SQL_SESSION_LIST);
    bind_text(&q, tenant);
    bind_text(&q, after);
    bind_int(&q, cap > INT64_MAX ? INT64_MAX : (int64_t)cap);
    enum rxt_status st = all_rows(&q, out, cap, n, err);
    if (sealed_anew(&q, st))
        st = all_rows(&q, out, cap, n, err);
    query_close(&q);
    return st == RXT_ENOTFOUND ? RXT_OK : st;
}

enum rxt_status store_session_next(struct store *s, int64_t after, struct store_session *out,
                                   struct rxt_error *err)
{
    struct query q = query_open(s, SQL_SESSION_NEXT);
    *out = (struct store_session){0};
    bind_int(&q, after);
    return session_one(&q, out, err);
}

enum rxt_status store_session_count(struct store *s, const char *tenant, uint64_t *n,
                                    struct rxt_error *err)
{
    struct query q = query_open(s, SQL_SESSION_COUNT);
    bind_text(&q, tenant);
    enum rxt_status st = query_row(&q, "count the sessions", err);
    if (st == RXT_OK) {
        *n = column_count(&q, 0, INT64_MAX);
        st = query_check(&q, "count the sessions", err);
    }
    query_close(&q);
    return st;
}

enum rxt_status session_write(struct store *s, const struct store_session *x, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_SESSION_STATE);
    bind_int(&q, x->id);
    bind_int(&q, x->flags);
    bind_text(&q, x->held_reason);
    bind_u64(&q, x->applied);
    return query_done(&q, "write the state of a session", err);
}

static enum rxt_status set_state(struct store *s, int64_t session, uint32_t flags,
                                 const char *reason, struct rxt_error *err)
{
    struct store_session x;
    TRY(session_by_id(s, session, &x, err));
    x.flags = flags;
    (void)memccpy(x.held_reason, reason, 0, sizeof x.held_reason);
    return session_write(s, &x, err);
}

enum rxt_status store_session_set_state(struct store *s, int64_t session, uint32_t flags,
                                        const char *reason, struct rxt_error *err)
{
    if (!reason)
        reason = "";
    if (flags & ~FLAGS_ALL)
        return rxt_fail(err, RXT_EINVAL, "unknown session flags %#x", flags & ~FLAGS_ALL);
    if (strnlen(reason, STORE_REASON_MAX) == STORE_REASON_MAX)
        return rxt_fail(err, RXT_ELIMIT, "reason is longer than %d bytes", STORE_REASON_MAX - 1);
    if (!(flags & STORE_HELD) && reason[0])
        return rxt_fail(err, RXT_EINVAL, "a reason, but the session is not held");
    TRY(tx_begin(s, err));
    return tx_end(s, set_state(s, session, flags, reason, err), err);
}
