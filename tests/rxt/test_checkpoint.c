/* Whole checkpoints: what is bound where, counts, dtypes, single components, the hash. */
#include "rxt/checkpoint_impl.h"
#include "tests/rxt/checkpoint_fixture.h"

#include <math.h>
#include <xxhash.h>

static const char *const folders[] = {
    "tests/golden/alpha-interlayer",  "tests/golden/alpha-moe-self-interlayer",
    "tests/golden/alpha-self-memory", "tests/golden/alpha-simple-ungated",
    "tests/golden/alpha-split-rope",  "tests/golden/beta-tiny",
    "tests/golden/beta-two-final",    "models/demo-15m"};
#define N_FOLDER (sizeof folders / sizeof folders[0])
#define N_GOLDEN (N_FOLDER - 1) /* the small ones, without the bundled model */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), n_end = strlen(end);
    return n >= n_end && strcmp(s + n - n_end, end) == 0;
}

/* Values of the parameters below a prefix, counted from the file. */
static uint64_t count_file(const struct tensor_file *t, const char *prefix)
{
    uint64_t n = 0;
    for (int i = 0; i < t->n; i++) {
        const char *name = t->tensor[i].name;
        bool buffer = ends_with(name, "stm.memory") || strstr(name, ".rope.") ||
                      ends_with(name, "ema_rms") || strstr(name, "self_residual_gate_layers");
        if (strncmp(name, prefix, strlen(prefix)) == 0 && !buffer)
            n += t->tensor[i].n;
    }
    return n;
}

static void test_all_folders_load(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FOLDER; i++) {
        struct rxt_error err = {{0}};
        struct checkpoint *ck = NULL;
        enum rxt_status st = checkpoint_open(&ck, folders[i], &err);
        if (st != RXT_OK)
            fail_msg("%s: %s", folders[i], err.text);
        char path[256];
        struct tensor_file t;
        snprintf(path, sizeof path, "%s/model.safetensors", folders[i]);
        tensor_file_read(&t, path);
        uint64_t e = (uint64_t)ck->embedding.rows * (uint64_t)ck->embedding.cols;
        uint64_t n_embedding = 0; /* decoder and encoder share it: one name of it is enough */
        for (int k = 0; k < t.n; k++)
            n_embedding += ends_with(t.tensor[k].name, "coder.model.embedding.weight");
        assert_in_range(n_embedding, 1, 2);
        uint64_t absent = (2 - n_embedding) * e;
        assert_int_equal(ck->count.decoder, count_file(&t, "decoder."));
        assert_int_equal(ck->count.encoder, count_file(&t, "encoder.") + absent);
        assert_int_equal(ck->count.memory, count_file(&t, "memory_attention."));
        assert_int_equal(ck->count.total,
                         ck->count.decoder + ck->count.encoder + ck->count.memory - e);
        assert_int_equal(ck->dtype, DTYPE_BF16);
        assert_non_null(ck->memory.stored);
        tensor_file_free(&t);
        checkpoint_close(&ck);
        assert_null(ck);
    }
}

static bool near(uint64_t n, double want, double tolerance)
{
    return fabs((double)n - want) <= tolerance;
}

