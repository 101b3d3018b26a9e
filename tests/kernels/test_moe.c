#include "kernels/backend.h"

#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"
#include "tests/ref/ref.h"

enum { MAX_EXPERTS = 16, DIM = 40 };

/* A mixture of a test: what it is, and its weights while it runs. */
struct mixture {
    int32_t n_expert, top_k, n_shared, width, shared_width;
    bool gated, local_bias, global_bias, router_bf16, weighted;
    float *values; /* what all matrices are cut from */
    struct ff_desc expert[MAX_EXPERTS], shared[MAX_EXPERTS];
    struct moe_desc desc;
    struct weight *moe, *norm;
    struct norm_desc norm_desc;
};

static struct ff_desc ff_of(const struct mixture *m, const float *v, int32_t width)
{
    int32_t inner = m->gated ? 2 * width : width;
    return (struct ff_desc){
        .gated = m->gated,
        .act = ACT_SILU,
        .w1 = matrix_of(v, inner, DIM),
        .w2 = matrix_of(v + inner * DIM, DIM, width),
        .b1 = vector_of(m->local_bias ? v + 7 : NULL, inner),
        .b2 = vector_of(m->local_bias ? v + 11 : NULL, DIM),
    };
}

static void fill(struct mixture *m)
{
    int32_t stride = 3 * DIM * (m->width > m->shared_width ? m->width : m->shared_width);
    m->values = random_values((int64_t)stride * (MAX_EXPERTS + 4), 0.3f, 21);
    const float *v = m->values;
    m->norm_desc =
        (struct norm_desc){.kind = NORM_RMS, .dim = DIM, .weight = vector_of(v + 3, DIM)};
    m->desc = (struct moe_desc){
        .n_expert = m->n_expert,
        .top_k = m->top_k,
        .n_shared = m->n_shared,
        .router = matrix_of(v, m->n_expert, DIM),
        .router_bf16 = m->router_bf16,
        .expert = m->expert,
        .shared = m->shared,
        .shared_gate = matrix_of(m->n_shared > 1 ? v + 100 : NULL, m->n_shared, DIM),
        .global_bias = vector_of(m->global_bias ? v + 200 : NULL, DIM),
        .shared_bias = vector_of(m->global_bias && m->n_shared ? v + 300 : NULL, DIM),
        .weighted_shared = m->weighted,
    };
    for (int32_t i = 0; i < m->n_expert; i++)
        m->expert[i] = ff_of(m, v + (1 + i) * stride, m->width);
    for (int32_t i = 0; i < m->n_shared; i++)
        m->shared[i] = ff_of(m, v + 50 + i * stride, m->shared_width);
}

static void destroy(void *arg, struct backend *be)
{
    struct mixture *m = arg;
    weight_destroy(be, &m->moe);
    weight_destroy(be, &m->norm);
}

static enum rxt_status create(void *arg, struct backend *be, enum dtype storage)
{
    struct mixture *m = arg;
    enum rxt_status st = weight_moe(&m->moe, be, &m->desc, storage);
    if (st == RXT_OK)
        st = weight_norm(&m->norm, be, &m->norm_desc);
    if (st != RXT_OK)
        destroy(m, be);
    return st;
}

static enum rxt_status run(void *arg, struct lane *ln, struct tensor out, struct tensor x)
{
    (void)out;
    const struct mixture *m = arg;
    return op_moe_add(ln, x, m->norm, m->moe);
}

static void ref(void *arg, float *out, const float *x, int n_row)
{
    const struct mixture *m = arg;
    float *h = malloc(sizeof *h * (size_t)n_row * DIM),
          *y = malloc(sizeof *y * (size_t)n_row * DIM);
    assert_true(h && y);
    ref_norm(test_mode(), h, x, n_row, &m->norm_desc);
    ref_moe(test_mode(), y, h, n_row, &m->desc);
    ref_add(test_mode(), out, y, n_row * DIM);
    free(h);
    free(y);
}

static void check(struct mixture m, uint64_t hash)
{
    fill(&m);
    const struct row_op op = {
        .kind = ROW_OP_IN_PLACE,
        .in_cols = DIM,
        .out_cols = DIM,
        .arg = &m,
        .create = create,
        .destroy = destroy,
        .run = run,
        .ref = ref,
        .bound = 2e-6,
        .hash = hash,
    };
    row_op_check(&op);
    free(m.values);
}

static void routed_only(void **state)
{
    (void)state;
    check((struct mixture){.n_expert = 8, .top_k = 2, .width = 24, .gated = true},
          0x35E0F0646E8602EF);
    check((struct mixture){.n_expert = 3, .top_k = 3, .width = 20, .local_bias = true},
          0x7D38F922F1D48C64);
    check((struct mixture){.n_expert = 1, .top_k = 1, .width = 10, .global_bias = true},
          0xEB226E35F20BEF0C);
}

