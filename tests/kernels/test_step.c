/* Steps of a lane: the same bits as their ops one by one, replayed where they repeat, whatever
 * ids, positions, K/V and memories they have; limits and faults. */
#include "kernels/backend.h"

#include "kernels/base/count.h"
#include "kernels/base/mem.h"
#include "kernels/cuda/replay_impl.h"
#include "tests/emulator/emulator.h"
#include "tests/kernels/attention.h"
#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"

/* Not there on a card. */
__attribute__((weak)) void emulator_fail(enum emulated_fault fault);
__attribute__((weak)) struct emulated_counts emulator_counts(void);
__attribute__((weak)) void emulator_backwards(bool backwards);

/* ---- a layer between embedding and head ---- */

enum { V = 20, D = 32, F = 40, HD = 16, N_Q = 2, N_KV = 1, S = 70, N_SEQ = 4, N_EXPERT = 6 };
enum { QKV = (N_Q + 2 * N_KV) * HD, ROWS = 24, TOKENS = 200 };

static const struct heads heads = {N_Q, N_KV, HD, ACT_NONE};

struct layer {
    struct setting s;
    struct weight *table, *rope, *norm, *qkv, *out, *q, *moe, *head;
    struct kv *kv[N_SEQ];
    struct mem_kv *mem[N_SEQ];
    void *x, *projected, *context, *logits;
};

/* Rows of a call: of each sequence in turn `n` more tokens. */
struct call {
    int n_seq, n[N_SEQ], start[N_SEQ], place[N_SEQ]; /* place: of K/V and memory */
    int32_t id[ROWS];
};

static float *numbers(int64_t n, uint64_t stream)
{
    return random_values(n, 0.5f, stream);
}

static struct weight *linear_of(struct backend *be, int32_t rows, int32_t cols, uint64_t stream)
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

static void layer_open(struct layer *l)
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

static void layer_close(struct layer *l)
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

static struct tensor view(void *data, int32_t rows, int32_t cols)
{
    return (struct tensor){data, test_dtype(), rows, cols, cols};
}

/* The ops of a call; the last row of each sequence gets logits. */
static enum rxt_status run(struct layer *l, const struct call *c)
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

static enum rxt_status run_step(struct layer *l, const struct call *c)
{
    static int byte;
    dirty_stack(byte += 37);
    lane_step_begin(l->s.ln);
    enum rxt_status st = run(l, c);
    enum rxt_status ended = lane_step_end(l->s.ln);
    return st == RXT_OK ? ended : st;
}

static void logits_of(struct layer *l, const struct call *c, float *out)
{
    assert_ok(lane_download(l->s.ln, out, l->logits, (size_t)c->n_seq * V * sizeof *out));
}

static void assert_steps(const struct count *before, uint64_t steps, uint64_t replayed)
{
    struct count now = count_read();
    assert_int_equal(now.steps - before->steps, steps);
    assert_int_equal(now.replayed - before->replayed, replayed);
}

/* Runs the call as a step of one layer and op by op on the other. */
static void check_call(struct layer *step, struct layer *plain, const struct call *c)
{
    float a[N_SEQ * V], b[N_SEQ * V];
    assert_ok(run_step(step, c));
    logits_of(step, c, a);
    assert_ok(run(plain, c));
    logits_of(plain, c, b);
    for (int i = 0; i < c->n_seq; i++)
        assert_same_bits(a + (size_t)i * V, b + (size_t)i * V, V, "sequence", i);
}

/* The tokens of round r; every sequence has `n` of them behind its `start`. */
static struct call call_of(int r, int n_seq, int n, const int start[N_SEQ])
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

/* Decode after decode: made a graph of at the second time, replayed from the third on. */
static void decode_steps_are_replayed(void **state)
{
    (void)state;
    struct layer step, plain;
    layer_open(&step);
    layer_open(&plain);
    int start[N_SEQ] = {3, 0, 11, 5};
    struct count before = count_read();
    for (int r = 0; r < 12; r++) {
        struct call c = call_of(r, 3, 1, start);
        check_call(&step, &plain, &c);
        for (int i = 0; i < 3; i++)
            start[c.place[i]]++;
        assert_steps(&before, (uint64_t)r + 1, r < 2 ? 0 : (uint64_t)r - 1);
    }
    layer_close(&step);
    layer_close(&plain);
}

