/* The one door to arithmetic: tensors, weights in a backend's own layout, lanes, and the model's
 * fused steps ("ops") over ragged packed batches. It knows tensors, not models.
 *
 * Letters as in docs/rxt.md: R rows of a packed batch, D embed_dim, hd head size, Hq/Hk query and
 * key-value heads, Ho = max(Hq,Hk), S slots, V vocabulary, F hidden width, E experts.
 *
 * Same bits rule: a row of a result depends on nothing but that row's own inputs and, in attention,
 * its own sequence; not on other rows, their number, the thread count, the lane or the chunking
 * of a prefill. Every output is one reduction in an order fixed by its shape.
 *
 * Threads: a backend is shared; a lane, and everything written through it, belongs to one thread
 * at a time. Weights are immutable after creation and may be read from every lane. Ops start in
 * the order of their calls; on a device they may still run when the call returns: lane_sync()
 * waits, and it is where faults surface (RXT_EDEVICE, for good: destroy the backend). */
#ifndef RXT_KERNELS_BACKEND_H
#define RXT_KERNELS_BACKEND_H

#include "kernels/base/bf16.h"
#include "kernels/base/f16.h"
#include "kernels/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ---- tensors ---------------------------------------------------------------------------- */

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16 };
size_t dtype_bytes(enum dtype t);
const char *dtype_name(enum dtype t); /* "f32", "bf16", "f16" */

/* Element i of an array in host memory, of any alignment, as float32 (exact). */
static inline float dtype_value(const void *data, enum dtype t, size_t i)
{
    const char *p = (const char *)data + i * (t == DTYPE_F32 ? sizeof(float) : sizeof(bf16));
    float f;
    uint16_t half;
    if (t == DTYPE_F32) {
        memcpy(&f, p, sizeof f);
        return f;
    }
    memcpy(&half, p, sizeof half);
    return t == DTYPE_BF16 ? bf16_to_f32(half) : f16_to_f32(half);
}

/* A row-major matrix in the backend's memory, lent by whoever allocated it. Element (r,c) lies at
 * data + (r * stride + c) * dtype_bytes. A view of some columns keeps the stride of the whole. */
struct tensor {
    void *data;
    enum dtype dtype;
    int32_t rows, cols;
    int64_t stride; /* in elements, >= cols */
};

/* Columns [first, first + n) of t. */
struct tensor tensor_cols(struct tensor t, int32_t first, int32_t n);
/* Rows [first, first + n) of t. */
struct tensor tensor_rows(struct tensor t, int32_t first, int32_t n);

/* Rows of several sequences, one after another, without padding: sequence i owns the rows
 * [offset[i], offset[i+1]) and its first row stands at position start[i] of its interaction. */
struct ragged {
    int32_t n_seq;
    const int32_t *offset; /* n_seq + 1 values, rising, offset[0] = 0; host memory */
    const int32_t *start;  /* n_seq values, or NULL for zeros; host memory */
};

/* ---- backend and lanes ------------------------------------------------------------------ */

struct backend; /* opaque: device, thread pool, kernels */
struct lane;    /* opaque: an order of ops (a stream) with its scratch memory */

struct backend_config {
    const char *name; /* "cpu", "cuda" or "auto" (NULL): cuda if a device is there */
    int n_thread;     /* CPU compute threads, the caller's included; 0 = all of the process */
    enum dtype dtype; /* what cuda computes in, F32 or BF16; the CPU always in F32 */
};

/* Gives *out. EINVAL (unknown name, threads out of range), EUNSUPPORTED (not built in, no device,
 * RXT_ISA beyond the machine), ENOMEM; err says which. */
enum rxt_status backend_create(struct backend **out, const struct backend_config *cfg,
                               struct rxt_error *err);
void backend_destroy(struct backend **be); /* NULL-safe; after its lanes and weights */

const char *backend_name(const struct backend *be); /* "cpu" */
const char *
backend_bit_class(const struct backend *be); /* "cpu-f32/1": arithmetic / kernel number */
const char *backend_describe(const struct backend *be); /* "cpu, avx512, 2 threads" */
enum dtype backend_act_dtype(const struct backend *be); /* of activations */
/* Whether memories that are updated together take less time than one after another, by weights of
 * so many bytes: a device that one does not fill, weights that no cache holds. */
bool backend_batch_pays(const struct backend *be, size_t weight_bytes);
/* Why the device can not be used any more; NULL while it works. Once it has failed all calls give
 * RXT_EDEVICE, or RXT_ENOMEM, until the process is started again. Any thread; the text stays. */
const char *backend_failure(const struct backend *be);

