/* The store: sessions, their journal and their images, in one file. It keeps rows and bytes and
 * knows no tensor and no token; what it promises is that a row it has taken is there after a crash,
 * that nothing is there twice, and that a failed write changes nothing.
 *
 * The journal is the truth, images are checkpoints (design 6). A session's journal is its turns in
 * order: the row of version v+1 is what turned memory v into memory v+1. So a version names a row,
 * `head` is the last one journaled, `applied` the last one that is in the memory, and
 *
 *     base <= applied <= head        memory v = image r (or the initial memory) + rows r+1 .. v
 *
 * where base is the oldest version the session can rebuild: 0, save for forks and imports.
 *
 * Writing needs the lease (store_lease_take): one writer a file, fenced. Reading does not; any
 * number of read-only handles may look on while another process writes.
 *
 * Threads: a handle has one owner at a time. All calls block on the disk; none belongs on the path
 * to a token. Statements are prepared at open and a verb allocates nothing of its own save the
 * buffer of the longest row seen. Every verb that fails leaves the file as it was and the handle
 * usable.
 *
 * Statuses that any verb may return, not repeated below: EFULL (disk), EIO, ECORRUPT, EBUSY
 * (another program locks the file for longer than busy_ms), ENOMEM, EINVAL (arguments out of the
 * stated range); writing verbs also EFENCED (no lease, or lost). err may be NULL. */
#ifndef RXT_STORE_H
#define RXT_STORE_H

#include "kernels/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store; /* opaque: one open file */

#define STORE_NAME_MAX 128            /* bytes of a tenant or session name, zero included */
#define STORE_LABEL_MAX 32            /* bytes of a bit class or finish reason, zero included */
#define STORE_REASON_MAX 128          /* bytes of why a session is held, zero included */
#define STORE_HASH_BYTES 16           /* XXH3-128 */
#define STORE_REQUEST_BYTES 16        /* a request id: random, chosen by the client */
#define STORE_WINDOW 256              /* request ids a session still answers a repeat of */
#define STORE_CHUNK_BYTES (1u << 20)  /* an image above this is written in steps */
#define STORE_VERSION_MAX 0x7fffffffu /* commits a session can have */
#define STORE_IDS_MAX (1u << 20)      /* token ids of one row */
#define STORE_TEXT_MAX (1u << 24)     /* bytes of one transcript text */

/* ---- open, close ------------------------------------------------------------------------ */

enum store_sync {
    STORE_SYNC_FULL,   /* a verb that returned is on the disk: survives power loss */
    STORE_SYNC_NORMAL, /* survives kill -9; power loss may take the last rows */
};

struct store_options { /* zeroed = defaults */
    enum store_sync sync;
    uint32_t busy_ms;     /* how long to wait for a lock of another program; 0 = 5000 */
    uint32_t keep_images; /* newest images of a session that are kept; 0 = 2 */
    bool read_only;       /* for looking on: the file must exist, no lease, no writes */
};

/* Gives *out: opens the file, makes it if there is none (its folder must exist), brings an older
 * schema forward, or reads it as it is if read_only. opt may be NULL. EFORMAT: not a store of ours;
 * ENEWER: of a newer release; ENOTFOUND: read_only and no such file; EFENCED: its schema must move
 * forward, but another process writes it. */
enum rxt_status store_open(struct store **out, const char *path, const struct store_options *opt,
                           struct rxt_error *err);
/* Gives the lease back, too. NULL-safe; sets *s to NULL. */
void store_close(struct store **s);

/* ---- lease: who may write --------------------------------------------------------------- */

/* Takes the right to write, with a fence number above every earlier one; dies with the process.
 * Throws away what an earlier owner left unfinished (chunks without an image, deleted pages in the
 * log). EFENCED names the process and host that hold it. */
enum rxt_status store_lease_take(struct store *s, struct rxt_error *err);
/* Whether the lease is still ours; for a writer that has been idle. EFENCED. */
enum rxt_status store_lease_renew(struct store *s, struct rxt_error *err);
/* The next one may take it. Nothing to do without a lease. */
enum rxt_status store_lease_release(struct store *s, struct rxt_error *err);
uint64_t store_lease_fence(const struct store *s); /* 0 = not held */

