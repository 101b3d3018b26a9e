/* rxt bench: what a turn costs, beside what the machine could do at most.
 *
 * Medians of many rounds; the ceilings are measured before and after, on the same threads, since
 * machines are shared and clocks move. Bytes and flops are those the ops themselves count. */
#include "tools/rxt/bench_front.h"
#include "tools/rxt/bench_images.h"
#include "tools/rxt/cli.h"

#include "kernels/base/clock.h"
#include "kernels/base/count.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    const char *shape;
    int32_t batch, rounds_ms;
    uint64_t seed;
    bool json, front, images;
} opt = {.rounds_ms = 700, .seed = 1};

static const struct option options[] = {
    {"shape", OPTION_TEXT, &opt.shape, "NAME",
     "random weights of a named shape: beta-3b, alpha-12m, preview, wide-memory"},
    {"batch", OPTION_INT, &opt.batch, "B", "only this batch (default: 1, 4 and 16 where they fit)"},
    {"milliseconds", OPTION_INT, &opt.rounds_ms, "MS", "spent on each figure (default: 700)"},
    {"seed", OPTION_SEED, &opt.seed, "N", "of random weights and tokens"},
    {"json", OPTION_FLAG, &opt.json, NULL, "one object"},
    {"front", OPTION_FLAG, &opt.front, NULL, "only the front of the server, without a model"},
    {"images", OPTION_FLAG, &opt.images, NULL,
     "only what images of one session cost others (ten times --milliseconds each)"},
    OPTION_MORE(model_options),
    {0},
};

enum {
    MAX_BATCH = 16,
    QUERY_TOKENS = 16,
    ANSWER_TOKENS = 64, /* of ordinary length */
    TURN_TOKENS = 32,   /* of the updates */
    MAX_ROUNDS = 4096
};

/* A session for every place of the batch. */
struct rig {
    const struct rxt_model *model;
    int32_t batch;
    struct rxt_worker *worker;
    struct stm_pool *pool;
    struct stm *memory[MAX_BATCH];
    struct rxt_read *read[MAX_BATCH];
    struct rxt_slot *slot[MAX_BATCH];
    int32_t ids[MAX_BATCH * TURN_TOKENS], offset[MAX_BATCH + 1], start[MAX_BATCH];
    int32_t position;
};

static enum rxt_status rig_open(struct rig *r, const struct rxt_model *m, int32_t batch)
{
    const struct rxt_info *info = rxt_model_info(m);
    const struct rxt_worker_config cfg = {
        .work = RXT_WORK_ALL, .max_rows = batch * TURN_TOKENS, .max_seq = batch};
    struct stm_config stm = rxt_model_stm(m, DTYPE_F32);
    *r = (struct rig){.model = m, .batch = batch};
    TRY(rxt_worker_create(&r->worker, m, &cfg));
    TRY(stm_pool_create(&r->pool, rxt_model_backend(m), &stm, batch));
    for (int32_t i = 0; i < batch; i++) {
        TRY(stm_create(&r->memory[i], rxt_worker_lane(r->worker), &stm, info->stm_init, opt.seed));
        TRY(rxt_read_create(&r->read[i], m));
        TRY(rxt_slot_create(&r->slot[i], m));
        TRY(rxt_read_build(r->read[i], r->worker, r->memory[i]));
    }
    for (int32_t i = 0; i < MAX_BATCH * TURN_TOKENS; i++)
        r->ids[i] = (int32_t)((opt.seed * 7919 + (uint64_t)i * 104729) % (uint64_t)info->n_vocab);
    return RXT_OK;
}

static void rig_close(struct rig *r)
{
    for (int32_t i = 0; i < r->batch; i++) {
        rxt_slot_destroy(&r->slot[i]);
        rxt_read_destroy(&r->read[i]);
        stm_destroy(&r->memory[i]);
    }
    stm_pool_destroy(&r->pool);
    rxt_worker_destroy(&r->worker);
}

