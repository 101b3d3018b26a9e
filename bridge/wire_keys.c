#include "bridge/wire_keys_impl.h"

/* Rows of a table. B_: a key of struct wire_body; the order is that of the document. */
#define AT(member) offsetof(struct wire_body, member)
#define TEXT(key, member, must_, lo_, hi_)                                                    \
    {                                                                                         \
        .name = key, .kind = KIND_TEXT, .at = AT(member), .must = must_, .lo = lo_, .hi = hi_ \
    }
#define NAME(key, member, must_)                                                  \
    {                                                                             \
        .name = key, .kind = KIND_NAME, .at = AT(member), .must = must_, .lo = 1, \
        .hi = WIRE_NAME_MAX                                                       \
    }
#define UINT(key, member, hi_, init_)                                              \
    {                                                                              \
        .name = key, .kind = KIND_UINT, .at = AT(member), .hi = hi_, .init = init_ \
    }
#define MUST_UINT(key, member, lo_, hi_)                                                     \
    {                                                                                        \
        .name = key, .kind = KIND_UINT, .at = AT(member), .must = true, .lo = lo_, .hi = hi_ \
    }
#define CHOICE(key, member, names)                                          \
    {                                                                       \
        .name = key, .kind = KIND_CHOICE, .at = AT(member), .choice = names \
    }
#define FLAG(key, member, must_)                                                            \
    {                                                                                       \
        .name = key, .kind = KIND_BOOL, .at = AT(member), .must = must_, .init = UINT64_MAX \
    }
#define BIN(key, member, must_, lo_, hi_)                                                    \
    {                                                                                        \
        .name = key, .kind = KIND_BIN, .at = AT(member), .must = must_, .lo = lo_, .hi = hi_ \
    }
#define IDS(key, member, must_, lo_, hi_)                                                    \
    {                                                                                        \
        .name = key, .kind = KIND_IDS, .at = AT(member), .must = must_, .lo = lo_, .hi = hi_ \
    }
#define SESSION NAME("session", session, true)
#define MAY_UINT(key, member) UINT(key, member, UINT64_MAX, WIRE_ABSENT)
#define ANY_UINT(key, member) MUST_UINT(key, member, 0, UINT64_MAX)
#define ANY_TEXT(key, member, must_) TEXT(key, member, must_, 0, WIRE_BODY_MAX)
#define VERSION(key, member) UINT(key, member, WIRE_VERSION_MAX, WIRE_ABSENT)
#define END \
    {       \
        0   \
    }

static const char *const thinking[] = {"fast", "extended", "auto", NULL};
static const char *const commit[] = {"auto", "never", NULL};
static const char *const on_busy[] = {"wait", "reject", "fork", NULL};
static const char *const on_busy_plain[] = {"wait", "reject", NULL};
static const char *const on_stale[] = {"wait", "proceed", "reject", NULL};
static const char *const on_cancel[] = {"discard", "commit_partial", NULL};
static const char *const on_disconnect[] = {"keep", "cancel", NULL};

static const struct wire_key none[] = {END};
static const struct wire_key session_only[] = {SESSION, END};

static const struct wire_key hello[] = {
    IDS("versions", versions, true, 1, 16),
    MAY_UINT("credit", credit),
    NAME("client", client, false),
    END,
};

