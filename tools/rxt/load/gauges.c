#include "tools/rxt/load/gauges.h"

#include "kernels/base/clock.h"

#include <dirent.h>
#include <math.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

enum { PAUSE_US = 250000, PAGE_MAX = 1 << 17 };

struct gauges {
    struct gauges_config cfg;
    struct addrinfo *address;
    char path[256], host[128];
    pthread_t thread;
    bool runs;
    atomic_bool stop;
    uint64_t pause_us;
    uint32_t n;
    struct gauge_sample sample[GAUGE_SAMPLES];
    char page[PAGE_MAX];
};

static const struct {
    const char *name, *metric;
} known[GAUGES] = {
    [GAUGE_RSS] = {"rss_bytes", NULL},
    [GAUGE_FDS] = {"open_files", NULL},
    [GAUGE_THREADS] = {"threads", NULL},
    [GAUGE_CPU] = {"cpu_seconds", NULL},
    [GAUGE_STORE] = {"store_bytes", NULL},
    [GAUGE_SESSION_BYTES] = {"session_bytes", "\nrxt_session_bytes "},
    [GAUGE_RUNNING] = {"requests_running", "\nrxt_requests_running "},
    [GAUGE_QUEUE_SLOT] = {"queue_slot", "\nrxt_queue_slot "},
    [GAUGE_QUEUE_MEMORY] = {"queue_memory", "\nrxt_queue_memory "},
    [GAUGE_TURNS] = {"turns", "\nrxt_turns_total "},
};

const char *gauge_name(enum gauge g)
{
    return known[g].name;
}

/* ---- metrics over HTTP -------------------------------------------------------------------- */

/* http://HOST:PORT/PATH in its parts. */
static enum rxt_status parse_address(struct gauges *g, const char *url, struct rxt_error *err)
{
    const struct addrinfo want = {.ai_socktype = SOCK_STREAM};
    char host[128] = "", port[8] = "";
    /* NOLINTNEXTLINE(cert-err34-c): the port stays a text */
    int n = sscanf(url, "http://%127[^:/]:%7[0-9]%255s", host, port, g->path);
    if (n < 2 || (n == 3 && g->path[0] != '/'))
        return rxt_fail(err, RXT_EINVAL, "--metrics %.150s: write http://HOST:PORT/metrics", url);
    if (n == 2)
        (void)snprintf(g->path, sizeof g->path, "/metrics");
    (void)snprintf(g->host, sizeof g->host, "%s", host);
    if (getaddrinfo(host, port, &want, &g->address) != 0)
        return rxt_fail(err, RXT_EINVAL, "--metrics: there is no host %.100s", host);
    return RXT_OK;
}

static bool talk(struct gauges *g, int s)
{
    char request[512];
    size_t used = 0;
    int n =
        snprintf(request, sizeof request, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", g->path, g->host);
    if (send(s, request, (size_t)n, MSG_NOSIGNAL) != n)
        return false;
    for (ssize_t got; (got = recv(s, g->page + used, PAGE_MAX - 1 - used, 0)) > 0;)
        used += (size_t)got;
    g->page[used] = '\0';
    return strncmp(g->page, "HTTP/1", 6) == 0 && strstr(g->page, " 200 ") == g->page + 8;
}

static bool get_page(struct gauges *g)
{
    const struct timeval patience = {.tv_sec = 1};
    const struct addrinfo *a = g->address;
    int s = a ? socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, 0) : -1;
    bool good = s >= 0 && setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
                setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) == 0 &&
                connect(s, a->ai_addr, a->ai_addrlen) == 0 && talk(g, s);
    if (s >= 0)
        (void)close(s);
    return good;
}

static void ask_metrics(struct gauges *g, struct gauge_sample *s)
{
    if (!get_page(g))
        return;
    for (int i = 0; i < GAUGES; i++) {
        const char *at = known[i].metric ? strstr(g->page, known[i].metric) : NULL;
        if (at)
            s->value[i] = strtod(at + strlen(known[i].metric), NULL);
    }
}

/* ---- the process and the store ------------------------------------------------------------ */

