#include "stm/stm_impl.h"

#include "tests/lib/test.h"
#include "tests/stm/fixture.h"

#include <math.h>

/* Offsets of format 1, as stm/image.c documents them. */
enum {
    AT_FORMAT = 8,
    AT_DTYPE = 12,
    AT_LAYERS = 24,
    AT_SLOTS = 28,
    AT_DIM = 32,
    AT_ZERO = 36,
    AT_BYTES = 40,
    AT_CLASS = 48,
    AT_TENANT = 96,
    AT_SESSION = 224,
    AT_VALUES_HASH = 352,
    AT_HEADER_HASH = 368,
    HEADER = 384,
    BYTES = HEADER + 24,
};

/* [1,2,3] of float32: -1, -0.5, 0, 0.5, 1, 1.5, version 7. */
static const struct stm_config config = {
    .n_layer = 1, .n_slot = 2, .embed_dim = 3, .dtype = DTYPE_F32};
static const float values[6] = {-1, -0.5f, 0, 0.5f, 1, 1.5f};

static struct stm_image_info names(void)
{
    struct stm_image_info info = {
        .bit_class = "cpu-f32/1", .tenant = "acme", .session = "s-1", .version = 99};
    for (int i = 0; i < 16; i++)
        info.model_hash[i] = (uint8_t)i;
    return info;
}

static void write_image(struct fixture *f, char image[BYTES])
{
    struct stm *m = NULL;
    struct stm_image_info info = names();
    assert_ok(stm_create(&m, f->ln, &config, STM_ZEROS, 0));
    assert_ok(stm_import(m, f->ln, 7, values, sizeof values));
    assert_int_equal(stm_image_bytes(&config), BYTES);
    assert_ok(stm_export(m, f->ln, &info, image, BYTES));
    stm_destroy(&m);
}

static void mend(char *image, size_t size)
{
    stm_digest(image + HEADER, size - HEADER, (uint8_t *)image + AT_VALUES_HASH);
    stm_digest(image, AT_HEADER_HASH, (uint8_t *)image + AT_HEADER_HASH);
}

static enum rxt_status parse(const char *image, size_t size)
{
    struct stm_image_info info;
    struct rxt_error err = {""};
    enum rxt_status st = stm_image_parse(image, size, &info, NULL, NULL, &err);
    assert_int_equal(st == RXT_OK, err.text[0] == '\0'); /* every refusal has its sentence */
    return st;
}

/* ---- round trip ------------------------------------------------------------------------- */

/* The whole file, made by a Python program from the layout in stm/image.c: struct.pack and
 * xxhash.xxh3_128 of header and values, then xxh3_128 of the 408 (396) bytes. */
static void bytes_are_recorded(void **state)
{
    struct fixture *f = *state;
    static const char *const want[] = {"6767c4131ae9c74d7b363c29a23fde9f",
                                       "451918e04f79dea0608b8d1f9e741955"};
    for (int k = DTYPE_F32; k <= DTYPE_BF16; k++) {
        struct stm_config cfg = config;
        cfg.dtype = (enum dtype)k;
        cfg.stored = values;
        cfg.stored_dtype = DTYPE_F32;
        struct stm *m = NULL;
        struct stm_image_info info = names();
        char image[BYTES], hex[33];
        uint8_t hash[16];
        assert_ok(stm_create(&m, f->ln, &cfg, STM_CHECKPOINT, 0));
        assert_ok(stm_restart(m, f->ln, 7, STM_CHECKPOINT, 0));
        assert_ok(stm_export(m, f->ln, &info, image, stm_image_bytes(&cfg)));
        stm_digest(image, stm_image_bytes(&cfg), hash);
        for (int i = 0; i < 16; i++)
            snprintf(hex + 2 * i, 3, "%02x", hash[i]);
        assert_string_equal(hex, want[k]);
        stm_destroy(&m);
    }
}

