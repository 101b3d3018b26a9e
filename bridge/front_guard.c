#include "bridge/front_guard_impl.h"

#include "kernels/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <zmq.h>

/* Heartbeats are bytes without a message: so many of a period are not held against anybody. */
#define HEARTBEAT_BYTES 16u

struct guarded {
    bool open, spoke; /* spoke: a message has come out since the last look */
    bool sampled;
    uint64_t base;     /* bytes received when one last did */
    uint64_t received; /* when last looked at */
    struct sockaddr_storage address;
};

static bool address_of(int fd, struct sockaddr_storage *out)
{
    socklen_t n = sizeof *out;
    *out = (struct sockaddr_storage){0};
    return getpeername(fd, (struct sockaddr *)out, &n) == 0;
}

static bool bytes_received(int fd, uint64_t *out)
{
    struct tcp_info info = {0};
    socklen_t n = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) != 0 ||
        n < offsetof(struct tcp_info, tcpi_bytes_received) + sizeof info.tcpi_bytes_received)
        return false;
    *out = info.tcpi_bytes_received;
    return true;
}

enum rxt_status guard_watch(void *context, void *socket, void **monitor, struct rxt_error *err)
{
    char name[64];
    const int any = 0;
    (void)snprintf(name, sizeof name, "inproc://rxt-guard-%p", socket);
    if (zmq_socket_monitor(socket, name, ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED) != 0 ||
        !(*monitor = zmq_socket(context, ZMQ_PAIR)) ||
        zmq_setsockopt(*monitor, ZMQ_RCVHWM, &any, sizeof any) != 0 ||
        zmq_setsockopt(*monitor, ZMQ_LINGER, &any, sizeof any) != 0 ||
        zmq_connect(*monitor, name) != 0)
        return rxt_fail(err, RXT_EIO, "cannot watch a socket: %s", zmq_strerror(errno));
    return RXT_OK;
}

static struct guarded *peer_at(struct guard *g, int fd)
{
    return fd >= 0 && (size_t)fd < g->n_peer && g->peer[fd].open ? &g->peer[fd] : NULL;
}

static bool accept_peer(struct guard *g, int fd)
{
    struct guarded peer = {.open = true};
    if (fd < 0 || !address_of(fd, &peer.address) || !bytes_received(fd, &peer.base))
        return true; /* gone already, or not TCP */
    if ((size_t)fd >= g->n_peer) {
        size_t n = 2 * (size_t)fd + 64;
        struct guarded *more = mem_realloc(g->peer, n * sizeof *more);
        if (!more)
            return false;
        memset(more + g->n_peer, 0, (n - g->n_peer) * sizeof *more);
        g->peer = more;
        g->n_peer = n;
    }
    g->peer[fd] = peer;
    return true;
}

bool guard_events(struct guard *g, void *monitor)
{
    uint8_t event[6];
    char endpoint[256];
    bool all = true;
    while (zmq_recv(monitor, event, sizeof event, ZMQ_DONTWAIT) == (int)sizeof event) {
        uint16_t kind;
        int32_t fd;
        memcpy(&kind, event, sizeof kind);
        memcpy(&fd, event + sizeof kind, sizeof fd);
        if (zmq_recv(monitor, endpoint, sizeof endpoint, ZMQ_DONTWAIT) < 0)
            break;
        if (kind == ZMQ_EVENT_ACCEPTED)
            all &= accept_peer(g, fd);
        else if (peer_at(g, fd))
            g->peer[fd].open = false;
    }
    return all;
}

void guard_message(struct guard *g, int fd)
{
    struct guarded *p = peer_at(g, fd);
    if (p)
        p->spoke = true;
}

/* The descriptor is libzmq's, which may have closed it meanwhile and have another one by that
 * number: the address tells. libzmq closes it when it finds the end; with a reset, so that the
 * other side, which may be waiting to send, is told. */
static bool close_peer(const struct guarded *p, int fd)
{
    struct sockaddr_storage now;
    const struct linger reset = {.l_onoff = 1};
    return address_of(fd, &now) && memcmp(&now, &p->address, sizeof now) == 0 &&
           setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) == 0 &&
           shutdown(fd, SHUT_RDWR) == 0;
}

bool guard_due(const struct guard *g, uint64_t now_us)
{
    return now_us >= g->next_us;
}

void guard_sample(struct guard *g)
{
    for (size_t fd = 0; fd < g->n_peer; fd++) {
        struct guarded *p = &g->peer[fd];
        p->sampled = p->open && bytes_received((int)fd, &p->received);
    }
}

size_t guard_judge(struct guard *g, uint64_t now_us)
{
    size_t n = 0;
    g->next_us = now_us + GUARD_PERIOD_US;
    for (size_t fd = 0; fd < g->n_peer; fd++) {
        struct guarded *p = &g->peer[fd];
        if (!p->open || !p->sampled)
            continue;
        p->base = p->spoke || p->received - p->base < HEARTBEAT_BYTES ? p->received
                                                                      : p->base + HEARTBEAT_BYTES;
        p->spoke = false;
        if (p->received - p->base > GUARD_BYTES && close_peer(p, (int)fd)) {
            p->open = false;
            n++;
        }
    }
    return n;
}

void guard_free(struct guard *g)
{
    mem_free(g->peer);
    *g = (struct guard){0};
}
