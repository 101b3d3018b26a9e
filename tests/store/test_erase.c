#define _GNU_SOURCE /* memmem */
#include "tests/store/fixture.h"

#include <dirent.h>

#define CANARY "tweet-3f9a" /* what the marked session is full of, and nothing else */
#define N_SESSION 8
#define IDS_MAX 600

static bool file_has(const char *path, const void *what, size_t n)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return false;
    fseek(f, 0, SEEK_END);
    size_t size = (size_t)ftell(f);
    rewind(f);
    char *all = malloc(size + 1);
    assert_int_equal(fread(all, 1, size, f), size);
    fclose(f);
    bool found = memmem(all, size, what, n) != NULL;
    free(all);
    return found;
}

/* In the store, its log, its index, anything beside it. */
static int files_with_canary(const struct fixture *fx)
{
    int n = 0;
    DIR *d = opendir(fx->dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", fx->dir, e->d_name);
        n += e->d_name[0] != '.' && file_has(path, CANARY, strlen(CANARY));
    }
    closedir(d);
    return n;
}

static uint64_t random_state;
static uint64_t random_below(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

struct writer {
    struct store_session session;
    uint64_t version, n_request;
    bool marked;
};

static struct store_turn row(struct writer *w, int32_t *ids, uint32_t n_ids)
{
    struct store_turn t = turn_sample(w->version + 1, ids);
    for (uint32_t i = 0; i < n_ids; i++)
        ids[i] = (int32_t)(i + w->version);
    t.n_ids = n_ids;
    uint64_t number = ++w->n_request * 0x9e3779b97f4a7c15u; /* request ids are random */
    memcpy(t.request, &number, sizeof number);
    t.query_text = "a question";
    if (w->marked) {
        memcpy(ids + 2, CANARY, strlen(CANARY));
        memcpy(ids + n_ids - 4, CANARY, strlen(CANARY));
        memcpy(t.request + 4, CANARY, strlen(CANARY));
        t.query_text = "and " CANARY " was said";
    }
    return t;
}

static void say(struct fixture *fx, struct writer *w)
{
    int32_t ids[IDS_MAX];
    static uint8_t image[60000];
    struct store_turn t = row(w, ids, 16 + (uint32_t)random_below(IDS_MAX - 16));
    if (random_below(6) == 0) { /* candidates */
        t.state = STORE_UNDECIDED;
        t.version = t.read_version = 0;
        for (t.candidate = 0; t.candidate < 3; t.candidate++)
            must(fx, store_turn_put(fx->s, w->session.id, &t, &fx->err));
        must(fx, store_turn_choose(fx->s, w->session.id, t.request, 1, w->version + 1, &fx->err));
    } else {
        must(fx, store_turn_put(fx->s, w->session.id, &t, &fx->err));
    }
    if (random_below(10) == 0) {
        must(fx, store_turn_void(fx->s, w->session.id, NULL, &fx->err));
        return;
    }
    must(fx, store_turn_applied(fx->s, w->session.id, ++w->version, &fx->err));
    if (random_below(3) == 0) {
        struct store_image im = image_sample(w->version, 100 + random_below(50000));
        memset(image, 0x11, sizeof image);
        if (w->marked)
            memcpy(image + 50, CANARY, sizeof CANARY - 1); /* bytes, no text */
        must(fx, store_image_put(fx->s, w->session.id, &im, image, &fx->err));
    }
}

/* Sessions that speak in turns of chance, so that pages split and rows are moved about next to
 * those of others; then the marked one goes. */
static void speak(struct fixture *fx, struct writer w[N_SESSION], int marked, int n)
{
    for (int i = 0; i < N_SESSION; i++) {
        char name[40];
        snprintf(name, sizeof name, i == marked ? CANARY "-name" : "s%d", i);
        w[i] = (struct writer){.session = session_make(fx, name), .marked = i == marked};
    }
    while (n > 0) {
        must(fx, store_batch_begin(fx->s, &fx->err));
        for (int i = 0; i < 40 && n > 0; i++, n--)
            say(fx, &w[random_below(N_SESSION)]);
        must(fx, store_batch_commit(fx->s, &fx->err));
    }
    must(fx, store_session_set_state(fx->s, w[marked].session.id, STORE_HELD, CANARY, &fx->err));
}

static void nothing_is_left(void **state)
{
    struct fixture *fx = *state;
    struct writer w[N_SESSION];
    const int rounds = getenv("RXT_FULL") ? 200 : 6;
    for (int i = 0; i < rounds; i++) {
        struct store_session x;
        random_state = 88172645463325252u + (uint64_t)i;
        int marked = i % N_SESSION;
        fixture_renew(fx);
        speak(fx, w, marked, 500);
        const char *name = w[marked].session.name;
        assert_true(files_with_canary(fx) > 0); /* the search finds it while it is there */
        must(fx, store_session_erase(fx->s, "acme", name, &fx->err));
        if (files_with_canary(fx))
            fail_msg("round %d: bytes of the erased session are left", i);
        assert_status(RXT_ENOTFOUND, store_session_get(fx->s, "acme", name, &x, NULL));
        assert_status(RXT_ENOTFOUND, store_session_erase(fx->s, "acme", name, NULL));
        /* the others go on */
        for (int j = 0; j < N_SESSION; j++)
            if (j != marked)
                for (int k = 0; k < 5; k++)
                    say(fx, &w[j]);
        must(fx, store_checkpoint(fx->s, &fx->err));
        assert_int_equal(files_with_canary(fx), 0); /* no cached page brings it back */
        must(fx, store_check(fx->s, &fx->err));
    }
    /* the number of a session is not used again */
    assert_true(session_make(fx, "new").id > w[N_SESSION - 1].session.id);
}

static struct store_session one_marked(struct fixture *fx)
{
    struct writer w = {.session = session_make(fx, "a"), .marked = true};
    random_state = 7;
    for (int i = 0; i < 5; i++)
        say(fx, &w);
    return session_load(fx, "a");
}

/* With a reader in the way it is not reported done; afterwards it is. */
static void it_waits_for_readers(void **state)
{
    struct fixture *fx = *state;
    const struct store_options quick = {.busy_ms = 20}, look = {.read_only = true};
    struct store_session x;
    struct store *reader;
    one_marked(fx);
    store_close(&fx->s);
    must(fx, store_open(&fx->s, fx->path, &quick, &fx->err));
    must(fx, store_lease_take(fx->s, &fx->err));
    session_make(fx, "b");
    must(fx, store_open(&reader, fx->path, &look, &fx->err));
    must(fx, store_view_begin(reader, &fx->err));
    assert_refused(fx, RXT_EBUSY, "log", store_session_erase(fx->s, "acme", "a", &fx->err));
    assert_status(RXT_ENOTFOUND, store_session_get(fx->s, "acme", "a", &x, NULL));
    must(fx, store_session_get(reader, "acme", "a", &x, &fx->err)); /* its view stands */
    assert_refused(fx, RXT_EBUSY, "log", store_session_erase(fx->s, "acme", "a", &fx->err));
    session_make(fx, "c"); /* others are not held up */
    store_view_end(reader);
    assert_status(RXT_ENOTFOUND, store_session_erase(fx->s, "acme", "a", NULL));
    assert_int_equal(files_with_canary(fx), 0);
    store_close(&reader);
}

/* What a crash leaves undone, the next owner of the lease does. */
static void the_next_owner_finishes_it(void **state)
{
    struct fixture *fx = *state;
    struct store_session x;
    one_marked(fx);
    fault_vfs_arm(FAULT_SYNC_ERROR, 2, true); /* the rows are deleted; the log cannot be emptied */
    assert_status(RXT_EIO, store_session_erase(fx->s, "acme", "a", &fx->err));
    fault_vfs_disarm();
    assert_status(RXT_ENOTFOUND, store_session_get(fx->s, "acme", "a", &x, NULL));
    assert_true(files_with_canary(fx) > 0);
    must(fx, store_lease_release(fx->s, &fx->err));
    must(fx, store_lease_take(fx->s, &fx->err));
    assert_int_equal(files_with_canary(fx), 0);
    assert_int_equal(fixture_number(fx, "SELECT value FROM meta WHERE key = 'erasing'"), 0);
}

/* A large image with the mark in each of its chunks. */
static void image_marked(struct fixture *fx, const struct store_session *a, int n_chunk)
{
    static uint8_t chunk[STORE_CHUNK_BYTES];
    struct store_image im = image_sample(a->applied + 1, (size_t)n_chunk * sizeof chunk);
    struct store_upload u;
    memcpy(chunk + 5000, CANARY, sizeof CANARY - 1);
    turn_add(fx, a->id, a->applied + 1);
    must(fx, store_image_begin(fx->s, &u, &fx->err));
    for (int i = 0; i < n_chunk; i++)
        must(fx, store_image_chunk(fx->s, &u, chunk, sizeof chunk, &fx->err));
    must(fx, store_image_commit(fx->s, &u, a->id, &im, &fx->err));
}

/* Others write between the steps; a crash between them leaves the rest to the next owner. */
static void in_steps(void **state)
{
    struct fixture *fx = *state;
    for (int crash = 0; crash < 2; crash++) {
        struct store_session x, a;
        int n_sweep = 0;
        fixture_renew(fx);
        a = one_marked(fx);
        image_marked(fx, &a, 3);
        must(fx, store_session_erase_begin(fx->s, "acme", "a", &fx->err));
        assert_status(RXT_ENOTFOUND, store_session_get(fx->s, "acme", "a", &x, NULL));
        assert_status(RXT_ENOTFOUND, store_session_erase_begin(fx->s, "acme", "a", NULL));
        assert_true(files_with_canary(fx) > 0);
        if (crash) {
            must(fx, store_lease_release(fx->s, &fx->err));
            must(fx, store_lease_take(fx->s, &fx->err));
        } else {
            for (bool more = true; more; n_sweep++) {
                must(fx, store_sweep(fx->s, &more, &fx->err));
                turn_add(fx, session_make(fx, n_sweep ? "c" : "b").id, 1);
                if (n_sweep)
                    must(fx, store_session_erase_begin(fx->s, "acme", "c", &fx->err));
            }
            assert_in_range(n_sweep, 4, 5); /* three chunks, and what named them */
            assert_status(RXT_ENOTFOUND, store_session_erase(fx->s, "acme", "a", NULL));
        }
        assert_int_equal(files_with_canary(fx), 0);
        assert_int_equal(fixture_number(fx, "SELECT count(*) FROM chunk"), 0);
        must(fx, store_check(fx->s, &fx->err));
    }
}

static void a_damaged_tree_is_not_written(void **state)
{
    struct fixture *fx = *state;
    one_marked(fx);
    fixture_reopen(fx);
    int64_t root = fixture_number(fx, "SELECT rootpage FROM sqlite_schema WHERE name = 'chunk'");
    store_close(&fx->s);
    FILE *f = fopen(fx->path, "r+b");
    assert_non_null(f);
    for (int i = 0; i < 2; i++) { /* cells that begin before their pointers end, no type */
        uint8_t bad[8] = {i ? 99 : 13, 0, 0, 0xff, 0xff, 0, 9, 0};
        fseek(f, (long)(root - 1) * 32768, SEEK_SET);
        fwrite(bad, 1, sizeof bad, f);
        fflush(f);
        enum rxt_status st = store_open(&fx->s, fx->path, NULL, &fx->err);
        if (st == RXT_OK)
            st = store_lease_take(fx->s, &fx->err);
        if (st == RXT_OK)
            st = store_session_erase(fx->s, "acme", "a", &fx->err);
        assert_status(RXT_ECORRUPT, st);
        store_close(&fx->s);
    }
    fclose(f);
}

static void shared_bytes_stay_with_the_fork(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a"), f;
    turn_add(fx, a.id, 1);
    image_add(fx, a.id, 1, 9000);
    must(fx, store_session_fork(fx->s, a.id, 1, "f", &f, &fx->err));
    must(fx, store_session_erase(fx->s, "acme", "a", &fx->err));
    image_check(fx, f.id, 1, 1, 9000);
    turn_add(fx, f.id, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(nothing_is_left),
        store_unit_test(it_waits_for_readers),
        store_unit_test(the_next_owner_finishes_it),
        store_unit_test(in_steps),
        store_unit_test(a_damaged_tree_is_not_written),
        store_unit_test(shared_bytes_stay_with_the_fork),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
