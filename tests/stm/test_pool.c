#include "stm/stm_impl.h"

#include "tests/lib/test.h"
#include "tests/stm/fixture.h"

#include <pthread.h>
#include <stdatomic.h>

static void lends_each_spare_once(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    struct stm_pool *pool = NULL;
    assert_ok(stm_pool_create(&pool, f->be, &cfg, 3));
    struct stm_spare *s[3];
    for (int i = 0; i < 3; i++) {
        s[i] = stm_spare_take(pool);
        assert_non_null(s[i]);
        for (int k = 0; k < i; k++) {
            assert_ptr_not_equal(s[i], s[k]);
            assert_ptr_not_equal(s[i]->values, s[k]->values);
        }
    }
    assert_null(stm_spare_take(pool));
    struct stm_spare *was = s[1];
    stm_spare_give(pool, &s[1]);
    assert_null(s[1]);
    stm_spare_give(pool, &s[1]); /* NULL-safe */
    s[1] = stm_spare_take(pool);
    assert_ptr_equal(s[1], was);
    assert_null(stm_spare_take(pool));
    for (int i = 0; i < 3; i++)
        stm_spare_give(pool, &s[i]);
    stm_pool_destroy(&pool);
    assert_null(pool);
    stm_pool_destroy(&pool);
    stm_pool_destroy(NULL);
}

static void refuses_impossible_sizes(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    struct stm_pool *pool = NULL;
    assert_status(RXT_ESHAPE, stm_pool_create(&pool, f->be, &cfg, 0));
    cfg.embed_dim = 0;
    assert_status(RXT_ESHAPE, stm_pool_create(&pool, f->be, &cfg, 1));
    assert_null(pool);
}

/* Only what was filled can be committed; who takes a spare finds it empty. */
static void a_spare_is_empty_until_it_is_filled(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = fixture_config(DTYPE_BF16);
    void *ramp = fixture_values(&cfg);
    struct stm_pool *pool = NULL;
    struct stm *m = NULL, *noise = NULL;
    assert_ok(stm_create(&m, f->ln, &cfg, STM_ZEROS, 0));
    assert_ok(stm_create(&noise, f->ln, &cfg, STM_NOISE, 3));
    assert_ok(stm_pool_create(&pool, f->be, &cfg, 1));
    struct stm_spare *s = stm_spare_take(pool);
    assert_status(RXT_EINVAL, stm_commit(m, s, 0));

    assert_ok(stm_spare_init(s, f->ln, STM_NOISE, 3)); /* reset */
    assert_ok(stm_commit(m, s, 0));
    fixture_holds(f->ln, m, noise->values);

    assert_ok(stm_spare_load(s, f->ln, ramp, stm_bytes(&cfg))); /* rewind */
    assert_status(RXT_ESHAPE, stm_spare_load(s, f->ln, ramp, stm_bytes(&cfg) - 1));
    assert_status(RXT_EINVAL, stm_commit(m, s, 1));
    assert_ok(stm_spare_load(s, f->ln, ramp, stm_bytes(&cfg)));
    assert_status(RXT_EINVAL, stm_spare_init(s, f->ln, STM_CHECKPOINT, 0));
    assert_status(RXT_EINVAL, stm_commit(m, s, 1));
    assert_ok(stm_spare_load(s, f->ln, ramp, stm_bytes(&cfg)));
    stm_spare_give(pool, &s);
    s = stm_spare_take(pool);
    assert_status(RXT_EINVAL, stm_commit(m, s, 1));
    assert_int_equal(stm_version(m), 1);
    fixture_holds(f->ln, m, noise->values);

    assert_ok(stm_spare_load(s, f->ln, ramp, stm_bytes(&cfg)));
    assert_ok(stm_commit(m, s, 1));
    fixture_holds(f->ln, m, ramp);
    stm_spare_give(pool, &s);
    stm_pool_destroy(&pool);
    stm_destroy(&m);
    stm_destroy(&noise);
    free(ramp);
}

/* ---- two threads ------------------------------------------------------------------------ */

enum { SPARES = 3, ROUNDS = 2000 };

struct worker {
    struct fixture *f;
    struct stm_pool *pool;
    int id, n_taken, n_wrong;
};

/* Writes its number into what it was lent and finds it unchanged: nobody else has it. */
static void *take_and_give(void *arg)
{
    struct worker *w = arg;
    for (int round = 0; round < ROUNDS; round++) {
        struct stm_spare *s[2] = {stm_spare_take(w->pool), stm_spare_take(w->pool)};
        for (int i = 0; i < 2; i++)
            if (s[i])
                memset(s[i]->values, w->id, stm_bytes(&s[i]->cfg));
        for (int i = 0; i < 2; i++) {
            if (!s[i])
                continue;
            w->n_taken++;
            for (size_t k = 0; k < stm_bytes(&s[i]->cfg); k++)
                if (((char *)s[i]->values)[k] != w->id)
                    w->n_wrong++;
            stm_spare_give(w->pool, &s[i]);
        }
    }
    return NULL;
}

static void two_threads_take_and_give(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    struct stm_pool *pool = NULL;
    assert_ok(stm_pool_create(&pool, f->be, &cfg, SPARES));
    struct worker w[2] = {{f, pool, 1, 0, 0}, {f, pool, 2, 0, 0}};
    pthread_t thread[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, take_and_give, &w[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(w[i].n_wrong, 0);
        assert_true(w[i].n_taken >= ROUNDS); /* of three, one is always left for each */
    }
    struct stm_spare *s[SPARES];
    for (int i = 0; i < SPARES; i++) { /* none is lost */
        s[i] = stm_spare_take(pool);
        assert_non_null(s[i]);
    }
    for (int i = 0; i < SPARES; i++)
        stm_spare_give(pool, &s[i]);
    stm_pool_destroy(&pool);
}

/* ---- memory ----------------------------------------------------------------------------- */

static enum rxt_status create_and_destroy(void *arg)
{
    struct fixture *f = arg;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    struct stm_pool *pool = NULL;
    enum rxt_status st = stm_pool_create(&pool, f->be, &cfg, 3);
    assert_int_equal(st == RXT_OK, pool != NULL);
    stm_pool_destroy(&pool);
    return st;
}

static void creation_survives_no_memory(void **state)
{
    assert_survives_no_memory(create_and_destroy, *state);
}

#define with(test) cmocka_unit_test_setup_teardown(test, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with(lends_each_spare_once),
        with(refuses_impossible_sizes),
        with(a_spare_is_empty_until_it_is_filled),
        with(two_threads_take_and_give),
        with(creation_survives_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
