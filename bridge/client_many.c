#define _GNU_SOURCE /* ppoll */
#include "bridge/client_many.h"

#include "bridge/client_impl.h"
#include "kernels/base/clock.h"
#include "kernels/base/mem.h"

#include <poll.h>
#include <string.h>

#define CONNECTIONS 64

/* A request in flight, in a table with open addressing: its ids are random, so their bytes are the
 * hash. */
struct flight {
    uint8_t id[WIRE_ID_BYTES];
    uint64_t tag;
    uint32_t connection;
    uint8_t type; /* 0 = the place is free */
};

struct client_many {
    struct client_link link[CONNECTIONS];
    uint32_t n_link, at; /* at: the one looked at next */
    struct flight *flight;
    uint32_t mask, max, n;
    uint8_t body[WIRE_BODY_MAX];
    int32_t *ids;
    size_t cap_ids;
};

/* ---- the table ---------------------------------------------------------------------------- */

static uint32_t home_of(const struct client_many *c, const uint8_t id[WIRE_ID_BYTES])
{
    uint32_t h;
    memcpy(&h, id, sizeof h);
    return h & c->mask;
}

/* Its place, or the free one where it would be put. */
static struct flight *place_of(const struct client_many *c, const uint8_t id[WIRE_ID_BYTES])
{
    uint32_t i = home_of(c, id);
    while (c->flight[i].type && memcmp(c->flight[i].id, id, WIRE_ID_BYTES) != 0)
        i = (i + 1) & c->mask;
    return &c->flight[i];
}

/* Those behind it move up, as far as their home allows. */
static void land(struct client_many *c, struct flight *f)
{
    uint32_t hole = (uint32_t)(f - c->flight);
    c->n--;
    for (uint32_t i = (hole + 1) & c->mask; c->flight[i].type; i = (i + 1) & c->mask)
        if (((i - home_of(c, c->flight[i].id)) & c->mask) >= ((i - hole) & c->mask)) {
            c->flight[hole] = c->flight[i];
            hole = i;
        }
    c->flight[hole].type = 0;
}

void client_many_forget(struct client_many *c, const uint8_t id[16])
{
    struct flight *f = place_of(c, id);
    if (f->type)
        land(c, f);
}

uint32_t client_many_inflight(const struct client_many *c)
{
    return c->n;
}

/* ---- open and close ----------------------------------------------------------------------- */

static enum rxt_status await_greeting(struct client_link *l, uint64_t give_up,
                                      struct rxt_error *err)
{
    enum rxt_status st = RXT_OK;
    while (st == RXT_OK && !l->greeted) {
        if (clock_us() >= give_up)
            return rxt_fail(err, RXT_EIO, "%.100s does not answer: is rxtd running there?",
                            l->endpoint);
        (void)link_receive(l, 100000, &st, err);
    }
    l->fresh = false;
    return st;
}

static enum rxt_status open_all(struct client_many *c, const struct client_many_config *cfg,
                                struct rxt_error *err)
{
    const uint32_t timeout_ms = cfg->server.timeout_ms ? cfg->server.timeout_ms : 60000;
    uint64_t give_up = clock_us() + 1000ull * timeout_ms;
    uint32_t places = 64;
    c->max = cfg->max_requests ? cfg->max_requests : 4096;
    while (places < 2 * c->max && places < 1u << 30)
        places *= 2;
    c->mask = places - 1;
    c->flight = mem_alloc_n(places, sizeof *c->flight);
    if (!c->flight)
        return RXT_ENOMEM;
    const uint32_t n = cfg->n_connection ? cfg->n_connection : 1;
    if (n > CONNECTIONS)
        return rxt_fail(err, RXT_EINVAL, "%u connections: at most %d", n, CONNECTIONS);
    for (uint32_t k = 0; k < n; k++) {
        struct client_link *l = &c->link[c->n_link++];
        l->unbounded = true;
        if (cfg->slow_bytes && cfg->slow_bytes[k]) {
            l->credit = cfg->slow_bytes[k];
            l->pause_us = 1000ull * cfg->slow_pause_ms;
        }
        TRY(link_open(l, &cfg->server, err));
    }
    for (uint32_t k = 0; k < n; k++)
        TRY(await_greeting(&c->link[k], give_up, err));
    return RXT_OK;
}

