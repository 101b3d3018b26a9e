#include "kernels/backend.h"

#include "tests/kernels/attention.h"

/* Query rows and key rows of sequences of one shape; the second sequence has neither. */
enum { N_SEQ = 4 };
struct problem {
    struct heads heads;
    int q, kv, out; /* columns */
    int n_q[N_SEQ], n_key[N_SEQ], start[N_SEQ];
    float *x_q[N_SEQ], *x_k[N_SEQ], *x_v[N_SEQ], *gate[N_SEQ], *alone[N_SEQ];
    float *angle_q, *angle_k;
};

static void problem_fill(struct problem *p, const struct shape *s, bool rotate_q)
{
    struct heads h = s->heads;
    *p = (struct problem){.heads = h, .q = h.n_q * h.dim, .kv = h.n_kv * h.dim};
    p->out = heads_out_cols(h);
    p->angle_k = s->rope ? angles_of(h.dim) : NULL;
    p->angle_q = s->rope && rotate_q ? angles_of(h.dim) : NULL;
    const int n_q[N_SEQ] = {19, 0, 50, 1}, n_key[N_SEQ] = {s->n_token, 0, 13, 33};
    for (int i = 0; i < N_SEQ; i++) {
        p->n_q[i] = n_q[i];
        p->n_key[i] = n_key[i];
        p->start[i] = i; /* positions may begin anywhere */
        uint64_t stream = (uint64_t)(10 * i);
        p->x_q[i] = random_values((int64_t)n_q[i] * p->q + 1, 1.0f, stream);
        p->x_k[i] = random_values((int64_t)n_key[i] * p->kv + 1, 1.0f, stream + 1);
        p->x_v[i] = random_values((int64_t)n_key[i] * p->kv + 1, 1.0f, stream + 2);
        p->gate[i] = random_values((int64_t)n_q[i] * p->out + 1, 1.0f, stream + 3);
        p->alone[i] = malloc((size_t)(n_q[i] * p->out + 1) * sizeof(float));
        assert_non_null(p->alone[i]);
    }
}

static void problem_free(struct problem *p)
{
    for (int i = 0; i < N_SEQ; i++) {
        free(p->x_q[i]);
        free(p->x_k[i]);
        free(p->x_v[i]);
        free(p->gate[i]);
        free(p->alone[i]);
    }
    free(p->angle_q);
    free(p->angle_k);
}

struct run {
    struct setting s;
    struct weight *rope_q, *rope_k;
};

static bool run_open(struct run *r, const struct problem *p, int way)
{
    *r = (struct run){0};
    if (!way_open(&r->s, way))
        return false;
    r->rope_q = p->angle_q ? rope_of(r->s.be, p->angle_q, p->heads.dim) : NULL;
    r->rope_k = p->angle_k ? rope_of(r->s.be, p->angle_k, p->heads.dim) : NULL;
    return true;
}

static void run_close(struct run *r)
{
    weight_destroy(r->s.be, &r->rope_q);
    weight_destroy(r->s.be, &r->rope_k);
    setting_close(&r->s);
}

/* One call over whole sequences seq[0..n); out[i] takes the rows of seq[i]. */
static void call(struct run *r, const struct problem *p, const int *seq, int n, float *const out[])
{
    int32_t q_at[N_SEQ + 1], k_at[N_SEQ + 1], start[N_SEQ];
    struct chunk q[N_SEQ], k[N_SEQ];
    for (int i = 0; i < n; i++) {
        q[i] = (struct chunk){seq[i], 0, p->n_q[seq[i]]};
        k[i] = (struct chunk){seq[i], 0, p->n_key[seq[i]]};
        start[i] = p->start[seq[i]];
    }
    chunk_offsets(q_at, q, n);
    chunk_offsets(k_at, k, n);
    struct full_attention a = {
        .out = chunks_zero(r->s.be, p->out, q, n),
        .q = chunks_in(r->s.be, p->x_q, p->q, q, n),
        .k = chunks_in(r->s.be, p->x_k, p->kv, k, n),
        .v = chunks_in(r->s.be, p->x_v, p->kv, k, n),
        .gate_in = chunks_in(r->s.be, p->gate, p->out, q, n),
        .heads = p->heads,
        .rope_q = r->rope_q,
        .rope_k = r->rope_k,
        .q_rows = {n, q_at, start},
        .kv_rows = {n, k_at, start},
    };
    assert_ok(op_full_attention(r->s.ln, &a));
    assert_ok(lane_sync(r->s.ln));
    guarded_take(r->s.be, a.q, NULL);
    guarded_take(r->s.be, a.k, NULL);
    guarded_take(r->s.be, a.v, NULL);
    guarded_take(r->s.be, a.gate_in, NULL);
    chunks_out(r->s.be, a.out, q, n, out);
}

