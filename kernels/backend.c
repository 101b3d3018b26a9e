#include "kernels/backend.h"

#include "kernels/backend_impl.h"

#include <assert.h>
#include <string.h>

/* ---- tensors ---- */

size_t dtype_bytes(enum dtype t)
{
    return t == DTYPE_F32 ? 4 : 2;
}

const char *dtype_name(enum dtype t)
{
    static const char *const name[] = {"f32", "bf16", "f16"};
    return name[t];
}

struct tensor tensor_cols(struct tensor t, int32_t first, int32_t n)
{
    assert(first >= 0 && n >= 0 && first <= t.cols - n);
    t.data = (char *)t.data + (size_t)first * dtype_bytes(t.dtype);
    t.cols = n;
    return t;
}

struct tensor tensor_rows(struct tensor t, int32_t first, int32_t n)
{
    assert(first >= 0 && n >= 0 && first <= t.rows - n);
    t.data = (char *)t.data + (size_t)first * (size_t)t.stride * dtype_bytes(t.dtype);
    t.rows = n;
    return t;
}

/* ---- backend ---- */

const char *backend_ops_missing(const struct backend_ops *ops)
{
#define CHECK_ROW(result, name, args) \
    if (!ops->name)                   \
        return #name;
    BACKEND_OPS(CHECK_ROW)
#undef CHECK_ROW
    return NULL;
}

/* A device if there is one that can be used, else the CPU. */
static enum rxt_status create_auto(struct backend **out, const struct backend_config *cfg,
                                   struct rxt_error *err)
{
    struct rxt_error why = {""};
    enum rxt_status st = cuda_backend_create(out, cfg, &why);
    if (st == RXT_EUNSUPPORTED || st == RXT_EINVAL) /* none, or not in this dtype */
        return cpu_backend_create(out, cfg, err);
    return st == RXT_OK ? RXT_OK : rxt_fail(err, st, "%s", why.text);
}

enum rxt_status backend_create(struct backend **out, const struct backend_config *cfg,
                               struct rxt_error *err)
{
    *out = NULL;
    const char *name = cfg->name ? cfg->name : "auto";
    struct backend *be;
    if (strcmp(name, "auto") == 0)
        TRY(create_auto(&be, cfg, err));
    else if (strcmp(name, "cuda") == 0)
        TRY(cuda_backend_create(&be, cfg, err));
    else if (strcmp(name, "cpu") == 0)
        TRY(cpu_backend_create(&be, cfg, err));
    else
        return rxt_fail(err, RXT_EINVAL, "backend '%s': use cpu, cuda or auto", name);
    const char *missing = backend_ops_missing(be->ops);
    if (missing) {
        enum rxt_status st =
            rxt_fail(err, RXT_EUNSUPPORTED, "backend %s lacks the op %s", be->name, missing);
        be->ops->destroy(be);
        return st;
    }
    *out = be;
    return RXT_OK;
}

void backend_destroy(struct backend **be)
{
    if (*be)
        (*be)->ops->destroy(*be);
    *be = NULL;
}

const char *backend_name(const struct backend *be)
{
    return be->name;
}

const char *backend_bit_class(const struct backend *be)
{
    return be->bit_class;
}

const char *backend_describe(const struct backend *be)
{
    return be->describe;
}

enum dtype backend_act_dtype(const struct backend *be)
{
    return be->act_dtype;
}

bool backend_batch_pays(const struct backend *be, size_t weight_bytes)
{
    return weight_bytes > be->alone_bytes;
}

void *backend_alloc(struct backend *be, size_t bytes)
{
    return be->ops->alloc(be, bytes);
}

void backend_free(struct backend *be, void *p)
{
    if (p)
        be->ops->free(be, p);
}

enum rxt_status backend_measure(struct backend *be, int milliseconds, struct backend_ceiling *out)
{
    if (milliseconds < 1)
        return RXT_EINVAL;
    return be->ops->measure(be, milliseconds, out);
}

const char *backend_failure(const struct backend *be)
{
    return __atomic_load_n(&be->failure, __ATOMIC_RELAXED);
}

/* ---- lanes ---- */

