#include "rxt/rxt_impl.h"

#include <math.h>

enum rxt_status rxt_sampling_check(const struct sampling *how, struct rxt_error *err)
{
    if (!isfinite(how->temperature) || how->temperature < 0)
        return rxt_fail(err, RXT_EINVAL,
                        "temperature must be a finite number, 0 (greedy) or more: got %g",
                        (double)how->temperature);
    if (how->top_k < 0)
        return rxt_fail(err, RXT_EINVAL, "top_k must be 0 (off) or more: got %d", how->top_k);
    if (!(how->top_p > 0 && how->top_p <= 1))
        return rxt_fail(err, RXT_EINVAL, "top_p must be above 0 and at most 1 (off): got %g",
                        (double)how->top_p);
    if (how->n_choice < 0 || how->n_choice > 2)
        return rxt_fail(err, RXT_EINVAL, "n_choice must be 0, 1 or 2: got %d", how->n_choice);
    return RXT_OK;
}

enum rxt_status rxt_sample(struct rxt_worker *w, const struct sampling *how, int32_t n, int32_t *id)
{
    if (n < 0 || n > w->n_logits)
        return RXT_ESHAPE;
    for (int32_t i = 0; i < n; i++)
        TRY(rxt_sampling_check(&how[i], NULL));
    if (n > 0)
        TRY(op_sample(w->ln, id, tensor_rows(w->logits, 0, n), how));
    return lane_sync(w->ln);
}
