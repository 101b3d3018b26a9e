/* Plays a plan against a server and writes down when everything happened. Every time is counted
 * from the moment at which the turn was scheduled, not from the one at which it was sent. */
#ifndef RXT_TOOLS_LOAD_DRIVE_H
#define RXT_TOOLS_LOAD_DRIVE_H

#include "bridge/client_many.h"
#include "tools/rxt/load/connections.h"
#include "tools/rxt/load/histogram.h"

#include <signal.h>

enum outcome {
    TURN_NOT_SENT, /* the run ended before */
    TURN_SENT,     /* nothing final came: lost */
    TURN_DONE,     /* on the server's disk */
    TURN_CANCELLED,
    TURN_REFUSED, /* code */
};
/* One turn. Times in microseconds since it was due; 0 = that did not come. */
struct turn_record {
    uint64_t due_us; /* since the start of the run */
    uint32_t slip_us;
    uint32_t first_us, done_us, memory_us; /* first token, DONE, MEMORY */
    /* What the server says: usage of DONE, lag of MEMORY. */
    uint32_t queue_us, server_first_us, answer_us, journal_us, lag_us;
    uint32_t aside_us;                   /* when a repeat or a fork was asked for behind it */
    uint16_t n_query, n_answer, n_token; /* n_token: that came */
    uint16_t code;
    uint8_t outcome;
    uint8_t aside; /* the kind of its tag, while such a request is in flight behind it */
    bool in_flight, cancelled; /* cancelled: we asked for it */
    bool aside_again;          /* it goes out a second time, on a new connection */
};

struct load_session {
    uint64_t n_before;                /* turns it had when the run began */
    uint64_t n_done;                  /* that reported DONE in this run */
    uint64_t n_turn;                  /* it has at the end, says the server */
    uint64_t version_before, version; /* of its memory, then and then */
    /* Of the request that goes to all sessions now. */
    bool answered;
    uint64_t retry_us; /* when it may go out again; 0 = it was not refused */
};

#define LOAD_ERRORS 24
struct load_error { /* refusals of one kind */
    uint32_t code;
    uint64_t n;
    char sentence[256]; /* of the first one */
};

enum {
    MEASURE_FIRST,
    MEASURE_TOKEN,
    MEASURE_TURN,
    MEASURE_MEMORY,
    MEASURE_QUEUE,
    MEASURE_SLIP,
    MEASURES
};

struct drive {
    const struct load_plan *plan;
    char prefix[64];       /* of the names of the sessions */
    uint64_t nonce;        /* of the ids of the requests */
    uint32_t n_connection; /* for the sessions that read at once and stay */
    bool faults;           /* connections may be lost: the requests on them are asked for again */
    bool keep_answers;     /* of session 0 */
    uint64_t timeout_us;   /* without a word, when something is waited for and nothing is due */
    volatile sig_atomic_t *stop;
    /* Called about every 100 ms of the run. */
    enum rxt_status (*tick)(void *arg, struct rxt_error *err);
    void *arg;

    struct client_many *client;
    struct connections connections; /* laid out by drive_open */
    struct schedule *schedule;
    struct turn_record *turn;     /* [n_session * n_turn] */
    struct load_session *session; /* [plan_places] */
    char **answer;                /* [n_turn], if keep_answers */

    uint64_t start_us, end_us;   /* clock_us; of the run without its preparation */
    struct histogram *histogram; /* [MEASURES], of turns that are DONE and not slow */
    struct histogram *fork, *resend;
    /* Of all turns sent: each that has ended is done, refused or cancelled; memory_failed: of those
     * that are done. */
    uint64_t n_sent, n_done, n_refused, n_cancelled, n_memory_failed;
    uint64_t n_event, n_connected, n_answer_differs;
    uint64_t n_vanished; /* connections that we closed, as the plan says; not in n_connected */
    bool vanished[CONNECTIONS_MOST]; /* ... and have not been made anew yet */
    double cpu_s;                    /* of this process, during the run */
    struct load_error error[LOAD_ERRORS];
    int n_error;
};

/* Gives *d for closing, also when it fails; connects. */
enum rxt_status drive_open(struct drive *d, const struct client_config *server,
                           struct rxt_error *err);
void drive_close(struct drive *d);
/* Opens the sessions; plays all turns; asks how many turns each session has (drive.session);
 * erases them. What the server refuses during the run is counted, not a failure. */
enum rxt_status drive_prepare(struct drive *d, struct rxt_error *err);
struct drive_times { /* since it was sent; first: token */
    uint64_t first_us, done_us, end_us;
};
/* One request to its end: *e is the last event but MEMORY, which has no figures. What is refused is
 * a status. times may be NULL. Not during the run. */
enum rxt_status drive_call(struct drive *d, const struct client_request *r, uint64_t number,
                           struct client_many_event *e, struct drive_times *times,
                           struct rxt_error *err);
/* The time of one turn to its MEMORY with nothing beside it: median of a few. */
enum rxt_status drive_probe(struct drive *d, double *turn_us, struct rxt_error *err);
enum rxt_status drive_run(struct drive *d, struct rxt_error *err);
enum rxt_status drive_verify(struct drive *d, struct rxt_error *err);
enum rxt_status drive_erase(struct drive *d, struct rxt_error *err);

/* What the highest byte of a tag says; the others: the number of a turn, or of a session. */
enum { TAG_TURN = 1, TAG_RESEND, TAG_FORK, TAG_ERASE, TAG_REPEAT };
/* Asks for a turn that is DONE again, under its id and TAG_REPEAT; the caller clears turn.aside at
 * the final event. */
enum rxt_status drive_repeat(struct drive *d, uint64_t record, struct rxt_error *err);
/* The server knows nothing of the requests on a new connection: all that are in flight are asked
 * for again. */
void drive_ask_again(struct drive *d, uint32_t connection);

#define LOAD_NAME_MAX 96
/* session: of the server (plan_place). */
void drive_name(const struct drive *d, uint32_t session, char out[LOAD_NAME_MAX]);
void drive_id(const struct drive *d, uint64_t kind, uint64_t number, uint8_t id[16]);
size_t drive_records(const struct drive *d);
uint64_t drive_open_turns(const struct drive *d); /* sent, and nothing final came */

#endif
