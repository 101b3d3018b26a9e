/* What the tests of the three attention ops share: head shapes, angles, lanes, comparisons. */
#ifndef RXT_TESTS_ATTENTION_H
#define RXT_TESTS_ATTENTION_H

#include "tests/kernels/row_op.h"
#include "tests/lib/test.h"
#include "tests/ref/ref.h"

#include <math.h>

#define MAX_POS 320 /* positions of the tables of angles */

/* A shape of heads with or without rotation; n_token: of the longest sequence tried with it. */
struct shape {
    struct heads heads;
    bool rope;
    int n_token;
};

/* Every case of spec 2.4 (mha, gqa, mqa, sqa, reverse), every width of a panel, odd sizes, more
 * queries a group than a tile has rows, every gate; sequences across one, two and three blocks. */
static const struct shape shapes[] = {
    {{4, 2, 32, ACT_NONE}, true, 300},     {{2, 2, 16, ACT_SIGMOID}, true, 140},
    {{2, 1, 64, ACT_NONE}, true, 140},     {{4, 2, 12, ACT_SILU}, true, 40},
    {{2, 4, 8, ACT_GELU}, true, 40},       {{8, 1, 24, ACT_RELU}, true, 40},
    {{3, 3, 2, ACT_LINEAR}, true, 40},     {{30, 1, 6, ACT_NONE}, false, 20},
    {{1, 3, 48, ACT_SIGMOID}, false, 40},  {{2, 1, 80, ACT_NONE}, true, 40},
    {{1, 1, 130, ACT_SIGMOID}, false, 40}, {{1, 1, 256, ACT_NONE}, true, 40},
};
enum { N_SHAPE = sizeof shapes / sizeof shapes[0] };

static inline int heads_out_cols(struct heads h)
{
    return (h.n_q > h.n_kv ? h.n_q : h.n_kv) * h.dim;
}
static inline int heads_gate_cols(struct heads h)
{
    return h.gate == ACT_NONE ? 0 : heads_out_cols(h);
}

/* As setting_open_way, with a lane that is wide enough for the shapes above. */
bool way_open(struct setting *s, int way);

/* Angles [MAX_POS, dim/2]; the caller frees. */
float *angles_of(int dim);
struct weight *rope_of(struct backend *be, const float *angle, int dim);

/* A deterministic stream of small numbers: at least 1, at most n. */
int small_number(uint64_t *state, int n);

/* Rows [from, from + n) of one of a test's sequences. */
struct chunk {
    int seq, from, n;
};
/* offset[0 .. n_chunk] of chunks that stand one after another. */
void chunk_offsets(int32_t *offset, const struct chunk *chunk, int n_chunk);
/* Those rows of part[seq], which has `cols` columns, guarded. */
struct tensor chunks_in(struct backend *be, float *const *part, int cols, const struct chunk *chunk,
                        int n_chunk);
/* A result of zeros for them, guarded; and taken again: out[c] gets the rows of chunk c. */
struct tensor chunks_zero(struct backend *be, int cols, const struct chunk *chunk, int n_chunk);
void chunks_out(struct backend *be, struct tensor t, const struct chunk *chunk, int n_chunk,
                float *const out[]);
/* A result that is still zeros with whole guards, after calls that were refused; frees it. */
void assert_untouched(struct backend *be, struct tensor t);

#endif