/* A step of more launches than the device should wait for: each part is replayed. */
static void a_long_step_has_parts(void **state)
{
    (void)state;
    enum { LAYERS = 8, ROUNDS = 4 }; /* about 12 launches each */
    struct layer step, plain;
    layer_open(&step);
    layer_open(&plain);
    int start[N_SEQ] = {3, 0, 11, 5};
    struct count before = count_read();
    for (int r = 0; r < ROUNDS; r++) {
        float a[N_SEQ * V], b[N_SEQ * V];
        struct call c = {0};
        lane_step_begin(step.s.ln);
        for (int i = 0; i < LAYERS; i++) {
            c = call_of(i, 3, 1, start);
            assert_ok(run(&step, &c));
            assert_ok(run(&plain, &c));
            for (int k = 0; k < 3; k++)
                start[c.place[k]]++;
        }
        assert_ok(lane_step_end(step.s.ln));
        logits_of(&step, &c, a);
        logits_of(&plain, &c, b);
        for (int i = 0; i < c.n_seq; i++)
            assert_same_bits(a + (size_t)i * V, b + (size_t)i * V, V, "sequence", i);
    }
    assert_steps(&before, 2 * ROUNDS, 2 * (ROUNDS - 2));
    layer_close(&step);
    layer_close(&plain);
}

/* One, two, three, four sequences, one token and several: each is its own graph. */
static void every_shape_has_a_graph(void **state)
{
    (void)state;
    struct layer step, plain;
    layer_open(&step);
    layer_open(&plain);
    int start[N_SEQ] = {0};
    struct count before = count_read();
    for (int r = 0; r < 4; r++)
        for (int n_seq = 1; n_seq <= N_SEQ; n_seq++)
            for (int n = 1; n <= 5; n += 2) {
                struct call c = call_of(r, n_seq, n, start);
                check_call(&step, &plain, &c);
                for (int i = 0; i < n_seq; i++)
                    start[c.place[i]] = (start[c.place[i]] + n) % 50;
            }
    assert_steps(&before, 4 * 4 * 3, 2 * 4 * 3);
    layer_close(&step);
    layer_close(&plain);
}

/* Steps that nobody waits for: each has its own arguments all the same. */
static void steps_follow_each_other(void **state)
{
    (void)state;
    enum { N = 20 };
    struct layer l;
    layer_open(&l);
    float *table = numbers(V * D, 1);
    float all[N * ROWS * D];
    char *out = backend_alloc(l.s.be, sizeof all);
    assert_non_null(out);
    struct count before = count_read();
    for (int i = 0; i < N; i++) {
        int32_t id[ROWS];
        for (int r = 0; r < ROWS; r++)
            id[r] = (i * 3 + r) % V;
        struct tensor to = {out + (size_t)i * ROWS * D * sizeof(float), DTYPE_F32, ROWS, D, D};
        lane_step_begin(l.s.ln);
        assert_ok(op_embed(l.s.ln, view(l.x, ROWS, D), l.table, id));
        assert_ok(op_convert(l.s.ln, to, view(l.x, ROWS, D)));
        assert_ok(lane_step_end(l.s.ln));
    }
    assert_steps(&before, N, N - 2);
    assert_ok(lane_download(l.s.ln, all, out, sizeof all));
    for (int i = 0; i < N; i++)
        for (int r = 0; r < ROWS; r++)
            for (int d = 0; d < D; d++)
                assert_true(all[(i * ROWS + r) * D + d] == table[(i * 3 + r) % V * D + d]);
    free(table);
    backend_free(l.s.be, out);
    layer_close(&l);
}

