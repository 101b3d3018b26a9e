/* The fronts of the ops: every shape is checked here, once for every backend, before anything is
 * written; then the op is counted and handed down. What a backend is called with fits. */
#include "kernels/backend_impl.h"

#include "kernels/base/count.h"

#include <assert.h>
#include <math.h>

#define CHECK(condition)       \
    do {                       \
        if (!(condition))      \
            return RXT_ESHAPE; \
    } while (0)

/* ---- what fits ---- */

static bool tensor_ok(struct tensor t)
{
    return t.rows >= 0 && t.cols > 0 && t.stride >= t.cols && (t.data || t.rows == 0);
}

/* A matrix of activations of n columns. */
static bool act_ok(const struct lane *ln, struct tensor t, int64_t cols)
{
    return tensor_ok(t) && t.dtype == ln->be->act_dtype && t.cols == cols &&
           t.rows <= ln->limits.max_rows && t.cols <= ln->limits.max_width;
}

static bool act_same(const struct lane *ln, struct tensor a, struct tensor b)
{
    return act_ok(ln, a, a.cols) && act_ok(ln, b, a.cols) && a.rows == b.rows;
}

static bool stored_ok(const struct lane *ln, struct tensor t)
{
    return tensor_ok(t) && (t.dtype == DTYPE_F32 || t.dtype == DTYPE_BF16) &&
           t.rows <= ln->limits.max_rows && t.cols <= ln->limits.max_width;
}

/* NULL or a norm of rows of x. */
static bool norm_ok(const struct weight *norm, struct tensor x)
{
    assert(!norm || norm->kind == WEIGHT_NORM);
    return !norm || (norm->cols == x.cols && (norm->rows == 0 || x.rows % norm->rows == 0));
}

static bool ragged_ok(const struct lane *ln, const struct ragged *g, int32_t rows)
{
    if (g->n_seq < 1 || g->n_seq > ln->limits.max_seq || g->offset[0] != 0 ||
        g->offset[g->n_seq] != rows)
        return false;
    for (int32_t i = 0; i < g->n_seq; i++)
        if (g->offset[i] > g->offset[i + 1] || (g->start && g->start[i] < 0))
            return false;
    return true;
}

static int32_t ragged_len(const struct ragged *g, int32_t seq)
{
    return g->offset[seq + 1] - g->offset[seq];
}

/* Positions that sequence seq ends before. */
static int64_t ragged_end(const struct ragged *g, int32_t seq)
{
    return (int64_t)(g->start ? g->start[seq] : 0) + ragged_len(g, seq);
}

/* NULL or rotations of every position of g. */
static bool rope_ok(const struct weight *rope, const struct ragged *g, int32_t head_dim)
{
    assert(!rope || rope->kind == WEIGHT_ROPE);
    if (!rope)
        return true;
    if (2 * rope->cols != head_dim)
        return false;
    for (int32_t i = 0; i < g->n_seq; i++)
        if (ragged_end(g, i) > rope->rows)
            return false;
    return true;
}

static bool heads_ok(const struct heads *h)
{
    return h->n_q > 0 && h->n_kv > 0 && h->dim > 0 && h->dim <= BACKEND_HEAD_MAX &&
           (h->n_q >= h->n_kv ? h->n_q % h->n_kv : h->n_kv % h->n_q) == 0 && h->gate <= ACT_LINEAR;
}

static int64_t context_cols(const struct heads *h)
{
    return (int64_t)(h->n_q > h->n_kv ? h->n_q : h->n_kv) * h->dim;
}

static int64_t gate_cols(const struct heads *h)
{
    return h->gate == ACT_NONE ? 0 : context_cols(h);
}

/* ---- counting ---- */

static uint64_t tensor_bytes(struct tensor t)
{
    return (uint64_t)t.rows * (uint64_t)t.cols * dtype_bytes(t.dtype);
}

static void count_rows(struct tensor x, struct tensor out, const struct weight *w)
{
    count_op((uint64_t)out.rows * w->row_flops, w->bytes + tensor_bytes(x) + tensor_bytes(out));
}

/* Attention of pairs (query row, key row), reading key_rows of K and of V. */
static void count_attention(const struct lane *ln, const struct heads *h, uint64_t pairs,
                            uint64_t key_rows, uint64_t other_bytes)
{
    uint64_t key_bytes = (uint64_t)h->n_kv * (uint64_t)h->dim * dtype_bytes(ln->be->act_dtype);
    count_op(4 * pairs * (uint64_t)context_cols(h), 2 * key_rows * key_bytes + other_bytes);
}

