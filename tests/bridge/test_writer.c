/* The writer sweeps what images leave behind, and keeps nobody waiting for it. */
#include "bridge/writer_impl.h"
#include "tests/store/fixture.h"

#include <sys/stat.h>
#include <time.h>

enum { CHUNKS = 3 };

struct step { /* a piece of work, and what it found */
    struct work work;
    struct fixture *fx;
    int n_run, runs;
    int64_t chunks;   /* there are when it has run for the last time */
    uint64_t commits; /* since it has run for the first time */
};

static int64_t chunks_of(struct fixture *fx)
{
    return fixture_number(fx, "SELECT count(*) FROM chunk");
}

/* A large upload that is given up. */
static enum rxt_status leave_chunks(struct work *w, struct store *s, struct rxt_error *err)
{
    static const uint8_t bytes[STORE_CHUNK_BYTES];
    struct step *step = w->owner;
    struct store_upload u;
    TRY(store_image_begin(s, &u, err));
    for (int i = 0; i < CHUNKS; i++)
        TRY(store_image_chunk(s, &u, bytes, sizeof bytes, err));
    step->chunks = chunks_of(step->fx);
    return store_image_abort(s, &u, err);
}

/* The same, and then it is always in the queue until it has run `runs` times. */
static enum rxt_status keep_busy(struct work *w, struct store *s, struct rxt_error *err)
{
    struct step *step = w->owner;
    if (step->n_run == 0)
        TRY(leave_chunks(w, s, err));
    w->again = ++step->n_run < step->runs;
    if (!w->again)
        step->chunks = chunks_of(step->fx);
    return RXT_OK;
}

/* Leaves nothing behind, as turns do. */
static enum rxt_status leave_nothing(struct work *w, struct store *s, struct rxt_error *err)
{
    struct step *step = w->owner;
    (void)err;
    if (step->n_run == 0)
        step->commits = store_stats(s).commits;
    w->again = ++step->n_run < step->runs;
    if (!w->again)
        step->commits = store_stats(s).commits - step->commits;
    return RXT_OK;
}

static void post(struct writer *w, struct step *step, work_run run)
{
    step->work.run = run;
    step->work.owner = step;
    step->work.alone = true;
    writer_post(w, &step->work);
}

static void wait_for(struct mailbox *back, struct step *step)
{
    struct mail *mail;
    while (!(mail = mailbox_take(back)))
        mailbox_wait(back, UINT64_MAX);
    assert_ptr_equal(mail, &step->work.mail);
    assert_null(mail->next);
    assert_ok(step->work.status);
}

static void take_over(struct fixture *fx, struct writer **w, struct mailbox *back)
{
    assert_ok(mailbox_create(back));
    must(fx, writer_create(w, &fx->s, back));
}

static void let_go(struct fixture *fx, struct writer **w, struct mailbox *back)
{
    writer_destroy(w);
    mailbox_destroy(back);
    fixture_reopen(fx);
}

static void it_sweeps_when_nothing_waits(void **state)
{
    struct fixture *fx = *state;
    struct writer *w = NULL;
    struct mailbox back;
    struct step leave = {.fx = fx};
    take_over(fx, &w, &back);
    post(w, &leave, leave_chunks);
    wait_for(&back, &leave);
    assert_int_equal(leave.chunks, CHUNKS);
    while (chunks_of(fx) > 0 || fixture_number(fx, "SELECT count(*) FROM orphan") > 0)
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    let_go(fx, &w, &back);
}

static void it_sweeps_when_something_always_waits(void **state)
{
    struct fixture *fx = *state;
    struct writer *w = NULL;
    struct mailbox back;
    struct step busy = {.fx = fx, .runs = 100};
    take_over(fx, &w, &back);
    post(w, &busy, keep_busy);
    wait_for(&back, &busy);
    assert_int_equal(busy.n_run, 100);
    assert_int_equal(busy.chunks, 0);
    let_go(fx, &w, &back);
}

/* No transaction, not even an empty one, where there is nothing to sweep. */
static void it_looks_for_nothing_where_nothing_was_left(void **state)
{
    struct fixture *fx = *state;
    struct writer *w = NULL;
    struct mailbox back;
    struct step quiet = {.fx = fx, .runs = 100}, leave = {.fx = fx, .runs = 100};
    take_over(fx, &w, &back);
    post(w, &quiet, leave_nothing);
    wait_for(&back, &quiet);
    assert_int_equal(quiet.commits, 0);
    post(w, &leave, keep_busy);
    wait_for(&back, &leave);
    assert_int_equal(leave.chunks, 0);
    quiet.n_run = 0;
    post(w, &quiet, leave_nothing); /* may still find out that this was all */
    wait_for(&back, &quiet);
    quiet.n_run = 0;
    post(w, &quiet, leave_nothing);
    wait_for(&back, &quiet);
    assert_int_equal(quiet.commits, 0);
    let_go(fx, &w, &back);
}

/* Long work in steps, one of which posts what is new. */
struct crowd {
    struct writer *w;
    struct step step[3], new;
    int n_step, posted, waited; /* steps of all; when the new one was posted; how many it waited */
};