static const struct wire_key turn[] = {
    SESSION,
    TEXT("query", query, false, 1, WIRE_BODY_MAX),
    TEXT("tool_result", tool_result, false, 1, WIRE_BODY_MAX),
    ANY_TEXT("internal", internal, false),
    CHOICE("thinking", thinking, thinking),
    {.name = "temperature", .kind = KIND_REAL, .at = AT(temperature), .real_hi = 1e30},
    UINT("top_k", top_k, INT32_MAX, 0),
    {.name = "top_p",
     .kind = KIND_REAL,
     .at = AT(top_p),
     .real_init = 1,
     .real_hi = 1,
     .open_lo = true},
    UINT("seed", seed, UINT64_MAX, 0),
    UINT("max_tokens", max_tokens, INT32_MAX, 0),
    {.name = "n", .kind = KIND_UINT, .at = AT(n), .lo = 1, .hi = WIRE_CANDIDATES_MAX, .init = 1},
    CHOICE("commit", commit, commit),
    CHOICE("on_busy", on_busy, on_busy),
    NAME("fork_to", fork_to, false),
    CHOICE("on_stale", on_stale, on_stale),
    UINT("min_version", min_version, WIRE_VERSION_MAX, 0),
    VERSION("if_version", if_version),
    CHOICE("on_cancel", on_cancel, on_cancel),
    CHOICE("on_disconnect", on_disconnect, on_disconnect),
    UINT("queue_ms", queue_ms, UINT32_MAX, 0),
    UINT("first_token_ms", first_token_ms, UINT32_MAX, 0),
    UINT("total_ms", total_ms, UINT32_MAX, 0),
    UINT("memory_ms", memory_ms, UINT32_MAX, 0),
    END,
};

static const struct wire_key credit[] = {MUST_UINT("bytes", bytes, 1, UINT64_MAX), END};
static const struct wire_key resume[] = {SESSION, UINT("from", from, UINT32_MAX, 0), END};
static const struct wire_key choose[] = {
    SESSION,
    MUST_UINT("candidate", candidate, 0, WIRE_CANDIDATES_MAX - 1),
    END,
};

static const struct wire_key open_keys[] = {
    SESSION,
    UINT("seed", seed, UINT64_MAX, 0),
    NAME("from", from_session, false),
    VERSION("from_version", from_version),
    END,
};
static const struct wire_key list[] = {
    TEXT("after", after, false, 0, WIRE_NAME_MAX),
    {.name = "limit",
     .kind = KIND_UINT,
     .at = AT(limit),
     .lo = 1,
     .hi = WIRE_ITEMS_MAX,
     .init = 100},
    TEXT("prefix", prefix, false, 0, WIRE_NAME_MAX),
    FLAG("held", held, false),
    END,
};
static const struct wire_key fork_keys[] = {
    SESSION,
    NAME("to", to, true),
    VERSION("version", version),
    END,
};
static const struct wire_key rewind_keys[] = {
    SESSION,
    MUST_UINT("version", version, 0, WIRE_VERSION_MAX),
    END,
};
static const struct wire_key remember[] = {
    SESSION,
    IDS("ids", ids, false, 1, WIRE_BODY_MAX),
    TEXT("query", query, false, 1, WIRE_BODY_MAX),
    ANY_TEXT("answer", answer, false),
    CHOICE("on_busy", on_busy, on_busy_plain),
    VERSION("if_version", if_version),
    END,
};
static const struct wire_key import[] = {SESSION, MUST_UINT("bytes", bytes, 1, UINT64_MAX), END};
static const struct wire_key diff[] = {
    SESSION,
    MUST_UINT("version", version, 0, WIRE_VERSION_MAX),
    VERSION("to_version", to_version),
    NAME("other", other, false),
    END,
};
static const struct wire_key drain[] = {
    UINT("deadline_ms", deadline_ms, UINT32_MAX, WIRE_ABSENT),
    END,
};

/* ---- servers ----------------------------------------------------------------------------- */

static const struct wire_key welcome[] = {
    ANY_UINT("version", version),
    ANY_TEXT("server", server, true),
    ANY_TEXT("endpoint", endpoint, true),
    ANY_TEXT("tenant", tenant, true),
    ANY_TEXT("model", model, true),
    BIN("model_hash", model_hash, true, 16, 16),
    ANY_TEXT("bit_class", bit_class, true),
    ANY_UINT("n_vocab", n_vocab),
    ANY_UINT("max_seq_len", max_seq_len),
    ANY_UINT("answer_min", answer_min),
    ANY_UINT("session_bytes", session_bytes),
    ANY_UINT("stm_bytes", stm_bytes),
    ANY_UINT("max_body_bytes", max_body_bytes),
    ANY_UINT("chunk_bytes", chunk_bytes),
    ANY_UINT("max_candidates", max_candidates),
    ANY_UINT("max_inflight", max_inflight),
    ANY_UINT("credit_max", credit_max),
    ANY_UINT("heartbeat_ms", heartbeat_ms),
    ANY_UINT("grace_ms", grace_ms),
    ANY_UINT("window", window),
    END,
};

