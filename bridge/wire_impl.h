/* RXTP/1 as bytes: headers and bodies to structs and back (bridge/PROTOCOL.md is the contract).
 * Knows no socket and keeps no state. What comes in is hostile: nothing is allocated because a
 * length says so, every text and array is lent from the frame it stands in.
 *
 * Header, little endian: magic 4, version 1, type 1, flags 2, request id 16, sequence 4, body
 * bytes 4. Body: one MessagePack map; its keys, their types and limits are the tables of
 * wire_keys.c, which serve both directions. */
#ifndef RXT_BRIDGE_WIRE_IMPL_H
#define RXT_BRIDGE_WIRE_IMPL_H

#include "kernels/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_VERSION 1
#define WIRE_HEADER_BYTES 32
#define WIRE_ID_BYTES 16
#define WIRE_BODY_MAX 262144u
#define WIRE_CHUNK_BYTES 1048576u /* frame 2 */
#define WIRE_DEPTH_MAX 4          /* maps and arrays inside each other, the body's map is 1 */
#define WIRE_KEYS_MAX 64          /* keys of one map */
#define WIRE_NAME_MAX 127         /* bytes of a session name */
#define WIRE_VERSION_MAX 0x7fffffffu
#define WIRE_ITEMS_MAX 256 /* sessions of a LIST */
#define WIRE_CANDIDATES_MAX 8

enum wire_flag { WIRE_FINAL = 1, WIRE_STORED = 2 };

/* Name, number, who sends it, where (t turn, s state, a admin), its request id: z zero, i an id. */
#define WIRE_TYPE_TABLE(X)                   \
    X(HELLO, 0x01, CLIENT, "tsa", 'z')       \
    X(TURN, 0x02, CLIENT, "t", 'i')          \
    X(CANCEL, 0x03, CLIENT, "tsa", 'i')      \
    X(CREDIT, 0x04, BOTH, "ts", 'z')         \
    X(RESUME, 0x05, CLIENT, "t", 'i')        \
    X(CHOOSE, 0x06, CLIENT, "t", 'i')        \
    X(PING, 0x07, BOTH, "tsa", 'z')          \
    X(OPEN, 0x10, CLIENT, "t", 'i')          \
    X(LIST, 0x11, CLIENT, "t", 'i')          \
    X(GET, 0x12, CLIENT, "t", 'i')           \
    X(FORK, 0x13, CLIENT, "t", 'i')          \
    X(REWIND, 0x14, CLIENT, "t", 'i')        \
    X(RESET, 0x15, CLIENT, "t", 'i')         \
    X(ERASE, 0x16, CLIENT, "t", 'i')         \
    X(REMEMBER, 0x17, CLIENT, "t", 'i')      \
    X(EXPORT, 0x18, CLIENT, "s", 'i')        \
    X(IMPORT, 0x19, CLIENT, "s", 'i')        \
    X(DIFF, 0x1A, CLIENT, "s", 'i')          \
    X(CHUNK, 0x1B, BOTH, "s", 'i')           \
    X(HEALTH, 0x20, CLIENT, "a", 'i')        \
    X(STATS, 0x21, CLIENT, "a", 'i')         \
    X(RELOAD, 0x22, CLIENT, "a", 'i')        \
    X(DRAIN, 0x23, CLIENT, "a", 'i')         \
    X(WELCOME, 0x81, SERVER, "tsa", 'z')     \
    X(ACCEPTED, 0x82, SERVER, "ts", 'i')     \
    X(TOKEN, 0x83, SERVER, "t", 'i')         \
    X(DONE, 0x84, SERVER, "tsa", 'i')        \
    X(MEMORY, 0x85, SERVER, "t", 'i')        \
    X(MEMORY_FAILED, 0x86, SERVER, "t", 'i') \
    X(CANCELLED, 0x87, SERVER, "ts", 'i')    \
    X(PONG, 0x88, SERVER, "tsa", 'z')        \
    X(DRAINING, 0x89, SERVER, "tsa", 'z')    \
    X(ERROR, 0x8A, SERVER, "tsa", 'i')       \
    X(UNDECIDED, 0x8B, SERVER, "t", 'i')

enum wire_type {
#define WIRE_TYPE_ENUM(name, number, from, where, id) WIRE_##name = number,
    WIRE_TYPE_TABLE(WIRE_TYPE_ENUM)
#undef WIRE_TYPE_ENUM
};

