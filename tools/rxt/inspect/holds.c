#include "tools/rxt/inspect/holds.h"

#include <math.h>
#include <stdlib.h>

enum rxt_status holds_open(struct holds *d, const struct history *h, uint64_t first, uint64_t last)
{
    size_t n = (size_t)(last - first);
    *d = (struct holds){.first = first,
                        .last = last,
                        .n_slot = h->n_slot,
                        .keep = calloc(h->n_slot * n + 1, sizeof *d->keep),
                        .row = calloc(n + 1, sizeof *d->row)};
    return d->keep && d->row ? RXT_OK : RXT_ENOMEM;
}

void holds_close(struct holds *d)
{
    free(d->keep);
    free(d->row);
    *d = (struct holds){0};
}

void holds_note(struct holds *d, const struct store_turn *row, const struct stm_slot_probe *probe)
{
    size_t t = (size_t)(row->version - d->first - 1);
    d->row[t] = (struct hold_row){row->kind, row->parent};
    for (size_t s = 0; s < d->n_slot; s++)
        d->keep[t * d->n_slot + s] = probe[s].keep;
}

enum rxt_status holds_walk(struct holds *d, struct history *h, struct rxt_error *err)
{
    struct stm_slot_probe *probe = malloc(d->n_slot * sizeof *probe);
    enum rxt_status st = probe ? history_load(h, d->first, err) : RXT_ENOMEM;
    for (uint64_t v = d->first + 1; v <= d->last && st == RXT_OK; v++) {
        struct store_turn row;
        st = history_step(h, v, probe, err);
        if (st == RXT_OK)
            st = store_turn_get(h->store, h->session.id, v, &row, err);
        if (st == RXT_OK)
            holds_note(d, &row, probe);
    }
    free(probe);
    return st;
}

struct hold holds_of(const struct holds *d, size_t slot)
{
    struct hold h = {.half_life = NAN};
    double left = 1;
    int turns = 0;
    for (uint64_t v = d->last; v > d->first;) {
        size_t t = (size_t)(v - d->first - 1);
        if (d->row[t].kind == STORE_RESET) {
            left = 0;
            break;
        }
        if (d->row[t].kind == STORE_REWIND) {
            v = d->row[t].parent;
            continue;
        }
        double keep = fmin(fmax((double)d->keep[t * d->n_slot + slot], 0), 1);
        if (left * (1 - keep) > (double)h.share) {
            h.share = (float)(left * (1 - keep));
            h.version = v;
        }
        left *= keep;
        turns++;
        if (left < 0.5 && isnan(h.half_life))
            h.half_life = (float)turns;
        v--;
    }
    if (left > (double)h.share) {
        h.share = (float)left;
        h.version = 0;
    }
    if (isnan(h.half_life))
        h.half_life = (float)(turns + 1);
    return h;
}
