/* The journal: how rows are read. */
#include "store/sqlite/seal_impl.h"
#include "store/sqlite/sqlite_impl.h"

#include "kernels/base/mem.h"

#include <inttypes.h>

uint64_t turn_seal(const struct store_turn *t)
{
    XXH3_state_t h;
    (void)XXH3_64bits_reset(&h);
    seal_bytes(&h, t->request, sizeof t->request);
    seal_u64(&h, t->candidate);
    seal_u64(&h, (uint64_t)t->kind);
    seal_u64(&h, t->read_version);
    seal_u64(&h, t->parent);
    seal_u64(&h, t->n_query);
    seal_bytes(&h, &t->temperature, sizeof t->temperature);
    seal_bytes(&h, &t->top_p, sizeof t->top_p);
    seal_u64(&h, t->top_k);
    seal_u64(&h, t->seed);
    seal_text(&h, t->finish);
    seal_text(&h, t->bit_class);
    seal_u64(&h, (uint64_t)t->wall_us);
    seal_u64(&h, t->n_ids);
    seal_bytes(&h, t->ids ? (const void *)t->ids : "", t->n_ids * sizeof *t->ids);
    seal_text(&h, t->query_text);
    seal_text(&h, t->answer_text);
    return XXH3_64bits_digest(&h);
}

static enum rxt_status row_reserve(struct store *s, size_t bytes, struct rxt_error *err)
{
    if (bytes <= s->row_bytes)
        return RXT_OK;
    size_t size = 4096;
    while (size < bytes)
        size *= 2;
    char *row = mem_realloc(s->row, size);
    if (!row)
        return rxt_fail(err, RXT_ENOMEM, "out of memory for a journal row of %zu bytes", bytes);
    s->row = row;
    s->row_bytes = size;
    return RXT_OK;
}

/* Copies a text column behind *at with a zero; NULL stays NULL. */
static const char *text_copy(const struct query *q, int i, char **at)
{
    const void *p = sqlite3_column_blob(q->stmt, i);
    size_t n = (size_t)sqlite3_column_bytes(q->stmt, i);
    if (sqlite3_column_type(q->stmt, i) == SQLITE_NULL)
        return NULL;
    char *out = *at;
    if (n)
        memcpy(out, p, n);
    out[n] = '\0';
    *at += n + 1;
    return out;
}

/* Ids and texts, copied: what SQLite lends is not aligned and gone at the next step. */
static enum rxt_status row_copy(struct query *q, struct store_turn *t, struct rxt_error *err)
{
    struct store *s = q->s;
    const void *ids = sqlite3_column_blob(q->stmt, 18);
    size_t ids_bytes = (size_t)sqlite3_column_bytes(q->stmt, 18);
    size_t text_bytes =
        (size_t)sqlite3_column_bytes(q->stmt, 19) + (size_t)sqlite3_column_bytes(q->stmt, 20) + 2;
    if ((ids_bytes && !ids) || ids_bytes % sizeof *t->ids ||
        ids_bytes / sizeof *t->ids > STORE_IDS_MAX || text_bytes > 2 * (size_t)STORE_TEXT_MAX)
        return rxt_fail(err, RXT_ECORRUPT, "journal row has a damaged length (store %s)", s->path);
    TRY(row_reserve(s, ids_bytes + text_bytes, err));
    if (ids_bytes)
        memcpy(s->row, ids, ids_bytes);
    char *at = s->row + ids_bytes;
    t->ids = (const int32_t *)(const void *)s->row;
    t->n_ids = (uint32_t)(ids_bytes / sizeof *t->ids);
    t->query_text = text_copy(q, 19, &at);
    t->answer_text = text_copy(q, 20, &at);
    return RXT_OK;
}

/* Session, state and version, which the seal leaves out, are what the key says; a rewind goes back,
 * so that following it comes to an end. */
static bool in_place(const struct query *q, const struct store_turn *t)
{
    uint64_t key = column_u64(q, 0);
    if (key >> 32 != (uint64_t)t->session)
        return false;
    if (t->state == STORE_LIVE)
        return (uint32_t)key == t->version && (t->kind != STORE_REWIND || t->parent < t->version);
    return ((uint32_t)key & KEY_ASIDE) && (t->state == STORE_UNDECIDED || t->state == STORE_VOID);
}

/* Columns of SQL_TURN. */
static enum rxt_status row_read(struct query *q, struct store_turn *t, struct rxt_error *err)
{
    *t = (struct store_turn){.session = column_int(q, 1)};
    t->state = (enum store_turn_state)column_count(q, 2, STORE_VOID);
    t->version = column_count(q, 3, STORE_VERSION_MAX);
    column_bytes(q, 4, t->request, sizeof t->request);
    t->candidate = (uint32_t)column_count(q, 5, UINT32_MAX);
    t->kind = (enum store_kind)column_count(q, 6, STORE_RESET);
    t->read_version = column_count(q, 7, STORE_VERSION_MAX);
    t->parent = column_count(q, 8, STORE_VERSION_MAX);
    t->n_query = (uint32_t)column_count(q, 9, STORE_IDS_MAX);
    t->temperature = (float)sqlite3_column_double(q->stmt, 10);
    t->top_p = (float)sqlite3_column_double(q->stmt, 11);
    t->top_k = (uint32_t)column_count(q, 12, UINT32_MAX);
    t->seed = column_u64(q, 13);
    column_text(q, 14, t->finish, sizeof t->finish);
    column_text(q, 15, t->bit_class, sizeof t->bit_class);
    t->wall_us = column_int(q, 16);
    TRY(row_copy(q, t, err));
    TRY(query_check(q, "read a journal row", err));
    if (column_u64(q, 17) != turn_seal(t) || t->n_query > t->n_ids || !in_place(q, t))
        return rxt_fail(err, RXT_ECORRUPT,
                        "journal row of version %" PRIu64 " of session %" PRId64
                        " is damaged (store %s)",
                        t->version, t->session, q->s->path);
    return RXT_OK;
}

