/* One file: what is accepted, and every way in which a file can lie. */
#include "rxt/safetensors_impl.h"
#include "tests/lib/raw_file.h"
#include "tests/lib/test.h"

#include <sys/stat.h>

/* Header for one F32 tensor of two values. */
#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

static enum rxt_status open_header(struct safetensors **out, const char *header, size_t n_data,
                                   struct rxt_error *err)
{
    struct raw_bytes file = raw_safetensors(header, NULL, n_data);
    enum rxt_status st = safetensors_open_memory(out, file.at, file.n, "x.safetensors", err);
    if (st != RXT_OK)
        assert_null(*out);
    raw_free(&file); /* what follows may not touch the data */
    return st;
}

static void test_reads_tensors(void **state)
{
    (void)state;
    struct raw_bytes file = raw_safetensors(
        " {\"b.w\": {\"shape\": [2, 1, 3], \"data_offsets\": [16, 28], \"dtype\": \"BF16\"},\n"
        "\"__metadata__\": {\"format\": \"pt\", \"\\u00e9\\n\": \"\\\"\"},"
        "\"a\": {\"dtype\": \"I64\", \"shape\": [], \"data_offsets\": [8, 16]},"
        "\"none\": {\"dtype\": \"F32\", \"shape\": [0, 4], \"data_offsets\": [28, 28]},"
        "\"u\": {\"dtype\": \"U8\", \"shape\": [8], \"data_offsets\": [0, 8]}}  ",
        NULL, 28);
    struct safetensors *st = NULL;
    assert_ok(safetensors_open_memory(&st, file.at, file.n, "x.safetensors", NULL));
    assert_int_equal(safetensors_count(st), 4);
    static const char *const order[] = {"a", "b.w", "none", "u"};
    for (int32_t i = 0; i < 4; i++) {
        assert_string_equal(safetensors_at(st, i)->name, order[i]);
        assert_ptr_equal(safetensors_find(st, order[i]), safetensors_at(st, i));
        assert_int_equal(safetensors_index(st, safetensors_at(st, i)), i);
    }
    const struct st_tensor *b = safetensors_find(st, "b.w");
    assert_int_equal(b->dtype, ST_BF16);
    assert_int_equal(b->n_dim, 3);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 1);
    assert_int_equal(b->shape[2], 3);
    assert_int_equal(b->bytes, 12);
    const char *data = file.at + file.n - 28;
    assert_memory_equal(b->data, data + 16, 12);
    assert_int_equal(safetensors_find(st, "a")->n_dim, 0);
    assert_memory_equal(safetensors_find(st, "a")->data, data + 8, 8);
    assert_int_equal(safetensors_find(st, "none")->bytes, 0);
    assert_null(safetensors_find(st, "b"));
    assert_null(safetensors_find(st, ""));
    assert_null(safetensors_find(st, "zz"));
    safetensors_close(&st);
    assert_null(st);
    raw_free(&file);
}

static void test_an_empty_file_of_tensors(void **state)
{
    (void)state;
    struct safetensors *st = NULL;
    assert_ok(open_header(&st, "{}", 0, NULL));
    assert_int_equal(safetensors_count(st), 0);
    assert_null(safetensors_find(st, "a"));
    safetensors_close(&st);
}

static void test_every_dtype(void **state)
{
    (void)state;
#define ROW(code, name, bytes) {code, name, bytes},
    static const struct {
        enum st_dtype code;
        const char *name;
        size_t bytes;
    } row[] = {ST_DTYPE_TABLE(ROW)};
#undef ROW
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        char header[128];
        struct safetensors *st = NULL;
        snprintf(header, sizeof header,
                 "{\"t\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%zu]}}", row[i].name,
                 3 * row[i].bytes);
        assert_ok(open_header(&st, header, 3 * row[i].bytes, NULL));
        assert_int_equal(safetensors_at(st, 0)->dtype, row[i].code);
        assert_string_equal(st_dtype_name(row[i].code), row[i].name);
        assert_int_equal(st_dtype_bytes(row[i].code), row[i].bytes);
        safetensors_close(&st);
    }
}

