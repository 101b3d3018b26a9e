/* rxt bench --images: does a large memory delay the DONE of others? What is sent are REMEMBERs of
 * one token that do not wait for their memory: no answer is decoded, so that the store is what
 * shows. */
#include "tools/rxt/bench_images.h"

#include "tools/rxt/cli.h"

#include "kernels/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SAMPLES = 4096, PAUSE_US = 5000 };

/* What the other session is busy with: one request after the other. */
struct other {
    struct bridge *bridge;
    enum bridge_verb verb; /* REMEMBER, EXPORT, IMPORT; LIST = nothing */
    const char *path;
    int n;
    bool out;
    enum rxt_status status;
    char error[200];
};

struct sample {
    bool done;
    enum rxt_status status;
    uint64_t us;
};

static const int32_t token[] = {1};

static void named(struct bridge_request *r, enum bridge_verb verb, const char *session)
{
    *r = (struct bridge_request){.verb = verb,
                                 .on_stale = BRIDGE_STALE_PROCEED,
                                 .if_version = BRIDGE_HEAD,
                                 .version = BRIDGE_HEAD};
    (void)snprintf(r->tenant, sizeof r->tenant, "default");
    (void)snprintf(r->session, sizeof r->session, "%s", session);
    if (verb == BRIDGE_REMEMBER) {
        r->ids = token;
        r->n_ids = 1;
    }
}

static void on_other(void *user, const struct bridge_event *e)
{
    struct other *o = user;
    if (e->status != RXT_OK) {
        o->status = e->status;
        (void)snprintf(o->error, sizeof o->error, "%s", e->error);
    }
    o->out = !e->final;
    o->n += e->final;
}

static enum rxt_status keep_busy(struct other *o, struct rxt_error *err)
{
    struct bridge_request r;
    char name[32];
    if (o->status != RXT_OK)
        return rxt_fail(err, o->status, "%s", o->error);
    if (o->out || o->verb == BRIDGE_LIST)
        return RXT_OK;
    (void)snprintf(name, sizeof name, "copy%d", o->n);
    named(&r, o->verb, o->verb == BRIDGE_IMPORT ? name : "large");
    r.path = o->path;
    o->out = true;
    return bridge_submit(o->bridge, &r, on_other, o, NULL, err);
}

static void on_sample(void *user, const struct bridge_event *e)
{
    struct sample *s = user;
    if (!s->done && (e->kind == BRIDGE_DONE || e->kind == BRIDGE_ERROR)) {
        s->us = clock_us() - s->us;
        s->status = e->status;
        s->done = true;
    }
}

static int by_time(const void *a, const void *b)
{
    uint64_t x = ((const struct sample *)a)->us, y = ((const struct sample *)b)->us;
    return (x > y) - (x < y);
}

static void step_until(struct bridge *b, uint64_t end_us)
{
    for (uint64_t now; (now = clock_us()) < end_us;)
        if (!bridge_step(b))
            bridge_wait(b, end_us - now);
}

static enum rxt_status sample_all(struct other *o, const char *session, double seconds,
                                  struct sample *all, int *n, struct rxt_error *err)
{
    struct bridge_request r;
    uint64_t end = clock_us() + (uint64_t)(1e6 * seconds);
    named(&r, BRIDGE_REMEMBER, session);
    for (*n = 0; clock_us() < end && *n < SAMPLES; ++*n) {
        struct sample *s = &all[*n];
        TRY(keep_busy(o, err));
        s->us = clock_us();
        TRY(bridge_submit(o->bridge, &r, on_sample, s, NULL, err));
        while (!s->done) {
            TRY(keep_busy(o, err));
            if (!bridge_step(o->bridge))
                bridge_wait(o->bridge, 1000000);
        }
        if (s->status != RXT_OK)
            return rxt_fail(err, s->status, "a turn was not journaled");
        step_until(o->bridge, clock_us() + PAUSE_US);
    }
    return RXT_OK;
}

