/* Opening a model: what it says of itself, and what is refused. */
#include "rxt/rxt.h"

#include "tests/lib/tensor_file.h"
#include "tests/lib/test.h"
#include "tests/ref/model_random.h"
#include "tests/rxt/beta.h"
#include "tests/rxt/engine.h"

static void info_of_the_bundled_model(void **state)
{
    (void)state;
    struct rxt_model *m;
    assert_ok(rxt_model_open(&m, "models/demo-15m//", NULL, NULL));
    const struct rxt_info *i = rxt_model_info(m);
    assert_string_equal(i->name, "demo-15m");
    assert_int_equal(i->n_layer, 6);
    assert_int_equal(i->n_slot, 128);
    assert_int_equal(i->embed_dim, 256);
    assert_int_equal(i->n_vocab, 6144);
    assert_int_equal(i->max_seq_len, 192);
    assert_int_equal(i->storage, DTYPE_BF16);
    assert_int_equal(i->stm_init, STM_CHECKPOINT);
    assert_true(i->has_tokenizer && !i->has_thinking && !i->has_tool && !i->has_internal);
    assert_true(i->eos == 3 && i->answer == 6 && i->think == -1);
    assert_int_equal(i->stm_bytes, 6 * 128 * 256 * 4);
    /* every value of the file but the memory is a parameter; the embedding lies there once, for
     * decoder and encoder */
    struct tensor_file f;
    uint64_t n = 0;
    tensor_file_read(&f, "models/demo-15m/model.safetensors");
    for (int k = 0; k < f.n; k++)
        if (!strstr(f.tensor[k].name, "stm.memory") && !strstr(f.tensor[k].name, "rope"))
            n += f.tensor[k].n * (strstr(f.tensor[k].name, "embedding") ? 2 : 1);
    tensor_file_free(&f);
    assert_int_equal(i->n_param_decoder + i->n_param_encoder + i->n_param_memory, n);
    assert_true(i->weight_bytes > n && i->weight_bytes < 3 * n); /* the embedding is mapped */
    assert_true(i->read_bytes >= 6 * 128 * 2 * 2 * 32 * 4);
    assert_true(i->slot_bytes >= 7 * 192 * 2 * 2 * 32 * 4);
    assert_string_equal(backend_name(rxt_model_backend(m)), "cpu");
    rxt_model_close(&m);
    assert_null(m);
    rxt_model_close(&m);
}

static void check_refused(const char *dir, const struct rxt_model_options *opt,
                          enum rxt_status want, const char *says)
{
    struct rxt_error err = {0};
    struct rxt_model *m = (void *)&err; /* to be overwritten */
    assert_status(want, rxt_model_open(&m, dir, opt, &err));
    assert_null(m);
    if (!strstr(err.text, says))
        fail_msg("\"%s\" does not say \"%s\"", err.text, says);
}

static void refused_options(void **state)
{
    (void)state;
    const char *dir = "tests/golden/beta-tiny";
    check_refused(dir, &(struct rxt_model_options){.dtype = "f16"}, RXT_EINVAL, "f16");
    check_refused(dir, &(struct rxt_model_options){.max_seq_len = 16}, RXT_EINVAL, "max_seq_len");
    check_refused(dir, &(struct rxt_model_options){.max_seq_len = -1}, RXT_EINVAL, "max_seq_len");
    check_refused(dir, &(struct rxt_model_options){.max_seq_len = INT32_MAX}, RXT_EINVAL,
                  "at most 1048576");
    check_refused(dir, &(struct rxt_model_options){.backend = "abacus"}, RXT_EINVAL, "abacus");
    check_refused("tests/golden/nowhere", NULL, RXT_ENOTFOUND, "nowhere");
}

static void write_text(const char *dir, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void a_tokenizer_that_does_not_fit(void **state)
{
    (void)state;
    char *dir = test_dir_make();
    beta_write(dir, 1, false, 0);
    random_model_write(dir, &(struct random_model){.seed = 1}); /* a vocabulary of 96 */
    check_refused(dir, NULL, RXT_EMISMATCH, "vocabulary of 96");
    write_text(dir, "tokenizer.json", "{");
    check_refused(dir, NULL, RXT_EFORMAT, "tokenizer.json");
    test_dir_remove(dir);
}

/* Shapes for benchmarks: everything but text works. */
static void a_random_model(void **state)
{
    (void)state;
    struct rxt_model *m = NULL;
    struct rxt_session *s;
    struct rxt_error err = {0};
    assert_status(RXT_ENOTFOUND, rxt_model_random(&m, "gamma", 1, NULL, &err));
    const struct rxt_model_options opt = {.dtype = "bf16"};
    assert_ok(rxt_model_random(&m, "preview", 1, &opt, &err));
    assert_false(rxt_model_info(m)->has_tokenizer);
    assert_ok(rxt_session_create(&s, m, NULL, &err));
    const int32_t ids[3] = {1, 3, 4};
    assert_ok(rxt_session_absorb(s, ids, 3, &err));
    assert_int_equal(stm_version(rxt_session_memory(s)), 1);
    rxt_session_destroy(&s);
    rxt_model_close(&m);
}

static void files_of_tensors(void **state)
{
    (void)state;
    struct rxt_tensors *t = NULL;
    struct rxt_array a;
    struct rxt_error err = {0};
    assert_status(RXT_ENOTFOUND, rxt_tensors_open(&t, "tests/golden/nothing", &err));
    assert_ok(rxt_tensors_open(&t, "tests/golden/beta-tiny/expected.safetensors", &err));
    assert_ok(rxt_tensors_get(t, "stm.0", &a, &err));
    assert_true(a.f32 && !a.i32 && a.n_dim == 3 && a.n == 4 * 32 * 64);
    assert_true(a.dim[0] == 4 && a.dim[1] == 32 && a.dim[2] == 64);
    assert_ok(rxt_tensors_get(t, "input_ids.1", &a, &err));
    assert_true(a.i32 && !a.f32 && a.n_dim == 1 && a.n == 13);
    assert_status(RXT_ENOTFOUND, rxt_tensors_get(t, "stm.9", &a, &err));
    assert_non_null(strstr(err.text, "stm.9"));
    rxt_tensors_close(&t);
    assert_null(t);
    assert_ok(rxt_tensors_open(&t, "models/demo-15m/model.safetensors", &err));
    assert_status(RXT_EUNSUPPORTED,
                  rxt_tensors_get(t, "memory_attention.model.stm.memory", &a, &err));
    rxt_tensors_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(info_of_the_bundled_model),
        cmocka_unit_test(refused_options),
        cmocka_unit_test(a_tokenizer_that_does_not_fit),
        cmocka_unit_test(a_random_model),
        cmocka_unit_test(files_of_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
