/* The fronts of weight creation: shapes are checked here, once for every backend. */
#include "kernels/backend_impl.h"

void weight_destroy(struct backend *be, struct weight **w)
{
    if (*w)
        be->ops->weight_destroy(be, *w);
    *w = NULL;
}

size_t weight_bytes(const struct weight *w)
{
    return w->bytes;
}

/* ---- what fits ---- */

static bool matrix_fits(const struct host_matrix *m)
{
    return m->data && m->rows > 0 && m->cols > 0 && m->dtype <= DTYPE_F16 &&
           !(m->transposed && m->row_of);
}

static bool matrix_is(const struct host_matrix *m, int32_t rows, int32_t cols)
{
    return matrix_fits(m) && m->rows == rows && m->cols == cols;
}

static bool vector_is(const struct host_vector *v, int32_t n)
{
    return v->data && v->n == n && n > 0 && v->dtype <= DTYPE_F16;
}

static bool absent_or(const struct host_vector *v, int32_t n)
{
    return !v->data || vector_is(v, n);
}

static bool stores(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_BF16;
}

/* Rows of [0, INT32_MAX / 4] keep every product of the packing code in range. */
static bool size_fits(int64_t n)
{
    return n > 0 && n <= INT32_MAX / 4;
}

/* ---- creation ---- */

enum rxt_status weight_linear(struct weight **out, struct backend *be,
                              const struct host_matrix *part, const struct host_vector *bias,
                              int n_part, enum dtype storage)
{
    *out = NULL;
    int64_t rows = 0;
    if (n_part < 1 || !stores(storage))
        return RXT_ESHAPE;
    for (int i = 0; i < n_part; i++) {
        if (!matrix_fits(&part[i]) || part[i].cols != part[0].cols ||
            (bias && !absent_or(&bias[i], part[i].rows)))
            return RXT_ESHAPE;
        rows += part[i].rows;
    }
    if (!size_fits(rows) || !size_fits(part[0].cols))
        return RXT_ESHAPE;
    TRY(be->ops->weight_linear(out, be, part, bias, n_part, storage));
    struct weight *w = *out;
    w->kind = WEIGHT_LINEAR;
    w->rows = (int32_t)rows;
    w->cols = part[0].cols;
    w->row_flops = 2 * (uint64_t)w->rows * (uint64_t)w->cols;
    return RXT_OK;
}

enum rxt_status weight_table(struct weight **out, struct backend *be, const struct host_matrix *m)
{
    *out = NULL;
    if (!matrix_fits(m) || m->transposed || m->row_of)
        return RXT_ESHAPE;
    TRY(be->ops->weight_table(out, be, m));
    struct weight *w = *out;
    w->kind = WEIGHT_TABLE;
    w->rows = m->rows;
    w->cols = m->cols;
    return RXT_OK;
}

static bool norm_fits(const struct norm_desc *d)
{
    if (d->dim < 1)
        return false;
    switch (d->kind) {
    case NORM_RMS:
        return vector_is(&d->weight, d->dim);
    case NORM_LAYER:
        return vector_is(&d->weight, d->dim) && vector_is(&d->bias, d->dim);
    case NORM_MIX_LAYER:
        return vector_is(&d->weight, d->dim) && vector_is(&d->bias, d->dim) &&
               vector_is(&d->scale, d->dim) && vector_is(&d->gate, 1);
    case NORM_MIX_RMS:
        return vector_is(&d->scale, d->dim) && vector_is(&d->gate, 1);
    case NORM_MIX_SLOT:
        return vector_is(&d->ema_rms, d->ema_rms.n) && vector_is(&d->gate, d->ema_rms.n) &&
               vector_is(&d->scale, d->scale_by_slot ? d->ema_rms.n : d->dim);
    }
    return false;
}

enum rxt_status weight_norm(struct weight **out, struct backend *be, const struct norm_desc *d)
{
    *out = NULL;
    if (!norm_fits(d))
        return RXT_ESHAPE;
    TRY(be->ops->weight_norm(out, be, d));
    struct weight *w = *out;
    w->kind = WEIGHT_NORM;
    w->rows = d->kind == NORM_MIX_SLOT ? d->ema_rms.n : 0;
    w->cols = d->dim;
    return RXT_OK;
}

enum rxt_status weight_rope(struct weight **out, struct backend *be, const float *angle,
                            int32_t n_pos, int32_t half_dim)
{
    *out = NULL;
    if (!angle || n_pos < 1 || half_dim < 1)
        return RXT_ESHAPE;
    TRY(be->ops->weight_rope(out, be, angle, n_pos, half_dim));
    struct weight *w = *out;
    w->kind = WEIGHT_ROPE;
    w->rows = n_pos;
    w->cols = half_dim;
    return RXT_OK;
}

