#include "stm/stm_impl.h"

#include "tests/lib/test.h"
#include "tests/stm/fixture.h"

static void hash_is(struct fixture *f, const struct stm *m, const char *want)
{
    uint8_t hash[16];
    char hex[33] = "";
    assert_ok(stm_hash(m, f->ln, hash));
    for (int i = 0; i < 16; i++)
        snprintf(hex + 2 * i, 3, "%02x", hash[i]);
    assert_string_equal(hex, want);
}

/* python3 -c 'import struct, xxhash
 * x = [(i - 20) / 4 for i in range(48)]
 * print(xxhash.xxh3_128(struct.pack("<48f", *x)).hexdigest())
 * print(xxhash.xxh3_128(b"".join(struct.pack("<f", v)[2:] for v in x)).hexdigest())' */
static void hash_of_the_ramp_is_recorded(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    struct stm *m = fixture_memory(f->ln, &cfg, 1);
    hash_is(f, m, "245fd8c3c1a730181400593ab12ea960");
    stm_destroy(&m);
    cfg.dtype = DTYPE_BF16;
    m = fixture_memory(f->ln, &cfg, 2);
    hash_is(f, m, "32386e6e95c6582a041174dad03d95da");
    stm_destroy(&m);
}

/* 76,800 bytes, more than are hashed at a time. python3 -c 'import struct, xxhash
 * x = [i % 1000 / 2 for i in range(19200)]
 * print(xxhash.xxh3_128(struct.pack("<19200f", *x)).hexdigest())' */
static void hash_of_a_larger_memory_is_recorded(void **state)
{
    struct fixture *f = *state;
    const struct stm_config cfg = {
        .n_layer = 3, .n_slot = 50, .embed_dim = 128, .dtype = DTYPE_F32};
    static float x[19200];
    for (int i = 0; i < 19200; i++)
        x[i] = (float)(i % 1000) / 2;
    struct stm *m = NULL;
    assert_ok(stm_create(&m, f->ln, &cfg, STM_ZEROS, 0));
    assert_ok(stm_import(m, f->ln, 1, x, sizeof x));
    hash_is(f, m, "35c1804f8cc42816db58f948552eae36");
    uint8_t whole[16], parts[16];
    stm_digest(x, sizeof x, whole);
    assert_ok(stm_hash(m, f->ln, parts));
    assert_memory_equal(whole, parts, 16);
    stm_destroy(&m);
}

/* The number is of the values alone: two memories with the same values have it whatever their
 * versions are. */
static void hash_does_not_depend_on_the_version(void **state)
{
    struct fixture *f = *state;
    struct stm_config cfg = fixture_config(DTYPE_F32);
    struct stm *a = fixture_memory(f->ln, &cfg, 1), *b = fixture_memory(f->ln, &cfg, 100);
    uint8_t x[16], y[16];
    assert_ok(stm_hash(a, f->ln, x));
    assert_ok(stm_hash(b, f->ln, y));
    assert_memory_equal(x, y, 16);
    stm_destroy(&a);
    stm_destroy(&b);
}

#define with(test) cmocka_unit_test_setup_teardown(test, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with(hash_of_the_ramp_is_recorded),
        with(hash_of_a_larger_memory_is_recorded),
        with(hash_does_not_depend_on_the_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
