/* The references themselves, against the worked examples of the spec. */
#include "tests/ref/ref.h"

#include "tests/lib/test.h"

#include <math.h>

#define assert_near(a, b, bound) assert_true(fabs((double)(a) - (double)(b)) <= (bound))

/* theta[p,i] of spec 2.3, to the last bit. */
static float angle(int position, int i, int dim, double base)
{
    float inv = 1.0f / (float)pow(base, 2.0 * i / dim);
    return (float)position * inv;
}

static void rope_example_of_the_spec(void **state)
{
    (void)state;
    float x[4] = {1, 2, 3, 4};
    const float want[4] = {-1.272233f, -1.838865f, 2.878668f, 4.088187f};
    const float a[2] = {angle(3, 0, 4, 10000), angle(3, 1, 4, 10000)};
    ref_rope(REF_F32, x, 4, a);
    for (int i = 0; i < 4; i++)
        assert_near(x[i], want[i], 1e-6);
}

/* In bf16, position 257 is rotated as 256 and 8191 as 8192; in float32 they are not. */
static void rope_rounds_angles_in_bf16(void **state)
{
    (void)state;
    const int pair[2][2] = {{257, 256}, {8191, 8192}};
    for (int i = 0; i < 2; i++) {
        const float a = angle(pair[i][0], 0, 2, 10000), b = angle(pair[i][1], 0, 2, 10000);
        for (enum ref_mode mode = REF_F32; mode <= REF_BF16; mode++) {
            float x[2] = {1, 0.5f}, y[2] = {1, 0.5f};
            ref_rope(mode, x, 2, &a);
            ref_rope(mode, y, 2, &b);
            assert_int_equal(x[0] == y[0] && x[1] == y[1], mode == REF_BF16);
        }
    }
}

/* Every step of the rotation is rounded: angle 3, cos -0.98999 -> -0.98828, sin 0.14112 ->
 * 0.14160; 1.5 cos = -1.48242 -> -1.48438, 2.25 sin = 0.31860 -> 0.31836, difference -1.80274 ->
 * -1.80469. */
static void rope_rounds_products_in_bf16(void **state)
{
    (void)state;
    float x[2] = {1.5f, 2.25f};
    const float a = 3;
    ref_rope(REF_BF16, x, 2, &a);
    assert_true(x[0] == -1.8046875f);
}

static struct host_vector vec(const float *data, int n)
{
    return (struct host_vector){data, DTYPE_F32, n};
}

static void rms_of_memory_norm_example(void **state)
{
    (void)state;
    const float x[2] = {3, 4}, scale[2] = {1, 1}, open = INFINITY;
    float y[2];
    const struct norm_desc d = {
        .kind = NORM_MIX_RMS, .dim = 2, .scale = vec(scale, 2), .gate = vec(&open, 1)};
    ref_norm(REF_F32, y, x, 1, &d);
    assert_near(y[0], 1.595489, 1e-6);
    assert_near(y[1], 2.127318, 1e-6);
}

static void mix_lets_through_what_the_gate_leaves(void **state)
{
    (void)state;
    const float x[4] = {3, 4, 3, 4}, scale[2] = {2, 0.5f}, half[2] = {0, 0}, ema[2] = {4, 0.25f};
    float y[4];
    const struct norm_desc d = {.kind = NORM_MIX_SLOT,
                                .dim = 2,
                                .scale = vec(scale, 2),
                                .scale_by_slot = true,
                                .gate = vec(half, 2),
                                .ema_rms = vec(ema, 2)};
    ref_norm(REF_F32, y, x, 2, &d);
    assert_near(y[0], 0.5 * (2 * 3 / 2.0 + 3), 1e-5);   /* slot 0: 1/sqrt(4), scale 2 */
    assert_near(y[3], 0.5 * (0.5 * 4 * 2.0 + 4), 1e-5); /* slot 1: 1/sqrt(0.25), scale 0.5 */
}

static void classic_norms(void **state)
{
    (void)state;
    const float x[2] = {3, 4}, w[2] = {1, 2}, b[2] = {0.5f, 0};
    float y[2];
    struct norm_desc d = {.kind = NORM_RMS, .dim = 2, .weight = vec(w, 2)};
    ref_norm(REF_F32, y, x, 1, &d);
    assert_near(y[0], 3 / sqrt(12.5), 1e-6);
    assert_near(y[1], 8 / sqrt(12.5), 1e-6);
    d.kind = NORM_LAYER;
    d.bias = vec(b, 2);
    ref_norm(REF_F32, y, x, 1, &d);
    assert_near(y[0], 0.5 - 0.5 / sqrt(0.25 + 1e-5), 1e-6);
    assert_near(y[1], 2 * 0.5 / sqrt(0.25 + 1e-5), 1e-6);
}

static void gate_example_of_the_spec(void **state)
{
    (void)state;
    const float old[2] = {1, -1}, new_[2] = {3, 0}, g = 0.5f;
    float out[2];
    struct gate_desc d = {
        .kind = GATE_ELEMENTWISE, .per_slot = true, .n_slot = 1, .dim = 2, .g = vec(&g, 1)};
    ref_gate(REF_F32, out, old, new_, &d);
    assert_near(out[0], 2.358357, 1e-6);
    assert_near(out[1], -0.320821, 1e-6);
    d.tanh = true;
    ref_gate(REF_F32, out, old, new_, &d);
    assert_near(out[0], 5.270298, 1e-6);
    assert_near(out[1], -0.364851, 1e-6);
}

