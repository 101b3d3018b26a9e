/* rxt bench: what a turn costs, beside what the machine could do at most.
 *
 * Medians of many rounds; the ceilings are measured before and after, on the same threads, since
 * machines are shared and clocks move. Bytes and flops are those the ops themselves count. */
#include "tools/rxt/bench_beside.h"
#include "tools/rxt/bench_front.h"
#include "tools/rxt/bench_images.h"
#include "tools/rxt/bench_packed.h"
#include "tools/rxt/cli.h"

#include "kernels/base/clock.h"
#include "kernels/base/count.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    const char *shape, *batch, *query, *turn;
    int32_t rounds_ms, packed, beside;
    uint64_t seed;
    bool json, front, images;
} opt = {.query = "16", .turn = "32", .rounds_ms = 700, .seed = 1};

static const struct option options[] = {
    {"shape", OPTION_TEXT, &opt.shape, "NAME",
     "random weights of a named shape: beta-3b, alpha-12m, preview, wide-memory"},
    {"batch", OPTION_TEXT, &opt.batch, "B,...", "batches (default: 1,4,16 where they fit)"},
    {"query", OPTION_TEXT, &opt.query, "T,...", "tokens of the first query (default: 16)"},
    {"turn", OPTION_TEXT, &opt.turn, "T,...", "tokens of the turn of an update (default: 32)"},
    {"milliseconds", OPTION_INT, &opt.rounds_ms, "MS", "spent on each figure (default: 700)"},
    {"seed", OPTION_SEED, &opt.seed, "N", "of random weights and tokens"},
    {"json", OPTION_FLAG, &opt.json, NULL, "one object"},
    {"front", OPTION_FLAG, &opt.front, NULL, "only the front of the server, without a model"},
    {"packed", OPTION_INT, &opt.packed, "T",
     "also the encoder over 16 interactions, the longest of T tokens, the mean 0.6 and 0.25 of it"},
    {"beside", OPTION_INT, &opt.beside, "B",
     "also the time per token at batch B beside updates of --turn tokens, which share the "
     "machine as in a server (five times --milliseconds)"},
    {"images", OPTION_FLAG, &opt.images, NULL,
     "only what images of one session cost others (ten times --milliseconds each)"},
    OPTION_MORE(model_options),
    {0},
};

enum {
    MAX_BATCH = 256,
    MAX_MEMORIES = 16,  /* larger batches share one memory, each with its own K/V of it */
    MAX_ROWS = 4096,    /* of one call; first tokens and updates of more are left out */
    ANSWER_TOKENS = 64, /* of ordinary length */
    MAX_LIST = 8,
    MAX_ROUNDS = 4096
};

struct list {
    int32_t n, v[MAX_LIST];
};
static struct list batches, queries, turns;

/* A session for every place of the batch. */
struct rig {
    const struct rxt_model *model;
    int32_t batch, n_memory;
    struct rxt_worker *worker;
    struct stm_pool *pool;
    struct stm *memory[MAX_MEMORIES];
    struct rxt_read *read[MAX_BATCH];
    struct rxt_slot *slot[MAX_BATCH];
    int32_t ids[MAX_ROWS], offset[MAX_BATCH + 1], start[MAX_BATCH];
    int32_t position;
    uint64_t drawn;
};

static bool fits(int32_t batch, int32_t tokens)
{
    return batch * tokens <= MAX_ROWS;
}

/* The query that comes before the decode steps. */
static int32_t prefix_tokens(int32_t batch)
{
    return fits(batch, queries.v[0]) ? queries.v[0] : MAX_ROWS / batch;
}

static int32_t most_rows(int32_t batch)
{
    int32_t tokens = prefix_tokens(batch);
    for (int32_t i = 0; i < queries.n; i++)
        if (queries.v[i] > tokens && fits(batch, queries.v[i]))
            tokens = queries.v[i];
    for (int32_t i = 0; i < turns.n; i++)
        if (turns.v[i] > tokens && fits(batch, turns.v[i]))
            tokens = turns.v[i];
    return batch * tokens;
}

