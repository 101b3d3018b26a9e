#include "tools/rxt/load/trend.h"

#include "tools/rxt/load/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- quantiles ---------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void sort_values(double *values, size_t n)
{
    if (n > 0)
        qsort(values, n, sizeof *values, by_value);
}

double quantile(const double *sorted, size_t n, double share)
{
    if (n == 0)
        return NAN;
    double at = share * (double)(n - 1);
    size_t i = (size_t)at;
    return i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

/* ---- least squares over sums -------------------------------------------------------------- */

struct sums {
    double n, x, y, xx, xy;
};

static void add(struct sums *s, double weight, const struct sums *more)
{
    s->n += weight * more->n;
    s->x += weight * more->x;
    s->y += weight * more->y;
    s->xx += weight * more->xx;
    s->xy += weight * more->xy;
}

/* NaN: all turns are the same one. */
static double slope_of(const struct sums *s)
{
    double spread = s->n * s->xx - s->x * s->x;
    return spread > 0 ? (s->n * s->xy - s->x * s->y) / spread : NAN;
}

/* ---- the bootstrap ------------------------------------------------------------------------ */

/* At most so many blocks, of at least so many turns. Blocks of moments are at least as long as a
 * young session, whose turns may have something in common; but a few there must be. */
enum { BLOCKS = 50, BLOCK_TURNS = 5 };
#define BOOTSTRAP 0x626F6F7473747261u /* its draws are not those of the schedule */

static uint32_t count_blocks(const struct trend_config *cfg)
{
    const uint32_t turns = cfg->n_turn - cfg->warmup;
    uint32_t n = turns / (cfg->n_moment > 0 ? PLAN_YOUNG_TURNS : BLOCK_TURNS);
    if (n > BLOCKS)
        n = BLOCKS;
    if (cfg->n_moment > 0 && n < TREND_MOMENTS)
        n = TREND_MOMENTS;
    if (cfg->n_moment > 0 && n > cfg->n_moment)
        n = cfg->n_moment;
    return n > 0 ? n : 1;
}

static uint32_t block_of(const struct trend_config *cfg, const struct trend_point *p, uint32_t n)
{
    return cfg->n_moment > 0
               ? (uint32_t)((uint64_t)p->moment * n / cfg->n_moment)
               : (uint32_t)((uint64_t)(p->turn - cfg->warmup) * n / (cfg->n_turn - cfg->warmup));
}

struct grid { /* sums of each session's turns in each block */
    struct sums *cell;
    uint32_t n_session, n_block;
};

/* What the line is of: with moments, a logarithm in the unit of the values. */
static double height(double value, double median, const struct trend_config *cfg)
{
    return cfg->n_moment > 0 ? median * log(value / median) : value;
}

static double over(double mean, double median, const struct trend_config *cfg)
{
    return cfg->n_moment > 0 ? median / cfg->reference * exp(mean / median) - 1 : (double)NAN;
}

static struct sums draw(const struct grid *g, uint32_t *weight, uint64_t *state)
{
    struct sums all = {0};
    uint32_t *blocks = weight + g->n_session;
    for (uint32_t i = 0; i < g->n_session + g->n_block; i++)
        weight[i] = 0;
    for (uint32_t i = 0; i < g->n_session; i++)
        weight[plan_pick(state, g->n_session)]++;
    for (uint32_t i = 0; i < g->n_block; i++)
        blocks[plan_pick(state, g->n_block)]++;
    for (uint32_t s = 0; s < g->n_session; s++)
        for (uint32_t b = 0; weight[s] && b < g->n_block; b++)
            if (blocks[b])
                add(&all, (double)weight[s] * blocks[b], &g->cell[(size_t)s * g->n_block + b]);
    return all;
}

static enum rxt_status bootstrap(struct trend *t, const struct grid *g,
                                 const struct trend_config *cfg)
{
    uint64_t state = cfg->seed ^ BOOTSTRAP;
    double *slope = calloc(cfg->n_draw, sizeof *slope);
    double *mean = calloc(cfg->n_draw, sizeof *mean);
    uint32_t *weight = calloc((size_t)g->n_session + g->n_block, sizeof *weight);
    const bool good = slope && mean && weight;
    size_t n = 0;
    for (uint32_t i = 0; good && i < cfg->n_draw; i++) {
        const struct sums one = draw(g, weight, &state);
        slope[n] = slope_of(&one);
        mean[n] = one.y / one.n;
        n += isfinite(slope[n]) ? 1 : 0;
    }
    if (good) {
        sort_values(slope, n);
        sort_values(mean, n);
        t->low = quantile(slope, n, 0.025);
        t->high = quantile(slope, n, 0.975);
        t->over_low = over(quantile(mean, n, 0.025), t->median, cfg);
        t->over_high = over(quantile(mean, n, 0.975), t->median, cfg);
    }
    free(slope);
    free(mean);
    free(weight);
    return good ? RXT_OK : RXT_ENOMEM;
}

/* ---- the verdict -------------------------------------------------------------------------- */

const char *trend_verdict_name(enum trend_verdict v)
{
    static const char *const name[] = {"constant", "not constant", "not shown"};
    return name[v];
}

bool trend_waits(const struct trend *t)
{
    return t->median_last > TREND_WAIT * t->median_first;
}

/* How far the line can lie from level over the whole run, as shares of the median. */
static void judge(struct trend *t, const char *flaw)
{
    double low = t->low * t->n_turn / t->median, high = t->high * t->n_turn / t->median;
    double ratio = t->p99_last / t->p99_first;
    const bool level = low >= -TREND_SHARE && high <= TREND_SHARE;
    const bool narrow = (high - low) / 2 <= TREND_SHARE;
    const char *what = "";
    if (flaw) {
        t->verdict = TREND_NOT_SHOWN;
        what = flaw;
    } else if (t->n > 0 && t->median <= 0) {
        t->verdict = TREND_NOT_SHOWN;
        what = "it takes no time";
    } else if (!isfinite(low) || !isfinite(high)) {
        t->verdict = TREND_NOT_SHOWN;
        what = "too few turns for a line";
    } else if (low > TREND_SHARE || high < -TREND_SHARE ||
               (narrow && !level && (low > 0 || high < 0))) {
        t->verdict = TREND_NOT_CONSTANT;
        what = low > 0 ? "it grows" : "it falls";
    } else if (!level) {
        t->verdict = TREND_NOT_SHOWN;
        what = narrow ? "the interval reaches too far" : "the interval is too wide";
    } else if (t->over_low > TREND_SHARE) {
        t->verdict = TREND_NOT_CONSTANT;
        what = "level, but above the young ones";
    } else if (isnan(ratio)) {
        t->verdict = TREND_NOT_SHOWN;
        what = "level, too few turns for a p99";
    } else if (ratio > TREND_RATIO) {
        t->verdict = TREND_NOT_CONSTANT;
        what = "level, but p99 grew";
    } else {
        t->verdict = TREND_CONSTANT;
        what = "level, and so is p99";
    }
    (void)snprintf(t->why, sizeof t->why, "%s", what);
}

/* ------------------------------------------------------------------------------------------- */

/* A quantile of the points of turns first <= turn < end; NaN: fewer than `least`. */
static double window_of(const struct trend_point *points, size_t n, uint32_t first, uint32_t end,
                        double share, size_t least, double *room)
{
    size_t m = 0;
    for (size_t i = 0; i < n; i++)
        if (points[i].turn >= first && points[i].turn < end)
            room[m++] = points[i].value;
    sort_values(room, m);
    return m < least ? NAN : quantile(room, m, share);
}

static void fill(struct grid *g, struct sums *all, double median, const struct trend_point *points,
                 size_t n, const struct trend_config *cfg)
{
    const uint32_t turns = cfg->n_turn - cfg->warmup;
    for (size_t i = 0; i < n; i++) {
        /* From the middle, so that the products stay small. */
        double x = points[i].turn - cfg->warmup - turns / 2.0;
        double y = height(points[i].value, median, cfg);
        const struct sums one = {1, x, y, x * x, x * y};
        const uint32_t b = block_of(cfg, &points[i], g->n_block);
        add(&g->cell[(size_t)points[i].session * g->n_block + b], points[i].weight, &one);
        add(all, points[i].weight, &one);
    }
}

static enum rxt_status fit(struct trend *t, const struct trend_point *points, size_t n,
                           const struct trend_config *cfg, double *room)
{
    const uint32_t turns = cfg->n_turn - cfg->warmup;
    const uint32_t window = turns / 10 < TREND_FIRST ? turns / 10 : TREND_FIRST;
    struct sums all = {0};
    struct grid g = {.n_session = cfg->n_session, .n_block = count_blocks(cfg)};
    g.cell = calloc((size_t)g.n_session * g.n_block, sizeof *g.cell);
    if (!g.cell)
        return RXT_ENOMEM;
    for (size_t i = 0; i < n; i++)
        room[i] = points[i].value;
    sort_values(room, n);
    t->median = quantile(room, n, 0.5);
    fill(&g, &all, t->median, points, n, cfg);
    t->slope = slope_of(&all);
    t->over = over(all.y / all.n, t->median, cfg);
    const uint32_t first = cfg->warmup, last = cfg->n_turn - turns / 10, end = cfg->n_turn;
    t->p99_first = window_of(points, n, first, first + window, 0.99, TREND_SAMPLES, room);
    t->p99_last = window_of(points, n, last, end, 0.99, TREND_SAMPLES, room);
    t->median_first = window_of(points, n, first, first + turns / 10, 0.5, 1, room);
    t->median_last = window_of(points, n, last, end, 0.5, 1, room);
    enum rxt_status st = bootstrap(t, &g, cfg);
    free(g.cell);
    return st;
}

enum rxt_status trend_fit(struct trend *t, struct trend_point *points, size_t n,
                          const struct trend_config *cfg)
{
    size_t m = 0;
    *t = (struct trend){.n_turn = cfg->n_turn,
                        .median = NAN,
                        .slope = NAN,
                        .low = NAN,
                        .high = NAN,
                        .p99_first = NAN,
                        .p99_last = NAN,
                        .median_first = NAN,
                        .median_last = NAN,
                        .over = NAN,
                        .over_low = NAN,
                        .over_high = NAN};
    for (size_t i = 0; i < n; i++)
        if (points[i].turn >= cfg->warmup && points[i].turn < cfg->n_turn)
            points[m++] = points[i];
    t->n = m;
    if (m > 0 && cfg->n_turn > cfg->warmup) {
        double *room = calloc(m, sizeof *room);
        enum rxt_status st = room ? fit(t, points, m, cfg, room) : RXT_ENOMEM;
        free(room);
        if (st != RXT_OK)
            return st;
    }
    judge(t, cfg->flaw);
    return RXT_OK;
}
