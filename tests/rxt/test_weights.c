/* Packed weights: that the ops see the tensors of the file where they expect them, what stays in
 * memory, and what happens when there is none. */
#include "rxt/weights_impl.h"

#include "kernels/base/f16.h"
#include "kernels/base/random.h"
#include "tests/rxt/checkpoint_fixture.h"

#include <math.h>

#define ROWS 3
#define DIM 32 /* of the small random models */

struct loaded {
    struct fixture f;
    struct backend *be;
    struct lane *lane;
    struct model_weights w;
};

static void load_weights(struct loaded *l, enum dtype storage)
{
    struct lane_limits limits = {ROWS, 1, 64, 128, 96, 6, 4, 1};
    struct backend_config config = {.name = "cpu", .n_thread = 2};
    struct rxt_error err = {{0}};
    if (fixture_open(&l->f) != RXT_OK)
        fail_msg("%s", l->f.err.text);
    assert_ok(backend_create(&l->be, &config, &err));
    assert_ok(lane_create(&l->lane, l->be, LANE_ANSWER, &limits));
    assert_ok(weights_create(&l->w, l->be, l->f.ck, storage, 64, &err));
}

static void load(struct loaded *l, const struct random_model *how, enum dtype storage)
{
    *l = (struct loaded){0};
    fixture_random(&l->f, how);
    load_weights(l, storage);
}

static void unload(struct loaded *l)
{
    weights_destroy(&l->w, l->be);
    assert_null(l->w.embedding);
    lane_destroy(&l->lane);
    backend_destroy(&l->be);
    fixture_close(&l->f);
}

static struct tensor tensor_of(float *data, int32_t cols)
{
    return (struct tensor){data, DTYPE_F32, ROWS, cols, cols};
}

static void fill(float x[ROWS * DIM], uint64_t seed)
{
    random_normal_fill(x, ROWS * DIM, seed, RANDOM_BENCH, 0, 0);
}

/* ---- projections of one input are one matrix -------------------------------------------- */

/* The columns [first, first + n) of y = W x are those of the tensor, whose rows are taken in the
 * order row_of (NULL: as they are); returns first + n. */
static int32_t check_part(const struct loaded *l, const float *y, int32_t y_cols, int32_t first,
                          const char *name, const float *x, const int32_t *row_of)
{
    const struct file_tensor *t = tensor_file_get(&l->f.file, name);
    int32_t n = (int32_t)t->dim[0], k = (int32_t)t->dim[1];
    assert_int_equal(k, DIM);
    for (int32_t r = 0; r < ROWS; r++) {
        for (int32_t c = 0; c < n; c++) {
            double want = 0;
            for (int32_t i = 0; i < k; i++)
                want += (double)t->f[(row_of ? row_of[c] : c) * k + i] * (double)x[r * k + i];
            if (fabs(want - (double)y[r * y_cols + first + c]) > 1e-4)
                fail_msg("%s: row %d column %d", name, r, c);
        }
    }
    return first + n;
}

static void run(struct loaded *l, float *y, int32_t cols, const float *x, const struct weight *w)
{
    float in[ROWS * DIM];
    memcpy(in, x, sizeof in);
    assert_ok(op_linear(l->lane, tensor_of(y, cols), tensor_of(in, DIM), NULL, w));
    assert_ok(lane_sync(l->lane));
}