static enum rxt_status forward(struct rig *r, int32_t tokens, int32_t position)
{
    const struct rxt_read *read[MAX_BATCH];
    struct sampling how[MAX_BATCH];
    int32_t next[MAX_BATCH];
    for (int32_t i = 0; i < r->batch; i++) {
        r->offset[i + 1] = r->offset[i] + tokens;
        r->start[i] = position;
        read[i] = r->read[i];
        how[i] = RXT_GREEDY;
    }
    const struct rxt_batch b = {
        .rows = {.n_seq = r->batch, .offset = r->offset, .start = r->start},
        .ids = r->ids,
        .slot = r->slot,
        .read = read,
    };
    TRY(rxt_forward(r->worker, &b));
    return rxt_sample(r->worker, how, r->batch, next);
}

/* ---- one round of each figure ------------------------------------------------------------- */

static enum rxt_status first_token(struct rig *r)
{
    r->position = QUERY_TOKENS;
    return forward(r, QUERY_TOKENS, 0);
}

static enum rxt_status one_token(struct rig *r)
{
    enum rxt_status st = forward(r, 1, r->position);
    if (++r->position == QUERY_TOKENS + ANSWER_TOKENS) /* again and again */
        r->position = QUERY_TOKENS;
    return st;
}

static enum rxt_status memory_update(struct rig *r)
{
    struct stm_spare *spare[MAX_BATCH];
    for (int32_t i = 0; i < r->batch; i++) {
        r->offset[i + 1] = r->offset[i] + TURN_TOKENS;
        spare[i] = stm_spare_take(r->pool);
    }
    const struct ragged rows = {.n_seq = r->batch, .offset = r->offset};
    /* Not committed: every round updates the same memory. */
    enum rxt_status st = rxt_update(r->worker, r->memory, spare, &rows, r->ids, NULL);
    for (int32_t i = 0; i < r->batch; i++)
        stm_spare_give(r->pool, &spare[i]);
    return st;
}

static enum rxt_status kv_build(struct rig *r)
{
    for (int32_t i = 0; i < r->batch; i++)
        TRY(rxt_read_build(r->read[i], r->worker, r->memory[i]));
    return RXT_OK;
}

/* ---- measuring ----------------------------------------------------------------------------- */

struct figure {
    const char *name, *key;
    enum rxt_status (*round)(struct rig *r);
    bool by_cache; /* its floor is bytes, not flops */
    double ms, gb_s, gflop_s;
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static enum rxt_status measure(struct rig *r, struct figure *f)
{
    static double us[MAX_ROUNDS];
    int n = 0;
    TRY(first_token(r)); /* K/V for the steps to come */
    TRY(f->round(r));
    struct count before = count_read();
    uint64_t end = clock_us() + (uint64_t)opt.rounds_ms * 1000;
    while (n < MAX_ROUNDS && (n < 3 || clock_us() < end)) {
        uint64_t start = clock_ns();
        TRY(f->round(r));
        us[n++] = (double)(clock_ns() - start) / 1e3;
    }
    struct count after = count_read();
    qsort(us, (size_t)n, sizeof us[0], by_value);
    double seconds = us[n / 2] / 1e6;
    f->ms = us[n / 2] / 1e3;
    f->gb_s = (double)(after.bytes - before.bytes) / n / seconds / 1e9;
    f->gflop_s = (double)(after.flops - before.flops) / n / seconds / 1e9;
    return RXT_OK;
}

static size_t resident_bytes(void)
{
    unsigned long kb = 0;
    char line[128];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "VmRSS:", 6) == 0)
            kb = strtoul(line + 6, NULL, 10);
    if (f)
        (void)fclose(f);
    return (size_t)kb * 1024;
}

static void print_figure(const struct figure *f, int32_t batch, const struct backend_ceiling *c)
{
    double share = f->by_cache ? f->gb_s * 1e9 / c->cache_bytes_s : f->gflop_s * 1e9 / c->flops;
    printf("%-28s %3d %10.3f ms %9.1f GB/s %9.1f GFLOP/s   %3.0f %% of the %s ceiling\n", f->name,
           batch, f->ms, f->gb_s, f->gflop_s, 100 * share, f->by_cache ? "cache" : "flop");
}

