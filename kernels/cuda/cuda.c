#include "kernels/cuda/cuda_impl.h"

#include "kernels/base/clock.h"
#include "kernels/base/mem.h"
#include "kernels/cuda/fault_impl.h"
#include "kernels/cuda/partition_impl.h"
#include "kernels/cuda/scratch_impl.h"
#include "kernels/cuda/step_impl.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

extern const struct backend_ops cuda_ops; /* cuda/ops.c */

/* SMs of updates beside answers. Fewer make an update take longer, more a token (docs/bench). */
#define ASIDE_SMS 32

/* ---- failure ---- */

enum rxt_status cuda_check(struct cuda_backend *be, cudaError_t e)
{
    if (e == cudaSuccess)
        return RXT_OK;
    const char *none = NULL;
    (void)__atomic_compare_exchange_n(&be->base.failure, &none, cudaGetErrorString(e), false,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return RXT_EDEVICE;
}

static bool has_failed(const struct cuda_backend *be)
{
    return backend_failure(&be->base) != NULL;
}

/* ---- backend ---- */

static enum rxt_status no_device(struct rxt_error *err, cudaError_t e)
{
    return rxt_fail(err, RXT_EUNSUPPORTED,
                    "backend cuda: no device can be used (%s); use --backend cpu",
                    cudaGetErrorString(e));
}

static enum rxt_status name_it(struct cuda_backend *be, enum dtype dtype, struct rxt_error *err)
{
    struct cudaDeviceProp prop;
    cudaError_t e = cudaGetDeviceProperties(&prop, 0);
    if (e != cudaSuccess)
        return no_device(err, e);
    if (prop.major < 9)
        return rxt_fail(err, RXT_EUNSUPPORTED,
                        "backend cuda: %.60s is of compute capability %d.%d, 9.0 is needed",
                        prop.name, prop.major, prop.minor);
    (void)snprintf(be->bit_class, sizeof be->bit_class, "cuda-%s/1-sm%d%d", dtype_name(dtype),
                   prop.major, prop.minor);
    (void)snprintf(be->base.describe, sizeof be->base.describe, "cuda, %.40s, %s", prop.name,
                   dtype_name(dtype));
    return RXT_OK;
}

/* Memory that is freed stays with the process, so that a session's K/V costs no call to the
 * driver. */
static cudaError_t keep_pool(void)
{
    cudaMemPool_t pool;
    uint64_t all = UINT64_MAX;
    cudaError_t e = cudaDeviceGetDefaultMemPool(&pool, 0);
    return e == cudaSuccess ? cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all)
                            : e;
}

/* Without a partition updates have the whole card, and answers only their priority. */
static enum rxt_status set_aside(struct cuda_backend *be)
{
    TRY(partition_create(&be->aside, ASIDE_SMS));
    size_t n = strlen(be->base.describe), size = sizeof be->base.describe - n;
    if (be->aside)
        (void)snprintf(be->base.describe + n, size, ", updates beside answers on %d SMs",
                       partition_sms(be->aside));
    else
        (void)snprintf(be->base.describe + n, size, ", updates beside answers on all SMs");
    return RXT_OK;
}

enum rxt_status cuda_backend_create(struct backend **out, const struct backend_config *cfg,
                                    struct rxt_error *err)
{
    int n_device = 0;
    cudaError_t e = cudaGetDeviceCount(&n_device);
    if (e != cudaSuccess || n_device < 1)
        return no_device(err, e != cudaSuccess ? e : cudaErrorNoDevice);
    if (cfg->dtype != DTYPE_F32 && cfg->dtype != DTYPE_BF16)
        return rxt_fail(err, RXT_EINVAL, "backend cuda computes in f32 or bf16, not in %s",
                        dtype_name(cfg->dtype));
    struct cuda_backend *be = mem_alloc(sizeof *be);
    if (!be)
        return rxt_fail(err, RXT_ENOMEM, "out of memory for backend cuda");
    enum rxt_status st = RXT_OK;
    (void)pthread_mutex_init(&be->mutex, NULL);
    be->base.ops = &cuda_ops;
    be->base.name = "cuda";
    be->base.bit_class = be->bit_class;
    be->base.act_dtype = cfg->dtype;
    TRY_OR(fail, name_it(be, cfg->dtype, err));
    e = keep_pool();
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&be->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess)
        e = cudaHostAlloc(&be->staging, CUDA_STAGING, cudaHostAllocDefault);
    if (e != cudaSuccess)
        TRY_OR(fail, rxt_fail(err, e == cudaErrorMemoryAllocation ? RXT_ENOMEM : RXT_EDEVICE,
                              "backend cuda: %s", cudaGetErrorString(e)));
    TRY_OR(fail, set_aside(be));
    *out = &be->base;
    return RXT_OK;