/* Probabilities 0.5, 0.3, 0.2: p = 0.4 keeps one, 0.6 two, 0.9 three. */
static void top_p_example_of_the_spec(void **state)
{
    (void)state;
    const float logits[3] = {logf(0.3f), logf(0.2f), logf(0.5f)};
    const float p[3] = {0.4f, 0.6f, 0.9f};
    const bool want[3][3] = {{false, false, true}, {true, false, true}, {true, true, true}};
    for (int i = 0; i < 3; i++) {
        const struct sampling how = {.temperature = 1, .top_p = p[i]};
        bool kept[3];
        ref_sample_kept(logits, 3, &how, kept);
        assert_memory_equal(kept, want[i], sizeof kept);
    }
}

static void top_k_keeps_ties(void **state)
{
    (void)state;
    const float logits[6] = {1, 3, 2, 2, 0, 2};
    const struct sampling how = {.temperature = 0.7f, .top_k = 2, .top_p = 1};
    const bool want[6] = {false, true, true, true, false, true};
    bool kept[6];
    ref_sample_kept(logits, 6, &how, kept);
    assert_memory_equal(kept, want, sizeof kept);
}

static void greedy_and_choice(void **state)
{
    (void)state;
    const float logits[4] = {1, 5, 5, 2};
    struct sampling how = {.temperature = 0, .top_p = 1};
    assert_int_equal(ref_sample(logits, 4, &how), 1);
    how.n_choice = 2;
    how.choice[0] = 1, how.choice[1] = 2; /* equal: the earlier one is not strictly greater */
    assert_int_equal(ref_sample(logits, 4, &how), 2);
    how.choice[0] = 3, how.choice[1] = 0;
    assert_int_equal(ref_sample(logits, 4, &how), 3);
}

/* Two keys, one head: softmax(1, 0) over values 10 and 20. */
static void attention_by_hand(void **state)
{
    (void)state;
    const float q[2] = {1.41421356f, 0}, k[4] = {1, 0, 0, 1}, v[4] = {10, 1, 20, 1};
    float out[2];
    struct ref_attention a = {
        .heads = {1, 1, 2, ACT_NONE}, .n_row = 1, .n_key = 2, .q = q, .k = k, .v = v};
    ref_attention(REF_F32, out, &a);
    double p = exp(1) / (exp(1) + 1);
    assert_near(out[0], 10 * p + 20 * (1 - p), 1e-5);
    assert_near(out[1], 1, 1e-6);
    a.causal = true; /* row 0 sees key 0 alone */
    ref_attention(REF_F32, out, &a);
    assert_true(out[0] == 10);
}

/* Heads of spec 2.4: shared keys when Hq > Hk, shared queries when Hq < Hk. */
static void attention_head_mapping(void **state)
{
    (void)state;
    const float q[8] = {0}, k[8] = {0}, v[8] = {1, 1, 2, 2, 3, 3, 4, 4};
    const float gate[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    float out[8];
    struct ref_attention a = {
        .heads = {4, 2, 2, ACT_SIGMOID}, .n_row = 1, .n_key = 1, .q = q, .k = k, .v = v};
    ref_attention(REF_F32, out, &a);
    const float grouped[8] = {1, 1, 1, 1, 2, 2, 2, 2};
    assert_memory_equal(out, grouped, sizeof out);
    a.heads.n_q = 2;
    a.heads.n_kv = 4;
    a.gate = gate;
    ref_attention(REF_F32, out, &a);
    const float reversed[8] = {0.5f, 0.5f, 1, 1, 1.5f, 1.5f, 2, 2};
    assert_memory_equal(out, reversed, sizeof out);
}

/* Head j of reverse SQA takes query head j mod Hq: give the two query heads different answers. */
static void attention_reverse_query_heads(void **state)
{
    (void)state;
    const float q[4] = {100, 0, 0, 100};
    const float k[16] = {1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1};
    const float v[16] = {1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2};
    float out[8];
    const struct ref_attention a = {
        .heads = {2, 4, 2, ACT_NONE}, .n_row = 1, .n_key = 2, .q = q, .k = k, .v = v};
    ref_attention(REF_F32, out, &a);
    const float want[8] = {1, 1, 2, 2, 1, 1, 2, 2};
    for (int i = 0; i < 8; i++)
        assert_near(out[i], want[i], 1e-6);
}

static void bf16_mode_rounds_outputs(void **state)
{
    (void)state;
    const float a[1] = {1}, b[1] = {1.0078125f}, c[1] = {1}; /* bf16 values one step apart */
    const float *const x[3] = {a, b, c};
    float out[1];
    ref_mean(REF_F32, out, x, 3, 1);
    assert_true(out[0] > 1);
    ref_mean(REF_BF16, out, x, 3, 1);
    assert_true(out[0] == 1);
    assert_true(ref_act(REF_BF16, ACT_SIGMOID, 1) == 0.73046875f);
    assert_near(ref_act(REF_F32, ACT_GELU, 1), 0.8413447, 1e-7);
    assert_near(ref_act(REF_F32, ACT_SILU, -2), -0.2384058, 1e-7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rope_example_of_the_spec),
        cmocka_unit_test(rope_rounds_angles_in_bf16),
        cmocka_unit_test(rope_rounds_products_in_bf16),
        cmocka_unit_test(rms_of_memory_norm_example),
        cmocka_unit_test(mix_lets_through_what_the_gate_leaves),
        cmocka_unit_test(classic_norms),
        cmocka_unit_test(gate_example_of_the_spec),
        cmocka_unit_test(top_p_example_of_the_spec),
        cmocka_unit_test(top_k_keeps_ties),
        cmocka_unit_test(greedy_and_choice),
        cmocka_unit_test(attention_by_hand),
        cmocka_unit_test(attention_head_mapping),
        cmocka_unit_test(attention_reverse_query_heads),
        cmocka_unit_test(bf16_mode_rounds_outputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
