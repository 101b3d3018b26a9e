/* A client of rxtd in C (bridge/PROTOCOL.md), synchronous and streaming: start a request, take its
 * events one by one until the final one.
 *
 *   client_open(&c, &(struct client_config){.endpoint = "tcp://127.0.0.1:7110"}, &err);
 *   client_start(c, &(struct client_request){.verb = CLIENT_TURN, .session = "anna",
 *                                            .query = "hi"}, &err);
 *   do st = client_next(c, &e, &err); while (st == RXT_OK && !e.final);
 *
 * One request at a time: starting the next one leaves the one before to the server, where it is
 * answered and remembered all the same. A lost connection and a server that restarts are waited
 * out: the request is resumed where its answer stopped, or sent again under its id, which never
 * makes a second turn. For one thread. */
#ifndef RXT_BRIDGE_CLIENT_H
#define RXT_BRIDGE_CLIENT_H

#include "kernels/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client; /* opaque */

struct client_config {      /* zeroed = defaults; the texts are copied */
    const char *endpoint;   /* its `turn`; NULL = tcp://127.0.0.1:7110. EXPORT, DIFF: `state` */
    const char *name;       /* for the server's log; NULL = none */
    uint32_t timeout_ms;    /* without a word on the request: EIO; 0 = 60,000 */
    uint32_t patience_ms;   /* a server that is full is asked again so long; 0 = 10,000 */
    const char *server_key; /* CURVE: the server's public key and the client's secret one, 40 */
    const char *secret_key; /* characters of Z85 each; NULL = no CURVE */
};
struct client_welcome { /* what the server says of itself */
    char model[128], tenant[128];
    uint8_t model_hash[16];
    uint64_t n_vocab, max_seq_len, max_candidates, session_bytes;
};

/* Gives *out: connects and says HELLO. EIO: nobody answers; EINVAL: the endpoint, a key;
 * EUNSUPPORTED: a server of other versions. */
enum rxt_status client_open(struct client **out, const struct client_config *cfg,
                            struct rxt_error *err);
/* A turn that runs goes on in the server. NULL-safe. */
void client_close(struct client **c);
const struct client_welcome *client_welcome(const struct client *c); /* lent until client_close */

/* ---- requests --------------------------------------------------------------------------- */

enum client_verb {
    CLIENT_TURN,
    CLIENT_REMEMBER,
    CLIENT_OPEN,
    CLIENT_GET,
    CLIENT_FORK,
    CLIENT_REWIND,
    CLIENT_RESET,
    CLIENT_ERASE,
    CLIENT_LIST,
    CLIENT_EXPORT, /* on the endpoint `state` */
    CLIENT_DIFF,   /* as EXPORT */
};
enum client_thinking { CLIENT_FAST, CLIENT_EXTENDED, CLIENT_AUTO };
enum client_on_busy { CLIENT_BUSY_WAIT, CLIENT_BUSY_REJECT };
enum client_on_stale { CLIENT_STALE_WAIT, CLIENT_STALE_PROCEED, CLIENT_STALE_REJECT };

struct client_request { /* zeroed = defaults of the document; copied by client_start */
    enum client_verb verb;
    const char *session; /* LIST: those after this name; NULL = from the first */
    uint8_t id[16];      /* zeros = a new random one */

    /* TURN */
    const char *query, *tool_result; /* one of them */
    const char *internal;
    enum client_thinking thinking;
    float temperature;          /* 0 = greedy */
    float top_p;                /* 0 = 1 */
    uint32_t top_k, max_tokens; /* 0 = off, as far as max_seq_len goes */
    uint32_t n;                 /* candidates; 0 = 1 */
    bool dry_run;               /* no journal, no memory */
    bool commit_partial;        /* on_cancel: what was said is remembered */
    bool cancel_on_disconnect;
    enum client_on_busy on_busy; /* also REMEMBER */
    enum client_on_stale on_stale;
    uint32_t min_version;
    uint32_t queue_ms, first_token_ms, total_ms, memory_ms; /* deadlines; 0 = none */

    uint64_t seed; /* TURN: 0 = the session's; OPEN: 0 = random */

    /* REMEMBER: ids, or question and answer */
    const int32_t *ids;
    size_t n_ids;
    const char *question, *answer;

