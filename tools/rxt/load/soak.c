#include "tools/rxt/load/soak.h"

#include "kernels/base/clock.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof *(array)))

/* ---- once again --------------------------------------------------------------------------- */

enum { REMEMBERED = 200 }; /* request ids of a session that a server still knows, at least */
#define WINDOW 64u
#define RETRY_MS_MAX 5000u
#define RECORD 0xFFFFFFFFFFFFFFu /* of a tag: the number of the turn */

static bool may_repeat(const struct drive *d, size_t record, uint32_t *of_session)
{
    return d->turn[record].outcome == TURN_DONE && (*of_session)++ < REMEMBERED;
}

static void take_repeat(struct soak *s, struct drive *d, const struct client_many_event *e)
{
    struct turn_record *t = &d->turn[e->tag & RECORD];
    if (e->final)
        t->aside = 0;
    if (e->kind == CLIENT_MANY_FAILED)
        s->n_failed++;
    if (e->kind != CLIENT_MANY_EVENT || e->event.kind != CLIENT_DONE)
        return;
    s->n_repeated++;
    s->n_stored += e->event.stored;
    s->n_differs += e->event.n_answer != t->n_answer;
}

/* One that is refused for a while goes out again when the server says so; the others wait with it.
 */
static enum rxt_status repeat_later(struct drive *d, const struct client_many_event *e,
                                    struct rxt_error *err)
{
    const uint32_t ms = e->retry_after_ms < RETRY_MS_MAX ? e->retry_after_ms + 1 : RETRY_MS_MAX;
    (void)nanosleep(&(struct timespec){ms / 1000, 1000000L * (ms % 1000)}, NULL);
    return drive_repeat(d, e->tag & RECORD, err);
}

/* Until at most `most` are in flight. */
static enum rxt_status await_repeats(struct soak *s, struct drive *d, uint32_t most,
                                     struct rxt_error *err)
{
    uint64_t heard_us = clock_us();
    while (client_many_inflight(d->client) > most) {
        struct client_many_event e;
        TRY(client_many_next(d->client, clock_us() + 100000, &e, err));
        const bool patient = e.at_us <= heard_us + d->timeout_us, ours = e.tag >> 56 == TAG_REPEAT;
        const bool later = e.kind == CLIENT_MANY_FAILED && e.retryable && e.final;
        if (e.kind == CLIENT_MANY_IDLE && !patient)
            return rxt_fail(err, RXT_EIO, "repeated requests are not answered");
        if (e.kind == CLIENT_MANY_IDLE)
            continue;
        if (ours && later && patient) {
            TRY(repeat_later(d, &e, err));
            continue;
        }
        heard_us = e.at_us;
        if (e.kind == CLIENT_MANY_CONNECTED)
            drive_ask_again(d, e.connection);
        else if (ours)
            take_repeat(s, d, &e);
    }
    return RXT_OK;
}

enum rxt_status soak_repeat(struct soak *s, struct drive *d, struct rxt_error *err)
{
    for (uint32_t session = 0; session < d->plan->n_session; session++) {
        uint32_t n = 0;
        for (uint32_t i = d->plan->n_turn; i-- > 0;) {
            const size_t record = (size_t)session * d->plan->n_turn + i;
            if (!may_repeat(d, record, &n))
                continue;
            TRY(await_repeats(s, d, WINDOW - 1, err));
            TRY(drive_repeat(d, record, err));
        }
    }
    return await_repeats(s, d, 0, err);
}

/* ---- the verdict -------------------------------------------------------------------------- */

void soak_judge(const struct soak *s, const struct faults *f, struct load_outcome *o)
{
    const struct drive *d = o->d;
    const uint64_t open = drive_open_turns(d);
    const bool sound = o->n_lost == 0 && o->n_doubled <= open && s->n_differs == 0 &&
                       s->n_failed == 0 && d->n_answer_differs == 0 && faults_deaths(f) == 0;
    const bool good = sound && o->n_forgotten == 0;
    const char *word = good ? "NOTHING LOST" : sound ? "NOT REMEMBERED" : "ERRORS";
    o->code = good ? LOAD_CONSTANT : LOAD_ERRORS_CAME;
    (void)snprintf(o->line, sizeof o->line,
                   "%s: %" PRIu64 " turns DONE, %" PRIu64 " missing, %" PRIu64
                   " in no memory, %" PRIu64 " asked for again",
                   word, d->n_done, o->n_lost, o->n_forgotten, s->n_repeated);
    (void)snprintf(o->verdict, sizeof o->verdict,
                   "%s: of %" PRIu64 " turns that reported DONE, %" PRIu64
                   " are missing and %" PRIu64 " are in no memory at the end (%" PRIu64
                   " memories failed at first); %" PRIu64 " asked for again: %" PRIu64
                   " with another answer, %" PRIu64 " without; %" PRIu64 " turns refused, %" PRIu64
                   " without an end; the server ended %u times on its own",
                   word, d->n_done, o->n_lost, o->n_forgotten, d->n_memory_failed, s->n_repeated,
                   s->n_differs, s->n_failed, d->n_refused, open, faults_deaths(f));
}

