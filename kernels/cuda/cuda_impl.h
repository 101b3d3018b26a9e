/* The CUDA backend's own handles, and what its files share.
 *
 * Host code is C (NAME.c), kernels are CUDA (NAME.cu); a launcher has C linkage. An op checks the
 * lane (cuda_ready), cuts scratch (cuda_cut), puts launches on the lane's list (LAUNCH) and ends
 * with cuda_done, which starts them, or leaves that to the end of a step (step_impl.h), and gives
 * the scratch back: the ops of a lane run one after another, so the next op may write it. */
#ifndef RXT_CUDA_CUDA_IMPL_H
#define RXT_CUDA_CUDA_IMPL_H

#include "kernels/cuda/pack_impl.h"

#include <cuda_runtime_api.h>
#include <pthread.h>

#ifdef __cplusplus
#define CUDA_API extern "C"
extern "C" {
#else
#define CUDA_API
#endif
#include "kernels/backend_impl.h"
#ifdef __cplusplus
}
#endif

struct cuda_lane;
struct partition;

struct cuda_backend {
    struct backend base;
    cudaStream_t stream;   /* of allocation and of weights */
    void *staging;         /* pinned, CUDA_STAGING bytes */
    pthread_mutex_t mutex; /* of stream, staging and the list of lanes */
    struct cuda_lane *lanes;
    struct partition *aside; /* SMs of memory lanes while answers are made; NULL: there is none */
    /* Atomic: answer lanes that have something to do; when one last gave way, and whether a memory
     * was due more than the answers then. */
    int n_answering;
    bool memory_first;
    uint64_t way_us;
    char bit_class[32];
};

/* What op_sample and op_finite write, until lane_sync hands it to the caller. */
struct cuda_result {
    int32_t *id; /* one of the two is not NULL */
    bool *finite;
    int32_t first, n; /* in `results` */
};

struct cuda_lane {
    struct lane base;
    struct cuda_backend *be;
    cudaStream_t stream;
    cudaStream_t aside; /* of a memory lane, in the partition; NULL: there is none */
    cudaEvent_t turn;   /* of the two */
    cudaEvent_t mark;   /* for cuda_free: what the lane had to do then */
    struct cuda_lane *next;
    bool answering; /* counted in n_answering */
    int32_t branch; /* where ops go */
    char *scratch;  /* device: scratch_bytes of branch 0, branch_bytes of each other */
    size_t scratch_bytes, branch_bytes, used;
    int32_t *arrived;  /* device, [CUDA_ARRIVED] zeros between two kernels */
    struct step *step; /* launches that are not started yet */
    void *staging;     /* pinned, CUDA_STAGING bytes */
    int32_t *results;  /* pinned, written by kernels */
    int32_t max_result, n_result;
    struct cuda_result *pending;
    int32_t n_pending;
};

#define CUDA_STAGING ((size_t)1 << 20)
#define CUDA_ARRIVED 2048
#define CUDA_PENDING 256 /* calls of op_sample and op_finite between two lane_sync */

static inline struct cuda_lane *cuda_lane(struct lane *ln)
{
    return (struct cuda_lane *)ln;
}
static inline struct cuda_backend *cuda_backend(struct backend *be)
{
    return (struct cuda_backend *)be;
}

/* ---- running an op ---- */

/* EDEVICE once the backend has failed; else the lane's scratch is empty. */
CUDA_API enum rxt_status cuda_ready(struct cuda_lane *ln);
/* Count items of size bytes of scratch, until cuda_done. */
CUDA_API void *cuda_cut(struct cuda_lane *ln, size_t count, size_t size);
/* Ends an op. EDEVICE: a launch was refused. */
CUDA_API enum rxt_status cuda_done(struct cuda_lane *ln);
/* Whether what the lane starts now belongs into the partition. */
CUDA_API bool cuda_stands_aside(struct cuda_lane *ln);
/* Remembers the first failure. */
CUDA_API enum rxt_status cuda_check(struct cuda_backend *be, cudaError_t e);

/* Room for n results that lane_sync hands over; waits for the lane where there is none left. */
CUDA_API enum rxt_status cuda_result(struct cuda_lane *ln, struct cuda_result *r);
/* The same for whether all is finite: 1 until a kernel writes 0. */
CUDA_API enum rxt_status cuda_finite_room(struct cuda_lane *ln, bool *finite,
                                          volatile int32_t **found);

/* Arguments: what a kernel reads and what changes between two steps of one shape (ids, sequences,
 * addresses of a session). An op writes `bytes` of them, args_need_op (scratch_impl.h) in all, to
 * args_room; args_put gives the address at which the kernels of this op find them. */
CUDA_API void *args_room(struct cuda_lane *ln, size_t bytes);
CUDA_API void *args_put(struct cuda_lane *ln, size_t bytes);

/* A launch on the list, its parameters behind it. No byte of it is left to chance: lists are
 * compared. */
#define LAUNCH_PARAMS 15
struct launch_shape {
    uint32_t grid[3], block, shared;
};
struct launch {
    const void *kernel;
    struct launch_shape shape;
    uint32_t bytes;                      /* with parameters */
    uint16_t n_param, at[LAUNCH_PARAMS]; /* where they are, in bytes from here */
};
/* Room on the list for a launch with parameters of these sizes, zeroed. */
CUDA_API struct launch *launch_add(struct cuda_lane *ln, const void *kernel,
                                   struct launch_shape shape, int n_param, const size_t *size);

/* ---- memory ---- */

CUDA_API void *cuda_alloc(struct backend *be, size_t bytes);
CUDA_API void cuda_free(struct backend *be, void *p);
/* Copies to device memory and waits; for weights and tables. */
CUDA_API enum rxt_status cuda_put(struct cuda_backend *be, void *dst, const void *src,
                                  size_t bytes);
/* Gives *out, device memory with a copy of bytes. ENOMEM, EDEVICE; *out is then NULL. */
CUDA_API enum rxt_status cuda_alloc_put(struct cuda_backend *be, void **out, const void *src,
                                        size_t bytes);

#define DECLARE_OP(result, name, args) CUDA_API result cuda_##name args;
BACKEND_OPS(DECLARE_OP)
#undef DECLARE_OP

#endif