/* The table of spec 8, to its last digit. */
static void test_published_counts(void **state)
{
    (void)state;
    struct rxt_config c;
    struct ckpt_count n;
    assert_ok(config_named(&c, "beta-3b", NULL));
    assert_ok(checkpoint_count(&n, &c, NULL));
    assert_true(near(n.total, 2928e6, 0.5e6));
    assert_true(near(n.decoder, 2842e6, 0.5e6));
    assert_true(near(n.encoder, 97.0e6, 0.05e6));
    assert_true(near(n.memory, 22.3e6, 0.05e6));
    assert_true(near(n.decoder_active, 194.8e6, 0.05e6));
    assert_ok(config_named(&c, "alpha-12m", NULL));
    assert_ok(checkpoint_count(&n, &c, NULL));
    assert_true(near(n.total, 11.7e6, 0.05e6));
    assert_true(near(n.decoder, 9.46e6, 0.005e6));
    assert_true(near(n.encoder, 2.05e6, 0.005e6));
    assert_true(near(n.memory, 1.19e6, 0.005e6));
    assert_true(near(n.decoder_active, 3.5e6, 0.05e6));
    /* Its published decoder file: the weights, the memory and the table of angles in float32. */
    assert_true(near(4 * (n.decoder + 6 * 256 * 128 + 256 * 8), 38.63e6, 0.005e6));

    struct checkpoint *ck = NULL;
    assert_ok(config_named(&c, "preview", NULL));
    assert_ok(checkpoint_count(&n, &c, NULL));
    assert_int_equal(n.total, 12902290);
    assert_ok(config_read(&c, "models/demo-15m", NULL));
    assert_ok(checkpoint_count(&n, &c, NULL));
    assert_ok(checkpoint_open(&ck, "models/demo-15m", NULL));
    assert_memory_equal(&n, &ck->count, sizeof n);
    checkpoint_close(&ck);
}

/* Every place of the tree, in the folder that has most of them. */
static void test_what_is_bound_where(void **state)
{
    (void)state;
    struct fixture f;
    fixture_load(&f, "tests/golden/beta-two-final");
    assert_ok(fixture_open(&f));
    const struct checkpoint *ck = f.ck;
    assert_matrix(&f, &ck->embedding, "encoder.model.embedding.weight");
    assert_matrix(&f, &ck->head, "decoder.model.head.weight");
    assert_vector(&f, &ck->head_bias, "decoder.model.head.bias");
    assert_int_equal(ck->head_norm.kind, NORM_RMS);
    assert_vector(&f, &ck->head_norm.weight, "decoder.model.head_norm.weight");
    assert_int_equal(ck->decoder.n_layer, 10);

    const struct ckpt_layer *first = &ck->decoder.layer[0], *l = &ck->decoder.layer[4];
    assert_false(first->stateful || first->moe);
    assert_matrix(&f, &first->ff.w1, "decoder.model.stateless_layers.0.ff.fc1.linear.weight");
    assert_vector(&f, &first->ff.b1, "decoder.model.stateless_layers.0.ff.fc1.linear.bias");
    assert_matrix(&f, &first->ff.w2, "decoder.model.stateless_layers.0.ff.fc2.weight");
    assert_vector(&f, &first->ff.b2, "decoder.model.stateless_layers.0.ff.fc2.bias");
    assert_true(first->ff.gated);
    assert_int_equal(first->ff.act, ACT_SILU);
    assert_true(l->stateful && l->moe);
    assert_vector(&f, &l->norm1.weight, "decoder.model.layers.2.norm1.weight");
    assert_vector(&f, &l->norm2.weight, "decoder.model.layers.2.norm2.weight");
    assert_vector(&f, &l->norm3.weight, "decoder.model.layers.2.norm3.weight");
    assert_vector(&f, &l->stm_norm.weight, "decoder.model.layers.2.stm_norm.weight");
    assert_matrix(&f, &l->self.q, "decoder.model.layers.2.attention.q_proj.weight");
    assert_matrix(&f, &l->self.k, "decoder.model.layers.2.attention.k_proj.weight");
    assert_matrix(&f, &l->self.v, "decoder.model.layers.2.attention.v_proj.weight");
    assert_matrix(&f, &l->self.gate, "decoder.model.layers.2.attention.gate_proj.weight");
    assert_matrix(&f, &l->self.out, "decoder.model.layers.2.attention.out_proj.weight");
    assert_null(l->self.out_bias.data);
    assert_matrix(&f, &l->cross.q, "decoder.model.layers.2.memory_cross_attention.q_proj.weight");
    assert_matrix(&f, &l->cross.k, "decoder.model.layers.2.memory_cross_attention.k_proj.weight");
    assert_matrix(&f, &l->cross.v, "decoder.model.layers.2.memory_cross_attention.v_proj.weight");
    assert_matrix(&f, &l->cross.out,
                  "decoder.model.layers.2.memory_cross_attention.out_proj.weight");
    assert_null(l->cross.gate.data);
    assert_matrix(&f, &l->experts.desc.router, "decoder.model.layers.2.ff.router.gate.weight");
    assert_vector(&f, &ck->decoder.layer[9].norm1.weight,
                  "decoder.model.final_stateless_layers.1.norm1.weight");
    assert_false(ck->decoder.layer[9].stateful);

    assert_int_equal(ck->encoder.n_layer, 6);
    assert_false(ck->encoder.layer[5].stateful);
    assert_matrix(&f, &ck->encoder.layer[5].self.v,
                  "encoder.model.layers.5.attention.v_proj.weight");
    assert_matrix(&f, &ck->encoder.layer[5].ff.w2, "encoder.model.layers.5.ff.fc2.weight");

    const struct ckpt_memory_layer *m = &ck->memory.layer[3];
    assert_vector(&f, &m->norm_input.weight,
                  "memory_attention.model.memory_input_norm_layers.3.weight");
    assert_vector(&f, &m->norm_mem.weight, "memory_attention.model.memory_norm_layers.3.weight");
    assert_vector(&f, &m->norm_mean.weight,
                  "memory_attention.model.mean_memory_norm_layers.3.weight");
    assert_vector(&f, &ck->memory.norm_m.weight, "memory_attention.model.mean_stm_norm.weight");
    assert_matrix(&f, &m->main.q, "memory_attention.model.attention_layers.3.q_proj.weight");
    assert_vector(&f, &m->main.out_bias, "memory_attention.model.attention_layers.3.out_proj.bias");
    assert_matrix(&f, &m->mean.k, "memory_attention.model.mean_attention_layers.3.k_proj.weight");
    assert_vector(&f, &m->gate.g, "memory_attention.model.residual_gate_layers.3.gate");
    assert_vector(&f, &m->gate_mean.g, "memory_attention.model.mean_residual_gate_layers.3.gate");
    assert_vector(&f, &m->gate_interlayer.g,
                  "memory_attention.model.interlayer_gate_layers.3.gate");
    assert_int_equal(m->gate.kind, GATE_ELEMENTWISE);
    assert_true(m->gate.per_slot);
    assert_false(m->gate.tanh);
    assert_int_equal(m->gate.n_slot, 40);
    fixture_close(&f);
}

