#include "kernels/cpu/packed_impl.h"

#include "kernels/base/bf16.h"
#include "kernels/base/mem.h"
#include "kernels/host_impl.h"

#include <assert.h>
#include <string.h>

#define K_BLOCK 256 /* of one column, read at a time: long enough to be read ahead */
#define C_BLOCK 32  /* columns at a time: the two vecs of a bf16 word */

/* ---- which source row a packed column comes from ---- */

static int32_t source_row(const struct packed *p, int32_t column)
{
    if (!p->gated)
        return column < p->n ? column : -1;
    int32_t i = column % PANEL, at = column / PANEL * (PANEL / 2) + i % (PANEL / 2);
    if (at >= p->n)
        return -1;
    return i < PANEL / 2 ? at : p->n + at;
}

struct source {
    const struct host_matrix *part;
    const struct host_vector *bias;
};

/* The part that row falls into; *row becomes its row there. */
static int32_t part_of(const struct source *s, int32_t *row)
{
    int32_t i = 0;
    for (; *row >= s->part[i].rows; i++)
        *row -= s->part[i].rows;
    return i;
}

/* ---- packing ---- */

struct pack_job {
    struct packed *to;
    struct source from;
};

/* Elements [k, k + n) of a packed column. */
static void read_column(const struct pack_job *job, float *out, int32_t column, int32_t k,
                        int32_t n)
{
    int32_t row = source_row(job->to, column);
    if (row < 0) {
        memset(out, 0, (size_t)n * sizeof *out);
        return;
    }
    int32_t i = part_of(&job->from, &row);
    host_row_read(out, &job->from.part[i], row, k, n);
}

/* A block of columns on its way, k running fastest: values, then bits as they are stored. */
union block {
    float value[C_BLOCK][K_BLOCK];
    uint32_t bits[C_BLOCK][K_BLOCK];
};

/* In place: rows c and c + 16 become the words of row c. */
static void join_pairs(union block *b, int32_t n)
{
    for (int32_t c = 0; c < 16; c++)
        for (int32_t k = 0; k < n; k++) {
            uint32_t low = bf16_from_f32(b->value[c][k]);
            uint32_t high = bf16_from_f32(b->value[c + 16][k]);
            b->bits[c][k] = low | high << 16;
        }
}

/* out[k * step + i] = row first + i of the block, i < 16. */
static void transpose16(uint32_t *out, size_t step, const union block *b, int32_t first, int32_t n)
{
    for (int32_t k = 0; k < n; k++, out += step)
        for (int32_t i = 0; i < 16; i++)
            out[i] = b->bits[first + i][k];
}

static void pack_panel(const struct pack_job *job, int32_t panel)
{
    struct packed *p = job->to;
    int32_t first = panel * PANEL, width = panel_width(p, panel);
    int32_t per_word = p->dtype == DTYPE_F32 ? 1 : 2;
    size_t step = (size_t)(width / per_word); /* words of one k */
    uint32_t *out = (uint32_t *)(void *)p->data + (size_t)(first / per_word) * (size_t)p->k;
    union block b;
    for (int32_t c = 0; c < width; c += C_BLOCK)
        for (int32_t k = 0; k < p->k; k += K_BLOCK) {
            int32_t n = p->k - k < K_BLOCK ? p->k - k : K_BLOCK;
            for (int32_t i = 0; i < C_BLOCK; i++)
                read_column(job, b.value[i], first + c + i, k, n);
            if (per_word == 2)
                join_pairs(&b, n);
            uint32_t *to = out + (size_t)k * step + c / per_word;
            for (int32_t i = 0; i < C_BLOCK / per_word; i += 16)
                transpose16(to + i, step, &b, i, n);
        }
}

static void pack_panels(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    for (int32_t panel = first; panel < last; panel++)
        pack_panel(arg, panel);
}

static void pack_bias(const struct pack_job *job)
{
    const struct packed *p = job->to;
    for (int32_t c = 0; c < p->columns; c++) {
        int32_t row = source_row(p, c);
        if (row < 0 || !job->from.bias)
            continue; /* zero already */
        const struct host_vector *b = &job->from.bias[part_of(&job->from, &row)];
        if (b->data)
            p->bias[c] = dtype_value(b->data, b->dtype, (size_t)row);
    }
}

enum rxt_status packed_create(struct packed *out, struct pool *pool, const struct host_matrix *part,
                              const struct host_vector *bias, int n_part, bool gated,
                              enum dtype storage)
{
    assert(!gated || n_part == 1);
    int32_t rows = 0;
    for (int i = 0; i < n_part; i++)
        rows += part[i].rows;
    struct packed p = {.k = part[0].cols, .dtype = storage, .gated = gated};
    p.n = gated ? rows / 2 : rows;
    p.columns = gated ? (p.n + 31) / 32 * PANEL : (p.n + 31) / 32 * 32;
    p.n_panel = (p.columns + PANEL - 1) / PANEL;
    p.data = mem_alloc_n((size_t)p.columns * (size_t)p.k, dtype_bytes(storage));
    p.bias = mem_alloc_n((size_t)p.columns, sizeof *p.bias);
    *out = p;
    if (!p.data || !p.bias) {
        packed_destroy(out);
        return RXT_ENOMEM;
    }
    const struct pack_job job = {out, {part, bias}};
    const struct task t = {
        .fn = pack_panels,
        .arg = &job,
        .n_item = p.n_panel,
        .work = 64 * (uint64_t)p.columns * (uint64_t)p.k, /* an element costs as much as 64 flops */
    };
    pool_run(pool, &t, NULL);
    pack_bias(&job);
    return RXT_OK;
}

void packed_destroy(struct packed *p)
{
    mem_free(p->data);
    mem_free(p->bias);
    *p = (struct packed){0};
}

size_t packed_bytes(const struct packed *p)
{
    return (size_t)p->columns * ((size_t)p->k * dtype_bytes(p->dtype) + sizeof *p->bias);
}
