#include "kernels/backend.h"

#include "tests/kernels/attention.h"

/* Sequences of one shape, and the result of each when it is prefilled alone, in one call. */
enum { N_SEQ = 5 };
struct problem {
    struct heads heads;
    int in, out; /* columns */
    int n[N_SEQ];
    float *qkv[N_SEQ], *alone[N_SEQ];
    float *angle; /* NULL: no rotation */
};

static void problem_fill(struct problem *p, const struct shape *s)
{
    *p = (struct problem){.heads = s->heads};
    p->in = (s->heads.n_q + 2 * s->heads.n_kv) * s->heads.dim + heads_gate_cols(s->heads);
    p->out = heads_out_cols(s->heads);
    p->angle = s->rope ? angles_of(s->heads.dim) : NULL;
    const int n[N_SEQ] = {s->n_token, 1, 17, 33, 8};
    for (int i = 0; i < N_SEQ; i++) {
        p->n[i] = n[i] < s->n_token ? n[i] : s->n_token;
        p->qkv[i] = random_values((int64_t)p->n[i] * p->in, 1.0f, (uint64_t)i);
        p->alone[i] = malloc((size_t)p->n[i] * (size_t)p->out * sizeof(float));
        assert_non_null(p->alone[i]);
    }
}

static void problem_free(struct problem *p)
{
    for (int i = 0; i < N_SEQ; i++) {
        free(p->qkv[i]);
        free(p->alone[i]);
    }
    free(p->angle);
}

/* A backend with the K/V of every sequence. */
struct run {
    struct setting s;
    struct weight *rope;
    struct kv *kv[N_SEQ];
};

static bool run_open(struct run *r, const struct problem *p, int way)
{
    *r = (struct run){0};
    if (!way_open(&r->s, way))
        return false;
    r->rope = p->angle ? rope_of(r->s.be, p->angle, p->heads.dim) : NULL;
    for (int i = 0; i < N_SEQ; i++) {
        /* two layers, of which the second is used */
        const struct kv_config cfg = {2, p->heads.n_kv, p->heads.dim, p->n[i] + 3};
        assert_ok(kv_create(&r->kv[i], r->s.be, &cfg));
    }
    return true;
}

static void run_close(struct run *r)
{
    for (int i = 0; i < N_SEQ; i++)
        kv_destroy(r->s.be, &r->kv[i]);
    weight_destroy(r->s.be, &r->rope);
    setting_close(&r->s);
}

/* One call over n_chunk chunks of different sequences; out[c] takes the rows of chunk c. */
static void call(struct run *r, const struct problem *p, const struct chunk *chunk, int n_chunk,
                 float *const out[])
{
    int32_t offset[N_SEQ + 1], start[N_SEQ];
    struct kv *kv[N_SEQ];
    chunk_offsets(offset, chunk, n_chunk);
    for (int c = 0; c < n_chunk; c++) {
        start[c] = chunk[c].from;
        kv[c] = r->kv[chunk[c].seq];
    }
    const struct self_attention a = {
        .out = chunks_zero(r->s.be, p->out, chunk, n_chunk),
        .qkv = chunks_in(r->s.be, p->qkv, p->in, chunk, n_chunk),
        .heads = p->heads,
        .rope = r->rope,
        .rows = {n_chunk, offset, start},
        .kv = kv,
        .layer = 1,
    };
    assert_ok(op_self_attention(r->s.ln, &a));
    assert_ok(lane_sync(r->s.ln));
    guarded_take(r->s.be, a.qkv, NULL);
    chunks_out(r->s.be, a.out, chunk, n_chunk, out);
}

static void prefill_alone(struct run *r, struct problem *p)
{
    for (int i = 0; i < N_SEQ; i++)
        call(r, p, &(struct chunk){i, 0, p->n[i]}, 1, &p->alone[i]);
}

