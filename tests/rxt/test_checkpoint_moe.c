/* Experts: both layouts, all forms of shared experts, all bias modes. */
#include "rxt/checkpoint_impl.h"
#include "tests/rxt/checkpoint_fixture.h"

#define LAYER "decoder.model.layers.0.ff."

static const struct ckpt_moe *moe_of(const struct fixture *f)
{
    return &f->ck->decoder.layer[1].experts; /* the first stateful layer */
}

/* tensor[e] as a matrix of its own: row c of a transposed slice is column c of m. */
static void assert_slice(const struct fixture *f, const struct host_matrix *m, const char *name,
                         int32_t e)
{
    const struct file_tensor *t = tensor_file_get(&f->file, name);
    assert_int_equal(t->n_dim, 3);
    assert_int_equal(t->dim[1], m->cols);
    assert_int_equal(t->dim[2], m->rows);
    const float *slice = t->f + (size_t)e * (size_t)m->rows * (size_t)m->cols;
    for (int32_t r = 0; r < m->rows; r++)
        for (int32_t c = 0; c < m->cols; c++)
            if (fixture_at(m, r, c) != slice[(size_t)c * (size_t)m->rows + (size_t)r])
                fail_msg("%s[%d] differs at [%d,%d]", name, e, r, c);
}

static void test_stacked(void **state)
{
    (void)state;
    struct fixture f;
    fixture_random(&f, &(struct random_model){.seed = 1});
    assert_ok(fixture_open(&f));
    const struct ckpt_moe *m = moe_of(&f);
    assert_int_equal(m->desc.n_expert, 6);
    assert_int_equal(m->desc.top_k, 2);
    assert_int_equal(m->desc.n_shared, 2);
    assert_false(m->desc.router_bf16 || m->desc.weighted_shared);
    assert_matrix(&f, &m->desc.router, LAYER "router.gate.weight");
    assert_matrix(&f, &m->desc.shared_gate, LAYER "shared_expert_gate.weight");
    assert_vector(&f, &m->desc.global_bias, LAYER "global_bias");
    assert_vector(&f, &m->desc.shared_bias, LAYER "shared_experts_bias");
    for (int32_t e = 0; e < 6; e++) {
        assert_slice(&f, &m->desc.expert[e].w1, LAYER "w1", e);
        assert_slice(&f, &m->desc.expert[e].w2, LAYER "w2", e);
        assert_null(m->desc.expert[e].b1.data);
        assert_null(m->desc.expert[e].b2.data);
        assert_int_equal(m->desc.expert[e].w1.rows, 48);
        assert_int_equal(m->desc.expert[e].w2.cols, 24);
    }
    for (int32_t s = 0; s < 2; s++) {
        assert_slice(&f, &m->desc.shared[s].w1, LAYER "shared_w1", s);
        assert_slice(&f, &m->desc.shared[s].w2, LAYER "shared_w2", s);
        assert_int_equal(m->desc.shared[s].w2.cols, 16);
    }
    fixture_close(&f);
}

static void test_ungated_and_local_biases(void **state)
{
    (void)state;
    struct fixture f;
    fixture_random(&f, &(struct random_model){
                           .patch = "{\"decoder_config\": {\"use_gated\": false,"
                                    "\"moe_bias_mode\": \"local\","
                                    "\"moe_shared_experts_bias_mode\": \"local\","
                                    "\"moe_use_weighted_shared_experts\": true,"
                                    "\"router_amp\": true, \"router_dtype\": \"bfloat16\"}}"});
    assert_ok(fixture_open(&f));
    const struct ckpt_moe *m = moe_of(&f);
    assert_true(m->desc.router_bf16 && m->desc.weighted_shared);
    assert_null(m->desc.global_bias.data);
    assert_null(m->desc.shared_bias.data);
    const struct file_tensor *b1 = tensor_file_get(&f.file, LAYER "b1");
    const struct file_tensor *b2 = tensor_file_get(&f.file, LAYER "shared_b2");
    for (int32_t e = 0; e < 6; e++) {
        const struct host_vector *v = &m->desc.expert[e].b1;
        assert_false(m->desc.expert[e].gated);
        assert_int_equal(m->desc.expert[e].w1.rows, 24);
        assert_int_equal(v->n, 24);
        for (size_t i = 0; i < 24; i++)
            assert_true(dtype_value(v->data, v->dtype, i) == b1->f[(size_t)e * 24 + i]);
    }
    for (int32_t s = 0; s < 2; s++) {
        const struct host_vector *v = &m->desc.shared[s].b2;
        assert_int_equal(v->n, 32);
        for (size_t i = 0; i < 32; i++)
            assert_true(dtype_value(v->data, v->dtype, i) == b2->f[(size_t)s * 32 + i]);
    }
    fixture_close(&f);
}

