#define _GNU_SOURCE /* memmem */
#include "tests/store/fixture.h"

#include <dirent.h>

static struct store_session session_at(struct fixture *fx, const char *name, uint64_t version)
{
    struct store_session x = session_make(fx, name);
    for (uint64_t v = 1; v <= version; v++)
        turn_add(fx, x.id, v);
    return x;
}

static void rewind_add(struct fixture *fx, int64_t session, uint64_t version, uint64_t parent)
{
    struct store_turn t = {.kind = STORE_REWIND,
                           .state = STORE_LIVE,
                           .version = version,
                           .parent = parent,
                           .read_version = version - 1};
    memset(t.request, (int)(0x80 + version), sizeof t.request);
    must(fx, store_turn_put(fx->s, session, &t, &fx->err));
    must(fx, store_turn_applied(fx->s, session, version, &fx->err));
}

static void a_fork_shares_the_image(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 5), f;
    image_add(fx, a.id, 4, 9000);
    image_add(fx, a.id, 5, 9000);
    must(fx, store_session_fork(fx->s, a.id, 5, "f", &f, &fx->err));
    assert_true(f.base == 5 && f.head == 5 && f.applied == 5 && f.origin_version == 5);
    assert_true(f.seed == a.seed && f.n_slot == a.n_slot && f.id != a.id);
    assert_string_equal(f.origin, "a");
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM chunk"), 2);
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM turn"), 5);
    image_check(fx, f.id, 9, 5, 9000);
    /* each goes its own way */
    for (uint64_t v = 6; v <= 9; v++) {
        turn_add(fx, a.id, v);
        image_add(fx, a.id, v, 9000);
        turn_add(fx, f.id, v);
    }
    image_check(fx, f.id, 9, 5, 9000);
    image_add(fx, f.id, 8, 9000);
    image_add(fx, f.id, 9, 9000);
    must(fx, store_image_prune(fx->s, f.id, 1, &fx->err));
    image_check(fx, f.id, 8, 5, 9000); /* the image of base stays: there is nothing before it */
    image_check(fx, f.id, 9, 9, 9000);
    struct store_session g;
    assert_refused(fx, RXT_ESTALE, "5 to 9", store_session_fork(fx->s, f.id, 4, "g", &g, &fx->err));
    must(fx, store_session_fork(fx->s, f.id, 5, "g", &g, &fx->err)); /* a fork of a fork */
    image_check(fx, g.id, 9, 5, 9000);
    assert_refused(fx, RXT_EEXIST, "session g",
                   store_session_fork(fx->s, f.id, 5, "g", &g, &fx->err));
    assert_status(RXT_ESTALE, store_session_fork(fx->s, a.id, 10, "h", NULL, NULL));
    assert_status(RXT_ENOTFOUND, store_session_fork(fx->s, 99, 1, "h", NULL, NULL));
    assert_status(RXT_EINVAL, store_session_fork(fx->s, a.id, 1, "", NULL, NULL));
}

static void a_fork_between_images_copies_rows(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 8), f;
    struct store_turn t;
    image_add(fx, a.id, 3, 500);
    must(fx, store_session_fork(fx->s, a.id, 6, "f", &f, &fx->err));
    assert_true(f.base == 3 && f.head == 6 && f.applied == 6 && f.origin_version == 6);
    uint64_t v = f.base;
    while (store_turn_next(fx->s, f.id, v, &t, NULL) == RXT_OK) {
        turn_check(&t, ++v);
        assert_true(t.session == f.id);
    }
    assert_int_equal(v, 6);
    image_check(fx, f.id, 6, 3, 500);
    turn_add(fx, f.id, 7);
    /* without any image everything is copied, and version 0 is derived */
    struct store_session b = session_at(fx, "b", 2), g;
    must(fx, store_session_fork(fx->s, b.id, 2, "g", &g, &fx->err));
    assert_true(g.base == 0 && g.applied == 2);
    must(fx, store_session_fork(fx->s, b.id, 0, "h", &g, &fx->err));
    assert_true(g.base == 0 && g.applied == 0);
}

/* A rewind inside of what is copied may go back behind the image. */
static void roots_reach_behind_rewinds(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 4), f;
    image_add(fx, a.id, 2, 500);
    turn_add(fx, a.id, 5);
    image_add(fx, a.id, 5, 500);
    rewind_add(fx, a.id, 6, 3); /* 3 = image 2 + row 3 */
    turn_add(fx, a.id, 7);
    uint64_t root;
    must(fx, store_history_root(fx->s, a.id, 5, &root, &fx->err));
    assert_int_equal(root, 5);
    must(fx, store_history_root(fx->s, a.id, 7, &root, &fx->err));
    assert_int_equal(root, 2);
    must(fx, store_session_fork(fx->s, a.id, 7, "f", &f, &fx->err));
    assert_true(f.base == 2 && f.applied == 7);
    image_check(fx, f.id, 4, 2, 500);
    image_check(fx, f.id, 9, 5, 500);
    rewind_add(fx, a.id, 8, 1); /* nothing below but the initial memory */
    must(fx, store_history_root(fx->s, a.id, 8, &root, &fx->err));
    assert_int_equal(root, 0);
    struct store_turn t = {.kind = STORE_REWIND, .state = STORE_LIVE, .version = 8, .parent = 1};
    assert_refused(fx, RXT_ENOTFOUND, "2 to 7", store_turn_put(fx->s, f.id, &t, &fx->err));
}

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
static int files_with(const struct fixture *fx, const char *what)
{
    int n = 0;
    DIR *d = opendir(fx->dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", fx->dir, e->d_name);
        n += e->d_name[0] != '.' && file_has(path, what, strlen(what));
    }
    closedir(d);
    return n;
}

