/* The schedule of rxt load, and what its turns say. */
#include "tools/rxt/load/plan.h"
#include "tests/lib/test.h"

#include <math.h>

static void test_distributions(void **state)
{
    (void)state;
    struct spread s;
    static const char *const bad[] = {"",     "x",      "-1",          "1-",      "3-2",
                                      "exp:", "exp:-1", "lognormal:3", "1e999",   "5 ",
                                      "nan",  "1e300",  "1-1e10",      "exp:2e9", "lognormal:1:11"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(spread_parse(&s, bad[i]));
    assert_true(spread_parse(&s, "12.5") && spread_draw(&s, 0.9) == 12.5 &&
                spread_mean(&s) == 12.5);
    assert_true(spread_parse(&s, "10-30") && spread_draw(&s, 0.25) == 15 && spread_mean(&s) == 20);
    assert_true(spread_parse(&s, "exp:8") && spread_mean(&s) == 8);
    assert_true(fabs(spread_draw(&s, 0.5) - 8 * log(2)) < 1e-12);
    assert_true(spread_parse(&s, "lognormal:20:0.5") && fabs(spread_draw(&s, 0.5) - 20) < 1e-9);
    assert_true(fabs(spread_draw(&s, 0.8413447460685429) - 20 * exp(0.5)) < 1e-6);
}

static struct load_plan plan_of(const char *gap)
{
    struct load_plan p = {
        .n_session = 50, .n_turn = 400, .seed = 9, .query = "hi", .tokens = {.a = 4}};
    assert_true(spread_parse(&p.gap_us, gap));
    return p;
}

/* Every turn comes once, in the order of the times and of its session's numbers. */
static void test_all_turns_in_order(void **state)
{
    (void)state;
    static const char *const gaps[] = {"1000", "exp:1000", "200-1800", "0"};
    for (size_t g = 0; g < sizeof gaps / sizeof *gaps; g++) {
        const struct load_plan p = plan_of(gaps[g]);
        struct schedule *s = NULL;
        struct arrival a;
        uint32_t next[50] = {0}, n = 0;
        uint64_t last = 0;
        assert_ok(schedule_create(&s, &p));
        for (; schedule_peek(s, &a); schedule_pop(s), n++) {
            assert_true(a.due_us >= last && a.session < 50);
            assert_int_equal(a.turn, next[a.session]++);
            last = a.due_us;
        }
        assert_int_equal(n, 50 * 400);
        schedule_destroy(&s);
    }
}

/* Gaps of a Poisson process: mean and standard deviation are the same. */
static void test_poisson(void **state)
{
    (void)state;
    const struct load_plan p = plan_of("exp:1000");
    struct schedule *s = NULL;
    struct arrival a;
    double sum = 0, squares = 0, last[50] = {0};
    uint32_t n = 0;
    assert_ok(schedule_create(&s, &p));
    for (; schedule_peek(s, &a); schedule_pop(s), n++) {
        double gap = (double)a.due_us - last[a.session];
        last[a.session] = (double)a.due_us;
        sum += gap;
        squares += gap * gap;
    }
    double mean = sum / n, deviation = sqrt(squares / n - mean * mean);
    assert_true(fabs(mean - 1000) < 25 && fabs(deviation - 1000) < 40); /* 3 sigma: 21 and 30 */
    schedule_destroy(&s);
}

static void test_even_arrivals_do_not_meet_and_a_ramp_delays(void **state)
{
    (void)state;
    struct load_plan p = plan_of("1000");
    struct schedule *s = NULL;
    struct arrival a;
    assert_ok(schedule_create(&s, &p));
    for (uint32_t i = 0; i < 200; i++, schedule_pop(s)) {
        assert_true(schedule_peek(s, &a));
        assert_int_equal(a.due_us, 20 * i);
    }
    schedule_destroy(&s);
    p.ramp_us = 5e5;
    uint64_t first[50];
    assert_ok(schedule_create(&s, &p));
    for (; schedule_peek(s, &a); schedule_pop(s))
        if (a.turn == 0)
            first[a.session] = a.due_us;
    for (uint32_t i = 0; i < 50; i++)
        assert_int_equal(first[i], 20 * i + 10000 * i);
    schedule_destroy(&s);
}

/* Only what is due in time, and all of that. */
static void test_an_end(void **state)
{
    (void)state;
    struct load_plan p = plan_of("exp:1000");
    struct schedule *s = NULL;
    struct arrival a;
    uint32_t all = 0, some = 0;
    for (int round = 0; round < 2; round++) {
        p.end_us = round == 0 ? 0 : 20000;
        assert_ok(schedule_create(&s, &p));
        for (; schedule_peek(s, &a); schedule_pop(s)) {
            assert_true(round == 0 || a.due_us < 20000);
            *(round == 0 ? &all : &some) += a.due_us < 20000;
        }
        schedule_destroy(&s);
    }
    assert_true(some > 800 && some == all);
    p.end_us = 0.001; /* not even the first ones */
    assert_ok(schedule_create(&s, &p));
    assert_false(schedule_peek(s, &a));
    schedule_destroy(&s);
}

static void test_a_rate(void **state)
{
    (void)state;
    struct load_plan p = plan_of("0");
    plan_set_rate(&p, 25, true);
    assert_true(p.gap_us.kind == SPREAD_FIXED && spread_mean(&p.gap_us) == 2e6);
    plan_set_rate(&p, 100, false);
    assert_true(p.gap_us.kind == SPREAD_EXPONENTIAL && spread_mean(&p.gap_us) == 5e5);
}

/* Every session is one of three kinds, in the shares asked for. */
static void test_kinds_of_sessions(void **state)
{
    (void)state;
    struct load_plan p = plan_of("1000");
    p.slow = 0.2;
    p.vanish = 0.3;
    for (uint32_t i = 0; i < 50; i++) {
        assert_int_equal(plan_is_slow(&p, i), i >= 40);
        assert_int_equal(plan_vanishes(&p, i), i >= 25 && i < 40);
        assert_int_equal(plan_is_plain(&p, i), i < 25);
    }
}

/* Young sessions: even times, and in every round each session has a slot, in another order, at
 * least half a round behind its last one. The same seed draws the same. */
static void test_rounds(void **state)
{
    (void)state;
    enum { ALL = 7, ROUNDS = 2000 };
    struct load_plan p = plan_of("7000");
    struct schedule *s = NULL, *again = NULL;
    struct arrival a, b;
    uint64_t last[ALL] = {0}, slot = 0;
    uint32_t at[ALL][ALL] = {0}, behind[ALL] = {0}, before = 0;
    p.n_session = ALL;
    p.n_young = 2;
    p.n_turn = ROUNDS;
    assert_ok(schedule_create(&s, &p));
    assert_ok(schedule_create(&again, &p));
    for (; schedule_peek(s, &a); schedule_pop(s), schedule_pop(again), slot++) {
        assert_true(schedule_peek(again, &b) && b.session == a.session);
        assert_int_equal(a.due_us, 1000 * slot);
        assert_int_equal(a.turn, slot / ALL);
        assert_true(a.turn == 0 || slot - last[a.session] > ALL / 2);
        last[a.session] = slot;
        at[a.session][slot % ALL]++;
        behind[a.session] += before == ALL - 1; /* the last session, a young one */
        before = a.session;
    }
    assert_int_equal(slot, ALL * ROUNDS);
    for (int i = 0; i < ALL; i++) {
        uint32_t sum = 0;
        for (int k = 0; k < ALL; k++) {
            sum += at[i][k];
            assert_in_range(at[i][k], ROUNDS / ALL - 90, ROUNDS / ALL + 90);
        }
        assert_int_equal(sum,
                         ROUNDS); /* a turn a round, at any place of it as often as at others */
        if (i < ALL - 1)
            assert_in_range(behind[i], ROUNDS / (ALL - 1) - 90, ROUNDS / (ALL - 1) + 90);
    }
    schedule_destroy(&s);
    schedule_destroy(&again);
    p.end_us = 2500;
    assert_ok(schedule_create(&s, &p));
    for (slot = 0; schedule_peek(s, &a); slot++)
        schedule_pop(s);
    assert_int_equal(slot, 3);
    schedule_destroy(&s);
}

/* Every turn of a young session has a place of its own, none behind the 50th of a session. */
static void test_places(void **state)
{
    (void)state;
    struct load_plan p = plan_of("1000");
    p.n_young = 3;
    p.n_turn = 2 * PLAN_YOUNG_TURNS + 1;
    uint32_t turns[47 + 3 * 3] = {0};
    assert_int_equal(plan_places(&p), 47 + 3 * 3);
    for (uint32_t i = 0; i < p.n_session; i++)
        for (uint32_t k = 0; k < p.n_turn; k++) {
            const struct plan_place at = plan_place(&p, i, k);
            assert_true(at.session < plan_places(&p));
            assert_int_equal(at.turn, turns[at.session]++);
            assert_true(i < 47 ? at.session == i && at.turn == k : at.session >= 47);
            assert_int_equal(plan_is_young(&p, i), i >= 47);
        }
    for (uint32_t i = 0; i < 47 + 9; i++)
        assert_int_equal(turns[i], i < 47                  ? p.n_turn
                                   : i % 3 == (47 + 2) % 3 ? 1
                                                           : PLAN_YOUNG_TURNS);
}

/* Times beyond every clock are times all the same, in their order. */
static void test_far_away(void **state)
{
    (void)state;
    struct load_plan p = plan_of("0");
    static const struct spread gap[] = {
        {SPREAD_LOGNORMAL, 1e12, 10}, {SPREAD_EXPONENTIAL, 1e300, 0}, {SPREAD_FIXED, HUGE_VAL, 0}};
    for (size_t g = 0; g < sizeof gap / sizeof *gap; g++) {
        struct schedule *s = NULL;
        struct arrival a;
        uint64_t last = 0;
        uint32_t n = 0;
        p.gap_us = gap[g];
        p.ramp_us = 1e300;
        assert_ok(schedule_create(&s, &p));
        for (; schedule_peek(s, &a); schedule_pop(s), n++) {
            assert_true(a.due_us >= last && a.due_us <= 1000000000000000000u);
            last = a.due_us;
        }
        assert_int_equal(n, 50 * 400);
        assert_int_equal(last, 1000000000000000000u);
        schedule_destroy(&s);
    }
}

static void test_questions(void **state)
{
    (void)state;
    char room[PLAN_QUERY_MAX], again[PLAN_QUERY_MAX];
    struct client_request r;
    struct load_plan p = plan_of("1000");
    plan_turn(&p, 3, 7, room, &r);
    assert_string_equal(r.query, "hi");
    assert_int_equal(r.max_tokens, 4);
    assert_false(r.dry_run);
    p.dry_run = true;
    plan_turn(&p, 3, 7, room, &r);
    assert_true(r.dry_run);
    assert_true(spread_parse(&p.words, "3-9") && spread_parse(&p.tokens, "2-6"));
    bool other = false;
    for (uint32_t i = 0; i < 100; i++) {
        plan_turn(&p, 3, i, room, &r);
        uint32_t words = 1, tokens = r.max_tokens;
        for (const char *c = r.query; *c; c++)
            words += *c == ' ';
        assert_true(words >= 3 && words <= 9 && tokens >= 2 && tokens <= 6);
        plan_turn(&p, 3, i, again, &r);
        assert_string_equal(room, again); /* a repeat says the same */
        plan_turn(&p, 4, i, again, &r);
        other |= strcmp(room, again) != 0;
    }
    assert_true(other);
}

static void test_script(void **state)
{
    (void)state;
    struct load_plan p = plan_of("1000");
    struct rxt_error err = {""};
    char *dir = test_dir_make(), path[300], room[PLAN_QUERY_MAX];
    struct client_request r;
    (void)snprintf(path, sizeof path, "%s/script", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs("{\"query\": \"one\"}\n{\"q\": \"two\", \"a\": \"x\"}\n", f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_ok(plan_read_script(&p, path, &err));
    plan_turn(&p, 0, 0, room, &r);
    assert_string_equal(r.query, "one");
    plan_turn(&p, 0, 5, room, &r);
    assert_string_equal(r.query, "two");
    plan_free(&p);
    f = fopen(path, "a");
    assert_non_null(f);
    assert_true(fputs("{\"query\": \"\"}\n", f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_status(RXT_EFORMAT, plan_read_script(&p, path, &err));
    assert_non_null(strstr(err.text, "line 3"));
    plan_free(&p);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distributions),
        cmocka_unit_test(test_all_turns_in_order),
        cmocka_unit_test(test_poisson),
        cmocka_unit_test(test_even_arrivals_do_not_meet_and_a_ramp_delays),
        cmocka_unit_test(test_an_end),
        cmocka_unit_test(test_a_rate),
        cmocka_unit_test(test_kinds_of_sessions),
        cmocka_unit_test(test_rounds),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_far_away),
        cmocka_unit_test(test_questions),
        cmocka_unit_test(test_script),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
