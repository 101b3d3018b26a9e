#include "tests/kernels/step_rig.h"

#include "tests/lib/test.h"

static const struct heads heads = {N_Q, N_KV, HD, ACT_NONE};

float *numbers(int64_t n, uint64_t stream)
{
    return random_values(n, 0.5f, stream);
}

struct weight *linear_of(struct backend *be, int32_t rows, int32_t cols, uint64_t stream)
{
    struct weight *w;
    float *v = numbers((int64_t)rows * cols, stream);
    const struct host_matrix m = matrix_of(v, rows, cols);
    assert_ok(weight_linear(&w, be, &m, NULL, 1, test_dtype()));
    free(v);
    return w;
}

static struct weight *moe_of(struct backend *be)
{
    struct ff_desc expert[N_EXPERT + 1];
    float *router = numbers(N_EXPERT * D, 20), *v[N_EXPERT + 1];
    struct weight *w;
    for (int i = 0; i <= N_EXPERT; i++) {
        v[i] = numbers(3 * F * D, 21 + (uint64_t)i);
        expert[i] = (struct ff_desc){.gated = true,
                                     .act = ACT_SILU,
                                     .w1 = matrix_of(v[i], 2 * F, D),
                                     .w2 = matrix_of(v[i] + 2 * F * D, D, F)};
    }
    const struct moe_desc d = {.n_expert = N_EXPERT,
                               .top_k = 2,
                               .n_shared = 1,
                               .router = matrix_of(router, N_EXPERT, D),
                               .expert = expert,
                               .shared = expert + N_EXPERT};
    assert_ok(weight_moe(&w, be, &d, test_dtype()));
    for (int i = 0; i <= N_EXPERT; i++)
        free(v[i]);
    free(router);
    return w;
}

/* K and V of four different memories. */
static void fill_memories(struct layer *l)
{
    struct weight *w = linear_of(l->s.be, 2 * N_KV * HD, D, 30);
    const struct mem_kv_config cfg = {1, N_KV, HD, S};
    for (int i = 0; i < N_SEQ; i++) {
        float *v = numbers(S * D, 31 + (uint64_t)i);
        struct tensor stm = {to_backend(l->s.be, v, S * D * sizeof *v), DTYPE_F32, S, D, D};
        assert_ok(mem_kv_create(&l->mem[i], l->s.be, &cfg));
        assert_ok(op_mem_kv(l->s.ln, l->mem[i], 0, stm, NULL, w));
        backend_free(l->s.be, stm.data);
        free(v);
    }
    weight_destroy(l->s.be, &w);
}

void layer_open(struct layer *l)
{
    static const struct lane_limits limits = {.max_rows = S,
                                              .max_seq = 64,
                                              .max_keys = TOKENS,
                                              .max_width = 2 * F,
                                              .max_vocab = V,
                                              .max_expert = N_EXPERT,
                                              .max_active = 3};
    assert_true(setting_open_way(&l->s, 0));
    lane_destroy(&l->s.ln);
    assert_ok(lane_create(&l->s.ln, l->s.be, LANE_ANSWER, &limits));
    struct backend *be = l->s.be;
    float *angle = angles_of(HD), *table = numbers(V * D, 1), *ones = numbers(D, 2);
    const struct host_matrix m = matrix_of(table, V, D);
    const struct norm_desc norm = {.kind = NORM_RMS, .dim = D, .weight = vector_of(ones, D)};
    assert_ok(weight_table(&l->table, be, &m));
    assert_ok(weight_norm(&l->norm, be, &norm));
    l->rope = rope_of(be, angle, HD);
    l->qkv = linear_of(be, QKV, D, 3);
    l->out = linear_of(be, D, N_Q * HD, 4);
    l->q = linear_of(be, N_Q * HD, D, 5);
    l->moe = moe_of(be);
    l->head = linear_of(be, V, D, 6);
    const struct kv_config kv = {1, N_KV, HD, TOKENS};
    for (int i = 0; i < N_SEQ; i++)
        assert_ok(kv_create(&l->kv[i], be, &kv));
    fill_memories(l);
    l->x = backend_alloc(be, ROWS * D * sizeof(float));
    l->projected = backend_alloc(be, ROWS * QKV * sizeof(float));
    l->context = backend_alloc(be, ROWS * N_Q * HD * sizeof(float));
    l->logits = backend_alloc(be, N_SEQ * V * sizeof(float));
    assert_true(l->x && l->projected && l->context && l->logits);
    free(angle);
    free(table);
    free(ones);
}