static void report(bool json, const char *phase, struct sample *all, int n, int n_other)
{
    qsort(all, (size_t)n, sizeof *all, by_time);
    const int at50 = n / 2, at99 = n * 99 / 100;
    double p50 = (double)all[at50].us / 1e3, p99 = (double)all[at99].us / 1e3,
           most = (double)all[n - 1].us / 1e3;
    if (json)
        print_json(json_pack("{ss si si sf sf sf}", "images", phase, "done", n, "of_the_large",
                             n_other, "p50_ms", p50, "p99_ms", p99, "max_ms", most));
    else
        printf("%-8s %5d DONE   p50 %7.2f ms  p99 %7.2f ms  most %7.2f ms   %d of the large one\n",
               phase, n, p50, p99, most, n_other);
}

static enum rxt_status has_image(const char *path, bool *has, struct rxt_error *err)
{
    struct store *s = NULL;
    struct store_session row;
    struct store_image image;
    size_t n = 0;
    const struct store_options look = {.read_only = true};
    TRY(store_open(&s, path, &look, err));
    enum rxt_status st = store_session_get(s, "default", "large", &row, err);
    if (st == RXT_OK)
        st = store_image_list(s, row.id, &image, 1, &n, err);
    store_close(&s);
    *has = n > 0;
    return st;
}

/* A version has its image when it is known what it cost, which may be with the next one. */
static enum rxt_status wait_for_image(struct other *o, const char *store, struct rxt_error *err)
{
    bool has = false;
    while (!has) {
        TRY(keep_busy(o, err));
        TRY(has_image(store, &has, err));
        step_until(o->bridge, clock_us() + 100000);
    }
    return RXT_OK;
}

/* A fresh bridge on the store, with the large session and one more brought in. */
static enum rxt_status run_phase(const struct rxt_model *m, const char *folder, const char *phase,
                                 enum bridge_verb verb, bool json, double seconds,
                                 struct rxt_error *err)
{
    static struct sample all[SAMPLES];
    char store[512], path[512];
    int n = 0;
    (void)snprintf(store, sizeof store, "%s/store", folder);
    (void)snprintf(path, sizeof path, "%s/export", folder);
    const struct bridge_config cfg = {
        .store_path = store,
        .max_queue = 2 * SAMPLES,
        .max_bytes = (size_t)16 << 30,
        .image_budget_us = verb == BRIDGE_REMEMBER ? 1 : UINT32_MAX,
    };
    struct other o = {.verb = verb, .path = path};
    TRY(bridge_open(&o.bridge, m, &cfg, err));
    memset(all, 0, sizeof all);
    enum rxt_status st = RXT_OK;
    const char *const sessions[] = {"large", phase};
    for (int i = 0; i < 4 && st == RXT_OK; i++) {
        struct bridge_request r;
        named(&r, i % 2 ? BRIDGE_GET : BRIDGE_OPEN, sessions[i / 2]);
        st = bridge_call(o.bridge, &r, NULL, NULL, err);
    }
    if (st == RXT_OK)
        st = sample_all(&o, phase, seconds, all, &n, err);
    if (st == RXT_OK)
        report(json, phase, all, n, o.n);
    if (st == RXT_OK && verb == BRIDGE_REMEMBER) /* which the export wants */
        st = wait_for_image(&o, store, err);
    bridge_close(&o.bridge, 0);
    return st;
}

static void remove_all(const char *folder)
{
    static const char *const file[] = {"store", "store-wal", "store-shm", "store-lease", "export"};
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        char path[512];
        (void)snprintf(path, sizeof path, "%s/%s", folder, file[i]);
        (void)unlink(path);
    }
    (void)rmdir(folder);
}

enum rxt_status bench_images(const struct rxt_model *m, bool json, double seconds,
                             struct rxt_error *err)
{
    static const struct {
        const char *name;
        enum bridge_verb verb;
    } phase[] = {{"nothing", BRIDGE_LIST},
                 {"images", BRIDGE_REMEMBER},
                 {"export", BRIDGE_EXPORT},
                 {"import", BRIDGE_IMPORT}};
    char folder[256];
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(folder, sizeof folder, "%.200s/rxt-bench-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder))
        return rxt_fail(err, RXT_EIO, "cannot make a folder for the store: set TMPDIR");
    enum rxt_status st = RXT_OK;
    for (size_t i = 0; i < sizeof phase / sizeof *phase && st == RXT_OK; i++)
        st = run_phase(m, folder, phase[i].name, phase[i].verb, json, seconds, err);
    remove_all(folder);
    return st;
}