fail:
    cuda_destroy(&be->base);
    return st;
}

void cuda_destroy(struct backend *b)
{
    struct cuda_backend *be = cuda_backend(b);
    if (be->stream) {
        (void)cudaStreamSynchronize(be->stream);
        (void)cudaStreamDestroy(be->stream);
    }
    partition_destroy(&be->aside);
    (void)cudaFreeHost(be->staging);
    (void)pthread_mutex_destroy(&be->mutex);
    mem_free(be);
}

/* ---- memory ---- */

static cudaError_t alloc_on(void **out, size_t bytes, cudaStream_t stream)
{
    cudaError_t e = cudaMallocAsync(out, bytes, stream);
    if (e == cudaSuccess)
        e = cudaMemsetAsync(*out, 0, bytes, stream);
    return e == cudaSuccess ? cudaStreamSynchronize(stream) : e;
}

void *cuda_alloc(struct backend *b, size_t bytes)
{
    struct cuda_backend *be = cuda_backend(b);
    void *p = NULL;
    if (bytes == 0 || has_failed(be))
        return NULL;
    (void)pthread_mutex_lock(&be->mutex);
    cudaError_t e = alloc_on(&p, bytes, be->stream);
    (void)pthread_mutex_unlock(&be->mutex);
    if (e == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* it is told by NULL and is no failure of the device */
        return NULL;
    }
    return cuda_check(be, e) == RXT_OK ? p : NULL;
}

/* What the lanes still do with it comes first. */
void cuda_free(struct backend *b, void *p)
{
    struct cuda_backend *be = cuda_backend(b);
    if (!p)
        return;
    (void)pthread_mutex_lock(&be->mutex);
    cudaError_t e = cudaSuccess;
    for (struct cuda_lane *ln = be->lanes; ln && e == cudaSuccess; ln = ln->next) {
        e = cudaEventRecord(ln->mark, ln->stream);
        if (e == cudaSuccess)
            e = cudaStreamWaitEvent(be->stream, ln->mark, 0);
    }
    if (e == cudaSuccess)
        e = cudaFreeAsync(p, be->stream);
    (void)pthread_mutex_unlock(&be->mutex);
    enum rxt_status st = cuda_check(be, e);
    (void)st; /* the next call tells */
}

/* Through pinned memory of CUDA_STAGING bytes, piece by piece. */
static cudaError_t put(void *dst, const void *src, size_t bytes, void *staging, cudaStream_t s)
{
    cudaError_t e = cudaSuccess;
    for (size_t at = 0; at < bytes && e == cudaSuccess; at += CUDA_STAGING) {
        size_t n = bytes - at < CUDA_STAGING ? bytes - at : CUDA_STAGING;
        memcpy(staging, (const char *)src + at, n);
        e = cudaMemcpyAsync((char *)dst + at, staging, n, cudaMemcpyHostToDevice, s);
        if (e == cudaSuccess)
            e = cudaStreamSynchronize(s);
    }
    return e;
}

static cudaError_t get(void *dst, const void *src, size_t bytes, void *staging, cudaStream_t s)
{
    cudaError_t e = cudaSuccess;
    for (size_t at = 0; at < bytes && e == cudaSuccess; at += CUDA_STAGING) {
        size_t n = bytes - at < CUDA_STAGING ? bytes - at : CUDA_STAGING;
        e = cudaMemcpyAsync(staging, (const char *)src + at, n, cudaMemcpyDeviceToHost, s);
        if (e == cudaSuccess)
            e = cudaStreamSynchronize(s);
        if (e == cudaSuccess)
            memcpy((char *)dst + at, staging, n);
    }
    return e;
}

enum rxt_status cuda_put(struct cuda_backend *be, void *dst, const void *src, size_t bytes)
{
    (void)pthread_mutex_lock(&be->mutex);
    cudaError_t e = put(dst, src, bytes, be->staging, be->stream);
    (void)pthread_mutex_unlock(&be->mutex);
    return cuda_check(be, e);
}

enum rxt_status cuda_alloc_put(struct cuda_backend *be, void **out, const void *src, size_t bytes)
{
    *out = cuda_alloc(&be->base, bytes);
    if (!*out)
        return has_failed(be) ? RXT_EDEVICE : RXT_ENOMEM;
    enum rxt_status st = cuda_put(be, *out, src, bytes);
    if (st != RXT_OK) {
        cuda_free(&be->base, *out);
        *out = NULL;
    }
    return st;
}

/* ---- lanes ---- */