enum rxt_status lane_create(struct lane **out, struct backend *be, enum lane_priority priority,
                            const struct lane_limits *l)
{
    *out = NULL;
    if (l->max_rows < 1 || l->max_seq < 1 || l->max_keys < 1 || l->max_width < 1 ||
        l->max_vocab < 0 || l->max_expert < 0 || l->max_active < 0 || l->max_branch < 0 ||
        l->max_branch > LANE_BRANCHES)
        return RXT_ESHAPE;
    return be->ops->lane_create(out, be, priority, l);
}

void lane_destroy(struct lane **ln)
{
    if (*ln)
        (*ln)->be->ops->lane_destroy(*ln);
    *ln = NULL;
}

size_t lane_bytes(const struct lane *ln)
{
    return ln->be->ops->lane_bytes(ln);
}

struct backend *lane_backend(const struct lane *ln)
{
    return ln->be;
}

enum rxt_status lane_sync(struct lane *ln)
{
    return ln->be->ops->sync(ln);
}

void lane_step_begin(struct lane *ln)
{
    if (ln->depth++ == 0)
        ln->be->ops->step_begin(ln);
}

enum rxt_status lane_step_end(struct lane *ln)
{
    assert(ln->depth > 0);
    return --ln->depth > 0 ? RXT_OK : ln->be->ops->step_end(ln);
}

void lane_branch(struct lane *ln, int32_t branch, int32_t after)
{
    assert(ln->depth > 0 && branch >= 0 && after >= 0 && branch < lane_branches(ln) &&
           after < lane_branches(ln));
    ln->be->ops->branch(ln, branch, after);
}

int32_t lane_branches(const struct lane *ln)
{
    return ln->n_branch > 1 ? ln->n_branch : 1;
}

void lane_give_way(struct lane *ln, uint32_t us)
{
    ln->be->ops->give_way(ln, us);
}

void lane_rest(struct lane *ln)
{
    ln->be->ops->rest(ln);
}

enum rxt_status lane_upload(struct lane *ln, void *dst, const void *src, size_t bytes)
{
    return ln->be->ops->upload(ln, dst, src, bytes);
}

enum rxt_status lane_download(struct lane *ln, void *dst, const void *src, size_t bytes)
{
    return ln->be->ops->download(ln, dst, src, bytes);
}

enum rxt_status lane_copy(struct lane *ln, void *dst, const void *src, size_t bytes)
{
    return ln->be->ops->copy(ln, dst, src, bytes);
}

/* ---- keys and values ---- */

static bool kv_fits(const struct kv_config *c)
{
    return c->n_layer > 0 && c->n_kv_head > 0 && c->head_dim > 0 &&
           c->head_dim <= BACKEND_HEAD_MAX && c->max_tokens > 0;
}

size_t kv_plan(const struct backend *be, const struct kv_config *cfg)
{
    return kv_fits(cfg) ? be->ops->kv_plan(be, cfg) : 0;
}

enum rxt_status kv_create(struct kv **out, struct backend *be, const struct kv_config *cfg)
{
    *out = NULL;
    if (!kv_fits(cfg))
        return RXT_ESHAPE;
    TRY(be->ops->kv_create(out, be, cfg));
    (*out)->cfg = *cfg;
    return RXT_OK;
}

void kv_destroy(struct backend *be, struct kv **kv)
{
    if (*kv)
        be->ops->kv_destroy(be, *kv);
    *kv = NULL;
}

static bool mem_kv_fits(const struct mem_kv_config *c)
{
    return c->n_layer > 0 && c->n_kv_head > 0 && c->head_dim > 0 &&
           c->head_dim <= BACKEND_HEAD_MAX && c->n_slot > 0;
}

size_t mem_kv_plan(const struct backend *be, const struct mem_kv_config *cfg)
{
    return mem_kv_fits(cfg) ? be->ops->mem_kv_plan(be, cfg) : 0;
}

enum rxt_status mem_kv_create(struct mem_kv **out, struct backend *be,
                              const struct mem_kv_config *cfg)
{
    *out = NULL;
    if (!mem_kv_fits(cfg))
        return RXT_ESHAPE;
    TRY(be->ops->mem_kv_create(out, be, cfg));
    (*out)->cfg = *cfg;
    return RXT_OK;
}

void mem_kv_destroy(struct backend *be, struct mem_kv **kv)
{
    if (*kv)
        be->ops->mem_kv_destroy(be, *kv);
    *kv = NULL;
}