static enum rxt_status be_new(struct work *w, struct store *s, struct rxt_error *err)
{
    struct crowd *c = w->owner;
    (void)s;
    (void)err;
    c->waited = c->n_step - c->posted;
    return RXT_OK;
}

static enum rxt_status one_of_many(struct work *w, struct store *s, struct rxt_error *err)
{
    struct crowd *c = w->owner;
    struct step *step = (struct step *)w;
    (void)s;
    (void)err;
    c->n_step++;
    if (step == &c->step[0] && step->n_run == 10) {
        c->posted = c->n_step;
        c->new.work.run = be_new;
        c->new.work.owner = c;
        writer_post(c->w, &c->new.work);
    }
    w->again = ++step->n_run < 20;
    return RXT_OK;
}

static void many_in_steps_delay_by_one(void **state)
{
    struct fixture *fx = *state;
    struct mailbox back;
    struct crowd c = {0};
    int n = 0;
    take_over(fx, &c.w, &back);
    for (int i = 0; i < 3; i++) {
        c.step[i].work = (struct work){.run = one_of_many, .owner = &c, .alone = true};
        writer_post(c.w, &c.step[i].work);
    }
    while (n < 4) {
        mailbox_wait(&back, UINT64_MAX);
        for (struct mail *mail = mailbox_take(&back); mail; mail = mail->next)
            n++;
    }
    assert_int_equal(c.n_step, 60);
    assert_int_equal(c.waited, 0);
    let_go(fx, &c.w, &back);
}

/* A chunk a step. */
static enum rxt_status write_chunks(struct work *w, struct store *s, struct rxt_error *err)
{
    static const uint8_t bytes[STORE_CHUNK_BYTES];
    static struct store_upload u;
    struct step *step = w->owner;
    if (step->n_run == 0)
        TRY(store_image_begin(s, &u, err));
    w->again = ++step->n_run < step->runs;
    return store_image_chunk(s, &u, bytes, sizeof bytes, err);
}

/* No commit has to move much of it into the file: it never grows to more than a few chunks. */
static void it_moves_the_log_in_pieces(void **state)
{
    struct fixture *fx = *state;
    struct writer *w = NULL;
    struct mailbox back;
    struct step large = {.fx = fx, .runs = 24};
    struct stat log;
    char path[320];
    take_over(fx, &w, &back);
    post(w, &large, write_chunks);
    wait_for(&back, &large);
    (void)snprintf(path, sizeof path, "%s-wal", fx->path);
    assert_int_equal(stat(path, &log), 0);
    assert_true(log.st_size <= 5 * (off_t)STORE_CHUNK_BYTES);
    let_go(fx, &w, &back);
}

/* New work that posts new work, so that there always is some, until the long one has ended. */
enum { NEW_MAX = 1000 };
struct stream {
    struct writer *w;
    struct step large;
    struct work new[NEW_MAX];
    int n_new;
};

static enum rxt_status post_the_next(struct work *w, struct store *s, struct rxt_error *err)
{
    struct stream *c = w->owner;
    (void)s;
    (void)err;
    if (++c->n_new == NEW_MAX || c->large.n_run == c->large.runs)
        return RXT_OK;
    c->new[c->n_new] = (struct work){.run = post_the_next, .owner = c};
    writer_post(c->w, &c->new[c->n_new]);
    return RXT_OK;
}

/* What nobody waits for, the log and the long work, gets on, in turns, however much is new. */
static void what_is_new_keeps_nothing_from_its_end(void **state)
{
    struct fixture *fx = *state;
    static struct stream c;
    struct mailbox back;
    struct stat log;
    char path[320];
    bool ended = false;
    c = (struct stream){.large = {.fx = fx, .runs = 24}};
    take_over(fx, &c.w, &back);
    post(c.w, &c.large, write_chunks);
    c.new[0] = (struct work){.run = post_the_next, .owner = &c};
    writer_post(c.w, &c.new[0]);
    while (!ended) {
        mailbox_wait(&back, UINT64_MAX);
        for (struct mail *mail = mailbox_take(&back); mail; mail = mail->next)
            ended |= mail == &c.large.work.mail;
    }
    assert_ok(c.large.work.status);
    assert_int_equal(c.large.n_run, c.large.runs);
    (void)snprintf(path, sizeof path, "%s-wal", fx->path);
    assert_int_equal(stat(path, &log), 0);
    assert_true(log.st_size <= 5 * (off_t)STORE_CHUNK_BYTES);
    let_go(fx, &c.w, &back);
    assert_in_range(c.n_new, 24, 4 * 24); /* one of them between any two steps, and the log */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(it_sweeps_when_nothing_waits),
        store_unit_test(it_sweeps_when_something_always_waits),
        store_unit_test(it_looks_for_nothing_where_nothing_was_left),
        store_unit_test(many_in_steps_delay_by_one),
        store_unit_test(it_moves_the_log_in_pieces),
        store_unit_test(what_is_new_keeps_nothing_from_its_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