/* The K/V of a memory: replayed wherever the memory lies and the K/V go. */
static void memories_may_lie_elsewhere(void **state)
{
    (void)state;
    struct layer step, plain;
    layer_open(&step);
    layer_open(&plain);
    struct layer *l[2] = {&step, &plain};
    struct weight *w[2];
    struct count before = count_read();
    uint64_t steps = 0;
    for (int k = 0; k < 2; k++)
        w[k] = linear_of(l[k]->s.be, 2 * N_KV * HD, D, 40);
    for (int i = 0; i < N_SEQ; i++) {
        float *v = numbers(S * D, 50 + (uint64_t)i);
        bool finite[2] = {false, false};
        v[7] = i % 2 ? INFINITY : v[7];
        for (int k = 0; k < 2; k++) {
            struct lane *ln = l[k]->s.ln;
            struct tensor stm = {to_backend(l[k]->s.be, v, S * D * sizeof *v), DTYPE_F32, S, D, D};
            if (k == 0)
                lane_step_begin(ln);
            assert_ok(op_finite(ln, &finite[k], stm));
            assert_ok(op_mem_kv(ln, l[k]->mem[i], 0, stm, l[k]->norm, w[k]));
            if (k == 0)
                assert_ok(lane_step_end(ln));
            assert_ok(lane_sync(ln));
            assert_int_equal(finite[k], i % 2 == 0);
            backend_free(l[k]->s.be, stm.data);
        }
        free(v);
        assert_steps(&before, ++steps, i < 2 ? 0 : (uint64_t)i - 1);
    }
    const int start[N_SEQ] = {0};
    struct call c = call_of(0, N_SEQ, 1, start);
    check_call(&step, &plain, &c);
    for (int k = 0; k < 2; k++)
        weight_destroy(l[k]->s.be, &w[k]);
    layer_close(&step);
    layer_close(&plain);
}

/* Waiting and copies between the ops of a step see what came before, and what follows goes on. */
static void a_step_may_wait(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    const int32_t id[2] = {7, 9};
    struct tensor x = view(l.x, 2, D), y = view(l.context, 2, D);
    float *table = numbers(V * D, 1), *got = malloc(2 * D * sizeof *got);
    char raw[2 * D * sizeof(float)];
    assert_non_null(got);
    size_t bytes = 2 * D * dtype_bytes(test_dtype());
    struct count before = count_read();
    for (int r = 0; r < 4; r++) {
        bool finite = false;
        lane_step_begin(l.s.ln);
        assert_ok(op_embed(l.s.ln, x, l.table, id));
        assert_ok(lane_copy(l.s.ln, y.data, x.data, bytes));
        assert_ok(op_finite(l.s.ln, &finite, y));
        assert_ok(lane_sync(l.s.ln));
        assert_true(finite);
        assert_ok(op_linear_add(l.s.ln, x, y, l.out));
        assert_ok(lane_download(l.s.ln, raw, y.data, bytes));
        assert_ok(lane_step_end(l.s.ln));
        for (size_t i = 0; i < 2 * D; i++)
            assert_true(dtype_value(raw, test_dtype(), i) == table[(size_t)id[i / D] * D + i % D]);
    }
    assert_steps(&before, 4 * 3, 2 * 3); /* cut in three, nothing behind the last */
    free(table);
    free(got);
    layer_close(&l);
}

enum { BRANCHES = 4 };

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

/* Chains on branches, met on branch 0 by a mean, gone on with from there on all of them, and what
 * the lot comes to: of a lane with branches, and of one without, where it is all in one order. */
static void branched(struct layer *l, struct lane *ln, int shift, float *out)
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

/* Side by side or one after the other: the same bits, also where the graph may take the branches in
 * another order than they were put. */
static void branches_are_the_same_bits(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    struct lane_limits limits = {
        .max_rows = S, .max_seq = 1, .max_keys = 8, .max_width = 2 * F, .max_branch = BRANCHES + 1};
    struct lane *many, *one;
    assert_ok(lane_create(&many, l.s.be, LANE_MEMORY, &limits));
    limits.max_branch = 1;
    assert_ok(lane_create(&one, l.s.be, LANE_MEMORY, &limits));
    assert_int_equal(lane_branches(one), 1);
    backend_free(l.s.be, l.x);
    l.x = backend_alloc(l.s.be, sizeof(float) * BRANCHES * ROWS * D);
    backend_free(l.s.be, l.projected);
    l.projected = backend_alloc(l.s.be, sizeof(float) * BRANCHES * ROWS * QKV);
    assert_true(l.x && l.projected);
    for (int r = 0; r < 8; r++) {
        float a[ROWS * D], b[ROWS * D];
        if (emulator_backwards)
            emulator_backwards(r % 2);
        branched(&l, many, r, a);
        branched(&l, one, r, b);
        for (int i = 0; i < ROWS; i++)
            assert_same_bits(a + (size_t)i * D, b + (size_t)i * D, D, "row", i);
    }
    limits.max_branch = 17;
    struct lane *refused;
    assert_status(RXT_ESHAPE, lane_create(&refused, l.s.be, LANE_MEMORY, &limits));
    lane_destroy(&many);
    lane_destroy(&one);
    layer_close(&l);
}