static cudaError_t open_lane(struct cuda_lane *ln)
{
    int low = 0, high = 0;
    cudaError_t e = cudaDeviceGetStreamPriorityRange(&low, &high);
    int priority = ln->base.priority == LANE_ANSWER ? high : low;
    if (e == cudaSuccess)
        e = cudaStreamCreateWithPriority(&ln->stream, cudaStreamNonBlocking, priority);
    if (e == cudaSuccess)
        e = cudaEventCreateWithFlags(&ln->mark, cudaEventDisableTiming);
    if (e == cudaSuccess && ln->be->aside && ln->base.priority == LANE_MEMORY)
        e = partition_stream(&ln->aside, ln->be->aside, priority);
    if (e == cudaSuccess && ln->aside)
        e = cudaEventCreateWithFlags(&ln->turn, cudaEventDisableTiming);
    if (e == cudaSuccess)
        e = cudaHostAlloc(&ln->staging, CUDA_STAGING, cudaHostAllocDefault);
    if (e == cudaSuccess)
        e = cudaHostAlloc((void **)&ln->results, (size_t)ln->max_result * sizeof *ln->results,
                          cudaHostAllocDefault);
    return e;
}

/* Of scratch and arrivals. */
static size_t device_bytes(const struct cuda_lane *ln)
{
    return ln->scratch_bytes + (size_t)(ln->base.n_branch - 1) * ln->branch_bytes +
           CUDA_ARRIVED * sizeof *ln->arrived;
}

enum rxt_status cuda_lane_create(struct lane **out, struct backend *b, enum lane_priority priority,
                                 const struct lane_limits *limits)
{
    struct cuda_backend *be = cuda_backend(b);
    if (has_failed(be))
        return RXT_EDEVICE;
    struct cuda_lane *ln = mem_alloc(sizeof *ln);
    if (!ln)
        return RXT_ENOMEM;
    ln->base = (struct lane){.be = b, .limits = *limits, .priority = priority};
    ln->be = be;
    ln->max_result = limits->max_rows + CUDA_PENDING;
    ln->scratch_bytes = scratch_need(limits, b->act_dtype);
    ln->pending = mem_alloc_n(CUDA_PENDING, sizeof *ln->pending);
    ln->branch_bytes = scratch_need_branch(limits, b->act_dtype);
    ln->base.n_branch = limits->max_branch > 1 ? limits->max_branch : 1;
    ln->scratch = cuda_alloc(b, device_bytes(ln));
    if (ln->scratch)
        ln->arrived =
            (int32_t *)(ln->scratch + device_bytes(ln) - CUDA_ARRIVED * sizeof *ln->arrived);
    enum rxt_status st = step_create(ln);
    cudaError_t e = ln->pending && ln->scratch ? open_lane(ln) : cudaErrorMemoryAllocation;
    if (e != cudaSuccess) {
        bool no_memory = e == cudaErrorMemoryAllocation;
        if (no_memory)
            (void)cudaGetLastError();
        st = no_memory ? RXT_ENOMEM : cuda_check(be, e);
    }
    if (st != RXT_OK) {
        cuda_lane_destroy(&ln->base);
        return st;
    }
    (void)pthread_mutex_lock(&be->mutex);
    ln->next = be->lanes;
    be->lanes = ln;
    (void)pthread_mutex_unlock(&be->mutex);
    *out = &ln->base;
    return RXT_OK;
}

void cuda_lane_destroy(struct lane *l)
{
    struct cuda_lane *ln = cuda_lane(l);
    if (ln->stream)
        (void)cudaStreamSynchronize(ln->stream);
    (void)pthread_mutex_lock(&ln->be->mutex);
    for (struct cuda_lane **at = &ln->be->lanes; *at; at = &(*at)->next)
        if (*at == ln) {
            *at = ln->next;
            break;
        }
    (void)pthread_mutex_unlock(&ln->be->mutex);
    cuda_rest(l);
    step_destroy(ln);
    cuda_free(&ln->be->base, ln->scratch);
    if (ln->mark)
        (void)cudaEventDestroy(ln->mark);
    if (ln->turn)
        (void)cudaEventDestroy(ln->turn);
    if (ln->aside)
        (void)cudaStreamDestroy(ln->aside);
    if (ln->stream)
        (void)cudaStreamDestroy(ln->stream);
    (void)cudaFreeHost(ln->staging);
    (void)cudaFreeHost(ln->results);
    mem_free(ln->pending);
    mem_free(ln);
}

size_t cuda_lane_bytes(const struct lane *l)
{
    const struct cuda_lane *ln = (const struct cuda_lane *)l;
    return sizeof *ln + step_bytes(ln) + device_bytes(ln) + CUDA_STAGING +
           (size_t)ln->max_result * sizeof *ln->results + CUDA_PENDING * sizeof *ln->pending;
}

