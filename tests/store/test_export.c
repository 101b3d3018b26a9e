/* A session as sealed bytes, and a session out of them. */
#include "tests/store/export_rig.h"

#include <sys/wait.h>
#include <unistd.h>

static void round_trip(struct fixture *fx, bool history, size_t image_size, uint64_t base)
{
    struct store_session a = rich_session(fx, image_size), b;
    struct bytes e = export_of(fx, "rich", history);
    must(fx, store_import(fx->s, "other", "copy", &(struct store_source){.read = supply, .arg = &e},
                          &b, &fx->err));
    assert_true(e.at == e.n); /* read to its end, not further */
    assert_true(b.base == base && b.head == 8 && b.applied == 7 && b.flags == STORE_HELD);
    assert_true(b.origin_version == 8 && b.seed == a.seed && b.dtype == a.dtype &&
                b.n_layer == a.n_layer && b.n_slot == a.n_slot && b.embed_dim == a.embed_dim &&
                b.init == a.init && b.generator == a.generator && b.created_us == a.created_us);
    assert_string_equal(b.origin, "rich");
    assert_string_equal(b.model_name, a.model_name);
    assert_string_equal(b.held_reason, a.held_reason);
    assert_memory_equal(b.model_hash, a.model_hash, sizeof a.model_hash);
    check_turns(fx, &a, &b);
    image_check(fx, b.id, 8, 7, image_size);
    /* and the copy exports the same again, but for what it is called */
    struct bytes again = {0};
    must(fx, store_export(fx->s, "other", "copy", true, gather, &again, &fx->err));
    if (base || history)
        assert_true(again.n == e.n);
    assert_refused(fx, RXT_EEXIST, "copy",
                   store_import(fx->s, "other", "copy",
                                &(struct store_source){.read = supply, .arg = &e}, &b, &fx->err));
    free(again.p);
    free(e.p);
}

static enum rxt_status not_of_here(void *arg, const struct store_session *x, struct rxt_error *err)
{
    assert_int_equal(((struct bytes *)arg)->at, 16 + 16 + EXPORT_SESSION_BYTES + EXPORT_SUM_BYTES);
    return rxt_fail(err, RXT_EMISMATCH, "session %s is not of here", x->origin);
}

static void whom_nobody_can_use_is_not_taken(void **state)
{
    struct fixture *fx = *state;
    rich_session(fx, 5000);
    struct bytes e = export_of(fx, "rich", true);
    const struct store_source from = {.read = supply, .accept = not_of_here, .arg = &e};
    struct store_session x;
    assert_refused(fx, RXT_EMISMATCH, "rich is not of here",
                   store_import(fx->s, "acme", "copy", &from, &x, &fx->err));
    assert_status(RXT_ENOTFOUND, store_session_get(fx->s, "acme", "copy", &x, NULL));
    free(e.p);
}

/* Rows of others go between the steps, nothing is there before the last one, and what was given up
 * is left to the sweep: to give it up is one commit. */
static void an_import_goes_in_steps(void **state)
{
    struct fixture *fx = *state;
    rich_session(fx, 3 * STORE_CHUNK_BYTES + 5);
    struct store_session other = session_make(fx, "other"), x;
    struct bytes e = export_of(fx, "rich", false);
    const struct store_source from = {.read = supply, .arg = &e};
    int64_t before_all = leftovers(fx);
    for (int whole = 0; whole < 2; whole++) {
        struct store_import *in = NULL;
        uint64_t n = 0;
        bool more = true;
        e.at = 0;
        must(fx, store_import_begin(&in, fx->s, "acme", "copy", &from, &fx->err));
        while (more && (whole || n < 4)) {
            size_t before = e.at;
            assert_status(RXT_ENOTFOUND, store_session_get(fx->s, "acme", "copy", &x, NULL));
            must(fx, store_import_step(in, &more, &fx->err));
            assert_true(e.at - before <= STORE_CHUNK_BYTES + 1000 || !more);
            turn_add(fx, other.id, (uint64_t)whole * 100 + ++n);
        }
        assert_true(n >= 4 && more == !whole);
        for (; !whole && n < 100; n++)
            turn_add(fx, other.id, n + 1);
        uint64_t commits = store_stats(fx->s).commits;
        store_import_end(&in);
        assert_null(in);
        if (!whole) {
            assert_int_equal(store_stats(fx->s).commits, commits + 1);
            assert_true(leftovers(fx) > before_all);
            sweep_all_chunks(fx);
            assert_int_equal(leftovers(fx), before_all);
        }
        enum rxt_status st = store_session_get(fx->s, "acme", "copy", &x, NULL);
        assert_status(whole ? RXT_OK : RXT_ENOTFOUND, st);
    }
    free(e.p);
}