static void test_what_other_kinds_bind(void **state)
{
    (void)state;
    struct fixture f;
    fixture_load(&f, "tests/golden/alpha-self-memory");
    assert_ok(fixture_open(&f));
    const struct ckpt_memory_layer *m = &f.ck->memory.layer[1];
    assert_int_equal(f.ck->decoder.layer[0].norm1.kind, NORM_LAYER);
    assert_vector(&f, &f.ck->decoder.layer[0].norm1.bias, "decoder.model.layers.0.norm1.bias");
    assert_matrix(&f, &f.ck->decoder.layer[1].ff.w1, "decoder.model.layers.1.ff.fc1.weight");
    assert_false(f.ck->decoder.layer[1].ff.gated);
    assert_int_equal(f.ck->decoder.layer[1].ff.act, ACT_GELU);
    assert_int_equal(m->norm_self.kind, NORM_MIX_SLOT);
    assert_vector(&f, &m->norm_self.scale,
                  "memory_attention.model.self_memory_norm_layers.1.scale");
    assert_vector(&f, &m->norm_self.gate, "memory_attention.model.self_memory_norm_layers.1.gate");
    assert_vector(&f, &m->norm_mem.ema_rms, "memory_attention.model.memory_norm_layers.1.ema_rms");
    assert_matrix(&f, &m->self.q, "memory_attention.model.self_attention_layers.1.q_proj.weight");
    assert_int_equal(m->gate_self.kind, GATE_ADD); /* switched off; its status is left over */
    assert_int_equal(m->gate.kind, GATE_ELEMENTWISE);
    assert_vector(&f, &m->gate.status_w,
                  "memory_attention.model.residual_gate_layers.1.slot_status.weight");
    assert_vector(&f, &m->gate.status_b,
                  "memory_attention.model.residual_gate_layers.1.slot_status.bias");
    fixture_close(&f);

    fixture_load(&f, "tests/golden/alpha-moe-self-interlayer");
    assert_ok(fixture_open(&f));
    m = &f.ck->memory.layer[2];
    assert_int_equal(m->gate_mean.kind, GATE_LINEAR);
    assert_true(m->gate_mean.tanh);
    assert_matrix(&f, &m->gate_mean.w,
                  "memory_attention.model.mean_residual_gate_layers.2.gate.weight");
    assert_vector(&f, &m->gate_mean.b,
                  "memory_attention.model.mean_residual_gate_layers.2.gate.bias");
    assert_null(m->gate_mean.status_w.data);
    assert_int_equal(f.ck->memory.norm_m.kind, NORM_MIX_LAYER);
    assert_vector(&f, &f.ck->memory.norm_m.bias, "memory_attention.model.mean_stm_norm.norm.bias");
    assert_vector(&f, &f.ck->memory.norm_m.gate, "memory_attention.model.mean_stm_norm.gate");
    assert_int_equal(f.ck->head_norm.kind, NORM_LAYER);
    assert_vector(&f, &f.ck->head_norm.bias, "decoder.model.head_norm.bias");
    assert_vector(&f, &f.ck->decoder.layer[0].self.out_bias,
                  "decoder.model.layers.0.attention.out_proj.bias");
    fixture_close(&f);
}