/* Waits, then hands over what op_sample and op_finite left. */
enum rxt_status cuda_sync(struct lane *l)
{
    struct cuda_lane *ln = cuda_lane(l);
    if (has_failed(ln->be))
        return RXT_EDEVICE;
    TRY(step_flush(ln));
    cudaError_t e = fault_error("wait");
    TRY(cuda_check(ln->be, e == cudaSuccess ? cudaStreamSynchronize(ln->stream) : e));
    for (int32_t i = 0; i < ln->n_pending; i++) {
        const struct cuda_result *r = &ln->pending[i];
        if (r->id)
            memcpy(r->id, ln->results + r->first, (size_t)r->n * sizeof *r->id);
        else
            *r->finite = ln->results[r->first] != 0;
    }
    ln->n_pending = 0;
    ln->n_result = 0;
    return RXT_OK;
}

/* Where an answer lane gives way for longer than since it did so last, more wait for a memory than
 * for a token. */
void cuda_give_way(struct lane *ln, uint32_t us)
{
    struct cuda_backend *be = cuda_backend(ln->be);
    uint64_t now = clock_us();
    uint64_t last = __atomic_exchange_n(&be->way_us, now, __ATOMIC_RELAXED);
    __atomic_store_n(&be->memory_first, now - last < us, __ATOMIC_RELAXED);
}

void cuda_rest(struct lane *l)
{
    struct cuda_lane *ln = cuda_lane(l);
    if (ln->answering)
        (void)__atomic_sub_fetch(&ln->be->n_answering, 1, __ATOMIC_RELAXED);
    ln->answering = false;
}

/* What has started stays where it is. */
bool cuda_stands_aside(struct cuda_lane *ln)
{
    struct cuda_backend *be = ln->be;
    if (ln->base.priority == LANE_ANSWER && !ln->answering) {
        __atomic_store_n(&be->memory_first, false, __ATOMIC_RELAXED);
        (void)__atomic_add_fetch(&be->n_answering, 1, __ATOMIC_RELAXED);
        ln->answering = true;
    }
    return ln->aside && __atomic_load_n(&be->n_answering, __ATOMIC_RELAXED) > 0 &&
           !__atomic_load_n(&be->memory_first, __ATOMIC_RELAXED);
}

enum rxt_status cuda_upload(struct lane *l, void *dst, const void *src, size_t bytes)
{
    struct cuda_lane *ln = cuda_lane(l);
    TRY(cuda_ready(ln));
    TRY(step_flush(ln));
    cudaError_t e = fault_error("copy");
    return cuda_check(ln->be, e == cudaSuccess ? put(dst, src, bytes, ln->staging, ln->stream) : e);
}

enum rxt_status cuda_download(struct lane *l, void *dst, const void *src, size_t bytes)
{
    struct cuda_lane *ln = cuda_lane(l);
    TRY(cuda_ready(ln));
    TRY(step_flush(ln));
    cudaError_t e = fault_error("copy");
    return cuda_check(ln->be, e == cudaSuccess ? get(dst, src, bytes, ln->staging, ln->stream) : e);
}

enum rxt_status cuda_copy(struct lane *l, void *dst, const void *src, size_t bytes)
{
    struct cuda_lane *ln = cuda_lane(l);
    TRY(cuda_ready(ln));
    TRY(step_flush(ln));
    return cuda_check(ln->be,
                      cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, ln->stream));
}

/* ---- running an op ---- */

enum rxt_status cuda_ready(struct cuda_lane *ln)
{
    ln->used = 0;
    return has_failed(ln->be) ? RXT_EDEVICE : step_ready(ln);
}

void *cuda_cut(struct cuda_lane *ln, size_t count, size_t size)
{
    char *first = ln->scratch, *p;
    size_t most = ln->scratch_bytes;
    if (ln->branch > 0) {
        most = ln->branch_bytes;
        first += ln->scratch_bytes + (size_t)(ln->branch - 1) * most;
    }
    p = first + ln->used;
    ln->used += scratch_cut(count, size);
    assert(ln->used <= most && "scratch_need asks for less than the op cuts");
    (void)most;
    return p;
}

enum rxt_status cuda_done(struct cuda_lane *ln)
{
    TRY(step_done(ln));
    return has_failed(ln->be) ? RXT_EDEVICE : RXT_OK;
}

enum rxt_status cuda_result(struct cuda_lane *ln, struct cuda_result *r)
{
    if (ln->n_pending == CUDA_PENDING || ln->n_result + r->n > ln->max_result)
        TRY(cuda_sync(&ln->base));
    r->first = ln->n_result;
    ln->n_result += r->n;
    ln->pending[ln->n_pending++] = *r;
    return RXT_OK;
}

enum rxt_status cuda_finite_room(struct cuda_lane *ln, bool *finite, volatile int32_t **found)
{
    struct cuda_result r = {.finite = finite, .n = 1};
    TRY(cuda_result(ln, &r));
    *found = ln->results + r.first;
    **found = 1;
    return RXT_OK;
}
