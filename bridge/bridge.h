/* The bridge: sessions that answer turns and remember them. It composes model (rxt/), memory (stm/)
 * and store (store/) into the turn of eight states (CONTRIBUTING.md) and knows no ZeroMQ: `rxt
 * chat` drives it in process, the server puts a front and a wire before it.
 *
 * A caller submits requests and calls bridge_step; everything that happens comes back as events.
 *
 *   submit -> ACCEPTED -> TOKEN* -> DONE -> MEMORY          a turn
 *   submit -> ACCEPTED -> TOKEN* -> UNDECIDED -> DONE -> MEMORY   a turn with several answers
 *   submit -> DONE -> MEMORY                                remember, rewind, reset, choose
 *   submit -> DONE                                          every other verb
 *   ... -> ERROR | CANCELLED | MEMORY_FAILED                instead of what is still missing
 *
 * DONE of a writing request: its exact ids are on disk, it will be remembered (S3). MEMORY: it is.
 * The last event of a request is marked `final`; the request's memory may be freed after it.
 *
 * Threads: the bridge has four of its own, the memory lane (encoder, update, K/V build), a store
 * writer, a store reader and one for exports (SQLite). The thread that calls bridge_step is the
 * engine: it owns the session table and runs the answer lane. Events are delivered inside
 * bridge_step. All functions are for the engine thread unless said otherwise. */
#ifndef RXT_BRIDGE_H
#define RXT_BRIDGE_H

#include "kernels/base/count.h"
#include "kernels/base/mem.h"
#include "rxt/rxt.h"
#include "store/store.h"

struct bridge;

#define BRIDGE_NAME_MAX 128 /* bytes of a tenant or session name, zero included */
#define BRIDGE_ID_BYTES 16  /* request id: random, chosen by the client */

/* ---- open, run, close ------------------------------------------------------------------- */

struct bridge_limits { /* of one tenant; 0 = none but those of all */
    int32_t max_queue; /* of its requests on their way */
    uint64_t
        max_sessions; /* that it may have, in memory or not; OPEN, FORK and IMPORT beyond: ELIMIT */
    size_t max_bytes; /* that its sessions with something to do hold; others wait their turn */
};

struct bridge_config {      /* zeroed = defaults */
    const char *store_path; /* SQLite file; its folder must exist */
    enum dtype stm_dtype;   /* of sessions made from now on */
    enum store_sync sync;   /* what a turn survives: power loss (default), or only kill -9 */
    bool keep_text;         /* store transcripts beside the token ids */
    size_t max_bytes;       /* of all sessions: STM, K/V, slots, rows; 0 = 4 GiB */
    int32_t max_live;       /* answers that decode at the same time; 0 = 16 */
    int32_t max_queue;      /* requests on their way, memory included; 0 = 1024 */
    struct bridge_limits tenant;
    int32_t prefill_rows;     /* prompt tokens a step beside the decoding turns; 0 = 256 */
    int32_t n_spare;          /* updates in flight; 0 = 4 */
    uint32_t image_budget_us; /* replay work that is cheaper than an image; 0 = 250,000 */
    uint32_t choose_us;       /* candidates wait so long for CHOOSE; 0 = 60 s */
};

/* Gives *out: opens the store (and takes its lease: EFENCED if another process writes it), voids or
 * schedules what a crash left. The model is lent. */
enum rxt_status bridge_open(struct bridge **out, const struct rxt_model *m,
                            const struct bridge_config *cfg, struct rxt_error *err);
/* Finishes the memory jobs and the writes that are queued, at most deadline_us; then stops. Nothing
 * that was reported DONE is lost either way: what is not applied is replayed at the next open. In
 * the time that is left, images are written of what a replay would have to compute again.
 * Turns that are still answering are cancelled. NULL-safe. */
void bridge_close(struct bridge **b, uint64_t deadline_us);

/* Whether they could be set; any thread. ELIMIT as there. */
enum rxt_status bridge_check_limits(const struct bridge *b, const struct bridge_limits *tenant,
                                    struct rxt_error *err);
/* From now on. ELIMIT: not even one turn has room; then the limits stay as they were. */
enum rxt_status bridge_set_limits(struct bridge *b, const struct bridge_limits *tenant,
                                  struct rxt_error *err);

