/* The plain-loop reference of every op: float arrays in, float arrays out, one sequence or one
 * memory at a time, rows without padding, nothing clever. Never shipped; the oracle of cpu/ in
 * float32 and of the GPU in both modes.
 *
 * REF_F32: every value is a float32, sums are taken in double, so that the reference has no order
 * of summation of its own. REF_BF16: inputs are taken to be bf16 values already, and results are
 * rounded to bf16 at the points of spec 6.1; what the spec keeps in float32 stays wide here. Where
 * 6.1 is silent (the mixing memory norms) the inside is wide and the output is rounded once.
 *
 * Descriptors are those of backend.h with float32 vectors and matrices, not transposed and not
 * permuted. Shapes are the callers' business. */
#ifndef RXT_TESTS_REF_H
#define RXT_TESTS_REF_H

#include "kernels/base/bf16.h"
#include "kernels/backend.h"

enum ref_mode { REF_F32, REF_BF16 };

/* x as the mode stores it. */
static inline float ref_round(enum ref_mode mode, double x)
{
    float f = (float)x;
    return mode == REF_BF16 ? bf16_to_f32(bf16_from_f32(f)) : f;
}

/* act(x), rounded; ACT_NONE and ACT_LINEAR are x. Spec 2.6. */
float ref_act(enum ref_mode mode, enum act act, float x);

/* out[r,:] = table[id[r],:]. */
void ref_embed(float *out, const float *table, const int32_t *id, int n_row, int dim);

/* One head in place by its angles [dim/2], interleaved pairs. Spec 2.3. */
void ref_rope(enum ref_mode mode, float *x, int dim, const float *angle);

/* Attention of n_row query rows over n_key keys of one sequence. q [n_row, Hq*hd], k and v
 * [n_key, Hk*hd], gate [n_row, Ho*hd] or NULL, out [n_row, Ho*hd]. Query row r stands at position
 * first + r, key t at position t; a causal row sees the keys up to its own position. angle_q,
 * angle_k: [n_pos, hd/2] or NULL. Spec 2.4. */
struct ref_attention {
    struct heads heads;
    int n_row, n_key, first;
    bool causal;
    const float *q, *k, *v, *gate;
    const float *angle_q, *angle_k;
};
void ref_attention(enum ref_mode mode, float *out, const struct ref_attention *a);

/* out[r,:] = norm(x[r,:]) by d; slot = r mod d->ema_rms.n for NORM_MIX_SLOT. */
void ref_norm(enum ref_mode mode, float *out, const float *x, int n_row, const struct norm_desc *d);

/* out[r,:] = W x[r,:] + b; bias NULL or absent: zero. The head is this in float32. */
void ref_linear(enum ref_mode mode, float *out, const float *x, int n_row,
                const struct host_matrix *w, const struct host_vector *bias);
/* x[i] += y[i]: a residual. */
void ref_add(enum ref_mode mode, float *x, const float *y, int n_value);

/* out[r,:] = FF(x[r,:]), without norm and residual. Spec 2.6. */
void ref_ff(enum ref_mode mode, float *out, const float *x, int n_row, const struct ff_desc *d);
/* out[r,:] = MoE(x[r,:]), without norm and residual. Spec 2.6, 6.1. */
void ref_moe(enum ref_mode mode, float *out, const float *x, int n_row, const struct moe_desc *d);

/* out[i] = mean of x[0][i] .. x[n-1][i]. */
void ref_mean(enum ref_mode mode, float *out, const float *const *x, int n, int n_value);

/* out = gate(old, new) of one memory [S,D]. Spec 2.7. */
void ref_gate(enum ref_mode mode, float *out, const float *old, const float *new_,
              const struct gate_desc *d);

/* The id drawn from logits[n_vocab] by `how`, by sorting everything. Spec 5, backend.h. */
int32_t ref_sample(const float *logits, int n_vocab, const struct sampling *how);
/* Which ids remain after temperature, top-k and top-p: kept[n_vocab]. */
void ref_sample_kept(const float *logits, int n_vocab, const struct sampling *how, bool *kept);

#endif