static json_t *figures_json(const struct figure *f, size_t n, int32_t batch)
{
    json_t *o = json_pack("{si}", "batch", batch);
    for (size_t i = 0; i < n; i++) {
        char key[64];
        (void)snprintf(key, sizeof key, "%s_gb_s", f[i].key);
        (void)json_object_set_new(o, key, json_real(f[i].gb_s));
        (void)snprintf(key, sizeof key, "%s_gflop_s", f[i].key);
        (void)json_object_set_new(o, key, json_real(f[i].gflop_s));
        (void)snprintf(key, sizeof key, "%s_ms", f[i].key);
        (void)json_object_set_new(o, key, json_real(f[i].ms));
    }
    return o;
}

static enum rxt_status run_batch(const struct rxt_model *m, int32_t batch,
                                 const struct backend_ceiling *c, json_t *batches)
{
    struct figure figures[] = {
        {"first token, 16-token query", "first_token", first_token, false, 0, 0, 0},
        {"time per token", "time_per_token", one_token, batch == 1, 0, 0, 0},
        {"memory update, 32 tokens", "memory_update", memory_update, false, 0, 0, 0},
        {"K/V of the new memory", "kv_build", kv_build, false, 0, 0, 0},
    };
    const size_t n = sizeof figures / sizeof *figures;
    struct rig r;
    enum rxt_status st = rig_open(&r, m, batch);
    for (size_t i = 0; i < n && st == RXT_OK; i++) {
        st = measure(&r, &figures[i]);
        if (st == RXT_OK && !opt.json)
            print_figure(&figures[i], batch, c);
    }
    if (st == RXT_OK)
        (void)json_array_append_new(batches, figures_json(figures, n, batch));
    rig_close(&r);
    return st;
}

/* The better of two measurements: a ceiling is what the machine can do, not what it did while
 * somebody else used it. */
static void raise_ceiling(struct backend_ceiling *c, const struct backend_ceiling *other)
{
    c->flops = c->flops > other->flops ? c->flops : other->flops;
    c->cache_bytes_s =
        c->cache_bytes_s > other->cache_bytes_s ? c->cache_bytes_s : other->cache_bytes_s;
    c->dram_bytes_s = c->dram_bytes_s > other->dram_bytes_s ? c->dram_bytes_s : other->dram_bytes_s;
}

/* Ready: the first turn of a session could start. */
static enum rxt_status time_to_ready(const struct rxt_model *m, double *ms)
{
    struct rig r;
    enum rxt_status st = rig_open(&r, m, 1);
    *ms = (double)(clock_us() - program_start_us) / 1e3;
    rig_close(&r);
    return st;
}

static json_t *ceilings_json(const struct backend_ceiling *c)
{
    return json_pack("{sf sf sf}", "gflop_s", c->flops / 1e9, "cache_gb_s", c->cache_bytes_s / 1e9,
                     "dram_gb_s", c->dram_bytes_s / 1e9);
}

