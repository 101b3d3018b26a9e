/* kill -9 at any point: what was reported is there, once, and the next process goes on from it. */
#include "tests/store/fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LARGE (STORE_CHUNK_BYTES + 4321)

/* What the child has done for good; written to the pipe as soon as its verb has returned. */
struct report {
    char what; /* 'j' journaled, 'a' applied, 'i' image, 'f' forked, 'e' erased, 'r' running */
    uint64_t version;
};

static void say(int fd, char what, uint64_t version)
{
    struct report r = {0};
    r.what = what;
    r.version = version;
    if (write(fd, &r, sizeof r) != sizeof r)
        _exit(1);
}

#define OR_DIE(call)          \
    do {                      \
        if ((call) != RXT_OK) \
            _exit(2);         \
    } while (0)

static void put_image(struct store *s, int64_t session, uint64_t version, size_t bytes)
{
    struct store_image im = image_sample(version, bytes);
    uint8_t *p = image_bytes(version, bytes);
    if (bytes <= STORE_CHUNK_BYTES) {
        OR_DIE(store_image_put(s, session, &im, p, NULL));
    } else {
        struct store_upload u;
        OR_DIE(store_image_begin(s, &u, NULL));
        OR_DIE(store_image_chunk(s, &u, p, STORE_CHUNK_BYTES, NULL));
        OR_DIE(store_image_chunk(s, &u, p + STORE_CHUNK_BYTES, bytes - STORE_CHUNK_BYTES, NULL));
        OR_DIE(store_image_commit(s, &u, session, &im, NULL));
    }
    free(p);
}

/* A server in small: a turn is journaled, applied with its image, now and then there is more. */
static void child(const char *path, int fd)
{
    struct store *s;
    struct store_session x, fork;
    int32_t ids[SAMPLE_IDS];
    OR_DIE(store_open(&s, path, NULL, NULL));
    OR_DIE(store_lease_take(s, NULL));
    OR_DIE(store_session_get(s, "acme", "a", &x, NULL));
    say(fd, 'r', x.head);
    for (uint64_t v = x.applied + 1; v <= x.head; v++)
        OR_DIE(store_turn_applied(s, x.id, v, NULL));
    for (uint64_t v = x.head + 1;; v++) {
        struct store_turn t = turn_sample(v, ids);
        OR_DIE(store_turn_put(s, x.id, &t, NULL));
        say(fd, 'j', v);
        OR_DIE(store_batch_begin(s, NULL));
        OR_DIE(store_turn_applied(s, x.id, v, NULL));
        if (v % 2)
            put_image(s, x.id, v, 30000);
        OR_DIE(store_batch_commit(s, NULL));
        say(fd, v % 2 ? 'i' : 'a', v);
        if (v % 10 == 0) {
            put_image(s, x.id, v, LARGE);
            say(fd, 'i', v);
        }
        if (v % 7 == 0) {
            enum rxt_status st = store_session_fork(s, x.id, v, "f", &fork, NULL);
            if (st != RXT_OK && st != RXT_EEXIST)
                _exit(2);
            say(fd, 'f', v);
        }
        if (v % 21 == 0) {
            enum rxt_status st = store_session_erase(s, "acme", "f", NULL);
            if (st != RXT_OK && st != RXT_ENOTFOUND)
                _exit(2);
            say(fd, 'e', v);
        }
    }
}

struct said {
    uint64_t journaled, applied, image;
    bool running;
    char last;
};

/* At most so many reports; fewer are all that there will be. */
static void listen_to(int fd, struct said *said, uint64_t most)
{
    struct report r;
    for (uint64_t i = 0; i < most && read(fd, &r, sizeof r) == sizeof r; i++) {
        said->last = r.what;
        if (r.what == 'r')
            said->running = true;
        if (r.what == 'j')
            said->journaled = r.version;
        if (r.what == 'a' || r.what == 'i')
            said->applied = r.version;
        if (r.what == 'i')
            said->image = r.version;
    }
}

static void check_after(struct fixture *fx, const struct said *said)
{
    struct store_session x, f;
    struct store_turn t;
    fixture_open(fx); /* the lease is free */
    must(fx, store_check(fx->s, &fx->err));
    x = session_load(fx, "a");
    /* at most the one verb under way when the child died is more than it said */
    assert_true(x.head >= said->journaled && x.head <= said->journaled + 1);
    assert_true(x.applied >= said->applied && x.applied <= x.head && x.applied + 1 >= x.head);
    for (uint64_t v = x.head > 300 ? x.head - 300 : 0; v < x.head; v++) {
        must(fx, store_turn_next(fx->s, x.id, v, &t, &fx->err));
        turn_check(&t, v + 1);
    }
    if (said->image) {
        struct store_image im;
        must(fx, store_image_find(fx->s, x.id, x.head, &im, &fx->err));
        assert_true(im.version >= said->image && im.version <= x.applied);
        image_check(fx, x.id, im.version, im.version, (size_t)im.bytes);
    }
    if (store_session_get(fx->s, "acme", "f", &f, NULL) == RXT_OK) {
        assert_true(said->last != 'e');
        image_check(fx, f.id, f.base, f.base, f.base % 10 ? 30000 : (size_t)LARGE);
    }
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM orphan"), 0);
    store_close(&fx->s);
}

/* After some reports, so that there are turns however slow the machine is, and a while, so that any
 * verb may be under way; now and then without them, while the store is opened. */
static void killed_at_any_point(void **state)
{
    struct fixture *fx = *state;
    const int rounds = getenv("RXT_FULL") ? 400 : 12;
    struct said said = {0};
    uint64_t random = 88172645463325252u;
    session_make(fx, "a");
    store_close(&fx->s);
    for (int i = 0; i < rounds; i++) {
        int says[2];
        said.running = false;
        assert_int_equal(pipe(says), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            close(says[0]);
            child(fx->path, says[1]);
        }
        close(says[1]);
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        listen_to(says[0], &said, i % 4 ? random % 32 : 0);
        nanosleep(&(struct timespec){.tv_nsec = (long)(random / 32 % 10000000)}, NULL);
        kill(pid, SIGKILL);
        int how;
        assert_int_equal(waitpid(pid, &how, 0), pid);
        assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL); /* not by its own fault */
        listen_to(says[0], &said, UINT64_MAX);
        close(says[0]);
        check_after(fx, &said);
    }
    print_message("%d kills, %d turns\n", rounds, (int)said.journaled);
    assert_true(said.journaled > (uint64_t)rounds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(killed_at_any_point),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
