#include "tools/rxt/load/drive.h"

#include "kernels/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define TAG(kind, number) ((uint64_t)(kind) << 56 | (number))
#define TAG_NUMBER(tag) ((tag)&0xFFFFFFFFFFFFFFu)
#define TAG_KIND(tag) ((tag) >> 56)

#define TICK_US 100000u

enum { CODE_NO_REQUEST = 202 };

/* ---- names -------------------------------------------------------------------------------- */

size_t drive_records(const struct drive *d)
{
    return (size_t)d->plan->n_session * d->plan->n_turn;
}

void drive_name(const struct drive *d, uint32_t session, char out[LOAD_NAME_MAX])
{
    (void)snprintf(out, LOAD_NAME_MAX, "%s-%06u", d->prefix, session);
}

void drive_id(const struct drive *d, uint64_t kind, uint64_t number, uint8_t id[16])
{
    uint64_t word[2];
    word[0] = plan_mix(plan_mix(d->nonce ^ kind << 56) ^ number);
    word[1] = plan_mix(word[0] ^ d->nonce) | 1;
    memcpy(id, word, sizeof word);
}

static uint32_t session_of(const struct drive *d, uint64_t record)
{
    return (uint32_t)(record / d->plan->n_turn);
}

static uint32_t turn_of(const struct drive *d, uint64_t record)
{
    return (uint32_t)(record % d->plan->n_turn);
}

/* The session of the server. */
static uint32_t place_of(const struct drive *d, uint64_t record)
{
    return plan_place(d->plan, session_of(d, record), turn_of(d, record)).session;
}

static uint32_t connection_of(const struct drive *d, uint32_t session)
{
    return connections_of(&d->connections, d->plan, session);
}

/* ---- open and close ----------------------------------------------------------------------- */

enum rxt_status drive_open(struct drive *d, const struct client_config *server,
                           struct rxt_error *err)
{
    size_t n = drive_records(d);
    d->nonce = plan_mix(clock_ns()) ^ plan_mix((uint64_t)clock_wall_us());
    if (!d->prefix[0])
        (void)snprintf(d->prefix, sizeof d->prefix, "load-%08x", (unsigned)(d->nonce >> 32));
    d->turn = calloc(n, sizeof *d->turn);
    d->session = calloc(plan_places(d->plan), sizeof *d->session);
    d->histogram = calloc(MEASURES + 2, sizeof *d->histogram);
    d->answer = d->keep_answers ? calloc(d->plan->n_turn, sizeof *d->answer) : NULL;
    if (!d->turn || !d->session || !d->histogram || (d->keep_answers && !d->answer))
        return rxt_fail(err, RXT_ENOMEM, "no memory for the records of %zu turns", n);
    d->fork = &d->histogram[MEASURES];
    d->resend = &d->histogram[MEASURES + 1];
    TRY(schedule_create(&d->schedule, d->plan));
    connections_lay_out(&d->connections, d->plan, d->n_connection);
    const struct client_many_config cfg = {
        .server = *server,
        .n_connection = connections_count(&d->connections),
        .max_requests = 1u << 17,
        .slow_bytes = d->connections.slow_bytes,
        .slow_pause_ms = CONNECTIONS_PAUSE_MS,
    };
    return client_many_open(&d->client, &cfg, err);
}

void drive_close(struct drive *d)
{
    client_many_close(&d->client);
    schedule_destroy(&d->schedule);
    for (uint32_t i = 0; d->answer && i < d->plan->n_turn; i++)
        free(d->answer[i]);
    free(d->answer);
    free(d->turn);
    free(d->session);
    free(d->histogram);
}

/* ---- requests ----------------------------------------------------------------------------- */

static void count_error(struct drive *d, uint32_t code, const struct rxt_error *err)
{
    int i = 0;
    while (i < d->n_error && d->error[i].code != code)
        i++;
    if (i == LOAD_ERRORS)
        return;
    if (i == d->n_error) {
        d->error[d->n_error++].code = code;
        (void)snprintf(d->error[i].sentence, sizeof d->error[i].sentence, "%s", err->text);
    }
    d->error[i].n++;
}

