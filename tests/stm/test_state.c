#include "stm/stm_impl.h"

#include "tests/lib/test.h"
#include "tests/stm/fixture.h"

static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};

static void bytes_of_a_shape(void **state)
{
    (void)state;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    assert_int_equal(stm_bytes(&cfg), 192);
    cfg.dtype = DTYPE_BF16;
    assert_int_equal(stm_bytes(&cfg), 96);
    cfg.dtype = DTYPE_F16; /* the checkpoint's may be; a memory's not */
    assert_int_equal(stm_bytes(&cfg), 0);
    const struct stm_config bad[] = {
        {.n_layer = 0, .n_slot = 1, .embed_dim = 1},
        {.n_layer = 1, .n_slot = -1, .embed_dim = 1},
        {.n_layer = 1, .n_slot = 1, .embed_dim = 0},
        {.n_layer = INT32_MAX, .n_slot = INT32_MAX, .embed_dim = INT32_MAX},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(stm_bytes(&bad[i]), 0);
}

static void impossible_shapes_are_refused(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    cfg.n_slot = 0;
    struct stm *m = NULL;
    assert_status(RXT_ESHAPE, stm_create(&m, f->ln, &cfg, STM_ZEROS, 0));
    assert_null(m);
    stm_destroy(&m);
    stm_destroy(NULL);
}

static void layers_are_views_of_the_values(void **state)
{
    struct fixture *f = *state;
    for (int k = 0; k < 2; k++) {
        struct stm_config cfg = fixture_config(dtypes[k]);
        struct stm *m = fixture_memory(f->ln, &cfg, 5);
        assert_int_equal(stm_version(m), 5);
        assert_int_equal(stm_config_of(m)->dtype, dtypes[k]);
        for (int layer = 0; layer < 2; layer++) {
            struct tensor t = stm_read(m, layer);
            assert_int_equal(t.rows, 3);
            assert_int_equal(t.cols, 8);
            assert_int_equal(t.dtype, dtypes[k]);
            char got[24 * 4];
            for (int r = 0; r < 3; r++)
                assert_ok(lane_download(f->ln, got + (size_t)r * 8 * dtype_bytes(t.dtype),
                                        tensor_rows(t, r, 1).data, 8 * dtype_bytes(t.dtype)));
            for (size_t i = 0; i < 24; i++)
                assert_true(dtype_value(got, t.dtype, i) == fixture_ramp(24 * (size_t)layer + i));
        }
        stm_destroy(&m);
        assert_null(m);
    }
}

static void a_clone_has_content_and_version_of_its_own(void **state)
{
    struct fixture *f = *state;
    for (int k = 0; k < 2; k++) {
        struct stm_config cfg = fixture_config(dtypes[k]);
        struct stm *m = fixture_memory(f->ln, &cfg, 9), *fork = NULL;
        void *ramp = fixture_values(&cfg);
        assert_ok(stm_clone(&fork, f->ln, m));
        assert_int_equal(stm_version(fork), 9);
        assert_ok(stm_restart(m, f->ln, 10, STM_ZEROS, 0));
        fixture_holds(f->ln, fork, ramp);
        assert_int_equal(stm_version(fork), 9);
        free(ramp);
        stm_destroy(&m);
        stm_destroy(&fork);
    }
}

/* ---- commit ----------------------------------------------------------------------------- */

/* S4: the loser changes nothing. */
static void commit_is_compare_and_set(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    struct stm_pool *pool = NULL;
    struct stm *m = NULL;
    void *ramp = fixture_values(&cfg), *zeros = calloc(FIXTURE_VALUES, 4);
    assert_ok(stm_create(&m, f->ln, &cfg, STM_ZEROS, 0));
    assert_ok(stm_pool_create(&pool, f->be, &cfg, 2));
    struct stm_spare *winner = stm_spare_take(pool), *loser = stm_spare_take(pool);
    assert_ok(stm_spare_load(winner, f->ln, ramp, stm_bytes(&cfg)));
    assert_ok(stm_spare_init(loser, f->ln, STM_NOISE, 1));

    assert_status(RXT_ESTALE, stm_commit(m, winner, 1));
    assert_int_equal(stm_version(m), 0);
    fixture_holds(f->ln, m, zeros);

    void *published = m->values, *written = winner->values;
    assert_ok(stm_commit(m, winner, 0));
    assert_int_equal(stm_version(m), 1);
    fixture_holds(f->ln, m, ramp);
    assert_ptr_equal(m->values, written); /* a swap, not a copy */
    assert_ptr_equal(winner->values, published);

    written = loser->values;
    assert_status(RXT_ESTALE, stm_commit(m, loser, 0));
    assert_int_equal(stm_version(m), 1);
    fixture_holds(f->ln, m, ramp);
    assert_ptr_equal(loser->values, written);

    /* What the winner holds now is the past: it must not come back by a second commit. */
    assert_status(RXT_EINVAL, stm_commit(m, winner, 1));
    assert_int_equal(stm_version(m), 1);
    fixture_holds(f->ln, m, ramp);
    assert_ok(stm_commit(m, loser, 1)); /* based on what is current, it may */
    assert_int_equal(stm_version(m), 2);

    free(ramp);
    free(zeros);
    stm_spare_give(pool, &winner);
    stm_spare_give(pool, &loser);
    stm_pool_destroy(&pool);
    stm_destroy(&m);
}

static void commit_wants_the_same_shape(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = fixture_config(DTYPE_F32), other[2] = {cfg, cfg};
    other[0].dtype = DTYPE_BF16;
    other[1].n_slot = 4;
    struct stm *m = fixture_memory(f->ln, &cfg, 0);
    void *ramp = fixture_values(&cfg);
    for (int i = 0; i < 2; i++) {
        struct stm_pool *pool = NULL;
        assert_ok(stm_pool_create(&pool, f->be, &other[i], 1));
        struct stm_spare *s = stm_spare_take(pool);
        assert_ok(stm_spare_init(s, f->ln, STM_ZEROS, 0));
        assert_status(RXT_ESHAPE, stm_commit(m, s, 0));
        assert_int_equal(stm_version(m), 0);
        fixture_holds(f->ln, m, ramp);
        stm_spare_give(pool, &s);
        stm_pool_destroy(&pool);
    }
    free(ramp);
    stm_destroy(&m);
}

/* ---- import, restart -------------------------------------------------------------------- */

static void import_takes_exactly_its_bytes(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = fixture_config(DTYPE_BF16);
    struct stm *m = fixture_memory(f->ln, &cfg, 3);
    void *ramp = fixture_values(&cfg);
    char other[97] = {1};
    assert_status(RXT_ESHAPE, stm_import(m, f->ln, 4, other, 95));
    assert_status(RXT_ESHAPE, stm_import(m, f->ln, 4, other, 97));
    assert_int_equal(stm_version(m), 3);
    fixture_holds(f->ln, m, ramp);
    assert_ok(stm_import(m, f->ln, 4, other, 96));
    assert_int_equal(stm_version(m), 4);
    fixture_holds(f->ln, m, other);
    free(ramp);
    stm_destroy(&m);
}

static void restart_gives_what_create_gave(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    struct stm *m = fixture_memory(f->ln, &cfg, 3), *fresh = NULL;
    void *ramp = fixture_values(&cfg);
    assert_status(RXT_EINVAL, stm_restart(m, f->ln, 7, STM_CHECKPOINT, 0)); /* none is stored */
    assert_int_equal(stm_version(m), 3);
    fixture_holds(f->ln, m, ramp);
    assert_ok(stm_create(&fresh, f->ln, &cfg, STM_NOISE, 11));
    assert_ok(stm_restart(m, f->ln, 7, STM_NOISE, 11));
    assert_int_equal(stm_version(m), 7);
    fixture_holds(f->ln, m, fresh->values);
    free(ramp);
    stm_destroy(&m);
    stm_destroy(&fresh);
}

/* ---- memory ----------------------------------------------------------------------------- */

static enum rxt_status create_and_clone(void *arg)
{
    struct fixture *f = arg;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    struct stm *m = NULL, *fork = NULL;
    enum rxt_status st = stm_create(&m, f->ln, &cfg, STM_NOISE, 0);
    if (st == RXT_OK)
        st = stm_clone(&fork, f->ln, m);
    assert_int_equal(st == RXT_OK, fork != NULL);
    stm_destroy(&fork);
    stm_destroy(&m);
    return st;
}

static void creation_survives_no_memory(void **state)
{
    assert_survives_no_memory(create_and_clone, *state);
}

#define with(test) cmocka_unit_test_setup_teardown(test, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_of_a_shape),   with(impossible_shapes_are_refused),
        with(layers_are_views_of_the_values), with(a_clone_has_content_and_version_of_its_own),
        with(commit_is_compare_and_set),      with(commit_wants_the_same_shape),
        with(import_takes_exactly_its_bytes), with(restart_gives_what_create_gave),
        with(creation_survives_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
