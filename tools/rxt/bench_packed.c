#include "tools/rxt/bench_packed.h"

#include "tools/rxt/bench_samples.h"
#include "tools/rxt/cli.h"

#include "kernels/base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 16, WARM = 3 }; /* interactions; rounds that do not count */

/* Lengths of that mean, from short to the longest: quantiles of u^((1 - mean) / mean). */
static void lengths(double mean, int32_t longest, int32_t offset[N + 1])
{
    offset[0] = 0;
    for (int i = 0; i < N; i++) {
        double u = i + 1 < N ? pow((i + 0.5) / N, (1 - mean) / mean) : 1;
        int32_t n = (int32_t)lround(u * longest);
        offset[i + 1] = offset[i] + (n > 0 ? n : 1);
    }
}

static enum rxt_status encode(const struct rxt_model *m, struct rxt_worker *w,
                              const int32_t offset[N + 1], int32_t *ids, double seconds, double *ms)
{
    static struct samples s;
    const struct ragged rows = {.n_seq = N, .offset = offset};
    uint64_t seed = 1, end = 0;
    s.n = 0;
    for (int i = 0; s.n < 5 || clock_us() < end; i++) {
        const struct tensor *ed;
        draw_ids(ids, offset[N], rxt_model_info(m)->n_vocab, &seed);
        uint64_t start = clock_ns();
        TRY(rxt_memorize(w, &rows, ids, &ed));
        TRY(lane_sync(rxt_worker_lane(w)));
        if (i < WARM)
            end = clock_us() + (uint64_t)(1e6 * seconds);
        else
            samples_add(&s, start);
    }
    *ms = samples_quantile(&s, 0.5);
    return RXT_OK;
}

static enum rxt_status encode_all(const struct rxt_model *m, struct rxt_worker *w, int32_t longest,
                                  int32_t *ids, bool json, double seconds)
{
    static const int percent[] = {100, 60, 25};
    double whole = 0;
    json_t *o = json_pack("{si si}", "packed", N, "longest", longest);
    enum rxt_status st = RXT_OK;
    for (int i = 0; i < 3 && st == RXT_OK; i++) {
        int32_t offset[N + 1];
        double ms = 0;
        char key[32];
        if (i == 0)
            for (int k = 0; k <= N; k++)
                offset[k] = k * longest;
        else
            lengths(percent[i] / 100.0, longest, offset);
        st = encode(m, w, offset, ids, seconds, &ms);
        if (i == 0)
            whole = ms;
        double share = (double)offset[N] / N / longest;
        (void)snprintf(key, sizeof key, "encoder_%d_ms", percent[i]);
        (void)json_object_set_new(o, key, json_real(ms));
        (void)snprintf(key, sizeof key, "encoder_%d_gain", percent[i]);
        if (i > 0)
            (void)json_object_set_new(o, key, json_real(whole / ms));
        if (!json && st == RXT_OK)
            printf("encoder, %d x %d tokens, mean %.2f of it %10.3f ms   %.2f x the longest\n", N,
                   longest, share, ms, whole / ms);
    }
    if (json && st == RXT_OK)
        print_json(json_incref(o));
    json_decref(o);
    return st;
}

enum rxt_status bench_packed(const struct rxt_model *m, int32_t longest, bool json, double seconds)
{
    const struct rxt_worker_config cfg = {
        .priority = LANE_MEMORY, .work = RXT_WORK_MEMORY, .max_rows = N * longest, .max_seq = N};
    struct rxt_worker *w = NULL;
    int32_t *ids = calloc((size_t)N * (size_t)longest, sizeof *ids);
    enum rxt_status st = ids ? rxt_worker_create(&w, m, &cfg) : RXT_ENOMEM;
    if (st == RXT_OK)
        st = encode_all(m, w, longest, ids, json, seconds);
    rxt_worker_destroy(&w);
    free(ids);
    return st;
}