/* One tensor an expert, gathered from slices of a stacked one. */
static void unstack(struct fixture *f, const char *layer, const char *stacked, const char *list,
                    const char *name)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", layer, stacked);
    struct file_tensor t = fixture_take(f, full);
    bool matrix = t.n_dim == 3;
    size_t rows = (size_t)t.dim[t.n_dim - 1], cols = matrix ? (size_t)t.dim[1] : 1;
    for (int e = 0; e < t.dim[0]; e++) {
        snprintf(full, sizeof full, "%s%s.%d.%s", layer, list, e, name);
        struct file_tensor *one = matrix ? tensor_file_add(&f->file, full, 2, (int)rows, (int)cols)
                                         : tensor_file_add(&f->file, full, 1, (int)rows);
        one->bf16 = t.bf16;
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < cols; c++)
                one->f[r * cols + c] = t.f[(size_t)e * rows * cols + c * rows + r];
    }
    free(t.f);
}

static void assert_same_ff(const struct ff_desc *a, const struct ff_desc *b)
{
    assert_int_equal(a->gated, b->gated);
    assert_int_equal(a->act, b->act);
    const struct host_matrix *ma[] = {&a->w1, &a->w2}, *mb[] = {&b->w1, &b->w2};
    const struct host_vector *va[] = {&a->b1, &a->b2}, *vb[] = {&b->b1, &b->b2};
    for (int k = 0; k < 2; k++) {
        assert_int_equal(ma[k]->rows, mb[k]->rows);
        assert_int_equal(ma[k]->cols, mb[k]->cols);
        for (int32_t r = 0; r < ma[k]->rows; r++)
            for (int32_t c = 0; c < ma[k]->cols; c++)
                assert_true(fixture_at(ma[k], r, c) == fixture_at(mb[k], r, c));
        assert_int_equal(va[k]->n, vb[k]->n);
        for (int32_t i = 0; i < va[k]->n; i++)
            assert_true(dtype_value(va[k]->data, va[k]->dtype, (size_t)i) ==
                        dtype_value(vb[k]->data, vb[k]->dtype, (size_t)i));
    }
}

/* The same numbers in the old layout and in the new one are the same experts. */
static void test_legacy_equals_stacked(void **state)
{
    (void)state;
    static const char *const layers[] = {LAYER, "decoder.model.layers.1.ff.",
                                         "decoder.model.final_stateless_layers.0.ff."};
    struct fixture a, b;
    struct random_model how = {.seed = 7,
                               .patch = "{\"decoder_config\": {\"moe_bias_mode\": \"local\","
                                        "\"moe_shared_experts_bias_mode\": \"local\"}}"};
    fixture_random(&a, &how);
    fixture_random(&b, &how);
    for (int i = 0; i < 3; i++) {
        unstack(&b, layers[i], "w1", "experts", "fc1.linear.weight");
        unstack(&b, layers[i], "w2", "experts", "fc2.weight");
        unstack(&b, layers[i], "b1", "experts", "fc1.linear.bias");
        unstack(&b, layers[i], "b2", "experts", "fc2.bias");
        unstack(&b, layers[i], "shared_w1", "shared_experts", "fc1.linear.weight");
        unstack(&b, layers[i], "shared_w2", "shared_experts", "fc2.weight");
        unstack(&b, layers[i], "shared_b1", "shared_experts", "fc1.linear.bias");
        unstack(&b, layers[i], "shared_b2", "shared_experts", "fc2.bias");
    }
    /* Legacy files have local biases whatever the fields say. */
    fixture_set(&b, "decoder_config.moe_bias_mode", "\"global\"");
    fixture_set(&b, "decoder_config.moe_shared_experts_bias_mode", "\"off\"");
    assert_ok(fixture_open(&a));
    assert_ok(fixture_open(&b));
    assert_memory_equal(&a.ck->count, &b.ck->count, sizeof a.ck->count);
    for (int32_t layer = 1; layer < 4; layer++) {
        const struct moe_desc *x = &a.ck->decoder.layer[layer].experts.desc;
        const struct moe_desc *y = &b.ck->decoder.layer[layer].experts.desc;
        for (int32_t e = 0; e < 6; e++)
            assert_same_ff(&x->expert[e], &y->expert[e]);
        for (int32_t s = 0; s < 2; s++)
            assert_same_ff(&x->shared[s], &y->shared[s]);
        assert_null(y->global_bias.data);
        assert_null(y->shared_bias.data);
        assert_matrix(&b, &y->shared_gate,
                      layer == 1   ? LAYER "shared_expert_gate.weight"
                      : layer == 2 ? "decoder.model.layers.1.ff.shared_expert_gate.weight"
                                   : "decoder.model.final_stateless_layers.0.ff."
                                     "shared_expert_gate.weight");
    }
    fixture_close(&a);
    fixture_close(&b);
}

