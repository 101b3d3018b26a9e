/* A mixture of experts on the CUDA backend where another of its kernels takes over: more choices
 * than one block chooses and plans, more rows of an expert than an item has, more experts than 16 a
 * lane, more rows than a piece of the plan, shared experts of many rows, an expert of more rows
 * than its blocks take at once, more tiles than a launch has blocks, up to 8 rows that are aligned.
 * A row must come out as it does alone or among a few, aligned or not. */
#include "kernels/backend.h"

#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"

struct mixture {
    int32_t dim, n_expert, top_k, n_shared, n_row, width;
    bool biased;
};

static struct ff_desc expert_of(const struct mixture *m, const float *v)
{
    int32_t dim = m->dim, width = m->width;
    return (struct ff_desc){
        .gated = true,
        .act = ACT_SILU,
        .w1 = matrix_of(v, 2 * width, dim),
        .w2 = matrix_of(v + 2 * width * dim, dim, width),
        .b1 = vector_of(m->biased ? v + 5 : NULL, 2 * width),
        .b2 = vector_of(m->biased ? v + 9 : NULL, dim),
    };
}

/* Expert i begins i values further than the one before: all differ, and memory stays small. */
static struct weight *make(struct backend *be, const struct mixture *m, const float *v)
{
    struct ff_desc *expert = calloc((size_t)m->n_expert, sizeof *expert), shared[2];
    assert_non_null(expert);
    for (int32_t i = 0; i < m->n_expert; i++)
        expert[i] = expert_of(m, v + i);
    for (int32_t i = 0; i < 2; i++)
        shared[i] = expert_of(m, v + 7 * i + 3);
    const struct moe_desc d = {
        .n_expert = m->n_expert,
        .top_k = m->top_k,
        .n_shared = m->n_shared,
        .router = matrix_of(v, m->n_expert, m->dim),
        .expert = expert,
        .shared = shared,
        .shared_gate = matrix_of(v + 11, m->n_shared, m->dim),
        .global_bias = vector_of(m->biased ? v + 21 : NULL, m->dim),
        .shared_bias = vector_of(m->biased && m->n_shared > 0 ? v + 31 : NULL, m->dim),
        .weighted_shared = m->biased,
    };
    struct weight *w;
    assert_ok(weight_moe(&w, be, &d, DTYPE_BF16));
    free(expert);
    return w;
}

static void run(struct backend *be, struct lane *ln, const struct weight *w, const float *x,
                int32_t n, int32_t dim, bool is_aligned, float *out)
{
    struct tensor t = is_aligned ? aligned(be, x, n, dim) : guarded(be, x, n, dim);
    assert_ok(op_moe_add(ln, t, NULL, w));
    assert_ok(lane_sync(ln));
    if (is_aligned)
        aligned_take(be, t, out);
    else
        guarded_take(be, t, out);
}

/* The first n rows among themselves, aligned, against those of `all`. */
static void check_few(struct backend *be, struct lane *ln, const struct weight *w, const float *x,
                      int32_t n, int32_t dim, const float *all)
{
    float *few = malloc((size_t)n * (size_t)dim * sizeof *few);
    assert_non_null(few);
    run(be, ln, w, x, n, dim, true, few);
    for (int32_t r = 0; r < n; r++)
        assert_same_bits(all + r * dim, few + r * dim, dim, "of a few", r);
    free(few);
}