static void ask_process(int pid, struct gauge_sample *s)
{
    char path[64], line[512];
    unsigned long long user = 0, system = 0, threads = 0, pages = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    const char *at = f && fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    /* proc(5): fields 14, 15, 20 and 24. */
    /* NOLINTNEXTLINE(cert-err34-c): the kernel writes numbers */
    if (at && sscanf(at + 2,
                     "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %llu "
                     "%*d %*u %*u %llu",
                     &user, &system, &threads, &pages) == 4) {
        s->value[GAUGE_CPU] = (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
        s->value[GAUGE_THREADS] = (double)threads;
        s->value[GAUGE_RSS] = (double)pages * (double)sysconf(_SC_PAGESIZE);
    }
    if (f)
        (void)fclose(f);
    (void)snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *d = opendir(path);
    double n = 0;
    for (; d && readdir(d); n++)
        ;
    if (d)
        s->value[GAUGE_FDS] = n - 2; /* . and .. */
    if (d)
        (void)closedir(d);
}

static void ask_store(const char *path, struct gauge_sample *s)
{
    char log[4096];
    struct stat x;
    if (stat(path, &x) != 0)
        return;
    s->value[GAUGE_STORE] = (double)x.st_size;
    int n = snprintf(log, sizeof log, "%s-wal", path);
    if (n > 0 && (size_t)n < sizeof log && stat(log, &x) == 0)
        s->value[GAUGE_STORE] += (double)x.st_size;
}

/* ---- the thread --------------------------------------------------------------------------- */

static void take_sample(struct gauges *g)
{
    if (g->n == GAUGE_SAMPLES) {
        for (uint32_t i = 0; i < GAUGE_SAMPLES / 2; i++)
            g->sample[i] = g->sample[(size_t)2 * i];
        g->n = GAUGE_SAMPLES / 2;
        g->pause_us *= 2;
    }
    struct gauge_sample *s = &g->sample[g->n];
    int pid = g->cfg.pid ? atomic_load(g->cfg.pid) : 0;
    for (int i = 0; i < GAUGES; i++)
        s->value[i] = NAN;
    s->at_us = clock_us();
    if (g->address)
        ask_metrics(g, s);
    if (pid > 0)
        ask_process(pid, s);
    if (g->cfg.store)
        ask_store(g->cfg.store, s);
    g->n++;
}

static void *run(void *arg)
{
    struct gauges *g = arg;
    uint64_t due = clock_us();
    while (!atomic_load(&g->stop)) {
        const struct timespec nap = {.tv_nsec = 50000000};
        if (clock_us() >= due) {
            take_sample(g);
            due = clock_us() + g->pause_us;
        }
        (void)nanosleep(&nap, NULL);
    }
    return NULL;
}

enum rxt_status gauges_start(struct gauges **out, const struct gauges_config *cfg,
                             struct rxt_error *err)
{
    struct gauges *g = *out = calloc(1, sizeof *g);
    if (!g)
        return RXT_ENOMEM;
    g->cfg = *cfg;
    g->pause_us = PAUSE_US;
    enum rxt_status st = cfg->metrics ? parse_address(g, cfg->metrics, err) : RXT_OK;
    g->runs = st == RXT_OK && pthread_create(&g->thread, NULL, run, g) == 0;
    if (st == RXT_OK && !g->runs)
        st = rxt_fail(err, RXT_EIO, "cannot start a thread");
    if (st != RXT_OK)
        gauges_free(out);
    return st;
}

void gauges_stop(struct gauges *g)
{
    if (!g->runs)
        return;
    atomic_store(&g->stop, true);
    (void)pthread_join(g->thread, NULL);
    g->runs = false;
    take_sample(g);
}

uint32_t gauges_count(const struct gauges *g)
{
    return g->n;
}

const struct gauge_sample *gauges_get(const struct gauges *g)
{
    return g->sample;
}

void gauges_free(struct gauges **out)
{
    struct gauges *g = *out;
    if (!g)
        return;
    gauges_stop(g);
    if (g->address)
        freeaddrinfo(g->address);
    free(g);
    *out = NULL;
}
