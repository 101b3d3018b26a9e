#include "bridge/writer_impl.h"

#include "kernels/base/mem.h"
#include "kernels/base/thread.h"

#include <pthread.h>

struct queue {
    struct work *first, **last;
};

struct writer {
    struct store *store;
    struct mailbox inbox;
    struct mailbox *back;
    struct queue in;   /* taken in, not run; in order */
    struct queue more; /* begun, not finished: one step of one of them between what is new */
    bool stopping;
    uint64_t n_busy; /* pieces of work or groups since it last swept */
    bool moved;      /* the log, as the last piece of what nobody waits for */
    pthread_t thread;
};

/* One sync pays for a whole group, but a group must not hold up its first member for long. */
#define GROUP_MAX 64
/* A queue that is never empty must not keep the file growing. */
#define SWEEP_EVERY 16
#define SWEEP_RETRY_US 100000u

static struct work *next_of(struct work *w)
{
    return (struct work *)w->mail.next;
}

static void append(struct queue *q, struct work *work)
{
    work->mail.next = NULL;
    *q->last = work;
    q->last = (struct work **)&work->mail.next;
}

static struct work *take_first(struct queue *q)
{
    struct work *work = q->first;
    q->first = next_of(work);
    if (!q->first)
        q->last = &q->first;
    return work;
}

static void finish(struct writer *w, struct work *work)
{
    if (work->again) {
        work->again = false;
        append(&w->more, work);
        return;
    }
    mailbox_post(w->back, &work->mail);
}

static void run_alone(struct writer *w, struct work *work)
{
    work->error.text[0] = '\0';
    work->status = work->run(work, w->store, &work->error);
    finish(w, work);
}

static void run_group(struct writer *w, struct work **group, int n)
{
    struct rxt_error err = {0};
    enum rxt_status st = store_batch_begin(w->store, &err);
    for (int i = 0; i < n && st == RXT_OK; i++) {
        group[i]->error.text[0] = '\0';
        group[i]->status = group[i]->run(group[i], w->store, &group[i]->error);
    }
    if (st == RXT_OK)
        st = store_batch_commit(w->store, &err);
    for (int i = 0; i < n; i++) {
        /* A batch that failed stored nothing, whatever its members were told. */
        if (st != RXT_OK) {
            group[i]->status = st;
            group[i]->error = err;
        }
        finish(w, group[i]);
    }
}

static void take_in(struct writer *w, struct mail *mail)
{
    while (mail) {
        struct work *work = (struct work *)mail;
        mail = mail->next;
        if (work->stop)
            w->stopping = true;
        else
            append(&w->in, work);
    }
}

/* One chunk. False: the store cannot now, somebody else has it or the disk is full. */
static bool sweep(struct writer *w)
{
    bool more;
    w->n_busy = 0;
    return store_sweep(w->store, &more, NULL) == RXT_OK;
}

/* One piece of what nobody waits for, so that what is new waits for no more than one. The log is
 * due again after every round of large commits, so it takes turns with the rest. */
static void run_more(struct writer *w)
{
    bool sweeps = w->n_busy >= SWEEP_EVERY && store_sweep_due(w->store);
    w->moved = store_log_due(w->store) && !(w->moved && (sweeps || w->more.first));
    if (w->moved) {
        (void)store_log_move(w->store, NULL); /* else a later one does it */
    } else if (sweeps) {
        (void)sweep(w);
    } else if (w->more.first) {
        run_alone(w, take_first(&w->more));
        w->n_busy++;
    }
}

static void run_first(struct writer *w)
{
    struct work *group[GROUP_MAX];
    int n = 0;
    while (w->in.first && !w->in.first->alone && n < GROUP_MAX)
        group[n++] = take_first(&w->in);
    if (n > 0)
        run_group(w, group, n);
    else
        run_alone(w, take_first(&w->in));
    w->n_busy++;
}

static bool has_work(const struct writer *w)
{
    return w->in.first || w->more.first;
}

static void *run(void *arg)
{
    struct writer *w = arg;
    thread_name("rxt-store");
    while (has_work(w) || !w->stopping) {
        if (!has_work(w) && !store_sweep_due(w->store))
            mailbox_wait(&w->inbox, UINT64_MAX);
        take_in(w, mailbox_take(&w->inbox));
        if (!has_work(w)) {
            if (store_sweep_due(w->store) && !w->stopping && !sweep(w))
                mailbox_wait(&w->inbox, SWEEP_RETRY_US);
            if (store_log_due(w->store)) /* a sweep fills it, too */
                (void)store_log_move(w->store, NULL);
            continue;
        }
        while (w->in.first)
            run_first(w);
        run_more(w);
    }
    return NULL;
}

enum rxt_status writer_create(struct writer **out, struct store **store, struct mailbox *back)
{
    struct writer *w = mem_alloc(sizeof *w);
    if (!w)
        return RXT_ENOMEM;
    w->back = back;
    w->in.last = &w->in.first;
    w->more.last = &w->more.first;
    if (mailbox_create(&w->inbox) != RXT_OK) {
        mem_free(w);
        return RXT_EIO;
    }
    w->store = *store;
    if (pthread_create(&w->thread, NULL, run, w) != 0) {
        mailbox_destroy(&w->inbox);
        mem_free(w);
        return RXT_EIO;
    }
    *store = NULL;
    *out = w;
    return RXT_OK;
}

void writer_destroy(struct writer **writer)
{
    struct writer *w = *writer;
    if (!w)
        return;
    struct work stop = {.stop = true};
    mailbox_post(&w->inbox, &stop.mail);
    pthread_join(w->thread, NULL);
    mailbox_destroy(&w->inbox);
    store_close(&w->store);
    mem_free(w);
    *writer = NULL;
}

void writer_post(struct writer *w, struct work *work)
{
    work->mail.kind = MAIL_WORK;
    mailbox_post(&w->inbox, &work->mail);
}