/* Memory the backend computes in, zeroed, aligned to 64 bytes. NULL when out of memory. */
void *backend_alloc(struct backend *be, size_t bytes);
void backend_free(struct backend *be, void *p); /* NULL-safe */

/* The largest call a lane will see; its scratch memory is sized by it once. A larger call is
 * ESHAPE, never an allocation. */
struct lane_limits {
    int32_t max_rows;   /* R of any op */
    int32_t max_seq;    /* sequences of any op */
    int32_t max_keys;   /* keys one query row attends to: tokens of a turn, or S */
    int32_t max_width;  /* D, F, columns of a linear: the widest row of any op but the head */
    int32_t max_vocab;  /* V; 0 if the lane never runs head or sample */
    int32_t max_expert; /* E; 0 without MoE */
    int32_t max_active; /* experts of a token, K + shared ones; 0 without MoE */
    int32_t max_branch; /* branches of a step, at most 16; 0 or 1: the lane is one order of ops */
};
enum lane_priority { LANE_ANSWER, LANE_MEMORY }; /* memory yields to answers (design 3) */

/* Gives *out. ESHAPE: a limit below 1 (below 0 where 0 means without); ENOMEM. */
enum rxt_status lane_create(struct lane **out, struct backend *be, enum lane_priority priority,
                            const struct lane_limits *limits);
void lane_destroy(struct lane **ln);                 /* NULL-safe */
size_t lane_bytes(const struct lane *ln);            /* of its scratch memory */
struct backend *lane_backend(const struct lane *ln); /* lent: the one it was created on */
/* Waits until all ops and copies of the lane are over. EDEVICE. */
enum rxt_status lane_sync(struct lane *ln);
/* The ops between the two are one step: they may all start at its end only. A step that repeats
 * the ops, weights, tensors and numbers of rows of an earlier one of the lane costs a device one
 * start instead of one for every op; ids, positions, K/V and memories may be others. lane_sync
 * and copies start what was called so far; the step goes on. Memory that the ops use must live
 * until the end; lane_step_end must follow, also when an op has failed. EDEVICE. */
void lane_step_begin(struct lane *ln);
enum rxt_status lane_step_end(struct lane *ln);
/* Steps may be nested: the outermost is the one. In a step, the ops that follow go to branch
 * `branch`: behind what was put there before, and behind what is on branch `after` so far. Ops of
 * two branches may run side by side, so neither may write what the other uses. A step begins on
 * branch 0 and ends behind all of them. Branch 0 takes every op, the others all but moe_add, head,
 * sample, self_attention and cross_attention, which have most scratch memory. */
void lane_branch(struct lane *ln, int32_t branch, int32_t after);
/* Branches that the lane has, 1 to max_branch: more would not help this backend. */
int32_t lane_branches(const struct lane *ln);
/* For an answer lane between two of its steps: memory lanes are owed so many microseconds, by those
 * who wait for them. A device that cannot count for itself puts them first while it is much; the
 * CPU knows how long they have stood back. Returns at once. */
void lane_give_way(struct lane *ln, uint32_t us);
/* The lane has nothing to do for now: whoever stands back for it, or gives way to it, goes on at
 * once. Its next op ends that. */
void lane_rest(struct lane *ln);

/* Copies between host and backend memory, and inside the latter, in lane order; upload and download
 * wait for the copy. The two ranges must not overlap. EDEVICE. */
enum rxt_status lane_upload(struct lane *ln, void *dst, const void *src, size_t bytes);
enum rxt_status lane_download(struct lane *ln, void *dst, const void *src, size_t bytes);
enum rxt_status lane_copy(struct lane *ln, void *dst, const void *src, size_t bytes);

/* ---- weights ---------------------------------------------------------------------------- */
/* Made once at load, from host memory, into the backend's own layout. One opaque type with a kind
 * inside; a wrong kind is a bug (assert). Creation may run on the compute threads, not beside ops
 * of the same thread. Each weight_X gives *out and keeps nothing of what it was made from (but for
 * weight_table). ESHAPE: parts that are missing or do not fit each other; ENOMEM. */

struct weight;
void weight_destroy(struct backend *be, struct weight **w); /* NULL-safe */
size_t weight_bytes(const struct weight *w);                /* resident for it */

/* A matrix in host memory. Row r, column c lies at data[row * cols + c] with row = row_of ?
 * row_of[r] : r, or at data[c * rows + r] if transposed (then row_of must be NULL). */
struct host_matrix {
    const void *data; /* NULL: absent */
    enum dtype dtype;
    int32_t rows, cols;
    bool transposed;
    const int32_t *row_of;
};
/* A vector in host memory; data NULL = absent. */
struct host_vector {
    const void *data;
    enum dtype dtype;
    int32_t n;
};