static void check(struct mixture m)
{
    struct setting s;
    int32_t step = m.n_row > 200 ? 37 : 7;
    for (int way = 0; setting_open_way(&s, way); way++) {
        const struct lane_limits limits = {
            .max_rows = m.n_row,
            .max_seq = 1,
            .max_keys = 1,
            .max_width = m.dim > m.width ? m.dim : m.width,
            .max_expert = m.n_expert,
            .max_active = m.top_k + m.n_shared,
        };
        struct lane *ln;
        size_t n = (size_t)m.n_row * (size_t)m.dim;
        float *v = random_values(m.n_expert * m.dim + 3 * m.width * m.dim + 64, 0.3f, 8);
        float *x = random_values((int64_t)n, 1.0f, 9), *all = malloc(n * sizeof *all);
        float *alone = malloc((size_t)m.dim * sizeof *alone);
        assert_true(all && alone);
        assert_ok(lane_create(&ln, s.be, LANE_ANSWER, &limits));
        struct weight *w = make(s.be, &m, v);
        run(s.be, ln, w, x, m.n_row, m.dim, false, all);
        for (int32_t r = 0; r < m.n_row; r += step) {
            run(s.be, ln, w, x + r * m.dim, 1, m.dim, r / step % 2 == 0, alone);
            assert_same_bits(all + r * m.dim, alone, m.dim, "mixture", r);
        }
        for (int32_t few = 2; few <= 8; few += 3)
            check_few(s.be, ln, w, x, few, m.dim, all);
        weight_destroy(s.be, &w);
        lane_destroy(&ln);
        setting_close(&s);
        free(v);
        free(x);
        free(all);
        free(alone);
    }
}

static void more_choices_than_a_block(void **state)
{
    (void)state;
    check((struct mixture){
        .dim = 64, .n_expert = 12, .top_k = 9, .n_shared = 2, .n_row = 128, .width = 128});
    check((struct mixture){
        .dim = 64, .n_expert = 70, .top_k = 33, .n_shared = 2, .n_row = 31, .width = 8});
}

static void more_experts_than_registers(void **state)
{
    (void)state;
    check((struct mixture){
        .dim = 64, .n_expert = 513, .top_k = 5, .n_shared = 2, .n_row = 20, .width = 8});
}

static void more_rows_than_a_piece(void **state)
{
    (void)state;
    check((struct mixture){
        .dim = 64, .n_expert = 2048, .top_k = 1, .n_shared = 2, .n_row = 515, .width = 8});
}

/* 200 choices of 4 experts: one of them has at least 50 rows, more than the 32 that a block takes
 * at once, and its ranges of 9 tiles are read again for the later ones. */
static void long_rows(void **state)
{
    (void)state;
    check((struct mixture){.dim = 576, .n_expert = 4, .top_k = 2, .n_row = 100, .width = 8});
}

/* Slices of a tile and a tail, of a tail, of two tiles; ten experts, or as many as are held of two
 * tiles; one shared expert, two, none. */
static void rows_of_a_step(void **state)
{
    (void)state;
    check((struct mixture){
        .dim = 80, .n_expert = 24, .top_k = 10, .n_shared = 1, .n_row = 9, .width = 192});
    check((struct mixture){.dim = 64,
                           .n_expert = 40,
                           .top_k = 4,
                           .n_shared = 2,
                           .n_row = 9,
                           .width = 256,
                           .biased = true});
    check((struct mixture){
        .dim = 64, .n_expert = 33, .top_k = 3, .n_row = 9, .width = 40, .biased = true});
}

/* Experts of 192 hidden units, whose ranges end with half a tile: 76 to 100 rows each, more than
 * one item has, and two shared ones beside them; then 32 rows and fewer, 16 and fewer. */
static void items_of_many_rows(void **state)
{
    (void)state;
    static const int32_t n_expert[] = {4, 14, 40};
    for (size_t i = 0; i < sizeof n_expert / sizeof *n_expert; i++)
        check((struct mixture){.dim = 256,
                               .n_expert = n_expert[i],
                               .top_k = 3,
                               .n_shared = 2,
                               .n_row = 100,
                               .width = 192});
}

/* Experts of 20 rows whose tiles are more than the blocks of a launch: each block goes on. */
static void more_tiles_than_blocks(void **state)
{
    (void)state;
    check((struct mixture){
        .dim = 192, .n_expert = 40, .top_k = 10, .n_shared = 1, .n_row = 20, .width = 256});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_choices_than_a_block),
        cmocka_unit_test(more_experts_than_registers),
        cmocka_unit_test(more_rows_than_a_piece),
        cmocka_unit_test(long_rows),
        cmocka_unit_test(rows_of_a_step),
        cmocka_unit_test(items_of_many_rows),
        cmocka_unit_test(more_tiles_than_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