/* ---- rows ---- */

enum rxt_status op_embed(struct lane *ln, struct tensor out, const struct weight *table,
                         const int32_t *id)
{
    assert(table->kind == WEIGHT_TABLE);
    CHECK(act_ok(ln, out, table->cols));
    for (int32_t r = 0; r < out.rows; r++)
        CHECK(id[r] >= 0 && id[r] < table->rows);
    if (out.rows == 0)
        return RXT_OK;
    count_op(0, 2 * tensor_bytes(out));
    return ln->be->ops->embed(ln, out, table, id);
}

enum rxt_status op_linear(struct lane *ln, struct tensor out, struct tensor x,
                          const struct weight *norm, const struct weight *linear)
{
    assert(linear->kind == WEIGHT_LINEAR);
    CHECK(act_ok(ln, x, linear->cols) && act_ok(ln, out, linear->rows) && out.rows == x.rows &&
          norm_ok(norm, x));
    if (x.rows == 0)
        return RXT_OK;
    count_rows(x, out, linear);
    return ln->be->ops->linear(ln, out, x, norm, linear);
}

enum rxt_status op_linear_add(struct lane *ln, struct tensor x, struct tensor c,
                              const struct weight *linear)
{
    assert(linear->kind == WEIGHT_LINEAR);
    CHECK(act_ok(ln, c, linear->cols) && act_ok(ln, x, linear->rows) && c.rows == x.rows);
    if (x.rows == 0)
        return RXT_OK;
    count_rows(c, x, linear);
    return ln->be->ops->linear_add(ln, x, c, linear);
}

enum rxt_status op_ff_add(struct lane *ln, struct tensor x, const struct weight *norm,
                          const struct weight *ff)
{
    assert(ff->kind == WEIGHT_FF);
    CHECK(act_ok(ln, x, ff->cols) && norm_ok(norm, x) && ff->width <= ln->limits.max_width);
    if (x.rows == 0)
        return RXT_OK;
    count_rows(x, x, ff);
    return ln->be->ops->ff_add(ln, x, norm, ff);
}

enum rxt_status op_moe_add(struct lane *ln, struct tensor x, const struct weight *norm,
                           const struct weight *moe)
{
    assert(moe->kind == WEIGHT_MOE);
    CHECK(act_ok(ln, x, moe->cols) && norm_ok(norm, x) && moe->width <= ln->limits.max_width &&
          moe->n_expert <= ln->limits.max_expert &&
          moe->n_routed + moe->n_shared <= ln->limits.max_active);
    if (x.rows == 0)
        return RXT_OK;
    int64_t used = (int64_t)x.rows * moe->n_routed; /* experts, at most */
    uint64_t unused = used < moe->n_expert ? (uint64_t)(moe->n_expert - used) : 0;
    count_op((uint64_t)x.rows * moe->row_flops,
             moe->bytes - unused * moe->expert_bytes + 2 * tensor_bytes(x));
    return ln->be->ops->moe_add(ln, x, norm, moe);
}

enum rxt_status op_head(struct lane *ln, struct tensor logits, struct tensor x, const int32_t *row,
                        const struct weight *norm, const struct weight *head)
{
    assert(head->kind == WEIGHT_LINEAR);
    CHECK(act_ok(ln, x, head->cols) && norm_ok(norm, x) && tensor_ok(logits) &&
          logits.dtype == DTYPE_F32 && logits.cols == head->rows &&
          logits.cols <= ln->limits.max_vocab && logits.rows <= ln->limits.max_rows);
    for (int32_t i = 0; i < logits.rows; i++)
        CHECK(row[i] >= 0 && row[i] < x.rows);
    if (logits.rows == 0)
        return RXT_OK;
    struct tensor read = x;
    read.rows = logits.rows;
    count_rows(read, logits, head);
    return ln->be->ops->head(ln, logits, x, row, norm, head);
}

/* ---- attention ---- */