static void test_order_of_projections(void **state)
{
    (void)state;
    struct loaded l;
    float x[ROWS * DIM], y[ROWS * 128];
    load(&l,
         &(struct random_model){.f32 = true,
                                .patch = "{\"decoder_config\": {\"use_gated_cross_attention\": "
                                         "true}}"},
         DTYPE_F32);
    fill(x, 1);
#define LAYER "decoder.model.layers.0."
    const struct layer_weights *d = &l.w.decoder.layer[1]; /* behind a stateless one */
    run(&l, y, 48, x, d->self.in);
    int32_t at = check_part(&l, y, 48, 0, LAYER "attention.q_proj.weight", x, NULL);
    at = check_part(&l, y, 48, at, LAYER "attention.k_proj.weight", x, NULL);
    at = check_part(&l, y, 48, at, LAYER "attention.v_proj.weight", x, NULL);
    at = check_part(&l, y, 48, at, LAYER "attention.gate_proj.weight", x, NULL);
    assert_int_equal(at, 48);
    run(&l, y, 32, x, d->cross.in);
    at = check_part(&l, y, 32, 0, LAYER "memory_cross_attention.q_proj.weight", x, NULL);
    at = check_part(&l, y, 32, at, LAYER "memory_cross_attention.gate_proj.weight", x, NULL);
    assert_int_equal(at, 32);
    run(&l, y, 16, x, d->cross_kv);
    at = check_part(&l, y, 16, 0, LAYER "memory_cross_attention.k_proj.weight", x, NULL);
    at = check_part(&l, y, 16, at, LAYER "memory_cross_attention.v_proj.weight", x, NULL);
    assert_int_equal(at, 16);

    const struct stm_layer_weights *m = &l.w.memory.layer[1];
    run(&l, y, 16, x, m->main.q);
    check_part(&l, y, 16, 0, "memory_attention.model.attention_layers.1.q_proj.weight", x, NULL);
    run(&l, y, 32, x, m->main.kv);
    at = check_part(&l, y, 32, 0, "memory_attention.model.attention_layers.1.k_proj.weight", x,
                    NULL);
    check_part(&l, y, 32, at, "memory_attention.model.attention_layers.1.v_proj.weight", x, NULL);
    run(&l, y, 32, x, m->mean.kv);
    check_part(&l, y, 32, 0, "memory_attention.model.mean_attention_layers.1.k_proj.weight", x,
               NULL);
    assert_null(m->self.q);
    assert_int_equal(d->self.heads.n_q, 2);
    assert_int_equal(d->self.heads.n_kv, 1);
    assert_int_equal(d->self.heads.dim, 8);
    assert_int_equal(m->main.heads.n_kv, 2);
    unload(&l);
}

/* Only what is not rotated changes its order of rows. */
static void test_split_layout(void **state)
{
    (void)state;
    static const int32_t two_heads[] = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15};
    struct loaded l;
    float x[ROWS * DIM], y[ROWS * 48];
    load(&l, &(struct random_model){.f32 = true, .patch = "{\"rope_layout\": \"split\"}"},
         DTYPE_F32);
    fill(x, 2);
    run(&l, y, 16, x, l.w.decoder.layer[1].cross_kv);
    int32_t at =
        check_part(&l, y, 16, 0, LAYER "memory_cross_attention.k_proj.weight", x, two_heads);
    check_part(&l, y, 16, at, LAYER "memory_cross_attention.v_proj.weight", x, NULL);
    run(&l, y, 16, x, l.w.memory.layer[0].main.q);
    check_part(&l, y, 16, 0, "memory_attention.model.attention_layers.0.q_proj.weight", x,
               two_heads);
    run(&l, y, 48, x, l.w.decoder.layer[1].self.in);
    check_part(&l, y, 48, 0, LAYER "attention.q_proj.weight", x, NULL);
    unload(&l);
}