static void each_alone(struct run *r, struct problem *p)
{
    for (int i = 0; i < N_SEQ; i++)
        call(r, p, &i, 1, &p->alone[i]);
}

/* The reference counts positions from 0 on both sides, so the tables begin at the start. */
static void assert_like_reference(const struct problem *p, int i, double bound)
{
    size_t n = (size_t)(p->n_q[i] * p->out);
    float *want = malloc((n + 1) * sizeof *want);
    assert_non_null(want);
    int skip = p->start[i] * p->heads.dim / 2;
    const struct ref_attention a = {
        .heads = p->heads,
        .n_row = p->n_q[i],
        .n_key = p->n_key[i],
        .q = p->x_q[i],
        .k = p->x_k[i],
        .v = p->x_v[i],
        .gate = p->heads.gate == ACT_NONE ? NULL : p->gate[i],
        .angle_q = p->angle_q ? p->angle_q + skip : NULL,
        .angle_k = p->angle_k ? p->angle_k + skip : NULL,
    };
    ref_attention(test_mode(), want, &a);
    assert_like(p->alone[i], want, n, bound);
    free(want);
}

static void assert_any_batch(struct run *r, const struct problem *p)
{
    static const int batch[3][N_SEQ] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 3, 1}};
    float *out = malloc((size_t)(N_SEQ * 64 * p->out) * sizeof *out);
    assert_non_null(out);
    float *const to[N_SEQ] = {out, out + 64 * p->out, out + 128 * p->out, out + 192 * p->out};
    for (int b = 0; b < 3; b++)
        for (int n = 2; n <= N_SEQ; n += test_on_cuda() ? 2 : 1) {
            call(r, p, batch[b], n, to);
            for (int i = 0; i < n; i++)
                assert_same_bits(to[i], p->alone[batch[b][i]], p->n_q[batch[b][i]] * p->out,
                                 backend_describe(r->s.be), i);
        }
    free(out);
}

static void every_way(const struct shape *shape, bool rotate_q)
{
    struct problem p;
    problem_fill(&p, shape, rotate_q);
    for (int way = 0; way < N_WAY; way++) {
        struct run r;
        if (!run_open(&r, &p, way))
            continue;
        if (way == 0) {
            each_alone(&r, &p);
            for (int i = 0; i < N_SEQ; i++)
                assert_like_reference(&p, i, 2e-6);
        }
        assert_any_batch(&r, &p);
        run_close(&r);
    }
    problem_free(&p);
}

static void every_shape_every_way(void **state)
{
    (void)state;
    for (int shape = 0; shape < N_SHAPE; shape++)
        every_way(&shapes[shape], shape % 2);
}

/* A query row has the same bits whichever others stand around it in its own sequence. */
static void a_row_in_fewer_rows(void **state)
{
    (void)state;
    struct problem p;
    problem_fill(&p, &shapes[0], false);
    for (int way = 0; way < N_WAY; way++) {
        struct run r;
        if (!run_open(&r, &p, way))
            continue;
        if (way == 0)
            each_alone(&r, &p);
        for (int from = 0; from < p.n_q[2]; from += 7) {
            struct problem few = p;
            few.x_q[2] += from * p.q;
            few.n_q[2] = p.n_q[2] - from < 5 ? p.n_q[2] - from : 5;
            float out[5 * 4 * 32], *to = out;
            const int seq = 2;
            call(&r, &few, &seq, 1, &to);
            assert_same_bits(out, p.alone[2] + from * p.out, few.n_q[2] * p.out,
                             backend_describe(r.s.be), from);
        }
        run_close(&r);
    }
    problem_free(&p);
}

