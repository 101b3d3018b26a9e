/* A new session that begins where another was. */
#include "store/sqlite/sqlite_impl.h"

#include <inttypes.h>
#include <string.h>

static enum rxt_status image_at_or_below(struct store *s, int64_t session, uint64_t version,
                                         uint64_t *root, struct rxt_error *err)
{
    int64_t key, upload;
    enum rxt_status st = image_last(s, session, version, &key, &upload, err);
    *root = (uint64_t)key & STORE_VERSION_MAX;
    return st == RXT_ENOTFOUND ? RXT_OK : st;
}

/* *parent = oldest version that a rewind after `after`, up to `last`, goes back to. ENOTFOUND. */
static enum rxt_status oldest_parent(struct store *s, int64_t session, uint64_t after,
                                     uint64_t last, uint64_t *parent, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_TURN_PARENT);
    bind_int(&q, key_of(session, after));
    bind_int(&q, key_of(session, last));
    enum rxt_status st = query_row(&q, "look for a rewind", err);
    if (st == RXT_OK && sqlite3_column_type(q.stmt, 0) == SQLITE_NULL)
        st = RXT_ENOTFOUND;
    if (st == RXT_OK) {
        *parent = column_count(&q, 0, STORE_VERSION_MAX);
        st = query_check(&q, "look for a rewind", err);
    }
    query_close(&q);
    return st;
}

enum rxt_status store_history_root(struct store *s, int64_t session, uint64_t version,
                                   uint64_t *root, struct rxt_error *err)
{
    uint64_t from = version;
    for (;;) {
        TRY(image_at_or_below(s, session, from, root, err));
        enum rxt_status st = oldest_parent(s, session, *root, version, &from, err);
        if (st == RXT_ENOTFOUND || (st == RXT_OK && from >= *root))
            return RXT_OK;
        if (st != RXT_OK)
            return st;
    }
}

static enum rxt_status copy_turns(struct store *s, int64_t to, int64_t from, uint64_t after,
                                  uint64_t last, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_TURN_COPY);
    bind_int(&q, to);
    bind_int(&q, key_of(from, after));
    bind_int(&q, key_of(from, last));
    return query_done(&q, "copy the journal to the fork", err);
}

static enum rxt_status fork_make(struct store *s, int64_t session, uint64_t version,
                                 const char *name, struct store_session *out, struct rxt_error *err)
{
    struct store_session from;
    uint64_t root;
    TRY(session_by_id(s, session, &from, err));
    uint64_t newest = store_session_newest(&from);
    if (version < from.base || version > newest)
        return rxt_fail(err, RXT_ESTALE,
                        "cannot fork %s at version %" PRIu64 ": it has versions %" PRIu64
                        " to %" PRIu64,
                        from.name, version, from.base, newest);
    TRY(store_history_root(s, session, version, &root, err));

    *out = from;
    memcpy(out->name, name, strlen(name) + 1);
    memcpy(out->origin, from.name, sizeof out->origin);
    out->base = root;
    out->origin_version = out->head = version;
    out->applied = version < from.applied ? version : from.applied;
    out->created_us = 0;
    out->flags = from.flags & STORE_MIXED_CLASS; /* what was held is not in what is copied */
    out->held_reason[0] = '\0';
    TRY(session_insert(s, out, session, err));
    TRY(copy_turns(s, out->id, session, root, version, err));
    TRY(image_share(s, &from, out, root, version, err));
    return session_by_id(s, out->id, out, err);
}

enum rxt_status store_session_fork(struct store *s, int64_t session, uint64_t version,
                                   const char *name, struct store_session *out,
                                   struct rxt_error *err)
{
    struct store_session fork;
    size_t n = name ? strnlen(name, STORE_NAME_MAX) : 0;
    if (n == 0 || n == STORE_NAME_MAX)
        return rxt_fail(err, RXT_EINVAL, "name of the fork is empty or longer than %d bytes",
                        STORE_NAME_MAX - 1);
    TRY(tx_begin(s, err));
    TRY(tx_end(s, fork_make(s, session, version, name, &fork, err), err));
    if (out)
        *out = fork;
    return RXT_OK;
}
