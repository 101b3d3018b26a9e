#include "tools/rxt/load/capacity.h"

#include <math.h>

enum { MOMENTS = 65 };

/* Turns that were due and are not remembered at a moment of the run. */
static double owed(const struct drive *d, double at_us)
{
    double n = 0;
    for (size_t i = 0; i < drive_records(d); i++) {
        const struct turn_record *t = &d->turn[i];
        const double due_us = (double)t->due_us;
        if (t->outcome != TURN_NOT_SENT && due_us <= at_us)
            n += !(t->memory_us && due_us + t->memory_us <= at_us);
    }
    return n;
}

double capacity_drift(const struct drive *d, double seconds)
{
    double x = 0, y = 0, xx = 0, xy = 0;
    const double turns = (double)d->n_sent;
    for (int i = 0; i < MOMENTS; i++) {
        const double share = 1 - (double)i / (MOMENTS - 1) * CAPACITY_WINDOW;
        const double v = owed(d, 1e6 * seconds * share);
        x += share;
        y += v;
        xx += share * share;
        xy += share * v;
    }
    return (xy - x * y / MOMENTS) / (xx - x * x / MOMENTS) / turns;
}

/* ---- one trial ---------------------------------------------------------------------------- */

static void judge(struct capacity_trial *t, const struct drive *d, double seconds)
{
    static const double share[2] = {0.5, 0.99};
    t->drift = capacity_drift(d, seconds);
    for (int i = 0; i < 2; i++) {
        t->lag_ms[i] = histogram_at(&d->histogram[MEASURE_MEMORY], share[i]) / 1000;
        t->first_ms[i] = histogram_at(&d->histogram[MEASURE_FIRST], share[i]) / 1000;
    }
    t->done_s = 1e6 * (double)d->n_done / (double)(d->end_us - d->start_us);
    t->n_error = d->n_refused + d->n_memory_failed + drive_open_turns(d);
    t->borne = t->n_error == 0 && t->drift <= CAPACITY_DRIFT;
}

static enum rxt_status play(struct drive *d, struct capacity_trial *t,
                            const struct capacity_config *cfg, struct rxt_error *err)
{
    TRY(drive_open(d, cfg->server, err));
    TRY(drive_prepare(d, err));
    enum rxt_status st = drive_run(d, err);
    if (st == RXT_OK)
        judge(t, d, cfg->seconds);
    enum rxt_status erased = drive_erase(d, st == RXT_OK ? err : NULL);
    return st == RXT_OK ? erased : st;
}

static enum rxt_status try_rate(struct capacity_trial *t, double rate,
                                const struct capacity_config *cfg, struct rxt_error *err)
{
    struct load_plan plan = *cfg->plan;
    struct drive d = *cfg->like;
    *t = (struct capacity_trial){.rate = rate};
    const double mean = rate * cfg->seconds / plan.n_session;
    const double most = mean + 8 * sqrt(mean) + 8; /* more than a session will have */
    if (most * plan.n_session > PLAN_TURNS_MAX)
        return rxt_fail(err, RXT_ELIMIT,
                        "at %.0f turns a second a trial has room for more than %d turns: use a "
                        "shorter --find-rate or fewer --sessions",
                        rate, PLAN_TURNS_MAX);
    if (cfg->show)
        cfg->show(rate);
    plan_set_rate(&plan, rate, cfg->even);
    plan.end_us = 1e6 * cfg->seconds;
    plan.n_turn = (uint32_t)most;
    d.plan = &plan;
    enum rxt_status st = play(&d, t, cfg, err);
    drive_close(&d);
    return st;
}

/* ---- the search --------------------------------------------------------------------------- */

static enum rxt_status first_rate(double *rate, const struct capacity_config *cfg,
                                  struct rxt_error *err)
{
    struct load_plan plan = *cfg->plan;
    struct drive d = *cfg->like;
    double turn_us = 0;
    plan.n_turn = 1;
    d.plan = &plan;
    enum rxt_status st = drive_open(&d, cfg->server, err);
    if (st == RXT_OK)
        st = drive_probe(&d, &turn_us, err);
    drive_close(&d);
    *rate = 1e6 / turn_us;
    return st;
}

/* Steps up or down until one rate is borne and the next is not; then halves what lies between. */
enum rxt_status capacity_find(struct capacity *c, const struct capacity_config *cfg,
                              struct rxt_error *err)
{
    double rate, good = 0, bad = 0;
    int halved = 0;
    *c = (struct capacity){0};
    TRY(first_rate(&rate, cfg, err));
    while (c->n < CAPACITY_TRIALS && halved <= CAPACITY_HALVINGS && !*cfg->like->stop) {
        struct capacity_trial *t = &c->trial[c->n++];
        TRY(try_rate(t, rate, cfg, err));
        if (*cfg->like->stop) {
            c->n--;
            break;
        }
        *(t->borne ? &good : &bad) = rate;
        c->rate = good;
        halved += good > 0 && bad > 0;
        rate = bad == 0    ? rate * CAPACITY_STEP
               : good == 0 ? rate / CAPACITY_STEP
                           : sqrt(good * bad);
    }
    c->interrupted = *cfg->like->stop;
    return RXT_OK;
}

static const struct column found_columns[] = {{"rate", "turns a second that it bears", CELL_REAL}};

static const struct column columns[] = {
    {"rate", "turns asked a second", CELL_REAL},
    {"done_s", "done", CELL_REAL},
    {"drift", "not kept up with", CELL_SHARE},
    {"lag_p50", "lag p50", CELL_REAL},
    {"lag_p99", "p99", CELL_REAL},
    {"first_p50", "first p50", CELL_REAL},
    {"first_p99", "p99", CELL_REAL},
    {"errors", "errors", CELL_COUNT},
    {"borne", "borne", CELL_TEXT},
};

void capacity_report(const struct capacity *c, struct report *r)
{
    struct section *s = report_facts(r, "found", "What it bears", found_columns, 1);
    report_row(r, s, json_pack("{sf}", "rate", c->rate));
    section_about(s,
                  "The highest rate at which memory keeps up: of the turns that come, at most "
                  "%.0f %% add to those that are not remembered yet.",
                  100 * CAPACITY_DRIFT);
    s = report_table(r, "trials", "How it was found", columns,
                     (int)(sizeof columns / sizeof *columns));
    for (int i = 0; i < c->n; i++) {
        const struct capacity_trial *t = &c->trial[i];
        report_row(r, s,
                   json_pack("{sf sf so sf sf sf sf sI ss}", "rate", t->rate, "done_s", t->done_s,
                             "drift", plain_real(t->drift), "lag_p50", t->lag_ms[0], "lag_p99",
                             t->lag_ms[1], "first_p50", t->first_ms[0], "first_p99", t->first_ms[1],
                             "errors", (json_int_t)t->n_error, "borne", t->borne ? "yes" : "no"));
    }
    section_about(s, "Memory lag and first token in ms.");
}