static enum rxt_status rig_open(struct rig *r, const struct rxt_model *m, int32_t batch)
{
    const struct rxt_info *info = rxt_model_info(m);
    *r = (struct rig){.model = m, .batch = batch, .drawn = opt.seed};
    r->n_memory = batch <= MAX_MEMORIES ? batch : 1;
    const struct rxt_worker_config cfg = {.work =
                                              r->n_memory == batch ? RXT_WORK_ALL : RXT_WORK_ANSWER,
                                          .max_rows = most_rows(batch),
                                          .max_seq = batch};
    struct stm_config stm = rxt_model_stm(m, DTYPE_F32);
    TRY(rxt_worker_create(&r->worker, m, &cfg));
    TRY(stm_pool_create(&r->pool, rxt_model_backend(m), &stm, r->n_memory));
    for (int32_t i = 0; i < r->n_memory; i++)
        TRY(stm_create(&r->memory[i], rxt_worker_lane(r->worker), &stm, info->stm_init, opt.seed));
    for (int32_t i = 0; i < batch; i++) {
        TRY(rxt_read_create(&r->read[i], m));
        TRY(rxt_slot_create(&r->slot[i], m));
        TRY(rxt_read_build(r->read[i], r->worker, r->memory[i % r->n_memory]));
    }
    return RXT_OK;
}

static void rig_close(struct rig *r)
{
    for (int32_t i = 0; i < r->batch; i++) {
        rxt_slot_destroy(&r->slot[i]);
        rxt_read_destroy(&r->read[i]);
    }
    for (int32_t i = 0; i < r->n_memory; i++)
        stm_destroy(&r->memory[i]);
    stm_pool_destroy(&r->pool);
    rxt_worker_destroy(&r->worker);
}

/* Other tokens in every call: the experts they choose then change too. */
static void draw(struct rig *r, int32_t n)
{
    const uint64_t n_vocab = (uint64_t)rxt_model_info(r->model)->n_vocab;
    for (int32_t i = 0; i < n; i++) {
        r->drawn = r->drawn * 6364136223846793005u + 1442695040888963407u;
        r->ids[i] = (int32_t)((r->drawn >> 33) % n_vocab);
    }
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
    draw(r, r->batch * tokens);
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

static enum rxt_status first_token(struct rig *r, int32_t tokens)
{
    r->position = tokens;
    return forward(r, tokens, 0);
}

static enum rxt_status one_token(struct rig *r, int32_t prefix)
{
    enum rxt_status st = forward(r, 1, r->position);
    if (++r->position == prefix + ANSWER_TOKENS) /* again and again */
        r->position = prefix;
    return st;
}

static enum rxt_status memory_update(struct rig *r, int32_t tokens)
{
    struct stm_spare *spare[MAX_MEMORIES];
    for (int32_t i = 0; i < r->batch; i++) {
        r->offset[i + 1] = r->offset[i] + tokens;
        spare[i] = stm_spare_take(r->pool);
    }
    const struct ragged rows = {.n_seq = r->batch, .offset = r->offset};
    draw(r, r->batch * tokens);
    /* Not committed: every round updates the same memory. */
    enum rxt_status st = rxt_update(r->worker, r->memory, spare, &rows, r->ids, NULL);
    for (int32_t i = 0; i < r->batch; i++)
        stm_spare_give(r->pool, &spare[i]);
    return st;
}

static enum rxt_status kv_build(struct rig *r, int32_t tokens)
{
    (void)tokens;
    for (int32_t i = 0; i < r->batch; i++)
        TRY(rxt_read_build(r->read[i], r->worker, r->memory[i % r->n_memory]));
    return RXT_OK;
}

/* ---- measuring ----------------------------------------------------------------------------- */

struct figure {
    char name[48], key[32];
    enum rxt_status (*round)(struct rig *r, int32_t tokens);
    int32_t tokens;
    bool by_cache; /* its floor is bytes, not flops */
    double ms, gb_s, gflop_s;
    double coverage; /* of the experts of a mixture, by one step of decode; 0 = not asked */
    uint64_t steps, replayed; /* of a device, see kernels/base/count.h */
};
enum { MAX_FIGURES = 2 * MAX_LIST + 2 };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static enum rxt_status measure(struct rig *r, struct figure *f)
{
    static double us[MAX_ROUNDS];
    int n = 0;
    TRY(first_token(r, prefix_tokens(r->batch))); /* K/V for the steps to come */
    TRY(f->round(r, f->tokens));
    struct count before = count_read();
    uint64_t end = clock_us() + (uint64_t)opt.rounds_ms * 1000;
    while (n < MAX_ROUNDS && (n < 3 || clock_us() < end)) {
        uint64_t start = clock_ns();
        TRY(f->round(r, f->tokens));
        us[n++] = (double)(clock_ns() - start) / 1e3;
    }
    struct count after = count_read();
    qsort(us, (size_t)n, sizeof us[0], by_value);
    double seconds = us[n / 2] / 1e6;
    f->ms = us[n / 2] / 1e3;
    f->gb_s = (double)(after.bytes - before.bytes) / n / seconds / 1e9;
    f->gflop_s = (double)(after.flops - before.flops) / n / seconds / 1e9;
    f->steps = after.steps - before.steps;
    f->replayed = after.replayed - before.replayed;
    return RXT_OK;
}

/* What share of the experts a step reads, the mean of some steps that are not timed: a device waits
 * for every mixture then. */
static enum rxt_status measure_coverage(struct rig *r, struct figure *f)
{
    struct count before = count_read();
    enum rxt_status st = RXT_OK;
    count_experts_want(true);
    for (int i = 0; i < 16 && st == RXT_OK; i++)
        st = f->round(r, f->tokens);
    count_experts_want(false);
    struct count after = count_read();
    if (after.experts > before.experts)
        f->coverage = (double)(after.experts_read - before.experts_read) /
                      (double)(after.experts - before.experts);
    return st;
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
    printf("%-28s %3d %10.3f ms %9.1f GB/s %9.1f GFLOP/s   %3.0f %% of the %s ceiling", f->name,
           batch, f->ms, f->gb_s, f->gflop_s, 100 * share, f->by_cache ? "cache" : "flop");
    if (f->coverage > 0)
        printf(", %.1f %% of the experts read", 100 * f->coverage);
    printf("\n");
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
        if (f[i].coverage > 0)
            (void)json_object_set_new(o, "expert_coverage", json_real(f[i].coverage));
        if (f[i].steps == 0)
            continue;
        (void)snprintf(key, sizeof key, "%s_replayed", f[i].key);
        (void)json_object_set_new(o, key, json_real((double)f[i].replayed / (double)f[i].steps));
    }
    return o;
}