static void with_shared(void **state)
{
    (void)state;
    check((struct mixture){.n_expert = 5,
                           .top_k = 2,
                           .width = 24,
                           .n_shared = 1,
                           .shared_width = 40,
                           .gated = true,
                           .local_bias = true},
          0x70DCA8FB0B1B22EB);
    check((struct mixture){.n_expert = 12,
                           .top_k = 4,
                           .width = 24,
                           .n_shared = 2,
                           .shared_width = 24,
                           .gated = true,
                           .global_bias = true},
          0x266D4F8298465630);
    check((struct mixture){.n_expert = 4,
                           .top_k = 1,
                           .width = 30,
                           .n_shared = 3,
                           .shared_width = 8,
                           .gated = true,
                           .global_bias = true,
                           .weighted = true},
          0x45B2F743F46FD0DE);
}

static void router_in_bf16(void **state)
{
    (void)state;
    check(
        (struct mixture){
            .n_expert = 16, .top_k = 5, .width = 16, .gated = true, .router_bf16 = true},
        0xEFAD1D9E28F20116);
}

/* Two experts with the same router row are equally probable: the lower index is taken. */
static void ties_go_to_the_lower_index(void **state)
{
    (void)state;
    struct mixture m = {.n_expert = 6, .top_k = 1, .width = 8, .gated = true};
    fill(&m);
    float router[6 * DIM], x[DIM], before[DIM], want[DIM];
    for (int e = 0; e < 6; e++)
        for (int i = 0; i < DIM; i++)
            router[e * DIM + i] = e == 2 || e == 4 ? 0.5f : 0.25f;
    m.desc.router.data = router;
    for (int i = 0; i < DIM; i++)
        x[i] = before[i] = 1.0f + (float)i / 64.0f;
    struct setting s;
    assert_true(setting_open(&s, "scalar", 1));
    assert_ok(weight_moe(&m.moe, s.be, &m.desc, DTYPE_F32));
    struct tensor t = guarded(s.be, x, 1, DIM);
    assert_ok(op_moe_add(s.ln, t, NULL, m.moe));
    assert_ok(lane_sync(s.ln));
    guarded_take(s.be, t, x);
    weight_destroy(s.be, &m.moe);
    setting_close(&s);
    ref_ff(test_mode(), want, before, 1, &m.expert[2]);
    ref_add(test_mode(), want, before, DIM);
    assert_like(x, want, DIM, 1e-5);
    free(m.values);
}

static void refuses_shapes(void **state)
{
    (void)state;
    struct mixture m = {.n_expert = 4, .top_k = 2, .width = 8, .n_shared = 2, .shared_width = 8};
    fill(&m);
    struct setting s;
    struct weight *w;
    assert_true(setting_open(&s, "scalar", 1));
    struct moe_desc bad = m.desc;
    bad.top_k = 5;
    assert_status(RXT_ESHAPE, weight_moe(&w, s.be, &bad, DTYPE_F32));
    bad = m.desc;
    bad.top_k = 0;
    assert_status(RXT_ESHAPE, weight_moe(&w, s.be, &bad, DTYPE_F32));
    bad = m.desc;
    bad.router.rows = 3;
    assert_status(RXT_ESHAPE, weight_moe(&w, s.be, &bad, DTYPE_F32));
    bad = m.desc;
    bad.shared_gate.data = NULL;
    assert_status(RXT_ESHAPE, weight_moe(&w, s.be, &bad, DTYPE_F32));
    bad = m.desc;
    bad.global_bias = vector_of(m.values, DIM - 1);
    assert_status(RXT_ESHAPE, weight_moe(&w, s.be, &bad, DTYPE_F32));
    m.expert[3].gated = true;
    assert_status(RXT_ESHAPE, weight_moe(&w, s.be, &m.desc, DTYPE_F32));
    m.expert[3] = m.expert[2];
    m.expert[3].w1.cols = DIM - 1;
    assert_status(RXT_ESHAPE, weight_moe(&w, s.be, &m.desc, DTYPE_F32));
    assert_null(w);
    m.expert[3] = m.expert[2];

    assert_ok(weight_moe(&w, s.be, &m.desc, DTYPE_F32));
    float x[2 * DIM] = {0};
    assert_status(RXT_ESHAPE,
                  op_moe_add(s.ln, (struct tensor){x, DTYPE_F32, 2, DIM - 1, DIM}, NULL, w));
    const struct lane_limits small = {.max_rows = 2,
                                      .max_seq = 1,
                                      .max_keys = 1,
                                      .max_width = DIM,
                                      .max_expert = 4,
                                      .max_active = 3};
    struct lane *ln;
    assert_ok(lane_create(&ln, s.be, LANE_ANSWER, &small)); /* 2 + 2 experts a token */
    assert_status(RXT_ESHAPE, op_moe_add(ln, (struct tensor){x, DTYPE_F32, 2, DIM, DIM}, NULL, w));
    for (int i = 0; i < 2 * DIM; i++)
        assert_true(x[i] == 0);
    lane_destroy(&ln);
    weight_destroy(s.be, &w);
    setting_close(&s);
    free(m.values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routed_only),
        cmocka_unit_test(with_shared),
        cmocka_unit_test(router_in_bf16),
        cmocka_unit_test(ties_go_to_the_lower_index),
    };
    /* of the fronts, which are the same for every backend, and of the CPU's recorded bits */
    const struct CMUnitTest once[] = {
        cmocka_unit_test(refuses_shapes),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (!test_on_cuda())
        failed += cmocka_run_group_tests(once, NULL, NULL);
    return failed;
}
