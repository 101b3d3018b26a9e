/* Old sessions beside young ones, on a made-up machine that drifts: what the line, its interval and
 * the verdict say when the truth is known. The arithmetic against numpy is in test_load.py. */
#include "tools/rxt/load/level.h"
#include "tools/rxt/load/plan.h"
#include "kernels/base/random.h"
#include "tests/lib/test.h"

#include <math.h>

enum { OLD = 4, YOUNG = 1, TURNS = 1000, WARMUP = 50 };
static const double round_us = 83333; /* 60 turns a second */

/* What a session of this age takes at this time, but for noise. */
struct machine {
    double wander; /* standard deviation of its drift, which forgets itself in half a minute */
    double ramp;   /* so much faster at the beginning, slower at the end */
    double sine;   /* and so much slower and faster, in half a minute */
    double rise;   /* of an old session, over the run */
    double young;  /* a young one takes so much more */
    double noise;
};

static double normal(uint64_t *state)
{
    *state = plan_mix(*state);
    return random_normal(random_uniform((uint32_t)(*state >> 32), (uint32_t)*state));
}

/* Turns of all sessions, round by round; the young ones behind the old ones. */
static size_t play(const struct machine *m, uint64_t seed, struct trend_point *old,
                   struct trend_point *young, size_t *n_young)
{
    const double keep = exp(-round_us / 30e6), pi = acos(-1);
    double drift = m->wander * normal(&seed);
    size_t n = 0;
    *n_young = 0;
    for (uint32_t turn = 0; turn < TURNS; turn++) {
        const double at = turn * round_us, share = (double)turn / TURNS;
        drift = keep * drift + m->wander * sqrt(1 - keep * keep) * normal(&seed);
        const double speed =
            1 + drift + m->ramp * (2 * share - 1) + m->sine * sin(2 * pi * at / 30e6);
        for (uint32_t i = 0; i < OLD + YOUNG; i++) {
            const bool is_old = i < OLD;
            const double age = is_old ? m->rise * share : m->young;
            struct trend_point p = {.session = i,
                                    .turn = turn,
                                    .value = 100 * speed * (1 + age + m->noise * normal(&seed)),
                                    .due_us = (uint64_t)(at + i * round_us / (OLD + YOUNG)),
                                    .weight = 1};
            if (is_old && turn >= WARMUP)
                old[n++] = p;
            if (!is_old && turn % PLAN_YOUNG_TURNS >= LEVEL_FIRST)
                young[(*n_young)++] = p;
        }
    }
    return n;
}

static struct trend fit(const struct machine *m, uint64_t seed, bool leveled)
{
    struct trend t;
    struct trend_config cfg = {
        .n_session = OLD, .n_turn = TURNS, .warmup = WARMUP, .n_draw = 200, .seed = seed};
    struct trend_point *old = calloc((size_t)(OLD + YOUNG) * TURNS, sizeof *old),
                       *young = old + (size_t)OLD * TURNS;
    size_t n_young, n = play(m, seed, old, young, &n_young);
    if (leveled) {
        struct level l;
        assert_ok(level_points(&l, old, &n, young, n_young));
        cfg.n_moment = l.n_moment;
        cfg.reference = l.young;
    }
    assert_ok(trend_fit(&t, old, n, &cfg));
    free(old);
    return t;
}

static double moves(const struct trend *t)
{
    return t->slope * TURNS / t->median;
}

static const struct machine drifting = {.ramp = 0.15, .sine = 0.15, .noise = 0.03};

/* The machine moves all sessions: the plain line sees that, the one against young sessions does
 * not, and neither does its p99. */
static void test_a_drifting_machine(void **state)
{
    (void)state;
    const struct trend plain = fit(&drifting, 1, false), t = fit(&drifting, 1, true);
    assert_int_equal(plain.verdict, TREND_NOT_CONSTANT);
    assert_true(moves(&plain) > 0.2);
    assert_string_equal(t.why, "level, and so is p99");
    assert_int_equal(t.verdict, TREND_CONSTANT);
    assert_true(fabs(moves(&t)) < 0.02);
    assert_true(t.n > OLD * (TURNS - WARMUP) * 9 / 10);
}

/* What grows with the session's own turns does not hide behind the machine. */
static void test_growing_on_a_drifting_machine(void **state)
{
    (void)state;
    struct machine m = drifting;
    for (int sign = -1; sign <= 1; sign += 2) {
        m.rise = 0.1 * sign;
        const struct trend t = fit(&m, 2, true);
        assert_int_equal(t.verdict, TREND_NOT_CONSTANT);
        assert_string_equal(t.why, sign > 0 ? "it grows" : "it falls");
        assert_true(fabs(moves(&t) - m.rise) < 0.01);
    }
}

/* A constant difference between old and young is no slope, and is told. */
static void test_what_old_ones_take_over_young_ones(void **state)
{
    (void)state;
    struct machine m = drifting;
    m.young = -0.2;
    const struct trend t = fit(&m, 3, true);
    assert_int_equal(t.verdict, TREND_CONSTANT);
    assert_true(fabs(t.over - 0.25) < 0.01);
    assert_true(t.over_low < t.over && t.over < t.over_high);
}

/* With a drift that nobody knows, the interval has the truth in it as often as it says. */
static void test_coverage(void **state)
{
    (void)state;
    enum { RUNS = 200 };
    int covered = 0, plain_covered = 0;
    double width = 0;
    for (uint64_t run = 0; run < RUNS; run++) {
        const struct machine m = {
            .wander = 0.12, .rise = 0.03 * normal(&(uint64_t){run}), .noise = 0.12};
        const struct trend t = fit(&m, 1000 + run, true), plain = fit(&m, 1000 + run, false);
        const double truth = 100 * m.rise / TURNS;
        covered += t.low <= truth && truth <= t.high;
        plain_covered += plain.low <= truth && truth <= plain.high;
        width += (t.high - t.low) / 2 * TURNS / t.median / RUNS;
    }
    assert_true(covered >= 0.9 * RUNS);
    assert_true(plain_covered < 0.5 * RUNS);
    /* And it is not much wider than the noise alone makes it. */
    const double best = 1.96 * sqrt(12) * 0.12 * sqrt(1.0 / (OLD * TURNS) + 1.0 / (YOUNG * TURNS));
    assert_true(width > 0.9 * best && width < 1.4 * best);
}

/* A moment without a young turn says nothing of the old ones in it. */
static void test_moments_without_young_ones(void **state)
{
    (void)state;
    struct level l;
    struct trend_point old[80], young[40];
    size_t n = 80;
    for (uint32_t i = 0; i < 80; i++)
        old[i] = (struct trend_point){.turn = i, .value = 7, .due_us = 100 + i, .weight = 1};
    for (uint32_t i = 0; i < 40; i++) /* all in the first half */
        young[i] = (struct trend_point){.value = i < 20 ? 2 : 4, .due_us = 100 + i};
    assert_ok(level_points(&l, old, &n, young, 40));
    assert_int_equal(l.n_moment, 2);
    assert_int_equal(n, 40);
    assert_true(fabs(l.young - 3) < 1e-9);
    assert_true(fabs(old[0].value - 7) < 1e-9 && old[0].weight == 0.5 && old[39].moment == 0);
    assert_ok(level_points(&l, old, &n, young, 0));
    assert_int_equal(n, 0);
    assert_true(isnan(l.young));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_drifting_machine),
        cmocka_unit_test(test_growing_on_a_drifting_machine),
        cmocka_unit_test(test_what_old_ones_take_over_young_ones),
        cmocka_unit_test(test_coverage),
        cmocka_unit_test(test_moments_without_young_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
