/* A mailbox: the way threads of the bridge talk. Any thread posts, one thread takes. The mail is
 * embedded in what it carries (a job, a write), so posting allocates nothing and cannot fail. */
#ifndef RXT_BRIDGE_MAILBOX_IMPL_H
#define RXT_BRIDGE_MAILBOX_IMPL_H

#include "kernels/base/status.h"

#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum mail_kind { MAIL_JOB, MAIL_WORK }; /* what it is embedded in, as its first member */
struct mail {
    struct mail *next;
    enum mail_kind kind;
};

struct mailbox {
    _Atomic(struct mail *) newest; /* posted and not taken, linked backwards in time */
    atomic_bool woken;             /* mailbox_wake was called since the last wait */
    sem_t changed;                 /* one unit for the first mail in an empty box, one for a wake */
};

enum rxt_status mailbox_create(struct mailbox *box); /* EIO */
void mailbox_destroy(struct mailbox *box);

void mailbox_post(struct mailbox *box, struct mail *mail);
/* Ends a wait without mail. Async-signal-safe: an atomic word and sem_post. */
void mailbox_wake(struct mailbox *box);
/* Waits until there is mail, mailbox_wake or timeout_us (UINT64_MAX = for ever). The taking thread
 * only. */
void mailbox_wait(struct mailbox *box, uint64_t timeout_us);
/* Everything posted so far in order of posting, linked by next; NULL if there is none. */
struct mail *mailbox_take(struct mailbox *box);

#endif
