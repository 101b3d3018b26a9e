/* Attention on the CUDA backend where a call that fills the card goes another way than a small one
 * (ATTEND_MANY, ATTEND_WIDE of kernels/cuda/attend_impl.h, LEAST_BLOCKS of attend_many.cu): the
 * splits of a tile in turn instead of side by side, tiles of 32 rows instead of 16. A row must come
 * out as it does in a small call. */
#include "kernels/backend.h"

#include "tests/kernels/attention.h"

static void open_wide(struct setting *s, int32_t rows, int32_t n_seq, int32_t keys, int32_t width)
{
    const struct backend_config cfg = {.name = "cuda", .dtype = test_dtype()};
    const struct lane_limits limits = {
        .max_rows = rows, .max_seq = n_seq, .max_keys = keys, .max_width = width};
    assert_ok(backend_create(&s->be, &cfg, NULL));
    assert_ok(lane_create(&s->ln, s->be, LANE_ANSWER, &limits));
}

static float *zeros(size_t rows, int32_t cols)
{
    float *x = calloc(rows * (size_t)cols, sizeof *x);
    assert_non_null(x);
    return x;
}

/* ---- keys and values of a memory ---- */

/* What one row reads from a memory. */
static void read_tensor(struct setting *s, struct heads h, const struct weight *kv,
                        const struct weight *norm, struct tensor old, float *q, float *out)
{
    const struct mem_kv_config cfg = {2, h.n_kv, h.dim, old.rows};
    const int32_t offset[2] = {0, 1};
    const struct chunk row = {0, 0, 1};
    struct mem_kv *mem;
    assert_ok(mem_kv_create(&mem, s->be, &cfg));
    assert_ok(op_mem_kv(s->ln, mem, 1, old, norm, kv));
    const struct cross_attention a = {
        .out = chunks_zero(s->be, heads_out_cols(h), &row, 1),
        .q = chunks_in(s->be, &q, h.n_q * h.dim, &row, 1),
        .heads = h,
        .rows = {1, offset, NULL},
        .mem = (const struct mem_kv *const *)&mem,
        .layer = 1,
    };
    assert_ok(op_cross_attention(s->ln, &a));
    assert_ok(lane_sync(s->ln));
    guarded_take(s->be, a.q, NULL);
    chunks_out(s->be, a.out, &row, 1, &out);
    mem_kv_destroy(s->be, &mem);
}

/* Of the first n slots of stm. */
static void read_memory(struct setting *s, struct heads h, const struct weight *kv,
                        const float *stm, int32_t n, int32_t dim, float *q, float *out)
{
    struct tensor old = guarded(s->be, stm, n, dim);
    read_tensor(s, h, kv, NULL, old, q, out);
    guarded_take(s->be, old, NULL);
}

/* 128 slots and more are put into their blocks by the multiplication itself, 127 by a kernel behind
 * it. The last slot of 128 has a key that no head gives any weight: so both must read the same. */
static void slots_stored_two_ways(void **state)
{
    (void)state;
    enum { LESS = 127, MOST_DIM = 256 };
    static const struct heads heads[] = {
        {3, 3, 24, ACT_NONE}, {2, 2, 32, ACT_NONE}, {1, 1, 64, ACT_NONE}, {5, 5, 16, ACT_NONE}};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        for (int32_t dim = 128; dim <= MOST_DIM; dim *= 2) {
            struct setting s;
            struct heads h = heads[i];
            int32_t width = h.n_kv * h.dim;
            open_wide(&s, LESS + 1, 1, LESS + 1, MOST_DIM);
            float *w = random_values((int64_t)2 * width * dim, 0.05f, 1);
            float *stm = random_values((int64_t)(LESS + 1) * dim, 1.0f, 2);
            float *q = random_values(width, 1.0f, 3), some[2][MOST_DIM];
            for (int32_t d = 0; d < dim; d++) { /* last slot: -1000 Wk' q */
                float sum = 0.0f;
                for (int32_t r = 0; r < width; r++)
                    sum += w[r * dim + d] * q[r];
                stm[LESS * dim + d] = bf16_to_f32(bf16_from_f32(-1000.0f * sum));
            }
            const struct host_matrix m = matrix_of(w, 2 * width, dim);
            struct weight *kv;
            assert_ok(weight_linear(&kv, s.be, &m, NULL, 1, DTYPE_F32));
            for (int32_t n = 0; n < 2; n++)
                read_memory(&s, h, kv, stm, LESS + n, dim, q, some[n]);
            assert_same_bits(some[1], some[0], width, "heads", (int)i);
            weight_destroy(s.be, &kv);
            free(w);
            free(stm);
            free(q);
            setting_close(&s);
        }
}