enum rxt_status op_self_attention(struct lane *ln, const struct self_attention *a)
{
    const struct heads *h = &a->heads;
    CHECK(heads_ok(h) && act_ok(ln, a->out, context_cols(h)) &&
          act_ok(ln, a->qkv, ((int64_t)h->n_q + 2 * (int64_t)h->n_kv) * h->dim + gate_cols(h)) &&
          a->out.rows == a->qkv.rows && ragged_ok(ln, &a->rows, a->qkv.rows) &&
          rope_ok(a->rope, &a->rows, h->dim) && a->layer >= 0);
    uint64_t pairs = 0, keys = 0;
    for (int32_t i = 0; i < a->rows.n_seq; i++) {
        const struct kv_config *c = &a->kv[i]->cfg;
        int64_t n = ragged_len(&a->rows, i), end = ragged_end(&a->rows, i);
        CHECK(c->n_kv_head == h->n_kv && c->head_dim == h->dim && a->layer < c->n_layer &&
              end <= c->max_tokens && end <= ln->limits.max_keys);
        pairs += (uint64_t)(n * end - n * (n - 1) / 2);
        keys += (uint64_t)(n > 0 ? end : 0);
    }
    if (a->out.rows == 0)
        return RXT_OK;
    count_attention(ln, h, pairs, keys, tensor_bytes(a->qkv) + tensor_bytes(a->out));
    return ln->be->ops->self_attention(ln, a);
}

enum rxt_status op_cross_attention(struct lane *ln, const struct cross_attention *a)
{
    const struct heads *h = &a->heads;
    CHECK(heads_ok(h) && act_ok(ln, a->out, context_cols(h)) &&
          act_ok(ln, a->q, (int64_t)h->n_q * h->dim + gate_cols(h)) && a->out.rows == a->q.rows &&
          ragged_ok(ln, &a->rows, a->q.rows) && rope_ok(a->rope, &a->rows, h->dim) &&
          a->layer >= 0);
    uint64_t pairs = 0, keys = 0;
    for (int32_t i = 0; i < a->rows.n_seq; i++) {
        const struct mem_kv_config *c = &a->mem[i]->cfg;
        CHECK(c->n_kv_head == h->n_kv && c->head_dim == h->dim && a->layer < c->n_layer &&
              c->n_slot <= ln->limits.max_keys);
        pairs += (uint64_t)ragged_len(&a->rows, i) * (uint64_t)c->n_slot;
        keys += (uint64_t)c->n_slot;
    }
    if (a->out.rows == 0)
        return RXT_OK;
    count_attention(ln, h, pairs, keys, tensor_bytes(a->q) + tensor_bytes(a->out));
    return ln->be->ops->cross_attention(ln, a);
}

enum rxt_status op_full_attention(struct lane *ln, const struct full_attention *a)
{
    const struct heads *h = &a->heads;
    CHECK(heads_ok(h) && act_ok(ln, a->out, context_cols(h)) &&
          act_ok(ln, a->q, (int64_t)h->n_q * h->dim) &&
          act_ok(ln, a->k, (int64_t)h->n_kv * h->dim) &&
          act_ok(ln, a->v, (int64_t)h->n_kv * h->dim) && a->out.rows == a->q.rows &&
          a->v.rows == a->k.rows && a->kv_rows.n_seq == a->q_rows.n_seq &&
          ragged_ok(ln, &a->q_rows, a->q.rows) && ragged_ok(ln, &a->kv_rows, a->k.rows) &&
          rope_ok(a->rope_q, &a->q_rows, h->dim) && rope_ok(a->rope_k, &a->kv_rows, h->dim));
    CHECK(h->gate == ACT_NONE ||
          (act_ok(ln, a->gate_in, context_cols(h)) && a->gate_in.rows == a->q.rows));
    uint64_t pairs = 0;
    for (int32_t i = 0; i < a->q_rows.n_seq; i++) {
        int32_t n_q = ragged_len(&a->q_rows, i), n_key = ragged_len(&a->kv_rows, i);
        CHECK(n_key <= ln->limits.max_keys && (n_key > 0 || n_q == 0));
        pairs += (uint64_t)n_q * (uint64_t)n_key;
    }
    if (a->out.rows == 0)
        return RXT_OK;
    count_attention(ln, h, pairs, (uint64_t)a->k.rows, tensor_bytes(a->q) + tensor_bytes(a->out));
    return ln->be->ops->full_attention(ln, a);
}

enum rxt_status op_mem_kv(struct lane *ln, struct mem_kv *out, int32_t layer, struct tensor stm,
                          const struct weight *norm, const struct weight *kv)
{
    assert(kv->kind == WEIGHT_LINEAR);
    const struct mem_kv_config *c = &out->cfg;
    CHECK(stored_ok(ln, stm) && stm.rows == c->n_slot && stm.cols == kv->cols &&
          norm_ok(norm, stm) && !(norm && norm->rows > 0) && layer >= 0 && layer < c->n_layer &&
          kv->rows == 2 * (int64_t)c->n_kv_head * c->head_dim && kv->rows <= ln->limits.max_width);
    count_op((uint64_t)stm.rows * kv->row_flops,
             kv->bytes + tensor_bytes(stm) +
                 (uint64_t)stm.rows * (uint64_t)kv->rows * dtype_bytes(ln->be->act_dtype));
    return ln->be->ops->mem_kv(ln, out, layer, stm, norm, kv);
}