/* One engine step: takes in what lane and writer have finished, starts requests, runs at most one
 * pass of the decoder over all live turns, delivers events. True if it did anything. */
bool bridge_step(struct bridge *b);
/* Gives the memory lane the time that the last step owes it, up to 10 ms. bridge_step begins with
 * it; a caller that has sent what the last step said, and takes requests in before the next one,
 * calls it in between, so that neither waits for a memory longer than it must. */
void bridge_give_way(struct bridge *b);
/* What a step owes that took so long for n_live answers, while n_waiting memories wait: for those
 * who measure what answers and memories cost each other. */
uint32_t bridge_owed_us(uint64_t step_us, uint64_t n_waiting, uint64_t n_live);
/* Sleeps until there is something to do, at most timeout_us. */
void bridge_wait(struct bridge *b, uint64_t timeout_us);
/* Wakes bridge_wait. Any thread; async-signal-safe. */
void bridge_wake(struct bridge *b);
bool bridge_idle(const struct bridge *b); /* no request, job or write is pending */

/* ---- requests --------------------------------------------------------------------------- */

enum bridge_verb {
    BRIDGE_TURN,     /* answer a prompt, then remember the turn */
    BRIDGE_REMEMBER, /* absorb a given turn without decoding */
    BRIDGE_CHOOSE,   /* candidate `candidate` of the undecided turn `id` is the answer */
    BRIDGE_OPEN,     /* make the session if it is not there; EEXIST never */
    BRIDGE_GET,      /* page in, replay, report info and hash */
    BRIDGE_FORK,     /* new session `to` from `version` of this one; DONE tells of that one */
    BRIDGE_REWIND,   /* commit version + 1 with the content of `version` */
    BRIDGE_RESET,    /* commit version + 1 = initial memory */
    BRIDGE_ERASE,    /* rows, images, journal; DONE only when the file holds nothing of it */
    BRIDGE_EXPORT,   /* sealed bytes of the session to `path`, a file as a whole, or a pipe */
    BRIDGE_IMPORT,   /* new session from sealed bytes at `path` */
    BRIDGE_DIFF,     /* how far `to_version` of `to` is from `version` of this one */
    BRIDGE_LIST,     /* sessions of the tenant, sorted by name, after `session` ("" = the first) */
};

enum bridge_on_stale { BRIDGE_STALE_WAIT, BRIDGE_STALE_PROCEED, BRIDGE_STALE_REJECT };
/* While another request of the session waits or answers. FORK: the turn runs in the new session
 * `to`, made from the newest version; its events say so. */
enum bridge_on_busy { BRIDGE_BUSY_WAIT, BRIDGE_BUSY_REJECT, BRIDGE_BUSY_FORK };
enum bridge_on_cancel { BRIDGE_CANCEL_DISCARD, BRIDGE_CANCEL_COMMIT };

#define BRIDGE_HEAD UINT64_MAX /* the newest version: all that reported DONE, unless held */
#define BRIDGE_CANDIDATES 8    /* of one turn at most */
#define BRIDGE_LIST_MAX 256    /* sessions of one answer to LIST at most */

/* From submit, in microseconds; 0 = none. What passes ends the request with EDEADLINE and leaves
 * nothing of it, save that `total_us` is a cancel that obeys on_cancel. */
struct bridge_deadline {
    uint64_t queue_us;       /* to the start of prefill; of other verbs to their start */
    uint64_t first_token_us; /* to the first token */
    uint64_t total_us;       /* to the end of the answer */
    uint64_t memory_us;      /* waiting for memories of earlier turns (on_stale, min_version) */
};

struct bridge_request { /* copied by bridge_submit, texts and ids included */
    enum bridge_verb verb;
    char tenant[BRIDGE_NAME_MAX];  /* "default" where there are none */
    char session[BRIDGE_NAME_MAX]; /* an unknown one is ENOTFOUND; only OPEN and IMPORT make one */
    uint8_t id[BRIDGE_ID_BYTES];   /* a repeat joins the running request or replays its answer */