/* A tensor at an odd address is copied to an even one; the others stay where they are. */
static void test_unaligned_data_is_copied(void **state)
{
    (void)state;
    struct raw_bytes file =
        raw_safetensors("{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                        "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[3,11]},"
                        "\"c\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[11,19]}}",
                        NULL, 19);
    const char *data = file.at + file.n - 19;
    struct safetensors *st = NULL;
    assert_ok(safetensors_open_memory(&st, file.at, file.n, "x", NULL));
    for (int32_t i = 0; i < 3; i++) {
        const struct st_tensor *t = safetensors_at(st, i);
        assert_int_equal((uintptr_t)t->data % st_dtype_bytes(t->dtype), 0);
        assert_memory_equal(t->data, data + t->begin, t->bytes);
        assert_int_equal(t->copied, t->data != data + t->begin);
    }
    assert_false(safetensors_at(st, 0)->copied);
    assert_true(safetensors_at(st, 1)->copied || safetensors_at(st, 2)->copied);
    safetensors_close(&st);
    raw_free(&file);
}

/* What each lie gets: the status, and a word that must stand in the sentence. */
static const struct {
    const char *header;
    size_t n_data;
    enum rxt_status st;
    const char *word;
} lies[] = {
    {"", 0, RXT_EFORMAT, "'{'"},
    {"[]", 0, RXT_EFORMAT, "'{'"},
    {"{" A, 8, RXT_EFORMAT, "',' or '}'"},
    {"{" A "}x", 8, RXT_EFORMAT, "nothing but spaces"},
    {"{" A ",}", 8, RXT_EFORMAT, "name of a tensor"},
    {"{" A "," A "}", 8, RXT_EFORMAT, "'a' overlaps"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},"
     "\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}",
     0, RXT_EFORMAT, "'a' stands there twice"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
     12, RXT_EFORMAT, "'b' overlaps tensor 'a'"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12, RXT_EFORMAT,
     "4 bytes before tensor 'a'"},
    {"{" A "}", 9, RXT_EFORMAT, "1 bytes at its end"},
    {"{" A "}", 7, RXT_EFORMAT, "'a': data_offsets [0, 8] are outside"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, RXT_EFORMAT, "outside"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, RXT_EFORMAT,
     "span 8 bytes, dtype and shape need 12"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807],\"data_offsets\":[0,8]}}", 8,
     RXT_EFORMAT, "'a': shape overflows"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2147483648,2147483648],\"data_offsets\":[0,8]}}", 8,
     RXT_EFORMAT, "overflows"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4,1],\"data_offsets\":[0,0]}}", 0,
     RXT_EFORMAT, "overflows"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551618],\"data_offsets\":[0,8]}}", 8,
     RXT_EFORMAT, "below 2^63"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[02],\"data_offsets\":[0,8]}}", 8, RXT_EFORMAT, "whole"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, RXT_EFORMAT, "whole"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, RXT_EFORMAT,
     "',' or ']'"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, RXT_EFORMAT, "'['"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8,
     RXT_EFORMAT, "fewer numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, RXT_EFORMAT,
     "two data_o"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8, RXT_EFORMAT, "fewer"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, RXT_EFORMAT, "dtype, shape and two"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, RXT_EFORMAT, "dtype, shape and two"},
    {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, RXT_EFORMAT, "dtype, shape and two"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     RXT_EFORMAT, "'dtype' is unknown or stands there twice"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     RXT_EFORMAT, "'shape' is unknown or"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"data_offsets\":[0,8]}}", 8,
     RXT_EFORMAT, "'data_offsets' is unknown or"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", 8, RXT_EFORMAT,
     "'x' is unknown"},
    {"{\"a\":{\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, RXT_EUNSUPPORTED,
     "dtype 'F31'"},
    {"{\"a\":{\"dtype\":\"\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, RXT_EUNSUPPORTED, "'a'"},
    {"{\"a\":{\"dtype\":4,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, RXT_EFORMAT, "a dtype"},
    {"{\"a\":[]}", 0, RXT_EFORMAT, "'a': expected '{'"},
    {"{\"a\" {}}", 0, RXT_EFORMAT, "':'"},
    {"{\"a\":{\"dtype\" \"F32\"}}", 0, RXT_EFORMAT, "':'"},
    {"{\"a\":{}}", 0, RXT_EFORMAT, "name of a field"},
    {"{\"a\":{\"dtype\":\"F32\"", 0, RXT_EFORMAT, "',' or '}'"},
    {"{\"a", 0, RXT_EFORMAT, "end of a string"},
    {"{\"a\\u0041\":{}}", 0, RXT_EFORMAT, "without escapes"},
    {"{\"\xc3\xa9\":{}}", 0, RXT_EFORMAT, "printable ASCII"},
    {"{\"a\x1b[31m\":{}}", 0, RXT_EFORMAT, "printable ASCII"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, RXT_EFORMAT, "one __metadata__"},
    {"{\"__metadata__\":[]}", 0, RXT_EFORMAT, "'{' of __metadata__"},
    {"{\"__metadata__\":{\"a\":1}}", 0, RXT_EFORMAT, "a string"},
    {"{\"__metadata__\":{\"a\"}}", 0, RXT_EFORMAT, "':'"},
    {"{\"__metadata__\":{\"a\":\"b\"", 0, RXT_EFORMAT, "',' or '}'"},
    {"{\"__metadata__\":{\"a\":\"b", 0, RXT_EFORMAT, "end of a string"},
    {"{\"__metadata__\":{\"a\":\"\\x\"}}", 0, RXT_EFORMAT, "an escape"},
    {"{\"__metadata__\":{\"a\":\"\\", 0, RXT_EFORMAT, "an escape"},
    {"{\"__metadata__\":{\"a\":\"\\u00g0\"}}", 0, RXT_EFORMAT, "hexadecimal"},
    {"{\"__metadata__\":{\"a\":\"\\u00", 0, RXT_EFORMAT, "hexadecimal"},
    {"{\"__metadata__\":{\"a\":\"\n\"}}", 0, RXT_EFORMAT, "control character"},
};

static void test_lies_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct safetensors *st = NULL;
        struct rxt_error err = {{0}};
        enum rxt_status got = open_header(&st, lies[i].header, lies[i].n_data, &err);
        if (got != lies[i].st || !strstr(err.text, lies[i].word) ||
            strncmp(err.text, "x.safetensors: ", 15) != 0)
            fail_msg("%s\n  gave %s: %s", lies[i].header, rxt_status_name(got), err.text);
    }
}