/* y = W x + b with W the parts one below the other (all of the same cols): projections that read
 * the same input are one matrix. bias: one a part, absent ones count as zero; NULL = none at all.
 * storage of this and the following: F32 or BF16 (rounded to nearest even). */
enum rxt_status weight_linear(struct weight **out, struct backend *be,
                              const struct host_matrix *part, const struct host_vector *bias,
                              int n_part, enum dtype storage);

/* Rows of a table, read one by one (embedding [V,D]). On the CPU it is used where it lies, so the
 * host memory must outlive the weight. */
enum rxt_status weight_table(struct weight **out, struct backend *be, const struct host_matrix *m);

/* Norms of spec 2.2 and 2.7. The kinds after LAYER mix: n = scale * normalised(x),
 * y = sig(gate) * n + (1 - sig(gate)) * x. */
enum norm_kind {
    NORM_RMS,       /* x * rsqrt(mean(x^2) + 2^-23) * weight */
    NORM_LAYER,     /* (x - mean) * rsqrt(var + 1e-5) * weight + bias */
    NORM_MIX_LAYER, /* 'layer': normalised = NORM_LAYER(x) */
    NORM_MIX_RMS,   /* 'rms', 'adaptive': x * rsqrt(sqrt(mean(x^2)) + 1e-6) */
    NORM_MIX_SLOT,  /* 'positional': x * rsqrt(ema_rms[slot] + 1e-6), slot = row mod S */
};
struct norm_desc {
    enum norm_kind kind;
    int32_t dim;
    struct host_vector weight, bias;  /* RMS: weight; LAYER and MIX_LAYER: both, [D] */
    struct host_vector scale;         /* mixes: [D], or [S] if scale_by_slot */
    bool scale_by_slot;               /* MIX_SLOT without per-dim scale; S may equal D */
    struct host_vector gate, ema_rms; /* mixes: [1] or (MIX_SLOT) [S]; ema_rms [S] */
};
enum rxt_status weight_norm(struct weight **out, struct backend *be, const struct norm_desc *d);

/* Rotary positions: angle [n_pos, hd/2] in float32, interleaved pairs in and out (spec 2.3). The
 * backend rounds angles, cos and sin to its compute dtype. */
enum rxt_status weight_rope(struct weight **out, struct backend *be, const float *angle,
                            int32_t n_pos, int32_t half_dim);

enum act { ACT_NONE, ACT_RELU, ACT_GELU, ACT_SILU, ACT_SIGMOID, ACT_LINEAR }; /* GELU: erf form */

/* Dense feed-forward. gated: [a|g] = W1 x + b1, y = W2 (a . act(g)) + b2, W1 [2F,D];
 * else y = W2 act(W1 x + b1) + b2, W1 [F,D]. W2 [D,F]. Biases may be absent. Spec 2.6. */
struct ff_desc {
    bool gated;
    enum act act;
    struct host_matrix w1, w2;
    struct host_vector b1, b2;
};
enum rxt_status weight_ff(struct weight **out, struct backend *be, const struct ff_desc *d,
                          enum dtype storage);

/* Mixture of experts, spec 2.6. All experts have one shape, all shared experts another. */
struct moe_desc {
    int32_t n_expert, top_k, n_shared;
    struct host_matrix router;      /* [E,D] */
    bool router_bf16;               /* router_amp: inputs, weights and logits rounded to bf16 */
    const struct ff_desc *expert;   /* E of them; biases only in mode 'local' */
    const struct ff_desc *shared;   /* n_shared of them */
    struct host_matrix shared_gate; /* [Ns,D] if n_shared > 1 */
    struct host_vector global_bias; /* [D], mode 'global' */
    struct host_vector shared_bias; /* [D], mode 'global' of the shared experts */
    bool weighted_shared;           /* routed * K/(K+Ns), shared * Ns/(K+Ns) */
};
enum rxt_status weight_moe(struct weight **out, struct backend *be, const struct moe_desc *d,
                           enum dtype storage);

