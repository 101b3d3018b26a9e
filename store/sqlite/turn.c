/* The journal: how rows are written and how they move. */
#include "store/sqlite/seal_impl.h"
#include "store/sqlite/sqlite_impl.h"

#include "kernels/base/clock.h"

#include <inttypes.h>
#include <math.h>

static bool ends(const char *s, size_t size)
{
    return strnlen(s, size) < size;
}

static enum rxt_status row_check(const struct store_turn *t, struct rxt_error *err)
{
    bool decoded = t->kind == STORE_TURN || t->kind == STORE_REMEMBER;
    if (t->kind < STORE_TURN || t->kind > STORE_RESET)
        return rxt_fail(err, RXT_EINVAL, "unknown kind %d of a journal row", (int)t->kind);
    if (t->state != STORE_LIVE && t->state != STORE_UNDECIDED)
        return rxt_fail(err, RXT_EINVAL, "a journal row is put live or undecided, not in state %d",
                        (int)t->state);
    if (t->state == STORE_UNDECIDED && t->version != 0)
        return rxt_fail(err, RXT_EINVAL, "an undecided row has no version yet");
    if (t->kind != STORE_REWIND && t->parent != 0)
        return rxt_fail(err, RXT_EINVAL, "only a rewind has a parent");
    if (t->n_ids > STORE_IDS_MAX)
        return rxt_fail(err, RXT_ELIMIT, "%u token ids in a turn, the limit is %u", t->n_ids,
                        STORE_IDS_MAX);
    if (t->n_query > t->n_ids || (t->n_ids == 0) == decoded || (t->n_ids && !t->ids))
        return rxt_fail(err, RXT_EINVAL, "%u token ids, %u of the query, do not fit the row's kind",
                        t->n_ids, t->n_query);
    if (!isfinite(t->temperature) || !isfinite(t->top_p))
        return rxt_fail(err, RXT_EINVAL, "sampling parameters are not finite");
    if (!ends(t->finish, sizeof t->finish) || !ends(t->bit_class, sizeof t->bit_class))
        return rxt_fail(err, RXT_EINVAL, "finish reason or bit class has no end");
    if ((t->query_text && !ends(t->query_text, STORE_TEXT_MAX)) ||
        (t->answer_text && !ends(t->answer_text, STORE_TEXT_MAX)))
        return rxt_fail(err, RXT_ELIMIT, "text of a turn is longer than %u bytes",
                        STORE_TEXT_MAX - 1);
    return RXT_OK;
}

/* The next key among the undecided and void rows. */
static enum rxt_status aside_key(struct store *s, int64_t session, int64_t *key,
                                 struct rxt_error *err)
{
    enum rxt_status st = turn_last_key(s, session, false, key, err);
    if (st == RXT_OK && *key == key_of(session, KEY_END - 1))
        return rxt_fail(err, RXT_ELIMIT, "session %" PRId64 " has too many void rows", session);
    *key = st == RXT_OK ? *key + 1 : key_of(session, KEY_ASIDE + 1);
    return st == RXT_ENOTFOUND ? RXT_OK : st;
}

static enum rxt_status version_check(const struct store_session *x, uint64_t version,
                                     struct rxt_error *err)
{
    if (x->head == STORE_VERSION_MAX)
        return rxt_fail(err, RXT_ELIMIT, "session has all %u versions it can have",
                        STORE_VERSION_MAX);
    if (version != x->head + 1)
        return rxt_fail(err, RXT_ESTALE, "row commits version %" PRIu64 ", next is %" PRIu64,
                        version, x->head + 1);
    return RXT_OK;
}

static enum rxt_status row_insert(struct store *s, int64_t session, int64_t key,
                                  const struct store_turn *t, struct rxt_error *err)
{
    struct store_turn row = *t;
    if (row.wall_us == 0)
        row.wall_us = clock_wall_us();
    struct query q = query_open(s, SQL_TURN_PUT);
    bind_int(&q, key);
    bind_int(&q, session);
    bind_int(&q, (int)row.state);
    bind_u64(&q, row.version);
    bind_blob(&q, row.request, sizeof row.request);
    bind_int(&q, row.candidate);
    bind_int(&q, (int)row.kind);
    bind_u64(&q, row.read_version);
    bind_u64(&q, row.parent);
    bind_int(&q, row.n_query);
    bind_real(&q, (double)row.temperature);
    bind_real(&q, (double)row.top_p);
    bind_int(&q, row.top_k);
    bind_u64(&q, row.seed);
    bind_text(&q, row.finish);
    bind_text(&q, row.bit_class);
    bind_int(&q, row.wall_us);
    bind_u64(&q, turn_seal(&row));
    bind_blob(&q, row.ids, row.n_ids * sizeof *row.ids);
    bind_text(&q, row.query_text);
    bind_text(&q, row.answer_text);
    return query_done(&q, "write a journal row", err);
}

static enum rxt_status held(const struct store_session *x, struct rxt_error *err)
{
    if (x->flags & STORE_HELD)
        return rxt_fail(err, RXT_EHELD,
                        "session is held at version %" PRIu64 ": rewind or replay it first",
                        x->applied);
    return RXT_OK;
}

