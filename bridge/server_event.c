#include "bridge/server_event_impl.h"

#include "kernels/base/clock.h"
#include "kernels/base/mem.h"

#include <stdio.h>
#include <string.h>

static void remember_told(struct teller *t, struct told *told)
{
    told->next = t->told;
    if (t->told)
        t->told->prev = told;
    t->told = told;
    t->n_request++;
}

/* Into the crash ring: it has ended. */
static void note_shape(struct told *told)
{
    told->shape.verb = (uint8_t)told->verb;
    told->shape.wall_us = clock_wall_us();
    told->shape.us = clock_us() - told->arrived_us;
    ring_note(&told->shape);
}

static void forget(struct told *told)
{
    struct teller *t = told->teller;
    if (told->next)
        told->next->prev = told->prev;
    if (told->prev)
        told->prev->next = told->next;
    else
        t->told = told->next;
    t->n_request--;
    t->n_undecided -= told->undecided;
    mem_free(told);
}

/* ---- notes ------------------------------------------------------------------------------- */

static struct batch *batch_with_room(struct teller *t, size_t need)
{
    struct batch *b = t->batch;
    if (b && b->room - b->used >= need)
        return b;
    teller_flush(t);
    if (t->spare && t->spare->room >= need) {
        t->batch = t->spare;
        t->spare = NULL;
        t->batch->used = 0;
        return t->batch;
    }
    size_t room = need > BATCH_BYTES ? need : BATCH_BYTES;
    b = mem_alloc(sizeof *b + room);
    if (!b)
        return NULL;
    b->order.kind = ORDER_BATCH;
    b->room = room;
    t->batch = b;
    return b;
}

struct note *teller_note(struct teller *t, struct stream *s, enum note_kind kind, const void *bytes,
                         size_t n)
{
    size_t size = (sizeof(struct note) + n + 15) / 16 * 16;
    struct batch *b = batch_with_room(t, size);
    if (!b) {
        t->lost = true;
        return NULL;
    }
    struct note *note = (struct note *)(void *)(b->bytes + b->used);
    *note = (struct note){.size = (uint32_t)size, .bytes = (uint32_t)n, .stream = s, .kind = kind};
    if (n)
        memcpy(note + 1, bytes, n);
    b->used += size;
    return note;
}

void teller_flush(struct teller *t)
{
    if (!t->batch)
        return;
    mailbox_post(t->out, &t->batch->order.mail);
    t->batch = NULL;
}

void teller_take_back(struct teller *t, struct batch *b)
{
    if (t->spare || b->room != BATCH_BYTES)
        mem_free(b);
    else
        t->spare = b;
}

void teller_free(struct teller *t)
{
    while (t->told)
        forget(t->told);
    for (struct order *o; (o = t->unanswered) != NULL;) {
        t->unanswered = (struct order *)o->mail.next;
        mem_free(o);
    }
    mem_free(t->batch);
    mem_free(t->spare);
    t->batch = t->spare = NULL;
}

/* ---- what becomes of it ------------------------------------------------------------------ */

static void count_done(const struct told *told, const struct bridge_event *e)
{
    struct metrics *m = told->teller->metrics;
    const struct bridge_usage *u = &e->usage;
    if (told->verb != BRIDGE_TURN)
        return;
    if (e->stored) {
        metrics_add(m, METRICS_STORED, 1);
        return;
    }
    metrics_add(m, told->dry_run ? METRICS_DRY_RUNS : METRICS_TURNS, 1);
    metrics_add(m, METRICS_TOKENS_IN, (uint64_t)u->n_query);
    metrics_add(m, METRICS_TOKENS_OUT, (uint64_t)u->n_answer);
    metrics_time(m, METRICS_QUEUE, u->queue_us);
    metrics_time(m, METRICS_FIRST_TOKEN, u->first_token_us);
    metrics_time(m, METRICS_TURN, u->answer_us);
    if (u->n_answer > 1)
        metrics_time(m, METRICS_TOKEN,
                     (u->answer_us - u->first_token_us) / (uint64_t)(u->n_answer - 1));
    if (!told->dry_run)
        metrics_time(m, METRICS_JOURNAL, u->journal_us);
}

static void note_undecided(struct told *told, bool is)
{
    told->teller->n_undecided += (uint32_t)is - (uint32_t)told->undecided;
    told->undecided = is;
}

