#include "tools/rxt/load/baseline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof *(array)))

/* ---- a turn from the transcript ----------------------------------------------------------- */

struct rebuild {
    struct drive *d;
    char name[LOAD_NAME_MAX];
    uint64_t number; /* of the next request */
};

static enum rxt_status call(struct rebuild *x, struct client_request *r, struct drive_times *t,
                            struct rxt_error *err)
{
    struct client_many_event e;
    r->session = x->name;
    return drive_call(x->d, r, x->number++, &e, t, err);
}

/* Turn 1, 2, 5, 10, 20, 50 ... */
static uint32_t turn_at(int i)
{
    static const uint32_t lead[] = {1, 2, 5};
    uint32_t power = 1;
    for (int k = 0; k < i / 3; k++)
        power *= 10;
    return lead[i % 3] * power;
}

static enum rxt_status remember(struct rebuild *x, uint32_t turn, double *ms, struct rxt_error *err)
{
    char room[PLAN_QUERY_MAX];
    struct client_request turn_r;
    struct drive_times t = {0};
    const char *answer = x->d->answer[turn];
    plan_turn(x->d->plan, 0, turn, room, &turn_r);
    struct client_request r = {
        .verb = CLIENT_REMEMBER, .question = turn_r.query, .answer = answer ? answer : ""};
    TRY(call(x, &r, &t, err));
    *ms += (double)t.end_us / 1000;
    return RXT_OK;
}

static enum rxt_status measure_row(struct baseline_row *row, struct rebuild *x,
                                   struct rxt_error *err)
{
    char room[PLAN_QUERY_MAX];
    struct client_request r = {.verb = CLIENT_OPEN, .seed = 1};
    struct drive_times t = {0};
    (void)snprintf(x->name, sizeof x->name, "%.60s-history-%u", x->d->prefix, row->turn);
    TRY(call(x, &r, &t, err));
    for (uint32_t i = 0; i + 1 < row->turn && !*x->d->stop; i++)
        TRY(remember(x, i, &row->rebuild_ms, err));
    plan_turn(x->d->plan, 0, row->turn - 1, room, &r);
    TRY(call(x, &r, &t, err));
    row->first_ms = row->rebuild_ms + (double)t.first_us / 1000;
    row->turn_ms = row->rebuild_ms + (double)t.done_us / 1000;
    r = (struct client_request){.verb = CLIENT_ERASE};
    return call(x, &r, &t, err);
}

/* ---- a plain decoder, computed ------------------------------------------------------------ */

/* First token of a question of n words, median of a few dry runs, and its tokens. */
static enum rxt_status measure_prefill(struct rebuild *x, uint32_t words, double *us,
                                       uint32_t *tokens, struct rxt_error *err)
{
    enum { TIMES = 7 };
    static const char word[] = "snow ";
    char query[PLAN_QUERY_MAX] = "";
    double took[TIMES];
    struct client_many_event e;
    for (uint32_t i = 0; i < words && (i + 2) * (sizeof word - 1) < sizeof query; i++)
        memcpy(query + (size_t)i * (sizeof word - 1), word, sizeof word);
    for (int i = 0; i < TIMES; i++) {
        struct drive_times t = {0};
        const struct client_request r = {.verb = CLIENT_TURN,
                                         .session = x->name,
                                         .query = query,
                                         .max_tokens = 1,
                                         .dry_run = true};
        TRY(drive_call(x->d, &r, x->number++, &e, &t, err));
        took[i] = (double)t.first_us;
        *tokens = (uint32_t)e.event.n_query;
    }
    sort_values(took, TIMES);
    *us = quantile(took, TIMES, 0.5);
    return RXT_OK;
}

static enum rxt_status measure_decoder(struct baseline *b, struct rebuild *x, struct rxt_error *err)
{
    const uint64_t room = client_many_welcome(x->d->client)->max_seq_len;
    const uint32_t words = room < 512 ? (uint32_t)(room / 3) : 170; /* a token or two each */
    double many_us = 0;
    struct client_request r = {.verb = CLIENT_OPEN, .seed = 1};
    (void)snprintf(x->name, sizeof x->name, "%.60s-prefill", x->d->prefix);
    TRY(call(x, &r, NULL, err));
    TRY(measure_prefill(x, 4, &b->short_us, &b->n_short, err));
    TRY(measure_prefill(x, words, &many_us, &b->n_long, err));
    if (b->n_long > b->n_short)
        b->prefill_us = fmax(many_us - b->short_us, 0) / (b->n_long - b->n_short);
    r = (struct client_request){.verb = CLIENT_ERASE};
    return call(x, &r, NULL, err);
}

