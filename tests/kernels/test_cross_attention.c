#include "kernels/backend.h"

#include "tests/kernels/attention.h"

/* Rows that read memories: sequences of one shape, each with a memory of its own. */
enum { N_SEQ = 4, LAYERS = 2, DIM = 24 };
struct problem {
    struct heads heads;
    int in, out, n_slot;
    int n[N_SEQ], start[N_SEQ];
    float *q[N_SEQ], *stm[N_SEQ], *alone[N_SEQ];
    float *angle, *w, *norm;
};

static void problem_fill(struct problem *p, const struct shape *s)
{
    static const int n[N_SEQ] = {29, 1, 40, 7}, start[N_SEQ] = {0, 30, 5, 0};
    *p = (struct problem){.heads = s->heads, .n_slot = s->n_token};
    p->in = s->heads.n_q * s->heads.dim + heads_gate_cols(s->heads);
    p->out = heads_out_cols(s->heads);
    p->angle = s->rope ? angles_of(s->heads.dim) : NULL;
    p->w = random_values(2LL * s->heads.n_kv * s->heads.dim * DIM, 0.2f, 50);
    p->norm = random_values(DIM, 1.0f, 51);
    for (int i = 0; i < N_SEQ; i++) {
        p->n[i] = n[i];
        p->start[i] = start[i];
        p->q[i] = random_values((int64_t)n[i] * p->in, 1.0f, (uint64_t)i);
        p->stm[i] = random_values((int64_t)p->n_slot * DIM, 1.0f, (uint64_t)(10 + i));
        p->alone[i] = malloc((size_t)(n[i] * p->out) * sizeof(float));
        assert_non_null(p->alone[i]);
    }
}

static void problem_free(struct problem *p)
{
    for (int i = 0; i < N_SEQ; i++) {
        free(p->q[i]);
        free(p->stm[i]);
        free(p->alone[i]);
    }
    free(p->angle);
    free(p->w);
    free(p->norm);
}

static struct norm_desc norm_of(const struct problem *p)
{
    return (struct norm_desc){.kind = NORM_RMS, .dim = DIM, .weight = vector_of(p->norm, DIM)};
}

struct run {
    struct setting s;
    struct weight *rope, *norm, *kv;
    struct mem_kv *mem[N_SEQ];
};

/* Builds layer 1 of every memory, from float32 or from bf16. */
static bool run_open(struct run *r, const struct problem *p, int way, bool as_bf16)
{
    *r = (struct run){0};
    if (!way_open(&r->s, way))
        return false;
    struct heads h = p->heads;
    const struct host_matrix m = matrix_of(p->w, 2 * h.n_kv * h.dim, DIM);
    const struct norm_desc d = norm_of(p);
    r->rope = p->angle ? rope_of(r->s.be, p->angle, h.dim) : NULL;
    assert_ok(weight_norm(&r->norm, r->s.be, &d));
    assert_ok(weight_linear(&r->kv, r->s.be, &m, NULL, 1, DTYPE_F32));
    for (int i = 0; i < N_SEQ; i++) {
        const struct mem_kv_config cfg = {LAYERS, h.n_kv, h.dim, p->n_slot};
        assert_ok(mem_kv_create(&r->mem[i], r->s.be, &cfg));
        enum dtype dtype = as_bf16 ? DTYPE_BF16 : DTYPE_F32; /* exact: random_values are bf16 */
        struct tensor stm = guarded_as(r->s.be, dtype, p->stm[i], p->n_slot, DIM);
        assert_ok(op_mem_kv(r->s.ln, r->mem[i], 1, stm, r->norm, r->kv));
        assert_ok(lane_sync(r->s.ln));
        guarded_take(r->s.be, stm, NULL);
    }
    return true;
}

static void run_close(struct run *r)
{
    for (int i = 0; i < N_SEQ; i++)
        mem_kv_destroy(r->s.be, &r->mem[i]);
    weight_destroy(r->s.be, &r->rope);
    weight_destroy(r->s.be, &r->norm);
    weight_destroy(r->s.be, &r->kv);
    setting_close(&r->s);
}

static void call(struct run *r, const struct problem *p, const struct chunk *chunk, int n_chunk,
                 float *const out[])
{
    int32_t offset[N_SEQ + 1], start[N_SEQ];
    const struct mem_kv *mem[N_SEQ];
    chunk_offsets(offset, chunk, n_chunk);
    for (int c = 0; c < n_chunk; c++) {
        start[c] = p->start[chunk[c].seq] + chunk[c].from;
        mem[c] = r->mem[chunk[c].seq];
    }
    const struct cross_attention a = {
        .out = chunks_zero(r->s.be, p->out, chunk, n_chunk),
        .q = chunks_in(r->s.be, p->q, p->in, chunk, n_chunk),
        .heads = p->heads,
        .rope = r->rope,
        .rows = {n_chunk, offset, start},
        .mem = mem,
        .layer = 1,
    };
    assert_ok(op_cross_attention(r->s.ln, &a));
    assert_ok(lane_sync(r->s.ln));
    guarded_take(r->s.be, a.q, NULL);
    chunks_out(r->s.be, a.out, chunk, n_chunk, out);
}

