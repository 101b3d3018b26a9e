#include "bridge/mailbox_impl.h"

#include <time.h>

enum rxt_status mailbox_create(struct mailbox *box)
{
    pthread_condattr_t attr;
    *box = (struct mailbox){0};
    box->last = &box->first;
    if (pthread_mutex_init(&box->mutex, NULL) != 0)
        return RXT_EIO;
    pthread_condattr_init(&attr);
    /* Deadlines must not jump with the wall clock. */
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int failed = pthread_cond_init(&box->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (failed) {
        pthread_mutex_destroy(&box->mutex);
        return RXT_EIO;
    }
    return RXT_OK;
}

void mailbox_destroy(struct mailbox *box)
{
    pthread_cond_destroy(&box->changed);
    pthread_mutex_destroy(&box->mutex);
}

void mailbox_post(struct mailbox *box, struct mail *mail)
{
    mail->next = NULL;
    pthread_mutex_lock(&box->mutex);
    *box->last = mail;
    box->last = &mail->next;
    pthread_cond_signal(&box->changed);
    pthread_mutex_unlock(&box->mutex);
}

void mailbox_wake(struct mailbox *box)
{
    pthread_mutex_lock(&box->mutex);
    box->woken = true;
    pthread_cond_signal(&box->changed);
    pthread_mutex_unlock(&box->mutex);
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
    pthread_mutex_lock(&box->mutex);
    while (!box->first && !box->woken) {
        if (timeout_us == UINT64_MAX)
            pthread_cond_wait(&box->changed, &box->mutex);
        else if (pthread_cond_timedwait(&box->changed, &box->mutex, &end) != 0)
            break;
    }
    box->woken = false;
    pthread_mutex_unlock(&box->mutex);
}

struct mail *mailbox_take(struct mailbox *box)
{
    pthread_mutex_lock(&box->mutex);
    struct mail *mail = box->first;
    box->first = NULL;
    box->last = &box->first;
    pthread_mutex_unlock(&box->mutex);
    return mail;
}
