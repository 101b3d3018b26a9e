#include "tools/rxt/load/outcome.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- which turns are compared ------------------------------------------------------------- */

static bool counts(const struct drive *d, size_t record)
{
    const struct turn_record *t = &d->turn[record];
    return t->outcome == TURN_DONE && t->first_us && !t->cancelled &&
           plan_is_plain(d->plan, (uint32_t)(record / d->plan->n_turn));
}

static int by_lengths(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Turns with the most frequent numbers of tokens in question and answer: the latency of others is
 * another one at any turn. */
static enum rxt_status find_lengths(struct load_outcome *o)
{
    const struct drive *d = o->d;
    size_t n = 0, best = 0, run = 0;
    uint32_t *lengths = calloc(drive_records(d), sizeof *lengths);
    if (!lengths)
        return RXT_ENOMEM;
    for (size_t i = 0; i < drive_records(d); i++)
        if (counts(d, i))
            lengths[n++] = (uint32_t)d->turn[i].n_query << 16 | d->turn[i].n_answer;
    if (n > 0)
        qsort(lengths, n, sizeof *lengths, by_lengths);
    for (size_t i = 0; i < n; i++) {
        run = i > 0 && lengths[i] == lengths[i - 1] ? run + 1 : 1;
        if (run <= best)
            continue;
        best = run;
        o->n_query = (uint16_t)(lengths[i] >> 16);
        o->n_answer = (uint16_t)(lengths[i] & 0xFFFF);
    }
    o->n_full = best;
    free(lengths);
    return RXT_OK;
}

bool outcome_is_full(const struct load_outcome *o, size_t record)
{
    const struct turn_record *t = &o->d->turn[record];
    return counts(o->d, record) && t->n_query == o->n_query && t->n_answer == o->n_answer;
}

size_t outcome_values(const struct load_outcome *o, bool young, uint32_t first, uint32_t end,
                      enum turn_value kind, double *room)
{
    const struct drive *d = o->d;
    size_t n = 0;
    for (uint32_t s = 0; s < d->plan->n_session; s++)
        for (uint32_t i = first; i < end; i++) {
            const size_t record = (size_t)s * d->plan->n_turn + i;
            const struct turn_record *t = &d->turn[record];
            if (plan_is_young(d->plan, s) != young || !outcome_is_full(o, record) ||
                (kind == VALUE_MEMORY && !t->memory_us))
                continue;
            uint32_t us = kind == VALUE_FIRST  ? t->first_us
                          : kind == VALUE_TURN ? t->done_us
                                               : t->lag_us;
            room[n++] = us / 1000.0;
        }
    sort_values(room, n);
    return n;
}

static double first_of(const struct turn_record *t)
{
    return t->first_us;
}

static double turn_time_of(const struct turn_record *t)
{
    return t->done_us;
}

static double lag_of(const struct turn_record *t)
{
    return t->memory_us ? (double)t->lag_us : (double)NAN;
}

/* The points of the line: full turns behind the warm-up, of the old sessions or of the young. */
static size_t collect(const struct load_outcome *o, bool young,
                      double (*value)(const struct turn_record *), struct trend_point *points)
{
    const struct load_plan *p = o->d->plan;
    size_t n = 0;
    for (size_t i = 0; i < drive_records(o->d); i++) {
        const uint32_t session = (uint32_t)(i / p->n_turn), turn = (uint32_t)(i % p->n_turn);
        const double v = value(&o->d->turn[i]);
        const bool warm =
            young ? plan_place(p, session, turn).turn >= LEVEL_FIRST : turn >= o->warmup;
        if (plan_is_young(p, session) == young && warm && outcome_is_full(o, i) && !isnan(v))
            points[n++] = (struct trend_point){.session = session,
                                               .turn = turn,
                                               .value = v,
                                               .due_us = o->d->turn[i].due_us,
                                               .weight = 1};
    }
    return n;
}

/* The line that decides, and the plain one if that is another. */
static enum rxt_status fit(struct trend *decides, struct trend *plain, const struct load_outcome *o,
                           double (*value)(const struct turn_record *))
{
    const struct load_plan *p = o->d->plan;
    struct trend_config cfg = {.n_session = p->n_session - p->n_young,
                               .n_turn = p->n_turn,
                               .warmup = o->warmup,
                               .n_draw = o->n_draw,
                               .seed = p->seed};
    struct trend_point *points = calloc(drive_records(o->d), sizeof *points);
    if (!points)
        return RXT_ENOMEM;
    size_t n = collect(o, false, value, points);
    enum rxt_status st = trend_fit(plain, points, n, &cfg);
    *decides = *plain;
    if (st == RXT_OK && p->n_young > 0) {
        struct level l = {0};
        n = collect(o, false, value, points);
        const size_t n_young = collect(o, true, value, points + n);
        st = level_points(&l, points, &n, points + n, n_young);
        cfg.n_moment = l.n_moment;
        cfg.reference = l.young;
        cfg.flaw = l.flaw;
        if (st == RXT_OK)
            st = trend_fit(decides, points, n, &cfg);
    }
    free(points);
    return st;
}

/* ---- the verdict -------------------------------------------------------------------------- */

static bool within(double us, int32_t limit_ms)
{
    return limit_ms == 0 || us <= 1000.0 * limit_ms;
}

static void count_good(struct load_outcome *o)
{
    const struct load_limits *l = &o->limits;
    for (size_t i = 0; i < drive_records(o->d); i++) {
        const struct turn_record *t = &o->d->turn[i];
        double token = t->n_answer > 1 ? (double)(t->done_us - t->first_us) / (t->n_answer - 1) : 0;
        if (t->outcome == TURN_DONE && !t->cancelled && within(t->first_us, l->first_token_ms) &&
            within(t->done_us, l->turn_ms) && within(token, l->token_ms) &&
            within(t->lag_us, l->memory_ms))
            o->n_good++;
    }
}

/* What DONE was said of must be in the session and, at the end, in its memory; nothing else. */
static void compare_sessions(struct load_outcome *o)
{
    for (uint32_t i = 0; i < plan_places(o->d->plan); i++) {
        const struct load_session *s = &o->d->session[i];
        uint64_t want = s->n_before + (o->d->plan->dry_run ? 0 : s->n_done);
        o->n_lost += s->n_turn < want ? want - s->n_turn : 0;
        o->n_doubled += s->n_turn > want ? s->n_turn - want : 0;
        const uint64_t there = (s->n_turn < want ? s->n_turn : want) - s->n_before;
        const uint64_t remembered = s->version - s->version_before;
        o->n_forgotten += there > remembered ? there - remembered : 0;
    }
}

/* The interval of the line over all turns, as shares of the median in percent. */
static void put_interval(char out[64], const struct trend *t)
{
    double scale = 100.0 * t->n_turn / t->median;
    (void)snprintf(out, 64, "%+.1f %% .. %+.1f %%", t->low * scale, t->high * scale);
}

static void put_ratio(char out[32], const struct trend *t)
{
    double ratio = t->p99_last / t->p99_first;
    (void)snprintf(out, 32, isnan(ratio) ? "not known" : "%.2f", ratio);
}

/* A queue that grows makes all sessions wait, old and young: plain lines show it. */
static bool waits(const struct load_outcome *o)
{
    return trend_waits(&o->plain_first) || trend_waits(&o->plain_turn);
}

static bool grows(const struct trend *t)
{
    return t->verdict == TREND_NOT_CONSTANT && t->low > 0;
}

static int code_of(const struct load_outcome *o)
{
    const enum trend_verdict a = o->first.verdict, b = o->turn.verdict;
    if (o->d->n_error > 0 || o->n_lost > 0 || o->n_doubled > 0 || o->n_forgotten > 0 ||
        o->d->n_answer_differs > 0 || o->d->n_connected > 0 ||
        o->d->n_done + o->d->n_cancelled < o->d->n_sent)
        return LOAD_ERRORS_CAME;
    if (a == TREND_NOT_CONSTANT || b == TREND_NOT_CONSTANT)
        return LOAD_NOT_CONSTANT;
    if (a == TREND_NOT_SHOWN || b == TREND_NOT_SHOWN || (o->d->plan->n_young > 0 && waits(o)))
        return LOAD_NOT_SHOWN;
    return LOAD_CONSTANT;
}

static void judge(struct load_outcome *o)
{
    static const char *const word[] = {"CONSTANT", "NOT CONSTANT", "NOT SHOWN", "ERRORS"};
    const struct drive *d = o->d;
    char first[64], turn[64], first_ratio[32], turn_ratio[32];
    put_interval(first, &o->first);
    put_interval(turn, &o->turn);
    put_ratio(first_ratio, &o->first);
    put_ratio(turn_ratio, &o->turn);
    o->code = code_of(o);
    const char *against = d->plan->n_young > 0 ? ", against young sessions" : "";
    const char *plain =
        d->plan->n_young > 0 && (grows(&o->plain_first) || grows(&o->plain_turn))
            ? "; the plain line grows, which young sessions cannot tell from the machine"
            : "";
    (void)snprintf(o->line, sizeof o->line, "%s: first token %s, turn %s over %u turns%s%s",
                   word[o->code], first, turn, d->plan->n_turn, against, plain);
    const double late_us = histogram_at(&d->histogram[MEASURE_SLIP], 0.99);
    (void)snprintf(
        o->verdict, sizeof o->verdict,
        "%s: over %u turns the line moves by %s (first token) and %s (turn) of the "
        "median%s; p99 of the last tenth over the first turns: %s and %s%s%s%s",
        word[o->code], d->plan->n_turn, first, turn, against, first_ratio, turn_ratio, plain,
        waits(o) ? ". The last turns took more than 1.5 times as long as the first: if a queue "
                   "grew, ask for fewer turns a second"
                 : "",
        late_us > o->first.median
            ? ". 1 % of the turns were sent later than a first token takes: this machine "
              "is busy with something else"
            : "");
}

enum rxt_status outcome_make(struct load_outcome *o, const struct drive *d,
                             const struct gauges *gauges, const struct load_limits *limits,
                             uint32_t warmup)
{
    *o = (struct load_outcome){
        .d = d, .gauges = gauges, .limits = *limits, .warmup = warmup, .n_draw = 2000};
    TRY(find_lengths(o));
    TRY(fit(&o->first, &o->plain_first, o, first_of));
    TRY(fit(&o->turn, &o->plain_turn, o, turn_time_of));
    TRY(fit(&o->memory, &o->plain_memory, o, lag_of));
    count_good(o);
    compare_sessions(o);
    judge(o);
    return RXT_OK;
}