/* Code, name, whether the same request can succeed later. Never reuse a number. */
#define WIRE_ERROR_TABLE(X)                         \
    X(BAD_FRAME, 101, "bad_frame", false)           \
    X(BAD_BODY, 102, "bad_body", false)             \
    X(UNKNOWN_TYPE, 103, "unknown_type", false)     \
    X(UNKNOWN_KEY, 104, "unknown_key", false)       \
    X(MISSING_KEY, 105, "missing_key", false)       \
    X(BAD_VALUE, 106, "bad_value", false)           \
    X(TOO_LARGE, 107, "too_large", false)           \
    X(BAD_UTF8, 108, "bad_utf8", false)             \
    X(BAD_VERSION, 109, "bad_version", false)       \
    X(HELLO_NEEDED, 110, "hello_needed", true)      \
    X(WRONG_ENDPOINT, 111, "wrong_endpoint", false) \
    X(BAD_ID, 112, "bad_id", false)                 \
    X(NO_SESSION, 201, "no_session", false)         \
    X(NO_REQUEST, 202, "no_request", true)          \
    X(NO_VERSION, 203, "no_version", false)         \
    X(EXISTS, 204, "exists", false)                 \
    X(STALE, 205, "stale", false)                   \
    X(HELD, 206, "held", false)                     \
    X(EXPIRED, 207, "expired", false)               \
    X(MISMATCH, 208, "mismatch", false)             \
    X(LIMIT, 209, "limit", false)                   \
    X(UNSUPPORTED, 210, "unsupported", false)       \
    X(MOVED, 211, "moved", false)                   \
    X(DETACHED, 212, "detached", true)              \
    X(BUSY, 301, "busy", true)                      \
    X(DEADLINE, 302, "deadline", true)              \
    X(DRAINS, 303, "draining", true)                \
    X(TENANT_LIMIT, 304, "tenant_limit", true)      \
    X(TOO_MANY, 305, "too_many", true)              \
    X(NO_MEMORY, 401, "no_memory", true)            \
    X(DISK_FULL, 402, "disk_full", true)            \
    X(IO, 403, "io", true)                          \
    X(DEVICE, 404, "device", true)                  \
    X(CORRUPT, 405, "corrupt", false)               \
    X(FORMAT, 406, "format", false)                 \
    X(NEWER, 407, "newer", false)                   \
    X(NOT_FINITE, 408, "not_finite", false)         \
    X(FENCED, 409, "fenced", true)                  \
    X(INTERNAL, 410, "internal", false)

enum wire_error {
    WIRE_OK = 0,
#define WIRE_ERROR_ENUM(name, number, text, retry) WIRE_E_##name = number,
    WIRE_ERROR_TABLE(WIRE_ERROR_ENUM)
#undef WIRE_ERROR_ENUM
};
const char *wire_error_name(enum wire_error e); /* "bad_frame"; "internal" for unknown numbers */
bool wire_error_retryable(enum wire_error e);
/* What a status of the library is on the wire; WIRE_OK for RXT_OK and RXT_ECANCELLED. */
enum wire_error wire_error_of(enum rxt_status st);

/* ---- header ------------------------------------------------------------------------------ */

struct wire_header {
    uint8_t version;
    uint8_t type; /* of enum wire_type if wire_type_name knows it */
    uint16_t flags;
    uint8_t id[WIRE_ID_BYTES];
    uint32_t sequence;
    uint32_t body_bytes;
};
void wire_header_put(const struct wire_header *h, uint8_t out[WIRE_HEADER_BYTES]);
/* False: not ours (length or magic); then *h is untouched. Nothing else is checked. */
bool wire_header_get(const void *bytes, size_t n, struct wire_header *h);
const char *wire_type_name(uint8_t type); /* "HELLO"; NULL for an unknown one */
/* Whether a client may send it, or a server; whether the endpoint ('t', 's', 'a') has it; whether
 * its request id is zero. For known types. */
bool wire_type_from_client(uint8_t type);
bool wire_type_from_server(uint8_t type);
bool wire_type_at(uint8_t type, char endpoint);
bool wire_type_id_zero(uint8_t type);

/* ---- body -------------------------------------------------------------------------------- */