/* ------------------------------------------------------------------------------------------- */

enum rxt_status baseline_measure(struct baseline *b, struct drive *d, const struct load_outcome *o,
                                 void (*show)(uint32_t turn), struct rxt_error *err)
{
    struct rebuild x = {.d = d, .number = 1};
    double *room = calloc(drive_records(d), sizeof *room);
    enum rxt_status st = room ? measure_decoder(b, &x, err) : RXT_ENOMEM;
    uint32_t last = 0;
    for (int i = 0; st == RXT_OK && i < BASELINE_ROWS && turn_at(i) <= d->plan->n_turn; i++) {
        struct baseline_row *row = &b->row[b->n];
        const uint32_t turn = turn_at(i);
        if (show)
            show(turn);
        *row = (struct baseline_row){.turn = turn};
        st = measure_row(row, &x, err);
        size_t n = outcome_values(o, false, last, turn, VALUE_FIRST, room);
        row->stateful_ms = quantile(room, n, 0.5);
        double context = (turn - 1.0) * (o->n_query + o->n_answer) + o->n_query - b->n_short;
        row->decoder_ms = (b->short_us + context * b->prefill_us) / 1000;
        last = turn;
        b->n += st == RXT_OK && !*d->stop;
    }
    free(room);
    return st;
}

static const struct column columns[] = {
    {"turn", "turn", CELL_COUNT},
    {"stateful_ms", "with its memory, ms", CELL_REAL},
    {"first_ms", "stateless, measured", CELL_REAL},
    {"turn_ms", "... to DONE", CELL_REAL},
    {"each_ms", "... an earlier turn", CELL_REAL},
    {"decoder_ms", "plain decoder, computed", CELL_REAL},
};

static void put_line(struct report *r, struct section *s, const struct baseline *b,
                     const char *name, int colour, bool dashed, size_t field)
{
    double x[BASELINE_ROWS], y[BASELINE_ROWS];
    struct series one = {.colour = colour, .dashed = dashed, .n = b->n, .x = x, .y = y};
    (void)snprintf(one.name, sizeof one.name, "%s", name);
    for (int i = 0; i < b->n; i++) {
        x[i] = b->row[i].turn;
        memcpy(&y[i], (const char *)&b->row[i] + field, sizeof y[i]);
    }
    section_series(r, s, &one);
    one.mark = MARK_POINTS;
    one.name[0] = '\0'; /* the line has the name */
    if (!dashed)
        section_series(r, s, &one);
}

void baseline_report(const struct baseline *b, const struct load_outcome *o, struct report *r)
{
    const struct chart axes = {.x_name = "number of the turn",
                               .y_name = "first token, ms",
                               .x_axis = AXIS_LOG,
                               .y_axis = AXIS_LOG};
    struct section *s = report_chart(r, "baseline_chart", "What a kept memory saves", &axes);
    put_line(r, s, b, "with its memory", 0, false, offsetof(struct baseline_row, stateful_ms));
    put_line(r, s, b, "rebuilt from the transcript", 4, false,
             offsetof(struct baseline_row, first_ms));
    put_line(r, s, b, "plain decoder, computed", 5, true,
             offsetof(struct baseline_row, decoder_ms));
    s = report_table(r, "baseline", "Without a kept memory", columns, COUNT_OF(columns));
    for (int i = 0; i < b->n; i++) {
        const struct baseline_row *row = &b->row[i];
        report_row(
            r, s,
            json_pack("{sI so sf sf so so}", "turn", (json_int_t)row->turn, "stateful_ms",
                      plain_real(row->stateful_ms), "first_ms", row->first_ms, "turn_ms",
                      row->turn_ms, "each_ms",
                      plain_real(row->turn > 1 ? row->rebuild_ms / (row->turn - 1) : (double)NAN),
                      "decoder_ms", plain_real(row->decoder_ms)));
    }
    section_about(
        s,
        "Stateless, measured: the turn in a fresh session that is told all earlier turns "
        "of session 0 first (REMEMBER), as a server must that keeps a transcript and no "
        "memory. Plain decoder, computed: the first token of a question alone, plus %.4g us "
        "for each of the %u tokens of every earlier turn, which is what a token of a "
        "question costs here (questions of %u and %u tokens); attention over the history, "
        "which grows faster, is left out.",
        b->prefill_us, o->n_query + o->n_answer, b->n_short, b->n_long);
}