/* ---- memory ---- */

enum rxt_status op_norm(struct lane *ln, struct tensor out, struct tensor x,
                        const struct weight *norm)
{
    CHECK(norm && act_same(ln, x, out) && norm_ok(norm, x));
    if (x.rows == 0)
        return RXT_OK;
    count_op(0, 2 * tensor_bytes(x));
    return ln->be->ops->norm(ln, out, x, norm);
}

enum rxt_status op_mean(struct lane *ln, struct tensor out, const struct tensor *x, int32_t n)
{
    CHECK(n > 0);
    for (int32_t i = 0; i < n; i++)
        CHECK(act_same(ln, out, x[i]));
    if (out.rows == 0)
        return RXT_OK;
    count_op(0, (uint64_t)(n + 1) * tensor_bytes(out));
    return ln->be->ops->mean(ln, out, x, n);
}

enum rxt_status op_gate(struct lane *ln, struct tensor out, struct tensor old, struct tensor new_,
                        const struct weight *gate)
{
    assert(gate->kind == WEIGHT_GATE);
    CHECK(act_same(ln, out, old) && act_same(ln, out, new_) && out.cols == gate->cols &&
          out.rows % gate->rows == 0);
    if (out.rows == 0)
        return RXT_OK;
    count_op(0, 3 * tensor_bytes(out) + gate->bytes);
    return ln->be->ops->gate(ln, out, old, new_, gate);
}

enum rxt_status op_gate_store(struct lane *ln, struct tensor out, bool *finite, struct tensor via,
                              struct tensor old, struct tensor new_, const struct weight *gate)
{
    assert(gate->kind == WEIGHT_GATE);
    CHECK(stored_ok(ln, out) && act_same(ln, via, old) && act_same(ln, via, new_) &&
          out.rows == old.rows && out.cols == old.cols && out.cols == gate->cols && out.rows > 0 &&
          out.rows % gate->rows == 0);
    count_op(0, 2 * tensor_bytes(old) + tensor_bytes(out) + gate->bytes);
    return ln->be->ops->gate_store(ln, out, finite, via, old, new_, gate);
}

enum rxt_status op_convert(struct lane *ln, struct tensor out, struct tensor x)
{
    CHECK(stored_ok(ln, out) && stored_ok(ln, x) && out.rows == x.rows && out.cols == x.cols);
    if (x.rows == 0)
        return RXT_OK;
    count_op(0, tensor_bytes(out) + tensor_bytes(x));
    return ln->be->ops->convert(ln, out, x);
}

enum rxt_status op_finite(struct lane *ln, bool *finite, struct tensor x)
{
    CHECK(stored_ok(ln, x));
    if (x.rows == 0) {
        *finite = true;
        return RXT_OK;
    }
    count_op(0, tensor_bytes(x));
    return ln->be->ops->finite(ln, finite, x);
}

/* ---- sampling ---- */

static bool sampling_ok(const struct sampling *s, int32_t n_vocab)
{
    if (s->n_choice < 0 || s->n_choice > 2)
        return false;
    for (int32_t i = 0; i < s->n_choice; i++)
        if (s->choice[i] < 0 || s->choice[i] >= n_vocab)
            return false;
    return isfinite(s->temperature) && s->temperature >= 0.0f && s->top_k >= 0 &&
           s->top_p >= 0.0f && s->top_p <= 1.0f && s->position >= 0;
}

enum rxt_status op_sample(struct lane *ln, int32_t *id, struct tensor logits,
                          const struct sampling *how)
{
    CHECK(tensor_ok(logits) && logits.dtype == DTYPE_F32 && logits.cols <= ln->limits.max_vocab &&
          logits.rows <= ln->limits.max_rows);
    for (int32_t i = 0; i < logits.rows; i++)
        if (!sampling_ok(&how[i], logits.cols))
            return RXT_EINVAL;
    if (logits.rows == 0)
        return RXT_OK;
    count_op(0, tensor_bytes(logits));
    return ln->be->ops->sample(ln, id, logits, how);
}
