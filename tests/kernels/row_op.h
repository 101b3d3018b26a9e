/* The properties every op over independent rows has, checked on every instruction set of this
 * machine, with one and two threads, with weights stored as float32 and as bf16:
 *   - the result is within a bound of the reference;
 *   - a row has the same bits alone and in batches of any size, among other rows or NaN rows;
 *   - nothing outside the output is written, and rows may be strided;
 *   - creation of the weights survives running out of memory at any point;
 *   - the bits are those recorded: a change of them is a new kernel number (design 4). */
#ifndef RXT_TESTS_ROW_OP_H
#define RXT_TESTS_ROW_OP_H

#include "kernels/backend.h"
#include "tests/ref/ref.h"

#define ROW_OP_ROWS 64 /* of the largest batch */

enum row_op_kind {
    ROW_OP_STORE,    /* out = f(x) */
    ROW_OP_ADD,      /* out += f(x) */
    ROW_OP_IN_PLACE, /* x = f(x): out is x */
};

struct row_op {
    enum row_op_kind kind;
    int32_t in_cols, out_cols;
    bool out_f32; /* in every compute dtype */
    void *arg;    /* of the functions below */
    /* Weights into arg (a failure leaves none there), and away again. */
    enum rxt_status (*create)(void *arg, struct backend *be, enum dtype storage);
    void (*destroy)(void *arg, struct backend *be);
    enum rxt_status (*run)(void *arg, struct lane *ln, struct tensor out, struct tensor x);
    /* out[n_row, out_cols], which holds what the op finds there. */
    void (*ref)(void *arg, float *out, const float *x, int n_row);
    double bound;  /* of |result - reference| */
    uint64_t hash; /* of ROW_OP_ROWS results; values are drawn from seed 1 */
};
void row_op_check(const struct row_op *op);

/* ---- the backend under test ---- */

/* RXT_TEST_BACKEND: cuda-f32 or cuda-bf16, on a card or emulated (tests/emulator/); not set: the
 * CPU. What it computes in, and how the reference does the same. */
bool test_on_cuda(void);
enum ref_mode test_mode(void);
enum dtype test_dtype(void);

/* got is near the reference want: on the CPU |got - want| <= bound everywhere; on CUDA within 1e-5
 * (f32) or 4e-3 (bf16) in the Frobenius norm, and all but one in a thousand elements within one
 * step of bf16. */
void assert_like(const float *got, const float *want, size_t n, double bound);

/* A copy in the backend's memory (backend_free ends it), and back. */
void *to_backend(struct backend *be, const void *data, size_t bytes);
void from_backend(struct backend *be, void *data, const void *p, size_t bytes);

/* ---- what such tests are made of ---- */

/* A backend with one lane, of an instruction set ("scalar", ...) that this machine may lack:
 * false then. Limits that suit small tests. */
struct setting {
    struct backend *be;
    struct lane *ln;
};
bool setting_open(struct setting *s, const char *isa, int n_thread);
/* Every instruction set with one and with two threads: number way of N_WAY; 0 is scalar and one
 * thread, which every machine has. CUDA has two ways, the same but for the order in which the
 * emulator runs threads. */
enum { N_WAY = 6 };
bool setting_open_way(struct setting *s, int way);
void setting_close(struct setting *s);

/* n values N(0,1) * scale, each exact in bf16; the caller frees. stream: another one, other
 * values. */
float *random_values(int64_t n, float scale, uint64_t stream);
/* Views of such values. */
struct host_matrix matrix_of(const float *data, int32_t rows, int32_t cols);
struct host_vector vector_of(const float *data, int32_t n);

/* A copy of values[rows,cols] in the compute dtype (or another) with a padded stride, among guards;
 * guarded_take copies it out (NULL:
 * not), fails if a guard was written, and frees it. */
struct tensor guarded(struct backend *be, const float *values, int32_t rows, int32_t cols);
struct tensor guarded_as(struct backend *be, enum dtype dtype, const float *values, int32_t rows,
                         int32_t cols);
void guarded_take(struct backend *be, struct tensor t, float *values);
/* A copy in the compute dtype as the engine's own activations lie: aligned, without gaps. */
struct tensor aligned(struct backend *be, const float *x, int32_t n, int32_t cols);
void aligned_take(struct backend *be, struct tensor t, float *x);

void assert_same_bits(const float *a, const float *b, int32_t n, const char *what, int32_t row);
/* Fails, naming the new hash, if the values are not those whose hash was recorded for the CPU. The
 * classes of CUDA get theirs from a card. */
void assert_bits_recorded(const float *v, size_t n, uint64_t recorded);

/* K/V of a turn and of a memory, made and destroyed: for assert_survives_no_memory. */
enum rxt_status kv_create_both(void *backend);

#endif
