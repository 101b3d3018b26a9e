/* Mail between threads: in order, none lost, and a signal handler may end a wait. */
#include "bridge/mailbox_impl.h"

#include "tests/lib/test.h"

#include <pthread.h>
#include <signal.h>

enum { SENDERS = 4, LETTERS = 5000 };

struct letter {
    struct mail mail;
    int sender, number;
};

struct sender {
    struct mailbox *box;
    int index;
    struct letter letter[LETTERS];
};

static void *send_all(void *arg)
{
    struct sender *s = arg;
    for (int i = 0; i < LETTERS; i++) {
        s->letter[i] = (struct letter){.sender = s->index, .number = i};
        mailbox_post(s->box, &s->letter[i].mail);
    }
    return NULL;
}

static void each_sender_in_order(void **state)
{
    (void)state;
    static struct sender sender[SENDERS];
    struct mailbox box;
    pthread_t thread[SENDERS];
    int next[SENDERS] = {0}, n = 0;
    assert_ok(mailbox_create(&box));
    for (int i = 0; i < SENDERS; i++) {
        sender[i].box = &box;
        sender[i].index = i;
        assert_int_equal(pthread_create(&thread[i], NULL, send_all, &sender[i]), 0);
    }
    while (n < SENDERS * LETTERS) {
        mailbox_wait(&box, UINT64_MAX);
        for (struct mail *m = mailbox_take(&box); m; m = m->next, n++) {
            const struct letter *l = (const struct letter *)m;
            assert_int_equal(l->number, next[l->sender]++);
        }
    }
    for (int i = 0; i < SENDERS; i++)
        assert_int_equal(pthread_join(thread[i], NULL), 0);
    assert_null(mailbox_take(&box));
    mailbox_destroy(&box);
}

static struct mailbox *signalled;

static void on_signal(int sig)
{
    (void)sig;
    mailbox_wake(signalled);
}

static void *send_signal(void *arg)
{
    (void)pthread_kill(*(pthread_t *)arg, SIGUSR1);
    return NULL;
}

/* The handler runs on the thread that waits, wherever that is: inside the wait, or before it. */
static void a_handler_ends_a_wait(void **state)
{
    (void)state;
    struct mailbox box;
    pthread_t self = pthread_self(), thread;
    const struct sigaction action = {.sa_handler = on_signal};
    struct sigaction before;
    assert_ok(mailbox_create(&box));
    signalled = &box;
    assert_int_equal(sigaction(SIGUSR1, &action, &before), 0);
    for (int i = 0; i < 500; i++) {
        assert_int_equal(pthread_create(&thread, NULL, send_signal, &self), 0);
        mailbox_wait(&box, UINT64_MAX); /* for ever, unless woken */
        assert_int_equal(pthread_join(thread, NULL), 0);
    }
    assert_int_equal(sigaction(SIGUSR1, &before, NULL), 0);
    mailbox_destroy(&box);
}

static void a_wake_before_the_wait_counts_once(void **state)
{
    (void)state;
    struct mailbox box;
    assert_ok(mailbox_create(&box));
    for (int i = 0; i < 3; i++)
        mailbox_wake(&box);
    mailbox_wait(&box, UINT64_MAX);
    mailbox_wait(&box, 0); /* none is left: it ends by its time */
    assert_null(mailbox_take(&box));
    mailbox_destroy(&box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_sender_in_order),
        cmocka_unit_test(a_handler_ends_a_wait),
        cmocka_unit_test(a_wake_before_the_wait_counts_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
