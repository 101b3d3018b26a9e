/* The power goes: what has not been synced is not there. Every verb that returned must be. */
#include "tests/store/verbs.h"

#include <dirent.h>

static void copy_file(const char *from, const char *to)
{
    char block[4096];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    assert_true(in && out);
    for (size_t n; (n = fread(block, 1, sizeof block, in)) > 0;)
        assert_int_equal(fwrite(block, 1, n, out), n);
    fclose(in);
    fclose(out);
}

static void copy_dir(const char *from, const char *to)
{
    DIR *d = opendir(from);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char a[600], b[600];
        if (e->d_name[0] == '.')
            continue;
        snprintf(a, sizeof a, "%s/%s", from, e->d_name);
        snprintf(b, sizeof b, "%s/%s", to, e->d_name);
        copy_file(a, b);
    }
    closedir(d);
}

/* What a machine finds that comes up again now: opened, checked, and its digest. */
static uint64_t after_power_cut(const char *synced)
{
    struct fixture cut = {.dir = test_dir_make()};
    uint64_t digest;
    copy_dir(synced, cut.dir);
    snprintf(cut.path, sizeof cut.path, "%s/store.db", cut.dir);
    fault_vfs_keep_synced(NULL);
    fixture_open(&cut);
    must(&cut, store_check(cut.s, &cut.err));
    must(&cut, verbs_digest(cut.s, &digest, &cut.err));
    store_close(&cut.s);
    fault_vfs_keep_synced(synced);
    test_dir_remove(cut.dir);
    return digest;
}

static void step(struct fixture *fx, struct store_session *x, uint64_t v)
{
    char name[32];
    turn_add(fx, x->id, v);
    if (v % 3 == 0)
        image_add(fx, x->id, v, 50000 + 100 * v);
    if (v % 17 == 0)
        must(fx, store_checkpoint(fx->s, &fx->err));
    if (v % 20 == 0) {
        snprintf(name, sizeof name, "fork-%d", (int)v);
        must(fx, store_session_fork(fx->s, x->id, v, name, NULL, &fx->err));
    }
    if (v % 40 == 0)
        must(fx, store_session_erase(fx->s, "acme", name, &fx->err));
}

static void all_that_was_said_is_there(void **state)
{
    struct fixture *fx = *state;
    char *synced = test_dir_make();
    fault_vfs_keep_synced(synced);
    fixture_renew(fx);
    struct store_session x = session_make(fx, "a");
    const uint64_t n = getenv("RXT_FULL") ? 600 : 60;
    for (uint64_t v = 1; v <= n; v++) {
        uint64_t live;
        step(fx, &x, v);
        must(fx, verbs_digest(fx->s, &live, &fx->err));
        if (after_power_cut(synced) != live)
            fail_msg("version %d: not all of it is on the disk", (int)v);
    }
    fault_vfs_keep_synced(NULL);
    test_dir_remove(synced);
}

/* A group is synced once; without the option nothing is left to chance. */
static void one_sync_a_group(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    int32_t ids[SAMPLE_IDS];
    turn_add(fx, a.id, 1);
    uint64_t before = fault_vfs_syncs();
    struct store_turn t = turn_sample(2, ids);
    must(fx, store_turn_put(fx->s, a.id, &t, &fx->err));
    assert_int_equal(fault_vfs_syncs() - before, 1);

    before = fault_vfs_syncs();
    must(fx, store_batch_begin(fx->s, &fx->err));
    must(fx, store_turn_applied(fx->s, a.id, 2, &fx->err));
    for (uint64_t v = 3; v <= 20; v++)
        turn_add(fx, a.id, v);
    must(fx, store_batch_commit(fx->s, &fx->err));
    assert_int_equal(fault_vfs_syncs() - before, 1);

    const struct store_options fast = {.sync = STORE_SYNC_NORMAL};
    store_close(&fx->s);
    must(fx, store_open(&fx->s, fx->path, &fast, &fx->err));
    must(fx, store_lease_take(fx->s, &fx->err));
    turn_add(fx, a.id, 21); /* the first after a checkpoint begins a new log */
    before = fault_vfs_syncs();
    turn_add(fx, a.id, 22);
    assert_int_equal(fault_vfs_syncs() - before, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(all_that_was_said_is_there),
        store_unit_test(one_sync_a_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
