/* The pictures of a run. */
#include "tools/rxt/load/outcome.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- latency by number of the turn -------------------------------------------------------- */

enum { BINS = 60 };

static void put_by_turn(const struct load_outcome *o, struct report *r, const char *key,
                        const char *title, enum turn_value kind, const struct trend *t)
{
    const struct chart axes = {.x_name = "number of the turn", .y_name = "ms"};
    const uint32_t n = o->d->plan->n_turn;
    double x[BINS], p10[BINS], p50[BINS], p90[BINS], p99[BINS], young[BINS];
    int bins = 0;
    double *room = calloc(drive_records(o->d), sizeof *room);
    struct section *s = report_chart(r, key, title, &axes);
    for (uint32_t b = 0; room && b < BINS; b++) {
        uint32_t from = (uint32_t)((uint64_t)n * b / BINS);
        uint32_t end = (uint32_t)((uint64_t)n * (b + 1) / BINS);
        const size_t m_young = outcome_values(o, true, from, end, kind, room);
        young[bins] = quantile(room, m_young, 0.5);
        const size_t m = outcome_values(o, false, from, end, kind, room);
        if (m == 0)
            continue;
        x[bins] = (from + end + 1) / 2.0;
        p10[bins] = quantile(room, m, 0.1);
        p50[bins] = quantile(room, m, 0.5);
        p90[bins] = quantile(room, m, 0.9);
        p99[bins++] = quantile(room, m, 0.99);
    }
    free(room);
    if (!room)
        r->status = RXT_ENOMEM;
    section_series(r, s,
                   &(struct series){.name = "10 to 90 % of turns",
                                    .mark = MARK_BAND,
                                    .n = bins,
                                    .x = x,
                                    .y = p10,
                                    .top = p90});
    section_series(r, s, &(struct series){.name = "median", .n = bins, .x = x, .y = p50});
    if (o->d->plan->n_young > 0)
        section_series(r, s,
                       &(struct series){.name = "median of young sessions at the same time",
                                        .colour = 2,
                                        .n = bins,
                                        .x = x,
                                        .y = young});
    section_series(
        r, s,
        &(struct series){.name = "p99", .colour = 1, .dashed = true, .n = bins, .x = x, .y = p99});
    section_about(
        s,
        "Turns of equal length, counted from when they were due. The line through all of "
        "them%s moves by %.2f %% of the median over the whole run, at least %.2f %% and at "
        "most %.2f %%: %s.",
        o->d->plan->n_young > 0 ? ", less what young sessions took," : "",
        100 * t->slope * t->n_turn / t->median, 100 * t->low * t->n_turn / t->median,
        100 * t->high * t->n_turn / t->median, trend_verdict_name(t->verdict));
}

/* ---- distributions ------------------------------------------------------------------------ */

enum { CURVE = 80 };

static void put_curve(struct report *r, struct section *s, const char *name, int colour,
                      const struct histogram *h)
{
    double x[CURVE], y[CURVE];
    int n = 0;
    for (; n < CURVE && h->n > 0; n++) {
        x[n] = pow((double)h->n, n / (CURVE - 1.0));
        y[n] = fmax(histogram_at(h, 1 - 1 / x[n]), 1) / 1000;
    }
    struct series one = {.colour = colour, .n = n, .x = x, .y = y};
    (void)snprintf(one.name, sizeof one.name, "%s", name);
    section_series(r, s, &one);
}

static void put_distribution(const struct load_outcome *o, struct report *r)
{
    const struct chart axes = {.x_name = "share of turns that are at least as fast",
                               .y_name = "ms",
                               .x_axis = AXIS_SHARE,
                               .y_axis = AXIS_LOG};
    struct section *s = report_chart(r, "distribution", "Distribution of latencies", &axes);
    const struct histogram *h = o->d->histogram;
    put_curve(r, s, "first token", 0, &h[MEASURE_FIRST]);
    put_curve(r, s, "turn", 2, &h[MEASURE_TURN]);
    put_curve(r, s, "memory lag", 3, &h[MEASURE_MEMORY]);
    put_curve(r, s, "sent late by this tool", 5, &h[MEASURE_SLIP]);
}

/* ---- gauges ------------------------------------------------------------------------------- */

static void put_gauge(const struct load_outcome *o, struct report *r, struct section *s,
                      enum gauge gauge, const char *name, int colour, double scale)
{
    const uint32_t n = gauges_count(o->gauges);
    const struct gauge_sample *g = gauges_get(o->gauges);
    double *x = calloc(2 * (size_t)n + 1, sizeof *x), *y = x + n;
    struct series one = {.colour = colour, .x = x, .y = y};
    if (!x) {
        r->status = RXT_ENOMEM;
        return;
    }
    (void)snprintf(one.name, sizeof one.name, "%s", name);
    for (uint32_t i = 0; i < n; i++)
        if (isfinite(g[i].value[gauge]) && g[i].at_us >= o->d->start_us) {
            x[one.n] = (double)(g[i].at_us - o->d->start_us) / 1e6;
            y[one.n++] = g[i].value[gauge] / scale;
        }
    if (one.n > 1)
        section_series(r, s, &one);
    free(x);
}

static void put_gauges(const struct load_outcome *o, struct report *r)
{
    const struct chart bytes = {.x_name = "seconds of the run", .y_name = "MiB"};
    const struct chart counts = {.x_name = "seconds of the run", .y_name = "number"};
    struct section *s = report_chart(r, "server_bytes", "What the server holds", &bytes);
    put_gauge(o, r, s, GAUGE_RSS, "resident memory", 0, 1 << 20);
    put_gauge(o, r, s, GAUGE_SESSION_BYTES, "of it, sessions", 3, 1 << 20);
    put_gauge(o, r, s, GAUGE_STORE, "store on disk", 1, 1 << 20);
    s = report_chart(r, "server_queues", "What waits in the server", &counts);
    put_gauge(o, r, s, GAUGE_RUNNING, "requests", 5, 1);
    put_gauge(o, r, s, GAUGE_QUEUE_SLOT, "for a slot", 0, 1);
    put_gauge(o, r, s, GAUGE_QUEUE_MEMORY, "for a memory", 3, 1);
}

/* ------------------------------------------------------------------------------------------- */

void outcome_plots(const struct load_outcome *o, struct report *r)
{
    put_by_turn(o, r, "first_token_by_turn", "First token, by number of the turn", VALUE_FIRST,
                &o->first);
    put_by_turn(o, r, "turn_by_turn", "Whole turn, by number of the turn", VALUE_TURN, &o->turn);
    put_by_turn(o, r, "memory_by_turn", "Memory lag, by number of the turn", VALUE_MEMORY,
                &o->memory);
    put_distribution(o, r);
    if (o->gauges)
        put_gauges(o, r);
}