/* ---- batch: several writes, one transaction --------------------------------------------- */

/* Group commit: the writes between begin and commit become durable together and cost one sync.
 * A verb that is refused (EEXIST, ESTALE, ...) undoes itself only. When the disk fails, the whole
 * batch is undone: that verb, all later ones and the commit return the status of the failure. */
enum rxt_status store_batch_begin(struct store *s, struct rxt_error *err);
/* On failure nothing of the batch is stored. */
enum rxt_status store_batch_commit(struct store *s, struct rxt_error *err);
void store_batch_abort(struct store *s); /* undoes the batch; nothing to do outside of one */

/* Reads between begin and end see one state of the file, whatever is written meanwhile by others.
 * No writes by this handle in between. */
enum rxt_status store_view_begin(struct store *s, struct rxt_error *err);
void store_view_end(struct store *s);

/* ---- sessions --------------------------------------------------------------------------- */

enum store_session_flag {
    STORE_HELD = 1,        /* the last update was refused: turns are, too, until repair */
    STORE_MIXED_CLASS = 2, /* some rows were replayed under another bit class */
};

struct store_session {
    int64_t id; /* of this file, never reused; what the verbs below take */
    char tenant[STORE_NAME_MAX], name[STORE_NAME_MAX];

    /* Fixed when it is made. */
    uint8_t model_hash[STORE_HASH_BYTES];
    char model_name[STORE_NAME_MAX]; /* for messages */
    uint32_t dtype, n_layer, n_slot, embed_dim;
    uint32_t init, generator; /* how version 0 is made, and by which generator (design 5) */
    uint64_t seed;
    uint64_t base;               /* oldest version it can rebuild */
    char origin[STORE_NAME_MAX]; /* fork or import: session it comes from; "" if that was erased */
    uint64_t origin_version;     /* ... and the version taken; 0 if it is neither */
    int64_t created_us;          /* since 1970; 0 on create = now */

    /* Moves. */
    uint32_t flags; /* of enum store_session_flag */
    char held_reason[STORE_REASON_MAX];
    uint64_t head, applied; /* versions, see top */
    int64_t used_us;        /* wall time of the row of head; created_us without one */
};

/* Makes a session; durable on return. Reads the names and the fixed part of *x (base, origin and
 * origin_version for an import; zero otherwise), fills in id and the moving part. EEXIST. */
enum rxt_status store_session_create(struct store *s, struct store_session *x,
                                     struct rxt_error *err);
/* ENOTFOUND, also for the session of another tenant. */
enum rxt_status store_session_get(struct store *s, const char *tenant, const char *name,
                                  struct store_session *out, struct rxt_error *err);
/* Sessions of a tenant, sorted by the bytes of their names, after `after` ("" = from the start):
 * fills at most cap, *n says how many. */
enum rxt_status store_session_list(struct store *s, const char *tenant, const char *after,
                                   struct store_session *out, size_t cap, size_t *n,
                                   struct rxt_error *err);
/* The session of the lowest id above `after`, whoever's it is: to look through a whole file.
 * ENOTFOUND at the end. ECORRUPT: out->id says which row is damaged, so that one can go on; 0 =
 * none can be read any more. */
enum rxt_status store_session_next(struct store *s, int64_t after, struct store_session *out,
                                   struct rxt_error *err);
/* *n = sessions of a tenant; walks their names. */
enum rxt_status store_session_count(struct store *s, const char *tenant, uint64_t *n,
                                    struct rxt_error *err);
/* Sets the flags; reason only with STORE_HELD (else NULL or ""). ENOTFOUND. */
enum rxt_status store_session_set_state(struct store *s, int64_t session, uint32_t flags,
                                        const char *reason, struct rxt_error *err);
/* The newest version that can be had: head, since the journal is the truth; of a held session
 * applied, for what comes after waits for its repair. */