#define PART(type_, key, member, must_)                                                      \
    {                                                                                        \
        .name = key, .kind = KIND_UINT, .at = offsetof(struct type_, member), .must = must_, \
        .hi = UINT64_MAX, .init = WIRE_ABSENT                                                \
    }
#define PART_TEXT(type_, key, member, must_)                                                 \
    {                                                                                        \
        .name = key, .kind = KIND_TEXT, .at = offsetof(struct type_, member), .must = must_, \
        .hi = WIRE_BODY_MAX                                                                  \
    }

static const struct wire_key price[] = {
    PART(wire_price, "tokens_max", tokens_max, true),
    PART(wire_price, "bytes", bytes, true),
    PART(wire_price, "us_expected", us_expected, true),
    END,
};
static const struct wire_key usage[] = {
    PART(wire_usage, "queue_us", queue_us, false),
    PART(wire_usage, "first_token_us", first_token_us, false),
    PART(wire_usage, "answer_us", answer_us, false),
    PART(wire_usage, "journal_us", journal_us, false),
    END,
};
static const struct wire_key candidate[] = {
    PART_TEXT(wire_candidate, "finish", finish, true),
    PART(wire_candidate, "n_answer", n_answer, true),
    END,
};
static const struct wire_key info[] = {
    PART_TEXT(wire_info, "session", session, true),
    PART_TEXT(wire_info, "state", state, true),
    PART(wire_info, "version", version, true),
    PART(wire_info, "n_turn", n_turn, true),
    PART_TEXT(wire_info, "stm_dtype", stm_dtype, true),
    PART(wire_info, "seed", seed, true),
    {.name = "mixed_class",
     .kind = KIND_BOOL,
     .at = offsetof(struct wire_info, mixed_class),
     .must = true,
     .init = UINT64_MAX},
    PART(wire_info, "created_us", created_us, true),
    PART(wire_info, "used_us", used_us, true),
    {.name = "stm_hash",
     .kind = KIND_BIN,
     .at = offsetof(struct wire_info, stm_hash),
     .lo = 16,
     .hi = 16},
    PART_TEXT(wire_info, "held_reason", held_reason, false),
    PART_TEXT(wire_info, "origin", origin, false),
    PART(wire_info, "origin_version", origin_version, false),
    END,
};
#define CANDIDATES(must_)                                                                        \
    {                                                                                            \
        .name = "candidates", .kind = KIND_MAPS, .at = AT(candidates), .must = must_,            \
        .hi = WIRE_CANDIDATES_MAX, .sub = candidate, .sub_bytes = sizeof(struct wire_candidate), \
        .count_at = AT(n_candidates), .cap_at = AT(cap_candidates)                               \
    }