/* Kernels that ran in a partition; on a card nobody knows. */
static uint64_t n_aside(void)
{
    return emulator_counts ? emulator_counts().aside : 0;
}

/* An op of an answer, which gives the lane something to do. */
static void answer(struct layer *l)
{
    const int32_t id[1] = {1};
    uint64_t before = n_aside();
    assert_ok(op_embed(l->s.ln, view(l->context, 1, D), l->table, id));
    assert_int_equal(n_aside(), before);
}

static void update(struct layer *l, struct lane *memory, int shift, float *out, bool aside)
{
    uint64_t before = n_aside();
    branched(l, memory, shift, out);
    if (emulator_counts)
        assert_int_equal(n_aside() > before, aside);
}

/* A memory lane leaves most of the card while an answer lane has something to do, unless that gives
 * way for longer than it took. Wherever a step runs, launch by launch or as a graph: the same bits.
 */
static void updates_stand_aside(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    struct lane_limits limits = {
        .max_rows = S, .max_seq = 1, .max_keys = 8, .max_width = 2 * F, .max_branch = BRANCHES + 1};
    struct lane *memory;
    assert_ok(lane_create(&memory, l.s.be, LANE_MEMORY, &limits));
    backend_free(l.s.be, l.x);
    l.x = backend_alloc(l.s.be, sizeof(float) * BRANCHES * ROWS * D);
    backend_free(l.s.be, l.projected);
    l.projected = backend_alloc(l.s.be, sizeof(float) * BRANCHES * ROWS * QKV);
    assert_true(l.x && l.projected);
    lane_give_way(l.s.ln, 0);
    for (int r = 0; r < 4; r++) {
        float alone[ROWS * D], beside[ROWS * D], first[ROWS * D];
        lane_rest(l.s.ln);
        update(&l, memory, r, alone, false);
        answer(&l);
        update(&l, memory, r, beside, true);
        lane_give_way(l.s.ln, UINT32_MAX);
        update(&l, memory, r, first, false);
        lane_give_way(l.s.ln, 0);
        update(&l, memory, r, beside, true);
        for (int i = 0; i < ROWS; i++) {
            assert_same_bits(beside + (size_t)i * D, alone + (size_t)i * D, D, "row", i);
            assert_same_bits(first + (size_t)i * D, alone + (size_t)i * D, D, "row", i);
        }
    }
    lane_destroy(&l.s.ln); /* with something to do */
    l.s.ln = memory;
    float out[ROWS * D];
    update(&l, memory, 0, out, false);
    layer_close(&l);
}

/* A step of a shape that has a graph for the whole card is one at once where it stands aside. */
static void both_places_have_graphs(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    const struct lane_limits limits = {
        .max_rows = S, .max_seq = 1, .max_keys = 8, .max_width = 2 * F};
    struct lane *memory;
    assert_ok(lane_create(&memory, l.s.be, LANE_MEMORY, &limits));
    lane_rest(l.s.ln);
    struct emulated_counts before = emulator_counts();
    for (int r = 0; r < 10; r++) {
        if (r == 5)
            answer(&l);
        lane_step_begin(memory);
        assert_ok(op_convert(memory, view(l.x, 1, D), view(l.projected, 1, D)));
        assert_ok(lane_step_end(memory));
    }
    struct emulated_counts now = emulator_counts();
    assert_int_equal(now.n_graph - before.n_graph, 2);
    assert_int_equal(now.graphs - before.graphs, 9);
    assert_int_equal(now.aside - before.aside, 5);
    lane_destroy(&memory);
    layer_close(&l);
}

