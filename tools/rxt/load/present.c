/* The outcome of a run as sections of a report. */
#include "tools/rxt/load/outcome.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof *(array)))

/* ---- verdict ------------------------------------------------------------------------------ */

static const struct column verdict_columns[] = {
    {"measure", "measure", CELL_TEXT},     {"verdict", "verdict", CELL_TEXT},
    {"median_ms", "median ms", CELL_REAL}, {"slope", "moves by", CELL_SHARE},
    {"low", "from", CELL_SHARE},           {"high", "to", CELL_SHARE},
    {"p99_ratio", "p99 ratio", CELL_REAL}, {"over", "over young", CELL_SHARE},
    {"why", "because", CELL_TEXT},
};

static json_t *trend_row(const char *measure, const struct trend *t)
{
    const double scale = t->n_turn / t->median;
    return json_pack("{ss so so so so so sI ss ss}", "measure", measure, "median_ms",
                     plain_real(t->median / 1000), "slope", plain_real(t->slope * scale), "low",
                     plain_real(t->low * scale), "high", plain_real(t->high * scale), "p99_ratio",
                     plain_real(t->p99_last / t->p99_first), "turns", (json_int_t)t->n, "verdict",
                     trend_verdict_name(t->verdict), "why", t->why);
}

/* The line that decides; against young sessions the plain one, too, which does not. */
static void put_trend(const struct load_outcome *o, struct report *r, struct section *s,
                      const char *measure, const struct trend *t, const struct trend *plain)
{
    char name[48];
    json_t *row = trend_row(measure, t);
    if (o->d->plan->n_young == 0) {
        report_row(r, s, row);
        return;
    }
    (void)json_object_set_new(row, "over", plain_real(t->over));
    (void)json_object_set_new(row, "over_low", plain_real(t->over_low));
    (void)json_object_set_new(row, "over_high", plain_real(t->over_high));
    report_row(r, s, row);
    (void)snprintf(name, sizeof name, "%s, plain line", measure);
    row = trend_row(name, plain);
    (void)json_object_set_new(row, "verdict", json_string("does not decide"));
    (void)json_object_set_new(row, "why", json_string("the machine moves it, too"));
    report_row(r, s, row);
}

static void put_verdict(const struct load_outcome *o, struct report *r)
{
    struct section *s =
        report_table(r, "constant", "Does latency depend on the number of the turn?",
                     verdict_columns, COUNT_OF(verdict_columns));
    put_trend(o, r, s, "first token", &o->first, &o->plain_first);
    put_trend(o, r, s, "turn", &o->turn, &o->plain_turn);
    put_trend(o, r, s, "memory lag", &o->memory, &o->plain_memory);
    const bool young = o->d->plan->n_young > 0;
    section_about(s,
                  "A straight line through all turns behind the first %u that have %u tokens of "
                  "question and %u of answer%s: how far it moves over %u turns, as a share of the "
                  "median, and its 95 %% interval (bootstrap over sessions and blocks of %s). "
                  "p99 ratio: the last tenth of the turns over the first ones. Constant: the "
                  "interval within +-3 %%, the ratio at most 1.10. First token and turn decide%s.",
                  o->warmup, o->n_query, o->n_answer,
                  young ? ", less what young sessions took at the same time" : "",
                  o->d->plan->n_turn, young ? "time" : "turns",
                  young ? ", not their plain lines" : "");
}

/* ---- latencies ---------------------------------------------------------------------------- */

static const struct column latency_columns[] = {
    {"measure", "ms", CELL_TEXT}, {"n", "number", CELL_COUNT}, {"p50", "p50", CELL_REAL},
    {"p90", "p90", CELL_REAL},    {"p99", "p99", CELL_REAL},   {"p999", "p99.9", CELL_REAL},
    {"max", "max", CELL_REAL},    {"mean", "mean", CELL_REAL},
};

static void put_histogram(struct report *r, struct section *s, const char *measure,
                          const struct histogram *h)
{
    if (h->n == 0)
        return;
    report_row(r, s,
               json_pack("{ss sI sf sf sf sf sf sf}", "measure", measure, "n", (json_int_t)h->n,
                         "p50", histogram_at(h, 0.5) / 1000, "p90", histogram_at(h, 0.9) / 1000,
                         "p99", histogram_at(h, 0.99) / 1000, "p999", histogram_at(h, 0.999) / 1000,
                         "max", (double)h->max / 1000, "mean", histogram_mean(h) / 1000));
}

static void put_latencies(const struct load_outcome *o, struct report *r)
{
    static const char *const name[MEASURES] = {
        [MEASURE_FIRST] = "first token",       [MEASURE_TOKEN] = "token behind it",
        [MEASURE_TURN] = "turn, to DONE",      [MEASURE_MEMORY] = "memory lag (server)",
        [MEASURE_QUEUE] = "of it, in a queue", [MEASURE_SLIP] = "sent late by this tool"};
    static const int order[MEASURES] = {MEASURE_FIRST, MEASURE_TURN,   MEASURE_TOKEN,
                                        MEASURE_QUEUE, MEASURE_MEMORY, MEASURE_SLIP};
    struct section *s = report_table(r, "latency", "Latencies of all turns", latency_columns,
                                     COUNT_OF(latency_columns));
    for (int i = 0; i < MEASURES; i++)
        put_histogram(r, s, name[order[i]], &o->d->histogram[order[i]]);
    put_histogram(r, s, "fork", o->d->fork);
    put_histogram(r, s, "repeated request", o->d->resend);
    section_about(s, "Counted from the moment at which a turn was scheduled, whether or not it "
                     "could be sent then. Three significant digits.");
}