#define CANARY "tweet-3f9a"

/* Many sessions in turns, so that pages split and rows are moved about next to those of others. */
static void put_canaries(struct fixture *fx, int64_t session, uint64_t version, bool mark)
{
    int32_t ids[64];
    char text[400];
    struct store_turn t = turn_sample(version, ids);
    for (int i = 0; i < 64; i++)
        ids[i] = (int)version + i;
    t.n_ids = 64;
    memset(text, 'q', sizeof text);
    text[100 + (version * 53) % 250] = '\0';
    if (mark) {
        memcpy(ids + 16, CANARY, sizeof CANARY - 1);
        memcpy(text + 20, CANARY, sizeof CANARY - 1);
        memcpy(t.request, CANARY, sizeof CANARY - 1);
    }
    t.query_text = text;
    must(fx, store_turn_put(fx->s, session, &t, &fx->err));
    must(fx, store_turn_applied(fx->s, session, version, &fx->err));
    uint8_t *p = image_bytes(version, 3000);
    struct store_image im = image_sample(version, 3000);
    if (mark)
        memcpy(p + 1000, CANARY, sizeof CANARY - 1);
    must(fx, store_image_put(fx->s, session, &im, p, &fx->err));
    free(p);
}

static void nothing_of_an_erased_session_is_left(void **state)
{
    struct fixture *fx = *state;
    struct store_session x[7], got;
    char name[40];
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof name, i == 3 ? CANARY "-name" : "s%d", i);
        x[i] = session_make(fx, name);
    }
    for (uint64_t v = 1; v <= 150; v++) {
        must(fx, store_batch_begin(fx->s, &fx->err));
        for (int i = 0; i < 7; i++)
            put_canaries(fx, x[i].id, v, i == 3);
        must(fx, store_batch_commit(fx->s, &fx->err));
    }
    must(fx, store_session_set_state(fx->s, x[3].id, STORE_HELD, CANARY, &fx->err));
    assert_true(files_with(fx, CANARY) > 0); /* the search finds it while it is there */
    must(fx, store_session_erase(fx->s, "acme", x[3].name, &fx->err));
    assert_int_equal(files_with(fx, CANARY), 0);
    assert_status(RXT_ENOTFOUND, store_session_get(fx->s, "acme", x[3].name, &got, NULL));
    assert_status(RXT_ENOTFOUND, store_session_erase(fx->s, "acme", x[3].name, NULL));
    for (int i = 0; i < 7; i++)
        if (i != 3)
            image_check(fx, x[i].id, 150, 150, 3000);
    turn_add(fx, x[4].id, 151);
    fixture_reopen(fx);
    assert_int_equal(files_with(fx, CANARY), 0);
    /* the number of the session is not used again */
    assert_true(session_make(fx, "new").id > x[6].id);
}

/* With a reader in the way it is not reported done; afterwards it is. */
static void erase_waits_for_readers(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a"), x;
    store_close(&fx->s);
    const struct store_options quick = {.busy_ms = 20}, look = {.read_only = true};
    struct store *reader;
    must(fx, store_open(&fx->s, fx->path, &quick, &fx->err));
    must(fx, store_lease_take(fx->s, &fx->err));
    put_canaries(fx, a.id, 1, true);
    must(fx, store_open(&reader, fx->path, &look, &fx->err));
    must(fx, store_view_begin(reader, &fx->err));
    assert_refused(fx, RXT_EBUSY, "log", store_session_erase(fx->s, "acme", "a", &fx->err));
    assert_status(RXT_ENOTFOUND, store_session_get(fx->s, "acme", "a", &x, NULL));
    must(fx, store_session_get(reader, "acme", "a", &x, &fx->err)); /* its view stands */
    assert_refused(fx, RXT_EBUSY, "log", store_session_erase(fx->s, "acme", "a", &fx->err));
    store_view_end(reader);
    assert_status(RXT_ENOTFOUND, store_session_erase(fx->s, "acme", "a", NULL));
    assert_int_equal(files_with(fx, CANARY), 0);
    store_close(&reader);
}

static void forks_outlive_their_origin(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_at(fx, "a", 5), f;
    image_add(fx, a.id, 5, 9000);
    must(fx, store_session_fork(fx->s, a.id, 5, "f", &f, &fx->err));
    must(fx, store_session_erase(fx->s, "acme", "a", &fx->err));
    f = session_load(fx, "f");
    assert_true(f.base == 5 && f.origin_version == 5);
    assert_string_equal(f.origin, "");
    image_check(fx, f.id, 5, 5, 9000);
    turn_add(fx, f.id, 6);
    must(fx, store_session_erase(fx->s, "acme", "f", &fx->err));
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM chunk"), 0);
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM image"), 0);
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM turn"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(a_fork_shares_the_image),
        store_unit_test(a_fork_between_images_copies_rows),
        store_unit_test(roots_reach_behind_rewinds),
        store_unit_test(nothing_of_an_erased_session_is_left),
        store_unit_test(erase_waits_for_readers),
        store_unit_test(forks_outlive_their_origin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