static enum rxt_status bench(const struct rxt_model *m)
{
    static const int32_t all[] = {1, 4, 16};
    const struct rxt_info *info = rxt_model_info(m);
    struct backend *be = rxt_model_backend(m);
    struct backend_ceiling c, again;
    double ready_ms = 0;
    json_t *batches = json_array();
    enum rxt_status st = time_to_ready(m, &ready_ms);
    size_t rss = resident_bytes();
    if (st == RXT_OK)
        st = backend_measure(be, 300, &c);
    if (st == RXT_OK && !opt.json)
        printf("%s, %s weights, %s\nready after %.0f ms, %.0f MB resident (%.0f MB of weights)\n"
               "ceilings of this run: %.0f GFLOP/s, cache %.0f GB/s, memory %.0f GB/s\n\n"
               "%-28s %3s %13s\n",
               info->name, dtype_name(info->storage), backend_describe(be), ready_ms,
               (double)rss / 1e6, (double)info->weight_bytes / 1e6, c.flops / 1e9,
               c.cache_bytes_s / 1e9, c.dram_bytes_s / 1e9, "", "B", "median");
    /* Sixteen memories of the largest shape would not fit beside its weights. */
    int n = info->stm_bytes > (size_t)16 << 20 ? 1 : 3;
    if (opt.batch && st == RXT_OK)
        st = run_batch(m, opt.batch, &c, batches);
    for (int i = 0; i < n && !opt.batch && st == RXT_OK; i++)
        st = run_batch(m, all[i], &c, batches);
    if (st == RXT_OK)
        st = backend_measure(be, 300, &again);
    if (st == RXT_OK)
        raise_ceiling(&c, &again);
    if (st == RXT_OK && opt.json) {
        json_t *o =
            json_pack("{ss ss ss sf sI sI sI so so}", "model", info->name, "storage",
                      dtype_name(info->storage), "backend", backend_describe(be), "ready_ms",
                      ready_ms, "rss_bytes", (json_int_t)rss, "weight_bytes",
                      (json_int_t)info->weight_bytes, "rss_bytes_end", (json_int_t)resident_bytes(),
                      "ceilings", ceilings_json(&c), "batches", json_incref(batches));
        /* The figures of a lone session stand at the top as well. */
        (void)json_object_update_missing(o, json_array_get(batches, 0));
        print_json(o);
    } else if (st == RXT_OK) {
        printf("\nceilings afterwards: %.0f GFLOP/s, cache %.0f GB/s, memory %.0f GB/s; %.0f MB "
               "resident\n",
               again.flops / 1e9, again.cache_bytes_s / 1e9, again.dram_bytes_s / 1e9,
               (double)resident_bytes() / 1e6);
    }
    json_decref(batches);
    return st;
}

int command_bench(int argc, char **argv)
{
    struct command_line line = {
        .usage = "rxt bench [--model DIR | --shape NAME] [OPTIONS]",
        .about = "Measures first token, time per token, memory update and K/V build at batch 1, 4 "
                 "and 16,\n"
                 "with bytes and flops beside the ceilings measured in the same run.",
        .options = options,
    };
    int code = command_line_parse(&line, argc, argv);
    if (code >= 0)
        return code;
    if (opt.batch < 0 || opt.batch > MAX_BATCH || opt.rounds_ms < 1) {
        (void)fprintf(stderr, "rxt: --batch is 1 to %d, --milliseconds 1 or more\n", MAX_BATCH);
        return EXIT_USAGE;
    }
    struct rxt_error err = {0};
    struct rxt_model *m = NULL;
    enum rxt_status st;
    if (opt.front) {
        st = bench_front(opt.json, (double)opt.rounds_ms / 1000, &err);
        return st == RXT_OK ? 0 : complain(st, &err);
    }
    if (opt.shape) {
        const struct rxt_model_options o = {.backend = common.backend,
                                            .n_thread = common.threads,
                                            .dtype = common.dtype,
                                            .max_seq_len =
                                                common.max_seq_len ? common.max_seq_len : 256};
        st = rxt_model_random(&m, opt.shape, opt.seed, &o, &err);
    } else {
        st = open_model(&m, &err);
    }
    if (st == RXT_OK && rxt_model_info(m)->max_seq_len < QUERY_TOKENS + ANSWER_TOKENS)
        st = rxt_fail(&err, RXT_ELIMIT,
                      "the benchmark needs turns of %d tokens, here %d are allowed",
                      QUERY_TOKENS + ANSWER_TOKENS, rxt_model_info(m)->max_seq_len);
    if (st == RXT_OK)
        st = opt.images ? bench_images(m, opt.json, (double)opt.rounds_ms / 100, &err) : bench(m);
    rxt_model_close(&m);
    return st == RXT_OK ? 0 : complain(st, &err);
}