static bool ff_fits(const struct ff_desc *d)
{
    if (!matrix_fits(&d->w1) || !matrix_fits(&d->w2) || !size_fits(d->w1.rows) ||
        !size_fits(d->w1.cols) || d->act > ACT_LINEAR)
        return false;
    int32_t width = d->gated ? d->w1.rows / 2 : d->w1.rows;
    return width > 0 && matrix_is(&d->w1, d->gated ? 2 * width : width, d->w1.cols) &&
           matrix_is(&d->w2, d->w1.cols, width) && absent_or(&d->b1, d->w1.rows) &&
           absent_or(&d->b2, d->w1.cols);
}

static uint64_t ff_flops(const struct ff_desc *d)
{
    return 2 * ((uint64_t)d->w1.rows * (uint64_t)d->w1.cols +
                (uint64_t)d->w2.rows * (uint64_t)d->w2.cols);
}

enum rxt_status weight_ff(struct weight **out, struct backend *be, const struct ff_desc *d,
                          enum dtype storage)
{
    *out = NULL;
    if (!ff_fits(d) || !stores(storage))
        return RXT_ESHAPE;
    TRY(be->ops->weight_ff(out, be, d, storage));
    struct weight *w = *out;
    w->kind = WEIGHT_FF;
    w->rows = w->cols = d->w1.cols;
    w->width = d->w2.cols;
    w->row_flops = ff_flops(d);
    return RXT_OK;
}

/* n feed-forwards of one shape over rows of dim values. */
static bool experts_fit(const struct ff_desc *d, int32_t n, int32_t dim)
{
    for (int32_t i = 0; i < n; i++)
        if (!ff_fits(&d[i]) || d[i].w1.cols != dim || d[i].w1.rows != d[0].w1.rows ||
            d[i].gated != d[0].gated || d[i].act != d[0].act)
            return false;
    return true;
}

enum rxt_status weight_moe(struct weight **out, struct backend *be, const struct moe_desc *d,
                           enum dtype storage)
{
    *out = NULL;
    int32_t dim = d->router.cols;
    if (!stores(storage) || d->n_expert < 1 || d->top_k < 1 || d->top_k > d->n_expert ||
        d->n_shared < 0 || !matrix_is(&d->router, d->n_expert, dim) || !size_fits(dim) ||
        !experts_fit(d->expert, d->n_expert, dim) || !experts_fit(d->shared, d->n_shared, dim) ||
        (d->n_shared > 1 && !matrix_is(&d->shared_gate, d->n_shared, dim)) ||
        !absent_or(&d->global_bias, dim) || !absent_or(&d->shared_bias, dim))
        return RXT_ESHAPE;
    TRY(be->ops->weight_moe(out, be, d, storage));
    struct weight *w = *out;
    w->kind = WEIGHT_MOE;
    w->rows = w->cols = dim;
    w->width = d->expert[0].w2.cols;
    w->n_expert = d->n_expert;
    w->n_routed = d->top_k;
    w->n_shared = d->n_shared;
    w->row_flops =
        2 * (uint64_t)d->n_expert * (uint64_t)dim + (uint64_t)d->top_k * ff_flops(&d->expert[0]);
    if (d->n_shared > 0) {
        w->row_flops += (uint64_t)d->n_shared * ff_flops(&d->shared[0]);
        if (d->shared[0].w2.cols > w->width)
            w->width = d->shared[0].w2.cols;
    }
    if (d->n_shared > 1)
        w->row_flops += 2 * (uint64_t)d->n_shared * (uint64_t)dim;
    return RXT_OK;
}

static bool gate_fits(const struct gate_desc *d)
{
    int32_t n = d->per_slot ? d->n_slot : 1;
    if (d->n_slot < 1 || d->dim < 1 || !absent_or(&d->status_w, d->dim) ||
        (d->status_w.data && !vector_is(&d->status_b, 1)))
        return false;
    switch (d->kind) {
    case GATE_REPLACE:
    case GATE_ADD:
        return true;
    case GATE_STATIC:
    case GATE_ELEMENTWISE:
        return vector_is(&d->g, n);
    case GATE_LINEAR:
        return matrix_is(&d->w, n, d->n_slot) && vector_is(&d->b, n);
    }
    return false;
}

enum rxt_status weight_gate(struct weight **out, struct backend *be, const struct gate_desc *d)
{
    *out = NULL;
    if (!gate_fits(d))
        return RXT_ESHAPE;
    TRY(be->ops->weight_gate(out, be, d));
    struct weight *w = *out;
    w->kind = WEIGHT_GATE;
    w->rows = d->n_slot;
    w->cols = d->dim;
    return RXT_OK;
}