uint64_t store_session_newest(const struct store_session *x);
/* New session `name` of the same tenant that starts at a version of another, in one transaction:
 * shares the newest image at or below it and copies the few rows after that, so that it stands
 * alone from then on (base is that image's version). Rows that are not applied there are not
 * applied here. *out may be NULL. EEXIST, ENOTFOUND, ESTALE (version above the newest, or below
 * base). */
enum rxt_status store_session_fork(struct store *s, int64_t session, uint64_t version,
                                   const char *name, struct store_session *out,
                                   struct rxt_error *err);
/* Removes rows, images and journal of a session and overwrites their bytes in the file and in the
 * log; forks keep what they share. OK only when that is done: reads every page of the file that
 * holds rows, so rare and slow. On any failure after the rows are gone (EBUSY: a reader keeps old
 * pages in the log; it is waited for STORE_ERASE_WAIT_MS) call it again, or let the next owner of
 * the lease finish it. ENOTFOUND: there is no such session, and no bytes of erased ones either. Not
 * in a batch. */
#define STORE_ERASE_WAIT_MS 10u
enum rxt_status store_session_erase(struct store *s, const char *tenant, const char *name,
                                    struct rxt_error *err);
/* Its first step, for a writer that has others to serve: the rows are gone, and it is noted that
 * their bytes are not. The bytes of large images then go a chunk at a time by store_sweep, the rest
 * by store_session_erase (ENOTFOUND: all of it is done). Leaves the session as it is on failure. */
enum rxt_status store_session_erase_begin(struct store *s, const char *tenant, const char *name,
                                          struct rxt_error *err);

/* ---- journal ---------------------------------------------------------------------------- */

enum store_kind {
    STORE_TURN = 1,
    STORE_REMEMBER = 2, /* a turn that was given, not decoded */
    STORE_REWIND = 3,   /* memory = that of version `parent` */
    STORE_RESET = 4,    /* memory = initial memory */
};

enum store_turn_state {
    STORE_LIVE = 1,      /* has its version; applied if version <= applied of the session */
    STORE_UNDECIDED = 2, /* one of several candidates; no version before store_turn_choose */
    STORE_VOID = 3,      /* not chosen, or never applied and given up by a rewind */
};

struct store_turn {
    int64_t session; /* filled in by reads */
    enum store_kind kind;
    enum store_turn_state state; /* put: LIVE or UNDECIDED */
    uint64_t version; /* put LIVE: must be head + 1; VOID: what it was to commit; UNDECIDED: 0 */
    uint8_t request[STORE_REQUEST_BYTES];
    uint32_t candidate;    /* with request: unique in a session; 0 where there is one */
    uint64_t read_version; /* the memory the answer was read from */
    uint64_t parent;       /* REWIND: the version whose content is committed */
    const int32_t *ids;    /* query, then answer, exactly as the encoder gets them */
    uint32_t n_ids, n_query;
    float temperature, top_p;
    uint32_t top_k;
    uint64_t seed;
    char finish[STORE_LABEL_MAX];         /* "" where nothing was decoded */
    char bit_class[STORE_LABEL_MAX];      /* of the answer */
    const char *query_text, *answer_text; /* NULL unless transcripts are kept */
    int64_t wall_us;                      /* since 1970; 0 on put = now */
};
/* Pointers of a row that was read are lent until the next call on the handle. */

/* Writes a row; durable on return (STORE_SYNC_FULL), unless in a batch. ESTALE: version is not
 * head + 1 (compare and set, S4). EHELD: session is held (rewind and reset are let through).
 * EEXIST: the request id has a row already; EEXPIRED: it has one, older than the window. ENOTFOUND:
 * no such session, or parent is older than base. ELIMIT: too many ids, bytes or versions. */
enum rxt_status store_turn_put(struct store *s, int64_t session, const struct store_turn *t,
                               struct rxt_error *err);
/* Version is in the memory now. ESTALE unless version is applied + 1 and journaled. */
enum rxt_status store_turn_applied(struct store *s, int64_t session, uint64_t version,
                                   struct rxt_error *err);