/* Residual gate of memory attention, spec 2.7: out = blend of old and new by one number a slot. */
enum gate_kind {
    GATE_REPLACE,     /* disable_residual: out = new */
    GATE_ADD,         /* no gate: out = new + old */
    GATE_STATIC,      /* z = G */
    GATE_ELEMENTWISE, /* z = G * status */
    GATE_LINEAR,      /* z = Wg s + bg, mixes slots */
};
struct gate_desc {
    enum gate_kind kind;
    bool tanh;     /* g = tanh z, out = (1+g) new + (1-g) old; else sigmoid */
    bool per_slot; /* else one number for all slots */
    int32_t n_slot, dim;
    struct host_vector g;        /* STATIC, ELEMENTWISE: [S] or [1] */
    struct host_matrix w;        /* LINEAR: [S,S] or [1,S] */
    struct host_vector b;        /* LINEAR: [S] or [1] */
    struct host_vector status_w; /* slot_status 'linear': [D]; absent: mean over D */
    struct host_vector status_b; /* [1] */
};
enum rxt_status weight_gate(struct weight **out, struct backend *be, const struct gate_desc *d);

/* ---- keys and values -------------------------------------------------------------------- */

#define BACKEND_HEAD_MAX 256 /* hd of any attention: K/V and ops of a larger one are ESHAPE */

/* K and V of one turn: every self-attention layer, up to max_tokens. Written by op_self_attention,
 * layout private. The caller keeps the position; there is nothing to reset. */
struct kv;
struct kv_config {
    int32_t n_layer, n_kv_head, head_dim, max_tokens;
};
/* Bytes that a creation takes; 0 for what cannot be created. */
size_t kv_plan(const struct backend *be, const struct kv_config *cfg);
/* Gives *out. ESHAPE: a number below 1 or hd over BACKEND_HEAD_MAX; ENOMEM. */
enum rxt_status kv_create(struct kv **out, struct backend *be, const struct kv_config *cfg);
void kv_destroy(struct backend *be, struct kv **kv); /* NULL-safe */

/* K and V that memory cross-attention reads, of one version of one memory (spec 1.3). */
struct mem_kv;
struct mem_kv_config {
    int32_t n_layer, n_kv_head, head_dim, n_slot;
};
/* As the two above. */
size_t mem_kv_plan(const struct backend *be, const struct mem_kv_config *cfg);
enum rxt_status mem_kv_create(struct mem_kv **out, struct backend *be,
                              const struct mem_kv_config *cfg);
void mem_kv_destroy(struct backend *be, struct mem_kv **kv); /* NULL-safe */

/* ---- ops -------------------------------------------------------------------------------- */
/* Every op checks its shapes first (ESHAPE, nothing written) and counts itself (base/count.h); a
 * device that failed is EDEVICE. Tensors are in backend_act_dtype() unless said otherwise; in and
 * out must not overlap unless said otherwise. norm may be NULL: x as it is. None of them allocates.
 */

/* out[r,:] = table[id[r],:], r < R. ids in host memory, each in [0,V): else ESHAPE. */
enum rxt_status op_embed(struct lane *ln, struct tensor out, const struct weight *table,
                         const int32_t *id);

/* out[r,:] = W norm(x[r,:]) + b. norm NULL: W x + b. */
enum rxt_status op_linear(struct lane *ln, struct tensor out, struct tensor x,
                          const struct weight *norm, const struct weight *linear);
/* x[r,:] += W c[r,:] + b: the output projection with its residual. */
enum rxt_status op_linear_add(struct lane *ln, struct tensor x, struct tensor c,
                              const struct weight *linear);

struct heads {
    int32_t n_q, n_kv, dim; /* Hq, Hk, hd; scale 1/sqrt(hd); head mapping of spec 2.4 */
    enum act gate;          /* ACT_NONE, or context . act(gate input) */
};

/* Causal self-attention of new tokens over the turn's K/V. qkv [R, (Hq+2Hk)*hd], and Ho*hd more
 * columns of gate input if gated. K and V of row r are stored at its position, then row r attends
 * to the positions 0..its own: prefill, its chunks, decode steps and any mix are this one op.
 * out [R, Ho*hd]. kv: one a sequence. rope NULL: no rotation. Spec 2.3, 2.4. */
struct self_attention {
    struct tensor out, qkv;
    struct heads heads;
    const struct weight *rope;
    struct ragged rows;
    struct kv *const *kv;
    int32_t layer;
};
enum rxt_status op_self_attention(struct lane *ln, const struct self_attention *a);

/* Cross-attention to a memory: q [R, Hq*hd], and Ho*hd more columns of gate input if gated; rotated
 * by position; all slots attended. mem: one a sequence. out [R, Ho*hd]. Spec 1.3, 2.4. */
struct cross_attention {
    struct tensor out, q;
    struct heads heads;
    const struct weight *rope;
    struct ragged rows;
    const struct mem_kv *const *mem;
    int32_t layer;
};
enum rxt_status op_cross_attention(struct lane *ln, const struct cross_attention *a);