/* N embeddings of ids that only the last of them decides; how many steps they became. */
static uint64_t long_step(struct layer *l, struct lane *ln, int shift, const float *table)
{
    enum { N = 4500 };
    struct tensor x = view(l->x, ROWS, D), y = {l->projected, DTYPE_F32, ROWS, D, D};
    float got[ROWS * D];
    int32_t id[ROWS];
    uint64_t before = count_read().steps;
    lane_step_begin(ln);
    for (int i = 0; i < N; i++) {
        for (int r = 0; r < ROWS; r++)
            id[r] = (i + r + shift) % V;
        assert_ok(op_embed(ln, tensor_rows(x, 0, i < N - 1 ? 1 + i % 3 : ROWS), l->table, id));
    }
    assert_ok(op_convert(ln, y, x));
    assert_ok(lane_step_end(ln));
    assert_ok(lane_download(ln, got, y.data, sizeof got));
    for (int r = 0; r < ROWS; r++)
        for (int d = 0; d < D; d++)
            assert_true(got[r * D + d] == table[(N - 1 + r + shift) % V * D + d]);
    return count_read().steps - before;
}

/* More launches than a list holds, on a small lane more arguments: cut, and each part replayed. */
static void a_long_step_is_cut(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    const struct lane_limits small = {
        .max_rows = ROWS, .max_seq = 1, .max_keys = 8, .max_width = D, .max_vocab = V};
    struct lane *narrow;
    assert_ok(lane_create(&narrow, l.s.be, LANE_ANSWER, &small));
    float *table = numbers(V * D, 1);
    uint64_t by_list = long_step(&l, l.s.ln, 0, table), by_args = long_step(&l, narrow, 0, table);
    assert_true(by_list > 1 && by_args > by_list);
    for (int i = 1; i < 3; i++) {
        uint64_t replayed = count_read().replayed;
        assert_int_equal(long_step(&l, l.s.ln, i, table), by_list);
        assert_int_equal(long_step(&l, narrow, i, table), by_args);
        if (i == 2)
            assert_int_equal(count_read().replayed - replayed, by_list + by_args);
    }
    free(table);
    lane_destroy(&narrow);
    layer_close(&l);
}

/* A step that ends with its lane, and steps without ops. */
static void open_and_empty_steps(void **state)
{
    (void)state;
    uint64_t live = mem_stats().live_bytes;
    struct layer l;
    layer_open(&l);
    struct count before = count_read();
    lane_step_begin(l.s.ln);
    assert_ok(lane_step_end(l.s.ln));
    assert_steps(&before, 0, 0);
    const int32_t id[1] = {1};
    lane_step_begin(l.s.ln);
    assert_ok(op_embed(l.s.ln, view(l.x, 1, D), l.table, id));
    lane_destroy(&l.s.ln);
    assert_steps(&before, 0, 0);
    layer_close(&l);
    assert_int_equal(mem_stats().live_bytes, live);
}

/* ---- on the emulator: graphs counted, faults on purpose ---- */

static struct call some_call(void)
{
    const int start[N_SEQ] = {1, 2, 3, 4};
    return call_of(1, 2, 1, start);
}

static void a_replay_starts_no_kernel(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    struct call c = some_call();
    struct emulated_counts before = emulator_counts();
    assert_ok(run_step(&l, &c));
    struct emulated_counts once = emulator_counts();
    assert_true(once.kernels > before.kernels + 10 && once.graphs == before.graphs);
    for (int i = 1; i < 5; i++) {
        assert_ok(run_step(&l, &c));
        struct emulated_counts now = emulator_counts();
        assert_int_equal(now.kernels, once.kernels);
        assert_int_equal(now.graphs - once.graphs, i);
        assert_int_equal(now.n_graph - before.n_graph, 1);
    }
    layer_close(&l);
    assert_int_equal(emulator_counts().n_graph, before.n_graph);
}

static void graphs_are_limited(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l);
    int before = emulator_counts().n_graph;
    for (int rows = 1; rows <= ROWS; rows++)
        for (int cols = 1; cols <= 12; cols++)
            for (int i = 0; i < 2; i++) {
                lane_step_begin(l.s.ln);
                assert_ok(op_convert(l.s.ln, view(l.context, rows, cols), view(l.x, rows, cols)));
                assert_ok(lane_step_end(l.s.ln));
            }
    assert_int_equal(emulator_counts().n_graph - before, REPLAY_GRAPHS);
    layer_close(&l);
    assert_int_equal(emulator_counts().n_graph, before);
}