static void is_hidden(struct fixture *fx, const char *name, uint64_t n_sessions)
{
    struct store_session x, list[4];
    size_t n;
    uint64_t count;
    assert_status(RXT_ENOTFOUND, store_session_get(fx->s, "acme", name, &x, NULL));
    must(fx, store_session_count(fx->s, "acme", &count, &fx->err));
    must(fx, store_session_list(fx->s, "acme", "", list, 4, &n, &fx->err));
    assert_true(count == n_sessions && n == n_sessions);
    for (int64_t after = 0; store_session_next(fx->s, after, &x, NULL) == RXT_OK; after = x.id)
        n--;
    assert_int_equal(n, 0);
    assert_status(RXT_ENOTFOUND, store_session_erase(fx->s, "acme", name, NULL));
}

enum { LONG_JOURNAL = 300 };

static struct store_session long_session(struct fixture *fx)
{
    struct store_session a = session_make(fx, "a");
    for (uint64_t v = 1; v <= LONG_JOURNAL; v++)
        turn_add(fx, a.id, v);
    image_add(fx, a.id, LONG_JOURNAL, 700);
    return session_load(fx, "a");
}

static int64_t rows_of(struct fixture *fx)
{
    return fixture_number(fx, "SELECT count(*) FROM turn");
}

static void nothing_is_left(struct fixture *fx)
{
    assert_int_equal(rows_of(fx), LONG_JOURNAL);
    assert_int_equal(leftovers(fx), 0);
    assert_int_equal(fixture_number(fx, "SELECT count(*) FROM session"), 1);
}

/* No step writes more than a few rows, however many there are, and before the last one nobody sees
 * any of it. */
static void many_rows_go_in_steps(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = long_session(fx), b;
    struct bytes e = export_of(fx, "a", true);
    const struct store_source from = {.read = supply, .arg = &e};
    struct store_import *in = NULL;
    int64_t rows = LONG_JOURNAL;
    bool more = true;
    must(fx, store_import_begin(&in, fx->s, "acme", "b", &from, &fx->err));
    while (more) {
        is_hidden(fx, "b", 1);
        must(fx, store_import_step(in, &more, &fx->err));
        int64_t now = rows_of(fx);
        assert_true(now - rows <= 64);
        rows = now;
    }
    store_import_end(&in);
    b = session_load(fx, "b");
    assert_true(b.head == LONG_JOURNAL && b.applied == LONG_JOURNAL);
    check_turns(fx, &a, &b);
    image_check(fx, b.id, LONG_JOURNAL, LONG_JOURNAL, 700);
    assert_int_equal(leftovers(fx), 0);
    free(e.p);
}

static void some_steps(struct store *s, struct bytes *e, struct store_import **in)
{
    const struct store_source from = {.read = supply, .arg = e};
    bool more;
    assert_ok(store_import_begin(in, s, "acme", "b", &from, NULL));
    for (int i = 0; i < 8; i++)
        assert_ok(store_import_step(*in, &more, NULL));
    assert_true(more);
}

static void of_an_import_that_is_cut_off_nothing_is_left(void **state)
{
    struct fixture *fx = *state;
    struct store_import *in = NULL;
    struct store_session x;
    bool more = true;
    long_session(fx);
    struct bytes e = export_of(fx, "a", true);

    some_steps(fx->s, &e, &in); /* given up */
    assert_true(rows_of(fx) > LONG_JOURNAL + 64);
    store_import_end(&in);
    is_hidden(fx, "b", 1);
    sweep_all_chunks(fx);
    nothing_is_left(fx);

    store_close(&fx->s); /* its process dies */
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        e.at = 0;
        fixture_open(fx);
        some_steps(fx->s, &e, &in);
        _exit(rows_of(fx) > LONG_JOURNAL + 64 ? 0 : 1);
    }
    int status = 0;
    assert_true(waitpid(child, &status, 0) == child && status == 0);
    fixture_open(fx);
    nothing_is_left(fx);

    e.at = 0; /* its name is taken meanwhile */
    some_steps(fx->s, &e, &in);
    session_make(fx, "b");
    enum rxt_status st = RXT_OK;
    while (st == RXT_OK && more)
        st = store_import_step(in, &more, &fx->err);
    assert_status(RXT_EEXIST, st);
    store_import_end(&in);
    sweep_all_chunks(fx);
    must(fx, store_session_get(fx->s, "acme", "b", &x, &fx->err));
    assert_int_equal(x.head, 0);
    must(fx, store_session_erase(fx->s, "acme", "b", &fx->err));
    nothing_is_left(fx);
    free(e.p);
}

static void with_history(void **state)
{
    round_trip(*state, true, 5000, 0);
}

