/* Times of the ops that stream weights, at the shapes of spec 8 (preview, beta-3b), beside what the
 * machine could do at most. usage: bench_kernels [threads]   (RXT_ISA as everywhere)
 *
 * Every line is the median and the best of many calls: on a shared machine the best is the kernel,
 * the median is the machine. */
#include "kernels/backend.h"
#include "kernels/base/bf16.h"
#include "kernels/base/clock.h"
#include "kernels/base/count.h"
#include "kernels/base/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_US 150000 /* of calls behind one line */
#define MAX_CALLS 4000
#define MAX_ROWS 256

static struct backend *be;
static struct lane *ln;
static struct backend_ceiling ceiling;

static void must(enum rxt_status st, const char *what)
{
    if (st == RXT_OK)
        return;
    (void)fprintf(stderr, "bench_kernels: %s: %s\n", what, rxt_status_text(st));
    exit(1);
}

static void *memory(size_t bytes)
{
    void *p = malloc(bytes);
    if (!p)
        must(RXT_ENOMEM, "values");
    return p;
}

/* Values of one table, at different places of it, do for every matrix. */
enum { N_VALUE = 1 << 20 };
static bf16 *some_values(void)
{
    static bf16 *v;
    if (v)
        return v;
    v = memory(sizeof *v * 8 * N_VALUE);
    float *f = memory(sizeof *f * N_VALUE);
    random_normal_fill(f, N_VALUE, 1, RANDOM_BENCH, 0, 0);
    for (size_t i = 0; i < 8 * (size_t)N_VALUE; i++)
        v[i] = bf16_from_f32(f[i % N_VALUE] * 0.05f);
    free(f);
    return v;
}

static struct host_matrix matrix(int32_t rows, int32_t cols)
{
    static size_t at;
    if ((size_t)rows * (size_t)cols > 8 * (size_t)N_VALUE) {
        /* the head of beta-3b: its own memory, kept */
        bf16 *big = memory(sizeof *big * (size_t)rows * (size_t)cols);
        for (size_t i = 0; i < (size_t)rows * (size_t)cols; i++)
            big[i] = some_values()[i % N_VALUE];
        return (struct host_matrix){.data = big, .dtype = DTYPE_BF16, .rows = rows, .cols = cols};
    }
    at = (at + 4099) % (8 * (size_t)N_VALUE - (size_t)rows * (size_t)cols + 1);
    return (struct host_matrix){
        .data = some_values() + at, .dtype = DTYPE_BF16, .rows = rows, .cols = cols};
}

static struct weight *linear(int32_t n, int32_t k, enum dtype storage)
{
    struct weight *w;
    const struct host_matrix m = matrix(n, k);
    must(weight_linear(&w, be, &m, NULL, 1, storage), "linear");
    return w;
}

static struct ff_desc ff_desc(int32_t dim, int32_t width)
{
    return (struct ff_desc){
        .gated = true, .act = ACT_SILU, .w1 = matrix(2 * width, dim), .w2 = matrix(dim, width)};
}

static struct weight *norm(int32_t dim)
{
    struct weight *w;
    const struct norm_desc d = {
        .kind = NORM_RMS, .dim = dim, .weight = {some_values(), DTYPE_BF16, dim}};
    must(weight_norm(&w, be, &d), "norm");
    return w;
}

/* ---- one line ---- */

/* An op to time. Copies of the weights make the working set that of a whole model, so that no line
 * reads from a cache that a real step would not find filled. */
enum { MAX_COPIES = 64 };
struct call {
    enum op { LINEAR, LINEAR_ADD, FF, MOE, HEAD } op;
    struct tensor out, x;
    const struct weight *norm;
    struct weight *w[MAX_COPIES];
    int n_copy, next;
    int32_t row[MAX_ROWS];
};

