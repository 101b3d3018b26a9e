/* What the files of the SQLite store share: the handle, statements with their bindings and columns,
 * transactions, and the one place where SQLite's codes become ours. */
#ifndef RXT_STORE_SQLITE_IMPL_H
#define RXT_STORE_SQLITE_IMPL_H

#include "store/sqlite/statements_impl.h"
#include "store/store.h"

#include <sqlite3.h>

enum store_mode { STORE_IDLE, STORE_BATCH, STORE_VIEW };

struct store {
    sqlite3 *db;
    sqlite3_stmt *stmt[SQL_COUNT];
    char *path;
    bool read_only;
    int64_t schema; /* of the file; older than ours only where it is only read */
    uint32_t keep_images;
    uint32_t busy_ms;

    enum store_mode mode;
    enum rxt_status batch_status; /* RXT_OK, or the failure that undid the batch */
    bool disk_failed;             /* a statement of the verb under way failed by more than itself */

    int lock_fd;         /* -1, or the open lock file */
    uint64_t fence;      /* 0 = no lease */
    int64_t next_upload; /* known once the lease is taken */
    bool sweep_due;      /* an upload or an import may be there that was given up */

    uint32_t log_pages; /* in the log since it began anew */
    uint32_t log_moved; /* ... when it was moved into the file last */

    char *row; /* ids and texts of the row read last */
    size_t row_bytes;
    struct store_stats stats;
};

/* ---- error.c ---------------------------------------------------------------------------- */

/* "cannot <what>: <SQLite's words> (store <path>)" with the status that fits rc. Notes in the
 * handle whether more than a statement failed. */
enum rxt_status sql_fail(struct store *s, int rc, const char *what, struct rxt_error *err);
enum rxt_status sql_status(int rc);

/* ---- query.c ---------------------------------------------------------------------------- */

/* One run of a prepared statement: open, bind in order, row or done, close. The first failure to
 * bind or to read a column sticks and is reported by the next row, done or check. */
struct query {
    struct store *s;
    sqlite3_stmt *stmt;
    int n_bound;
    int rc;
};
struct query query_open(struct store *s, enum sql id);
void query_close(struct query *q);
void query_again(struct query *q); /* from its first row on, with what is bound */

void bind_int(struct query *q, int64_t v);
void bind_u64(struct query *q, uint64_t v); /* all 64 bits, as a signed number */
void bind_real(struct query *q, double v);
void bind_text(struct query *q, const char *v);           /* NULL becomes NULL */
void bind_blob(struct query *q, const void *v, size_t n); /* lent until close */

/* RXT_OK with a row, RXT_ENOTFOUND without (err untouched). */
enum rxt_status query_row(struct query *q, const char *what, struct rxt_error *err);
/* Runs to the end and closes. */
enum rxt_status query_done(struct query *q, const char *what, struct rxt_error *err);
/* Status of the columns read since query_row: ECORRUPT if one had no place in our memory. */
enum rxt_status query_check(const struct query *q, const char *what, struct rxt_error *err);

int64_t column_int(const struct query *q, int i);
uint64_t column_u64(const struct query *q, int i);
/* A count or version: negative ones, or such above max, are damage. */
uint64_t column_count(struct query *q, int i, uint64_t max);
void column_text(struct query *q, int i, char *out, size_t size); /* with its zero */
void column_bytes(struct query *q, int i, void *out, size_t n);   /* exactly n */

/* A statement without arguments and rows. */
enum rxt_status query_exec(struct store *s, enum sql id, const char *what, struct rxt_error *err);

/* ---- batch.c ---------------------------------------------------------------------------- */

/* Around the work of every writing verb: a transaction of its own, or a savepoint in the batch.
 * tx_end commits if st is RXT_OK, else undoes; gives the status of the whole. */
enum rxt_status tx_begin(struct store *s, struct rxt_error *err);
enum rxt_status tx_end(struct store *s, enum rxt_status st, struct rxt_error *err);
/* RXT_EINVAL unless the handle may write and is outside of batch and view. */
enum rxt_status must_be_idle(struct store *s, const char *verb, struct rxt_error *err);

/* ---- lease.c ---------------------------------------------------------------------------- */

/* The lock file beside the store; waits at most wait_ms. EFENCED names the holder if db is open. */
enum rxt_status lock_take(struct store *s, uint32_t wait_ms, struct rxt_error *err);
void lock_drop(struct store *s);
/* In a transaction: EFENCED unless the row still has our fence. */
enum rxt_status lease_check(struct store *s, struct rxt_error *err);

/* ---- schema.c --------------------------------------------------------------------------- */

/* Migration i brings schema i to i + 1; 0 makes the store. */
struct schema_list {
    const char *const *sql;
    int n;
    int readable; /* the oldest schema that a handle which only reads takes as it is */
};
extern const struct schema_list schema_current;
/* Refuses what is not ours or newer, makes or brings forward what is old or empty. Before the
 * statements are prepared. */