/* Gives up the rows that are journaled, but not applied: they become VOID, head becomes applied.
 * *n = how many; may be NULL. */
enum rxt_status store_turn_void(struct store *s, int64_t session, uint32_t *n,
                                struct rxt_error *err);
/* The candidate becomes the row of `version` (head + 1), its siblings VOID. ENOTFOUND, ESTALE (the
 * version, or the candidate is not undecided any more), EHELD. */
enum rxt_status store_turn_choose(struct store *s, int64_t session,
                                  const uint8_t request[STORE_REQUEST_BYTES], uint32_t candidate,
                                  uint64_t version, struct rxt_error *err);
/* Candidates of the request that are still undecided become VOID. */
enum rxt_status store_turn_expire(struct store *s, int64_t session,
                                  const uint8_t request[STORE_REQUEST_BYTES],
                                  struct rxt_error *err);

/* The row of a version. ENOTFOUND. */
enum rxt_status store_turn_get(struct store *s, int64_t session, uint64_t version,
                               struct store_turn *out, struct rxt_error *err);
/* The row after a version, for replay: start with the version of the image (or base), go on with
 * the version just read. ENOTFOUND at the end; ECORRUPT if rows are missing in between. */
enum rxt_status store_turn_next(struct store *s, int64_t session, uint64_t after,
                                struct store_turn *out, struct rxt_error *err);
/* The row of a request and candidate in any state. ENOTFOUND; EEXPIRED if it is older than the
 * window. */
enum rxt_status store_turn_find(struct store *s, int64_t session,
                                const uint8_t request[STORE_REQUEST_BYTES], uint32_t candidate,
                                struct store_turn *out, struct rxt_error *err);

struct store_request {
    uint8_t id[STORE_REQUEST_BYTES];
    uint32_t candidate;
    enum store_turn_state state;
    uint64_t version; /* 0 while undecided */
};
/* Request ids that a repeat is answered for: the last STORE_WINDOW versions, newest first, then as
 * many undecided and void rows. *n = how many. */
enum rxt_status store_turn_requests(struct store *s, int64_t session,
                                    struct store_request out[2 * STORE_WINDOW], size_t *n,
                                    struct rxt_error *err);

/* ---- images ----------------------------------------------------------------------------- */

/* An image is bytes that belong to one version of one session. The store binds them to tenant,
 * session, version, model, dtype, dims and bit class in a header of its own and checks all of it,
 * and a hash of the bytes, when they are read. Forks share bytes, so the bytes name no session. */
struct store_image {
    uint64_t version;
    uint8_t model_hash[STORE_HASH_BYTES];
    uint32_t dtype, n_layer, n_slot, embed_dim;
    char bit_class[STORE_LABEL_MAX];
    uint8_t hash[STORE_HASH_BYTES]; /* of the memory, as the caller counts it */
    uint64_t bytes;
    int64_t created_us; /* 0 on put = now */
    int64_t upload;     /* the store's own: which bytes */
};

/* Writes image and bytes in one transaction and prunes older images to keep_images (the one of
 * base stays); meant for at most STORE_CHUNK_BYTES. EMISMATCH: model, dtype or dims are not those
 * of the session; ESTALE: version is not between base and applied; EEXIST. */
enum rxt_status store_image_put(struct store *s, int64_t session, const struct store_image *image,
                                const void *bytes, struct rxt_error *err);

/* A larger one in steps, each a transaction of its own, so that journal rows go between them:
 * begin, then chunks of exactly STORE_CHUNK_BYTES (the last may be shorter), then commit, before
 * which the image does not exist. Several uploads may be open. Plain; holds no resource. */
struct store_upload {
    int64_t id;
    uint64_t bytes;
    uint32_t n_chunk;
    uint8_t check[STORE_HASH_BYTES];
};
enum rxt_status store_image_begin(struct store *s, struct store_upload *u, struct rxt_error *err);
enum rxt_status store_image_chunk(struct store *s, struct store_upload *u, const void *bytes,
                                  size_t n, struct rxt_error *err);
