#include "rxt/rxt.h"

#include "kernels/base/mem.h"
#include "rxt/safetensors_impl.h"

struct rxt_tensors {
    struct safetensors *file;
};

enum rxt_status rxt_tensors_open(struct rxt_tensors **out, const char *path, struct rxt_error *err)
{
    *out = NULL;
    struct rxt_tensors *t = mem_alloc(sizeof *t);
    if (!t)
        return rxt_fail(err, RXT_ENOMEM, "%s: out of memory", path);
    enum rxt_status st = safetensors_open_file(&t->file, path, err);
    if (st == RXT_OK)
        *out = t;
    else
        mem_free(t);
    return st;
}

void rxt_tensors_close(struct rxt_tensors **t)
{
    if (!*t)
        return;
    safetensors_close(&(*t)->file);
    mem_free(*t);
    *t = NULL;
}

enum rxt_status rxt_tensors_get(const struct rxt_tensors *t, const char *name,
                                struct rxt_array *out, struct rxt_error *err)
{
    const struct st_tensor *s = safetensors_find(t->file, name);
    if (!s)
        return rxt_fail(err, RXT_ENOTFOUND, "%s holds no tensor %s",
                        safetensors_file_name(t->file, 0), name);
    if (s->n_dim > 4 || (s->dtype != ST_F32 && s->dtype != ST_I32))
        return rxt_fail(err, RXT_EUNSUPPORTED,
                        "%s: %s has dtype %s and %d dimensions; F32 or I32 and at most 4 are read",
                        safetensors_file_name(t->file, 0), name, st_dtype_name(s->dtype), s->n_dim);
    *out = (struct rxt_array){.n_dim = s->n_dim, .n = (size_t)s->bytes / 4};
    for (int32_t i = 0; i < s->n_dim; i++)
        out->dim[i] = s->shape[i];
    if (s->dtype == ST_F32)
        out->f32 = s->data;
    else
        out->i32 = s->data;
    return RXT_OK;
}