void layer_close(struct layer *l)
{
    struct backend *be = l->s.be;
    struct weight **w[] = {&l->table, &l->rope, &l->norm, &l->qkv,
                           &l->out,   &l->q,    &l->moe,  &l->head};
    for (size_t i = 0; i < sizeof w / sizeof *w; i++)
        weight_destroy(be, w[i]);
    for (int i = 0; i < N_SEQ; i++) {
        kv_destroy(be, &l->kv[i]);
        mem_kv_destroy(be, &l->mem[i]);
    }
    backend_free(be, l->x);
    backend_free(be, l->projected);
    backend_free(be, l->context);
    backend_free(be, l->logits);
    setting_close(&l->s);
}

struct tensor view(void *data, int32_t rows, int32_t cols)
{
    return (struct tensor){data, test_dtype(), rows, cols, cols};
}

enum rxt_status run(struct layer *l, const struct call *c)
{
    int32_t offset[N_SEQ + 1] = {0}, start[N_SEQ], last[N_SEQ];
    struct kv *kv[N_SEQ];
    const struct mem_kv *mem[N_SEQ];
    for (int i = 0; i < c->n_seq; i++) {
        offset[i + 1] = offset[i] + c->n[i];
        last[i] = offset[i + 1] - 1;
        start[i] = c->start[i];
        kv[i] = l->kv[c->place[i]];
        mem[i] = l->mem[c->place[i]];
    }
    struct lane *ln = l->s.ln;
    struct ragged rows = {c->n_seq, offset, start};
    int32_t n = offset[c->n_seq];
    struct tensor x = view(l->x, n, D), qkv = view(l->projected, n, QKV);
    struct tensor context = view(l->context, n, N_Q * HD), q = view(l->projected, n, N_Q * HD);
    struct tensor logits = {l->logits, DTYPE_F32, c->n_seq, V, V};
    TRY(op_embed(ln, x, l->table, c->id));
    TRY(op_linear(ln, qkv, x, l->norm, l->qkv));
    TRY(op_self_attention(
        ln,
        &(struct self_attention){
            .out = context, .qkv = qkv, .heads = heads, .rope = l->rope, .rows = rows, .kv = kv}));
    TRY(op_linear_add(ln, x, context, l->out));
    TRY(op_linear(ln, q, x, l->norm, l->q));
    TRY(op_cross_attention(
        ln,
        &(struct cross_attention){
            .out = context, .q = q, .heads = heads, .rope = l->rope, .rows = rows, .mem = mem}));
    TRY(op_linear_add(ln, x, context, l->out));
    TRY(op_moe_add(ln, x, l->norm, l->moe));
    return op_head(ln, logits, x, last, l->norm, l->head);
}

/* Leaves something else on the stack, as other callers would. */
static void __attribute__((noinline)) dirty_stack(int byte)
{
    volatile char a[16384];
    for (size_t i = 0; i < sizeof a; i++)
        a[i] = (char)byte;
}

enum rxt_status run_step(struct layer *l, const struct call *c)
{
    static int byte;
    dirty_stack(byte += 37);
    lane_step_begin(l->s.ln);
    enum rxt_status st = run(l, c);
    enum rxt_status ended = lane_step_end(l->s.ln);
    return st == RXT_OK ? ended : st;
}

void logits_of(struct layer *l, const struct call *c, float *out)
{
    assert_ok(lane_download(l->s.ln, out, l->logits, (size_t)c->n_seq * V * sizeof *out));
}

void assert_steps(const struct count *before, uint64_t steps, uint64_t replayed)
{
    struct count now = count_read();
    assert_int_equal(now.steps - before->steps, steps);
    assert_int_equal(now.replayed - before->replayed, replayed);
}

