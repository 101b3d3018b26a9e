#include "bridge/writer_impl.h"

#include "kernels/base/mem.h"

#include <pthread.h>

struct writer {
    struct store *store;
    struct mailbox inbox;
    struct mailbox *back;
    struct work *first, **last; /* taken in, not run; in order */
    bool stopping;
    int n_busy; /* pieces of work or groups since it last swept, at most SWEEP_EVERY */
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

static void append(struct writer *w, struct work *work)
{
    work->mail.next = NULL;
    *w->last = work;
    w->last = (struct work **)&work->mail.next;
}

static struct work *take_first(struct writer *w)
{
    struct work *work = w->first;
    w->first = next_of(work);
    if (!w->first)
        w->last = &w->first;
    return work;
}

static void finish(struct writer *w, struct work *work)
{
    if (work->again) {
        work->again = false;
        append(w, work);
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
            append(w, work);
    }
}

/* One chunk. False: the store cannot now, somebody else has it or the disk is full. */
static bool sweep(struct writer *w)
{
    bool more;
    w->n_busy = 0;
    return store_sweep(w->store, &more, NULL) == RXT_OK;
}

static void ran(struct writer *w)
{
    if (w->n_busy < SWEEP_EVERY)
        w->n_busy++;
    if (w->n_busy == SWEEP_EVERY && store_sweep_due(w->store))
        (void)sweep(w);
}

static void *run(void *arg)
{
    struct writer *w = arg;
    while (w->first || !w->stopping) {
        if (!w->first && !store_sweep_due(w->store))
            mailbox_wait(&w->inbox, UINT64_MAX);
        take_in(w, mailbox_take(&w->inbox));
        if (!w->first) {
            if (store_sweep_due(w->store) && !w->stopping && !sweep(w))
                mailbox_wait(&w->inbox, SWEEP_RETRY_US);
            continue;
        }
        struct work *group[GROUP_MAX];
        int n = 0;
        while (w->first && !w->first->alone && n < GROUP_MAX)
            group[n++] = take_first(w);
        if (n > 0)
            run_group(w, group, n);
        else
            run_alone(w, take_first(w));
        ran(w);
    }
    return NULL;
}

enum rxt_status writer_create(struct writer **out, struct store **store, struct mailbox *back)
{
    struct writer *w = mem_alloc(sizeof *w);
    if (!w)
        return RXT_ENOMEM;
    w->back = back;
    w->last = &w->first;
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