static enum rxt_status put(struct store *s, int64_t session, const struct store_turn *t,
                           struct rxt_error *err)
{
    struct store_session x;
    TRY(session_by_id(s, session, &x, err));
    if (t->kind == STORE_TURN || t->kind == STORE_REMEMBER)
        TRY(held(&x, err));
    if (t->kind == STORE_REWIND && (t->parent < x.base || t->parent > x.head))
        return rxt_fail(err, RXT_ENOTFOUND,
                        "cannot rewind to version %" PRIu64 ": the session has %" PRIu64
                        " to %" PRIu64,
                        t->parent, x.base, x.head);
    if (t->state == STORE_LIVE)
        TRY(version_check(&x, t->version, err));
    if (t->read_version > x.head)
        return rxt_fail(err, RXT_ESTALE, "row read version %" PRIu64 ", which is not there yet",
                        t->read_version);
    int64_t key = key_of(session, t->version);
    if (t->state == STORE_UNDECIDED)
        TRY(aside_key(s, session, &key, err));
    enum rxt_status st = row_insert(s, session, key, t, err);
    if (st != RXT_EEXIST)
        return st;
    /* The only unique thing that was not made here is the request. */
    struct store_turn old;
    st = store_turn_find(s, session, t->request, t->candidate, &old, err);
    return st == RXT_OK ? rxt_fail(err, RXT_EEXIST, "request id has a journal row already") : st;
}

enum rxt_status store_turn_put(struct store *s, int64_t session, const struct store_turn *t,
                               struct rxt_error *err)
{
    TRY(row_check(t, err));
    TRY(tx_begin(s, err));
    return tx_end(s, put(s, session, t, err), err);
}

static enum rxt_status applied(struct store *s, int64_t session, uint64_t version,
                               struct rxt_error *err)
{
    struct store_session x;
    TRY(session_by_id(s, session, &x, err));
    if (version != x.applied + 1 || version > x.head)
        return rxt_fail(err, RXT_ESTALE,
                        "version %" PRIu64 " cannot be applied: applied is %" PRIu64
                        ", journaled %" PRIu64,
                        version, x.applied, x.head);
    x.applied = version;
    return session_write(s, &x, err);
}

enum rxt_status store_turn_applied(struct store *s, int64_t session, uint64_t version,
                                   struct rxt_error *err)
{
    TRY(tx_begin(s, err));
    return tx_end(s, applied(s, session, version, err), err);
}

static enum rxt_status move(struct store *s, int64_t from, int64_t to, enum store_turn_state state,
                            uint64_t version, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_TURN_MOVE);
    bind_int(&q, from);
    bind_int(&q, to);
    bind_int(&q, (int)state);
    bind_u64(&q, version);
    return query_done(&q, "move a journal row", err);
}

static enum rxt_status give_up(struct store *s, int64_t session, uint32_t *n, struct rxt_error *err)
{
    struct store_session x;
    int64_t key;
    TRY(session_by_id(s, session, &x, err));
    *n = (uint32_t)(x.head - x.applied);
    for (uint64_t v = x.applied + 1; v <= x.head; v++) {
        TRY(aside_key(s, session, &key, err));
        TRY(move(s, key_of(session, v), key, STORE_VOID, v, err));
    }
    return RXT_OK;
}

enum rxt_status store_turn_void(struct store *s, int64_t session, uint32_t *n,
                                struct rxt_error *err)
{
    uint32_t ignored;
    TRY(tx_begin(s, err));
    return tx_end(s, give_up(s, session, n ? n : &ignored, err), err);
}

static enum rxt_status expire(struct store *s, int64_t session, const uint8_t *request,
                              struct rxt_error *err)
{
    struct query q = query_open(s, SQL_TURN_EXPIRE);
    bind_int(&q, session);
    bind_blob(&q, request, STORE_REQUEST_BYTES);
    return query_done(&q, "void the candidates of a turn", err);
}

static enum rxt_status choose(struct store *s, int64_t session, const uint8_t *request,
                              uint32_t candidate, uint64_t version, struct rxt_error *err)
{
    struct store_session x;
    TRY(session_by_id(s, session, &x, err));
    TRY(held(&x, err));
    TRY(version_check(&x, version, err));
    struct query q = query_open(s, SQL_TURN_FIND);
    bind_int(&q, session);
    bind_blob(&q, request, STORE_REQUEST_BYTES);
    bind_int(&q, candidate);
    enum rxt_status st = query_row(&q, "look for a candidate", err);
    int64_t key = st == RXT_OK ? column_int(&q, 0) : 0;
    bool undecided = st == RXT_OK && column_int(&q, 2) == STORE_UNDECIDED;
    query_close(&q);
    if (st != RXT_OK)
        return st == RXT_ENOTFOUND ? rxt_fail(err, st, "there is no such candidate") : st;
    if (!undecided)
        return rxt_fail(err, RXT_ESTALE, "the candidates of this turn were decided already");
    TRY(move(s, key, key_of(session, version), STORE_LIVE, version, err));
    return expire(s, session, request, err); /* the siblings */
}

enum rxt_status store_turn_choose(struct store *s, int64_t session,
                                  const uint8_t request[STORE_REQUEST_BYTES], uint32_t candidate,
                                  uint64_t version, struct rxt_error *err)
{
    TRY(tx_begin(s, err));
    return tx_end(s, choose(s, session, request, candidate, version, err), err);
}

enum rxt_status store_turn_expire(struct store *s, int64_t session,
                                  const uint8_t request[STORE_REQUEST_BYTES], struct rxt_error *err)
{
    TRY(tx_begin(s, err));
    return tx_end(s, expire(s, session, request, err), err);
}