static void count(struct told *told, const struct bridge_event *e)
{
    struct metrics *m = told->teller->metrics;
    if (e->kind == BRIDGE_DONE) {
        told->shape.n_query = (uint32_t)e->usage.n_query;
        told->shape.n_answer = (uint32_t)e->usage.n_answer;
    }
    if (e->status != RXT_OK)
        told->shape.code = (uint16_t)wire_error_of(e->status);
    if (e->kind == BRIDGE_DONE)
        count_done(told, e);
    if (e->kind == BRIDGE_UNDECIDED || e->kind == BRIDGE_DONE)
        note_undecided(told, e->kind == BRIDGE_UNDECIDED);
    if (e->kind == BRIDGE_CANCELLED)
        metrics_add(m, METRICS_CANCELLED, 1);
    if (e->kind == BRIDGE_MEMORY) {
        metrics_add(m, METRICS_COMMITS, 1);
        metrics_time(m, METRICS_MEMORY_LAG, e->usage.lag_us);
    }
    if (e->kind == BRIDGE_MEMORY_FAILED && e->status == RXT_ENONFINITE)
        metrics_add(m, METRICS_NOT_FINITE, 1);
}

/* A stream that has lost a note must not go on as if nothing were missing: it ends with an ERROR,
 * and the request again gets the stored answer. */
static void end_dark(struct told *told)
{
    struct teller *t = told->teller;
    t->lost = false;
    tell_error(told, RXT_ENOMEM, "no memory to tell the answer: send the request again", 1000000,
               NULL);
    t->n_owed += (uint32_t)t->lost - (uint32_t)told->owed;
    told->owed = t->lost;
    if (!told->owed)
        forget(told);
}

static bool tell_no_memory(struct teller *t, const struct order *o)
{
    const struct told refused = {.teller = t, .stream = o->stream, .verb = o->r.verb};
    t->lost = false;
    tell_error(&refused, RXT_ENOMEM, NULL, 1000000, NULL);
    return !t->lost;
}

static void settle_orders(struct teller *t)
{
    while (t->unanswered && tell_no_memory(t, t->unanswered)) {
        struct order *o = t->unanswered;
        t->unanswered = (struct order *)o->mail.next;
        t->n_owed--;
        mem_free(o);
    }
}

void teller_settle(struct teller *t)
{
    settle_orders(t);
    for (struct told *told = t->told, *next; told && t->n_owed > 0; told = next) {
        next = told->next;
        if (told->owed)
            end_dark(told);
    }
}

static void on_event(void *user, const struct bridge_event *e)
{
    struct told *told = user;
    struct teller *t = told->teller;
    count(told, e);
    t->lost = false;
    if (!told->dark)
        tell_event(told, e);
    told->dark |= t->lost;
    if (!e->final)
        return;
    note_shape(told);
    if (told->dark)
        end_dark(told);
    else
        forget(told);
}

bool teller_submit(struct teller *t, struct order *o)
{
    struct rxt_error err = {""};
    uint64_t ticket = 0;
    struct told *told = mem_alloc(sizeof *told);
    const struct told refused = {.teller = t, .stream = o->stream, .verb = o->r.verb};
    if (!told) {
        if (tell_no_memory(t, o))
            return false;
        o->mail.next = (struct mail *)t->unanswered;
        t->unanswered = o;
        t->n_owed++;
        return true;
    }
    *told = refused;
    told->dry_run = o->r.dry_run;
    told->n_candidate = o->r.verb == BRIDGE_CHOOSE ? BRIDGE_CANDIDATES : o->r.n_candidate;
    told->arrived_us = clock_us();
    char path[SPOOL_PATH_MAX];
    if (o->spool) {
        spool_path(path, t->spool_folder, o->spool);
        o->r.path = path;
    }
    remember_told(t, told);
    enum rxt_status st = bridge_submit(t->bridge, &o->r, on_event, told, &ticket, &err);
    if (st != RXT_OK) {
        t->lost = false;
        tell_error(told, st, err.text, st == RXT_EBUSY ? bridge_retry_after_us(t->bridge) : 0,
                   tell_key(&o->r, st));
        told->shape.code = (uint16_t)wire_error_of(st);
        note_shape(told);
        if (t->lost)
            end_dark(told); /* without memory: the same request again gets the refusal */
        else
            forget(told);
        return false;
    }
    struct note *note = teller_note(t, o->stream, NOTE_TICKET, NULL, 0);
    if (note)
        note->ticket = ticket;
    return false;
}
