#include "tests/ref/ref.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static const float *values(struct host_vector v)
{
    return v.data;
}

/* status[s] = mean over D of new + old, or its product with status_w. Gives the mean over slots,
 * rounded once. */
static float status_of(enum ref_mode mode, float *status, const float *old, const float *new_,
                       const struct gate_desc *d)
{
    double all = 0;
    for (int s = 0; s < d->n_slot; s++) {
        double sum = 0;
        for (int i = 0; i < d->dim; i++) {
            float both = ref_round(mode, (double)new_[s * d->dim + i] + old[s * d->dim + i]);
            sum += d->status_w.data ? (double)values(d->status_w)[i] * both : both;
        }
        if (d->status_w.data) {
            status[s] = ref_round(mode, sum + (d->status_b.data ? values(d->status_b)[0] : 0));
            all += status[s];
        } else {
            status[s] = ref_round(mode, sum / d->dim);
            all += sum / d->dim;
        }
    }
    return ref_round(mode, all / d->n_slot);
}

/* z of a slot, before sigmoid or tanh. */
static float gate_input(enum ref_mode mode, const float *status, float mean_status, int slot,
                        const struct gate_desc *d)
{
    int at = d->per_slot ? slot : 0;
    double sum = 0;
    switch (d->kind) {
    case GATE_STATIC:
        return values(d->g)[at];
    case GATE_ELEMENTWISE:
        return ref_round(mode,
                         (double)values(d->g)[at] * (d->per_slot ? status[slot] : mean_status));
    case GATE_LINEAR:
        for (int s = 0; s < d->n_slot; s++)
            sum += (double)((const float *)d->w.data)[at * d->n_slot + s] * status[s];
        return ref_round(mode, sum + (d->b.data ? values(d->b)[at] : 0));
    case GATE_REPLACE:
    case GATE_ADD:
        break;
    }
    return 0;
}

void ref_gate(enum ref_mode mode, float *out, const float *old, const float *new_,
              const struct gate_desc *d)
{
    float *status = malloc((size_t)d->n_slot * sizeof *status);
    assert(status);
    bool gated = d->kind != GATE_REPLACE && d->kind != GATE_ADD;
    float mean_status = gated ? status_of(mode, status, old, new_, d) : 0;
    for (int s = 0; s < d->n_slot; s++) {
        double z = gated ? gate_input(mode, status, mean_status, s, d) : 0;
        float g = ref_round(mode, d->tanh ? tanh(z) : 1 / (1 + exp(-z)));
        float keep = ref_round(mode, 1 - (double)g), take = d->tanh ? ref_round(mode, 1 + g) : g;
        for (int i = s * d->dim; i < (s + 1) * d->dim; i++) {
            if (d->kind == GATE_REPLACE)
                out[i] = new_[i];
            else if (d->kind == GATE_ADD)
                out[i] = ref_round(mode, (double)new_[i] + old[i]);
            else
                out[i] = ref_round(mode, (double)ref_round(mode, (double)take * new_[i]) +
                                             ref_round(mode, (double)keep * old[i]));
        }
    }
    free(status);
}
