/* All golden folders through the doors, memory carried from turn to turn. */
#include "tests/lib/tensor_file.h"
#include "tests/rxt/engine.h"

static const struct file_tensor *numbered(const struct tensor_file *f, const char *name, int turn)
{
    char full[40];
    snprintf(full, sizeof full, "%s.%d", name, turn);
    return tensor_file_get(f, full);
}

static void check_near(const char *folder, const char *what, int turn, const float *got,
                       const struct file_tensor *want)
{
    float error = engine_worst(got, want->f, want->n);
    if (!(error <= (getenv("RXT_TEST_BACKEND") ? 1e-4f : 2e-5f)))
        fail_msg("%s: %s of turn %d is off by %g", folder, what, turn, (double)error);
}

/* The 12 best tokens behind the turn, one row at a time over the slot that holds the turn. */
static void check_greedy(struct engine *e, const float *logits, int32_t n,
                         const struct file_tensor *want)
{
    int32_t n_vocab = e->info->n_vocab, id = 0;
    const float *last = logits + (size_t)(n - 1) * (size_t)n_vocab;
    for (int32_t v = 1; v < n_vocab; v++)
        id = last[v] > last[id] ? v : id;
    for (int32_t i = 0; i < (int32_t)want->n; i++) {
        assert_int_equal(id, want->i[i]);
        id = engine_step(e, id, n + i);
    }
}

static void golden(void **state)
{
    const char *folder = *state;
    char path[200];
    struct tensor_file f;
    struct engine e;
    snprintf(path, sizeof path, "tests/golden/%s/expected.safetensors", folder);
    tensor_file_read(&f, path);
    snprintf(path, sizeof path, "tests/golden/%s", folder);
    engine_open(&e, path, NULL);
    assert_int_equal(tensor_file_get(&f, "stm.0")->n, e.n_value);
    engine_inject(&e, tensor_file_get(&f, "stm.0")->f);
    for (int turn = 1; turn <= 2; turn++) {
        const struct file_tensor *ids = numbered(&f, "input_ids", turn);
        const struct file_tensor *logits = numbered(&f, "logits", turn);
        const struct file_tensor *encoded = numbered(&f, "encoded", turn);
        int32_t n = (int32_t)ids->n;
        float *got = engine_alloc(logits->n, sizeof *got);
        engine_logits(&e, ids->i, n, 0, got);
        check_near(folder, "logits", turn, got, logits);
        check_greedy(&e, got, n, numbered(&f, "greedy", turn));
        free(got);
        got = engine_alloc(encoded->n, sizeof *got);
        engine_encode(&e, ids->i, n, got);
        check_near(folder, "encoded", turn, got, encoded);
        free(got);
        got = engine_alloc(e.n_value, sizeof *got);
        engine_update(&e, ids->i, n);
        engine_values(&e, got);
        check_near(folder, "stm", turn, got, numbered(&f, "stm", turn));
        assert_int_equal(stm_version(e.memory), turn);
        free(got);
    }
    engine_close(&e);
    tensor_file_free(&f);
}

#define GOLDEN(folder)                               \
    {                                                \
        folder, golden, NULL, NULL, (void *)(folder) \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        GOLDEN("alpha-interlayer"),  GOLDEN("alpha-moe-self-interlayer"),
        GOLDEN("alpha-self-memory"), GOLDEN("alpha-simple-ungated"),
        GOLDEN("alpha-split-rope"),  GOLDEN("beta-tiny"),
        GOLDEN("beta-two-final"),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