static void run(struct call *c)
{
    const struct weight *w = c->w[c->next++ % c->n_copy];
    switch (c->op) {
    case LINEAR:
        must(op_linear(ln, c->out, c->x, c->norm, w), "op_linear");
        break;
    case LINEAR_ADD:
        must(op_linear_add(ln, c->out, c->x, w), "op_linear_add");
        break;
    case FF:
        must(op_ff_add(ln, c->x, c->norm, w), "op_ff_add");
        break;
    case MOE:
        must(op_moe_add(ln, c->x, c->norm, w), "op_moe_add");
        break;
    case HEAD:
        must(op_head(ln, c->out, c->x, c->row, c->norm, w), "op_head");
        break;
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Fresh small activations, so that sums do not run away over thousands of calls. */
static void reset(struct call *c)
{
    float *x = c->x.data;
    for (int64_t i = 0; i < c->x.rows * c->x.stride; i++)
        x[i] = (float)(i % 17 - 8) / 8.0f;
}

static void line(const char *name, struct call *c)
{
    static double us[MAX_CALLS];
    int n = 0, batch = 1;
    reset(c);
    struct count before = count_read();
    run(c);
    struct count one = count_read();
    uint64_t flops = one.flops - before.flops, bytes = one.bytes - before.bytes;
    for (uint64_t begin = clock_us(); n < MAX_CALLS && clock_us() - begin < LINE_US; n++) {
        reset(c);
        uint64_t start = clock_us();
        for (int i = 0; i < batch; i++)
            run(c);
        uint64_t took = clock_us() - start;
        us[n] = (double)took / batch;
        if (took < 50 && batch < 64) { /* the clock counts whole microseconds */
            batch *= 2;
            n = -1;
        }
    }
    qsort(us, (size_t)n, sizeof *us, by_value);
    double best = us[0], median = us[n / 2];
    printf("%-34s %4d rows %9.2f us (best %9.2f)  %6.1f GFLOP/s %3.0f%%  %6.1f GB/s %3.0f%%\n",
           name, c->x.rows, median, best, (double)flops / best / 1e3,
           100 * (double)flops / best * 1e6 / ceiling.flops, (double)bytes / best / 1e3,
           100 * (double)bytes / best * 1e6 / ceiling.cache_bytes_s);
    for (int i = 0; i < c->n_copy; i++)
        weight_destroy(be, &c->w[i]);
}

static struct tensor rows(int32_t n, int32_t cols)
{
    struct tensor t = {backend_alloc(be, (size_t)n * (size_t)cols * sizeof(float)), DTYPE_F32, n,
                       cols, cols};
    if (!t.data)
        must(RXT_ENOMEM, "activations");
    return t;
}

static void linear_line(const char *name, enum op op, int32_t n_row, int32_t n, int32_t k,
                        int n_copy, enum dtype storage)
{
    struct call c = {.op = op, .x = rows(n_row, k), .out = rows(n_row, n), .n_copy = n_copy};
    struct weight *nw = norm(k);
    c.norm = op == LINEAR_ADD ? NULL : nw;
    for (int i = 0; i < n_row; i++)
        c.row[i] = i;
    for (int i = 0; i < n_copy; i++)
        c.w[i] = linear(n, k, storage);
    line(name, &c);
    weight_destroy(be, &nw);
    backend_free(be, c.x.data);
    backend_free(be, c.out.data);
}

static void ff_line(const char *name, int32_t n_row, int32_t dim, int32_t width, int n_copy)
{
    struct call c = {.op = FF, .x = rows(n_row, dim), .n_copy = n_copy};
    struct weight *nw = norm(dim);
    c.norm = nw;
    for (int i = 0; i < n_copy; i++) {
        const struct ff_desc d = ff_desc(dim, width);
        must(weight_ff(&c.w[i], be, &d, DTYPE_BF16), "ff");
    }
    line(name, &c);
    weight_destroy(be, &nw);
    backend_free(be, c.x.data);
}

static void moe_line(const char *name, int32_t n_row, int32_t dim, int32_t width, int32_t n_expert,
                     int32_t top_k, int32_t n_shared)
{
    struct call c = {.op = MOE, .x = rows(n_row, dim), .n_copy = 1};
    struct weight *nw = norm(dim);
    struct ff_desc *d = memory(sizeof *d * (size_t)(n_expert + 2));
    c.norm = nw;
    for (int32_t i = 0; i < n_expert + n_shared; i++)
        d[i] = ff_desc(dim, i < n_expert ? width : 2 * width);
    const struct moe_desc m = {
        .n_expert = n_expert,
        .top_k = top_k,
        .n_shared = n_shared,
        .router = matrix(n_expert, dim),
        .router_bf16 = true,
        .expert = d,
        .shared = d + n_expert,
        .shared_gate = n_shared > 1 ? matrix(n_shared, dim) : (struct host_matrix){0},
    };
    must(weight_moe(&c.w[0], be, &m, DTYPE_BF16), "moe");
    line(name, &c);
    weight_destroy(be, &nw);
    backend_free(be, c.x.data);
    free(d);
}

/* How long a model takes to be packed. */
static void packing_line(void)
{
    const struct host_matrix m = matrix(2048, 2048);
    double best = 1e9;
    for (int i = 0; i < 5; i++) {
        struct weight *w;
        uint64_t start = clock_us();
        must(weight_linear(&w, be, &m, NULL, 1, DTYPE_BF16), "pack");
        double us = (double)(clock_us() - start);
        best = us < best ? us : best;
        weight_destroy(be, &w);
    }
    double mb = 2048.0 * 2048 * 2 / 1e6;
    printf("packing %.1f MB of bf16: %.1f ms, %.2f GB/s\n", mb, best / 1e3, mb / best * 1e3);
}

/* ---- a whole decode step of the preview model ---- */

enum { LAYERS = 7, D = 256, CONTEXT = 128, SLOTS = 64, TOKENS = 256, VOCAB = 2048 };

struct model {
    struct weight *qkv[LAYERS], *out[LAYERS], *cross_q[LAYERS], *cross_out[LAYERS], *ff[LAYERS];
    struct weight *norm, *head, *rope;
    struct kv *kv;
    struct mem_kv *mem; /* layer 0 of the model does not read it */
    struct tensor x, qkvg, context, logits;
};

static struct weight *rope(int32_t n_pos, int32_t half)
{
    struct weight *w;
    float *angle = memory(sizeof *angle * (size_t)(n_pos * half));
    for (int32_t i = 0; i < n_pos * half; i++) {
        int32_t position = i / half;
        angle[i] = (float)position / (float)(1 + i % half);
    }
    must(weight_rope(&w, be, angle, n_pos, half), "rope");
    free(angle);
    return w;
}

static void model_create(struct model *m)
{
    for (int i = 0; i < LAYERS; i++) {
        const struct ff_desc d = ff_desc(D, 768);
        m->qkv[i] = linear(384, D, DTYPE_BF16);
        m->out[i] = linear(D, CONTEXT, DTYPE_BF16);
        m->cross_q[i] = linear(CONTEXT, D, DTYPE_BF16);
        m->cross_out[i] = linear(D, CONTEXT, DTYPE_BF16);
        must(weight_ff(&m->ff[i], be, &d, DTYPE_BF16), "ff");
    }
    m->norm = norm(D);
    m->head = linear(VOCAB, D, DTYPE_BF16);
    m->rope = rope(TOKENS, 16);
    const struct kv_config kv = {LAYERS, 2, 32, TOKENS};
    const struct mem_kv_config mem = {LAYERS, 2, 32, SLOTS};
    must(kv_create(&m->kv, be, &kv), "kv");
    must(mem_kv_create(&m->mem, be, &mem), "mem_kv");
    m->x = rows(1, D);
    m->qkvg = rows(1, 384);
    m->context = rows(1, CONTEXT);
    m->logits = rows(1, VOCAB);
}

static void model_destroy(struct model *m)
{
    for (int i = 0; i < LAYERS; i++) {
        weight_destroy(be, &m->qkv[i]);
        weight_destroy(be, &m->out[i]);
        weight_destroy(be, &m->cross_q[i]);
        weight_destroy(be, &m->cross_out[i]);
        weight_destroy(be, &m->ff[i]);
    }
    weight_destroy(be, &m->norm);
    weight_destroy(be, &m->head);
    weight_destroy(be, &m->rope);
    kv_destroy(be, &m->kv);
    mem_kv_destroy(be, &m->mem);
    backend_free(be, m->x.data);
    backend_free(be, m->qkvg.data);
    backend_free(be, m->context.data);
    backend_free(be, m->logits.data);
}

/* One token at a position, with attention or only the weights. */
static void step(struct model *m, int32_t position, bool with_attention)
{
    static const int32_t offset[2] = {0, 1}, row[1] = {0};
    const struct ragged rows_of = {1, offset, &position};
    struct kv *const kv[1] = {m->kv};
    const struct mem_kv *const mem[1] = {m->mem};
    struct tensor query = tensor_cols(m->qkvg, 0, CONTEXT);
    memset(m->x.data, 0, D * sizeof(float));
    for (int32_t i = 0; i < LAYERS; i++) {
        const struct self_attention self = {
            m->context, m->qkvg, {4, 2, 32, ACT_SIGMOID}, m->rope, rows_of, kv, i};
        const struct cross_attention cross = {
            m->context, query, {4, 2, 32, ACT_NONE}, m->rope, rows_of, mem, i};
        must(op_linear(ln, m->qkvg, m->x, m->norm, m->qkv[i]), "qkv");
        if (with_attention)
            must(op_self_attention(ln, &self), "self-attention");
        must(op_linear_add(ln, m->x, m->context, m->out[i]), "out");
        must(op_linear(ln, query, m->x, m->norm, m->cross_q[i]), "cross q");
        if (with_attention)
            must(op_cross_attention(ln, &cross), "cross-attention");
        must(op_linear_add(ln, m->x, m->context, m->cross_out[i]), "cross out");
        must(op_ff_add(ln, m->x, m->norm, m->ff[i]), "ff");
    }
    must(op_head(ln, m->logits, m->x, row, m->norm, m->head), "head");
    int32_t id;
    must(op_sample(ln, &id, m->logits, &(struct sampling){.top_p = 1}), "sample");
    must(lane_sync(ln), "sync");
}

static void step_line(struct model *m, bool with_attention)
{
    enum { CALLS = 400 };
    static double us[CALLS];
    struct count before = count_read();
    for (int n = 0; n < CALLS; n++) {
        uint64_t start = clock_us();
        step(m, n % TOKENS, with_attention);
        us[n] = (double)(clock_us() - start);
    }
    double bytes = (double)(count_read().bytes - before.bytes) / CALLS;
    qsort(us, CALLS, sizeof *us, by_value);
    printf("preview, one token%s: %.0f us (best %.0f), %.1f MB, %.0f GB/s, %.0f%% of the cache "
           "ceiling\n",
           with_attention ? "" : " without attention", us[CALLS / 2], us[0], bytes / 1e6,
           bytes / us[0] / 1e3, 100 * bytes / us[0] * 1e6 / ceiling.cache_bytes_s);
}

static void step_lines(void)
{
    static struct model m;
    model_create(&m);
    step_line(&m, false);
    step_line(&m, true);
    model_destroy(&m);
}

int main(int argc, char **argv)
{
    struct rxt_error err;
    (void)setvbuf(stdout, NULL, _IOLBF, BUFSIZ); /* a line as soon as it is known */
    const struct backend_config cfg = {.name = "cpu", .n_thread = argc > 1 ? atoi(argv[1]) : 0};
    must(backend_create(&be, &cfg, &err), "backend");
    const struct lane_limits limits = {
        .max_rows = MAX_ROWS,
        .max_seq = 1,
        .max_keys = TOKENS,
        .max_width = 2048,
        .max_vocab = 65536,
        .max_expert = 384,
        .max_active = 12,
    };
    must(lane_create(&ln, be, LANE_ANSWER, &limits), "lane");
    must(backend_measure(be, 300, &ceiling), "measure");
    printf("%s: %.0f GFLOP/s, cache %.0f GB/s, memory %.0f GB/s\n", backend_describe(be),
           ceiling.flops / 1e9, ceiling.cache_bytes_s / 1e9, ceiling.dram_bytes_s / 1e9);
    packing_line();
    step_lines();
    static const int32_t batch[] = {1, 2, 4, 8, 32, 128};
    for (size_t i = 0; i < sizeof batch / sizeof batch[0]; i++) {
        linear_line("preview qkv+gate 384x256", LINEAR, batch[i], 384, 256, 48, DTYPE_BF16);
        linear_line("preview out 256x128", LINEAR_ADD, batch[i], 256, 128, 48, DTYPE_BF16);
        ff_line("preview ff 768", batch[i], 256, 768, 10);
        linear_line("preview head 2048x256", HEAD, batch[i], 2048, 256, 10, DTYPE_BF16);
        linear_line("preview head 2048x256, f32", HEAD, batch[i], 2048, 256, 5, DTYPE_F32);
        moe_line("beta-3b moe 384/10+2", batch[i], 512, 192, 384, 10, 2);
    }
    linear_line("beta-3b head 65536x512", HEAD, 1, 65536, 512, 1, DTYPE_BF16);
    lane_destroy(&ln);
    backend_destroy(&be);
    return 0;
}
