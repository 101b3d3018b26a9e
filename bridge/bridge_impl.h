/* Inside of the bridge: tasks (requests on their way), sessions (rows of the table), tenants, and
 * who calls whom. All of it belongs to the engine thread.
 *
 * One step: take in what lane and writer have finished; let deadlines pass; look at each session
 * that something happened to (advance); give slots, bytes and the lane to those whose turn it is
 * (schedule); one pass of the decoder. */
#ifndef RXT_BRIDGE_IMPL_H
#define RXT_BRIDGE_IMPL_H

#include "bridge/bridge.h"
#include "bridge/fault_impl.h"
#include "bridge/memory_impl.h"
#include "bridge/replay_impl.h"
#include "bridge/writer_impl.h"

#include <stdatomic.h>

#define NEVER_US UINT64_MAX

/* ---- tasks ------------------------------------------------------------------------------ */

/* The eight states of a turn (CONTRIBUTING.md). Verbs skip those they do not need. */
enum task_state {
    TASK_QUEUED = 1,    /* 1 parsed, waits for its place in the session */
    TASK_LOADING = 2,   /* 2 waits for its session, its conditions, slots and bytes */
    TASK_PREFILL = 3,   /* 3 */
    TASK_DECODE = 4,    /* 4 */
    TASK_JOURNAL = 5,   /* 5 the writer has it */
    TASK_REMEMBER = 6,  /* 6 waits for, or is with, the memory lane */
    TASK_COMMITTED = 7, /* 7 version + 1 is published, K/V are built */
    TASK_APPLIED = 8,   /* 8 the row says so; the task ends */
    TASK_UNDECIDED,     /* between 5 and 5: its candidates are on disk and wait for CHOOSE */
};

/* Who listens to a task: its submitter, and whoever repeated its request id. */
struct sink {
    struct sink *next;        /* of the task */
    struct sink *ticket_next; /* of its bucket */
    struct task *task;
    bridge_on_event on_event;
    void *user;
    uint64_t ticket;
    bool late; /* came after DONE or UNDECIDED: hears it by itself */
};

/* What the writer does for a task; one at a time. */
struct task_work {
    struct work work;
    struct store_turn row;        /* of all candidates, save what differs */
    struct store_session session; /* in: names and fixed part; out: the row */
    int32_t *found_ids;           /* out of a find: the ids of the stored turn */
    uint64_t max_sessions;        /* of the tenant, when it was sent */
    bool erased;                  /* ERASE: its rows are gone, at an earlier try */
    uint64_t busy_us;             /* ERASE: since then a reader of the file is in the way */
    atomic_bool unwanted;         /* EXPORT: an ERASE of the session has come; for the exporter */
    size_t unsynced;              /* EXPORT: bytes of the file that may not be on the disk */
    struct store_import *import;  /* under way, from fd into store; all the writer's */
    struct store *store;
    int fd;
};

/* A LIST on its way. */
struct listing {
    struct work work;
    struct tenant *tenant;         /* it is one of its tasks; NULL: not yet */
    char after[BRIDGE_NAME_MAX];   /* where the next page begins */
    char (*held)[BRIDGE_NAME_MAX]; /* sorted: held in the table; the store may not know yet */
    size_t n_held;
    struct bridge_session_info info[BRIDGE_LIST_MAX];
    int32_t n;
    bool more;
};

/* One answer of a turn on its way. A turn has one, or several from the same memory. */
struct answer {
    struct task *task;
    int32_t candidate;
    int32_t *ids; /* [max_seq_len]: query, then answer */
    int32_t n_ids;
    int32_t n_done;        /* rows whose K/V stand in the slot */
    struct rxt_slot *slot; /* while it is live */
    struct rxt_text decoder;
    enum rxt_finish finish;
    uint64_t seed; /* of its sampling */
};

enum task_list { LIST_NONE, LIST_READY, LIST_BYTES };

struct task {
    struct task *next;                            /* in the session's queue or its remember list */
    struct task *all_prev, *all_next;             /* in the bridge's list of all tasks */
    struct task *list_next;                       /* in one of the tenant's lists */
    struct task *journaled_prev, *journaled_next; /* of all sessions, longest ago first */
    enum task_list listed;
    struct bridge *bridge;
    struct session *session; /* NULL: LIST */
    enum task_state state;
    struct bridge_request r; /* texts and ids are copies, in `text` below */
    char *text;
    struct sink sink;
    bool cancelled;
    bool work_out;      /* the writer has it */
    bool accepted;      /* ACCEPTED is out */
    bool staged;        /* its session is brought in for it; it has not started */
    bool waits_memory;  /* of earlier turns */
    bool waits_store;   /* until that knows what is applied */
    bool to_fork;       /* on_busy = FORK, and it was busy: its session is the fork ... */
    bool forked;        /* ... which is there */
    bool fork_searched; /* it was not busy, and no earlier try has been answered in the fork */
    bool has_late;      /* some sink is late */
    bool diff_ready;    /* DIFF: it waits for nothing but others of its kind */
    bool waits_export;  /* ERASE: until no export keeps the log of the store */
    bool waits_erase;   /* EXPORT: until no ERASE is under way; one that comes now goes behind it */

