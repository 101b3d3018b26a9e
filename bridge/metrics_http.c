#include "bridge/metrics_impl.h"

#include "kernels/base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <microhttpd.h>

struct metrics_http {
    struct metrics_http_config cfg;
    struct MHD_Daemon *daemon;
    char text[METRICS_TEXT_MAX]; /* of its thread */
};

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static bool is_loopback(const union address *a)
{
    if (a->any.sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr);
    return ntohl(a->v4.sin_addr.s_addr) >> 24 == 127;
}

/* HOST:PORT or [HOST]:PORT, numbers only. */
static enum rxt_status parse(const char *text, union address *out, struct rxt_error *err)
{
    char host[64] = "", *end = NULL;
    const char *colon = strrchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;
    *out = (union address){0};
    if (n > 2 && text[0] == '[' && text[n - 1] == ']' && n - 2 < sizeof host)
        memcpy(host, text + 1, n - 2);
    else if (n < sizeof host)
        memcpy(host, text, n);
    errno = 0;
    unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
    bool is_v6 = inet_pton(AF_INET6, host, &out->v6.sin6_addr) == 1;
    bool known = is_v6 || inet_pton(AF_INET, host, &out->v4.sin_addr) == 1;
    if (!known || errno || !end || *end || end == colon + 1 || port == 0 || port > 65535)
        return rxt_fail(err, RXT_EINVAL, "metrics = %.100s: use 127.0.0.1:PORT or [::1]:PORT",
                        text);
    if (is_v6) {
        out->v6.sin6_family = AF_INET6;
        out->v6.sin6_port = htons((uint16_t)port);
    } else {
        out->v4.sin_family = AF_INET;
        out->v4.sin_port = htons((uint16_t)port);
    }
    if (!is_loopback(out))
        return rxt_fail(err, RXT_EINVAL,
                        "metrics = %.100s is not loopback: they are served locally only", text);
    return RXT_OK;
}

enum rxt_status metrics_http_check(const char *address, struct rxt_error *err)
{
    union address a;
    return parse(address, &a, err);
}

static enum MHD_Result reply(struct MHD_Connection *c, unsigned code, const char *type,
                             const char *text, size_t n)
{
    struct MHD_Response *r =
        MHD_create_response_from_buffer(n, (void *)text, MHD_RESPMEM_MUST_COPY);
    if (!r)
        return MHD_NO;
    (void)MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    enum MHD_Result done = MHD_queue_response(c, code, r);
    MHD_destroy_response(r);
    return done;
}

static enum MHD_Result answer(struct MHD_Connection *c, bool yes)
{
    const char *text = yes ? "yes\n" : "no\n";
    return reply(c, yes ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, "text/plain", text,
                 strlen(text));
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_size, void **state)
{
    struct metrics_http *h = arg;
    (void)version;
    (void)data;
    (void)data_size;
    (void)state;
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0)
        return reply(c, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", "GET only\n", 9);
    struct metrics_health health = h->cfg.health(h->cfg.arg); /* sets gauges, too */
    if (strcmp(url, "/metrics") == 0) {
        size_t n = metrics_text(h->cfg.metrics, h->text);
        return reply(c, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", h->text, n);
    }
    if (strcmp(url, "/live") == 0)
        return answer(c, health.live);
    if (strcmp(url, "/ready") == 0)
        return answer(c, health.ready);
    if (strcmp(url, "/progress") == 0)
        return answer(c, health.progress);
    return reply(c, MHD_HTTP_NOT_FOUND, "text/plain", "/metrics /live /ready /progress\n", 32);
}

enum rxt_status metrics_http_open(struct metrics_http **out, const struct metrics_http_config *cfg,
                                  struct rxt_error *err)
{
    union address a;
    TRY(parse(cfg->address, &a, err));
    struct metrics_http *h = mem_alloc(sizeof *h);
    if (!h)
        return RXT_ENOMEM;
    h->cfg = *cfg;
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO;
    if (a.any.sa_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    h->daemon =
        MHD_start_daemon(flags, 0, NULL, NULL, on_request, h, MHD_OPTION_SOCK_ADDR, &a.any,
                         MHD_OPTION_CONNECTION_LIMIT, 16u, MHD_OPTION_CONNECTION_TIMEOUT, 10u,
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)16384, MHD_OPTION_END);
    if (!h->daemon) {
        mem_free(h);
        return rxt_fail(err, RXT_EIO, "cannot listen on metrics = %.100s: %s", cfg->address,
                        strerror(errno));
    }
    *out = h;
    return RXT_OK;
}

void metrics_http_close(struct metrics_http **http)
{
    struct metrics_http *h = *http;
    if (!h)
        return;
    MHD_stop_daemon(h->daemon);
    mem_free(h);
    *http = NULL;
}
