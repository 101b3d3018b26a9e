#include "kernels/backend.h"

#include "kernels/base/mem.h"
#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"

static const struct kv_config turn = {3, 2, 24, 100};
static const struct mem_kv_config memory = {3, 2, 24, 100};

/* What a plan promises is what a creation takes. */
static void plan_is_what_is_taken(void **state)
{
    (void)state;
    struct setting s;
    assert_true(setting_open(&s, "scalar", 1));
    uint64_t before = mem_stats().live_bytes;
    struct kv *kv;
    assert_ok(kv_create(&kv, s.be, &turn));
    uint64_t taken = mem_stats().live_bytes - before;
    assert_true(taken <= kv_plan(s.be, &turn) && taken + 256 > kv_plan(s.be, &turn));
    kv_destroy(s.be, &kv);
    assert_null(kv);
    kv_destroy(s.be, &kv);
    struct mem_kv *mem;
    assert_ok(mem_kv_create(&mem, s.be, &memory));
    taken = mem_stats().live_bytes - before;
    assert_true(taken <= mem_kv_plan(s.be, &memory) && taken + 256 > mem_kv_plan(s.be, &memory));
    mem_kv_destroy(s.be, &mem);
    assert_null(mem);
    mem_kv_destroy(s.be, &mem);
    assert_int_equal(mem_stats().live_bytes, before);
    setting_close(&s);
}

static void survives_no_memory(void **state)
{
    (void)state;
    struct setting s;
    assert_true(setting_open(&s, "scalar", 1));
    assert_survives_no_memory(kv_create_both, s.be);
    setting_close(&s);
}

static void what_does_not_fit(void **state)
{
    (void)state;
    struct setting s;
    assert_true(setting_open(&s, "scalar", 1));
    struct kv *kv;
    struct mem_kv *mem;
    for (int i = 0; i < 5; i++) {
        struct kv_config a = turn;
        struct mem_kv_config b = memory;
        int32_t *field[2][4] = {{&a.n_layer, &a.n_kv_head, &a.head_dim, &a.max_tokens},
                                {&b.n_layer, &b.n_kv_head, &b.head_dim, &b.n_slot}};
        if (i < 4)
            *field[0][i] = *field[1][i] = 0;
        else
            a.head_dim = b.head_dim = 258; /* beyond the largest head of the backend */
        assert_status(RXT_ESHAPE, kv_create(&kv, s.be, &a));
        assert_null(kv);
        assert_status(RXT_ESHAPE, mem_kv_create(&mem, s.be, &b));
        assert_null(mem);
    }
    setting_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_is_what_is_taken),
        cmocka_unit_test(survives_no_memory),
        cmocka_unit_test(what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