/* Attention without a mask inside each of n sequences: rows of q in `q_rows`, of k and v in
 * `kv_rows` (same n_seq). q [Rq, Hq*hd], k and v [Rk, Hk*hd], gate_in [Rq, Ho*hd] if gated.
 * rope_q, rope_k: NULL = not rotated. Memory encoder and memory attention. Spec 2.4, 2.7. */
struct full_attention {
    struct tensor out, q, k, v, gate_in;
    struct heads heads;
    const struct weight *rope_q, *rope_k;
    struct ragged q_rows, kv_rows;
};
enum rxt_status op_full_attention(struct lane *ln, const struct full_attention *a);

/* x[r,:] += FF(norm(x[r,:])). Spec 2.5, 2.6. */
enum rxt_status op_ff_add(struct lane *ln, struct tensor x, const struct weight *norm,
                          const struct weight *ff);
/* x[r,:] += MoE(norm(x[r,:])); experts of equal probability: the lower index wins. */
enum rxt_status op_moe_add(struct lane *ln, struct tensor x, const struct weight *norm,
                           const struct weight *moe);

/* logits[i,:] = W norm(x[row[i],:]) + b, i < logits.rows; float32. row in host memory. Spec 2.1. */
enum rxt_status op_head(struct lane *ln, struct tensor logits, struct tensor x, const int32_t *row,
                        const struct weight *norm, const struct weight *head);

/* How one token is drawn (spec 5): temperature 0 = greedy, lowest id wins a tie; top_k 0 and top_p
 * 0 or 1 = off. The draw is random_at(seed, RANDOM_SAMPLE, turn, position). choice: if n_choice > 0
 * the token is the one of these ids with the highest logit, the earlier one only if strictly
 * greater (thinking mode auto, spec 1.5), and nothing is drawn. */
struct sampling {
    float temperature;
    int32_t top_k;
    float top_p;
    uint64_t seed, turn;
    int32_t position;
    int32_t n_choice;
    int32_t choice[2];
};
/* id[i] from logits[i,:], float32, by how[i]; id is host memory, valid after lane_sync. EINVAL:
 * parameters out of range. Spec 5. */
enum rxt_status op_sample(struct lane *ln, int32_t *id, struct tensor logits,
                          const struct sampling *how);

/* K and V of layer `layer` from one memory: [K|V] = W norm(stm), W [2*Hk*hd, D], stm [S,D] in F32
 * or BF16. norm must be the same for all slots (not NORM_MIX_SLOT; spec 2.2 has no other). The same
 * bits whether built alone or in a batch. Spec 1.3. */
enum rxt_status op_mem_kv(struct lane *ln, struct mem_kv *out, int32_t layer, struct tensor stm,
                          const struct weight *norm, const struct weight *kv);

/* out = norm(x); [n*S,D] for memory norms (slot = row mod S). norm is not NULL. In place allowed.
 * Spec 2.2, 2.7. */
enum rxt_status op_norm(struct lane *ln, struct tensor out, struct tensor x,
                        const struct weight *norm);
/* out = (x[0] + x[1] + ... + x[n-1]) / n, in this order. */
enum rxt_status op_mean(struct lane *ln, struct tensor out, const struct tensor *x, int32_t n);
/* out = gate(old, new) over [n*S,D]: n memories, each blended alone. out may be old or new. Spec
 * 2.7. */
enum rxt_status op_gate(struct lane *ln, struct tensor out, struct tensor old, struct tensor new_,
                        const struct weight *gate);
/* What op_gate makes, converted into out, F32 or BF16, as by op_convert, and *finite of that as by
 * op_finite. via: like old, may be new_; what it holds then is not said. */
enum rxt_status op_gate_store(struct lane *ln, struct tensor out, bool *finite, struct tensor via,
                              struct tensor old, struct tensor new_, const struct weight *gate);
/* Copies, with conversion between F32 and BF16 (nearest even) where the dtypes differ. */
enum rxt_status op_convert(struct lane *ln, struct tensor out, struct tensor x);
/* *finite = no element of x, F32 or BF16, is NaN or infinite; host memory, valid after lane_sync.
 */
enum rxt_status op_finite(struct lane *ln, bool *finite, struct tensor x);

/* ---- what the machine could do at most -------------------------------------------------- */

/* Measured on the backend's own threads, in the given time budget; for `rxt bench` only. EINVAL: no
 * time at all; ENOMEM. */
struct backend_ceiling {
    double flops;         /* float32 multiply-add = 2, a second */
    double cache_bytes_s; /* reads from the last level cache (8 MB working set) */
    double dram_bytes_s;  /* reads from memory */
};
enum rxt_status backend_measure(struct backend *be, int milliseconds, struct backend_ceiling *out);

#endif