enum rxt_status schema_open(struct store *s, const struct schema_list *list, struct rxt_error *err);
/* Whether another process has moved the store forward since this handle, which only reads, was
 * opened, to a schema that we know: then it is the handle's, too. */
bool schema_moved(struct store *s);

/* ---- session.c -------------------------------------------------------------------------- */

/* Gives the connection the function session_seal of SQL. */
enum rxt_status session_seal_register(struct store *s, struct rxt_error *err);
/* ENOTFOUND with a sentence. */
enum rxt_status session_by_id(struct store *s, int64_t session, struct store_session *out,
                              struct rxt_error *err);
/* In a transaction. Writes what moves of a session: flags, held_reason, applied. */
enum rxt_status session_write(struct store *s, const struct store_session *x,
                              struct rxt_error *err);
/* What moves of a session that is to be made is as at its beginning. EINVAL, ELIMIT: what is fixed
 * can not be taken. */
enum rxt_status session_prepare(struct store_session *x, struct rxt_error *err);
/* Over what is fixed. */
uint64_t session_seal(const struct store_session *x);
/* Inserts the row; origin 0 = none. Fills in x->id. In a transaction. */
enum rxt_status session_insert(struct store *s, struct store_session *x, int64_t origin,
                               struct rxt_error *err);

/* open.c: store_checkpoint, which waits that long for readers. */
enum rxt_status checkpoint_within(struct store *s, uint32_t wait_ms, struct rxt_error *err);

/* ---- erase.c, scrub.c ------------------------------------------------------------------- */

/* Does the rest of an erase that was begun, by this process or an earlier one; nothing otherwise.
 * EBUSY: readers are in the way. */
enum rxt_status erase_finish(struct store *s, struct rxt_error *err);
/* Overwrites what deleted rows have left in the trees. The log must be empty. */
enum rxt_status scrub(struct store *s, struct rxt_error *err);

/* ---- turn.c ----------------------------------------------------------------------------- */

static inline int64_t key_of(int64_t session, uint64_t version)
{
    return (int64_t)(((uint64_t)session << 32) + version);
}
#define KEY_ASIDE 0x80000000u /* from here on undecided and void rows */
#define KEY_END 0x100000000u

/* Key of the last row of a session that is live, or that is not; ENOTFOUND. */
enum rxt_status turn_last_key(struct store *s, int64_t session, bool live, int64_t *key,
                              struct rxt_error *err);
/* Over all of a row but what may move: session, state and version. */
uint64_t turn_seal(const struct store_turn *t);

/* ---- image.c, chunk.c ------------------------------------------------------------------- */

/* Key and upload of the newest image at or below a version, its header not looked at. ENOTFOUND. */
enum rxt_status image_last(struct store *s, int64_t session, uint64_t version, int64_t *key,
                           int64_t *upload, struct rxt_error *err);
/* In a transaction. Removes an image; its chunks too if nobody shares them: a single one at once,
 * more of them by and by (store_sweep). */
enum rxt_status image_delete(struct store *s, int64_t key, int64_t upload, struct rxt_error *err);
/* In a transaction. Gives `to` the images of `from` with versions first..last, sharing the bytes.
 */
enum rxt_status image_share(struct store *s, const struct store_session *from,
                            const struct store_session *to, uint64_t first, uint64_t last,
                            struct rxt_error *err);
/* In a transaction. The next chunk of an upload. */
enum rxt_status chunk_put(struct store *s, struct store_upload *u, const void *bytes, size_t n,
                          struct rxt_error *err);
/* In a transaction. What is not whole belongs to a fence: ours, or NOBODY, and is swept. An upload
 * goes by its number, a session that arrives by its negative id. orphan_check: it is still ours to
 * fill, not whole, given up or swept; ENOTFOUND. */
#define NOBODY 0u
enum rxt_status orphan_put(struct store *s, int64_t orphan, uint64_t fence, struct rxt_error *err);
enum rxt_status orphan_check(struct store *s, int64_t orphan, struct rxt_error *err);
enum rxt_status orphan_delete(struct store *s, int64_t orphan, struct rxt_error *err);
/* In a transaction. Nobody names the upload any more. */
enum rxt_status chunks_give_up(struct store *s, int64_t upload, struct rxt_error *err);
enum rxt_status chunks_stream(struct store *s, const struct store_upload *want, store_write write,
                              void *arg, struct rxt_error *err);
struct store_upload upload_next(struct store *s);
/* In a transaction. The upload is complete: from here on an image names it. ENOTFOUND. */
enum rxt_status upload_adopt(struct store *s, const struct store_upload *u, struct rxt_error *err);
/* Sweeps until nothing is left. Outside of a transaction. */
enum rxt_status sweep_all(struct store *s, struct rxt_error *err);
enum rxt_status upload_numbers_load(struct store *s, struct rxt_error *err);

/* ---- arrival.c -------------------------------------------------------------------------- */

/* In a transaction. Removes some rows of a session that did not arrive. *gone: they are all away,
 * and the session with them. */
enum rxt_status arrival_sweep(struct store *s, int64_t session, bool *gone, struct rxt_error *err);

#endif
