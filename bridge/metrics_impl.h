/* What the server counts, as Prometheus text (design 10). Any thread counts, with relaxed atomics;
 * whoever asks renders. No text of users, no names of sessions or tenants. */
#ifndef RXT_BRIDGE_METRICS_IMPL_H
#define RXT_BRIDGE_METRICS_IMPL_H

#include "bridge/wire_impl.h"

#include <stdatomic.h>

#define METRICS_BUCKETS 18 /* bounds in metrics.c */

/* Name, help. Microseconds go in, seconds come out. */
#define METRICS_HISTOGRAMS(X)                                                       \
    X(QUEUE, "queue_seconds", "arrival of a turn to the start of its prefill")      \
    X(FIRST_TOKEN, "first_token_seconds", "arrival of a turn to its first token")   \
    X(TOKEN, "token_seconds", "time of one token behind the first, mean of a turn") \
    X(TURN, "turn_seconds", "arrival of a turn to the end of its answer")           \
    X(JOURNAL, "journal_seconds", "end of an answer to durable")                    \
    X(MEMORY_LAG, "memory_lag_seconds", "end of an answer to committed memory")

#define METRICS_COUNTERS(X)                                                 \
    X(TURNS, "turns_total", "turns answered and journaled")                 \
    X(DRY_RUNS, "dry_runs_total", "turns answered that are not remembered") \
    X(STORED, "stored_answers_total", "repeats answered from the journal")  \
    X(TOKENS_IN, "query_tokens_total", "tokens of queries")                 \
    X(TOKENS_OUT, "answer_tokens_total", "tokens of answers")               \
    X(COMMITS, "commits_total", "versions of memories committed")           \
    X(CANCELLED, "cancelled_total", "requests that were cancelled")         \
    X(NOT_FINITE, "not_finite_total", "updates refused: not finite")        \
    X(EVICTED, "evictions_total", "sessions paged out")                     \
    X(LOADED, "loads_total", "sessions paged in")                           \
    X(REPLAYED, "replays_total", "journal rows absorbed again")             \
    X(RECEIVED, "messages_received_total", "messages of clients")           \
    X(SENT, "messages_sent_total", "messages to clients")                   \
    X(STALLS, "credit_stalls_total", "connections that gave no credit for too long")

#define METRICS_GAUGES(X)                                                    \
    X(CONNECTIONS, "connections", "of clients")                              \
    X(RUNNING, "requests_running", "requests without their last message")    \
    X(KEPT, "answers_kept", "streams that can be resumed")                   \
    X(KEPT_BYTES, "answers_kept_bytes", "bytes of them")                     \
    X(LIVE, "answers_live", "answers that decode")                           \
    X(QUEUE_READY, "queue_slot", "turns that wait for a slot")               \
    X(QUEUE_LOAD, "queue_bytes", "requests that wait for bytes")             \
    X(QUEUE_MEMORY, "queue_memory", "memories that are made or wait for it") \
    X(BYTES, "session_bytes", "bytes of resident sessions")                  \
    X(BYTES_MAX, "session_bytes_limit", "what they may have")                \
    X(STEP_AGE, "step_age_seconds", "since the engine took its last step")   \
    X(MEMORY_AGE, "memory_oldest_seconds", "of the oldest memory that is not committed")

#define METRICS_STATES 5 /* of sessions, as enum bridge_state */

enum metrics_histogram {
#define METRICS_ENUM(name, text, help) METRICS_##name,
    METRICS_HISTOGRAMS(METRICS_ENUM) METRICS_N_HISTOGRAM
};
enum metrics_counter { METRICS_COUNTERS(METRICS_ENUM) METRICS_N_COUNTER };
enum metrics_gauge {
    METRICS_GAUGES(METRICS_ENUM) METRICS_N_GAUGE
#undef METRICS_ENUM
};

struct histogram {
    atomic_uint_fast64_t bucket[METRICS_BUCKETS + 1]; /* the last: above all bounds */
    atomic_uint_fast64_t sum_us;
};
struct metrics {
    struct histogram histogram[METRICS_N_HISTOGRAM];
    atomic_uint_fast64_t counter[METRICS_N_COUNTER];
    atomic_uint_fast64_t gauge[METRICS_N_GAUGE];
    atomic_uint_fast64_t error[512]; /* by code of the wire */
    atomic_uint_fast64_t session[METRICS_STATES];
};

void metrics_time(struct metrics *m, enum metrics_histogram h, uint64_t us);
static inline void metrics_add(struct metrics *m, enum metrics_counter c, uint64_t n)
{
    atomic_fetch_add_explicit(&m->counter[c], n, memory_order_relaxed);
}
static inline void metrics_set(struct metrics *m, enum metrics_gauge g, uint64_t value)
{
    atomic_store_explicit(&m->gauge[g], value, memory_order_relaxed);
}
/* A count that somebody else keeps. */
static inline void metrics_keep(struct metrics *m, enum metrics_counter c, uint64_t value)
{
    atomic_store_explicit(&m->counter[c], value, memory_order_relaxed);
}
static inline void metrics_error(struct metrics *m, enum wire_error code)
{
    atomic_fetch_add_explicit(&m->error[(unsigned)code & 511], 1, memory_order_relaxed);
}

#define METRICS_TEXT_MAX 65536
/* The whole of it, terminated; returns its bytes. */
size_t metrics_text(struct metrics *m, char out[METRICS_TEXT_MAX]);

/* ---- over HTTP (metrics_http.c) ---------------------------------------------------------- */

/* Three questions with three answers: does the process live, may it get requests, does it get on.
 */
struct metrics_health {
    bool live, ready, progress;
};
struct metrics_http; /* opaque: a thread that answers /metrics, /live, /ready, /progress */
struct metrics_http_config {
    const char *address; /* "127.0.0.1:9107" or "[::1]:9107": loopback only */
    struct metrics *metrics;
    struct metrics_health (*health)(void *arg); /* in its own thread */
    void *arg;
};
/* EINVAL: the address; EIO: it cannot be bound. */
enum rxt_status metrics_http_check(const char *address, struct rxt_error *err);
enum rxt_status metrics_http_open(struct metrics_http **out, const struct metrics_http_config *cfg,
                                  struct rxt_error *err);
void metrics_http_close(struct metrics_http **h); /* NULL-safe */

#endif
