/* What the same conversation costs without a memory that is kept: turns 1, 2, 5, 10, 20 ... of
 * session 0, each in a fresh session that is told all earlier turns first. Beside it, computed,
 * what a plain decoder pays that reads them as context. */
#ifndef RXT_TOOLS_LOAD_BASELINE_H
#define RXT_TOOLS_LOAD_BASELINE_H

#include "tools/rxt/load/outcome.h"

enum { BASELINE_ROWS = 32 };
struct baseline_row {
    uint32_t turn;      /* from 1 */
    double rebuild_ms;  /* to remember all earlier turns */
    double first_ms;    /* that, and to the first token */
    double turn_ms;     /* that, and to DONE */
    double decoder_ms;  /* computed: first token with the earlier turns as context */
    double stateful_ms; /* first token in the run: median of the turns up to here */
};
struct baseline {
    struct baseline_row row[BASELINE_ROWS];
    int n;
    double short_us;   /* first token of a short question, with nothing beside it */
    double prefill_us; /* of one token: what the first token takes longer, a token of question */
    uint32_t n_short, n_long; /* tokens of the questions that it was measured with */
};
/* Called behind drive_run, with drive.keep_answers. show: called before each row; may be NULL. */
enum rxt_status baseline_measure(struct baseline *b, struct drive *d, const struct load_outcome *o,
                                 void (*show)(uint32_t turn), struct rxt_error *err);
void baseline_report(const struct baseline *b, const struct load_outcome *o, struct report *r);

#endif