    /* TURN */
    struct rxt_prompt prompt;
    struct sampling sampling; /* seed 0 = the session's; turn and position are the bridge's */
    int32_t max_tokens;       /* of the answer; 0 = as far as max_seq_len goes */
    bool dry_run;             /* answer only: no journal, no memory */
    int32_t n_candidate;      /* answers from the same memory, decoded together; 0 = 1. More than
                               * one: UNDECIDED, and nothing is remembered before CHOOSE */
    enum bridge_on_stale on_stale;
    enum bridge_on_busy on_busy;
    enum bridge_on_cancel on_cancel;
    uint64_t min_version; /* wait until the session has it */
    uint64_t if_version;  /* BRIDGE_HEAD = any; else ESTALE unless current */
    struct bridge_deadline deadline;

    /* CHOOSE: of 0 .. n_candidate - 1. The same again gets the stored DONE, another one EEXIST. */
    int32_t candidate;

    /* REMEMBER: ids (n_ids > 0), or question and answer put into the template */
    const int32_t *ids;
    size_t n_ids;
    const char *question, *answer;

    /* OPEN: neither is looked at if the session is there. from: it starts from `version` of this
     * session of the tenant (a seed memory: absorbed once, shared by all that start from it). */
    uint64_t seed;
    char from[BRIDGE_NAME_MAX];

    /* FORK, REWIND, OPEN with from, DIFF: which version; FORK, on_busy: the new name; DIFF: the
     * other session ("" = the same) and its version; EXPORT, IMPORT: which file */
    uint64_t version, to_version;
    char to[BRIDGE_NAME_MAX];
    const char *path;

    /* LIST: at most so many, 1 to BRIDGE_LIST_MAX; only names that begin with prefix, only held
     * sessions */
    int32_t limit;
    char prefix[BRIDGE_NAME_MAX];
    bool only_held;
};

enum bridge_state { /* of a session, design 5 */
                    BRIDGE_COLD,
                    BRIDGE_RESIDENT,
                    BRIDGE_ANSWERING,
                    BRIDGE_REMEMBERING,
                    BRIDGE_HELD,
};

struct bridge_session_info {
    char session[BRIDGE_NAME_MAX];
    enum bridge_state state;
    uint64_t version; /* committed; of a cold session the one it comes in at */
    uint64_t n_turn;  /* journal rows */
    bool has_hash;    /* after a page-in */
    uint8_t stm_hash[16];
    enum dtype stm_dtype;
    uint64_t seed;
    bool mixed_class;      /* some rows were replayed under another bit class */
    char held_reason[128]; /* "" unless held */
    char origin[BRIDGE_NAME_MAX];
    uint64_t origin_version;
    int64_t created_us, used_us; /* since 1970 */
};

struct bridge_usage {
    int32_t n_query, n_answer;
    uint64_t queue_us;       /* submit to first prefill row */
    uint64_t first_token_us; /* submit to first token */
    uint64_t answer_us;      /* submit to the end of the answer */
    uint64_t journal_us;     /* end of the answer to durable */
    uint64_t memory_us;      /* durable to committed, K/V built */
    uint64_t lag_us;         /* end of the answer to committed (MEMORY only) */
};

enum bridge_event_kind {
    BRIDGE_ACCEPTED,
    BRIDGE_TOKEN,
    BRIDGE_UNDECIDED,
    BRIDGE_DONE,
    BRIDGE_MEMORY,
    BRIDGE_MEMORY_FAILED,
    BRIDGE_CANCELLED,
    BRIDGE_ERROR,
};
struct bridge_candidate { /* one of several answers, ended */
    enum rxt_finish finish;
    const int32_t *ids; /* query, then answer */
    int32_t n_answer;
};
struct bridge_event { /* lent during the callback */
    enum bridge_event_kind kind;
    bool final;
    const char *session; /* where it runs: `to` after on_busy = FORK */

    /* ACCEPTED: the price of the turn, known in advance */
    int32_t price_tokens;
    size_t price_bytes;
    uint64_t price_us; /* expected, from the turns so far; 0 = there were none */
    int32_t position;  /* turns that are before it; 0 = it starts now */

    /* TOKEN: complete code points only. candidate: also in what ends a turn after CHOOSE */
    int32_t candidate;
    int32_t token;
    const char *text;
    size_t text_bytes;

