/* The end of a session: rows first, then every byte that is left of them. */
#include "store/sqlite/sqlite_impl.h"

static enum rxt_status delete_images(struct store *s, int64_t session, struct rxt_error *err)
{
    for (;;) {
        int64_t key, upload;
        enum rxt_status st = image_last(s, session, STORE_VERSION_MAX, &key, &upload, err);
        if (st != RXT_OK)
            return st == RXT_ENOTFOUND ? RXT_OK : st;
        TRY(image_delete(s, key, upload, err));
    }
}

static enum rxt_status delete_rows(struct store *s, int64_t session, struct rxt_error *err)
{
    TRY(delete_images(s, session, err));
    struct query turns = query_open(s, SQL_TURN_DELETE);
    bind_int(&turns, key_of(session, 0));
    bind_int(&turns, key_of(session, KEY_END));
    TRY(query_done(&turns, "erase the journal", err));
    struct query forks = query_open(s, SQL_SESSION_ORPHAN);
    bind_int(&forks, session);
    TRY(query_done(&forks, "erase an origin", err));
    struct query row = query_open(s, SQL_SESSION_DELETE);
    bind_int(&row, session);
    return query_done(&row, "erase a session", err);
}

static enum rxt_status set_erasing(struct store *s, bool on, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_META_SET_ERASING);
    bind_int(&q, on);
    return query_done(&q, "note an erase", err);
}

static enum rxt_status get_erasing(struct store *s, bool *on, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_META_ERASING);
    enum rxt_status st = query_row(&q, "look for an erase", err);
    *on = st == RXT_OK && column_int(&q, 0) != 0;
    query_close(&q);
    return st == RXT_ENOTFOUND ? RXT_OK : st;
}

/* From the commit of this on the session is gone, and the note says that its bytes are not. */
static enum rxt_status begin_erase(struct store *s, int64_t session, struct rxt_error *err)
{
    TRY(delete_rows(s, session, err));
    return set_erasing(s, true, err);
}

enum rxt_status erase_finish(struct store *s, struct rxt_error *err)
{
    bool begun = false;
    TRY(get_erasing(s, &begun, err));
    if (!begun)
        return RXT_OK;
    TRY(sweep_all(s, err));
    TRY(checkpoint_within(s, STORE_ERASE_WAIT_MS, err));
    TRY(scrub(s, err));
    TRY(tx_begin(s, err));
    return tx_end(s, set_erasing(s, false, err), err);
}

enum rxt_status store_session_erase_begin(struct store *s, const char *tenant, const char *name,
                                          struct rxt_error *err)
{
    TRY(must_be_idle(s, "an erase", err));
    /* By its id alone: a session whose row is damaged can be erased, too. */
    struct query q = query_open(s, SQL_SESSION_ID);
    bind_text(&q, tenant);
    bind_text(&q, name);
    enum rxt_status st = query_row(&q, "read a session", err);
    int64_t id = st == RXT_OK ? column_int(&q, 0) : 0;
    query_close(&q);
    if (st == RXT_ENOTFOUND)
        return rxt_fail(err, st, "there is no session %.*s", STORE_NAME_MAX, name);
    TRY(st);
    TRY(tx_begin(s, err));
    return tx_end(s, begin_erase(s, id, err), err);
}

enum rxt_status store_session_erase(struct store *s, const char *tenant, const char *name,
                                    struct rxt_error *err)
{
    enum rxt_status st = store_session_erase_begin(s, tenant, name, err);
    if (st != RXT_OK && st != RXT_ENOTFOUND)
        return st;
    /* Also where there is no such session: it may have been erased by a call that got this far. */
    TRY(erase_finish(s, err));
    return st;
}