/* ---- by number of the turn ---------------------------------------------------------------- */

static const struct column by_turn_columns[] = {
    {"first", "turns from", CELL_COUNT}, {"last", "to", CELL_COUNT},
    {"n", "number", CELL_COUNT},         {"first_p50", "first p50", CELL_REAL},
    {"first_p99", "p99", CELL_REAL},     {"turn_p50", "turn p50", CELL_REAL},
    {"turn_p99", "p99", CELL_REAL},      {"lag_p50", "lag p50", CELL_REAL},
    {"lag_p99", "p99", CELL_REAL},
};

static void put_turns(const struct load_outcome *o, struct report *r, struct section *s,
                      uint32_t first, uint32_t end, double *room)
{
    static const char *const key[3][2] = {
        {"first_p50", "first_p99"}, {"turn_p50", "turn_p99"}, {"lag_p50", "lag_p99"}};
    json_t *row = json_pack("{sI sI}", "first", (json_int_t)first + 1, "last", (json_int_t)end);
    for (int k = 0; k < 3 && row; k++) {
        size_t n = outcome_values(o, false, first, end, (enum turn_value)k, room);
        if (k == 0)
            (void)json_object_set_new(row, "n", json_integer((json_int_t)n));
        (void)json_object_set_new(row, key[k][0], plain_real(quantile(room, n, 0.5)));
        (void)json_object_set_new(row, key[k][1], plain_real(quantile(room, n, 0.99)));
    }
    report_row(r, s, row);
}

/* The first turn, the next few, then tenths. */
static void put_by_turn(const struct load_outcome *o, struct report *r)
{
    const uint32_t n = o->d->plan->n_turn;
    double *room = calloc(drive_records(o->d), sizeof *room);
    struct section *s = report_table(r, "turns", "By number of the turn", by_turn_columns,
                                     COUNT_OF(by_turn_columns));
    uint32_t from = 0;
    if (!room) {
        r->status = RXT_ENOMEM;
        return;
    }
    for (uint32_t tenth = 0; tenth <= 10; tenth++) {
        uint32_t end = tenth == 0 ? 1 : (uint32_t)((uint64_t)n * tenth / 10);
        if (end <= from)
            continue;
        put_turns(o, r, s, from, end, room);
        from = end;
    }
    section_about(s, "Turns of those lengths: first token, whole turn and memory lag, in ms.%s",
                  o->d->plan->n_young > 0 ? " Young sessions are not among them." : "");
    free(room);
}

/* ---- what was asked, and what came of it -------------------------------------------------- */

static const struct column run_columns[] = {
    {"model", "model", CELL_TEXT},
    {"sessions", "sessions", CELL_COUNT},
    {"young", "young sessions beside them", CELL_COUNT},
    {"turns", "turns of each", CELL_COUNT},
    {"seconds", "seconds", CELL_REAL},
    {"asked_s", "turns asked a second", CELL_REAL},
    {"done_s", "turns done a second", CELL_REAL},
    {"tokens_s", "tokens of answers a second", CELL_REAL},
    {"good_s", "within the limits, a second", CELL_REAL},
    {"good", "... share of all turns", CELL_SHARE},
    {"sent", "turns sent", CELL_COUNT},
    {"done", "DONE", CELL_COUNT},
    {"cancelled", "cancelled", CELL_COUNT},
    {"refused", "refused", CELL_COUNT},
    {"unanswered", "without an end", CELL_COUNT},
    {"memory_failed", "DONE, and then MEMORY_FAILED", CELL_COUNT},
    {"full", "of the lengths compared", CELL_COUNT},
    {"query_tokens", "... tokens of a question", CELL_COUNT},
    {"answer_tokens", "... tokens of an answer", CELL_COUNT},
    {"lost", "lost: DONE, and not in the session", CELL_COUNT},
    {"forgotten", "in the session, and not in its memory", CELL_COUNT},
    {"doubled", "in a session without DONE", CELL_COUNT},
    {"differs", "repeats with another answer", CELL_COUNT},
    {"connected", "connections lost", CELL_COUNT},
    {"vanished", "connections that vanished, as asked", CELL_COUNT},
    {"events", "messages a second", CELL_REAL},
    {"cpu_s", "processor time of this tool, s", CELL_REAL},
    {"cpu_share", "... share of one core", CELL_SHARE},
};

static json_t *number(uint64_t n)
{
    return json_integer((json_int_t)n);
}

/* What people need not read when it did not happen. */
static json_t *mishap(uint64_t n)
{
    return n > 0 ? number(n) : json_null();
}