/* ---- the norm of a memory ---- */

static struct tensor memory_of(struct setting *s, enum dtype dtype, const float *from, int32_t rows,
                               int32_t cols)
{
    size_t n = (size_t)rows * (size_t)cols;
    bf16 *half = calloc(n, sizeof *half);
    struct tensor t = {backend_alloc(s->be, n * dtype_bytes(dtype)), dtype, rows, cols, cols};
    assert_non_null(half);
    assert_non_null(t.data);
    for (size_t i = 0; i < n; i++)
        half[i] = bf16_from_f32(from[i]);
    assert_ok(lane_upload(s->ln, t.data, dtype == DTYPE_BF16 ? (const void *)half : from,
                          n * dtype_bytes(dtype)));
    free(half);
    return t;
}

/* A memory goes through its norm on the way into K and V, in either dtype, by a kernel of its own
 * where its rows are short: as if it had been normalised before. */
static void memories_through_their_norm(void **state)
{
    (void)state;
    enum { N = 130, WIDTH = 64 };
    static const struct heads h = {2, 2, 32, ACT_NONE};
    static const int32_t dims[] = {64, 320, 512, 576};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        struct setting s;
        int32_t dim = dims[i];
        open_wide(&s, N, 1, N, 576);
        float *w = random_values((int64_t)2 * WIDTH * dim, 0.05f, 1);
        float *stm = random_values((int64_t)N * dim, 1.0f, 2), *scale = random_values(dim, 1.0f, 3);
        float *q = random_values(WIDTH, 1.0f, 4), some[3][WIDTH];
        for (int32_t j = 0; j < N * dim; j++)
            stm[j] = bf16_to_f32(bf16_from_f32(stm[j]));
        const struct host_matrix m = matrix_of(w, 2 * WIDTH, dim);
        const struct norm_desc d = {.kind = NORM_RMS, .dim = dim, .weight = vector_of(scale, dim)};
        struct weight *kv, *norm;
        assert_ok(weight_linear(&kv, s.be, &m, NULL, 1, DTYPE_F32));
        assert_ok(weight_norm(&norm, s.be, &d));
        enum dtype act = backend_act_dtype(s.be);
        struct tensor old[3] = {memory_of(&s, DTYPE_F32, stm, N, dim),
                                memory_of(&s, DTYPE_BF16, stm, N, dim),
                                memory_of(&s, act, stm, N, dim)};
        assert_ok(op_norm(s.ln, old[2], old[2], norm));
        for (int k = 0; k < 3; k++) {
            read_tensor(&s, h, kv, k < 2 ? norm : NULL, old[k], q, some[k]);
            assert_same_bits(some[k], some[0], WIDTH, "norm", dim);
            backend_free(s.be, old[k].data);
        }
        weight_destroy(s.be, &norm);
        weight_destroy(s.be, &kv);
        free(w);
        free(stm);
        free(scale);
        free(q);
        setting_close(&s);
    }
}

/* ---- a memory ---- */

enum { SLOTS = 1400, MANY_SEQ = 264 }; /* 11 splits; a tile each of 4 heads: 1056 */
static const struct heads memory_heads = {4, 4, 16, ACT_NONE};

/* n_seq sequences of the same number of rows, which read one memory. */
static void ask_memory(struct setting *s, const struct mem_kv *mem, float *x, struct chunk rows,
                       int n_seq, float *out)
{
    const struct mem_kv *mems[MANY_SEQ];
    int32_t offset[MANY_SEQ + 1] = {0};
    int cols = heads_out_cols(memory_heads);
    for (int i = 0; i < n_seq; i++) {
        mems[i] = mem;
        offset[i + 1] = offset[i] + rows.n / n_seq;
    }
    const struct cross_attention a = {
        .out = chunks_zero(s->be, cols, &rows, 1),
        .q = chunks_in(s->be, &x, cols, &rows, 1),
        .heads = memory_heads,
        .rows = {n_seq, offset, NULL},
        .mem = mems,
    };
    assert_ok(op_cross_attention(s->ln, &a));
    assert_ok(lane_sync(s->ln));
    guarded_take(s->be, a.q, NULL);
    chunks_out(s->be, a.out, &rows, 1, &out);
}