    const char *from;           /* OPEN: seed memory; NULL = none */
    const char *to;             /* FORK; DIFF: the other session, NULL = the same */
    const uint32_t *version;    /* FORK, REWIND, OPEN with `from`: NULL = newest; TURN, REMEMBER:
                                 * if_version, NULL = any; DIFF: of `session` */
    const uint32_t *to_version; /* DIFF: of `to`; NULL = newest */

    const char *prefix; /* LIST: names that begin so; NULL = all */
    uint32_t limit;     /* LIST: so many at once, at most 256; 0 = 256 */
    bool only_held;     /* LIST */
};

/* Sends a request. EINVAL: a text that is missing, a request that cannot be encoded; ELIMIT: longer
 * than a body may be; EIO: the connection. What the server refuses comes from client_next. */
enum rxt_status client_start(struct client *c, const struct client_request *r,
                             struct rxt_error *err);

enum client_event_kind {
    CLIENT_ACCEPTED,  /* a turn has its place: price */
    CLIENT_TOKEN,     /* text, ids, candidate */
    CLIENT_UNDECIDED, /* all candidates have ended: client_choose */
    CLIENT_DONE,      /* on disk; of a verb: info */
    CLIENT_MEMORY,    /* in the memory: version, stm_hash */
    CLIENT_CHUNK,     /* of an EXPORT: text, offset */
};
struct client_session { /* one of a LIST; texts are cut to their fields, "" where absent */
    char session[128], origin[128], held_reason[256];
    char state[16]; /* cold, resident, answering, remembering, held */
    char stm_dtype[8];
    uint64_t version, n_turn, seed, created_us, used_us, origin_version;
    bool mixed_class, has_hash;
    uint8_t stm_hash[16];
};
struct client_event { /* texts and arrays are lent until the next call; what is absent is 0 */
    enum client_event_kind kind;
    bool final;          /* no more events */
    bool stored;         /* answered from the journal: no MEMORY follows */
    const char *session; /* not of TOKEN */
    size_t session_bytes;

    const char *text; /* TOKEN: complete code points, not terminated; may be empty.
                       * CHUNK: bytes as they are */
    size_t text_bytes;
    uint64_t offset;    /* CHUNK: of its first byte. 0 again: the export begins anew, because the
                         * connection was lost; what came before is void */
    const int32_t *ids; /* TOKEN; DONE of GET: query and answer of the last turn */
    size_t n_ids;
    uint32_t candidate; /* TOKEN, DONE */

    uint64_t price_tokens, price_bytes, price_us, position; /* ACCEPTED */
    char finish[8];                           /* DONE of a turn: eos, length, cancel */
    uint64_t n_query, n_answer, read_version; /* DONE of a turn; n_query: GET */
    uint64_t version;                         /* DONE: the one it becomes (of a
                                               * verb: that it has); MEMORY */
    uint64_t queue_us, first_token_us, answer_us, journal_us; /* DONE of a turn */
    uint64_t lag_us, memory_us;                               /* MEMORY */
    uint64_t n_turn, seed;                                    /* DONE of OPEN, GET, FORK */
    bool has_hash;
    uint8_t stm_hash[16]; /* MEMORY; DONE of GET */

    const struct client_session *sessions; /* DONE of LIST, sorted by name */
    size_t n_sessions;
    bool more; /* DONE of LIST: go on after the last of them */

    const float *change, *cosine; /* DONE of DIFF: [n_layer][n_slot] */
    uint64_t n_layer, n_slot;
};

/* Waits for the next event of the request. A refusal is a status with its sentence in err: what the
 * server's error means in the C library (section 6 of the document), EBUSY for what is full, EIO
 * for what only a later attempt can tell. MEMORY_FAILED and CANCELLED (ECANCELLED) are statuses
 * too. */
enum rxt_status client_next(struct client *c, struct client_event *e, struct rxt_error *err);
/* Starts, and takes events until the final one, which *last is; last may be NULL. */
enum rxt_status client_call(struct client *c, const struct client_request *r,
                            struct client_event *last, struct rxt_error *err);
/* After UNDECIDED: makes this candidate the turn; DONE and MEMORY follow. */
enum rxt_status client_choose(struct client *c, uint32_t candidate, struct rxt_error *err);
/* Ends the answer at its next token; go on with client_next. */
void client_cancel(struct client *c);
/* The PROTOCOL.md number of the error behind the last status of client_next; 0 if it was not the
 * server's. */
uint32_t client_error_code(const struct client *c);

#endif
