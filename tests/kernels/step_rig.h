/* What the tests of steps share: a layer between embedding and head, run op by op or as a step, and
 * a step of branches. */
#ifndef RXT_TESTS_STEP_RIG_H
#define RXT_TESTS_STEP_RIG_H

#include "kernels/base/count.h"
#include "tests/emulator/emulator.h"
#include "tests/kernels/attention.h"

/* Not there on a card. */
__attribute__((weak)) void emulator_fail(enum emulated_fault fault);
__attribute__((weak)) struct emulated_counts emulator_counts(void);
__attribute__((weak)) void emulator_backwards(bool backwards);

/* ---- a layer ---- */

enum { V = 20, D = 32, F = 40, HD = 16, N_Q = 2, N_KV = 1, S = 70, N_SEQ = 4, N_EXPERT = 6 };
enum { QKV = (N_Q + 2 * N_KV) * HD, ROWS = 24, TOKENS = 200 };

struct layer {
    struct setting s;
    struct weight *table, *rope, *norm, *qkv, *out, *q, *moe, *head;
    struct kv *kv[N_SEQ];
    struct mem_kv *mem[N_SEQ];
    void *x, *projected, *context, *logits;
};
void layer_open(struct layer *l);
void layer_close(struct layer *l);

/* Rows of a call: of each sequence in turn `n` more tokens. */
struct call {
    int n_seq, n[N_SEQ], start[N_SEQ], place[N_SEQ]; /* place: of K/V and memory */
    int32_t id[ROWS];
};
/* The tokens of round r; every sequence has `n` of them behind its `start`. */
struct call call_of(int r, int n_seq, int n, const int start[N_SEQ]);
/* The ops of a call; the last row of each sequence gets logits. */
enum rxt_status run(struct layer *l, const struct call *c);
/* The same as a step, with something else on the stack every time, as of other callers. */
enum rxt_status run_step(struct layer *l, const struct call *c);
void logits_of(struct layer *l, const struct call *c, float *out); /* [n_seq,V] */
/* Runs the call as a step of one layer and op by op on the other: the same bits. */
void check_call(struct layer *step, struct layer *plain, const struct call *c);
/* So many steps ran since, and so many of them were replayed. */
void assert_steps(const struct count *before, uint64_t steps, uint64_t replayed);

float *numbers(int64_t n, uint64_t stream);
struct weight *linear_of(struct backend *be, int32_t rows, int32_t cols, uint64_t stream);
struct tensor view(void *data, int32_t rows, int32_t cols); /* in the compute dtype */

/* ---- branches ---- */

enum { BRANCHES = 4 };
/* A memory lane with max_branch branches, and room for a step of BRANCHES in the layer. */
struct lane *branches_open(struct layer *l, int32_t max_branch);
/* Chains on branches, met on branch 0 by a mean, gone on with from there on all of them, and what
 * the lot comes to (out[ROWS,D]): of a lane with branches, and of one without, where it is all in
 * one order. */
void branched(struct layer *l, struct lane *ln, int shift, float *out);

#endif