/* Many rows of a sequence, then a row of many sequences. */
static void splits_of_a_memory(void **state)
{
    (void)state;
    enum { ROWS = 32 * 24 + 3, DIM = 64, WIDTH = 2 * 64, Q = 64 };
    struct setting s;
    open_wide(&s, SLOTS, MANY_SEQ, SLOTS, WIDTH);
    float *w = random_values(WIDTH * DIM, 0.3f, 1), *stm = random_values(SLOTS * DIM, 1.0f, 2);
    float *x = random_values(ROWS * Q, 1.0f, 3), *all = zeros(ROWS, Q), one[Q];
    float *apart = zeros(MANY_SEQ, Q);
    const struct host_matrix m = matrix_of(w, WIDTH, DIM);
    struct weight *kv;
    struct mem_kv *mem;
    assert_ok(weight_linear(&kv, s.be, &m, NULL, 1, DTYPE_F32));
    assert_ok(mem_kv_create(&mem, s.be, &(struct mem_kv_config){1, 4, 16, SLOTS}));
    struct tensor old = guarded(s.be, stm, SLOTS, DIM);
    assert_ok(op_mem_kv(s.ln, mem, 0, old, NULL, kv));
    ask_memory(&s, mem, x, (struct chunk){0, 0, ROWS}, 1, all);
    ask_memory(&s, mem, x, (struct chunk){0, 0, MANY_SEQ}, MANY_SEQ, apart);
    assert_same_bits(all, apart, MANY_SEQ * Q, "sequences", 0);
    for (int row = 0; row < ROWS; row += 97) {
        ask_memory(&s, mem, x, (struct chunk){0, row, 1}, 1, one);
        assert_same_bits(all + row * Q, one, Q, "memory", row);
    }
    guarded_take(s.be, old, NULL);
    mem_kv_destroy(s.be, &mem);
    weight_destroy(s.be, &kv);
    setting_close(&s);
    free(w);
    free(stm);
    free(x);
    free(all);
    free(apart);
}

/* ---- a turn ---- */

/* 17 tiles a sequence and head, 1088 in all; keys in three splits. */
enum { N_SEQ = 8, TOKENS = 135 };
static const struct heads turn_heads = {16, 8, 32, ACT_NONE};

struct turn {
    struct setting s;
    struct weight *rope;
    int in, out; /* columns */
    float *qkv[N_SEQ], *all[N_SEQ];
    struct kv *kv[N_SEQ];
};

/* A call over chunks of sequences that follow one another. */
static void prefill(struct turn *t, const struct chunk *chunk, int n_chunk, float *const out[])
{
    int32_t offset[N_SEQ + 1], start[N_SEQ];
    chunk_offsets(offset, chunk, n_chunk);
    for (int c = 0; c < n_chunk; c++)
        start[c] = chunk[c].from;
    const struct self_attention a = {
        .out = chunks_zero(t->s.be, t->out, chunk, n_chunk),
        .qkv = chunks_in(t->s.be, t->qkv, t->in, chunk, n_chunk),
        .heads = turn_heads,
        .rope = t->rope,
        .rows = {n_chunk, offset, start},
        .kv = t->kv + chunk[0].seq,
    };
    assert_ok(op_self_attention(t->s.ln, &a));
    assert_ok(lane_sync(t->s.ln));
    guarded_take(t->s.be, a.qkv, NULL);
    chunks_out(t->s.be, a.out, chunk, n_chunk, out);
}

static void turn_open(struct turn *t)
{
    t->in = (turn_heads.n_q + 2 * turn_heads.n_kv) * turn_heads.dim;
    t->out = heads_out_cols(turn_heads);
    open_wide(&t->s, N_SEQ * TOKENS, N_SEQ, TOKENS, t->in);
    float *angle = angles_of(turn_heads.dim);
    t->rope = rope_of(t->s.be, angle, turn_heads.dim);
    free(angle);
    const struct kv_config cfg = {1, turn_heads.n_kv, turn_heads.dim, TOKENS};
    for (int i = 0; i < N_SEQ; i++) {
        t->qkv[i] = random_values((int64_t)TOKENS * t->in, 1.0f, (uint64_t)i);
        t->all[i] = zeros(TOKENS, t->out);
        assert_ok(kv_create(&t->kv[i], t->s.be, &cfg));
    }
}

