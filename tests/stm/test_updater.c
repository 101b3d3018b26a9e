#include "stm/updater_impl.h"

#include "kernels/base/count.h"
#include "kernels/base/mem.h"
#include "tests/lib/test.h"
#include "tests/stm/memory_case.h"

#include <pthread.h>
#include <stdatomic.h>

static const struct case_kind grouped = {
    .variant = STM_GROUPED_SELF_INTERLAYER, .gate = GATE_ELEMENTWISE, .per_slot = true};

struct pair {
    struct backend *be;
    struct memory_case c;
    struct inputs in;
    struct batch b;
};

static int open_two(void **state)
{
    struct pair *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->be = fixture_backend(2);
    case_open(&f->c, f->be, &grouped);
    inputs_open(&f->in);
    batch_open(&f->b, &f->c, &f->in, 0, 2);
    *state = f;
    return 0;
}

static int close_two(void **state)
{
    struct pair *f = *state;
    batch_close(&f->b);
    inputs_close(&f->in);
    case_close(&f->c);
    backend_destroy(&f->be);
    free(f);
    return 0;
}

/* ---- what is refused -------------------------------------------------------------------- */

/* Before any op has run. */
static void refused(struct pair *f)
{
    uint64_t ops = count_read().ops;
    assert_status(RXT_ESHAPE, batch_run(&f->b));
    assert_int_equal(count_read().ops, ops);
    for (int i = 0; i < f->b.n; i++) /* and what an earlier update left there is void */
        assert_int_equal(f->b.spare[i]->content, RXT_EINVAL);
}

static void shapes_that_do_not_fit_are_refused(void **state)
{
    struct pair *f = *state;
    struct batch *b = &f->b;
    assert_ok(batch_run(b));

    for (int l = 0; l < CASE_LAYERS; l++) {
        const struct tensor good = b->ed.ed[l];
        b->ed.ed[l].rows--;
        refused(f);
        b->ed.ed[l] = good;
        b->ed.ed[l].cols--;
        refused(f);
        b->ed.ed[l] = good;
        b->ed.ed[l].dtype = DTYPE_BF16;
        refused(f);
        b->ed.ed[l] = good;
    }

    const int32_t start[2] = {0, 3};
    b->ed.rows.start = start;
    refused(f);
    b->ed.rows.start = NULL;
    b->ed.rows.n_seq = 1;
    refused(f);
    b->ed.rows.n_seq = 2;
    const int32_t middle = b->ed.offset[1];
    const int32_t wrong[] = {0, -1, b->ed.offset[2],
                             b->ed.offset[2] + 1}; /* a memory without rows */
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        b->ed.offset[1] = wrong[i];
        refused(f);
    }
    b->ed.offset[1] = middle;
    b->ed.offset[0] = 1;
    refused(f);
    b->ed.offset[0] = 0;
    assert_ok(batch_run(b));
}

static void too_many_memories_or_rows_are_refused(void **state)
{
    struct pair *f = *state;
    struct batch *b = &f->b;
    assert_status(RXT_ESHAPE,
                  stm_update(b->updater, b->m, b->spare, 0, b->ed.ed, &b->ed.rows, NULL, NULL));
    assert_status(RXT_ESHAPE,
                  stm_update(b->updater, b->m, b->spare, 3, b->ed.ed, &b->ed.rows, NULL, NULL));
    struct stm_updater *small = NULL;
    int rows = b->ed.offset[2];
    assert_ok(stm_updater_create(&small, b->ln, &f->c.cfg, &f->c.weights, 2, rows));
    assert_ok(stm_update(small, b->m, b->spare, 2, b->ed.ed, &b->ed.rows, NULL, NULL));
    stm_updater_destroy(&small);
    assert_ok(stm_updater_create(&small, b->ln, &f->c.cfg, &f->c.weights, 2, rows - 1));
    assert_status(RXT_ESHAPE,
                  stm_update(small, b->m, b->spare, 2, b->ed.ed, &b->ed.rows, NULL, NULL));
    stm_updater_destroy(&small);
}

struct counting_feed {
    struct stm_feed base;
    int n, fails_at;
};
static enum rxt_status count_layer(struct stm_feed *base, int layer)
{
    struct counting_feed *f = (struct counting_feed *)base;
    assert_int_equal(f->n, layer);
    return f->n++ == f->fails_at ? RXT_ENOMEM : RXT_OK;
}

static void every_layer_is_fed_once_and_an_error_ends_the_update(void **state)
{
    struct pair *f = *state;
    struct batch *b = &f->b;
    struct counting_feed feed = {.base = {count_layer}, .fails_at = -1};
    assert_ok(stm_update(b->updater, b->m, b->spare, 2, b->ed.ed, &b->ed.rows, &feed.base, NULL));
    assert_int_equal(feed.n, f->c.cfg.n_layer);
    feed = (struct counting_feed){.base = {count_layer}, .fails_at = f->c.cfg.n_layer - 1};
    assert_status(RXT_ENOMEM, stm_update(b->updater, b->m, b->spare, 2, b->ed.ed, &b->ed.rows,
                                         &feed.base, NULL));
    assert_int_equal(feed.n, f->c.cfg.n_layer);
    assert_status(RXT_EINVAL, stm_commit(b->m[0], b->spare[0], stm_version(b->m[0])));
}

