/* What a run has shown: figures of all turns, the verdict, and the same as a report. */
#ifndef RXT_TOOLS_LOAD_OUTCOME_H
#define RXT_TOOLS_LOAD_OUTCOME_H

#include "tools/rxt/load/drive.h"
#include "tools/rxt/load/gauges.h"
#include "tools/rxt/load/level.h"
#include "tools/rxt/report/report.h"

/* Exit codes of rxt load. */
enum { LOAD_CONSTANT = 0, LOAD_NOT_CONSTANT = 1, LOAD_NOT_SHOWN = 2, LOAD_ERRORS_CAME = 3 };

struct load_limits { /* what a good turn keeps; 0 = no limit */
    int32_t first_token_ms, turn_ms, token_ms, memory_ms;
};

struct load_outcome {
    const struct drive *d;
    const struct gauges *gauges; /* stopped; NULL = none */
    struct load_limits limits;
    uint32_t warmup, n_draw;

    /* Turns of the most frequent lengths: only they are compared with each other. */
    uint16_t n_query, n_answer;
    uint64_t n_full;
    struct trend first, turn, memory; /* these decide; of the old sessions alone */
    /* The same without the young sessions' help: with all that moves the machine. */
    struct trend plain_first, plain_turn, plain_memory;
    uint64_t n_good;            /* within the limits */
    uint64_t n_lost, n_doubled; /* DONE that a session lacks; turns nobody heard DONE of */
    uint64_t n_forgotten;       /* DONE that a session has, and not its memory */
    int code;
    char verdict[640]; /* a sentence */
    char line[224];    /* the same in short, the last line that is printed */
};
/* d and gauges are lent. ENOMEM. */
enum rxt_status outcome_make(struct load_outcome *o, const struct drive *d,
                             const struct gauges *gauges, const struct load_limits *limits,
                             uint32_t warmup);
/* Whether a turn has the lengths that are compared. */
bool outcome_is_full(const struct load_outcome *o, size_t record);
enum turn_value { VALUE_FIRST, VALUE_TURN, VALUE_MEMORY };
/* Milliseconds of the full turns first <= turn < end of the old sessions (of the young ones beside
 * them), sorted; the number of them. room: for all. */
size_t outcome_values(const struct load_outcome *o, bool young, uint32_t first, uint32_t end,
                      enum turn_value kind, double *room);
/* Adds the plots of the run, and its tables. */
void outcome_plots(const struct load_outcome *o, struct report *r);
void outcome_report(const struct load_outcome *o, struct report *r);
/* One line a turn. EIO. */
enum rxt_status outcome_csv(const struct drive *d, const char *path, struct rxt_error *err);

#endif
