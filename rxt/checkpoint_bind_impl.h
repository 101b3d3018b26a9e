/* How checkpoint_*.c find tensors: ask for a name and a shape, get a view, count the parameters.
 * The first failure sticks and later requests give empty views, so that the tables of names read
 * like tables. */
#ifndef RXT_CHECKPOINT_BIND_IMPL_H
#define RXT_CHECKPOINT_BIND_IMPL_H

#include "rxt/checkpoint_impl.h"
#include "rxt/safetensors_impl.h"

struct bind {
    struct checkpoint *ck;
    const struct safetensors *files; /* NULL: every tensor exists and is a piece of the pool */
    bool *used;                      /* one a tensor of files */
    const void *pool;                /* bf16; NULL: views without data, for counting */
    uint64_t pool_n, pool_at;        /* values; where the next piece begins */
    uint64_t *count;                 /* the component's parameters */
    uint64_t largest;                /* values of the largest tensor */
    uint64_t n_of[3];                /* values by enum dtype */
    struct rxt_error *err;
    enum rxt_status st;
};

/* A name below a prefix: "decoder.model." + "layers.3." */
struct bind_name {
    char text[256];
};
struct bind_name bind_join(const char *prefix, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

bool bind_ends_with(const char *name, const char *end);

/* True if the file has prefix + name. Without files: never. */
bool bind_has(const struct bind *b, const char *prefix, const char *name);
/* True if the file has a tensor whose name begins with the prefix. */
bool bind_has_prefix(const struct bind *b, const char *prefix);
/* Marks a tensor that is not wanted, if it is there. */
void bind_ignore(struct bind *b, const char *prefix, const char *name);
/* The backend's name of a tensor's dtype; false if it has none. */
bool bind_dtype(const struct st_tensor *t, enum dtype *out);

/* prefix + name with exactly this shape, counted as parameters. */
struct host_matrix bind_matrix(struct bind *b, const char *prefix, const char *name, int64_t rows,
                               int64_t cols);
struct host_vector bind_vector(struct bind *b, const char *prefix, const char *name, int64_t n);
/* A vector that is stored as [rows, cols]. */
struct host_vector bind_vector_2d(struct bind *b, const char *prefix, const char *name,
                                  int64_t rows, int64_t cols);
/* The same for a statistic of training that inference reads: it is no parameter. */
struct host_vector bind_statistic(struct bind *b, const char *prefix, const char *name,
                                  int64_t rows, int64_t cols);
/* [n, cols, rows]: n transposed matrices, of which the first; bind_slice gives the others. */
struct host_matrix bind_stack(struct bind *b, const char *prefix, const char *name, int64_t n,
                              int64_t rows, int64_t cols);
struct host_matrix bind_slice(struct host_matrix first, int64_t i);
/* Row i of a matrix as a vector. */
struct host_vector bind_row(struct host_matrix m, int64_t i);

/* The components; each reads its config from b->ck. permute: row_of for the projection that is not
 * rotated, or NULL (spec 2.3). */
void bind_decoder(struct bind *b, const char *prefix, const int32_t *permute);
void bind_encoder(struct bind *b, const char *prefix);
void bind_memory(struct bind *b, const char *prefix, const int32_t *permute);

/* Projections of one attention; prefix ends in its name and a dot. out_bias: out_proj has one. */
void bind_attention(struct bind *b, const char *prefix, const struct heads *h, int32_t embed_dim,
                    bool out_bias, struct ckpt_attention *out);
/* RMSNorm of spec 2.2, or LayerNorm. */
void bind_norm(struct bind *b, const char *prefix, bool rms, int32_t dim, struct norm_desc *out);
/* Dense feed-forward with biases; prefix ends in "ff." or the like. */
void bind_ff(struct bind *b, const char *prefix, const struct config_stack *s, int32_t hidden,
             struct ff_desc *out);
/* Routed and shared experts of either layout. The caller frees the two arrays in any case. */
void bind_moe(struct bind *b, const char *prefix, const struct config_stack *s,
              struct ckpt_moe *out);
/* rope.cache of the component at prefix, under whichever of its aliases is there. */
void bind_rope(struct bind *b, const char *prefix, double base, int32_t head_dim, int32_t seq_len,
               struct ckpt_rope *out);

#endif