/* Half precision in the file: every value is widened exactly. */
static void test_half_precision(void **state)
{
    (void)state;
    static const char name[] = LAYER "memory_cross_attention.q_proj.weight";
    struct loaded l = {0};
    float x[ROWS * DIM], y[ROWS * 16];
    fixture_random(&l.f, &(struct random_model){.seed = 3});
    /* The bits of a half, written as those of a bf16; then the header is told the truth. */
    struct file_tensor *t = (struct file_tensor *)tensor_file_get(&l.f.file, name);
    for (size_t i = 0; i < t->n; i++) {
        uint32_t half = (uint32_t)(i * 127 % 0x7C00), bits = half << 16; /* subnormals too */
        memcpy(&t->f[i], &bits, 4);
    }
    assert_ok(fixture_open(&l.f));
    struct raw_bytes file = raw_read(l.f.dir, "model.safetensors");
    char *at = strstr(file.at + 8, name);
    assert_non_null(at);
    at = strstr(at, "\"BF16\"");
    memcpy(at, "\"F16\" ", 6);
    raw_write(l.f.dir, "model.safetensors", file.at, file.n);
    raw_free(&file);
    for (size_t i = 0; i < t->n; i++)
        t->f[i] = f16_to_f32((uint16_t)(i * 127 % 0x7C00));

    struct backend_config config = {.name = "cpu", .n_thread = 1};
    struct lane_limits limits = {ROWS, 1, 64, 128, 96, 6, 4, 1};
    struct rxt_error err;
    checkpoint_close(&l.f.ck);
    assert_ok(checkpoint_open(&l.f.ck, l.f.dir, &err));
    assert_ok(backend_create(&l.be, &config, &err));
    assert_ok(lane_create(&l.lane, l.be, LANE_ANSWER, &limits));
    assert_ok(weights_create(&l.w, l.be, l.f.ck, DTYPE_F32, 64, &err));
    memset(x, 0, sizeof x);
    x[0] = x[DIM + 7] = x[2 * DIM + 31] = 1; /* picks columns 0, 7, 31 of W: exact */
    run(&l, y, 16, x, l.w.decoder.layer[1].cross.in);
    static const int column[ROWS] = {0, 7, 31};
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < 16; c++)
            assert_true(y[r * 16 + c] == t->f[c * DIM + column[r]]);
    unload(&l);
}

/* ---- the same weights by another way are the same bits ---------------------------------- */

static void run_layer(struct loaded *l, float *x)
{
    for (int32_t i = 0; i < l->w.decoder.n_layer; i++) {
        const struct layer_weights *d = &l->w.decoder.layer[i];
        struct tensor t = tensor_of(x, DIM);
        if (d->moe)
            assert_ok(op_moe_add(l->lane, t, d->norm3, d->ff));
        else
            assert_ok(op_ff_add(l->lane, t, d->norm3, d->ff));
    }
    assert_ok(lane_sync(l->lane));
}

/* What a bf16 file holds does not depend on how it is stored. */
static void test_storage_of_a_bf16_file(void **state)
{
    (void)state;
    float x[2][ROWS * DIM];
    size_t bytes[2];
    for (int i = 0; i < 2; i++) {
        struct loaded l;
        load(&l, &(struct random_model){.seed = 5}, i ? DTYPE_BF16 : DTYPE_F32);
        fill(x[i], 4);
        run_layer(&l, x[i]);
        bytes[i] = weights_bytes(&l.w);
        unload(&l);
    }
    assert_memory_equal(x[0], x[1], sizeof x[0]);
    assert_true(bytes[1] < bytes[0] * 7 / 10);
}

/* ---- memory ----------------------------------------------------------------------------- */

/* Resident bytes of the mapped weight file, by the kernel's own account: in smaps a line with the
 * range and the file comes before the lines of its fields. */
static size_t resident_of_file(const char *name)
{
    char line[512], field[32];
    size_t kb = 0;
    bool inside = false;
    FILE *f = fopen("/proc/self/smaps", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        unsigned long n;
        if (sscanf(line, "%*x-%lx", &n) == 1)
            inside = strstr(line, name) != NULL;
        else if (inside && sscanf(line, "%31s %lu", field, &n) == 2 && !strcmp(field, "Rss:"))
            kb += n;
    }
    (void)fclose(f);
    return kb * 1024;
}