static const struct column fault_columns[] = {{"fault", "fault", CELL_TEXT},
                                              {"n", "times", CELL_COUNT}};

void soak_report(const struct soak *s, const struct faults *f, struct report *r)
{
    struct section *x = report_table(r, "faults", "What was done to the server", fault_columns,
                                     COUNT_OF(fault_columns));
    for (int a = 0; a < FAULT_ACTIONS; a++)
        report_row(r, x,
                   json_pack("{ss sI}", "fault", fault_name((enum fault_action)a), "n",
                             (json_int_t)faults_count(f, (enum fault_action)a)));
    report_row(
        r, x, json_pack("{ss sI}", "fault", "ended on its own", "n", (json_int_t)faults_deaths(f)));
    section_about(x,
                  "%" PRIu64 " turns that had reported DONE were asked for again under their ids: "
                  "%" PRIu64 " came from the journal, the others from what is kept for a while.",
                  s->n_repeated, s->n_stored);
}

/* ---- growth ------------------------------------------------------------------------------- */

static const struct column growth_columns[] = {
    {"gauge", "of the server", CELL_TEXT},
    {"early", "at 10 %", CELL_REAL},
    {"middle", "in the middle", CELL_REAL},
    {"late", "at the end", CELL_REAL},
    {"first_half", "a turn added before", CELL_REAL},
    {"second_half", "... and behind it", CELL_REAL},
};

/* Turns that were done up to a moment. */
static double turns_until(const struct drive *d, uint64_t at_us)
{
    double n = 0;
    for (size_t i = 0; i < drive_records(d); i++) {
        const struct turn_record *t = &d->turn[i];
        n += t->outcome == TURN_DONE && d->start_us + t->due_us + t->done_us <= at_us;
    }
    return n;
}

/* The sample nearest to this share of the run that has the gauge; NULL: there is none. */
static const struct gauge_sample *sample_at(const struct load_outcome *o, enum gauge gauge,
                                            double share)
{
    const struct gauge_sample *g = gauges_get(o->gauges), *best = NULL;
    const double want = (double)o->d->start_us + share * (double)(o->d->end_us - o->d->start_us);
    for (uint32_t i = 0; i < gauges_count(o->gauges); i++)
        if (isfinite(g[i].value[gauge]) &&
            (!best || fabs((double)g[i].at_us - want) < fabs((double)best->at_us - want)))
            best = &g[i];
    return best;
}

static double per_turn(const struct load_outcome *o, enum gauge gauge, const struct gauge_sample *a,
                       const struct gauge_sample *b)
{
    double turns = turns_until(o->d, b->at_us) - turns_until(o->d, a->at_us);
    return turns > 0 ? (b->value[gauge] - a->value[gauge]) / turns : (double)NAN;
}

void growth_report(const struct load_outcome *o, struct report *r)
{
    static const enum gauge shown[] = {GAUGE_RSS, GAUGE_SESSION_BYTES, GAUGE_STORE, GAUGE_FDS,
                                       GAUGE_THREADS};
    struct section *s =
        report_table(r, "growth", "What grew", growth_columns, COUNT_OF(growth_columns));
    for (int i = 0; i < COUNT_OF(shown); i++) {
        const struct gauge_sample *a = sample_at(o, shown[i], 0.1),
                                  *b = sample_at(o, shown[i], 0.5), *c = sample_at(o, shown[i], 1);
        if (!a || !b || !c)
            continue;
        report_row(r, s,
                   json_pack("{ss sf sf sf so so}", "gauge", gauge_name(shown[i]), "early",
                             a->value[shown[i]], "middle", b->value[shown[i]], "late",
                             c->value[shown[i]], "first_half",
                             plain_real(per_turn(o, shown[i], a, b)), "second_half",
                             plain_real(per_turn(o, shown[i], b, c))));
    }
    section_about(s, "Of the server: memory, sessions and store in bytes. A turn adds to the store "
                     "what its journal row takes; it should add as much before the middle of the "
                     "run as behind it, and nothing to memory.");
}