/* Every kind of memory attention, norm and gate has its own table of names. */
static void test_all_memory_kinds(void **state)
{
    (void)state;
    static const char *const variants[] = {"simple", "self", "interlayer", "self-interlayer",
                                           "grouped-self-interlayer"};
    static const char *const norms[] = {"classic-rms", "layer", "rms", "adaptive", "positional"};
    static const char *const gates[] = {"static", "elementwise", "linear"};
    for (int v = 0; v < 5; v++) {
        for (int k = v; k < v + 30; k += 7) { /* each norm and each gate once or twice */
            const char *per_slot = k & 1 ? "true" : "false", *status = k & 2 ? "mean" : "linear";
            char patch[512];
            snprintf(patch, sizeof patch,
                     "{\"memory_attention_variant\": \"%s\", \"memory_attention_config\": {"
                     "\"norm_type\": \"%s\", \"residual_gate_type\": \"%s\","
                     "\"residual_per_slot_gate\": %s, \"residual_gate_slot_status_type\": \"%s\","
                     "\"use_gate_for_self_attention\": true, \"norm_per_dim_scale\": %s%s}}",
                     variants[v], norms[k % 5], gates[k % 3], per_slot, status,
                     k % 4 < 2 ? "true" : "false", v == 4 ? ", \"num_groups\": 2" : "");
            struct fixture f;
            fixture_random(&f, &(struct random_model){.patch = patch, .seed = (uint64_t)k});
            enum rxt_status st = fixture_open(&f);
            if (st != RXT_OK)
                fail_msg("%s\n  %s", patch, f.err.text);
            const struct gate_desc *g = &f.ck->memory.layer[1].gate;
            const struct norm_desc *n = &f.ck->memory.layer[1].norm_mem;
            assert_int_equal(n->scale_by_slot, k % 5 == 4 && k % 4 >= 2);
            assert_int_equal(n->scale.n, k % 5 == 0 ? 0 : n->scale_by_slot ? 12 : 32);
            assert_int_equal(g->status_w.data != NULL, !(k & 2) && k % 3 != 0);
            assert_int_equal(g->kind == GATE_LINEAR ? g->b.n : g->g.n, k & 1 ? 12 : 1);
            fixture_close(&f);
        }
    }
}

/* One component of a model: its object of the config, its tensors without their prefix. */
static void make_single(struct fixture *f, const char *from, const char *object, const char *prefix)
{
    fixture_load(f, from);
    json_t *config = json_incref(json_object_get(f->config, object));
    json_decref(f->config);
    f->config = config;
    for (int i = f->file.n - 1; i >= 0; i--) {
        struct file_tensor *t = &f->file.tensor[i];
        if (strncmp(t->name, prefix, strlen(prefix)) == 0)
            memmove(t->name, t->name + strlen(prefix), strlen(t->name + strlen(prefix)) + 1);
        else
            fixture_drop(f, t->name);
    }
}

