/* A turn costs the same at turn 10 and at turn 10,000: what "constant" means, without a clock.
 * Compared for turns of equal length: operations, flops and bytes of the ops, allocations and their
 * bytes, exactly; pages that SQLite writes, in the median, since now and then a row begins a new
 * page. Looking a row up walks a tree, whose depth is the logarithm of its rows: the pages it looks
 * at, nearly all of them in its cache, may grow by a level of each tree, and no more. The model is
 * a small random one, which takes the same way through the code; with RXT_FULL it is the bundled
 * one.
 */
#include "tests/bridge/rig.h"
#include "tests/rxt/beta.h"

#ifdef RXT_SANITIZED /* looks for other faults, and the ten thousand would take an hour */
enum { LATE = 300 };
#else
enum { LATE = 10000 };
#endif
enum { WINDOW = 32, EARLY = 10, ANSWER = 4, MORE_LOOKS = 16 };

struct cost {
    uint64_t ops, flops, bytes, allocations, allocated;
    uint64_t pages_written, pages_looked_at;
};

static struct bridge_stats stats(struct rig *r)
{
    struct bridge_stats s;
    assert_ok(bridge_stats(r->bridge, &s, NULL));
    return s;
}

static struct cost one_turn(struct rig *r)
{
    struct outcome o = {0};
    struct bridge_request q = question("constant", "How are you?");
    q.max_tokens = ANSWER;
    struct bridge_stats a = stats(r);
    assert_ok(call(r, &q, &o));
    step_until_idle(r);
    struct bridge_stats b = stats(r);
    assert_int_equal(o.n_answer, ANSWER);
    return (struct cost){
        .ops = b.count.ops - a.count.ops,
        .flops = b.count.flops - a.count.flops,
        .bytes = b.count.bytes - a.count.bytes,
        .allocations = b.mem.count - a.mem.count,
        .allocated = b.mem.bytes - a.mem.bytes,
        .pages_written = b.store.pages_written - a.store.pages_written,
        .pages_looked_at =
            b.store.pages_read + b.store.pages_hit - a.store.pages_read - a.store.pages_hit,
    };
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t median(const struct cost *c, size_t field)
{
    uint64_t v[WINDOW];
    for (int i = 0; i < WINDOW; i++)
        memcpy(&v[i], (const char *)&c[i] + field, sizeof v[i]);
    qsort(v, WINDOW, sizeof v[0], by_value);
    return v[WINDOW / 2];
}

static void a_turn_costs_the_same_for_ever(void **state)
{
    (void)state;
    struct rig r;
    const struct bridge_config cfg = {.sync = STORE_SYNC_NORMAL}; /* the disk's time is no matter */
    struct cost early[WINDOW], late[WINDOW];
    char *dir = test_dir_make();
    beta_write(dir, 1, false, 0);
    rig_open(&r, getenv("RXT_FULL") ? MODEL_DIR : dir, &cfg);
    open_session(&r, "constant");
    for (int i = 1; i < LATE + WINDOW; i++) {
        struct cost c = one_turn(&r);
        if (i >= EARLY && i < EARLY + WINDOW)
            early[i - EARLY] = c;
        if (i >= LATE)
            late[i - LATE] = c;
    }
    for (int i = 0; i < WINDOW; i++) {
        assert_true(early[i].ops > 0 && early[i].flops > 0 && early[i].bytes > 0);
        assert_int_equal(early[i].ops, late[i].ops);
        assert_int_equal(early[i].flops, late[i].flops);
        assert_int_equal(early[i].bytes, late[i].bytes);
        assert_int_equal(early[i].allocations, late[i].allocations);
        assert_int_equal(early[i].allocated, late[i].allocated);
    }
    assert_true(median(early, offsetof(struct cost, pages_written)) > 0);
    assert_int_equal(median(early, offsetof(struct cost, pages_written)),
                     median(late, offsetof(struct cost, pages_written)));
    uint64_t looks_early = median(early, offsetof(struct cost, pages_looked_at));
    uint64_t looks_late = median(late, offsetof(struct cost, pages_looked_at));
    assert_true(looks_late <= looks_early + MORE_LOOKS);
    print_message("turn %d and turn %d: %llu ops, %llu flops, %llu bytes, %llu allocations, %llu "
                  "pages written; %llu and %llu looked at\n",
                  EARLY, LATE, (unsigned long long)late[0].ops, (unsigned long long)late[0].flops,
                  (unsigned long long)late[0].bytes, (unsigned long long)late[0].allocations,
                  (unsigned long long)median(late, offsetof(struct cost, pages_written)),
                  (unsigned long long)looks_early, (unsigned long long)looks_late);
    rig_close(&r);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_turn_costs_the_same_for_ever)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
