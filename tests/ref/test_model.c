#include "tests/ref/model.h"

#include "tests/lib/tensor_file.h"
#include "tests/lib/test.h"
#include "tests/ref/model_random.h"

#include <jansson.h>
#include <math.h>

static const char *folders[] = {
    "alpha-interlayer",     "alpha-moe-self-interlayer", "alpha-self-memory",
    "alpha-simple-ungated", "alpha-split-rope",          "beta-tiny",
    "beta-two-final",
};

static float worst(const float *a, const float *b, size_t n)
{
    float d = 0;
    for (size_t i = 0; i < n; i++)
        d = fmaxf(d, fabsf(a[i] - b[i]));
    return d;
}

static const struct file_tensor *numbered(const struct tensor_file *f, const char *name, int turn)
{
    char full[40];
    snprintf(full, sizeof full, "%s.%d", name, turn);
    return tensor_file_get(f, full);
}

/* Largest error of logits, encoded data and memory over both turns of a golden folder. */
static float golden_error(const char *folder, bool bf16)
{
    char path[200];
    struct tensor_file f;
    snprintf(path, sizeof path, "tests/golden/%s/expected.safetensors", folder);
    tensor_file_read(&f, path);
    snprintf(path, sizeof path, "tests/golden/%s", folder);
    struct ref_model *m = ref_model_open(path, bf16);
    float error = 0;
    for (int turn = 1; turn <= 2; turn++) {
        const struct file_tensor *ids = numbered(&f, "input_ids", turn);
        const struct file_tensor *want[3] = {
            numbered(&f, "logits", turn), numbered(&f, "encoded", turn), numbered(&f, "stm", turn)};
        const float *before = numbered(&f, "stm", turn - 1)->f;
        float *got[3];
        for (int i = 0; i < 3; i++)
            assert_non_null(got[i] = calloc(want[i]->n, sizeof(float)));
        ref_decode(m, ids->i, (int)ids->n, before, got[0]);
        ref_encode(m, ids->i, (int)ids->n, got[1]);
        ref_remember(m, got[1], (int)ids->n, before, got[2]);
        for (int i = 0; i < 3; i++) {
            error = fmaxf(error, worst(got[i], want[i]->f, want[i]->n));
            free(got[i]);
        }
    }
    ref_model_close(m);
    tensor_file_free(&f);
    return error;
}

/* Values reach 11: 4e-6 is four units in the last place of the largest. */
static void float32_reproduces_golden(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        assert_true(golden_error(folders[i], false) < 4e-6f);
}

/* No golden data in bfloat16: the rounding is there, and it is no more than rounding. */
static void bfloat16_stays_near(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        float error = golden_error(folders[i], true);
        assert_true(error > 5e-3f && error < 8e-2f);
    }
}

static void append(json_t *list, int *ids, int *n)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        ids[(*n)++] = (int)json_integer_value(json_array_get(list, i));
}

/* The first turns of the bundled model's conversation; every answer token is the best one. */
static void bundled_conversation(void **state)
{
    (void)state;
    struct ref_model *m = ref_model_open("models/demo-15m", false);
    struct ref_shape s = ref_model_shape(m);
    size_t size = (size_t)(s.n_layer * s.n_slot * s.dim);
    struct tensor_file file;
    tensor_file_read(&file, "models/demo-15m/model.safetensors");
    float *stm = calloc(size, sizeof *stm), *next = calloc(size, sizeof *next);
    assert_true(stm && next);
    memcpy(stm, tensor_file_get(&file, "memory_attention.model.stm.memory")->f, size * sizeof *stm);
    tensor_file_free(&file);
    json_t *turns = json_load_file("tests/golden/demo-15m/conversation.json", 0, NULL);
    assert_non_null(turns);
    for (size_t turn = 0; turn < 2; turn++) {
        json_t *t = json_array_get(turns, turn);
        int ids[256], n = 0;
        append(json_object_get(t, "query_ids"), ids, &n);
        int n_query = n;
        append(json_object_get(t, "answer_ids"), ids, &n);
        float *logits = calloc((size_t)(n * s.n_vocab), sizeof *logits);
        float *ed = calloc((size_t)(s.n_layer * n * s.dim), sizeof *ed);
        assert_true(logits && ed);
        ref_decode(m, ids, n, stm, logits);
        for (int i = n_query; i < n; i++) {
            const float *row = logits + (i - 1) * s.n_vocab;
            int best = 0;
            for (int v = 1; v < s.n_vocab; v++)
                best = row[v] > row[best] ? v : best;
            assert_int_equal(best, ids[i]);
        }
        ref_encode(m, ids, n, ed);
        ref_remember(m, ed, n, stm, next);
        memcpy(stm, next, size * sizeof *stm);
        double square = 0;
        for (size_t i = 0; i < size; i++)
            square += (double)stm[i] * stm[i];
        assert_true(fabs(sqrt(square / (double)size) -
                         json_real_value(json_object_get(t, "stm_rms"))) < 1e-4);
        json_t *first = json_object_get(t, "stm_first");
        for (size_t i = 0; i < 8; i++)
            assert_true(fabs(stm[i] - json_real_value(json_array_get(first, i))) < 1e-4);
        free(logits);
        free(ed);
    }
    json_decref(turns);
    free(stm);
    free(next);
    ref_model_close(m);
}

/* What the generator writes is what the reference wants, and its values stay in range. */
static void random_model_is_complete(void **state)
{
    (void)state;
    char *dir = test_dir_make();
    random_model_write(dir, &(struct random_model){.seed = 1});
    struct ref_model *m = ref_model_open(dir, false);
    struct ref_shape s = ref_model_shape(m);
    const int ids[] = {1, 3, 40, 95, 4, 7, 2}, n = 7;
    size_t size = (size_t)(s.n_layer * s.n_slot * s.dim);
    float *stm = calloc(size, sizeof *stm), *next = calloc(size, sizeof *next);
    float *logits = calloc((size_t)(n * s.n_vocab), sizeof *logits);
    float *ed = calloc((size_t)(s.n_layer * n * s.dim), sizeof *ed);
    assert_true(stm && next && logits && ed);
    ref_decode(m, ids, n, stm, logits);
    ref_encode(m, ids, n, ed);
    ref_remember(m, ed, n, stm, next);
    for (size_t i = 0; i < size; i++)
        assert_true(fabsf(next[i]) < 20);
    for (int i = 0; i < n * s.n_vocab; i++)
        assert_true(fabsf(logits[i]) < 20);
    free(stm);
    free(next);
    free(logits);
    free(ed);
    ref_model_close(m);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_reproduces_golden),
        cmocka_unit_test(bfloat16_stays_near),
        cmocka_unit_test(bundled_conversation),
        cmocka_unit_test(random_model_is_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
