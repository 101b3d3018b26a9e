/* What is done with all sessions of a run, before and after it; not measured. */
#include "tools/rxt/load/drive.h"

#include "tools/rxt/load/trend.h"

#include "kernels/base/clock.h"

#include <inttypes.h>
#include <stdio.h>

#define WINDOW 256u  /* requests at a time: less than a server has room for */
#define RETRY_MS 100 /* where the server says: any time */

enum { ID_OPEN = 101, ID_GET, ID_ERASE, ID_CALL };

struct round {
    struct drive *d;
    enum client_verb verb;
    uint64_t kind; /* of the ids */
    void (*take)(struct load_session *s, const struct client_event *e);
    uint32_t asked, answered, n_refused; /* refused: to be asked again */
    uint64_t retry_us;                   /* the first of them */
    uint64_t heard_us;                   /* of an answer, which a refusal is not */
};

static enum rxt_status ask(const struct round *r, uint32_t session, struct rxt_error *err)
{
    char name[LOAD_NAME_MAX];
    struct client_request q = {.verb = r->verb, .session = name};
    drive_name(r->d, session, name);
    if (r->verb == CLIENT_OPEN)
        q.seed = plan_mix(r->d->plan->seed + session) | 1;
    drive_id(r->d, r->kind, session, q.id);
    return client_many_start(r->d->client, session % r->d->n_connection, session, &q, err);
}

/* After a new connection; these may all be asked twice. */
static enum rxt_status ask_again(const struct round *r, struct rxt_error *err)
{
    for (uint32_t i = 0; i < r->asked; i++) {
        uint8_t id[16];
        if (r->d->session[i].answered || r->d->session[i].retry_us)
            continue;
        drive_id(r->d, r->kind, i, id);
        client_many_forget(r->d->client, id);
        TRY(ask(r, i, err));
    }
    return RXT_OK;
}

/* Those that were refused and may be asked again now. */
static enum rxt_status ask_refused(struct round *r, uint64_t now_us, struct rxt_error *err)
{
    if (r->n_refused == 0 || r->retry_us > now_us)
        return RXT_OK;
    r->retry_us = UINT64_MAX;
    for (uint32_t i = 0; i < r->asked; i++) {
        struct load_session *s = &r->d->session[i];
        if (s->retry_us && s->retry_us <= now_us) {
            s->retry_us = 0;
            r->n_refused--;
            TRY(ask(r, i, err));
        } else if (s->retry_us && s->retry_us < r->retry_us) {
            r->retry_us = s->retry_us;
        }
    }
    return RXT_OK;
}

/* What the server refuses for a while is asked again when it says so. */
static void take_refusal(struct round *r, const struct client_many_event *e)
{
    struct load_session *s = &r->d->session[e->tag];
    s->retry_us = e->at_us + 1000 * (uint64_t)(e->retry_after_ms ? e->retry_after_ms : RETRY_MS);
    if (r->n_refused++ == 0 || s->retry_us < r->retry_us)
        r->retry_us = s->retry_us;
}

static enum rxt_status take_answer(struct round *r, const struct client_many_event *e)
{
    struct load_session *s = &r->d->session[e->tag];
    if (e->kind == CLIENT_MANY_FAILED && e->retryable && e->final) {
        take_refusal(r, e);
        return RXT_OK;
    }
    if (e->kind == CLIENT_MANY_FAILED)
        return e->status;
    r->heard_us = e->at_us;
    if (r->take)
        r->take(s, &e->event);
    s->answered = e->final;
    r->answered += e->final;
    return RXT_OK;
}

/* What comes late of the run has the tag of a turn, which is no session's. */
static enum rxt_status go_round(struct round *r, struct rxt_error *err)
{
    const uint32_t n = plan_places(r->d->plan);
    r->heard_us = clock_us();
    for (uint32_t i = 0; i < n; i++) {
        r->d->session[i].answered = false;
        r->d->session[i].retry_us = 0;
    }
    while (r->answered < n) {
        struct client_many_event e;
        while (r->asked < n && r->asked - r->answered < WINDOW)
            TRY(ask(r, r->asked++, err));
        TRY(ask_refused(r, clock_us(), err));
        uint64_t until_us = clock_us() + 100000;
        if (r->n_refused > 0 && r->retry_us < until_us)
            until_us = r->retry_us;
        TRY(client_many_next(r->d->client, until_us, &e, err));
        if (e.at_us > r->heard_us + r->d->timeout_us) {
            if (e.kind == CLIENT_MANY_FAILED)
                return e.status;
            return rxt_fail(err, RXT_EIO, "the server has answered nothing for %" PRIu64 " s",
                            r->d->timeout_us / 1000000);
        }
        if (e.kind == CLIENT_MANY_CONNECTED)
            TRY(ask_again(r, err));
        else if (e.kind != CLIENT_MANY_IDLE && e.tag < n)
            TRY(take_answer(r, &e));
    }
    return RXT_OK;
}