static void round_trip(void **state)
{
    struct fixture *f = *state;
    for (int k = DTYPE_F32; k <= DTYPE_BF16; k++) {
        struct stm_config cfg = fixture_config((enum dtype)k);
        struct stm *m = NULL, *copy = NULL;
        struct stm_image_info out = names(), in;
        memset(out.tenant, 't', STM_OWNER_MAX - 1); /* the longest names there are */
        memset(out.session, 's', STM_OWNER_MAX - 1);
        memset(out.bit_class, 'c', STM_CLASS_MAX - 1);
        size_t size = stm_image_bytes(&cfg), bytes = 0;
        char *image = malloc(size + 1);
        assert_non_null(image);
        assert_ok(stm_create(&m, f->ln, &cfg, STM_NOISE, 8));
        assert_ok(stm_restart(m, f->ln, UINT64_MAX - 1, STM_NOISE, 8));
        assert_ok(stm_export(m, f->ln, &out, image + 1, size)); /* of any alignment */

        const void *got = NULL;
        struct rxt_error err;
        uint8_t hash[16];
        assert_ok(stm_image_parse(image + 1, size, &in, &got, &bytes, &err));
        assert_int_equal(in.version, UINT64_MAX - 1);
        assert_int_equal(in.n_layer, cfg.n_layer);
        assert_int_equal(in.n_slot, cfg.n_slot);
        assert_int_equal(in.embed_dim, cfg.embed_dim);
        assert_int_equal(in.dtype, cfg.dtype);
        assert_string_equal(in.bit_class, out.bit_class);
        assert_string_equal(in.tenant, out.tenant);
        assert_string_equal(in.session, out.session);
        assert_memory_equal(in.model_hash, out.model_hash, 16);
        assert_ok(stm_hash(m, f->ln, hash));
        assert_memory_equal(in.values_hash, hash, 16);
        assert_memory_equal(out.values_hash, hash, 16);
        assert_int_equal(out.version, UINT64_MAX - 1);
        assert_ok(stm_image_expect(&in, &out, &err));

        assert_int_equal(bytes, stm_bytes(&cfg));
        assert_ok(stm_create(&copy, f->ln, &cfg, STM_ZEROS, 0));
        assert_ok(stm_import(copy, f->ln, in.version, got, bytes));
        fixture_holds(f->ln, copy, m->values);
        assert_int_equal(stm_version(copy), UINT64_MAX - 1);
        stm_destroy(&m);
        stm_destroy(&copy);
        free(image);
    }
}

static void export_refuses_wrong_sizes_and_endless_names(void **state)
{
    struct fixture *f = *state;
    struct stm *m = NULL;
    char image[BYTES + 1];
    assert_ok(stm_create(&m, f->ln, &config, STM_ZEROS, 0));
    struct stm_image_info info = names();
    assert_status(RXT_ESHAPE, stm_export(m, f->ln, &info, image, BYTES - 1));
    assert_status(RXT_ESHAPE, stm_export(m, f->ln, &info, image, BYTES + 1));
    memset(info.tenant, 'x', sizeof info.tenant);
    assert_status(RXT_EINVAL, stm_export(m, f->ln, &info, image, BYTES));
    info = names();
    memset(info.session, 'x', sizeof info.session);
    assert_status(RXT_EINVAL, stm_export(m, f->ln, &info, image, BYTES));
    info = names();
    memset(info.bit_class, 'x', sizeof info.bit_class);
    assert_status(RXT_EINVAL, stm_export(m, f->ln, &info, image, BYTES));
    info = names(); /* what follows a terminator does not leak into the image */
    memset(info.tenant + 5, 'x', sizeof info.tenant - 5);
    assert_ok(stm_export(m, f->ln, &info, image, BYTES));
    assert_ok(parse(image, BYTES));
    stm_destroy(&m);
    struct stm_config cfg = config;
    cfg.n_slot = 0;
    assert_int_equal(stm_image_bytes(&cfg), 0);
}

/* ---- damage ----------------------------------------------------------------------------- */

static void every_flipped_bit_is_found(void **state)
{
    char image[BYTES];
    write_image(*state, image);
    assert_ok(parse(image, BYTES));
    for (int bit = 0; bit < 8 * BYTES; bit++) {
        bool format = bit / 8 >= AT_FORMAT && bit / 8 < AT_FORMAT + 4;
        bool zero = bit == 8 * AT_FORMAT; /* format 1 becomes 0, which never was */
        image[bit / 8] = (char)(image[bit / 8] ^ 1 << bit % 8);
        assert_status(format && !zero ? RXT_ENEWER : RXT_ECORRUPT, parse(image, BYTES));
        image[bit / 8] = (char)(image[bit / 8] ^ 1 << bit % 8);
    }
    assert_ok(parse(image, BYTES));
}

/* Each in a block of its own size, so that the address sanitizer sees a read past its end. */
static void every_truncation_is_found(void **state)
{
    char image[BYTES];
    write_image(*state, image);
    for (size_t size = 0; size < BYTES; size++)
        for (int mended = 0; mended < (size >= HEADER ? 2 : 1); mended++) {
            char *part = malloc(size ? size : 1);
            assert_non_null(part);
            memcpy(part, image, size);
            if (mended)
                mend(part, size);
            assert_status(RXT_ECORRUPT, parse(part, size));
            free(part);
        }
    char longer[BYTES + 1] = {0};
    memcpy(longer, image, BYTES);
    mend(longer, BYTES + 1);
    assert_status(RXT_ECORRUPT, parse(longer, BYTES + 1));
}