static enum rxt_status row_one(struct query *q, struct store_turn *out, struct rxt_error *err)
{
    enum rxt_status st = query_row(q, "read a journal row", err);
    if (st == RXT_OK)
        st = row_read(q, out, err);
    query_close(q);
    return st;
}

enum rxt_status store_turn_get(struct store *s, int64_t session, uint64_t version,
                               struct store_turn *out, struct rxt_error *err)
{
    if (version == 0 || version > STORE_VERSION_MAX)
        return rxt_fail(err, RXT_ENOTFOUND, "no turn makes version %" PRIu64, version);
    struct query q = query_open(s, SQL_TURN_GET);
    bind_int(&q, key_of(session, version));
    enum rxt_status st = row_one(&q, out, err);
    if (st == RXT_ENOTFOUND)
        return rxt_fail(err, st, "session has no journal row of version %" PRIu64, version);
    return st;
}

enum rxt_status store_turn_next(struct store *s, int64_t session, uint64_t after,
                                struct store_turn *out, struct rxt_error *err)
{
    if (after > STORE_VERSION_MAX)
        return rxt_fail(err, RXT_EINVAL, "version %" PRIu64 " is above %u", after,
                        STORE_VERSION_MAX);
    struct query q = query_open(s, SQL_TURN_NEXT);
    bind_int(&q, key_of(session, after));
    bind_int(&q, key_of(session, KEY_ASIDE));
    enum rxt_status st = row_one(&q, out, err);
    if (st == RXT_ENOTFOUND)
        return rxt_fail(err, st, "no journal row after version %" PRIu64, after);
    if (st == RXT_OK && out->version != after + 1)
        return rxt_fail(err, RXT_ECORRUPT,
                        "journal rows %" PRIu64 " to %" PRIu64 " of session %" PRId64
                        " are missing (store %s)",
                        after + 1, out->version - 1, session, s->path);
    return st;
}

enum rxt_status turn_last_key(struct store *s, int64_t session, bool live, int64_t *key,
                              struct rxt_error *err)
{
    struct query q = query_open(s, SQL_TURN_LAST_KEY);
    bind_int(&q, key_of(session, live ? 0 : KEY_ASIDE));
    bind_int(&q, key_of(session, live ? KEY_ASIDE : KEY_END));
    enum rxt_status st = query_row(&q, "read the journal", err);
    if (st == RXT_OK)
        *key = column_int(&q, 0);
    query_close(&q);
    return st;
}

/* Live rows are counted by version, the others by their place among themselves. */
static enum rxt_status in_window(struct store *s, int64_t session, int64_t key,
                                 struct rxt_error *err)
{
    int64_t last = 0;
    TRY(turn_last_key(s, session, (key & (int64_t)KEY_ASIDE) == 0, &last, err));
    if (last - key < STORE_WINDOW)
        return RXT_OK;
    return rxt_fail(err, RXT_EEXPIRED,
                    "request id is older than the last %d turns: its answer is not kept at hand",
                    STORE_WINDOW);
}

enum rxt_status store_turn_find(struct store *s, int64_t session,
                                const uint8_t request[STORE_REQUEST_BYTES], uint32_t candidate,
                                struct store_turn *out, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_TURN_FIND);
    bind_int(&q, session);
    bind_blob(&q, request, STORE_REQUEST_BYTES);
    bind_int(&q, candidate);
    enum rxt_status st = query_row(&q, "read a journal row", err);
    int64_t key = st == RXT_OK ? column_int(&q, 0) : 0;
    if (st == RXT_OK)
        st = row_read(&q, out, err);
    query_close(&q);
    if (st == RXT_ENOTFOUND)
        return rxt_fail(err, st, "no journal row has this request id");
    return st == RXT_OK ? in_window(s, session, key, err) : st;
}

/* Adds the window of one sort of rows to out. */
static enum rxt_status requests(struct store *s, int64_t session, bool live,
                                struct store_request *out, size_t *n, struct rxt_error *err)
{
    int64_t last = 0, none = key_of(session, live ? 0 : KEY_ASIDE);
    enum rxt_status st = turn_last_key(s, session, live, &last, err);
    if (st != RXT_OK)
        return st == RXT_ENOTFOUND ? RXT_OK : st;
    struct query q = query_open(s, SQL_TURN_REQUESTS);
    bind_int(&q, last - STORE_WINDOW > none ? last - STORE_WINDOW : none);
    bind_int(&q, last);
    while ((st = query_row(&q, "read the request ids", err)) == RXT_OK) {
        struct store_request *r = &out[*n];
        column_bytes(&q, 0, r->id, sizeof r->id);
        r->candidate = (uint32_t)column_count(&q, 1, UINT32_MAX);
        r->state = (enum store_turn_state)column_count(&q, 2, STORE_VOID);
        r->version = column_count(&q, 3, STORE_VERSION_MAX);
        st = query_check(&q, "read the request ids", err);
        if (st != RXT_OK)
            break;
        ++*n;
    }
    query_close(&q);
    return st == RXT_ENOTFOUND ? RXT_OK : st;
}

enum rxt_status store_turn_requests(struct store *s, int64_t session,
                                    struct store_request out[2 * STORE_WINDOW], size_t *n,
                                    struct rxt_error *err)
{
    *n = 0;
    TRY(requests(s, session, true, out, n, err));
    return requests(s, session, false, out, n, err);
}