static enum rxt_status send_turn(struct drive *d, uint64_t record, uint64_t kind,
                                 struct rxt_error *err)
{
    char room[PLAN_QUERY_MAX], name[LOAD_NAME_MAX];
    struct client_request r;
    const uint32_t session = session_of(d, record);
    plan_turn(d->plan, session, turn_of(d, record), room, &r);
    drive_name(d, place_of(d, record), name);
    drive_id(d, TAG_TURN, record, r.id);
    r.session = name;
    return client_many_start(d->client, connection_of(d, session), TAG(kind, record), &r, err);
}

static void send_due(struct drive *d, const struct arrival *a)
{
    const uint64_t record = (uint64_t)a->session * d->plan->n_turn + a->turn;
    struct turn_record *t = &d->turn[record];
    struct rxt_error err = {""};
    uint64_t now = clock_us() - d->start_us;
    t->due_us = a->due_us;
    t->slip_us = (uint32_t)(now - a->due_us);
    d->n_sent++;
    if (send_turn(d, record, TAG_TURN, &err) == RXT_OK) {
        t->outcome = TURN_SENT;
        t->in_flight = true;
        return;
    }
    t->outcome = TURN_REFUSED;
    d->n_refused++;
    count_error(d, 0, &err);
}

static bool drawn(const struct drive *d, uint64_t record, enum plan_purpose purpose, double share)
{
    return share > 0 &&
           plan_draw(d->plan, session_of(d, record), turn_of(d, record), purpose) < share;
}

