/* Inside of the bridge: tasks (requests on their way), sessions (rows of the table), and who calls
 * whom: bridge.c runs the step, turn.c moves a task through its eight states, session.c brings
 * sessions in and out, verbs.c does what is no turn. All of it belongs to the engine thread. */
#ifndef RXT_BRIDGE_IMPL_H
#define RXT_BRIDGE_IMPL_H

#include "bridge/bridge.h"
#include "bridge/fault_impl.h"
#include "bridge/memory_impl.h"
#include "bridge/replay_impl.h"
#include "bridge/writer_impl.h"

/* ---- tasks ------------------------------------------------------------------------------ */

/* The eight states of a turn (CONTRIBUTING.md). Verbs skip those they do not need. */
enum task_state {
    TASK_QUEUED = 1,    /* 1 parsed, waits for its place in the session */
    TASK_LOADING = 2,   /* 2 the session is brought in */
    TASK_PREFILL = 3,   /* 3 */
    TASK_DECODE = 4,    /* 4 */
    TASK_JOURNAL = 5,   /* 5 the writer has it */
    TASK_REMEMBER = 6,  /* 6 waits for, or is with, the memory lane */
    TASK_COMMITTED = 7, /* 7 version + 1 is published, K/V are built */
    TASK_APPLIED = 8,   /* 8 the row says so; the task ends */
};

/* Who listens to a task: its submitter, and whoever repeated its request id. */
struct sink {
    struct sink *next;        /* of the task */
    struct sink *ticket_next; /* of its bucket */
    struct task *task;
    bridge_on_event on_event;
    void *user;
    uint64_t ticket;
};

/* What the writer does for a task; one at a time. */
struct task_work {
    struct work work;
    struct store_turn row;
    struct store_session session; /* in: names and fixed part; out: the row */
    int32_t *found_ids;           /* out of a find: the ids of the stored turn */
    uint32_t found_n;
};

struct task {
    struct task *next; /* in the session's queue or its remember list */
    struct bridge *bridge;
    struct session *session;
    enum task_state state;
    struct bridge_request r; /* texts and ids are copies, in `text` below */
    char *text;
    struct sink sink;
    bool cancelled;
    bool work_out; /* the writer has it */

    int32_t *ids; /* [max_seq_len]: query, then answer */
    int32_t n_prompt, n_ids;
    int32_t n_done; /* rows whose K/V stand in the slot */
    int32_t limit;  /* n_ids must not pass it */
    struct rxt_slot *slot;
    struct shared_read *read;
    uint64_t read_version, version; /* version: the one it commits */
    struct rxt_text decoder;
    enum rxt_finish finish;

    struct task_work write;
    struct memory_step step;
    struct bridge_usage usage;
    uint64_t submitted_us, answered_us, durable_us;
};

/* ---- sessions --------------------------------------------------------------------------- */

/* K/V of one version; a turn keeps those it began with while the head moves on (S1). */
struct shared_read {
    struct shared_read *next; /* in the bridge's free list */
    struct rxt_read *read;
    int users;
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
    uint8_t model_hash[16];
    const char *model_name;
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

enum session_phase { SESSION_COLD, SESSION_LOADING, SESSION_RESIDENT, SESSION_GONE };

struct session {
    struct session *chain;       /* of its bucket */
    struct session *active_next; /* in the bridge's list of sessions with something to do */
    bool active;
    struct bridge *bridge;
    char tenant[BRIDGE_NAME_MAX], name[BRIDGE_NAME_MAX];
    enum session_phase phase;
    bool held;
    struct store_session row; /* valid unless cold; `head` and `applied` are kept up to date */
    struct stm *stm;          /* lent to the lane while job_out */
    struct shared_read *read, *next_read;
    uint64_t version; /* committed */
    uint8_t hash[16];
    struct task *queue, **queue_last;       /* not yet journaled, in order of submission */
    struct task *remember, **remember_last; /* journaled, not yet committed, in order */
    bool job_out, apply_out;
    struct memory_job job;
    struct load load;
    struct apply apply;
    bool flags_dirty;   /* row.flags are not in the store yet */
    void *image_values; /* of `image`: written by the lane, not yet with the writer */
    struct store_image image;
    uint64_t replay_us; /* update time since the newest image: the price of a replay */
    struct store_request recent[STORE_WINDOW];
    uint32_t n_recent; /* in all; the newest stands at (n_recent - 1) mod STORE_WINDOW */
    int32_t *last_ids;
    int32_t n_last, n_last_query;
    size_t counted_bytes; /* its part of resident_bytes */
    uint64_t used;        /* for LRU */
};

/* ---- the bridge ------------------------------------------------------------------------- */

#define BRIDGE_BUCKETS 4096 /* power of two */

struct bridge {
    const struct rxt_model *model;
    struct bridge_config cfg;
    int32_t max_seq_len;
    struct rxt_worker *worker; /* answer lane */
    struct memory_lane *lane;
    struct writer *writer;
    struct mailbox back;
    struct session *bucket[BRIDGE_BUCKETS];
    struct session *active, **active_last;
    int32_t n_task;
    size_t n_pending;     /* jobs and works that are out */
    struct sink **ticket; /* [n_ticket] buckets; who listens to what, by ticket */
    size_t n_ticket;      /* power of two */
    int32_t n_sink;
    uint64_t next_ticket, tick;
    size_t resident_bytes;

