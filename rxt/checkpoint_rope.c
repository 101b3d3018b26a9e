/* RoPE of a checkpoint: the table of angles, and the order of rows. Spec 2.3, 3.3. */
#include "rxt/checkpoint_bind_impl.h"

#include <math.h>
#include <string.h>

/* All aliases are one object of the model that was saved; any of them will do. */
static const struct st_tensor *find_table(const struct bind *b, const char *prefix)
{
    int32_t n = b->files ? safetensors_count(b->files) : 0;
    for (int32_t i = 0; i < n; i++) {
        const struct st_tensor *t = safetensors_at(b->files, i);
        if (strncmp(t->name, prefix, strlen(prefix)) == 0 && bind_ends_with(t->name, ".rope.cache"))
            return t;
    }
    return NULL;
}

void bind_rope(struct bind *b, const char *prefix, double base, int32_t head_dim, int32_t seq_len,
               struct ckpt_rope *out)
{
    *out = (struct ckpt_rope){.base = base, .head_dim = head_dim};
    const struct st_tensor *t = find_table(b, prefix);
    if (!t || b->st != RXT_OK)
        return;
    if (t->n_dim != 2 || t->shape[0] < seq_len || t->shape[0] > INT32_MAX ||
        t->shape[1] != head_dim / 2 || !bind_dtype(t, &out->table.dtype)) {
        b->st = rxt_fail(b->err, RXT_ESHAPE,
                         "%s: tensor '%s' must be a float table of at least %d rows and %d columns",
                         safetensors_file_name(b->files, t->file), t->name, seq_len, head_dim / 2);
        return;
    }
    out->table.data = t->data;
    out->table.rows = (int32_t)t->shape[0];
    out->table.cols = head_dim / 2;
}

void checkpoint_rope(const struct ckpt_rope *r, int32_t n_pos, float *out)
{
    int32_t half = r->head_dim / 2;
    int32_t n_file = r->table.data ? r->table.rows : 0;
    for (int32_t i = 0; i < half; i++) {
        /* The roundings of the reference, one by one: a table of its own would differ by an ulp. */
        float power = (float)pow(r->base, 2.0 * i / r->head_dim);
        float inverse = 1.0f / power;
        for (int32_t p = 0; p < n_pos; p++) {
            size_t at = (size_t)p * (size_t)half + (size_t)i;
            out[at] =
                p < n_file ? dtype_value(r->table.data, r->table.dtype, at) : (float)p * inverse;
        }
    }
}