enum rxt_status client_many_open(struct client_many **out, const struct client_many_config *cfg,
                                 struct rxt_error *err)
{
    *out = mem_alloc(sizeof **out);
    if (!*out)
        return RXT_ENOMEM;
    enum rxt_status st = open_all(*out, cfg, err);
    if (st != RXT_OK)
        client_many_close(out);
    return st;
}

void client_many_close(struct client_many **many)
{
    struct client_many *c = *many;
    if (!c)
        return;
    for (uint32_t k = 0; k < c->n_link; k++)
        link_close(&c->link[k]);
    mem_free(c->flight);
    mem_free(c->ids);
    mem_free(c);
    *many = NULL;
}

const struct client_welcome *client_many_welcome(const struct client_many *c)
{
    return &c->link[0].welcome;
}

/* ---- out ---------------------------------------------------------------------------------- */

enum rxt_status client_many_start(struct client_many *c, uint32_t connection, uint64_t tag,
                                  const struct client_request *r, struct rxt_error *err)
{
    static const uint8_t zero[WIRE_ID_BYTES];
    size_t n = 0;
    struct flight *f = place_of(c, r->id);
    if (r->verb == CLIENT_LIST || r->verb == CLIENT_EXPORT || r->verb == CLIENT_DIFF)
        return rxt_fail(err, RXT_EINVAL, "LIST, EXPORT and DIFF are asked for with client_start");
    if (connection >= c->n_link || memcmp(r->id, zero, sizeof zero) == 0 || f->type)
        return rxt_fail(err, RXT_EINVAL, "no such connection, or an id that is zero or in flight");
    if (c->n >= c->max)
        return rxt_fail(err, RXT_EBUSY, "%u requests are in flight", c->n);
    TRY(message_encode(r, c->body, sizeof c->body, &n, err));
    *f = (struct flight){.tag = tag, .connection = connection, .type = message_type(r->verb)};
    memcpy(f->id, r->id, sizeof f->id);
    c->n++;
    link_send(&c->link[connection], f->type, f->id, c->body, n);
    return RXT_OK;
}

static enum rxt_status send_small(struct client_many *c, uint8_t type, const uint8_t id[16],
                                  const char *session, uint32_t from)
{
    struct wire_body b = {0};
    const struct flight *f = place_of(c, id);
    if (!f->type)
        return RXT_ENOTFOUND;
    wire_init(type, &b);
    b.session = wire_string(session);
    b.from = from;
    link_send_body(&c->link[f->connection], type, id, &b);
    return RXT_OK;
}

enum rxt_status client_many_resume(struct client_many *c, const uint8_t id[16], const char *session,
                                   uint32_t from)
{
    return send_small(c, WIRE_RESUME, id, session, from);
}

enum rxt_status client_many_cancel(struct client_many *c, const uint8_t id[16], const char *session)
{
    return send_small(c, WIRE_CANCEL, id, session, 0);
}

enum rxt_status client_many_reconnect(struct client_many *c, uint32_t connection,
                                      struct rxt_error *err)
{
    if (connection >= c->n_link)
        return rxt_fail(err, RXT_EINVAL, "there is no connection %u", connection);
    return link_again(&c->link[connection], err);
}

/* ---- in ----------------------------------------------------------------------------------- */

static enum rxt_status take_ids(struct client_many *c, const struct wire_ids *ids,
                                struct client_event *e)
{
    if (ids->n > c->cap_ids) {
        mem_free(c->ids);
        c->cap_ids = 0;
        c->ids = mem_alloc_n(ids->n, sizeof *c->ids);
        if (!c->ids)
            return RXT_ENOMEM;
        c->cap_ids = ids->n;
    }
    wire_ids_copy(ids, c->ids);
    e->ids = c->ids;
    e->n_ids = ids->n;
    return RXT_OK;
}

