#include "bridge/metrics_impl.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

static const uint64_t bound_us[METRICS_BUCKETS] = {
    50,    100,    250,    500,    1000,    2500,    5000,    10000,    25000,
    50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 60000000,
};

void metrics_time(struct metrics *m, enum metrics_histogram h, uint64_t us)
{
    struct histogram *x = &m->histogram[h];
    size_t i = 0;
    while (i < METRICS_BUCKETS && us > bound_us[i])
        i++;
    atomic_fetch_add_explicit(&x->bucket[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&x->sum_us, us, memory_order_relaxed);
}

/* ---- text -------------------------------------------------------------------------------- */

struct page {
    char *at;
    size_t left;
};

static void put(struct page *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(struct page *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): va_start is above */
    int n = vsnprintf(p->at, p->left, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= p->left)
        return; /* cannot be: the page holds far more than all there is */
    p->at += n;
    p->left -= (size_t)n;
}

static uint64_t get(atomic_uint_fast64_t *x)
{
    return atomic_load_explicit(x, memory_order_relaxed);
}

static void put_histogram(struct page *p, const char *name, const char *help, struct histogram *h)
{
    uint64_t n = 0;
    put(p, "# HELP rxt_%s %s\n# TYPE rxt_%s histogram\n", name, help, name);
    for (size_t i = 0; i < METRICS_BUCKETS; i++) {
        n += get(&h->bucket[i]);
        put(p, "rxt_%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, (double)bound_us[i] / 1e6, n);
    }
    n += get(&h->bucket[METRICS_BUCKETS]);
    put(p, "rxt_%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, n);
    put(p, "rxt_%s_sum %.6f\nrxt_%s_count %" PRIu64 "\n", name, (double)get(&h->sum_us) / 1e6, name,
        n);
}

static void put_errors(struct page *p, struct metrics *m)
{
    put(p, "# HELP rxt_errors_total errors sent to clients\n# TYPE rxt_errors_total counter\n");
#define PUT_ERROR(NAME, number, text, retry)                                        \
    put(p, "rxt_errors_total{code=\"%d\",name=\"%s\"} %" PRIu64 "\n", number, text, \
        get(&m->error[number]));
    WIRE_ERROR_TABLE(PUT_ERROR)
#undef PUT_ERROR
}

/* Ages are kept in microseconds. */
static double gauge_value(struct metrics *m, enum metrics_gauge g)
{
    double v = (double)get(&m->gauge[g]);
    return g == METRICS_STEP_AGE || g == METRICS_MEMORY_AGE ? v / 1e6 : v;
}

static void put_sessions(struct page *p, struct metrics *m)
{
    static const char *const state[METRICS_STATES] = {"cold", "resident", "answering",
                                                      "remembering", "held"};
    put(p, "# HELP rxt_sessions in the table, by state\n# TYPE rxt_sessions gauge\n");
    for (size_t i = 0; i < METRICS_STATES; i++)
        put(p, "rxt_sessions{state=\"%s\"} %" PRIu64 "\n", state[i], get(&m->session[i]));
}

size_t metrics_text(struct metrics *m, char out[METRICS_TEXT_MAX])
{
    struct page p = {out, METRICS_TEXT_MAX};
#define PUT_HISTOGRAM(NAME, text, help) \
    put_histogram(&p, text, help, &m->histogram[METRICS_##NAME]);
    METRICS_HISTOGRAMS(PUT_HISTOGRAM)
#undef PUT_HISTOGRAM
#define PUT_COUNTER(NAME, text, help)                                                          \
    put(&p, "# HELP rxt_%s %s\n# TYPE rxt_%s counter\nrxt_%s %" PRIu64 "\n", text, help, text, \
        text, get(&m->counter[METRICS_##NAME]));
    METRICS_COUNTERS(PUT_COUNTER)
#undef PUT_COUNTER
#define PUT_GAUGE(NAME, text, help)                                                          \
    put(&p, "# HELP rxt_%s %s\n# TYPE rxt_%s gauge\nrxt_%s %.15g\n", text, help, text, text, \
        gauge_value(m, METRICS_##NAME));
    METRICS_GAUGES(PUT_GAUGE)
#undef PUT_GAUGE
    put_sessions(&p, m);
    put_errors(&p, m);
    return METRICS_TEXT_MAX - p.left;
}