/* Nothing was sent, or at once: then there is no rate and no share. */
static json_t *quotient(double a, double b)
{
    return b > 0 ? plain_real(a / b) : json_null();
}

static uint64_t answer_tokens(const struct drive *d)
{
    uint64_t n = 0;
    for (size_t i = 0; i < drive_records(d); i++)
        n += d->turn[i].outcome == TURN_DONE ? d->turn[i].n_answer : 0;
    return n;
}

static void put_run(const struct load_outcome *o, struct report *r)
{
    const struct drive *d = o->d;
    const struct load_limits *l = &o->limits;
    const double s = (double)(d->end_us - d->start_us) / 1e6;
    const bool limits = l->first_token_ms || l->turn_ms || l->token_ms || l->memory_ms;
    struct section *x = report_facts(r, "run", "The run", run_columns, COUNT_OF(run_columns));
    report_row(
        r, x,
        json_pack("{so so so so so sf so so so so so so so so so so so so so so so so so so so "
                  "so so sf so si}",
                  "model", plain_text(client_many_welcome(d->client)->model), "sessions",
                  number(d->plan->n_session - d->plan->n_young), "young", mishap(d->plan->n_young),
                  "turns", number(d->plan->n_turn), "sent", number(d->n_sent), "seconds", s,
                  "asked_s", quotient(d->plan->n_session * 1e6, spread_mean(&d->plan->gap_us)),
                  "done_s", quotient((double)d->n_done, s), "tokens_s",
                  quotient((double)answer_tokens(d), s), "vanished", mishap(d->n_vanished),
                  "good_s", limits ? quotient((double)o->n_good, s) : json_null(), "good",
                  limits ? quotient((double)o->n_good, (double)d->n_sent) : json_null(), "done",
                  number(d->n_done), "cancelled", mishap(d->n_cancelled), "refused",
                  mishap(d->n_refused), "unanswered", mishap(drive_open_turns(d)), "memory_failed",
                  mishap(d->n_memory_failed), "full", number(o->n_full), "query_tokens",
                  number(o->n_query), "answer_tokens", number(o->n_answer), "lost",
                  number(o->n_lost), "forgotten", mishap(o->n_forgotten), "doubled",
                  mishap(o->n_doubled), "differs", mishap(d->n_answer_differs), "connected",
                  mishap(d->n_connected), "start_us", number(d->start_us), "events",
                  quotient((double)d->n_event, s), "cpu_s", d->cpu_s, "cpu_share",
                  quotient(d->cpu_s, s), "code", o->code));
}

static const struct column error_columns[] = {{"code", "code", CELL_COUNT},
                                              {"n", "number", CELL_COUNT},
                                              {"sentence", "the first one", CELL_TEXT}};

static void put_errors(const struct load_outcome *o, struct report *r)
{
    if (o->d->n_error == 0)
        return;
    struct section *s =
        report_table(r, "errors", "What was refused", error_columns, COUNT_OF(error_columns));
    for (int i = 0; i < o->d->n_error; i++) {
        const struct load_error *e = &o->d->error[i];
        report_row(r, s,
                   json_pack("{sI sI so}", "code", (json_int_t)e->code, "n", (json_int_t)e->n,
                             "sentence", plain_text(e->sentence)));
    }
}

void outcome_report(const struct load_outcome *o, struct report *r)
{
    section_about(report_words(r, "verdict", "Verdict"), "%s", o->verdict);
    put_run(o, r);
    put_errors(o, r);
    put_verdict(o, r);
    put_latencies(o, r);
    put_by_turn(o, r);
}

/* ---- a line a turn ------------------------------------------------------------------------ */

enum rxt_status outcome_csv(const struct drive *d, const char *path, struct rxt_error *err)
{
    static const char *const name[] = {"not sent", "unanswered", "done", "cancelled", "refused"};
    FILE *f = fopen(path, "we");
    if (!f)
        return rxt_fail(err, RXT_EIO, "cannot write %.180s: %s", path, strerror(errno));
    (void)fputs("session,turn,outcome,code,due_us,slip_us,first_token_us,done_us,memory_us,"
                "server_queue_us,server_first_token_us,server_answer_us,server_journal_us,"
                "server_memory_lag_us,query_tokens,answer_tokens\n",
                f);
    for (size_t i = 0; i < drive_records(d); i++) {
        const struct turn_record *t = &d->turn[i];
        const struct plan_place at =
            plan_place(d->plan, (uint32_t)(i / d->plan->n_turn), (uint32_t)(i % d->plan->n_turn));
        (void)fprintf(f, "%u,%u,%s,%u,%llu,%u,%u,%u,%u,%u,%u,%u,%u,%u,%u,%u\n", at.session,
                      at.turn + 1, name[t->outcome], t->code, (unsigned long long)t->due_us,
                      t->slip_us, t->first_us, t->done_us, t->memory_us, t->queue_us,
                      t->server_first_us, t->answer_us, t->journal_us, t->lag_us, t->n_query,
                      t->n_answer);
    }
    bool good = !ferror(f);
    if (fclose(f) != 0 || !good)
        return rxt_fail(err, RXT_EIO, "cannot write all of %.180s", path);
    return RXT_OK;
}