/* The message in l as an event; false: of a request that is not in flight. */
static bool take(struct client_many *c, const struct client_link *l, struct client_many_event *e,
                 enum rxt_status *st, struct rxt_error *err)
{
    const uint8_t type = l->header.type;
    struct flight *f = place_of(c, l->header.id);
    if (!f->type)
        return false;
    e->tag = f->tag;
    e->connection = f->connection;
    memcpy(e->id, f->id, sizeof e->id);
    if (message_event(&l->header, &l->body, f->type, &e->event)) {
        e->kind = CLIENT_MANY_EVENT;
        e->sequence = l->header.sequence;
        if (type == WIRE_TOKEN)
            *st = take_ids(c, &l->body.ids, &e->event);
        else if (type == WIRE_DONE && f->type == WIRE_GET)
            *st = take_ids(c, &l->body.last_ids, &e->event);
    } else if (type == WIRE_ERROR || type == WIRE_MEMORY_FAILED) {
        e->kind = CLIENT_MANY_FAILED;
        e->status = message_refusal(&l->body, err);
        e->code = (uint32_t)l->body.code;
        e->retryable = type == WIRE_ERROR && l->body.retryable == 1;
        e->retry_after_ms = type == WIRE_ERROR ? (uint32_t)l->body.retry_after_ms : 0;
    } else if (type == WIRE_CANCELLED) {
        e->kind = CLIENT_MANY_FAILED;
        e->status = RXT_ECANCELLED;
    } else {
        *st = rxt_fail(err, RXT_EFORMAT, "the server answered with %s", wire_type_name(type));
    }
    e->final = e->event.final;
    if (e->final)
        land(c, f);
    return true;
}

/* What is there on one connection; false: nothing for the caller. */
static bool look(struct client_many *c, uint32_t k, struct client_many_event *e,
                 enum rxt_status *st, struct rxt_error *err)
{
    struct client_link *l = &c->link[k];
    while (link_take(l, st, err)) {
        *e = (struct client_many_event){.at_us = l->heard_us};
        if (take(c, l, e, st, err))
            return true;
    }
    if (!l->fresh)
        return false;
    l->fresh = false;
    *e = (struct client_many_event){
        .kind = CLIENT_MANY_CONNECTED, .connection = k, .at_us = l->heard_us};
    return true;
}

/* zmq_poll counts in milliseconds, which is too coarse for what is sent on time. The descriptors of
 * sockets tell edges, which a send may have eaten: what is there is asked for first. */
static void wait_until(struct client_many *c, uint64_t now, uint64_t until)
{
    struct pollfd fds[CONNECTIONS];
    uint64_t us = until - now < CLIENT_QUIET_US ? until - now : CLIENT_QUIET_US;
    for (uint32_t k = 0; k < c->n_link; k++) {
        const uint64_t pause = c->link[k].pause_us;
        size_t size = sizeof fds[k].fd, n = sizeof(int);
        int events = 0;
        (void)zmq_getsockopt(c->link[k].socket, ZMQ_EVENTS, &events, &n);
        if (events & ZMQ_POLLIN)
            return;
        fds[k] = (struct pollfd){.fd = -1, .events = POLLIN};
        (void)zmq_getsockopt(c->link[k].socket, ZMQ_FD, &fds[k].fd, &size);
        if (pause && pause < us)
            us = pause;
    }
    const struct timespec t = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    (void)ppoll(fds, c->n_link, &t, NULL);
}

enum rxt_status client_many_next(struct client_many *c, uint64_t until_us,
                                 struct client_many_event *e, struct rxt_error *err)
{
    enum rxt_status st = RXT_OK;
    for (;;) {
        for (uint32_t i = 0; i < c->n_link; i++) {
            uint32_t k = c->at;
            c->at = k + 1 < c->n_link ? k + 1 : 0;
            if (look(c, k, e, &st, err) || st != RXT_OK)
                return st;
        }
        uint64_t now = clock_us();
        *e = (struct client_many_event){.at_us = now};
        if (now >= until_us)
            return RXT_OK;
        wait_until(c, now, until_us);
    }
}