static void each_alone(struct run *r, struct problem *p)
{
    for (int i = 0; i < N_SEQ; i++)
        call(r, p, &(struct chunk){i, 0, p->n[i]}, 1, &p->alone[i]);
}

/* k, v [S, Hk*hd] of a memory and its rows' contexts, from the references. */
static void assert_like_reference(const struct problem *p, int seq, double bound)
{
    struct heads h = p->heads;
    int kv = h.n_kv * h.dim, q = h.n_q * h.dim, gate = heads_gate_cols(h), n = p->n[seq];
    float *x = malloc((size_t)(p->n_slot * DIM) * sizeof *x);
    float *both = malloc((size_t)(p->n_slot * kv) * 2 * sizeof *x), *k = both;
    float *v = both + p->n_slot * kv, *want = malloc((size_t)(n * p->out) * sizeof *x);
    float *rows = malloc((size_t)(n * p->in) * sizeof *x), *gates = rows + n * q;
    assert_true(x && both && want && rows);
    const struct norm_desc d = norm_of(p);
    ref_norm(test_mode(), x, p->stm[seq], p->n_slot, &d);
    const struct host_matrix wk = matrix_of(p->w, kv, DIM),
                             wv = matrix_of(p->w + kv * DIM, kv, DIM);
    const struct host_vector no = {0};
    ref_linear(test_mode(), k, x, p->n_slot, &wk, &no);
    ref_linear(test_mode(), v, x, p->n_slot, &wv, &no);
    for (int r = 0; r < n; r++) {
        memcpy(rows + r * q, p->q[seq] + r * p->in, (size_t)q * sizeof *x);
        memcpy(gates + r * gate, p->q[seq] + r * p->in + q, (size_t)gate * sizeof *x);
    }
    const struct ref_attention a = {
        .heads = h,
        .n_row = n,
        .n_key = p->n_slot,
        .first = p->start[seq],
        .q = rows,
        .k = k,
        .v = v,
        .gate = gate ? gates : NULL,
        .angle_q = p->angle,
    };
    ref_attention(test_mode(), want, &a);
    assert_like(p->alone[seq], want, (size_t)(n * p->out), bound);
    free(x);
    free(both);
    free(want);
    free(rows);
}

/* Every batch of a few chunks out of the sequences gives each row what it gets alone. */
static void assert_any_batch(struct run *r, const struct problem *p, uint64_t seed)
{
    float *out = malloc((size_t)(N_SEQ * 64 * p->out) * sizeof *out);
    assert_non_null(out);
    for (int round = 0; round < 4; round++) {
        struct chunk chunk[N_SEQ];
        float *to[N_SEQ];
        int n_chunk = small_number(&seed, N_SEQ);
        for (int c = 0; c < n_chunk; c++) {
            int seq = (c + round) % N_SEQ, n = small_number(&seed, p->n[seq]);
            chunk[c] = (struct chunk){seq, small_number(&seed, p->n[seq] - n + 1) - 1, n};
            to[c] = out + c * 64 * p->out;
        }
        call(r, p, chunk, n_chunk, to);
        for (int c = 0; c < n_chunk; c++)
            assert_same_bits(to[c], p->alone[chunk[c].seq] + chunk[c].from * p->out,
                             chunk[c].n * p->out, backend_describe(r->s.be), c);
    }
    free(out);
}

static void every_shape_every_way(void **state)
{
    (void)state;
    for (int shape = 0; shape < N_SHAPE; shape++) {
        struct problem p;
        problem_fill(&p, &shapes[shape]);
        for (int way = 0; way < N_WAY; way++) {
            struct run r;
            if (!run_open(&r, &p, way, way % 2))
                continue;
            if (way == 0) {
                each_alone(&r, &p);
                for (int i = 0; i < N_SEQ; i++)
                    assert_like_reference(&p, i, 3e-6);
            }
            assert_any_batch(&r, &p, (uint64_t)(shape * N_WAY + way));
            run_close(&r);
        }
        problem_free(&p);
    }
}

/* A memory of NaN beside others, and rows of NaN: only they become NaN. */
static void nothing_of_its_companions(void **state)
{
    (void)state;
    struct problem p;
    problem_fill(&p, &shapes[1]);
    for (int way = 0; way < N_WAY; way++) {
        struct problem mixed = p;
        float *good_stm = mixed.stm[1];
        mixed.stm[1] = random_values((int64_t)p.n_slot * DIM, NAN, 11);
        mixed.q[3] = random_values((int64_t)p.n[3] * p.in, NAN, 3);
        struct run r;
        if (run_open(&r, &p, way, false)) {
            if (way == 0)
                each_alone(&r, &p);
            run_close(&r);
            assert_true(run_open(&r, &mixed, way, false));
            float *out = malloc((size_t)(N_SEQ * 64 * p.out) * sizeof *out);
            assert_non_null(out);
            struct chunk chunk[N_SEQ];
            float *to[N_SEQ];
            for (int c = 0; c < N_SEQ; c++) {
                chunk[c] = (struct chunk){c, 0, p.n[c]};
                to[c] = out + c * 64 * p.out;
            }
            call(&r, &mixed, chunk, N_SEQ, to);
            assert_same_bits(to[0], p.alone[0], p.n[0] * p.out, backend_describe(r.s.be), 0);
            assert_same_bits(to[2], p.alone[2], p.n[2] * p.out, backend_describe(r.s.be), 2);
            assert_true(isnan(to[1][0]) && isnan(to[3][0]));
            free(out);
            run_close(&r);
        }
        assert_ptr_equal(good_stm, p.stm[1]);
        free(mixed.stm[1]);
        free(mixed.q[3]);
    }
    problem_free(&p);
}