static void turn_close(struct turn *t)
{
    for (int i = 0; i < N_SEQ; i++) {
        kv_destroy(t->s.be, &t->kv[i]);
        free(t->qkv[i]);
        free(t->all[i]);
    }
    weight_destroy(t->s.be, &t->rope);
    setting_close(&t->s);
}

static void splits_of_a_turn(void **state)
{
    (void)state;
    struct turn t;
    struct chunk whole[N_SEQ];
    turn_open(&t);
    for (int i = 0; i < N_SEQ; i++)
        whole[i] = (struct chunk){i, 0, TOKENS};
    prefill(&t, whole, N_SEQ, t.all);
    float *alone = zeros(TOKENS, t.out);
    for (int i = 0; i < N_SEQ; i++)
        for (int from = 0, n = 90; from < TOKENS; from += n, n = TOKENS - 90) {
            prefill(&t, &(struct chunk){i, from, n}, 1, &alone);
            for (int r = 0; r < n; r++)
                assert_same_bits(t.all[i] + (from + r) * t.out, alone + r * t.out, t.out, "turn",
                                 from + r);
        }
    free(alone);
    turn_close(&t);
}

/* ---- all keys ---- */

/* Queries that make 34 blocks of 128 rows a head, 272 in all. */
enum { ROWS = 2112 + 5, KEYS = 150 };
static const struct heads full_heads = {16, 8, 32, ACT_NONE};

static void attend_all(struct setting *s, float *q, float *k, float *v, struct chunk rows,
                       float *out)
{
    const struct chunk keys = {0, 0, KEYS};
    const int32_t q_at[2] = {0, rows.n}, k_at[2] = {0, KEYS};
    int cols = heads_out_cols(full_heads), kv = full_heads.n_kv * full_heads.dim;
    const struct full_attention a = {
        .out = chunks_zero(s->be, cols, &rows, 1),
        .q = chunks_in(s->be, &q, cols, &rows, 1),
        .k = chunks_in(s->be, &k, kv, &keys, 1),
        .v = chunks_in(s->be, &v, kv, &keys, 1),
        .heads = full_heads,
        .q_rows = {1, q_at, NULL},
        .kv_rows = {1, k_at, NULL},
    };
    assert_ok(op_full_attention(s->ln, &a));
    assert_ok(lane_sync(s->ln));
    guarded_take(s->be, a.q, NULL);
    guarded_take(s->be, a.k, NULL);
    guarded_take(s->be, a.v, NULL);
    chunks_out(s->be, a.out, &rows, 1, &out);
}

static void tiles_of_two_sizes(void **state)
{
    (void)state;
    struct setting s;
    int cols = heads_out_cols(full_heads), kv = full_heads.n_kv * full_heads.dim;
    open_wide(&s, ROWS, 1, KEYS, cols);
    float *q = random_values((int64_t)ROWS * cols, 1.0f, 4);
    float *k = random_values((int64_t)KEYS * kv, 1.0f, 5);
    float *v = random_values((int64_t)KEYS * kv, 1.0f, 6);
    float *all = zeros(ROWS, cols), *some = zeros(40, cols);
    attend_all(&s, q, k, v, (struct chunk){0, 0, ROWS}, all);
    for (int from = 0; from < ROWS; from += 3 * 40) {
        int n = ROWS - from < 40 ? ROWS - from : 40;
        attend_all(&s, q, k, v, (struct chunk){0, from, n}, some);
        for (int r = 0; r < n; r++)
            assert_same_bits(all + (from + r) * cols, some + r * cols, cols, "full", from + r);
    }
    setting_close(&s);
    free(q);
    free(k);
    free(v);
    free(all);
    free(some);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_stored_two_ways), cmocka_unit_test(memories_through_their_norm),
        cmocka_unit_test(splits_of_a_memory),    cmocka_unit_test(splits_of_a_turn),
        cmocka_unit_test(tiles_of_two_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