static void assert_like_reference(const struct problem *p, int seq, double bound)
{
    int n = p->n[seq], q = p->heads.n_q * p->heads.dim, kv = p->heads.n_kv * p->heads.dim;
    const int width[4] = {q, kv, kv, heads_gate_cols(p->heads)};
    float *part[4], *want = malloc((size_t)(n * p->out) * sizeof *want);
    assert_non_null(want);
    for (int i = 0, col = 0; i < 4; col += width[i++]) {
        part[i] = malloc((size_t)(n * width[i] + 1) * sizeof *want);
        assert_non_null(part[i]);
        for (int r = 0; r < n; r++)
            memcpy(part[i] + r * width[i], p->qkv[seq] + r * p->in + col,
                   (size_t)width[i] * sizeof *want);
    }
    const struct ref_attention a = {
        .heads = p->heads,
        .n_row = n,
        .n_key = n,
        .causal = true,
        .q = part[0],
        .k = part[1],
        .v = part[2],
        .gate = width[3] ? part[3] : NULL,
        .angle_q = p->angle,
        .angle_k = p->angle,
    };
    ref_attention(test_mode(), want, &a);
    assert_like(p->alone[seq], want, (size_t)(n * p->out), bound);
    for (int i = 0; i < 4; i++)
        free(part[i]);
    free(want);
}

/* All sequences at once, each in chunks of its own random sizes; a sequence may pause. */
static void assert_any_chunking(struct run *r, const struct problem *p, uint64_t seed)
{
    int done[N_SEQ] = {0};
    float *out = malloc((size_t)(N_SEQ * MAX_POS * p->out) * sizeof *out);
    assert_non_null(out);
    for (bool more = true; more;) {
        struct chunk chunk[N_SEQ];
        float *to[N_SEQ];
        int n_chunk = 0;
        for (int i = 0; i < N_SEQ; i++) {
            int left = p->n[i] - done[i];
            int most = small_number(&seed, 3) == 1 ? 1 : 60;
            int n = small_number(&seed, left < most ? left + 1 : most) - (left < most);
            if (left == 0 || n == 0)
                continue;
            to[n_chunk] = out + (i * MAX_POS + done[i]) * p->out;
            chunk[n_chunk++] = (struct chunk){i, done[i], n};
            done[i] += n;
        }
        if (n_chunk > 0)
            call(r, p, chunk, n_chunk, to);
        more = false;
        for (int i = 0; i < N_SEQ; i++)
            more = more || done[i] < p->n[i];
    }
    for (int i = 0; i < N_SEQ; i++)
        assert_same_bits(out + i * MAX_POS * p->out, p->alone[i], p->n[i] * p->out,
                         backend_describe(r->s.be), i);
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
            if (!run_open(&r, &p, way))
                continue;
            if (way == 0) {
                prefill_alone(&r, &p);
                for (int i = 0; i < N_SEQ; i++)
                    assert_like_reference(&p, i, 2e-6);
            }
            assert_any_chunking(&r, &p, (uint64_t)(shape * N_WAY + way));
            run_close(&r);
        }
        problem_free(&p);
    }
}

/* NaN in other sequences, in later tokens of the same call, and in what an earlier turn left behind
 * in the slot: none of it is seen. */
static void nothing_but_its_own_past(void **state)
{
    (void)state;
    struct problem p, nan;
    problem_fill(&p, &shapes[0]);
    problem_fill(&nan, &shapes[0]);
    for (int i = 0; i < N_SEQ; i++)
        for (int j = 0; j < p.n[i] * p.in; j++)
            nan.qkv[i][j] = j % 3 ? NAN : INFINITY;
    for (int way = 0; way < N_WAY; way++) {
        struct run r;
        if (!run_open(&r, &p, way))
            continue;
        if (way == 0)
            prefill_alone(&r, &p);
        prefill_alone(&r, &nan); /* an earlier turn */
        const int kept = 21;
        float *mixed = malloc((size_t)(p.n[0] * p.in) * sizeof *mixed);
        float *out = malloc((size_t)(p.n[0] * p.out) * sizeof *out);
        assert_true(mixed && out);
        memcpy(mixed, p.qkv[0], (size_t)(kept * p.in) * sizeof *mixed);
        memcpy(mixed + kept * p.in, nan.qkv[0], (size_t)((p.n[0] - kept) * p.in) * sizeof *mixed);
        struct problem both = p;
        both.qkv[0] = mixed;
        both.qkv[2] = nan.qkv[2];
        const struct chunk chunk[2] = {{2, 0, p.n[2]}, {0, 0, p.n[0]}};
        float *const to[2] = {nan.alone[2], out};
        call(&r, &both, chunk, 2, to);
        assert_same_bits(out, p.alone[0], kept * p.out, backend_describe(r.s.be), 0);
        assert_true(isnan(out[kept * p.out]));
        free(mixed);
        free(out);
        run_close(&r);
    }
    problem_free(&p);
    problem_free(&nan);
}