static void test_single_components(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_GOLDEN; i++) {
        struct checkpoint *whole = NULL;
        struct fixture f;
        assert_ok(checkpoint_open(&whole, folders[i], NULL));
        make_single(&f, folders[i], "decoder_config", "decoder.");
        assert_ok(fixture_open(&f));
        assert_true(f.ck->config.has_decoder && !f.ck->config.has_encoder);
        assert_int_equal(f.ck->count.decoder, whole->count.decoder);
        assert_int_equal(f.ck->count.total, whole->count.decoder);
        assert_int_equal(f.ck->count.decoder_active, whole->count.decoder_active);
        assert_matrix(&f, &f.ck->embedding, "model.embedding.weight");
        fixture_close(&f);

        make_single(&f, folders[i], "encoder_config", "encoder.");
        fixture_set(&f, "skip_memory_cross_attention", NULL); /* then only the tensors tell */
        fixture_set(&f, "cross_att_type", "\"mha\"");
        assert_ok(fixture_open(&f));
        assert_true(f.ck->config.has_encoder && !f.ck->config.has_decoder);
        assert_int_equal(f.ck->count.total, whole->count.encoder);
        fixture_close(&f);

        make_single(&f, folders[i], "memory_attention_config", "memory_attention.");
        assert_ok(fixture_open(&f));
        assert_int_equal(f.ck->config.memory.variant, whole->config.memory.variant);
        assert_int_equal(f.ck->count.total, whole->count.memory);
        assert_non_null(f.ck->memory.stored);
        fixture_close(&f);
        checkpoint_close(&whole);
    }
}

/* Without gates, and without the field, nothing tells interlayer from self-interlayer. */
static void test_a_variant_nobody_tells(void **state)
{
    (void)state;
    struct fixture f;
    make_single(&f, "tests/golden/alpha-interlayer", "memory_attention_config",
                "memory_attention.");
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "model.residual_gate_layers.%d.gate", i);
        fixture_drop(&f, name);
        snprintf(name, sizeof name, "model.mean_residual_gate_layers.%d.gate", i);
        fixture_drop(&f, name);
    }
    fixture_set(&f, "use_gated_residual", "false");
    assert_status(RXT_EINVAL, fixture_open(&f));
    assert_non_null(strstr(f.err.text, "memory_attention_variant is missing"));
    fixture_set(&f, "memory_attention_variant", "\"interlayer\"");
    assert_ok(fixture_open(&f));
    assert_int_equal(f.ck->memory.layer[0].gate.kind, GATE_ADD);
    fixture_set(&f, "disable_residual", "true");
    assert_ok(fixture_open(&f));
    assert_int_equal(f.ck->memory.layer[0].gate.kind, GATE_REPLACE);
    fixture_close(&f);

    make_single(&f, "tests/golden/alpha-self-memory", "memory_attention_config",
                "memory_attention.");
    fixture_set(&f, "self_att_type", NULL);
    assert_status(RXT_EFORMAT, fixture_open(&f));
    assert_non_null(strstr(f.err.text, "self_att_type is missing"));
    fixture_close(&f);
}

/* ---- hash ------------------------------------------------------------------------------- */

static void append(struct raw_bytes *all, const char *dir, const char *name)
{
    struct raw_bytes b = raw_read(dir, name);
    size_t n_name = strlen(name) + 1;
    all->at = realloc(all->at, all->n + n_name + 8 + b.n);
    memcpy(all->at + all->n, name, n_name);
    for (int i = 0; i < 8; i++)
        all->at[all->n + n_name + (size_t)i] = (char)(b.n >> (8 * i));
    memcpy(all->at + all->n + n_name + 8, b.at, b.n);
    all->n += n_name + 8 + b.n;
    raw_free(&b);
}

