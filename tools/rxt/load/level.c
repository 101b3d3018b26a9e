#include "tools/rxt/load/level.h"

#include <stdbool.h>
#include <stdlib.h>

struct moment {
    double young, n_young, n_old; /* young: sum of the values */
};

struct span {
    uint64_t first_us, end_us;
    uint32_t n;
};

static struct span span_of(const struct trend_point *points, size_t n, size_t n_young)
{
    const size_t moments = n_young / LEVEL_YOUNG;
    struct span s = {.first_us = UINT64_MAX,
                     .n = moments < UINT32_MAX ? (uint32_t)moments : UINT32_MAX};
    if (s.n == 0)
        s.n = 1;
    for (size_t i = 0; i < n; i++) {
        if (points[i].due_us < s.first_us)
            s.first_us = points[i].due_us;
        if (points[i].due_us >= s.end_us)
            s.end_us = points[i].due_us + 1;
    }
    return s;
}

static uint32_t moment_of(const struct span *s, uint64_t due_us)
{
    const double share = (double)(due_us - s->first_us) / (double)(s->end_us - s->first_us);
    const uint32_t m = (uint32_t)(share * s->n);
    return m < s->n ? m : s->n - 1;
}

static void sum_moments(struct moment *m, const struct span *s, const struct trend_point *points,
                        size_t n, const struct trend_point *young, size_t n_young)
{
    for (size_t i = 0; i < n; i++)
        m[moment_of(s, points[i].due_us)].n_old++;
    for (size_t i = 0; i < n_young; i++) {
        if (young[i].due_us < s->first_us || young[i].due_us >= s->end_us)
            continue;
        struct moment *one = &m[moment_of(s, young[i].due_us)];
        one->young += young[i].value;
        one->n_young++;
    }
}

/* room: a number for each moment. */
static double usual(const struct moment *m, uint32_t n, double *room)
{
    size_t used = 0;
    for (uint32_t i = 0; i < n; i++)
        if (m[i].n_young > 0)
            room[used++] = m[i].young / m[i].n_young;
    sort_values(room, used);
    return quantile(room, used, 0.5);
}

static size_t divide(const struct level *l, const struct span *s, const struct moment *m,
                     struct trend_point *points, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        struct trend_point p = points[i];
        p.moment = moment_of(s, p.due_us);
        const struct moment *one = &m[p.moment];
        if (one->young <= 0)
            continue;
        p.value *= l->young * one->n_young / one->young;
        p.weight = one->n_young / (one->n_young + one->n_old);
        points[kept++] = p;
    }
    return kept;
}

enum rxt_status level_points(struct level *l, struct trend_point *points, size_t *n,
                             const struct trend_point *young, size_t n_young)
{
    const struct span s = span_of(points, *n, n_young);
    struct moment *m = calloc(s.n, sizeof *m);
    double *room = calloc(s.n, sizeof *room);
    const bool good = m && room;
    if (good) {
        sum_moments(m, &s, points, *n, young, n_young);
        *l = (struct level){.n_moment = s.n, .young = usual(m, s.n, room)};
        *n = divide(l, &s, m, points, *n);
    }
    free(room);
    free(m);
    return good ? RXT_OK : RXT_ENOMEM;
}