/* Wider than what the scratch packs at once: 20 heads of 32 = 640 columns. */
static void more_heads_than_fit(void **state)
{
    (void)state;
    every_way(&(const struct shape){{20, 20, 32, ACT_SIGMOID}, true, 45}, true);
}

static void nothing_of_its_companions(void **state)
{
    (void)state;
    struct problem p;
    problem_fill(&p, &shapes[1], false);
    for (int way = 0; way < N_WAY; way++) {
        struct run r;
        if (!run_open(&r, &p, way))
            continue;
        if (way == 0)
            each_alone(&r, &p);
        struct problem mixed = p;
        mixed.x_v[2] = random_values((int64_t)p.n_key[2] * p.kv, NAN, 0);
        mixed.x_k[2] = random_values((int64_t)p.n_key[2] * p.kv, INFINITY, 0);
        float *out = malloc((size_t)(3 * 64 * p.out) * sizeof *out);
        assert_non_null(out);
        float *const to[3] = {out, out + 64 * p.out, out + 128 * p.out};
        call(&r, &mixed, (const int[]){0, 2, 3}, 3, to);
        assert_same_bits(to[0], p.alone[0], p.n_q[0] * p.out, backend_describe(r.s.be), 0);
        assert_same_bits(to[2], p.alone[3], p.n_q[3] * p.out, backend_describe(r.s.be), 3);
        assert_true(isnan(to[1][0]));
        free(out);
        free(mixed.x_v[2]);
        free(mixed.x_k[2]);
        run_close(&r);
    }
    problem_free(&p);
}

static void recorded_bits(void **state)
{
    (void)state;
    struct problem p;
    problem_fill(&p, &shapes[1], false);
    struct run r;
    assert_true(run_open(&r, &p, 0));
    each_alone(&r, &p);
    assert_bits_recorded(p.alone[0], (size_t)(p.n_q[0] * p.out), 0x7D13C87C6A34911A);
    run_close(&r);
    problem_free(&p);
}

static void what_does_not_fit(void **state)
{
    (void)state;
    struct problem p;
    problem_fill(&p, &shapes[1], true);
    struct run r;
    assert_true(run_open(&r, &p, 0));
    const struct chunk q = {2, 0, 50}, k = {2, 0, 13};
    const int32_t q_at[] = {0, 50}, k_at[] = {0, 13}, no_keys[] = {0, 0}, far[] = {MAX_POS - 12};
    const struct full_attention good = {
        .out = chunks_zero(r.s.be, p.out, &q, 1),
        .q = chunks_in(r.s.be, p.x_q, p.q, &q, 1),
        .k = chunks_in(r.s.be, p.x_k, p.kv, &k, 1),
        .v = chunks_in(r.s.be, p.x_v, p.kv, &k, 1),
        .gate_in = chunks_in(r.s.be, p.gate, p.out, &q, 1),
        .heads = p.heads,
        .rope_q = r.rope_q,
        .rope_k = r.rope_k,
        .q_rows = {1, q_at, NULL},
        .kv_rows = {1, k_at, NULL},
    };
    struct full_attention bad[9];
    for (int i = 0; i < 9; i++)
        bad[i] = good;
    bad[0].kv_rows.start = far;
    bad[1].k.rows = bad[1].v.rows = 0;
    bad[1].kv_rows.offset = no_keys;
    bad[2].kv_rows.n_seq = 0;
    bad[3].v.cols--;
    bad[4].gate_in.rows--;
    bad[5].heads.n_q = 3;
    bad[6].q.cols--;
    bad[7].heads.dim = 0;
    bad[8].q_rows.offset = k_at;
    for (int i = 0; i < 9; i++)
        assert_status(RXT_ESHAPE, op_full_attention(r.s.ln, &bad[i]));
    assert_untouched(r.s.be, good.out);
    guarded_take(r.s.be, good.q, NULL);
    guarded_take(r.s.be, good.k, NULL);
    guarded_take(r.s.be, good.v, NULL);
    guarded_take(r.s.be, good.gate_in, NULL);
    run_close(&r);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_every_way),
        cmocka_unit_test(a_row_in_fewer_rows),
        cmocka_unit_test(more_heads_than_fit),
        cmocka_unit_test(nothing_of_its_companions),
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
