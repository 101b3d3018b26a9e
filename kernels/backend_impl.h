/* What the fronts of the room (backend.c, weights.c, ops.c) share with the backends below them.
 *
 * The fronts check shapes and count; a backend's functions are called with arguments that fit
 * and with rows > 0. Every backend puts one of these structs first in its own. */
#ifndef RXT_KERNELS_BACKEND_IMPL_H
#define RXT_KERNELS_BACKEND_IMPL_H

#include "kernels/backend.h"

/* One row a function: result, name, arguments. A backend that leaves one out is not created. */
#define BACKEND_OPS(X)                                                                           \
    X(void, destroy, (struct backend * be))                                                      \
    X(void *, alloc, (struct backend * be, size_t bytes))                                        \
    X(void, free, (struct backend * be, void *p))                                                \
    X(enum rxt_status, measure,                                                                  \
      (struct backend * be, int milliseconds, struct backend_ceiling *out))                      \
    X(enum rxt_status, lane_create,                                                              \
      (struct lane * *out, struct backend * be, enum lane_priority priority,                     \
       const struct lane_limits *limits))                                                        \
    X(void, lane_destroy, (struct lane * ln))                                                    \
    X(size_t, lane_bytes, (const struct lane *ln))                                               \
    X(enum rxt_status, sync, (struct lane * ln))                                                 \
    X(void, step_begin, (struct lane * ln))                                                      \
    X(enum rxt_status, step_end, (struct lane * ln))                                             \
    X(void, branch, (struct lane * ln, int32_t branch, int32_t after))                           \
    X(void, give_way, (struct lane * ln, uint32_t us))                                           \
    X(void, rest, (struct lane * ln))                                                            \
    X(enum rxt_status, upload, (struct lane * ln, void *dst, const void *src, size_t bytes))     \
    X(enum rxt_status, download, (struct lane * ln, void *dst, const void *src, size_t bytes))   \
    X(enum rxt_status, copy, (struct lane * ln, void *dst, const void *src, size_t bytes))       \
    X(void, weight_destroy, (struct backend * be, struct weight * w))                            \
    X(enum rxt_status, weight_linear,                                                            \
      (struct weight * *out, struct backend * be, const struct host_matrix *part,                \
       const struct host_vector *bias, int n_part, enum dtype storage))                          \
    X(enum rxt_status, weight_table,                                                             \
      (struct weight * *out, struct backend * be, const struct host_matrix *m))                  \
    X(enum rxt_status, weight_norm,                                                              \
      (struct weight * *out, struct backend * be, const struct norm_desc *d))                    \
    X(enum rxt_status, weight_rope,                                                              \
      (struct weight * *out, struct backend * be, const float *angle, int32_t n_pos,             \
       int32_t half_dim))                                                                        \
    X(enum rxt_status, weight_ff,                                                                \
      (struct weight * *out, struct backend * be, const struct ff_desc *d, enum dtype storage))  \
    X(enum rxt_status, weight_moe,                                                               \
      (struct weight * *out, struct backend * be, const struct moe_desc *d, enum dtype storage)) \
    X(enum rxt_status, weight_gate,                                                              \
      (struct weight * *out, struct backend * be, const struct gate_desc *d))                    \
    X(size_t, kv_plan, (const struct backend *be, const struct kv_config *cfg))                  \
    X(enum rxt_status, kv_create,                                                                \
      (struct kv * *out, struct backend * be, const struct kv_config *cfg))                      \
    X(void, kv_destroy, (struct backend * be, struct kv * kv))                                   \
    X(size_t, mem_kv_plan, (const struct backend *be, const struct mem_kv_config *cfg))          \
    X(enum rxt_status, mem_kv_create,                                                            \
      (struct mem_kv * *out, struct backend * be, const struct mem_kv_config *cfg))              \
    X(void, mem_kv_destroy, (struct backend * be, struct mem_kv * kv))                           \
    X(enum rxt_status, embed,                                                                    \
      (struct lane * ln, struct tensor out, const struct weight *table, const int32_t *id))      \
    X(enum rxt_status, linear,                                                                   \
      (struct lane * ln, struct tensor out, struct tensor x, const struct weight *norm,          \
       const struct weight *linear))                                                             \
    X(enum rxt_status, linear_add,                                                               \
      (struct lane * ln, struct tensor x, struct tensor c, const struct weight *linear))         \
    X(enum rxt_status, self_attention, (struct lane * ln, const struct self_attention *a))       \
    X(enum rxt_status, cross_attention, (struct lane * ln, const struct cross_attention *a))     \
    X(enum rxt_status, full_attention, (struct lane * ln, const struct full_attention *a))       \
    X(enum rxt_status, ff_add,                                                                   \
      (struct lane * ln, struct tensor x, const struct weight *norm, const struct weight *ff))   \
    X(enum rxt_status, moe_add,                                                                  \
      (struct lane * ln, struct tensor x, const struct weight *norm, const struct weight *moe))  \
    X(enum rxt_status, head,                                                                     \
      (struct lane * ln, struct tensor logits, struct tensor x, const int32_t *row,              \
       const struct weight *norm, const struct weight *head))                                    \
    X(enum rxt_status, sample,                                                                   \
      (struct lane * ln, int32_t * id, struct tensor logits, const struct sampling *how))        \
    X(enum rxt_status, mem_kv,                                                                   \
      (struct lane * ln, struct mem_kv * out, int32_t layer, struct tensor stm,                  \
       const struct weight *norm, const struct weight *kv))                                      \
    X(enum rxt_status, norm,                                                                     \
      (struct lane * ln, struct tensor out, struct tensor x, const struct weight *norm))         \
    X(enum rxt_status, mean,                                                                     \
      (struct lane * ln, struct tensor out, const struct tensor *x, int32_t n))                  \
    X(enum rxt_status, gate,                                                                     \
      (struct lane * ln, struct tensor out, struct tensor old, struct tensor new_,               \
       const struct weight *gate))                                                               \
    X(enum rxt_status, gate_store,                                                               \
      (struct lane * ln, struct tensor out, bool *finite, struct tensor via, struct tensor old,  \
       struct tensor new_, const struct weight *gate))                                           \
    X(enum rxt_status, convert, (struct lane * ln, struct tensor out, struct tensor x))          \
    X(enum rxt_status, finite, (struct lane * ln, bool *finite, struct tensor x))

