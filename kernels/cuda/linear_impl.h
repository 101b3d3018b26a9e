/* Linears and feed-forwards of the CUDA backend. */
#ifndef RXT_CUDA_LINEAR_IMPL_H
#define RXT_CUDA_LINEAR_IMPL_H

#include "kernels/cuda/gemm_impl.h"

/* A matrix in device memory. */
struct linear {
    struct tiles w;
    void *data;
    float *bias; /* [n] or NULL */
    size_t bytes;
};
/* ENOMEM, EDEVICE; *out is then empty. bias may be NULL. */
enum rxt_status linear_fill(struct linear *out, struct cuda_backend *be,
                            const struct host_matrix *part, const struct host_vector *bias,
                            int n_part, enum dtype storage);
void linear_empty(struct linear *l, struct cuda_backend *be);
/* A gemm of it that stores; x and out are still to be named. */
struct gemm linear_gemm(const struct linear *l, int32_t n_row);

/* n feed-forwards of one shape, one behind the other. */
struct experts {
    struct tiles up, down;
    int32_t n, width;
    enum act act;
    bool gated;
    void *data;
    float *b1, *b2;        /* [n,w1.rows], [n,D], or NULL */
    int64_t step, b1_step; /* elements; b2: D */
    size_t bytes;
};
enum rxt_status experts_fill(struct experts *out, struct cuda_backend *be, const struct ff_desc *d,
                             int32_t n, enum dtype storage);
void experts_empty(struct experts *e, struct cuda_backend *be);
/* x -> hidden and hidden -> y of expert 0, until n_expert or items say otherwise. */
struct gemm experts_up(const struct experts *e, int32_t n_row);
struct gemm experts_down(const struct experts *e, int32_t n_row);

struct cuda_linear {
    struct weight base;
    struct linear l;
};
struct cuda_ff {
    struct weight base;
    struct experts e;
};

void cuda_linear_destroy(struct cuda_backend *be, struct weight *w);
void cuda_ff_destroy(struct cuda_backend *be, struct weight *w);

#endif