/* As store_image_put; image->bytes must be what was uploaded (ESHAPE). */
enum rxt_status store_image_commit(struct store *s, const struct store_upload *u, int64_t session,
                                   const struct store_image *image, struct rxt_error *err);
/* Gives the chunks up; store_sweep removes them. */
enum rxt_status store_image_abort(struct store *s, const struct store_upload *u,
                                  struct rxt_error *err);

/* The newest image at or below a version. ENOTFOUND: start from the initial memory (base 0).
 * ECORRUPT: its header is damaged; out->version says whose, so that an older one can be asked for.
 */
enum rxt_status store_image_find(struct store *s, int64_t session, uint64_t version,
                                 struct store_image *out, struct rxt_error *err);
/* Images of a session, newest first: fills at most cap, *n says how many. */
enum rxt_status store_image_list(struct store *s, int64_t session, struct store_image *out,
                                 size_t cap, size_t *n, struct rxt_error *err);
/* The bytes of an image that was found, into buf of exactly image->bytes. EMISMATCH: its header
 * belongs to another tenant, session, version, model, dtype or shape (err names which); ECORRUPT:
 * header or bytes are damaged; ENOTFOUND: pruned since. */
enum rxt_status store_image_get(struct store *s, int64_t session, const struct store_image *image,
                                void *buf, size_t size, struct rxt_error *err);
/* The same in pieces of at most STORE_CHUNK_BYTES, lent during the call; each is checked before it
 * is given away. A status of `write` ends it and is returned. */
typedef enum rxt_status (*store_write)(void *arg, const void *bytes, size_t n);
enum rxt_status store_image_stream(struct store *s, int64_t session,
                                   const struct store_image *image, store_write write, void *arg,
                                   struct rxt_error *err);
/* *root = a version, at or below the given one, from which that can be rebuilt with nothing older:
 * it has an image or is the initial memory, and no rewind after it goes further back. */
enum rxt_status store_history_root(struct store *s, int64_t session, uint64_t version,
                                   uint64_t *root, struct rxt_error *err);
/* Prunes to the newest `keep` images and the one of base. */
enum rxt_status store_image_prune(struct store *s, int64_t session, uint32_t keep,
                                  struct rxt_error *err);

/* ---- one session as a file -------------------------------------------------------------- */

/* Writes a session as bytes sealed with BLAKE2b-256 (layout: store/export_impl.h): its row, the
 * newest image, and the rows after it; with `history` also the image of base and all rows. What is
 * void or undecided stays behind. `write` may fail; its status is returned. Not in a batch or
 * view. ENOTFOUND. */
enum rxt_status store_export(struct store *s, const char *tenant, const char *name, bool history,
                             store_write write, void *arg, struct rxt_error *err);

/* Reads exactly n bytes; EFORMAT when there are not so many. */
typedef enum rxt_status (*store_read)(void *arg, void *bytes, size_t n);
/* Whether a session with such a fixed part may come in; asked as soon as that was read, so that
 * nothing of what nobody here can use goes to the disk, and again before it is there: meanwhile
 * others may have come. */
typedef enum rxt_status (*store_accept)(void *arg, const struct store_session *x,
                                        struct rxt_error *err);
struct store_source {
    store_read read;
    store_accept accept; /* NULL: any */
    void *arg;           /* of both */
};
/* Makes a session (tenant, name) from such bytes, which may be hostile. Nothing is there before the
 * seal was checked. *out may be NULL. EFORMAT, ECORRUPT (seal, or the sum of a record), ENEWER
 * (format), EEXIST, ELIMIT, and what the two functions return. Not in a batch. */
enum rxt_status store_import(struct store *s, const char *tenant, const char *name,
                             const struct store_source *from, struct store_session *out,
                             struct rxt_error *err);

/* The same in steps that write at most STORE_CHUNK_BYTES of an image or a few rows each, so that
 * journal rows of others go between them. */
struct store_import; /* opaque: one under way */
enum rxt_status store_import_begin(struct store_import **out, struct store *s, const char *tenant,
                                   const char *name, const struct store_source *from,
                                   struct rxt_error *err);