static const struct wire_key accepted[] = {
    SESSION,
    {.name = "price", .kind = KIND_MAP, .at = AT(price), .sub = price},
    MAY_UINT("position", position),
    MAY_UINT("credit", credit),
    END,
};
static const struct wire_key token[] = {
    ANY_TEXT("text", text, true),
    IDS("ids", ids, true, 1, WIRE_BODY_MAX),
    UINT("candidate", candidate, WIRE_CANDIDATES_MAX - 1, 0),
    END,
};
static const struct wire_key done[] = {
    NAME("session", session, false),
    {.name = "info", .kind = KIND_MAP, .at = AT(info), .sub = info},
    IDS("last_ids", last_ids, false, 0, WIRE_BODY_MAX),
    ANY_TEXT("finish", finish, false),
    CANDIDATES(false),
    MAY_UINT("n_query", n_query),
    MAY_UINT("n_answer", n_answer),
    MAY_UINT("read_version", read_version),
    MAY_UINT("pending_version", pending_version),
    MAY_UINT("candidate", candidate),
    {.name = "usage", .kind = KIND_MAP, .at = AT(usage), .sub = usage},
    {.name = "sessions",
     .kind = KIND_MAPS,
     .at = AT(sessions),
     .hi = WIRE_ITEMS_MAX,
     .sub = info,
     .sub_bytes = sizeof(struct wire_info),
     .count_at = AT(n_sessions),
     .cap_at = AT(cap_sessions)},
    FLAG("more", more, false),
    MAY_UINT("bytes", bytes),
    MAY_UINT("chunks", chunks),
    MAY_UINT("n_layer", n_layer),
    MAY_UINT("n_slot", n_slot),
    BIN("change", change, false, 0, WIRE_CHUNK_BYTES),
    BIN("cosine", cosine, false, 0, WIRE_CHUNK_BYTES),
    FLAG("live", live, false),
    FLAG("ready", ready, false),
    ANY_TEXT("state", state, false),
    MAY_UINT("step_age_us", step_age_us),
    MAY_UINT("memory_age_us", memory_age_us),
    ANY_TEXT("metrics", metrics, false),
    END,
};
static const struct wire_key memory[] = {
    SESSION,
    ANY_UINT("version", version),
    BIN("stm_hash", stm_hash, true, 16, 16),
    ANY_UINT("lag_us", lag_us),
    ANY_UINT("memory_us", memory_us),
    END,
};
static const struct wire_key memory_failed[] = {
    SESSION,
    ANY_UINT("version", version),
    ANY_UINT("code", code),
    ANY_TEXT("name", name, true),
    ANY_TEXT("detail", detail, true),
    END,
};
static const struct wire_key error[] = {
    ANY_UINT("code", code),
    ANY_TEXT("name", name, true),
    FLAG("retryable", retryable, true),
    ANY_UINT("retry_after_ms", retry_after_ms),
    ANY_TEXT("detail", detail, true),
    ANY_TEXT("key", key, false),
    END,
};
static const struct wire_key undecided[] = {
    SESSION,
    ANY_UINT("read_version", read_version),
    ANY_UINT("expires_ms", expires_ms),
    CANDIDATES(true),
    END,
};
static const struct wire_key draining[] = {ANY_UINT("deadline_ms", deadline_ms), END};

const struct wire_key *wire_keys(uint8_t type)
{
    switch ((enum wire_type)type) {
    case WIRE_HELLO:
        return hello;
    case WIRE_TURN:
        return turn;
    case WIRE_CREDIT:
        return credit;
    case WIRE_RESUME:
        return resume;
    case WIRE_CHOOSE:
        return choose;
    case WIRE_OPEN:
        return open_keys;
    case WIRE_LIST:
        return list;
    case WIRE_FORK:
        return fork_keys;
    case WIRE_REWIND:
        return rewind_keys;
    case WIRE_REMEMBER:
        return remember;
    case WIRE_IMPORT:
        return import;
    case WIRE_DIFF:
        return diff;
    case WIRE_DRAIN:
        return drain;
    case WIRE_CANCEL:
    case WIRE_GET:
    case WIRE_RESET:
    case WIRE_ERASE:
    case WIRE_EXPORT:
    case WIRE_CANCELLED:
        return session_only;
    case WIRE_PING:
    case WIRE_PONG:
    case WIRE_CHUNK:
    case WIRE_HEALTH:
    case WIRE_STATS:
    case WIRE_RELOAD:
        return none;
    case WIRE_WELCOME:
        return welcome;
    case WIRE_ACCEPTED:
        return accepted;
    case WIRE_TOKEN:
        return token;
    case WIRE_DONE:
        return done;
    case WIRE_MEMORY:
        return memory;
    case WIRE_MEMORY_FAILED:
        return memory_failed;
    case WIRE_DRAINING:
        return draining;
    case WIRE_ERROR:
        return error;
    case WIRE_UNDECIDED:
        return undecided;
    }
    return NULL;
}