static uint32_t since(const struct drive *d, const struct turn_record *t, uint64_t at_us)
{
    uint64_t us = at_us - d->start_us - t->due_us;
    return us == 0 ? 1 : us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

static uint32_t narrow(uint64_t us)
{
    return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

static bool is_repeat(uint64_t kind)
{
    return kind == TAG_RESEND || kind == TAG_REPEAT;
}

/* What may be in flight behind a turn that has ended has the id of its kind; a repeat has that of
 * the turn. */
static void aside_id(const struct drive *d, uint64_t record, uint64_t kind, uint8_t id[16])
{
    drive_id(d, is_repeat(kind) ? TAG_TURN : kind, record, id);
}

static enum rxt_status send_fork(struct drive *d, uint64_t record, enum client_verb verb,
                                 struct rxt_error *err)
{
    char name[LOAD_NAME_MAX], fork[LOAD_NAME_MAX + 16];
    const uint32_t session = session_of(d, record);
    const uint64_t kind = verb == CLIENT_FORK ? TAG_FORK : TAG_ERASE;
    struct client_request r = {.verb = verb, .session = verb == CLIENT_FORK ? name : fork};
    drive_name(d, place_of(d, record), name);
    (void)snprintf(fork, sizeof fork, "%s-%u", name, turn_of(d, record));
    if (verb == CLIENT_FORK)
        r.to = fork;
    aside_id(d, record, kind, r.id);
    return client_many_start(d->client, connection_of(d, session), TAG(kind, record), &r, err);
}

static enum rxt_status start_aside(struct drive *d, uint64_t record, uint64_t kind,
                                   struct rxt_error *err)
{
    enum rxt_status st;
    if (is_repeat(kind))
        st = send_turn(d, record, kind, err);
    else
        st = send_fork(d, record, kind == TAG_FORK ? CLIENT_FORK : CLIENT_ERASE, err);
    d->turn[record].aside = st == RXT_OK ? (uint8_t)kind : 0;
    d->turn[record].aside_again = false;
    return st;
}

static void send_aside(struct drive *d, uint64_t record, uint64_t kind)
{
    struct rxt_error err = {""};
    if (start_aside(d, record, kind, &err) != RXT_OK)
        count_error(d, 0, &err);
}

enum rxt_status drive_repeat(struct drive *d, uint64_t record, struct rxt_error *err)
{
    return start_aside(d, record, TAG_REPEAT, err);
}

static void forget_aside(struct drive *d, uint64_t record)
{
    uint8_t id[16];
    aside_id(d, record, d->turn[record].aside, id);
    client_many_forget(d->client, id);
    d->turn[record].aside = 0;
}

/* What the mix asks for behind a turn that has ended well. */
static void send_more(struct drive *d, uint64_t record, uint64_t at_us)
{
    d->turn[record].aside_us = since(d, &d->turn[record], at_us);
    if (drawn(d, record, PLAN_RESEND, d->plan->resend))
        send_aside(d, record, TAG_RESEND);
    else if (drawn(d, record, PLAN_FORK, d->plan->fork))
        send_aside(d, record, TAG_FORK);
}

/* ---- what comes back ---------------------------------------------------------------------- */

static void keep_text(struct drive *d, uint64_t record, const struct client_event *e)
{
    char **answer = &d->answer[turn_of(d, record)];
    size_t n = *answer ? strlen(*answer) : 0;
    char *more = realloc(*answer, n + e->text_bytes + 1);
    if (!more)
        return;
    memcpy(more + n, e->text, e->text_bytes);
    more[n + e->text_bytes] = '\0';
    *answer = more;
}

/* What is in flight on it is asked for again when it is there anew. */
static enum rxt_status vanish(struct drive *d, uint32_t connection, struct rxt_error *err)
{
    d->n_vanished++;
    d->vanished[connection] = true;
    return client_many_reconnect(d->client, connection, err);
}

static enum rxt_status take_token(struct drive *d, uint64_t record,
                                  const struct client_many_event *e, struct rxt_error *err)
{
    struct turn_record *t = &d->turn[record];
    const bool first = !t->first_us;
    if (e->sequence < t->n_token) /* again, after a new connection */
        return RXT_OK;
    if (first)
        t->first_us = since(d, t, e->at_us);
    t->n_token = (uint16_t)(e->sequence + e->event.n_ids);
    if (d->answer && session_of(d, record) == 0)
        keep_text(d, record, &e->event);
    if (!t->cancelled && drawn(d, record, PLAN_CANCEL, d->plan->cancel)) {
        char name[LOAD_NAME_MAX];
        drive_name(d, place_of(d, record), name);
        t->cancelled = client_many_cancel(d->client, e->id, name) == RXT_OK;
    }
    const uint32_t session = session_of(d, record);
    if (first && plan_vanishes(d->plan, session) &&
        drawn(d, record, PLAN_VANISH, PLAN_VANISH_TURNS))
        return vanish(d, connection_of(d, session), err);
    return RXT_OK;
}

/* Turns that are read slowly or on connections that vanish, and those that were cut short, say
 * nothing of the server. */
static void count_turn(struct drive *d, uint64_t record)
{
    const struct turn_record *t = &d->turn[record];
    struct histogram *h = d->histogram;
    if (!plan_is_plain(d->plan, session_of(d, record)) || t->cancelled || !t->first_us)
        return;
    histogram_add(&h[MEASURE_FIRST], t->first_us);
    histogram_add(&h[MEASURE_TURN], t->done_us);
    histogram_add(&h[MEASURE_QUEUE], t->queue_us);
    histogram_add(&h[MEASURE_SLIP], t->slip_us);
    if (t->n_answer > 1 && t->done_us >= t->first_us)
        histogram_add(&h[MEASURE_TOKEN], (t->done_us - t->first_us) / (t->n_answer - 1u));
}

static void take_done(struct drive *d, uint64_t record, const struct client_many_event *e)
{
    struct turn_record *t = &d->turn[record];
    if (t->outcome == TURN_DONE) /* again, after a new connection */
        return;
    t->outcome = TURN_DONE;
    t->done_us = since(d, t, e->at_us);
    t->n_query = (uint16_t)e->event.n_query;
    t->n_answer = (uint16_t)e->event.n_answer;
    t->queue_us = narrow(e->event.queue_us);
    t->server_first_us = narrow(e->event.first_token_us);
    t->answer_us = narrow(e->event.answer_us);
    t->journal_us = narrow(e->event.journal_us);
    d->session[place_of(d, record)].n_done++;
    d->n_done++;
    count_turn(d, record);
}

static enum rxt_status take_event(struct drive *d, uint64_t record,
                                  const struct client_many_event *e, struct rxt_error *err)
{
    struct turn_record *t = &d->turn[record];
    if (e->event.kind == CLIENT_TOKEN)
        return take_token(d, record, e, err);
    if (e->event.kind == CLIENT_DONE)
        take_done(d, record, e);
    if (e->event.kind == CLIENT_MEMORY) {
        t->memory_us = since(d, t, e->at_us);
        t->lag_us = narrow(e->event.lag_us);
        if (plan_is_plain(d->plan, session_of(d, record)) && !t->cancelled)
            histogram_add(&d->histogram[MEASURE_MEMORY], t->lag_us);
    }
    if (e->final) {
        t->in_flight = false;
        send_more(d, record, e->at_us);
    }
    return RXT_OK;
}

static enum rxt_status take_failure(struct drive *d, uint64_t record,
                                    const struct client_many_event *e, struct rxt_error *err)
{
    struct turn_record *t = &d->turn[record];
    if (e->code == CODE_NO_REQUEST && (d->faults || d->n_vanished > 0)) /* asked for anew */
        return send_turn(d, record, TAG_TURN, err);
    if (!e->final)
        return RXT_OK;
    t->in_flight = false;
    if (e->status == RXT_ECANCELLED && t->cancelled && t->outcome != TURN_DONE) {
        t->outcome = TURN_CANCELLED;
        d->n_cancelled++;
        return RXT_OK;
    }
    if (t->outcome == TURN_DONE) { /* answered, and not remembered */
        d->n_memory_failed++;
    } else {
        t->outcome = TURN_REFUSED;
        d->n_refused++;
    }
    t->code = (uint16_t)e->code;
    count_error(d, e->code, err);
    return RXT_OK;
}

/* A repeat, a fork or the end of one. */
static void take_aside(struct drive *d, const struct client_many_event *e)
{
    const uint64_t record = TAG_NUMBER(e->tag), kind = TAG_KIND(e->tag);
    struct turn_record *t = &d->turn[record];
    if (kind == TAG_RESEND && e->event.kind == CLIENT_DONE)
        d->n_answer_differs += e->event.n_answer != t->n_answer;
    if (!e->final)
        return;
    t->aside = 0;
    uint64_t us = since(d, t, e->at_us) - t->aside_us;
    if (kind == TAG_RESEND)
        histogram_add(d->resend, us);
    if (kind != TAG_FORK)
        return;
    histogram_add(d->fork, us);
    send_aside(d, record, TAG_ERASE); /* it was made to be measured */
}

/* What is asked for a second time may have been done the first time. */
static void take_aside_failure(struct drive *d, const struct client_many_event *e,
                               const struct rxt_error *err)
{
    const uint64_t record = TAG_NUMBER(e->tag), kind = TAG_KIND(e->tag);
    struct turn_record *t = &d->turn[record];
    if (e->final)
        t->aside = 0;
    if (t->aside_again && kind == TAG_FORK && e->status == RXT_EEXIST)
        send_aside(d, record, TAG_ERASE);
    else if (!(t->aside_again && kind == TAG_ERASE && e->status == RXT_ENOTFOUND))
        count_error(d, e->code, err);
}

void drive_ask_again(struct drive *d, uint32_t connection)
{
    d->n_connected += !d->vanished[connection];
    d->vanished[connection] = false;
    for (uint64_t record = 0; record < drive_records(d); record++) {
        struct turn_record *t = &d->turn[record];
        const uint32_t session = session_of(d, record);
        const uint64_t aside = t->aside;
        uint8_t id[16];
        char name[LOAD_NAME_MAX];
        if (!(t->in_flight || aside) || connection_of(d, session) != connection)
            continue;
        if (aside) {
            forget_aside(d, record);
            send_aside(d, record, aside);
            t->aside_again = true;
            continue;
        }
        drive_id(d, TAG_TURN, record, id);
        drive_name(d, place_of(d, record), name);
        (void)client_many_resume(d->client, id, name, t->n_token);
    }
}

static enum rxt_status take(struct drive *d, const struct client_many_event *e,
                            struct rxt_error *err)
{
    const uint64_t record = TAG_NUMBER(e->tag);
    d->n_event += e->kind != CLIENT_MANY_IDLE;
    if (e->kind == CLIENT_MANY_CONNECTED)
        drive_ask_again(d, e->connection);
    else if (e->kind == CLIENT_MANY_EVENT && TAG_KIND(e->tag) == TAG_TURN)
        return take_event(d, record, e, err);
    else if (e->kind == CLIENT_MANY_EVENT)
        take_aside(d, e);
    else if (e->kind == CLIENT_MANY_FAILED && TAG_KIND(e->tag) == TAG_TURN)
        return take_failure(d, record, e, err);
    else if (e->kind == CLIENT_MANY_FAILED)
        take_aside_failure(d, e, err);
    return RXT_OK;
}

/* ---- the run ------------------------------------------------------------------------------ */

static double cpu_seconds(void)
{
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u) != 0)
        return 0;
    return (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void send_all_due(struct drive *d)
{
    struct arrival a;
    while (schedule_peek(d->schedule, &a) && d->start_us + a.due_us <= clock_us()) {
        send_due(d, &a);
        schedule_pop(d->schedule);
    }
}

/* Until all turns have ended, or nothing comes any more, or somebody stops it. */
static enum rxt_status play(struct drive *d, struct rxt_error *err)
{
    uint64_t tick_us = d->start_us, heard_us = d->start_us;
    while (!*d->stop) {
        struct client_many_event e;
        struct arrival next;
        send_all_due(d);
        const bool more = schedule_peek(d->schedule, &next);
        const uint64_t now = clock_us();
        if (!more && (client_many_inflight(d->client) == 0 || now - heard_us > d->timeout_us))
            break;
        if (now >= tick_us) {
            TRY(d->tick ? d->tick(d->arg, err) : RXT_OK);
            tick_us = now + TICK_US;
        }
        uint64_t until =
            more && d->start_us + next.due_us < tick_us ? d->start_us + next.due_us : tick_us;
        TRY(client_many_next(d->client, until, &e, err));
        if (e.kind != CLIENT_MANY_IDLE || more)
            heard_us = e.at_us;
        TRY(take(d, &e, err));
    }
    return d->tick ? d->tick(d->arg, err) : RXT_OK;
}

/* What has no end now gets none any more. */
static void give_up(struct drive *d)
{
    for (uint64_t record = 0; record < drive_records(d); record++) {
        uint8_t id[16];
        if (d->turn[record].aside)
            forget_aside(d, record);
        if (!d->turn[record].in_flight)
            continue;
        drive_id(d, TAG_TURN, record, id);
        client_many_forget(d->client, id);
        d->turn[record].in_flight = false;
    }
}

uint64_t drive_open_turns(const struct drive *d)
{
    uint64_t n = 0;
    for (size_t i = 0; i < drive_records(d); i++)
        n += d->turn[i].outcome == TURN_SENT;
    return n;
}

enum rxt_status drive_run(struct drive *d, struct rxt_error *err)
{
    const double cpu_s = cpu_seconds();
    (void)prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul); /* ns: to be sent on time */
    d->start_us = clock_us() + TICK_US / 2;
    enum rxt_status st = play(d, err);
    d->end_us = clock_us();
    if (d->end_us < d->start_us) /* stopped before it began */
        d->end_us = d->start_us;
    give_up(d);
    d->cpu_s = cpu_seconds() - cpu_s;
    return st;
}