/* The bundled model in bf16: its weights once, packed; of the file only the embedding stays. */
static void test_resident_memory(void **state)
{
    (void)state;
    struct checkpoint *ck = NULL;
    struct backend *be = NULL;
    struct model_weights w = {0};
    struct rxt_error err;
    struct backend_config config = {.name = "cpu", .n_thread = 2};
    assert_ok(backend_create(&be, &config, &err));
    assert_ok(checkpoint_open(&ck, "models/demo-15m", &err));
    assert_int_equal(ck->dtype, DTYPE_BF16);
    uint8_t hash[16]; /* reads the whole file */
    assert_ok(checkpoint_hash(ck, "models/demo-15m", hash, &err));
    assert_true(resident_of_file("demo-15m/model.safetensors") > 2 * ck->count.total);
    assert_ok(weights_create(&w, be, ck, ck->dtype, ck->config.max_seq_len, &err));
    size_t table = (size_t)ck->embedding.rows * (size_t)ck->embedding.cols * 2;
    size_t packed = 2 * (size_t)(ck->count.total) - table;
    assert_true(weights_bytes(&w) > packed);
    assert_true(weights_bytes(&w) < packed + packed / 20); /* norms, biases, angles in float32 */
    assert_true(resident_of_file("demo-15m/model.safetensors") <= table + 64 * 1024);
    weights_destroy(&w, be);
    checkpoint_close(&ck);
    backend_destroy(&be);
}

struct no_memory {
    struct fixture f;
    struct backend *be;
};

static enum rxt_status pack_and_free(void *arg)
{
    struct no_memory *n = arg;
    struct model_weights w = {0};
    TRY(weights_create(&w, n->be, n->f.ck, DTYPE_BF16, 64, NULL));
    weights_destroy(&w, n->be);
    return RXT_OK;
}

static void test_no_memory(void **state)
{
    (void)state;
    static const char *const patches[] = {
        NULL, "{\"memory_attention_variant\": \"self\", \"memory_attention_config\": {"
              "\"use_gate_for_self_attention\": true, \"residual_gate_type\": \"linear\"}}"};
    for (int i = 0; i < 2; i++) {
        struct no_memory n = {0};
        struct backend_config config = {.name = "cpu", .n_thread = 1};
        fixture_random(&n.f, &(struct random_model){.patch = patches[i]});
        assert_ok(fixture_open(&n.f));
        assert_ok(backend_create(&n.be, &config, NULL));
        assert_survives_no_memory(pack_and_free, &n);
        backend_destroy(&n.be);
        fixture_close(&n.f);
    }
}

/* ---- what can be packed ----------------------------------------------------------------- */

static void test_every_folder_and_shape(void **state)
{
    (void)state;
    static const char *const names[] = {
        "tests/golden/alpha-interlayer",  "tests/golden/alpha-moe-self-interlayer",
        "tests/golden/alpha-self-memory", "tests/golden/alpha-simple-ungated",
        "tests/golden/alpha-split-rope",  "tests/golden/beta-tiny",
        "tests/golden/beta-two-final",    "preview"};
    struct backend *be = NULL;
    struct backend_config config = {.name = "cpu", .n_thread = 2};
    assert_ok(backend_create(&be, &config, NULL));
    for (int i = 0; i < 8; i++) {
        struct checkpoint *ck = NULL;
        struct rxt_config c;
        struct model_weights w = {0};
        struct rxt_error err = {{0}};
        if (i < 7) {
            assert_ok(checkpoint_open(&ck, names[i], &err));
        } else {
            assert_ok(config_named(&c, names[i], &err));
            assert_ok(checkpoint_random(&ck, &c, 1, &err));
        }
        enum rxt_status st = weights_create(&w, be, ck, DTYPE_BF16, 300, &err);
        if (st != RXT_OK)
            fail_msg("%s: %s", names[i], err.text);
        weights_destroy(&w, be);
        checkpoint_close(&ck);
    }
    backend_destroy(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_of_projections),
        cmocka_unit_test(test_split_layout),
        cmocka_unit_test(test_half_precision),
        cmocka_unit_test(test_storage_of_a_bf16_file),
        cmocka_unit_test(test_resident_memory),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_every_folder_and_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