static void take_open(struct load_session *s, const struct client_event *e)
{
    s->n_before = e->n_turn;
    s->version_before = e->version;
}

static void take_get(struct load_session *s, const struct client_event *e)
{
    s->n_turn = e->n_turn;
    s->version = e->version;
}

enum rxt_status drive_prepare(struct drive *d, struct rxt_error *err)
{
    return go_round(
        &(struct round){.d = d, .verb = CLIENT_OPEN, .kind = ID_OPEN, .take = take_open}, err);
}

enum rxt_status drive_verify(struct drive *d, struct rxt_error *err)
{
    return go_round(&(struct round){.d = d, .verb = CLIENT_GET, .kind = ID_GET, .take = take_get},
                    err);
}

enum rxt_status drive_erase(struct drive *d, struct rxt_error *err)
{
    return go_round(&(struct round){.d = d, .verb = CLIENT_ERASE, .kind = ID_ERASE}, err);
}

/* ---- one by one --------------------------------------------------------------------------- */

static void note_time(struct drive_times *t, const struct client_many_event *e, uint64_t us)
{
    if (e->event.kind == CLIENT_TOKEN && !t->first_us)
        t->first_us = us;
    if (e->event.kind == CLIENT_DONE)
        t->done_us = us;
    t->end_us = us;
}

enum rxt_status drive_call(struct drive *d, const struct client_request *r, uint64_t number,
                           struct client_many_event *last, struct drive_times *times,
                           struct rxt_error *err)
{
    const uint64_t tag = (uint64_t)ID_CALL << 56 | number, start_us = clock_us();
    struct client_request q = *r;
    struct drive_times t = {0};
    struct client_many_event e = {0};
    drive_id(d, ID_CALL, number, q.id);
    TRY(client_many_start(d->client, 0, tag, &q, err));
    while (!(e.tag == tag && e.final)) {
        TRY(client_many_next(d->client, clock_us() + 100000, &e, err));
        if (e.kind == CLIENT_MANY_CONNECTED)
            return rxt_fail(err, RXT_EIO, "the connection was lost");
        if (e.at_us - start_us > d->timeout_us)
            return rxt_fail(err, RXT_EIO, "a request was not answered for %" PRIu64 " s",
                            d->timeout_us / 1000000);
        if (e.tag != tag)
            continue;
        if (e.kind == CLIENT_MANY_FAILED)
            return e.status;
        note_time(&t, &e, e.at_us - start_us);
        if (e.event.kind != CLIENT_MEMORY)
            *last = e;
    }
    if (times)
        *times = t;
    return RXT_OK;
}

enum rxt_status drive_probe(struct drive *d, double *turn_us, struct rxt_error *err)
{
    enum { TURNS = 9, NUMBER = 1 << 30 };
    char name[LOAD_NAME_MAX], room[PLAN_QUERY_MAX];
    double took[TURNS];
    struct client_many_event e;
    struct client_request r = {.verb = CLIENT_OPEN, .session = name, .seed = 1};
    (void)snprintf(name, sizeof name, "%s-probe", d->prefix);
    TRY(drive_call(d, &r, NUMBER, &e, NULL, err));
    for (uint32_t i = 0; i < TURNS; i++) {
        struct drive_times t = {0};
        plan_turn(d->plan, 0, i, room, &r);
        r.session = name;
        TRY(drive_call(d, &r, NUMBER + 1 + i, &e, &t, err));
        took[i] = (double)t.end_us;
    }
    sort_values(took, TURNS);
    *turn_us = quantile(took, TURNS, 0.5);
    r = (struct client_request){.verb = CLIENT_ERASE, .session = name};
    return drive_call(d, &r, NUMBER + 1 + TURNS, &e, NULL, err);
}