    /* DONE of a turn; stored = answered from the journal */
    enum rxt_finish finish;
    const int32_t *ids; /* query, then answer */
    bool stored;
    uint64_t read_version, pending_version; /* MEMORY_FAILED: read_version stays the newest */
    struct bridge_usage usage;

    /* UNDECIDED: on disk, to be chosen from until expires_us have passed (then ERROR, EEXPIRED);
     * and DONE of a dry run with several answers, instead of ids and finish */
    const struct bridge_candidate *answer;
    int32_t n_candidate;
    uint64_t expires_us;

    /* MEMORY, and DONE of every verb but ERASE and EXPORT. GET also gives the ids of the last turn
     * (usage.n_query, usage.n_answer), none if there is no turn. */
    const struct bridge_session_info *info;

    /* DONE of LIST: n_list of them; more: there are others behind them */
    const struct bridge_session_info *list;
    int32_t n_list;
    bool more;

    /* DONE of DIFF: [n_layer * n_slot] of the model */
    const struct stm_slot_diff *diff;

    /* ERROR, MEMORY_FAILED */
    enum rxt_status status;
    const char *error;       /* a sentence */
    const char *key;         /* which deadline passed ("queue", ...); NULL = it is about none */
    uint64_t retry_after_us; /* 0 = do not retry */
};

typedef void (*bridge_on_event)(void *user, const struct bridge_event *e);

/* Takes a request; *ticket names it for bridge_cancel. Refuses at once what needs no session to be
 * refused (bad names, empty or too long queries, parameters out of range, full queue: EBUSY), then
 * there is no event. Everything else comes as an event.
 *
 * A turn is admitted when the bytes it can need are there: memory, K/V (twice while a version is
 * read and the next one built), a slot for each answer. What does not fit waits its turn, in
 * deficit round robin over the tokens of the tenants; nothing that was admitted is ever put back.
 */
enum rxt_status bridge_submit(struct bridge *b, const struct bridge_request *r,
                              bridge_on_event on_event, void *user, uint64_t *ticket,
                              struct rxt_error *err);
/* Ends a turn at its next token as its on_cancel says (several answers: always discard); a request
 * that waits is dropped. Unknown or finished tickets are ignored. */
void bridge_cancel(struct bridge *b, uint64_t ticket);
/* When to submit again what was refused with EBUSY: an estimate from the turns so far. */
uint64_t bridge_retry_after_us(const struct bridge *b);

/* Submits, steps until the final event and gives the status of the outcome: for tools. on_event may
 * be NULL. */
enum rxt_status bridge_call(struct bridge *b, const struct bridge_request *r,
                            bridge_on_event on_event, void *user, struct rxt_error *err);

/* Sessions of a tenant, sorted by name, after `after` ("" = from the start): fills at most cap.
 * Reads rows only, pages nothing in. */
enum rxt_status bridge_list(struct bridge *b, const char *tenant, const char *after,
                            struct bridge_session_info *out, size_t cap, size_t *n,
                            struct rxt_error *err);

/* What has been done since the process began (operations, heap) and since bridge_open (pages): the
 * figures that must not depend on how many turns a session has had. Call it when idle. */
struct bridge_stats {
    struct count count;
    struct mem_stats mem;
    struct store_stats store;
};
enum rxt_status bridge_stats(struct bridge *b, struct bridge_stats *out, struct rxt_error *err);

/* How it stands now, for metrics and health. Walks the session table: not for every step. */
struct bridge_gauges {
    int32_t n_session[BRIDGE_HELD + 1]; /* in the table, by state */
    int32_t n_request, n_live;          /* on their way; answers that decode */
    int32_t n_ready, n_load;            /* turns that wait for a slot; requests, for bytes */
    int32_t n_update;                   /* memories that are being made or wait for it */
    uint64_t memory_age_us;       /* of the oldest of them, since it was journaled; 0 = none */
    size_t bytes, max_bytes;      /* of sessions */
    uint64_t n_evicted, n_loaded; /* sessions since bridge_open */
    uint64_t n_replayed;          /* rows absorbed again since then */
};
void bridge_gauges(const struct bridge *b, struct bridge_gauges *out);

#endif