static void test_hash(void **state)
{
    (void)state;
    struct raw_bytes all = {0};
    append(&all, "models/demo-15m", "config.json");
    append(&all, "models/demo-15m", "tokenizer.json");
    append(&all, "models/demo-15m", "model.safetensors");
    XXH128_canonical_t want;
    XXH128_canonicalFromHash(&want, XXH3_128bits(all.at, all.n));
    raw_free(&all);

    uint8_t hash[16], other[16];
    struct checkpoint *ck = NULL;
    assert_ok(checkpoint_open(&ck, "models/demo-15m", NULL));
    assert_ok(checkpoint_hash(ck, "models/demo-15m", hash, NULL));
    assert_memory_equal(hash, want.digest, 16);
    checkpoint_close(&ck);

    struct fixture f;
    fixture_load(&f, "tests/golden/alpha-interlayer");
    assert_ok(fixture_open(&f));
    assert_ok(checkpoint_hash(f.ck, f.dir, hash, NULL));
    raw_write_text(f.dir, "tokenizer.json", "");
    assert_ok(checkpoint_hash(f.ck, f.dir, other, NULL));
    assert_memory_not_equal(hash, other, 16);
    f.file.tensor[0].f[0] += 1;
    assert_ok(fixture_open(&f));
    assert_ok(checkpoint_hash(f.ck, f.dir, hash, NULL));
    assert_memory_not_equal(hash, other, 16);
    char *empty = test_dir_make();
    assert_status(RXT_EIO, checkpoint_hash(f.ck, empty, hash, &f.err));
    assert_string_equal(f.err.text, "config.json: cannot be read");
    test_dir_remove(empty);
    fixture_close(&f);
}

/* ---- no memory -------------------------------------------------------------------------- */

static enum rxt_status open_and_close(void *dir)
{
    struct checkpoint *ck = NULL;
    uint8_t hash[16];
    TRY(checkpoint_open(&ck, dir, NULL));
    enum rxt_status st = checkpoint_hash(ck, dir, hash, NULL);
    checkpoint_close(&ck);
    return st;
}

static enum rxt_status make_random(void *config)
{
    struct checkpoint *ck = NULL;
    TRY(checkpoint_random(&ck, config, 1, NULL));
    checkpoint_close(&ck);
    return RXT_OK;
}

static void test_no_memory(void **state)
{
    (void)state;
    assert_survives_no_memory(open_and_close, "tests/golden/alpha-split-rope");
    assert_survives_no_memory(open_and_close, "tests/golden/beta-tiny");
    struct rxt_config c;
    assert_ok(config_read(&c, "tests/golden/beta-tiny", NULL));
    assert_survives_no_memory(make_random, &c);
}

/* ---- random weights --------------------------------------------------------------------- */

static void test_random_weights(void **state)
{
    (void)state;
    struct rxt_config c;
    struct checkpoint *a = NULL, *b = NULL;
    assert_ok(config_named(&c, "preview", NULL));
    assert_ok(checkpoint_random(&a, &c, 1, NULL));
    assert_ok(checkpoint_random(&b, &c, 1, NULL));
    size_t n = (size_t)a->head.rows * (size_t)a->head.cols;
    assert_memory_equal(a->head.data, b->head.data, 2 * n);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        double x = (double)dtype_value(a->head.data, DTYPE_BF16, i);
        sum += x;
        squares += x * x;
    }
    assert_true(fabs(sum / (double)n) < 1e-3);
    assert_true(fabs(squares / (double)n - 0.0025) < 1e-4);
    assert_memory_not_equal(a->decoder.layer[0].self.q.data, a->decoder.layer[1].self.q.data, 1024);
    checkpoint_close(&b);
    assert_ok(checkpoint_random(&b, &c, 2, NULL));
    assert_memory_not_equal(a->head.data, b->head.data, 2 * n);
    checkpoint_close(&a);
    checkpoint_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_folders_load),
        cmocka_unit_test(test_published_counts),
        cmocka_unit_test(test_what_is_bound_where),
        cmocka_unit_test(test_what_other_kinds_bind),
        cmocka_unit_test(test_all_memory_kinds),
        cmocka_unit_test(test_single_components),
        cmocka_unit_test(test_a_variant_nobody_tells),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_random_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
