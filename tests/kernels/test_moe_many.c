/* A mixture of experts on the CUDA backend where another of its kernels takes over: more choices
 * than one block chooses and plans, more rows of an expert than an item has, more experts than 16 a
 * lane, more rows than a piece of the plan, shared experts of many rows. A row must come out as it
 * does alone. */
#include "kernels/backend.h"

#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"

enum { DIM = 64 };

struct mixture {
    int32_t n_expert, top_k, n_shared, n_row, width;
};

static struct ff_desc expert_of(const float *v, int32_t width)
{
    return (struct ff_desc){
        .gated = true,
        .act = ACT_SILU,
        .w1 = matrix_of(v, 2 * width, DIM),
        .w2 = matrix_of(v + 2 * width * DIM, DIM, width),
    };
}

/* Expert i begins i values further than the one before: all differ, and memory stays small. */
static struct weight *make(struct backend *be, const struct mixture *m, const float *v)
{
    struct ff_desc *expert = calloc((size_t)m->n_expert, sizeof *expert), shared[2];
    assert_non_null(expert);
    for (int32_t i = 0; i < m->n_expert; i++)
        expert[i] = expert_of(v + i, m->width);
    for (int32_t i = 0; i < 2; i++)
        shared[i] = expert_of(v + 7 * i + 3, m->width);
    const struct moe_desc d = {
        .n_expert = m->n_expert,
        .top_k = m->top_k,
        .n_shared = m->n_shared,
        .router = matrix_of(v, m->n_expert, DIM),
        .expert = expert,
        .shared = shared,
        .shared_gate = matrix_of(v + 11, m->n_shared, DIM),
    };
    struct weight *w;
    assert_ok(weight_moe(&w, be, &d, DTYPE_BF16));
    free(expert);
    return w;
}

static void run(struct backend *be, struct lane *ln, const struct weight *w, const float *x,
                int32_t n, float *out)
{
    struct tensor t = guarded(be, x, n, DIM);
    assert_ok(op_moe_add(ln, t, NULL, w));
    assert_ok(lane_sync(ln));
    guarded_take(be, t, out);
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
            .max_width = DIM > m.width ? DIM : m.width,
            .max_expert = m.n_expert,
            .max_active = m.top_k + m.n_shared,
        };
        struct lane *ln;
        size_t n = (size_t)m.n_row * DIM;
        float *v = random_values(m.n_expert * DIM + 3 * m.width * DIM + 64, 0.3f, 8);
        float *x = random_values((int64_t)n, 1.0f, 9), *all = malloc(n * sizeof *all);
        assert_non_null(all);
        assert_ok(lane_create(&ln, s.be, LANE_ANSWER, &limits));
        struct weight *w = make(s.be, &m, v);
        run(s.be, ln, w, x, m.n_row, all);
        for (int32_t r = 0; r < m.n_row; r += step) {
            float alone[DIM];
            run(s.be, ln, w, x + r * DIM, 1, alone);
            assert_same_bits(all + r * DIM, alone, DIM, "mixture", r);
        }
        weight_destroy(s.be, &w);
        lane_destroy(&ln);
        setting_close(&s);
        free(v);
        free(x);
        free(all);
    }
}

static void more_choices_than_a_block(void **state)
{
    (void)state;
    check((struct mixture){.n_expert = 12, .top_k = 9, .n_shared = 2, .n_row = 128, .width = 128});
    check((struct mixture){.n_expert = 70, .top_k = 33, .n_shared = 2, .n_row = 31, .width = 8});
}

static void more_experts_than_registers(void **state)
{
    (void)state;
    check((struct mixture){.n_expert = 513, .top_k = 5, .n_shared = 2, .n_row = 20, .width = 8});
}

static void more_rows_than_a_piece(void **state)
{
    (void)state;
    check((struct mixture){.n_expert = 2048, .top_k = 1, .n_shared = 2, .n_row = 515, .width = 8});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_choices_than_a_block),
        cmocka_unit_test(more_experts_than_registers),
        cmocka_unit_test(more_rows_than_a_piece),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