static void recorded_bits(void **state)
{
    (void)state;
    struct problem p;
    problem_fill(&p, &shapes[0]);
    struct run r;
    assert_true(run_open(&r, &p, 0, false));
    each_alone(&r, &p);
    assert_bits_recorded(p.alone[2], (size_t)(p.n[2] * p.out), 0x3E9FA94731B86459);
    run_close(&r);
    problem_free(&p);
}

static void what_does_not_fit(void **state)
{
    (void)state;
    struct problem p;
    problem_fill(&p, &shapes[0]);
    struct run r;
    assert_true(run_open(&r, &p, 0, false));
    struct lane *ln = r.s.ln;
    const int32_t offset[] = {0, 7}, far[] = {MAX_POS - 6};
    const struct chunk whole = {3, 0, 7};
    const struct mem_kv *mem = r.mem[3];
    const struct cross_attention good = {
        .out = chunks_zero(r.s.be, p.out, &whole, 1),
        .q = chunks_in(r.s.be, p.q, p.in, &whole, 1),
        .heads = p.heads,
        .rope = r.rope,
        .rows = {1, offset, NULL},
        .mem = &mem,
        .layer = 1,
    };
    struct cross_attention bad[8];
    for (int i = 0; i < 8; i++)
        bad[i] = good;
    bad[0].layer = LAYERS;
    bad[1].rows.start = far; /* one position beyond the table */
    bad[2].heads.n_kv = 4;
    bad[3].heads.gate = ACT_SILU;
    bad[4].out.rows = 6;
    bad[5].q.cols--;
    bad[6].heads.dim = 31;
    bad[7].rows.n_seq = 65;
    for (int i = 0; i < 8; i++)
        assert_status(RXT_ESHAPE, op_cross_attention(ln, &bad[i]));
    assert_untouched(r.s.be, good.out);
    guarded_take(r.s.be, good.q, NULL);
    run_close(&r);
    problem_free(&p);
}

/* Also a norm that differs by slot: a memory is built in pieces, and no decoder has such a norm. */
static void memories_that_do_not_fit(void **state)
{
    (void)state;
    struct problem p;
    problem_fill(&p, &shapes[0]);
    struct run r;
    assert_true(run_open(&r, &p, 0, false));
    struct lane *ln = r.s.ln;
    struct weight *by_slot;
    float *zeros = random_values(p.n_slot, 0.0f, 0);
    const struct norm_desc d = {.kind = NORM_MIX_SLOT,
                                .dim = DIM,
                                .scale = vector_of(zeros, p.n_slot),
                                .scale_by_slot = true,
                                .gate = vector_of(zeros, p.n_slot),
                                .ema_rms = vector_of(zeros, p.n_slot)};
    assert_ok(weight_norm(&by_slot, r.s.be, &d));
    struct tensor stm = {p.stm[0], DTYPE_F32, p.n_slot, DIM, DIM};
    assert_ok(op_mem_kv(ln, r.mem[0], 0, stm, NULL, r.kv));
    assert_status(RXT_ESHAPE, op_mem_kv(ln, r.mem[0], 0, stm, by_slot, r.kv));
    assert_status(RXT_ESHAPE, op_mem_kv(ln, r.mem[0], LAYERS, stm, r.norm, r.kv));
    assert_status(RXT_ESHAPE, op_mem_kv(ln, r.mem[0], 0, tensor_rows(stm, 0, 3), r.norm, r.kv));
    assert_status(RXT_ESHAPE, op_mem_kv(ln, r.mem[0], 0, tensor_cols(stm, 0, 20), r.norm, r.kv));
    stm.dtype = DTYPE_F16;
    assert_status(RXT_ESHAPE, op_mem_kv(ln, r.mem[0], 0, stm, r.norm, r.kv));
    weight_destroy(r.s.be, &by_slot);
    free(zeros);
    run_close(&r);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_every_way),
        cmocka_unit_test(nothing_of_its_companions),
    };
    /* of the fronts, which are the same for every backend, and of the CPU's recorded bits */
    const struct CMUnitTest once[] = {
        cmocka_unit_test(recorded_bits),
        cmocka_unit_test(what_does_not_fit),
        cmocka_unit_test(memories_that_do_not_fit),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (!test_on_cuda())
        failed += cmocka_run_group_tests(once, NULL, NULL);
    return failed;
}
