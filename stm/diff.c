#include "stm/stm_impl.h"

#include <math.h>

/* Sums are in double and in the order of the elements: figures for people, not for results. */

/* Values of a slot fetched at a time: they may lie on a device. */
enum { CHUNK = 4096 };

enum rxt_status stm_stats(const struct stm *m, struct lane *ln, struct stm_slot_stat *stat)
{
    const struct stm_config *cfg = &m->cfg;
    size_t bytes = dtype_bytes(cfg->dtype), dim = (size_t)cfg->embed_dim;
    size_t n_slot = (size_t)cfg->n_layer * (size_t)cfg->n_slot;
    float chunk[CHUNK];
    for (size_t s = 0; s < n_slot; s++) {
        double sum = 0, squares = 0;
        float top = 0;
        for (size_t first = 0; first < dim; first += CHUNK) {
            size_t n = dim - first < CHUNK ? dim - first : CHUNK;
            const char *from = (const char *)m->values + (s * dim + first) * bytes;
            TRY(lane_download(ln, chunk, from, n * bytes));
            for (size_t i = 0; i < n; i++) {
                float v = dtype_value(chunk, cfg->dtype, i);
                sum += v;
                squares += (double)v * v;
                top = fmaxf(top, fabsf(v));
            }
        }
        stat[s] = (struct stm_slot_stat){
            .rms = (float)sqrt(squares / (double)dim),
            .max_abs = top,
            .mean = (float)(sum / (double)dim),
        };
    }
    return RXT_OK;
}

enum rxt_status stm_diff(const void *a, enum dtype a_dtype, const void *b, enum dtype b_dtype,
                         const struct stm_config *cfg, struct stm_slot_diff *diff)
{
    if (stm_bytes(cfg) == 0)
        return RXT_ESHAPE;
    size_t dim = (size_t)cfg->embed_dim, n_slot = (size_t)cfg->n_layer * (size_t)cfg->n_slot;
    for (size_t s = 0; s < n_slot; s++) {
        double change = 0, ab = 0, aa = 0, bb = 0;
        for (size_t i = s * dim; i < (s + 1) * dim; i++) {
            double x = dtype_value(a, a_dtype, i), y = dtype_value(b, b_dtype, i);
            change += (y - x) * (y - x);
            ab += x * y;
            aa += x * x;
            bb += y * y;
        }
        diff[s].change = (float)sqrt(change / (double)dim);
        diff[s].cosine = aa > 0 && bb > 0 ? (float)(ab / (sqrt(aa) * sqrt(bb))) : 0;
    }
    return RXT_OK;
}