/* A figure for every length in the list that fits, named `name`, length, `unit`; its key names the
 * length if there are more. */
static int figures_of(struct figure *f, const struct list *tokens, int32_t batch, const char *name,
                      const char *unit, const char *key,
                      enum rxt_status (*round)(struct rig *r, int32_t tokens))
{
    int n = 0;
    for (int32_t i = 0; i < tokens->n; i++) {
        if (!fits(batch, tokens->v[i]))
            continue;
        f[n] = (struct figure){.round = round, .tokens = tokens->v[i]};
        (void)snprintf(f[n].name, sizeof f[n].name, "%s, %d%s", name, tokens->v[i], unit);
        if (tokens->n > 1)
            (void)snprintf(f[n].key, sizeof f[n].key, "%s_%d", key, tokens->v[i]);
        else
            (void)snprintf(f[n].key, sizeof f[n].key, "%s", key);
        n++;
    }
    return n;
}

static enum rxt_status run_batch(const struct rxt_model *m, int32_t batch,
                                 const struct backend_ceiling *c, json_t *done)
{
    struct figure figures[MAX_FIGURES];
    int n = figures_of(figures, &queries, batch, "first token", "-token query", "first_token",
                       first_token);
    figures[n++] = (struct figure){"time per token", "time_per_token", .round = one_token,
                                   .tokens = prefix_tokens(batch), .by_cache = batch == 1};
    if (batch <= MAX_MEMORIES)
        n += figures_of(figures + n, &turns, batch, "memory update", " tokens", "memory_update",
                        memory_update);
    figures[n++] = (struct figure){"K/V of the new memory", "kv_build", .round = kv_build};
    struct rig r;
    enum rxt_status st = rig_open(&r, m, batch);
    for (int i = 0; i < n && st == RXT_OK; i++) {
        st = measure(&r, &figures[i]);
        if (st == RXT_OK && figures[i].round == one_token)
            st = measure_coverage(&r, &figures[i]);
        if (st == RXT_OK && !opt.json)
            print_figure(&figures[i], batch, c);
    }
    if (st == RXT_OK)
        (void)json_array_append_new(done, figures_json(figures, (size_t)n, batch));
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
    const struct rxt_info *info = rxt_model_info(m);
    struct backend *be = rxt_model_backend(m);
    struct backend_ceiling c, again;
    double ready_ms = 0;
    json_t *done = json_array();
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
    int n = !opt.batch && info->stm_bytes > (size_t)16 << 20 ? 1 : batches.n;
    for (int i = 0; i < n && st == RXT_OK; i++)
        st = run_batch(m, batches.v[i], &c, done);
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
                      "ceilings", ceilings_json(&c), "batches", json_incref(done));
        /* The figures of a lone session stand at the top as well. */
        (void)json_object_update_missing(o, json_array_get(done, 0));
        print_json(o);
    } else if (st == RXT_OK) {
        printf("\nceilings afterwards: %.0f GFLOP/s, cache %.0f GB/s, memory %.0f GB/s; %.0f MB "
               "resident\n",
               again.flops / 1e9, again.cache_bytes_s / 1e9, again.dram_bytes_s / 1e9,
               (double)resident_bytes() / 1e6);
    }
    json_decref(done);
    return st;
}

