/* A turn costs the store the same at turn 10 and at turn 10,000: pages of SQLite and allocations
 * are counted, not time. */
#include "tests/store/fixture.h"

#include "kernels/base/mem.h"

struct cost {
    uint64_t read, looked_at, written, allocated;
};

/* What the writer does for one turn of a small model: one commit to journal the turn and one for
 * its image, and the look of the bridge at the session before. */
static struct cost turn_cost(struct fixture *fx, int64_t session, uint64_t version)
{
    static uint8_t image[40 * 1024];
    int32_t ids[SAMPLE_IDS];
    struct store_turn t = turn_sample(version, ids);
    struct store_image im = image_sample(version, sizeof image);
    memset(image, (int)version, sizeof image);
    struct store_stats a = store_stats(fx->s);
    uint64_t allocated = mem_stats().count;

    (void)session_load(fx, "a");
    must(fx, store_turn_put(fx->s, session, &t, &fx->err));
    must(fx, store_batch_begin(fx->s, &fx->err));
    must(fx, store_turn_applied(fx->s, session, version, &fx->err));
    must(fx, store_image_put(fx->s, session, &im, image, &fx->err));
    must(fx, store_batch_commit(fx->s, &fx->err));

    struct store_stats b = store_stats(fx->s);
    return (struct cost){b.pages_read - a.pages_read, b.pages_hit - a.pages_hit,
                         b.pages_written - a.pages_written, mem_stats().count - allocated};
}

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

#define WINDOW 101

/* A page of the journal is full every 80th turn, and then three more are written: so the middle of
 * a window is compared for what every turn costs, and its sum for what they cost together. */
struct window {
    uint64_t read, looked_at, written, sum_written, sum_read;
};

static struct window window_cost(struct fixture *fx, int64_t session, uint64_t first)
{
    uint64_t read[WINDOW], looked_at[WINDOW], written[WINDOW];
    struct window w = {0};
    for (uint64_t i = 0; i < WINDOW; i++) {
        struct cost c = turn_cost(fx, session, first + i);
        assert_int_equal(c.allocated, 0);
        read[i] = c.read;
        looked_at[i] = c.looked_at;
        written[i] = c.written;
        w.sum_written += c.written;
        w.sum_read += c.read;
    }
    qsort(read, WINDOW, sizeof *read, by_value);
    qsort(looked_at, WINDOW, sizeof *looked_at, by_value);
    qsort(written, WINDOW, sizeof *written, by_value);
    w.read = read[WINDOW / 2];
    w.looked_at = looked_at[WINDOW / 2];
    w.written = written[WINDOW / 2];
    return w;
}

static void fast_forward(struct fixture *fx, int64_t session, uint64_t from, uint64_t to)
{
    must(fx, store_batch_begin(fx->s, &fx->err));
    for (uint64_t v = from; v < to; v++)
        turn_add(fx, session, v);
    must(fx, store_batch_commit(fx->s, &fx->err));
}

static void turn_10000_costs_what_turn_10_costs(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    fast_forward(fx, a.id, 1, 10);
    struct window early = window_cost(fx, a.id, 10);
    fast_forward(fx, a.id, 10 + WINDOW, 10000);
    struct window late = window_cost(fx, a.id, 10000);
    print_message("pages written a turn %d, %d; in all %d, %d; read %d, %d; looked at %d, %d\n",
                  (int)early.written, (int)late.written, (int)early.sum_written,
                  (int)late.sum_written, (int)early.read, (int)late.read, (int)early.looked_at,
                  (int)late.looked_at);
    assert_true(early.written == late.written);
    assert_true(early.read == 0 && late.read == 0);
    /* one page more where a tree has become two levels high: journal, and its request ids */
    assert_true(late.looked_at <= early.looked_at + 12);
    assert_true(late.sum_written <= early.sum_written + WINDOW / 10);
    assert_true(late.sum_read <= WINDOW / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(turn_10000_costs_what_turn_10_costs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