    struct task **live; /* [max_live] prefilling or decoding */
    int32_t n_live;
    struct rxt_slot **slot; /* free ones */
    int32_t n_slot, n_slot_made;
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
    struct task **pass_task;
};

/* bridge.c */
void bridge_activate(struct bridge *b, struct session *s); /* look at it in this or the next step */
/* Sends work to the writer, which gives it back through done(). */
void bridge_post(struct bridge *b, struct work *w, work_run run, work_done done, void *owner);

/* submit.c: the table of tickets. A task leaves it when it ends. */
void sinks_forget(struct task *t);

/* request.c: copies r; ids and texts are checked as far as no session is needed. */
enum rxt_status task_create(struct task **out, struct bridge *b, const struct bridge_request *r,
                            struct rxt_error *err);
void task_destroy(struct task **t);

/* event.c: to every sink of the task. */
void event_accepted(struct task *t);
void event_token(struct task *t, int32_t id, const char *text, size_t bytes);
void event_done(struct task *t, bool final);
void event_stored(struct task *t, const struct bridge_event *e);
void event_memory(struct task *t);
void event_failed(struct task *t, enum bridge_event_kind kind, enum rxt_status st,
                  const char *sentence);
void session_info(const struct session *s, struct bridge_session_info *out);

/* turn.c */
void task_move(struct task *t, enum task_state to); /* asserts the transition table */
void task_end(struct task *t);                      /* frees it; its last event is out */
bool turn_start(struct task *t);     /* head of its session's queue; false = must wait */
bool turn_pass(struct bridge *b);    /* one pass of the decoder over all live turns */
void turn_journal(struct task *t);   /* REMEMBER comes in here */
void turn_journaled(struct task *t); /* on disk: DONE, and into the remember list */
void turn_committed(struct task *t);
void turn_fail(struct task *t, enum rxt_status st, const char *sentence); /* ERROR, ends it */
void turn_cancel(struct task *t);
void turn_repeat(struct task *t); /* its id is in the journal: the stored answer */

/* session.c */
enum rxt_status session_find(struct bridge *b, const char *tenant, const char *name,
                             struct session **out);
/* As session_find, but makes none. */
bool session_peek(struct bridge *b, const char *tenant, const char *name, struct session **out);
/* Nobody uses it and it is not resident: all there is of it is in the store, or there is nothing.
 */
bool session_forgettable(const struct session *s);
void session_forget(struct session *s); /* out of the table */
void session_load(struct session *s);   /* COLD -> LOADING */
void session_evict(struct bridge *b, struct session *but);
void session_remember(struct session *s); /* next journaled task to the lane */
void session_apply(struct session *s);
void session_hold(struct session *s, enum rxt_status st, const char *why);
void session_drop(struct session *s); /* RESIDENT -> COLD; nothing of it is out */
void shared_read_release(struct bridge *b, struct shared_read *r);

/* verbs.c: head of its session's queue; false = must wait. */
bool verb_start(struct task *t);

#endif