static void test_long_names_are_refused(void **state)
{
    (void)state;
    char header[512] = "{\"";
    memset(header + 2, 'n', 255);
    strcpy(header + 257, "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}");
    struct safetensors *st = NULL;
    assert_ok(open_header(&st, header, 8, NULL));
    assert_int_equal(strlen(safetensors_at(st, 0)->name), 255);
    safetensors_close(&st);
    memset(header + 2, 'n', 256);
    strcpy(header + 258, "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}");
    struct rxt_error err;
    assert_status(RXT_EFORMAT, open_header(&st, header, 8, &err));
    assert_non_null(strstr(err.text, "at most 255 bytes"));
}

/* The first 8 bytes: a header longer than the file, longer than the limit, and than 2^63. */
static void test_header_sizes(void **state)
{
    (void)state;
    struct raw_bytes file = raw_safetensors("{" A "}", NULL, 8);
    struct safetensors *st = NULL;
    struct rxt_error err;
    static const struct {
        uint64_t size;
        enum rxt_status st;
        const char *word;
    } row[] = {{1000, RXT_EFORMAT, "cut off"},
               {100000001, RXT_ELIMIT, "over the limit"},
               {UINT64_MAX, RXT_ELIMIT, "over the limit"},
               {UINT64_MAX - 7, RXT_ELIMIT, "over the limit"},
               {0, RXT_EFORMAT, "'{'"}};
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        memcpy(file.at, &row[i].size, 8);
        assert_status(row[i].st, safetensors_open_memory(&st, file.at, file.n, "x", &err));
        assert_non_null(strstr(err.text, row[i].word));
    }
    raw_free(&file);
}