    struct answer *answer; /* [n_answer]; verbs with ids use the first */
    int32_t n_answer, n_open;
    int32_t chosen; /* -1 before CHOOSE */
    int32_t n_prompt;
    int32_t limit; /* n_ids of an answer must not pass it */
    struct shared_read *read;
    uint64_t read_version, version; /* version: the one it commits */

    struct task_work write;
    struct diff *diff;       /* of DIFF */
    struct listing *listing; /* of LIST */
    struct memory_step step;
    struct bridge_usage usage;
    uint64_t submitted_us, live_us, answered_us, decided_us, durable_us;
    uint64_t expires_us; /* UNDECIDED: until then */
};

/* ---- tenants ---------------------------------------------------------------------------- */

/* Tenants share slots, bytes and the lane in deficit round robin over tokens: who gets something
 * pays for it from its balance; when all who want something have spent theirs, a new round begins.
 */
struct tenant {
    struct tenant *chain;                 /* of its bucket */
    struct tenant *ring_prev, *ring_next; /* of those who want something; NULL = not in it */
    char name[BRIDGE_NAME_MAX];
    int32_t n_session, n_task;
    int32_t n_listed; /* tasks and sessions in the lists below */
    int64_t balance;
    size_t reserved;                       /* bytes, of its sessions */
    struct task *ready, **ready_last;      /* turns whose session is in: wait for slots and bytes */
    struct task *bytes, **bytes_last;      /* wait for bytes, and their session to be brought in */
    struct session *update, **update_last; /* wait for the lane */
};

/* ---- sessions --------------------------------------------------------------------------- */

/* K/V of one version; a turn keeps those it began with while the head moves on (S1). */
struct shared_read {
    struct shared_read *next; /* in the bridge's free list */
    struct rxt_read *read;
    int users;
};

/* A memory and its K/V. Sessions that stand at the same version of the same content share one
 * (forks, seeds) until they move on. */
struct content {
    struct content *chain; /* of its bucket, while it may be shared */
    bool shareable;
    struct stm *stm;
    struct shared_read *read;
    const struct tenant *tenant;
    uint8_t hash[16];
    int users;  /* sessions */
    int n_idle; /* of them without anything to do: if any, its bytes are counted */
};

/* Bringing a session in: the writer reads rows and image, the lane rebuilds. */
struct load {
    struct work work;
    char tenant[BRIDGE_NAME_MAX], name[BRIDGE_NAME_MAX];
    struct store_session row;
    bool row_fits; /* it is there and of this model */
    struct replay replay;
    struct store_request requests[2 * STORE_WINDOW];
    size_t n_requests;
    int32_t *last_ids;
    int32_t n_last, n_last_query;
    const char *bit_class;
    const struct rxt_info *model;
};

/* Telling the store what the lane has done: rows applied, flags, perhaps an image. */
struct apply {
    struct work work;
    int64_t session;
    uint64_t from, to; /* rows from + 1 .. to are in the memory */
    bool has_flags;
    uint32_t flags;
    char reason[STORE_REASON_MAX];
    void *values; /* of the image: one of the bridge's buffers; NULL = none */
    struct store_image image;
    bool uploading; /* it is large and goes in chunks */
    size_t written;
    struct store_upload upload;
};

enum session_phase { SESSION_COLD, SESSION_LOADING, SESSION_RESIDENT };

