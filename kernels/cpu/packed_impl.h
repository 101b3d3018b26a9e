/* A weight matrix as the kernels read it: panels of 64 output columns, one after another, each
 * [K][64], so that one row of activations streams through memory once, forwards.
 *
 *   f32    64 floats for each k, in the order of the columns
 *   bf16   2 x 16 words for each k: word i of half h holds column 32h+i below and 32h+16+i above,
 *          so that a shift and a mask widen them (exactly) without a shuffle
 *
 * Columns are filled up to a multiple of 32 with zeros; the last panel may be 32 wide. A gated
 * matrix (first layer of a gated feed-forward) has in each panel 32 values and the 32 gates that
 * go with them. The bias has the same order and is zero where there is none. */
#ifndef RXT_CPU_PACKED_IMPL_H
#define RXT_CPU_PACKED_IMPL_H

#include "kernels/cpu/pool_impl.h"

#define PANEL 64

struct packed {
    char *data;
    float *bias; /* [columns] */
    int32_t n;   /* outputs that exist; gated: pairs of value and gate */
    int32_t k;
    int32_t columns; /* filled up */
    int32_t n_panel;
    enum dtype dtype;
    bool gated;
};

/* Packs the parts, one below the other, on the pool's threads. gated: n_part is 1 and its rows are
 * the values, then the gates. ENOMEM; *out is then empty. */
enum rxt_status packed_create(struct packed *out, struct pool *pool, const struct host_matrix *part,
                              const struct host_vector *bias, int n_part, bool gated,
                              enum dtype storage);
void packed_destroy(struct packed *p); /* of an empty one: nothing */
size_t packed_bytes(const struct packed *p);

static inline int32_t panel_width(const struct packed *p, int32_t panel)
{
    return p->columns - panel * PANEL < PANEL ? p->columns - panel * PANEL : PANEL;
}

#endif