/* A file cut anywhere is refused, and nothing behind its end is read. */
static void test_every_prefix_is_refused(void **state)
{
    (void)state;
    struct raw_bytes file =
        raw_safetensors("{" A ",\"__metadata__\":{\"a\":\"\\u0041b\"}}", NULL, 8);
    for (size_t n = 0; n < file.n; n++) {
        char *cut = malloc(n + (n == 0));
        memcpy(cut, file.at, n);
        struct safetensors *st = NULL;
        enum rxt_status got = safetensors_open_memory(&st, cut, n, "x", NULL);
        if (got != RXT_EFORMAT)
            fail_msg("%zu bytes: %s", n, rxt_status_name(got));
        free(cut);
    }
    raw_free(&file);
}

static void test_files_on_disk(void **state)
{
    (void)state;
    char *dir = test_dir_make(), path[512];
    struct safetensors *st = NULL;
    struct rxt_error err;
    assert_status(RXT_ENOTFOUND, safetensors_open(&st, dir, &err));
    assert_non_null(strstr(err.text, "neither model.safetensors nor"));

    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_status(RXT_ENOTFOUND, safetensors_open_file(&st, path, &err));
    assert_string_equal(err.text, "model.safetensors: no such file");
    raw_write(dir, "model.safetensors", "", 0);
    assert_status(RXT_EFORMAT, safetensors_open(&st, dir, &err));
    assert_non_null(strstr(err.text, "model.safetensors: 0 bytes"));

    struct raw_bytes file = raw_safetensors("{" A "}", NULL, 8);
    raw_write(dir, "model.safetensors", file.at, file.n);
    assert_ok(safetensors_open(&st, dir, &err));
    const struct st_tensor *t = safetensors_find(st, "a");
    assert_memory_equal(t->data, file.at + file.n - 8, 8);
    assert_int_equal(safetensors_n_file(st), 1);
    assert_string_equal(safetensors_file_name(st, t->file), "model.safetensors");
    size_t n = 0;
    const void *bytes = safetensors_file_bytes(st, 0, &n);
    assert_int_equal(n, file.n);
    assert_memory_equal(bytes, file.at, n);
    safetensors_drop(st, t->data, t->bytes); /* the values come back from the file */
    safetensors_drop(st, NULL, 0);
    assert_memory_equal(t->data, file.at + file.n - 8, 8);
    safetensors_close(&st);
    raw_free(&file);

    assert_int_equal(remove(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_status(RXT_EIO, safetensors_open(&st, dir, &err));
    assert_non_null(strstr(err.text, "not a regular file"));
    assert_int_equal(remove(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0); /* must not wait for a writer */
    assert_status(RXT_EIO, safetensors_open(&st, dir, &err));
    test_dir_remove(dir);
}

static enum rxt_status open_and_close(void *arg)
{
    const struct raw_bytes *file = arg;
    struct safetensors *st = NULL;
    TRY(safetensors_open_memory(&st, file->at, file->n, "x", NULL));
    safetensors_close(&st);
    return RXT_OK;
}

static void test_no_memory(void **state)
{
    (void)state;
    struct raw_bytes file =
        raw_safetensors("{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                        "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[3,11]},"
                        "\"c\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[11,19]}}",
                        NULL, 19);
    assert_survives_no_memory(open_and_close, &file);
    raw_free(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_tensors),    cmocka_unit_test(test_an_empty_file_of_tensors),
        cmocka_unit_test(test_every_dtype),      cmocka_unit_test(test_unaligned_data_is_copied),
        cmocka_unit_test(test_lies_are_refused), cmocka_unit_test(test_long_names_are_refused),
        cmocka_unit_test(test_header_sizes),     cmocka_unit_test(test_every_prefix_is_refused),
        cmocka_unit_test(test_files_on_disk),    cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