/* Whoever writes the hashes can write everything else, too. */
static void what_the_hashes_do_not_see_is_checked(void **state)
{
    static const struct {
        size_t at;
        uint32_t value;
        enum rxt_status want;
    } table[] = {
        {AT_FORMAT, 0, RXT_ECORRUPT},
        {AT_FORMAT, 2, RXT_ENEWER},
        {AT_FORMAT, UINT32_MAX, RXT_ENEWER},
        {AT_DTYPE, 0, RXT_ECORRUPT},
        {AT_DTYPE, 2, RXT_ECORRUPT}, /* half of the bytes */
        {AT_DTYPE, 3, RXT_ECORRUPT},
        {AT_LAYERS, 0, RXT_ECORRUPT},
        {AT_LAYERS, 2, RXT_ECORRUPT},
        {AT_SLOTS, 0x80000002, RXT_ECORRUPT},
        {AT_DIM, UINT32_MAX, RXT_ECORRUPT},
        {AT_ZERO, 1, RXT_ECORRUPT},
        {AT_BYTES, 23, RXT_ECORRUPT},
        {AT_BYTES + 4, 1, RXT_ECORRUPT},
        {AT_CLASS + 28, 0x78787878, RXT_ECORRUPT},    /* not terminated */
        {AT_TENANT + 124, 0x78787878, RXT_ECORRUPT},  /* not zero to the end */
        {AT_SESSION + 124, 0x00787878, RXT_ECORRUPT}, /* the same, terminated */
        {HEADER, 0x7FC00000, RXT_ECORRUPT},           /* NaN */
        {HEADER + 20, 0xFF800000, RXT_ECORRUPT},      /* minus infinity, the last value */
        {HEADER + 20, 0x7F7FFFFF, RXT_OK},            /* the largest float */
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char image[BYTES];
        write_image(*state, image);
        memcpy(image + table[i].at, &table[i].value, 4);
        mend(image, BYTES);
        assert_status(table[i].want, parse(image, BYTES));
    }
    char image[BYTES]; /* dimensions whose product overflows to the bytes that are there */
    write_image(*state, image);
    const uint32_t dims[3] = {0x40000000, 0x40000000, 0x10};
    memcpy(image + AT_LAYERS, dims, sizeof dims);
    memset(image + AT_BYTES, 0, 8);
    mend(image, HEADER);
    assert_status(RXT_ECORRUPT, parse(image, HEADER));
}

/* ---- whose image it is ------------------------------------------------------------------ */

static void refuses(const struct stm_image_info *got, const struct stm_image_info *want,
                    const char *field)
{
    struct rxt_error err = {""};
    assert_status(RXT_EMISMATCH, stm_image_expect(got, want, &err));
    if (!strstr(err.text, field))
        fail_msg("\"%s\" does not name %s", err.text, field);
    assert_status(RXT_EMISMATCH, stm_image_expect(got, want, NULL));
}

/* Changes from the last field to the first: each refusal names the first field that differs. */
static void each_mismatch_is_named(void **state)
{
    (void)state;
    struct stm_image_info want = names(), got = names();
    struct rxt_error err;
    got.n_layer = want.n_layer = 1;
    got.n_slot = want.n_slot = 2;
    got.embed_dim = want.embed_dim = 3;
    assert_ok(stm_image_expect(&got, &want, &err));
    strcpy(got.bit_class, "cuda-bf16/4"); /* no mismatch: the caller reports it */
    got.values_hash[0] = 1;
    assert_ok(stm_image_expect(&got, &want, &err));

    got.version = 100;
    refuses(&got, &want, "version 100, expected 99");
    got.dtype = DTYPE_BF16;
    refuses(&got, &want, "dtype bf16, expected f32");
    got.embed_dim = 4;
    refuses(&got, &want, "shape [1,2,4], expected [1,2,3]");
    got = want;
    got.n_slot = 5;
    refuses(&got, &want, "shape [1,5,3]");
    got = want;
    got.n_layer = 5;
    refuses(&got, &want, "shape [5,2,3]");
    strcpy(got.session, "s-2");
    refuses(&got, &want, "session \"s-2\", expected \"s-1\"");
    strcpy(got.tenant, "other");
    refuses(&got, &want, "tenant \"other\", expected \"acme\"");
    got.model_hash[15] = 0;
    refuses(&got, &want,
            "model 000102030405060708090a0b0c0d0e00, expected "
            "000102030405060708090a0b0c0d0e0f");
}

/* Names are foreign bytes: nothing of a terminal's language reaches the sentence. */
static void names_in_a_refusal_are_escaped(void **state)
{
    (void)state;
    struct stm_image_info want = names(), got = names();
    struct rxt_error err = {""};
    strcpy(got.session, "\x1b[2J\n\"\xff");
    assert_status(RXT_EMISMATCH, stm_image_expect(&got, &want, &err));
    for (const char *c = err.text; *c; c++)
        assert_true(*c >= ' ' && *c <= '~');
    memset(got.session, '\x01', STM_OWNER_MAX - 1);
    memset(want.session, '\x02', STM_OWNER_MAX - 1);
    assert_status(RXT_EMISMATCH, stm_image_expect(&got, &want, &err));
    assert_non_null(strstr(err.text, "expected"));
}

#define with(test) cmocka_unit_test_setup_teardown(test, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with(bytes_are_recorded),
        with(round_trip),
        with(export_refuses_wrong_sizes_and_endless_names),
        with(every_flipped_bit_is_found),
        with(every_truncation_is_found),
        with(what_the_hashes_do_not_see_is_checked),
        cmocka_unit_test(each_mismatch_is_named),
        cmocka_unit_test(names_in_a_refusal_are_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