/* Scores of hundreds and of -hundreds: the softmax neither overflows nor divides by zero. */
static void large_scores(void **state)
{
    (void)state;
    struct problem p;
    problem_fill(&p, &shapes[0]);
    for (int i = 0; i < N_SEQ; i++)
        for (int j = 0; j < p.n[i] * p.in; j++)
            p.qkv[i][j] *= j % p.in < 8 * 32 ? 8.0f : 1.0f;
    struct run r;
    assert_true(run_open(&r, &p, 0));
    prefill_alone(&r, &p);
    for (int i = 0; i < N_SEQ; i++)
        assert_like_reference(&p, i, 1e-3); /* scores of 500 are known to 3e-5 */
    run_close(&r);
    problem_free(&p);
}

static void recorded_bits(void **state)
{
    (void)state;
    struct problem p;
    problem_fill(&p, &shapes[0]);
    struct run r;
    assert_true(run_open(&r, &p, 0));
    prefill_alone(&r, &p);
    assert_bits_recorded(p.alone[0], (size_t)(p.n[0] * p.out), 0x73365607A629878);
    run_close(&r);
    problem_free(&p);
}

static void what_does_not_fit(void **state)
{
    (void)state;
    struct problem p;
    problem_fill(&p, &shapes[0]);
    struct run r;
    assert_true(run_open(&r, &p, 0));
    struct lane *ln = r.s.ln;
    const int32_t offset[] = {0, 17}, start[] = {0}, far[] = {4}, none[] = {0, 18};
    const struct chunk whole = {2, 0, 17};
    const struct self_attention good = {
        .out = chunks_zero(r.s.be, p.out, &whole, 1),
        .qkv = chunks_in(r.s.be, p.qkv, p.in, &whole, 1),
        .heads = p.heads,
        .rope = r.rope,
        .rows = {1, offset, start},
        .kv = &r.kv[2],
        .layer = 1,
    };
    struct weight *other = NULL;
    assert_ok(weight_rope(&other, r.s.be, p.angle, MAX_POS, 8));
    struct self_attention bad[12];
    for (int i = 0; i < 12; i++)
        bad[i] = good;
    bad[0].layer = 2;
    bad[1].layer = -1;
    bad[2].rows.start = far; /* 4 + 17 > 20 tokens of the slot */
    bad[3].rows.offset = none;
    bad[4].heads.n_kv = 4;
    bad[5].heads.dim = 16;
    bad[6].heads.gate = ACT_SIGMOID; /* without gate columns */
    bad[7].rope = other;
    bad[8].out.cols--;
    bad[9].qkv.dtype = DTYPE_BF16;
    bad[10].heads.n_q = 3;
    bad[11].rows.n_seq = 0;
    for (int i = 0; i < 12; i++)
        assert_status(RXT_ESHAPE, op_self_attention(ln, &bad[i]));
    assert_untouched(r.s.be, good.out);
    guarded_take(r.s.be, good.qkv, NULL);
    weight_destroy(r.s.be, &other);
    run_close(&r);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_every_way),
        cmocka_unit_test(nothing_but_its_own_past),
        cmocka_unit_test(large_scores),
    };
    /* of the fronts, which are the same for every backend, and of the CPU's recorded bits */
    const struct CMUnitTest once[] = {
        cmocka_unit_test(recorded_bits),
        cmocka_unit_test(what_does_not_fit),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (!test_on_cuda())
        failed += cmocka_run_group_tests(once, NULL, NULL);
    return failed;
}
