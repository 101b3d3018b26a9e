#include "kernels/cuda/scratch_impl.h"

#include "kernels/cuda/pack_impl.h"

size_t scratch_cut(size_t count, size_t size)
{
    return (count * size + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN * SCRATCH_ALIGN;
}

size_t scratch_items(size_t n_row, size_t n_chosen, size_t n_expert)
{
    size_t chosen = n_row * n_chosen;
    return (chosen < n_expert ? chosen : n_expert) + chosen / SCRATCH_ITEM;
}

/* Rows of `cols`, filled up. */
static size_t staged_rows(size_t rows, size_t cols, size_t value)
{
    return scratch_cut(rows * (size_t)pack_fill((int32_t)cols), value);
}

static size_t moe_need(const struct lane_limits *l, size_t value)
{
    size_t rows = (size_t)l->max_rows, width = (size_t)l->max_width, e = (size_t)l->max_expert;
    size_t active = (size_t)l->max_active, chosen = rows * active;
    if (e == 0)
        return 0;
    return 2 * staged_rows(rows, width, value)      /* input, and rounded */
           + 2 * staged_rows(chosen, width, value)  /* hidden, routed and shared */
           + 2 * scratch_cut(chosen * width, value) /* results */
           + scratch_cut(rows * e, sizeof(float)) +
           5 * scratch_cut(chosen, sizeof(float)) /* logits, choices, shares, slots, their rows */
           + scratch_cut(3 * scratch_items(rows, active, e), sizeof(int32_t)) +
           scratch_cut(1, sizeof(int32_t));
}

size_t scratch_partials(const struct lane_limits *l, enum dtype act)
{
    size_t splits = 4, most = (size_t)8 << 20; /* 32 MB */
    if (act != DTYPE_BF16)
        return 0;
    while (splits * KV_BLOCK < (size_t)l->max_keys)
        splits *= 2;
    size_t n =
        (size_t)l->max_rows * (size_t)l->max_width * splits * 9 / 8; /* hd + 2 a head, hd 16 */
    return n < most ? n : most;
}

static size_t most_of(const size_t *need, size_t n)
{
    size_t most = 0;
    for (size_t i = 0; i < n; i++)
        most = need[i] > most ? need[i] : most;
    return most;
}

size_t scratch_need_branch(const struct lane_limits *l, enum dtype act)
{
    size_t rows = (size_t)l->max_rows, width = (size_t)l->max_width, value = dtype_bytes(act);
    size_t staged = staged_rows(rows, width, value);
    size_t key_rows = rows + KV_BLOCK * (size_t)l->max_seq;
    const size_t need[] = {
        2 * staged,                                /* linear, ff */
        staged + scratch_cut(rows * width, value), /* mem_kv */
        scratch_cut(2 * key_rows * width, value),  /* full_attention */
        scratch_cut(rows * width, sizeof(float)),  /* mean */
        2 * scratch_cut(rows, sizeof(float)),      /* gate */
    };
    return most_of(need, sizeof need / sizeof *need);
}

size_t scratch_need(const struct lane_limits *l, enum dtype act)
{
    const size_t need[] = {
        scratch_need_branch(l, act),                          /* head too */
        scratch_cut(scratch_partials(l, act), sizeof(float)), /* self_attention, cross_attention */
        moe_need(l, dtype_bytes(act)),
    };
    return most_of(need, sizeof need / sizeof *need);
}

size_t args_need_op(const struct lane_limits *l)
{
    return 2 * sizeof(int32_t) * (size_t)l->max_rows + (size_t)3 * ARGS_SEQ * (size_t)l->max_seq +
           256;
}

size_t args_need(const struct lane_limits *l)
{
    return args_need_op(l) + (size_t)192 * ARGS_SEQ * (size_t)l->max_seq;
}