struct session {
    struct session *chain;       /* of its bucket */
    struct session *active_next; /* in the bridge's list of sessions with something to do */
    bool active;
    struct bridge *bridge;
    struct tenant *tenant;
    char name[BRIDGE_NAME_MAX];
    enum session_phase phase;
    bool held;
    struct store_session row; /* valid unless cold; `head` and `applied` are kept up to date */
    struct content *content;  /* while resident; its stm is lent to the lane while job_out */
    struct shared_read *next_read;
    uint64_t version; /* committed */
    uint8_t hash[16];
    struct task *queue, **queue_last;       /* not yet journaled, in order of submission */
    struct task *remember, **remember_last; /* journaled, not yet committed, in order */
    struct task *undecided;                 /* in neither, or again in the queue once chosen */
    bool job_out, apply_out;
    struct memory_job job;
    struct load *load; /* while LOADING */
    struct apply apply;
    struct session *update_next; /* in the tenant's list */
    bool update_listed;
    struct session *retry_next; /* in the bridge's list */
    uint64_t retry_us;          /* a failed update is tried again then; 0 = none failed */
    int n_retry;
    bool flags_dirty;   /* row.flags are not in the store yet */
    void *image_values; /* of `image`: written by the lane, not yet with the writer */
    struct store_image image;
    uint64_t replay_us;   /* update time since the newest image: the price of a replay */
    uint64_t image_tried; /* version + 1 that session_image was last asked for */
    struct store_request recent[STORE_WINDOW];
    uint32_t n_recent; /* in all; the newest stands at (n_recent - 1) mod STORE_WINDOW */
    int32_t *last_ids;
    int32_t n_last, n_last_query;
    size_t reserved; /* bytes it may need until it has nothing to do; 0 = nothing to do */
    struct session *lru_prev, *lru_next; /* resident and nothing to do: longest unused first */
    bool idle;                           /* in that list */
};

/* ---- the bridge ------------------------------------------------------------------------- */

#define BRIDGE_BUCKETS 4096 /* power of two */

struct bridge {
    const struct rxt_model *model;
    struct bridge_config cfg;
    int32_t max_seq_len;
    uint64_t (*clock)(void);   /* clock_us, save in tests of deadlines */
    struct rxt_worker *worker; /* answer lane */
    struct memory_lane *lane;
    struct writer *writer, *reader, *exporter; /* the last two have handles that only read */
    struct mailbox back;
    struct session *bucket[BRIDGE_BUCKETS];
    struct content *content[BRIDGE_BUCKETS];
    struct tenant *tenant[BRIDGE_BUCKETS];
    struct session *active, **active_last;
    struct task *all; /* newest first */
    int32_t n_task;
    size_t n_pending;     /* jobs and works that are out */
    struct sink **ticket; /* [n_ticket] buckets; who listens to what, by ticket */
    size_t n_ticket;      /* power of two */
    int32_t n_sink;
    uint64_t next_ticket;
    uint64_t next_deadline_us; /* nothing passes before */
    struct session *retry;
    struct task *oldest, *youngest; /* journaled, not yet committed */
    int32_t n_journaled;            /* of them */
    int32_t n_job;                  /* on the memory lane: updates, loads, comparisons */
    uint32_t owed_us;               /* to the memory lane, for the last pass */
    int32_t n_export, n_erase;      /* under way */
    int32_t n_export_waits;         /* with waits_erase */
    bool diff_out;
    const struct tenant *diff_last; /* whose it was; only a name, he may be gone */

    /* schedule.c */
    struct tenant *ring;                 /* whose turn it is */
    int32_t n_ready, n_staged, n_update; /* turns that wait for slots; loads; updates on the lane */
    bool bytes_first;
    double token_us, turn_us; /* smoothed: of an answer's token, of a turn from start to DONE */

    /* room.c */
    size_t bytes;                             /* counted: what is reserved, idle or free */
    size_t reserved;                          /* of them */
    uint64_t n_evicted, n_loaded, n_replayed; /* sessions, sessions, rows; since open */
    struct session *lru, *lru_last;

    struct answer **live; /* [max_live] prefilling or decoding */
    int32_t n_live;
    struct rxt_slot **slot; /* free ones */
    int32_t n_slot;
    struct shared_read *free_read;
    void **image_buffer; /* free ones, each as large as a float32 memory */
    int32_t n_image_buffer;

    /* Of one pass, planned at open. */
    int32_t *pass_offset, *pass_start, *pass_ids;
    struct rxt_slot **pass_slot;
    const struct rxt_read **pass_read;
    bool *pass_want;
    struct sampling *pass_sampling;
    int32_t *pass_choice;
    struct answer **pass_answer;
};

/* bridge.c */
void bridge_activate(struct bridge *b, struct session *s); /* look at it in this or the next step */
/* Sends work to the writer, which gives it back through done(). */
void bridge_post(struct bridge *b, struct work *w, work_run run, work_done done, void *owner);
/* The same to the reader, for work that writes nothing: it sees what has come back from the writer,
 * and delays no commit. */
void bridge_post_read(struct bridge *b, struct work *w, work_run run, work_done done, void *owner);
/* The same for what writes files, as slowly as their disk does: it delays no page-in. */
void bridge_post_export(struct bridge *b, struct work *w, work_run run, work_done done,
                        void *owner);