static void without_history(void **state)
{
    round_trip(*state, false, 5000, 7);
}

static void a_large_image(void **state)
{
    round_trip(*state, true, 2 * STORE_CHUNK_BYTES + 99, 0);
}

static void without_images(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    struct bytes e = export_of(fx, "a", false);
    assert_int_equal(e.n, EXPORT_HEADER_BYTES + 2 * (EXPORT_RECORD_BYTES + EXPORT_SUM_BYTES) +
                              EXPORT_SESSION_BYTES + 8 + EXPORT_SEAL_BYTES);
    must(fx, import_of(fx, &e, "b"));
    assert_true(session_load(fx, "b").head == 0);
    free(e.p);
    turn_add(fx, a.id, 1);
    e = export_of(fx, "a", false);
    must(fx, import_of(fx, &e, "c"));
    assert_true(session_load(fx, "c").base == 0 && session_load(fx, "c").applied == 1);
    free(e.p);
    struct bytes none = {0};
    assert_status(RXT_ENOTFOUND, store_export(fx->s, "acme", "nobody", true, gather, &none, NULL));
}

static void a_fork_is_exported_with_its_base(void **state)
{
    struct fixture *fx = *state;
    struct store_session x = session_make(fx, "a"), f;
    for (uint64_t v = 1; v <= 3; v++)
        turn_add(fx, x.id, v);
    image_add(fx, x.id, 3, 700);
    must(fx, store_session_fork(fx->s, x.id, 3, "f", &f, &fx->err));
    turn_add(fx, f.id, 4);
    turn_add(fx, f.id, 5);
    image_add(fx, f.id, 5, 800);
    struct bytes e = export_of(fx, "f", true);
    must(fx, import_of(fx, &e, "g"));
    struct store_session g = session_load(fx, "g");
    assert_true(g.base == 3 && g.applied == 5);
    image_check(fx, g.id, 4, 3, 700);
    image_check(fx, g.id, 5, 5, 800);
    free(e.p);
}

static void writers_may_fail(void **state)
{
    struct fixture *fx = *state;
    rich_session(fx, 5000);
    struct bytes all = export_of(fx, "rich", true);
    for (size_t i = 1;; i++) {
        struct bytes b = {.fail_after = i};
        enum rxt_status st = store_export(fx->s, "acme", "rich", true, gather, &b, &fx->err);
        free(b.p);
        if (st == RXT_OK)
            break;
        assert_status(RXT_EFULL, st);
    }
    free(all.p);
    session_make(fx, "after"); /* no view is left open */
}

static void cut_short_it_is_nothing(void **state)
{
    struct fixture *fx = *state;
    rich_session(fx, 200);
    struct bytes e = export_of(fx, "rich", true);
    size_t whole = e.n;
    struct store_session x;
    for (e.n = 0; e.n < whole; e.n++) {
        assert_status(RXT_EFORMAT, import_of(fx, &e, "cut"));
        assert_true(fx->err.text[0] != '\0');
    }
    assert_status(RXT_ENOTFOUND, store_session_get(fx->s, "acme", "cut", &x, NULL));
    sweep_all_chunks(fx);
    assert_int_equal(leftovers(fx), 0);
    must(fx, import_of(fx, &e, "cut"));
    free(e.p);
}

static void no_bit_may_change(void **state)
{
    struct fixture *fx = *state;
    rich_session(fx, 200);
    struct bytes e = export_of(fx, "rich", true);
    for (size_t i = 0; i < e.n; i++) {
        uint8_t was = e.p[i];
        e.p[i] ^= (uint8_t)(1u << i % 8);
        enum rxt_status st = import_of(fx, &e, "bent");
        if (st == RXT_OK || !fx->err.text[0])
            fail_msg("byte %d: %s %s", (int)i, rxt_status_name(st), fx->err.text);
        assert_true(st == RXT_EFORMAT || st == RXT_ECORRUPT || st == RXT_ENEWER);
        e.p[i] = was;
    }
    sweep_all_chunks(fx);
    assert_int_equal(leftovers(fx), 0);
    must(fx, import_of(fx, &e, "bent"));
    free(e.p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(whom_nobody_can_use_is_not_taken),
        store_unit_test(an_import_goes_in_steps),
        store_unit_test(many_rows_go_in_steps),
        store_unit_test(of_an_import_that_is_cut_off_nothing_is_left),
        store_unit_test(with_history),
        store_unit_test(without_history),
        store_unit_test(a_large_image),
        store_unit_test(without_images),
        store_unit_test(a_fork_is_exported_with_its_base),
        store_unit_test(writers_may_fail),
        store_unit_test(cut_short_it_is_nothing),
        store_unit_test(no_bit_may_change),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
