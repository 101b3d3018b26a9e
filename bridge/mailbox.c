#define _GNU_SOURCE /* sem_clockwait */
#include "bridge/mailbox_impl.h"

#include <assert.h>
#include <errno.h>
#include <time.h>

static_assert(ATOMIC_POINTER_LOCK_FREE == 2 && ATOMIC_BOOL_LOCK_FREE == 2,
              "a signal handler may touch an atomic only if it takes no lock");

enum rxt_status mailbox_create(struct mailbox *box)
{
    *box = (struct mailbox){.newest = NULL};
    return sem_init(&box->changed, 0, 0) == 0 ? RXT_OK : RXT_EIO;
}

void mailbox_destroy(struct mailbox *box)
{
    sem_destroy(&box->changed);
}

void mailbox_post(struct mailbox *box, struct mail *mail)
{
    struct mail *before = atomic_load_explicit(&box->newest, memory_order_relaxed);
    do {
        mail->next = before;
    } while (!atomic_compare_exchange_weak_explicit(&box->newest, &before, mail,
                                                    memory_order_release, memory_order_relaxed));
    if (!before) /* from here on the mail is the taker's */
        sem_post(&box->changed);
}

void mailbox_wake(struct mailbox *box)
{
    if (!atomic_exchange(&box->woken, true))
        sem_post(&box->changed);
}

static struct timespec deadline_in(uint64_t us)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    uint64_t ns = (uint64_t)t.tv_nsec + us % 1000000u * 1000u;
    t.tv_sec += (time_t)(us / 1000000u + ns / 1000000000u);
    t.tv_nsec = (long)(ns % 1000000000u);
    return t;
}

void mailbox_wait(struct mailbox *box, uint64_t timeout_us)
{
    struct timespec end = {0};
    if (timeout_us != UINT64_MAX)
        end = deadline_in(timeout_us);
    /* Units of mail that was taken without waiting. What is posted from here on leaves its mark
     * below before it leaves its unit, so none that counts is lost. */
    while (sem_trywait(&box->changed) == 0) {
    }
    while (!atomic_load_explicit(&box->newest, memory_order_relaxed) && !atomic_load(&box->woken)) {
        /* The monotonic clock: deadlines must not jump with the wall clock. */
        int failed = timeout_us == UINT64_MAX ? sem_wait(&box->changed)
                                              : sem_clockwait(&box->changed, CLOCK_MONOTONIC, &end);
        if (failed && errno == ETIMEDOUT)
            break;
    }
    atomic_store(&box->woken, false);
}

struct mail *mailbox_take(struct mailbox *box)
{
    struct mail *mail = atomic_exchange_explicit(&box->newest, NULL, memory_order_acquire);
    struct mail *first = NULL;
    while (mail) {
        struct mail *before = mail->next;
        mail->next = first;
        first = mail;
        mail = before;
    }
    return first;
}