static void memories_and_spares_must_fit_each_other(void **state)
{
    struct pair *f = *state;
    struct batch *b = &f->b;
    struct stm_spare *first = b->spare[0]; /* float32 and bf16 */
    b->spare[0] = b->spare[1];
    b->spare[1] = first;
    refused(f);
    b->spare[1] = b->spare[0];
    b->spare[0] = first;
    b->m[0]->cfg.n_slot--;
    refused(f);
    b->m[0]->cfg.n_slot++;
    b->spare[1]->cfg.embed_dim--;
    refused(f);
    b->spare[1]->cfg.embed_dim++;
    assert_ok(batch_run(b));
}

static void configs_and_weights_must_agree(void **state)
{
    struct pair *f = *state;
    struct stm_updater *u = NULL;
    struct stm_weights w = f->c.weights;
    const int groups[] = {0, -1, 3, CASE_LAYERS + 1};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        w.n_group = groups[i];
        assert_status(RXT_ESHAPE, stm_updater_create(&u, f->b.ln, &f->c.cfg, &w, 1, 1));
        assert_null(u);
    }
    w.n_group = CASE_GROUPS;
    w.variant = STM_SELF_INTERLAYER; /* knows no groups */
    assert_status(RXT_ESHAPE, stm_updater_create(&u, f->b.ln, &f->c.cfg, &w, 1, 1));
    w = f->c.weights;
    w.n_layer--;
    assert_status(RXT_ESHAPE, stm_updater_create(&u, f->b.ln, &f->c.cfg, &w, 1, 1));
    w = f->c.weights;
    assert_status(RXT_ESHAPE, stm_updater_create(&u, f->b.ln, &f->c.cfg, &w, 0, 1));
    assert_status(RXT_ESHAPE, stm_updater_create(&u, f->b.ln, &f->c.cfg, &w, 1, 0));
    assert_status(RXT_ESHAPE, stm_updater_create(&u, f->b.ln, &f->c.cfg, &w, INT32_MAX / 2, 1));
    stm_updater_destroy(&u);
    stm_updater_destroy(NULL);
}

/* ---- memory ----------------------------------------------------------------------------- */

static enum rxt_status create_and_destroy(void *arg)
{
    struct pair *f = arg;
    struct stm_updater *u = NULL;
    enum rxt_status st = stm_updater_create(&u, f->b.ln, &f->c.cfg, &f->c.weights, 3, 7);
    assert_int_equal(st == RXT_OK, u != NULL);
    stm_updater_destroy(&u);
    assert_null(u);
    return st;
}

static void creation_survives_no_memory(void **state)
{
    assert_survives_no_memory(create_and_destroy, *state);
}

static void an_update_allocates_nothing(void **state)
{
    struct pair *f = *state;
    uint64_t before = mem_stats().count;
    assert_ok(batch_run(&f->b));
    assert_ok(stm_commit(f->b.m[0], f->b.spare[0], 0));
    assert_ok(batch_run(&f->b));
    assert_int_equal(mem_stats().count, before);
}

/* ---- readers ---------------------------------------------------------------------------- */

struct reader {
    struct pair *f;
    struct lane *ln;
    atomic_bool stop;
    uint8_t want[16];
    int n_read, n_wrong;
};

static void *read_all_the_time(void *arg)
{
    struct reader *r = arg;
    do {
        uint8_t got[16] = {0};
        if (stm_hash(r->f->b.m[0], r->ln, got) != RXT_OK || memcmp(got, r->want, 16) != 0 ||
            stm_version(r->f->b.m[0]) != 0)
            r->n_wrong++;
        r->n_read++;
    } while (!atomic_load(&r->stop));
    return NULL;
}

/* The published buffer is not touched before the commit, whoever looks and whenever. */
static void readers_see_the_old_version_during_an_update(void **state)
{
    struct pair *f = *state;
    struct reader r = {.f = f};
    const struct lane_limits small = {
        .max_rows = 1, .max_seq = 1, .max_keys = 1, .max_width = CASE_DIM};
    assert_ok(lane_create(&r.ln, f->be, LANE_ANSWER, &small));
    assert_ok(stm_hash(f->b.m[0], f->b.ln, r.want));
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, read_all_the_time, &r), 0);
    for (int i = 0; i < 20; i++)
        assert_ok(batch_run(&f->b));
    atomic_store(&r.stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(r.n_wrong, 0);
    assert_true(r.n_read > 0);
    lane_destroy(&r.ln);

    uint8_t now[16];
    assert_ok(stm_commit(f->b.m[0], f->b.spare[0], 0));
    assert_ok(stm_hash(f->b.m[0], f->b.ln, now));
    assert_memory_not_equal(now, r.want, 16);
}

#define two(test) cmocka_unit_test_setup_teardown(test, open_two, close_two)

int main(void)
{
    const struct CMUnitTest tests[] = {
        two(shapes_that_do_not_fit_are_refused),
        two(too_many_memories_or_rows_are_refused),
        two(every_layer_is_fed_once_and_an_error_ends_the_update),
        two(memories_and_spares_must_fit_each_other),
        two(configs_and_weights_must_agree),
        two(creation_survives_no_memory),
        two(an_update_allocates_nothing),
        two(readers_see_the_old_version_during_an_update),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