/* There is no memory for a graph: the step runs all the same, and has one once there is some and it
 * has come twice again. */
static void steps_go_without_a_graph(void **state)
{
    (void)state;
    struct layer step, plain;
    layer_open(&step);
    layer_open(&plain);
    struct call c = some_call();
    int before = emulator_counts().n_graph;
    emulator_fail(EMULATED_NO_GRAPH);
    for (int i = 0; i < 4; i++)
        check_call(&step, &plain, &c);
    emulator_fail(EMULATED_WORKS);
    check_call(&step, &plain, &c);
    assert_int_equal(emulator_counts().n_graph, before);
    check_call(&step, &plain, &c);
    assert_int_equal(emulator_counts().n_graph, before + 1);
    layer_close(&step);
    layer_close(&plain);
}

/* A driver without partitions: all is on the whole card, and the backend says so. */
static void a_driver_may_have_no_partitions(void **state)
{
    (void)state;
    for (int there = 0; there < 2; there++) {
        const struct lane_limits limits = {
            .max_rows = S, .max_seq = 1, .max_keys = 8, .max_width = 2 * F};
        struct layer l;
        struct lane *memory;
        emulator_fail(there ? EMULATED_WORKS : EMULATED_NO_PARTITION);
        layer_open(&l);
        assert_ok(lane_create(&memory, l.s.be, LANE_MEMORY, &limits));
        assert_non_null(strstr(backend_describe(l.s.be),
                               there ? "beside answers on 32 SMs" : "beside answers on all SMs"));
        answer(&l);
        uint64_t before = n_aside();
        assert_ok(op_convert(memory, view(l.x, 1, D), view(l.projected, 1, D)));
        assert_int_equal(n_aside() - before, there);
        lane_destroy(&memory);
        layer_close(&l);
    }
    emulator_fail(EMULATED_WORKS);
}

/* After a fault every call fails; all can still be destroyed and nothing is left behind. */
static void check_fault(enum emulated_fault fault, int good_steps)
{
    uint64_t live = mem_stats().live_bytes;
    int graphs = emulator_counts().n_graph;
    struct layer l;
    layer_open(&l);
    struct call c = some_call();
    for (int i = 0; i < good_steps; i++)
        assert_ok(run_step(&l, &c));
    emulator_fail(fault);
    if (fault == EMULATED_WAIT)
        assert_ok(run_step(&l, &c));
    else
        assert_status(RXT_EDEVICE, run_step(&l, &c));
    assert_status(RXT_EDEVICE, lane_sync(l.s.ln));
    emulator_fail(EMULATED_WORKS);
    assert_status(RXT_EDEVICE, run_step(&l, &c));
    assert_status(RXT_EDEVICE, run(&l, &c));
    assert_status(RXT_EDEVICE, lane_sync(l.s.ln));
    layer_close(&l);
    assert_int_equal(mem_stats().live_bytes, live);
    assert_int_equal(emulator_counts().n_graph, graphs);
}

static void faults_surface_and_leave_nothing(void **state)
{
    (void)state;
    for (int good = 0; good < 4; good++) { /* launch by launch, while a graph is made, replayed */
        check_fault(EMULATED_LAUNCH, good);
        check_fault(EMULATED_WAIT, good);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_steps_are_replayed),  cmocka_unit_test(every_shape_has_a_graph),
        cmocka_unit_test(steps_follow_each_other),    cmocka_unit_test(a_step_may_wait),
        cmocka_unit_test(memories_may_lie_elsewhere), cmocka_unit_test(a_long_step_has_parts),
        cmocka_unit_test(a_long_step_is_cut),         cmocka_unit_test(branches_are_the_same_bits),
        cmocka_unit_test(updates_stand_aside),        cmocka_unit_test(open_and_empty_steps),
    };
    const struct CMUnitTest emulated[] = {
        cmocka_unit_test(a_replay_starts_no_kernel),
        cmocka_unit_test(graphs_are_limited),
        cmocka_unit_test(steps_go_without_a_graph),
        cmocka_unit_test(both_places_have_graphs),
        cmocka_unit_test(a_driver_may_have_no_partitions),
        cmocka_unit_test(faults_surface_and_leave_nothing),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (emulator_fail)
        failed += cmocka_run_group_tests(emulated, NULL, NULL);
    return failed;
}