struct backend_ops {
#define BACKEND_OPS_FIELD(result, name, args) result(*name) args;
    BACKEND_OPS(BACKEND_OPS_FIELD)
#undef BACKEND_OPS_FIELD
};

/* The name of a row that is missing, or NULL: there is no silent fallback. */
const char *backend_ops_missing(const struct backend_ops *ops);

struct backend {
    const struct backend_ops *ops;
    const char *name, *bit_class;
    char describe[96];
    enum dtype act_dtype;
    size_t alone_bytes;  /* up to these weights an update is as fast alone as in a batch */
    const char *failure; /* of a device, for good; atomic */
};

/* Each gives a backend without lanes or weights. */
enum rxt_status cpu_backend_create(struct backend **out, const struct backend_config *cfg,
                                   struct rxt_error *err);
enum rxt_status cuda_backend_create(struct backend **out, const struct backend_config *cfg,
                                    struct rxt_error *err);

#define LANE_BRANCHES 16 /* at most */
struct lane {
    struct backend *be;
    struct lane_limits limits;
    enum lane_priority priority;
    int32_t n_branch; /* 0: one */
    int32_t depth;    /* steps that are open, one in the other */
};

enum weight_kind {
    WEIGHT_LINEAR,
    WEIGHT_TABLE,
    WEIGHT_NORM,
    WEIGHT_ROPE,
    WEIGHT_FF,
    WEIGHT_MOE,
    WEIGHT_GATE
};

/* What the fronts need to know of a weight; filled by weights.c after the backend made it. */
struct weight {
    enum weight_kind kind;
    size_t bytes;
    int32_t rows, cols; /* LINEAR [rows,cols]; TABLE [V,D]; NORM, GATE: slots or 0, D; ROPE: n_pos,
                         * hd/2; FF, MOE: D, D */
    int32_t width;      /* FF, MOE: the widest hidden layer */
    int32_t n_expert, n_routed, n_shared;
    uint64_t row_flops;    /* of one row through it */
    uint64_t expert_bytes; /* MOE: of one expert, a part of bytes */
};

struct kv {
    struct kv_config cfg;
};
struct mem_kv {
    struct mem_kv_config cfg;
};

#endif