/* A lone shared expert: a dense feed-forward, no gate, under the name of its layout. */
static void test_one_shared_expert(void **state)
{
    (void)state;
    static const char *const from = LAYER "shared_experts.0.fc2.weight";
    struct fixture f;
    for (int legacy = 0; legacy < 2; legacy++) {
        fixture_random(&f, &(struct random_model){
                               .legacy_moe = legacy,
                               .patch = "{\"decoder_config\": {\"num_shared_experts\": 1}}"});
        assert_ok(fixture_open(&f));
        const struct moe_desc *m = &moe_of(&f)->desc;
        assert_int_equal(m->n_shared, 1);
        assert_null(m->shared_gate.data);
        assert_null(m->shared_bias.data);
        assert_matrix(&f, &m->shared[0].w2, legacy ? from : LAYER "shared_expert.fc2.weight");
        assert_int_equal(m->shared[0].w2.cols, 16);
        assert_non_null(m->shared[0].b1.data);
        assert_false(m->shared[0].w1.transposed);
        if (!legacy) { /* the global bias, where a file has one */
            for (int i = 0; i < 3; i++) {
                static const char *const layers[] = {LAYER, "decoder.model.layers.1.ff.",
                                                     "decoder.model.final_stateless_layers.0.ff."};
                char name[160];
                snprintf(name, sizeof name, "%sshared_experts_bias", layers[i]);
                tensor_file_add(&f.file, name, 1, 32);
            }
            assert_ok(fixture_open(&f));
            assert_vector(&f, &moe_of(&f)->desc.shared_bias, LAYER "shared_experts_bias");
        }
        fixture_close(&f);
    }
}

/* num_shared_experts is absent: none in files of the time before there were any, one in others. */
static void test_unsaid_number_of_shared_experts(void **state)
{
    (void)state;
    static const struct {
        bool legacy;
        const char *patch;
        int32_t want;
    } row[] = {{true, "{\"decoder_config\": {\"num_shared_experts\": 0}}", 0},
               {true, "{\"decoder_config\": {\"num_shared_experts\": 1}}", 1},
               {false, "{\"decoder_config\": {\"num_shared_experts\": 1}}", 1}};
    for (int i = 0; i < 3; i++) {
        struct fixture f;
        fixture_random(&f,
                       &(struct random_model){.legacy_moe = row[i].legacy, .patch = row[i].patch});
        fixture_set(&f, "decoder_config.num_shared_experts", NULL);
        assert_ok(fixture_open(&f));
        assert_int_equal(f.ck->config.decoder.moe.n_shared, row[i].want);
        assert_int_equal(moe_of(&f)->desc.n_shared, row[i].want);
        fixture_close(&f);
    }
    struct fixture f; /* a stacked file without any must say so */
    fixture_random(
        &f, &(struct random_model){.patch = "{\"decoder_config\": {\"num_shared_experts\": 0}}"});
    assert_ok(fixture_open(&f));
    assert_null(moe_of(&f)->desc.shared);
    fixture_set(&f, "decoder_config.num_shared_experts", NULL);
    assert_status(RXT_ENOTFOUND, fixture_open(&f));
    assert_non_null(strstr(f.err.text, "ff.shared_expert.fc1.linear.weight"));
    fixture_close(&f);
}

static void test_bias_modes(void **state)
{
    (void)state;
    static const char *const modes[] = {"local", "global", "off"};
    for (int i = 0; i < 9; i++) {
        char patch[160];
        struct fixture f;
        snprintf(patch, sizeof patch,
                 "{\"decoder_config\": {\"moe_bias_mode\": \"%s\","
                 "\"moe_shared_experts_bias_mode\": \"%s\"}}",
                 modes[i / 3], modes[i % 3]);
        fixture_random(&f, &(struct random_model){.patch = patch});
        assert_ok(fixture_open(&f));
        const struct moe_desc *m = &moe_of(&f)->desc;
        assert_int_equal(m->expert[5].b2.data != NULL, i / 3 == 0);
        assert_int_equal(m->global_bias.data != NULL, i / 3 == 1);
        assert_int_equal(m->shared[1].b1.data != NULL, i % 3 == 0);
        assert_int_equal(m->shared_bias.data != NULL, i % 3 == 1);
        fixture_close(&f);
    }
}

/* A config may claim experts without end; what is reserved is bounded by what the file holds. */
static void test_more_experts_than_the_file(void **state)
{
    (void)state;
    for (int legacy = 0; legacy < 2; legacy++) {
        struct fixture f;
        fixture_random(&f, &(struct random_model){.legacy_moe = legacy});
        fixture_set(&f, "decoder_config.num_experts", "65536");
        assert_status(RXT_ESHAPE, fixture_open(&f));
        assert_non_null(strstr(f.err.text, "router.gate.weight"));
        fixture_set(&f, "decoder_config.num_experts", "7");
        assert_status(RXT_ESHAPE, fixture_open(&f));
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stacked),
        cmocka_unit_test(test_ungated_and_local_biases),
        cmocka_unit_test(test_legacy_equals_stacked),
        cmocka_unit_test(test_one_shared_expert),
        cmocka_unit_test(test_unsaid_number_of_shared_experts),
        cmocka_unit_test(test_bias_modes),
        cmocka_unit_test(test_more_experts_than_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
