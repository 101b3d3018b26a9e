/* The disk fails under every verb: a clear error, nothing lost, the next try works (design 8). */
#include "tests/fault/vfs.h"
#include "tests/store/verbs.h"

#include "store/sqlite/sqlite_impl.h"

static enum fault_kind kind;
static bool stays;

static void arm(uint64_t nth)
{
    fault_vfs_arm(kind, nth, stays);
}

static void survive(struct fixture *fx, enum fault_kind what, bool for_good, bool cold,
                    enum rxt_status want, int n_verb)
{
    const struct breaker b = {arm, fault_vfs_disarm, want, n_verb};
    kind = what;
    stays = for_good;
    verbs_survive(fx, &b, getenv("RXT_FULL") != NULL, cold);
}

static void no_space_left(void **state)
{
    survive(*state, FAULT_WRITE_FULL, true, false, RXT_EFULL, 20);
}

static void writes_fail(void **state)
{
    if (!getenv("RXT_FULL"))
        skip(); /* the torn ones are harder */
    survive(*state, FAULT_WRITE_ERROR, false, false, RXT_EIO, 20);
}

static void writes_are_torn(void **state)
{
    survive(*state, FAULT_WRITE_SHORT, true, false, RXT_EIO, 20);
}

static void syncs_fail(void **state)
{
    survive(*state, FAULT_SYNC_ERROR, false, false, RXT_EIO, 20);
}

static void reads_fail(void **state)
{
    survive(*state, FAULT_READ_ERROR, true, true, RXT_EIO, 20);
}

static void truncates_fail(void **state)
{
    survive(*state, FAULT_TRUNCATE_ERROR, false, false, RXT_EIO, 1);
}

static void opens_fail(void **state)
{
    survive(*state, FAULT_OPEN_ERROR, true, false, RXT_EIO, 1);
}

static enum rxt_status read_session(struct fixture *fx, uint64_t *digest)
{
    struct store_session x;
    *digest = 0;
    memset(&x, 0, sizeof x);
    TRY(store_session_get(fx->s, "acme", "a", &x, &fx->err));
    return verbs_digest_session(fx->s, &x, digest, &fx->err);
}

/* What the disk turns round behind our back is refused, or it was where nothing is. (A session may
 * seem not to be there: names are found through an index, and pages carry no sums.) */
static void nothing_false_is_read(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    uint64_t want, got;
    int n_refused = 0;
    must(fx, store_batch_begin(fx->s, &fx->err));
    for (uint64_t v = 1; v <= 150; v++) /* more than a page */
        turn_add(fx, a.id, v);
    image_add(fx, a.id, 149, 40000);
    image_add(fx, a.id, 150, 40000);
    must(fx, store_batch_commit(fx->s, &fx->err));
    must(fx, read_session(fx, &want));
    fixture_reopen(fx); /* from the file, not from the log */
    const int n_salt = getenv("RXT_FULL") ? 3000 : 40;
    for (int i = 0; i < n_salt; i++)
        for (uint64_t nth = 1; nth <= 16; nth++) {
            (void)sqlite3_db_release_memory(fx->s->db);
            fault_vfs_salt(((uint64_t)i * 16 + nth) * 0x9e3779b97f4a7c15u >> 20);
            fault_vfs_arm(i % 20 ? FAULT_READ_FLIP : FAULT_READ_SHORT, nth, false);
            enum rxt_status st = read_session(fx, &got);
            bool hit = fault_vfs_disarm();
            if (st == RXT_OK && got != want)
                fail_msg("salt %d, read %d: something else was read", i, (int)nth);
            assert_true(st == RXT_OK || (hit && fx->err.text[0]));
            n_refused += st != RXT_OK;
        }
    assert_true(n_refused > n_salt);
    (void)sqlite3_db_release_memory(fx->s->db);
    must(fx, read_session(fx, &got));
    assert_true(got == want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(no_space_left),   store_unit_test(writes_fail),
        store_unit_test(writes_are_torn), store_unit_test(syncs_fail),
        store_unit_test(reads_fail),      store_unit_test(truncates_fail),
        store_unit_test(opens_fail),      store_unit_test(nothing_false_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