/* "1,8,64" as numbers from 1 to max; false with a message if it is none. */
static bool parse_list(struct list *l, const char *name, const char *text, int32_t max)
{
    char *end;
    for (l->n = 0; l->n < MAX_LIST; text = end + 1) {
        long v = strtol(text, &end, 10);
        if (end == text || v < 1 || v > max)
            break;
        l->v[l->n++] = (int32_t)v;
        if (*end == '\0')
            return true;
        if (*end != ',')
            break;
    }
    (void)fprintf(stderr, "rxt: --%s wants up to %d numbers from 1 to %d, such as 1,8\n", name,
                  MAX_LIST, max);
    return false;
}

static int32_t longest(const struct list *l)
{
    int32_t most = 0;
    for (int32_t i = 0; i < l->n; i++)
        most = l->v[i] > most ? l->v[i] : most;
    return most;
}

static enum rxt_status run(const struct rxt_model *m, struct rxt_error *err)
{
    double seconds = (double)opt.rounds_ms / 1000;
    if (opt.images)
        return bench_images(m, opt.json, 10 * seconds, err);
    TRY(bench(m));
    if (opt.packed)
        TRY(bench_packed(m, opt.packed, opt.json, seconds));
    return opt.beside ? bench_beside(m, opt.beside, turns.v[0], opt.json, 5 * seconds) : RXT_OK;
}

int command_bench(int argc, char **argv)
{
    struct command_line line = {
        .usage = "rxt bench [--model DIR | --shape NAME] [OPTIONS]",
        .about = "Measures first token, time per token, memory update and K/V build at batch 1, 4 "
                 "and 16,\n"
                 "with bytes and flops beside the ceilings measured in the same run. Calls of more "
                 "than 4096\n"
                 "rows and updates of more than 16 memories are left out.",
        .options = options,
    };
    int code = command_line_parse(&line, argc, argv);
    if (code >= 0)
        return code;
    if (!parse_list(&batches, "batch", opt.batch ? opt.batch : "1,4,16", MAX_BATCH) ||
        !parse_list(&queries, "query", opt.query, MAX_ROWS) ||
        !parse_list(&turns, "turn", opt.turn, MAX_ROWS))
        return EXIT_USAGE;
    if (opt.rounds_ms < 1 || opt.packed < 0 || opt.packed > MAX_ROWS / 16 || opt.beside < 0 ||
        opt.beside > MAX_BATCH) {
        (void)fprintf(stderr,
                      "rxt: --milliseconds is 1 or more, --packed 1 to %d, --beside 1 to "
                      "%d\n",
                      MAX_ROWS / 16, MAX_BATCH);
        return EXIT_USAGE;
    }
    int32_t needed = longest(&queries) + ANSWER_TOKENS;
    if (longest(&turns) > needed)
        needed = longest(&turns);
    if (opt.packed > needed)
        needed = opt.packed;
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
                                            .max_seq_len = common.max_seq_len ? common.max_seq_len
                                                           : needed > 256     ? needed
                                                                              : 256};
        st = rxt_model_random(&m, opt.shape, opt.seed, &o, &err);
    } else {
        st = open_model(&m, &err);
    }
    if (st == RXT_OK && rxt_model_info(m)->max_seq_len < needed)
        st = rxt_fail(&err, RXT_ELIMIT,
                      "the benchmark needs turns of %d tokens, here %d are allowed", needed,
                      rxt_model_info(m)->max_seq_len);
    if (st == RXT_OK)
        st = run(m, &err);
    rxt_model_close(&m);
    return st == RXT_OK ? 0 : complain(st, &err);
}