/* Sends a job to the memory lane, which gives it back through done(). */
void bridge_post_job(struct bridge *b, struct memory_job *job);

/* submit.c: the table of tickets. A task leaves it when it ends. */
void sinks_forget(struct task *t);

/* request.c: copies r; ids and texts are checked as far as no session is needed. */
enum rxt_status task_create(struct task **out, struct bridge *b, const struct bridge_request *r,
                            struct rxt_error *err);
void task_destroy(struct task **t);
/* Names travel into files, logs, terminals and messages: not empty, terminated, UTF-8 without
 * control characters. EINVAL, ELIMIT, EUTF8 naming `what`. */
enum rxt_status task_check_name(const char *what, const char *name, struct rxt_error *err);

/* event.c: to every sink of the task. */
void event_accepted(struct task *t);
void event_token(struct answer *a, int32_t id, const char *text, size_t bytes);
void event_done(struct task *t, bool final);
void event_undecided(struct task *t);
void event_late(struct task *t); /* what late sinks have missed */
void event_stored(struct task *t, const struct bridge_event *e);
void event_list(struct task *t);
void event_diff(struct task *t, const struct stm_slot_diff *diff);
void event_memory(struct task *t);
void event_failed(struct task *t, enum bridge_event_kind kind, enum rxt_status st,
                  const char *sentence, const char *key);
void session_info(const struct session *s, struct bridge_session_info *out);
/* Of a session that need not be in the table. */
void session_row_info(const struct store_session *row, struct bridge_session_info *out);
/* Why the device can not be used any more, for good; NULL while it works. */
const char *bridge_device_failure(const struct bridge *b);

/* task.c: the transition table, ends, what all verbs share. */
void task_move(struct task *t, enum task_state to); /* asserts the transition table */
void task_end(struct task *t);                      /* frees it; its last event is out */
void task_fail(struct task *t, enum rxt_status st, const char *sentence); /* ERROR, ends it */
void task_cancel(struct task *t); /* a turn as its on_cancel says; what waits is dropped */
/* The request's conditions on its session: RXT_OK = it may start, RXT_EBUSY = it must wait. Else it
 * was refused and has ended. */
enum rxt_status task_conditions(struct task *t);
void task_unstage(struct task *t); /* its session was brought in for it, but it must wait */
void task_unlink(struct task **first, struct task ***last, struct task *t);

/* deadline.c */
uint64_t deadline_of(const struct task *t, const char **key); /* the next one; NEVER_US */
bool deadline_check(struct bridge *b);                        /* true if one has passed */
void deadline_note(struct bridge *b, uint64_t at_us);
void deadline_retry(struct session *s, uint64_t at_us); /* its update, then */

/* schedule.c */
enum rxt_status tenant_find(struct bridge *b, const char *name, struct tenant **out);
void tenant_leave(struct tenant *t,
                  struct bridge *b); /* one session or LIST less; the last one frees it */
void schedule_task(struct task *t, enum task_list list); /* it waits for its turn */
void schedule_forget(struct task *t);                    /* it does not any more */
void schedule_update(struct session *s);                 /* its next update waits for the lane */
void schedule_update_forget(struct session *s);
bool schedule_run(struct bridge *b);
void schedule_charge(struct tenant *t, int64_t tokens); /* < 0: gives back */

/* room.c: what is held in bytes, and who must go. */
size_t room_price(const struct bridge *b, int32_t n_answer);
bool room_tenant_has(const struct task *t); /* what the task needs, in its tenant's share */
size_t room_minimum(const struct bridge *b);
bool room_take(struct session *s, int32_t n_answer); /* false = does not fit now */
void room_rest(struct session *s);                   /* it has nothing to do any more */
void room_leave(struct session *s);                  /* of the idle ones */
enum rxt_status room_read_take(struct bridge *b, struct shared_read **out);
void room_read_release(struct bridge *b, struct shared_read *r);
enum rxt_status room_slot_take(struct bridge *b, struct rxt_slot **out);
void room_slot_release(struct bridge *b, struct rxt_slot **slot);
void room_destroy(struct bridge *b); /* what is free */

/* content.c */
enum rxt_status content_create(struct content **out, struct session *s);
void content_release(struct bridge *b, struct content **c);
void content_offer(struct bridge *b, struct content *c, const uint8_t hash[16]); /* may be shared */
void content_withdraw(struct bridge *b, struct content *c);
/* The content at `version` with this hash that another session of the tenant has; NULL = none. */
struct content *content_find(struct bridge *b, const struct tenant *t, const uint8_t hash[16],
                             enum dtype dtype, uint64_t version);

