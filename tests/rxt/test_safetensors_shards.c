/* Sharded checkpoints: the index and its shards, honest and hostile. */
#include "rxt/safetensors_impl.h"
#include "rxt/safetensors_parse_impl.h"
#include "tests/lib/raw_file.h"
#include "tests/lib/test.h"

#define INDEX "model.safetensors.index.json"
#define ONE "model-00001-of-00002.safetensors"
#define TWO "model-00002-of-00002.safetensors"

/* A shard with tensors of one F32 value, one a name in the list "a b c". */
static void write_shard(const char *dir, const char *file, const char *names, float first)
{
    char header[512] = "{", list[64];
    float data[8];
    int n = 0;
    snprintf(list, sizeof list, "%s", names);
    for (char *rest, *s = strtok_r(list, " ", &rest); s; s = strtok_r(NULL, " ", &rest)) {
        size_t at = strlen(header);
        snprintf(header + at, sizeof header - at,
                 "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                 n ? "," : "", s, 4 * n, 4 * n + 4);
        data[n] = first + (float)n;
        n++;
    }
    strcat(header, "}");
    struct raw_bytes b = raw_safetensors(header, data, (size_t)n * 4);
    raw_write(dir, file, b.at, b.n);
    raw_free(&b);
}

struct fixture {
    char *dir;
    struct safetensors *st;
    struct rxt_error err;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->dir = test_dir_make();
    write_shard(f->dir, ONE, "b a", 1);
    write_shard(f->dir, TWO, "c", 3);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    safetensors_close(&f->st);
    test_dir_remove(f->dir);
    free(f);
    return 0;
}

static enum rxt_status open_with(struct fixture *f, const char *index)
{
    raw_write_text(f->dir, INDEX, index);
    enum rxt_status st = safetensors_open(&f->st, f->dir, &f->err);
    if (st != RXT_OK)
        assert_null(f->st);
    return st;
}

static const char good[] = "{\"metadata\":{\"total_size\":12},\"weight_map\":{\"c\":\"" TWO
                           "\",\"a\":\"" ONE "\",\"b\":\"" ONE "\"}}";

static void test_reads_all_shards(void **state)
{
    struct fixture *f = *state;
    assert_ok(open_with(f, good));
    assert_int_equal(safetensors_count(f->st), 3);
    assert_int_equal(safetensors_n_file(f->st), 2);
    assert_string_equal(safetensors_file_name(f->st, 0), ONE);
    assert_string_equal(safetensors_file_name(f->st, 1), TWO);
    static const char *const name[] = {"a", "b", "c"}, *const file[] = {ONE, ONE, TWO};
    static const float value[] = {2, 1, 3};
    for (int32_t i = 0; i < 3; i++) {
        const struct st_tensor *t = safetensors_at(f->st, i);
        assert_string_equal(t->name, name[i]);
        assert_string_equal(safetensors_file_name(f->st, t->file), file[i]);
        assert_memory_equal(t->data, &value[i], 4);
    }
    safetensors_drop(f->st, safetensors_at(f->st, 2)->data, 4);
    assert_memory_equal(safetensors_at(f->st, 0)->data, &value[0], 4);
}

/* As other loaders do: one file wins over an index. */
static void test_a_single_file_wins(void **state)
{
    struct fixture *f = *state;
    write_shard(f->dir, "model.safetensors", "z", 9);
    assert_ok(open_with(f, good));
    assert_int_equal(safetensors_count(f->st), 1);
    assert_non_null(safetensors_find(f->st, "z"));
}

static void test_hostile_indexes(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *index;
        enum rxt_status st;
        const char *word;
    } row[] = {
        {"", RXT_ELIMIT, INDEX},
        {"{", RXT_EFORMAT, "index: line 1"},
        {"[]", RXT_EFORMAT, "weight_map is missing"},
        {"{}", RXT_EFORMAT, "weight_map is missing"},
        {"{\"weight_map\":{}}", RXT_EFORMAT, "empty"},
        {"{\"weight_map\":[\"a\"]}", RXT_EFORMAT, "no object"},
        {"{\"weight_map\":{\"a\":1}}", RXT_EFORMAT, "tensor 'a': its shard"},
        {"{\"weight_map\":{\"a\":\"../" ONE "\"}}", RXT_EFORMAT, "tensor 'a': its shard"},
        {"{\"weight_map\":{\"a\":\"/etc/x.safetensors\"}}", RXT_EFORMAT, "plain name"},
        {"{\"weight_map\":{\"a\":\"sub/x.safetensors\"}}", RXT_EFORMAT, "plain name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", RXT_EFORMAT, "plain name"},
        {"{\"weight_map\":{\"a\":\"\"}}", RXT_EFORMAT, "plain name"},
        {"{\"weight_map\":{\"a\":\".safetensors\"}}", RXT_EFORMAT, "plain name"},
        {"{\"weight_map\":{\"a\":\"config.json\"}}", RXT_EFORMAT, "plain name"},
        {"{\"weight_map\":{\"a\":\"x\\u0000.safetensors\"}}", RXT_EFORMAT, "line 1"},
        {"{\"weight_map\":{\"a\":\"\\u001b.safetensors\"}}", RXT_EFORMAT, "plain name"},
        {"{\"weight_map\":{\"a\\u001b\":\"" ONE "\"}}", RXT_EFORMAT, "tensor name"},
        {"{\"weight_map\":{\"a\":\"" ONE "\",\"a\":\"" TWO "\"}}", RXT_EFORMAT, "duplicate"},
        {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", RXT_ENOTFOUND,
         "gone.safetensors: no such file"},
        {"{\"weight_map\":{\"a\":\"" ONE "\",\"c\":\"" TWO "\"}}", RXT_EFORMAT,
         ONE ": tensor 'b' is not in"},
        {"{\"weight_map\":{\"a\":\"" ONE "\",\"b\":\"" ONE "\"}}", RXT_OK, ""},
        {"{\"weight_map\":{\"a\":\"" ONE "\",\"b\":\"" ONE "\",\"bb\":\"" ONE "\"}}", RXT_ENOTFOUND,
         ONE ": tensor 'bb' is missing"},
        {"{\"weight_map\":{\"Z\":\"" ONE "\",\"a\":\"" ONE "\",\"b\":\"" ONE "\"}}", RXT_ENOTFOUND,
         ONE ": tensor 'Z' is missing"},
        {"{\"weight_map\":{\"a\":\"" ONE "\",\"b\":\"" TWO "\",\"c\":\"" TWO "\"}}", RXT_EFORMAT,
         ONE ": tensor 'b' belongs into " TWO},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        f->err.text[0] = '\0';
        enum rxt_status got = open_with(f, row[i].index);
        if (got != row[i].st || !strstr(f->err.text, row[i].word))
            fail_msg("%s\n  gave %s: %s", row[i].index, rxt_status_name(got), f->err.text);
        safetensors_close(&f->st);
    }
}

static void test_a_tensor_in_two_shards(void **state)
{
    struct fixture *f = *state;
    write_shard(f->dir, TWO, "c a", 3);
    assert_status(RXT_EFORMAT, open_with(f, good));
    assert_string_equal(f->err.text, TWO ": tensor 'a' is also in " ONE);
}

static void test_a_broken_shard_is_named(void **state)
{
    struct fixture *f = *state;
    raw_write(f->dir, TWO, "12345678", 8);
    assert_status(RXT_ELIMIT, open_with(f, good));
    assert_non_null(strstr(f->err.text, TWO ": "));
}

static enum rxt_status open_and_close(void *arg)
{
    struct fixture *f = arg;
    TRY(safetensors_open(&f->st, f->dir, &f->err));
    safetensors_close(&f->st);
    return RXT_OK;
}

static void test_no_memory(void **state)
{
    struct fixture *f = *state;
    raw_write_text(f->dir, INDEX, good);
    assert_survives_no_memory(open_and_close, f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reads_all_shards, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_single_file_wins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile_indexes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_tensor_in_two_shards, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_broken_shard_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_memory, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