/* *more: there is another one. After a failure there is none. */
enum rxt_status store_import_step(struct store_import *in, bool *more, struct rxt_error *err);
/* Gives up what was not finished; store_sweep removes it. NULL-safe; sets *in to NULL. On the
 * thread of the handle. */
void store_import_end(struct store_import **in);

/* A part of such bytes, as store_export_look finds it. */
enum store_part_kind {
    STORE_PART_HEADER,
    STORE_PART_SESSION, /* its row */
    STORE_PART_IMAGE,
    STORE_PART_TURN, /* a row of the journal */
    STORE_PART_END,
    STORE_PART_SEAL, /* over all */
};
struct store_part {
    enum store_part_kind what;
    bool good;
    bool unsure;        /* SEAL: it alone tells that something was changed, and not what */
    uint64_t version;   /* IMAGE, TURN; SEAL: of the last TURN */
    uint64_t at, bytes; /* where it lies in the whole; of an IMAGE header and values */
    const struct store_image *image; /* IMAGE, lent for the call: what it says of itself */
    char detail[120];                /* what is wrong; "" = nothing */
};
typedef enum rxt_status (*store_part_found)(void *arg, const struct store_part *part);
/* Looks through bytes that store_import may have refused and tells of each part, from front to end,
 * whether it is as it was written; a damaged one is named by its place. Bytes of format 1 have no
 * sums of their parts: there only the seal tells that something was changed. Ends early where a
 * damaged length leads nowhere. A status of `read` (but for EFORMAT, the end) or `found` ends it
 * and is returned; damage is not a failure. */
enum rxt_status store_export_look(store_read read, void *arg, store_part_found found, void *user,
                                  struct rxt_error *err);

/* ---- care ------------------------------------------------------------------------------- */

/* Removes at most one chunk that no image needs, or some rows of an import that was given up, for a
 * writer with nothing else to do. *more = there may be another. */
enum rxt_status store_sweep(struct store *s, bool *more, struct rxt_error *err);
/* Whether a sweep may find something: since the last one that found nothing, this handle has pruned
 * an image of several chunks, or given up an upload or import. */
bool store_sweep_due(const struct store *s);
/* Whether the log has grown by a piece that store_log_move would move into the file. Whoever looks
 * after every few commits keeps each of them short; else one commit in many moves all of it. */
bool store_log_due(const struct store *s);
/* Waits for no reader; what one still needs is moved later. Not in a batch or view. */
enum rxt_status store_log_move(struct store *s, struct rxt_error *err);
/* Moves the log into the file and empties it. EBUSY: a reader still needs it. Not in a batch. */
enum rxt_status store_checkpoint(struct store *s, struct rxt_error *err);
/* A consistent copy of the whole file at `path`, which must not exist (EEXIST), made while others
 * write; durable on return. From a read-only handle it holds nobody up. */
enum rxt_status store_backup(struct store *s, const char *path, struct rxt_error *err);
/* Walks every page of the file. ECORRUPT with the first finding, also for a page that cannot be
 * read. */
enum rxt_status store_check(struct store *s, struct rxt_error *err);

/* Hash of a file that is slow to read, remembered by path, size and time of change (design 5).
 * get: ENOTFOUND unless all three are the same. */
enum rxt_status store_hash_get(struct store *s, const char *path, uint64_t bytes, int64_t mtime_ns,
                               uint8_t hash[STORE_HASH_BYTES], struct rxt_error *err);
enum rxt_status store_hash_put(struct store *s, const char *path, uint64_t bytes, int64_t mtime_ns,
                               const uint8_t hash[STORE_HASH_BYTES], struct rxt_error *err);

struct store_stats {        /* of this handle, since open */
    uint64_t pages_read;    /* from file or log into the page cache */
    uint64_t pages_hit;     /* found in the page cache */
    uint64_t pages_written; /* into the log */
    uint64_t commits;
};
struct store_stats store_stats(struct store *s);

#endif