void check_call(struct layer *step, struct layer *plain, const struct call *c)
{
    float a[N_SEQ * V], b[N_SEQ * V];
    assert_ok(run_step(step, c));
    logits_of(step, c, a);
    assert_ok(run(plain, c));
    logits_of(plain, c, b);
    for (int i = 0; i < c->n_seq; i++)
        assert_same_bits(a + (size_t)i * V, b + (size_t)i * V, V, "sequence", i);
}

struct call call_of(int r, int n_seq, int n, const int start[N_SEQ])
{
    struct call c = {.n_seq = n_seq};
    for (int i = 0; i < n_seq; i++) {
        c.place[i] = (i + r) % N_SEQ; /* sequences stand elsewhere in every round */
        c.n[i] = n;
        c.start[i] = start[c.place[i]];
    }
    for (int i = 0; i < n_seq * n; i++)
        c.id[i] = (r * 7 + i * 3) % V;
    return c;
}

/* ---- branches ---- */

struct lane *branches_open(struct layer *l, int32_t max_branch)
{
    const struct lane_limits limits = {
        .max_rows = S, .max_seq = 1, .max_keys = 8, .max_width = 2 * F, .max_branch = max_branch};
    struct lane *ln;
    assert_ok(lane_create(&ln, l->s.be, LANE_MEMORY, &limits));
    backend_free(l->s.be, l->x);
    l->x = backend_alloc(l->s.be, sizeof(float) * BRANCHES * ROWS * D);
    backend_free(l->s.be, l->projected);
    l->projected = backend_alloc(l->s.be, sizeof(float) * BRANCHES * ROWS * QKV);
    assert_true(l->x && l->projected);
    return ln;
}
/* What branch i makes of its ids: a linear and a norm with scratch of its own, in x[i], twice. */
static void put_chain(struct layer *l, struct lane *ln, const struct tensor *x, struct tensor y,
                      const int32_t *id)
{
    assert_ok(op_embed(ln, *x, l->table, id));
    for (int k = 0; k < 2; k++) {
        assert_ok(op_linear(ln, y, *x, l->norm, l->qkv));
        assert_ok(op_linear_add(ln, *x, tensor_cols(y, 0, N_Q * HD), l->out));
    }
}

void branched(struct layer *l, struct lane *ln, int shift, float *out)
{
    bool many = lane_branches(ln) > 1;
    size_t value = dtype_bytes(test_dtype()), row = D * value;
    char *all = l->x, *wide = l->projected;
    struct tensor x[BRANCHES], sum = view(l->context, ROWS, D);
    int32_t id[BRANCHES][ROWS];
    lane_step_begin(ln);
    for (int i = 0; i < BRANCHES; i++) {
        for (int r = 0; r < ROWS; r++)
            id[i][r] = (r + i * 5 + shift) % V;
        x[i] = view(all + (size_t)i * ROWS * row, ROWS, D);
        if (many)
            lane_branch(ln, 1 + i, 1 + i);
        put_chain(l, ln, &x[i], view(wide + (size_t)i * ROWS * QKV * value, ROWS, QKV), id[i]);
    }
    for (int i = 0; many && i < BRANCHES; i++)
        lane_branch(ln, 0, 1 + i);
    assert_ok(op_mean(ln, sum, x, BRANCHES));
    for (int i = 0; i < BRANCHES; i++) {
        struct tensor y = view(wide + (size_t)i * ROWS * QKV * value, ROWS, QKV);
        if (many)
            lane_branch(ln, 1 + i, 0);
        assert_ok(op_linear(ln, y, sum, l->norm, l->qkv));
        assert_ok(op_linear_add(ln, x[i], tensor_cols(y, 0, N_Q * HD), l->out));
    }
    for (int i = 0; many && i < BRANCHES; i++)
        lane_branch(ln, 0, 1 + i);
    assert_ok(op_mean(ln, sum, x, BRANCHES));
    assert_ok(lane_step_end(ln));
    char raw[ROWS * D * sizeof(float)];
    assert_ok(lane_download(ln, raw, sum.data, ROWS * row));
    for (size_t i = 0; i < (size_t)ROWS * D; i++)
        out[i] = dtype_value(raw, test_dtype(), i);
}