struct wire_text { /* lent, not terminated; also for bytes */
    const char *p;
    uint32_t n;
};
struct wire_ids { /* decoded: `raw` (read by wire_ids_copy); to encode: `v` */
    const int32_t *v;
    const uint8_t *raw;
    uint32_t n;
};
enum wire_thinking { WIRE_FAST, WIRE_EXTENDED, WIRE_AUTO };
enum wire_commit { WIRE_COMMIT_AUTO, WIRE_COMMIT_NEVER };
enum wire_on_busy { WIRE_BUSY_WAIT, WIRE_BUSY_REJECT, WIRE_BUSY_FORK };
enum wire_on_stale { WIRE_STALE_WAIT, WIRE_STALE_PROCEED, WIRE_STALE_REJECT };
enum wire_on_cancel { WIRE_CANCEL_DISCARD, WIRE_CANCEL_COMMIT };
enum wire_on_disconnect { WIRE_DISCONNECT_KEEP, WIRE_DISCONNECT_CANCEL };

struct wire_price {
    uint64_t tokens_max, bytes, us_expected;
};
struct wire_usage {
    uint64_t queue_us, first_token_us, answer_us, journal_us;
};
struct wire_candidate {
    struct wire_text finish;
    uint64_t n_answer;
};
struct wire_info {
    struct wire_text session, state, stm_dtype, stm_hash, held_reason, origin;
    uint64_t version, n_turn, seed, created_us, used_us, origin_version;
    int mixed_class;
};

/* The keys of all messages; each table in wire_keys.c names those of one. wire_init gives every key
 * of a message its default or, where there is none, what stands for absent: NULL text, no ids,
 * WIRE_ABSENT, -1 for a bool. */
#define WIRE_ABSENT UINT64_MAX
struct wire_body {
    struct wire_text session, query, tool_result, internal, answer, fork_to, to, from_session,
        after, prefix, other, client;
    struct wire_text server, endpoint, tenant, model, model_hash, bit_class, text, finish, stm_hash,
        state, metrics, name, detail, key, change, cosine;
    struct wire_ids versions, ids, last_ids;
    double temperature, top_p;
    int thinking, commit, on_busy, on_stale, on_cancel, on_disconnect;
    uint64_t credit, bytes, chunks, from, candidate, seed, version, to_version, from_version, limit,
        top_k, max_tokens, n, min_version, if_version, queue_ms, first_token_ms, total_ms,
        memory_ms, deadline_ms;
    uint64_t n_vocab, max_seq_len, answer_min, session_bytes, stm_bytes, max_body_bytes,
        chunk_bytes, max_candidates, max_inflight, credit_max, heartbeat_ms, grace_ms, window;
    uint64_t position, n_query, n_answer, read_version, pending_version, lag_us, memory_us, code,
        retry_after_ms, expires_ms, n_layer, n_slot, step_age_us, memory_age_us;
    int retryable, more, live, ready, held; /* 0, 1 or -1 */
    struct wire_price price;
    struct wire_usage usage;
    struct wire_info info;
    struct wire_candidate *candidates; /* array of `cap`; decoded into, or to encode */
    uint32_t n_candidates, cap_candidates;
    struct wire_info *sessions;
    uint32_t n_sessions, cap_sessions;
};
/* Why a body was refused. */
struct wire_fault {
    enum wire_error code;
    char key[32];     /* "" if no one key is to blame */
    char detail[160]; /* a sentence, no text of a user */
};

void wire_init(uint8_t type, struct wire_body *b); /* keeps what candidates and sessions point to */

/* Reads the body of a message into *out, its texts and ids lent from `bytes`; out->candidates and
 * out->sessions with their caps are the caller's. Not WIRE_OK: *f says why, *out is void. Unknown
 * keys are a fault in what clients send (unless they begin with '?') and skipped in what servers
 * send. */
enum wire_error wire_decode(uint8_t type, const void *bytes, size_t n, struct wire_body *out,
                            struct wire_fault *f);
void wire_ids_copy(const struct wire_ids *ids, int32_t *out); /* decoded ones, all n */

/* Writes the body: keys in the order of the document, shortest form; keys that may be left out are
 * where they have their default. ELIMIT: more than cap. */
enum rxt_status wire_encode(uint8_t type, const struct wire_body *b, void *out, size_t cap,
                            size_t *n);

static inline struct wire_text wire_bytes(const void *p, size_t n)
{
    return (struct wire_text){p, (uint32_t)n};
}
struct wire_text wire_string(const char *s); /* NULL = "" */

#endif
