/* Shared by the files of the reference model: access to config and tensors, and the layers that
 * decoder, encoder and memory attention are made of (plain_*: ref_* are the ops of ref.h). */
#ifndef RXT_TESTS_REF_MODEL_IMPL_H
#define RXT_TESTS_REF_MODEL_IMPL_H

#include "tests/lib/tensor_file.h"
#include "tests/ref/model.h"

#include <jansson.h>

struct plain_part {   /* decoder, encoder or memory attention */
    const char *name; /* "decoder.model" */
    json_t *cfg;
    int dim, head_dim, n_layer, seq_len;
    float *angle; /* [seq_len, hd/2]; NULL without rotation */
};

struct ref_model {
    json_t *cfg;
    struct tensor_file file;
    bool bf16, split;
    struct plain_part decoder, encoder, memory;
};

/* Fields of a config object; the default where it is absent or null. */
int plain_int(const json_t *cfg, const char *field, int otherwise);
bool plain_bool(const json_t *cfg, const char *field, bool otherwise);
const char *plain_str(const json_t *cfg, const char *field, const char *otherwise);

/* The tensor of a printed name. _maybe: NULL if there is none; else its absence fails the test. */
const struct file_tensor *plain_maybe(const struct ref_model *m, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
const float *plain_weight(const struct ref_model *m, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

float *plain_floats(int n); /* zeroed; free() it */
/* v, rounded to bfloat16 if the model runs in it. */
float plain_round(const struct ref_model *m, double v);
/* sum_i a[i * step] * b[i] */
double plain_dot(const float *a, int step, const float *b, int n);
double plain_act(const char *name, double v);

/* y[r,:] = W x[r,:] + b of `name`.weight [out,in] and, if the file has it, `name`.bias. */
void plain_linear(const struct ref_model *m, const char *name, const float *x, int rows, int in,
                  float *y, int out);
/* RMSNorm or LayerNorm (spec 2.2) of `name`.weight and .bias. */
void plain_norm(const struct ref_model *m, const char *name, bool layer_norm, const float *x,
                int rows, int dim, float *y);

struct plain_attention {
    int n_q, n_kv;
    bool causal, rotate_q, rotate_k;
    const char *gate; /* activation, or NULL */
};
/* out [n,D] of the attention `name`: query input x [n,D], key and value input kv [n_kv_rows,D]. */
void plain_attend(const struct ref_model *m, const struct plain_part *part, const char *name,
                  const struct plain_attention *a, const float *x, int n, const float *kv,
                  int n_keys, float *out);
/* Head counts of spec 2.4, by the names of the fields. */
void plain_heads(const json_t *cfg, const char *type, const char *groups, const char *query_groups,
                 struct plain_attention *a);
/* The same for memory cross-attention, whose groups fall back to those of self-attention. */
void plain_cross_heads(const json_t *cfg, struct plain_attention *a);

/* y [n,D] = the feed-forward `name` (".ff") of x, dense or with experts. Spec 2.6. */
void plain_dense(const struct ref_model *m, const json_t *cfg, const char *name, const float *x,
                 int n, int dim, float *y);
void plain_moe(const struct ref_model *m, const json_t *cfg, const char *name, const float *x,
               int n, int dim, float *y);

#endif