/* pass.c */
bool turn_live(struct task *t);   /* into the batch; false = no slots or no room */
void turn_leave(struct task *t);  /* gives back slots and K/V of a live turn */
bool turn_pass(struct bridge *b); /* one pass of the decoder over all live answers */
void turn_answered(struct task *t);

/* turn.c: 5 to 8 */
void turn_journal(struct task *t);   /* REMEMBER comes in here */
void turn_journaled(struct task *t); /* on disk: DONE, and into the remember list */
void turn_committed(struct task *t);
void turn_repeat(struct task *t); /* its id is in the journal of write.session: the stored answer */
bool turn_is_repeat(const struct task *t);
void turn_fill_row(const struct task *t, const struct answer *a, struct store_turn *row);
void turn_note_id(struct session *s, const struct task *t, enum store_turn_state state);

/* candidate.c */
void candidates_journal(struct task *t); /* all answers have ended */
void candidates_wait(struct task *t);    /* on disk: UNDECIDED, until CHOOSE */
void candidates_list(const struct task *t, struct bridge_candidate out[BRIDGE_CANDIDATES]);
void candidates_choose(struct task *t); /* at the head of the queue */
void candidates_expire(struct task *t);

/* session.c */
enum rxt_status session_find(struct bridge *b, const char *tenant, const char *name,
                             struct session **out);
/* As session_find, but makes none. */
bool session_peek(struct bridge *b, const char *tenant, const char *name, struct session **out);
/* Nobody uses it and it is not resident: all there is of it is in the store, or there is nothing.
 */
bool session_forgettable(const struct session *s);
void session_forget(struct session *s);       /* out of the table */
void session_abandon(struct session *s);      /* the same when the bridge stops, whatever is out */
bool session_in_use(const struct session *s); /* needs what it has reserved */
void session_remember(struct session *s);     /* its next journaled task waits for the lane */
void session_update(struct session *s);       /* ... and goes to it */
void session_took_version(struct session *s); /* what the job has made is the head */
void session_update_failed(struct session *s);
void session_apply(struct session *s);
/* Writes an image of the version that is there, if a replay would cost more than worth_us and
 * there is a buffer; true = it is on its way. */
bool session_image(struct session *s, uint64_t worth_us);
/* The store is told, so that it lasts; but not where the device has failed, which the next start of
 * the process repairs. */
void session_hold(struct session *s, enum rxt_status st, const char *why);
enum rxt_status session_held_status(const struct session *s); /* why a held one refuses */
void session_drop(struct session *s); /* RESIDENT -> COLD; nothing of it is out */
size_t session_stm_bytes(const struct session *s);

/* load.c */
void session_load(struct session *s); /* COLD -> LOADING */
void session_load_free(struct session *s);
/* EMISMATCH: it was made with another model than the one described, or has not its shape. */
enum rxt_status session_check_model(const struct store_session *row, const struct rxt_info *info,
                                    struct rxt_error *err);

/* verbs.c: head of its session's queue; true if it moved. */
bool verb_start(struct task *t);
bool verb_go(struct task *t); /* its turn has come; false = no room */
/* Every verb but TURN, REMEMBER and GET is one piece of work for the writer, and DONE after it. */
void verb_post(struct task *t, work_run run, work_done done, bool alone);
void verb_finished(struct work *w);  /* DONE, or ERROR */
void verb_opened(struct work *w);    /* the same where the row of its session may be new */
void erases_go_on(struct bridge *b); /* no export is under way any more */
void verbs_look_again(struct bridge *b, enum bridge_verb verb); /* those that could not begin */
/* On the writer's thread, before a session is made. ELIMIT: the tenant has as many as it may. */
enum rxt_status verb_check_sessions(const struct task *t, struct store *store,
                                    struct rxt_error *err);

/* transfer.c */
void export_start(struct task *t);
/* Who erases a session wants no export of it. */
void export_waits(struct task *t, bool waits); /* sets waits_erase */
void exports_unwanted(struct session *s);
void import_start(struct task *t);

/* diff.c, list.c; list_prepare: before it is sure that the list is begun */
enum rxt_status list_prepare(struct task *t, struct rxt_error *err);
void diff_start(struct task *t);
void diff_unready(struct task *t);     /* its session is not settled, or not any more */
void diff_ended(const struct task *t); /* by whatever: another one may go now */
void diff_destroy(struct diff **d);
void list_start(struct task *t);

#endif
