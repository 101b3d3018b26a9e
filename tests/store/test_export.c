#include "store/export_impl.h"

#include "tests/store/verbs.h"

#include <math.h>
#include <sodium.h>
#include <xxhash.h>

struct bytes {
    uint8_t *p;
    size_t n, at;
    size_t fail_after; /* writes; 0 = never */
};

static enum rxt_status gather(void *arg, const void *p, size_t n)
{
    struct bytes *b = arg;
    if (b->fail_after && --b->fail_after == 0)
        return RXT_EFULL;
    b->p = realloc(b->p, b->n + n);
    memcpy(b->p + b->n, p, n);
    b->n += n;
    return RXT_OK;
}

static enum rxt_status supply(void *arg, void *p, size_t n)
{
    struct bytes *b = arg;
    if (n > b->n - b->at)
        return RXT_EFORMAT;
    memcpy(p, b->p + b->at, n);
    b->at += n;
    return RXT_OK;
}

static struct bytes export_of(struct fixture *fx, const char *name, bool history)
{
    struct bytes b = {0};
    must(fx, store_export(fx->s, "acme", name, history, gather, &b, &fx->err));
    return b;
}

static enum rxt_status import_of(struct fixture *fx, struct bytes *b, const char *name)
{
    b->at = 0;
    fx->err.text[0] = '\0';
    return store_import(fx->s, "acme", name, &(struct store_source){.read = supply, .arg = b}, NULL,
                        &fx->err);
}

/* Eight versions with images of 4 and 7, a rewind, a chosen candidate, texts, one row not applied,
 * held. */
static struct store_session rich_session(struct fixture *fx, size_t image_size)
{
    struct store_session x = session_make(fx, "rich");
    int32_t ids[SAMPLE_IDS];
    for (uint64_t v = 1; v <= 4; v++)
        turn_add(fx, x.id, v);
    image_add(fx, x.id, 4, 3000);
    struct store_turn t = {.kind = STORE_REWIND, .state = STORE_LIVE, .version = 5, .parent = 2};
    memset(t.request, 0x55, sizeof t.request);
    must(fx, store_turn_put(fx->s, x.id, &t, &fx->err));
    must(fx, store_turn_applied(fx->s, x.id, 5, &fx->err));
    t = turn_sample(6, ids);
    t.version = 0;
    t.state = STORE_UNDECIDED;
    for (t.candidate = 0; t.candidate < 2; t.candidate++)
        must(fx, store_turn_put(fx->s, x.id, &t, &fx->err));
    must(fx, store_turn_choose(fx->s, x.id, t.request, 1, 6, &fx->err));
    must(fx, store_turn_applied(fx->s, x.id, 6, &fx->err));
    t = turn_sample(7, ids);
    t.query_text = "what?";
    t.answer_text = "";
    t.kind = STORE_REMEMBER;
    must(fx, store_turn_put(fx->s, x.id, &t, &fx->err));
    must(fx, store_turn_applied(fx->s, x.id, 7, &fx->err));
    if (image_size > STORE_CHUNK_BYTES) {
        struct store_upload u;
        uint8_t *p = image_bytes(7, image_size);
        struct store_image im = image_sample(7, image_size);
        must(fx, store_image_begin(fx->s, &u, &fx->err));
        for (size_t at = 0; at < image_size; at += STORE_CHUNK_BYTES)
            must(fx, store_image_chunk(fx->s, &u, p + at,
                                       image_size - at < STORE_CHUNK_BYTES ? image_size - at
                                                                           : STORE_CHUNK_BYTES,
                                       &fx->err));
        must(fx, store_image_commit(fx->s, &u, x.id, &im, &fx->err));
        free(p);
    } else {
        image_add(fx, x.id, 7, image_size);
    }
    t = turn_sample(8, ids);
    must(fx, store_turn_put(fx->s, x.id, &t, &fx->err));
    must(fx,
         store_session_set_state(fx->s, x.id, STORE_HELD, "update of 8 was not finite", &fx->err));
    return session_load(fx, "rich");
}

static void check_turns(struct fixture *fx, const struct store_session *a,
                        const struct store_session *b)
{
    for (uint64_t v = b->base; v < b->head; v++) {
        struct store_turn t, u;
        int32_t ids[SAMPLE_IDS];
        char texts[2][32] = {"", ""};
        must(fx, store_turn_next(fx->s, a->id, v, &t, &fx->err));
        if (t.n_ids)
            memcpy(ids, t.ids, sizeof ids);
        bool has_text = t.query_text != NULL;
        if (has_text) {
            strcpy(texts[0], t.query_text);
            strcpy(texts[1], t.answer_text);
        }
        must(fx, store_turn_next(fx->s, b->id, v, &u, &fx->err));
        assert_true(t.kind == u.kind && t.version == u.version && t.parent == u.parent &&
                    t.read_version == u.read_version && t.seed == u.seed && t.n_ids == u.n_ids &&
                    t.n_query == u.n_query && t.candidate == u.candidate && t.top_k == u.top_k &&
                    t.temperature == u.temperature && t.top_p == u.top_p && t.wall_us == u.wall_us);
        assert_memory_equal(t.request, u.request, sizeof t.request);
        assert_string_equal(t.finish, u.finish);
        assert_string_equal(t.bit_class, u.bit_class);
        assert_memory_equal(ids, u.ids, t.n_ids * sizeof *ids);
        assert_true(has_text == (u.query_text != NULL));
        if (has_text) {
            assert_string_equal(texts[0], u.query_text);
            assert_string_equal(texts[1], u.answer_text);
        }
    }
}

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

static int64_t leftovers(struct fixture *fx)
{
    return fixture_number(fx, "SELECT (SELECT count(*) FROM orphan) + (SELECT count(*) FROM chunk) "
                              "- (SELECT count(*) FROM image)");
}

static void sweep_all_chunks(struct fixture *fx)
{
    for (bool more = true; more;)
        must(fx, store_sweep(fx->s, &more, &fx->err));
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

/* ---- sealed, but false ------------------------------------------------------------------ */

/* As somebody would who knows the format: with the sums of the records, as far as their lengths
 * lead. */
static void seal(struct bytes *b)
{
    size_t n = b->n - EXPORT_SEAL_BYTES, at = EXPORT_HEADER_BYTES;
    uint32_t format;
    memcpy(&format, b->p + 8, 4);
    while (format > 1 && at + EXPORT_RECORD_BYTES + EXPORT_SUM_BYTES <= n) {
        uint64_t bytes, left = n - at - EXPORT_RECORD_BYTES - EXPORT_SUM_BYTES;
        memcpy(&bytes, b->p + at + 8, 8);
        if (bytes > left)
            break;
        uint64_t sum = XXH3_64bits(b->p + at, EXPORT_RECORD_BYTES + bytes);
        at += EXPORT_RECORD_BYTES + bytes;
        memcpy(b->p + at, &sum, 8);
        at += EXPORT_SUM_BYTES;
    }
    crypto_generichash(b->p + n, EXPORT_SEAL_BYTES, b->p, n, NULL, 0);
}

/* Where the payload of the nth record of a type begins. */
static uint8_t *payload(struct bytes *b, enum export_type type, int nth)
{
    for (uint8_t *p = b->p + EXPORT_HEADER_BYTES;;) {
        uint32_t t;
        uint64_t n;
        memcpy(&t, p, 4);
        memcpy(&n, p + 8, 8);
        if (t == (uint32_t)type && nth-- == 0)
            return p + EXPORT_RECORD_BYTES;
        assert_true(t != EXPORT_END);
        p += EXPORT_RECORD_BYTES + n + EXPORT_SUM_BYTES;
    }
}

static void set32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}

static void set64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

/* Takes a record out. */
static void drop(struct bytes *b, enum export_type type, int nth)
{
    uint8_t *p = payload(b, type, nth) - EXPORT_RECORD_BYTES;
    uint64_t n;
    memcpy(&n, p + 8, 8);
    n += EXPORT_RECORD_BYTES + EXPORT_SUM_BYTES;
    memmove(p, p + n, (size_t)(b->p + b->n - p) - n);
    b->n -= n;
    uint8_t *end = payload(b, EXPORT_END, 0);
    uint64_t count;
    memcpy(&count, end, 8);
    set64(end, count - 1);
}

static void sealed_lies_are_refused(void **state)
{
    struct fixture *fx = *state;
    rich_session(fx, 200);
    struct bytes good = export_of(fx, "rich", true), e;
    float nan = NAN;
    uint32_t bits;
    memcpy(&bits, &nan, 4);
#define LIE(word, change)                                                \
    do {                                                                 \
        e = (struct bytes){.p = malloc(good.n), .n = good.n};            \
        memcpy(e.p, good.p, good.n);                                     \
        change;                                                          \
        seal(&e);                                                        \
        assert_refused(fx, RXT_EFORMAT, word, import_of(fx, &e, "lie")); \
        free(e.p);                                                       \
    } while (0)
    LIE("begin like one", e.p[0] = 'X');
    LIE("header", set32(e.p + 8, 0));
    LIE("header", set32(e.p + 12, 1));
    LIE("record is damaged", set32(payload(&e, EXPORT_SESSION, 0) - 12, 1));
    LIE("where it should be", set32(payload(&e, EXPORT_SESSION, 0) - 16, EXPORT_TURN));
    LIE("where it should be", set64(payload(&e, EXPORT_SESSION, 0) - 8, 8));
    LIE("session's row", set64(payload(&e, EXPORT_SESSION, 0) + 48, 8)); /* base above applied */
    LIE("session's row", set64(payload(&e, EXPORT_SESSION, 0) + 56, UINT64_MAX));
    LIE("session's row", memset(payload(&e, EXPORT_SESSION, 0) + 84, 'x', 128));
    LIE("session's row", payload(&e, EXPORT_SESSION, 0)[84 + 127] = 'x'); /* after its zero */
    LIE("session's row", payload(&e, EXPORT_SESSION, 0)[84 + 128] = 0);   /* no name */
    LIE("state is refused", set32(payload(&e, EXPORT_SESSION, 0) + 80, 0x10));
    LIE("what its memory is made of", set64(payload(&e, EXPORT_SESSION, 0) + 56, 9));
    LIE("out of order", set64(payload(&e, EXPORT_SESSION, 0) + 48, 1)); /* no image of base 1 */
    LIE("without bytes", set64(payload(&e, EXPORT_IMAGE, 0) - 8, EXPORT_IMAGE_BYTES));
    LIE("without bytes", set64(payload(&e, EXPORT_IMAGE, 0) - 8, 3));
    LIE("out of order", set64(payload(&e, EXPORT_IMAGE, 0) + 16, 8));
    LIE("image's header", set64(payload(&e, EXPORT_IMAGE, 0) + 24, 199));
    LIE("image's header", memset(payload(&e, EXPORT_IMAGE, 0) + 40, 'x', 32));
    LIE("unknown type", set32(payload(&e, EXPORT_TURN, 0) - 16, 9));
    LIE("unknown type", set32(payload(&e, EXPORT_TURN, 7) - 16, EXPORT_IMAGE));
    LIE("out of order", drop(&e, EXPORT_TURN, 3));
    LIE("what its memory is made of", (drop(&e, EXPORT_TURN, 7), drop(&e, EXPORT_TURN, 6)));
    LIE("too short", set64(payload(&e, EXPORT_TURN, 7) - 8, 10));
    LIE("turn is damaged", set32(payload(&e, EXPORT_TURN, 0) + 24, SAMPLE_IDS + 1));
    LIE("turn is damaged", set32(payload(&e, EXPORT_TURN, 0) + 24, UINT32_MAX));
    LIE("turn is damaged", set32(payload(&e, EXPORT_TURN, 0) + 32, 0xfffffffeu));
    LIE("turn is damaged", memset(payload(&e, EXPORT_TURN, 0) + 92, 'x', 32));
    LIE("turn is refused", set32(payload(&e, EXPORT_TURN, 0) + 16, 99));
    LIE("turn is refused", set32(payload(&e, EXPORT_TURN, 0) + 28, SAMPLE_IDS + 1));
    LIE("turn is refused", set32(payload(&e, EXPORT_TURN, 0) + 44, bits));
    LIE("turn is refused", set64(payload(&e, EXPORT_TURN, 0) + 60, 55)); /* read the future */
    LIE("turn is refused", set64(payload(&e, EXPORT_TURN, 4) + 68, 7));  /* rewind to it */
    LIE("turn is refused", /* the same request twice */
        memcpy(payload(&e, EXPORT_TURN, 1), payload(&e, EXPORT_TURN, 0), 16));
    LIE("zero in it", payload(&e, EXPORT_TURN, 6)[EXPORT_TURN_BYTES + 4 * SAMPLE_IDS + 2] = 0);
    LIE("end is damaged", set64(payload(&e, EXPORT_END, 0) - 8, 16));
    LIE("records are missing", set64(payload(&e, EXPORT_END, 0), 3));
#undef LIE
    e = good;
    set32(e.p + 8, 3);
    seal(&e);
    assert_refused(fx, RXT_ENEWER, "format 3", import_of(fx, &e, "lie"));
    set32(e.p + 8, 2);
    assert_refused(fx, RXT_ECORRUPT, "changed", import_of(fx, &e, "lie"));
    seal(&e);
    must(fx, import_of(fx, &e, "truth")); /* what was bent was bent by us only */
    sweep_all_chunks(fx);
    assert_int_equal(leftovers(fx), 0);
    free(good.p);
}

/* ---- format 1, and what is damaged --------------------------------------------------------- */

/* The same as releases wrote it before records had sums. */
static struct bytes without_sums(const struct bytes *b)
{
    struct bytes old = {.p = malloc(b->n)};
    size_t at = EXPORT_HEADER_BYTES, end = b->n - EXPORT_SEAL_BYTES;
    memcpy(old.p, b->p, at);
    set32(old.p + 8, 1);
    for (old.n = at; at < end;) {
        uint64_t n;
        memcpy(&n, b->p + at + 8, 8);
        n += EXPORT_RECORD_BYTES;
        memcpy(old.p + old.n, b->p + at, n);
        old.n += n;
        at += n + EXPORT_SUM_BYTES;
    }
    old.n += EXPORT_SEAL_BYTES;
    seal(&old);
    return old;
}

static void format_1_is_read(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = rich_session(fx, 5000), b;
    struct bytes e = export_of(fx, "rich", true), old = without_sums(&e);
    must(fx, store_import(fx->s, "other", "rich",
                          &(struct store_source){.read = supply, .arg = &old}, &b, &fx->err));
    assert_true(old.at == old.n);
    check_turns(fx, &a, &b);
    struct bytes again = {0};
    must(fx, store_export(fx->s, "other", "rich", true, gather, &again, &fx->err));
    assert_true(again.n == e.n);
    assert_memory_equal(again.p, e.p, e.n);
    free(again.p);
    free(old.p);
    free(e.p);
}

struct findings {
    int n, n_bad;
    struct store_part first; /* bad one */
};

static enum rxt_status find(void *arg, const struct store_part *part)
{
    struct findings *f = arg;
    assert_true(part->good == (part->detail[0] == '\0'));
    assert_true((part->image != NULL) == (part->what == STORE_PART_IMAGE));
    if (!part->good && f->n_bad++ == 0)
        f->first = *part;
    f->n++;
    return RXT_OK;
}

static struct findings look_at(struct fixture *fx, struct bytes *b)
{
    struct findings f = {0};
    b->at = 0;
    must(fx, store_export_look(supply, b, find, &f, &fx->err));
    return f;
}

static void what_is_whole_is_called_so(void **state)
{
    struct fixture *fx = *state;
    rich_session(fx, STORE_CHUNK_BYTES + 99);
    struct bytes e = export_of(fx, "rich", true), old = without_sums(&e);
    struct findings f = look_at(fx, &e);
    assert_true(f.n == 13 && f.n_bad == 0); /* header, session, 1 image, 8 turns, end, seal */
    f = look_at(fx, &old);
    assert_true(f.n == 13 && f.n_bad == 0);
    free(e.p);
    free(old.p);
}

/* The part that byte i of an export belongs to. *hidden: with it the version of an image is lost.
 */
static struct store_part part_of(const struct bytes *b, size_t i, bool *hidden)
{
    struct store_part part = {.what = STORE_PART_HEADER};
    uint64_t n, v;
    *hidden = false;
    if (i >= b->n - EXPORT_SEAL_BYTES)
        part.what = STORE_PART_SEAL;
    for (size_t at = EXPORT_HEADER_BYTES; at <= i && part.what != STORE_PART_SEAL;) {
        const uint8_t *body = b->p + at + EXPORT_RECORD_BYTES;
        uint32_t type;
        memcpy(&type, b->p + at, 4);
        memcpy(&n, b->p + at + 8, 8);
        size_t field = type == EXPORT_IMAGE ? 16 : 52;
        memcpy(&v, body + field, 8);
        part.what = type == EXPORT_SESSION ? STORE_PART_SESSION
                    : type == EXPORT_IMAGE ? STORE_PART_IMAGE
                    : type == EXPORT_TURN  ? STORE_PART_TURN
                                           : STORE_PART_END;
        part.version = type == EXPORT_IMAGE || type == EXPORT_TURN ? v : 0;
        *hidden = type == EXPORT_IMAGE && ((i >= at + 8 && i < at + EXPORT_RECORD_BYTES) ||
                                           i - at - EXPORT_RECORD_BYTES - field < 8);
        at += EXPORT_RECORD_BYTES + n + EXPORT_SUM_BYTES;
    }
    return part;
}

static void damage_is_named(void **state)
{
    struct fixture *fx = *state;
    rich_session(fx, 200);
    struct bytes e = export_of(fx, "rich", true);
    for (size_t i = 0; i < e.n; i++) {
        bool hidden;
        struct store_part want = part_of(&e, i, &hidden);
        for (int bit = 0; bit < 8; bit++) {
            e.p[i] ^= (uint8_t)(1u << bit);
            struct findings f = look_at(fx, &e);
            e.p[i] ^= (uint8_t)(1u << bit);
            bool version =
                want.what == STORE_PART_SEAL || hidden || f.first.version == want.version;
            if (!f.n_bad || f.first.what != want.what || !version)
                fail_msg("byte %zu, bit %d: %d findings, part %d of version %d, not %d of %d", i,
                         bit, f.n_bad, (int)f.first.what, (int)f.first.version, (int)want.what,
                         (int)want.version);
        }
    }
    free(e.p);
}

/* Named only where the parts contradict themselves; else the seal tells. */
static void damage_of_format_1_is_found(void **state)
{
    struct fixture *fx = *state;
    rich_session(fx, 200);
    struct bytes e = export_of(fx, "rich", true), old = without_sums(&e);
    int unsure = 0;
    for (size_t i = 0; i < old.n; i++) {
        old.p[i] ^= (uint8_t)(1u << i % 8);
        struct findings f = look_at(fx, &old);
        old.p[i] ^= (uint8_t)(1u << i % 8);
        if (!f.n_bad)
            fail_msg("byte %zu", i);
        assert_true(f.first.unsure == (f.first.what == STORE_PART_SEAL));
        unsure += f.first.unsure;
    }
    assert_true(unsure > 0 && (size_t)unsure < old.n);
    free(old.p);
    free(e.p);
}

static enum rxt_status stop(void *arg, const struct store_part *part)
{
    (void)part;
    return --*(int *)arg ? RXT_OK : RXT_ECANCELLED;
}

static enum rxt_status broken(void *arg, void *p, size_t n)
{
    (void)arg, (void)p, (void)n;
    return RXT_EIO;
}

static void looking_may_fail(void **state)
{
    struct fixture *fx = *state;
    rich_session(fx, 200);
    struct bytes e = export_of(fx, "rich", true);
    struct findings f = {0};
    for (int after = 1; after <= 13; after++) {
        int left = after;
        e.at = 0;
        assert_status(RXT_ECANCELLED, store_export_look(supply, &e, stop, &left, &fx->err));
    }
    assert_status(RXT_EIO, store_export_look(broken, NULL, find, &f, &fx->err));
    assert_int_equal(f.n, 0);
    for (size_t whole = e.n; e.n < whole + 1; e.n = e.n ? e.n - 1 : whole + 1) {
        f = look_at(fx, &e);
        assert_true((f.n_bad == 0) == (e.n == whole));
    }
    free(e.p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(whom_nobody_can_use_is_not_taken),
        store_unit_test(an_import_goes_in_steps),
        store_unit_test(with_history),
        store_unit_test(without_history),
        store_unit_test(a_large_image),
        store_unit_test(without_images),
        store_unit_test(a_fork_is_exported_with_its_base),
        store_unit_test(writers_may_fail),
        store_unit_test(cut_short_it_is_nothing),
        store_unit_test(no_bit_may_change),
        store_unit_test(sealed_lies_are_refused),
        store_unit_test(format_1_is_read),
        store_unit_test(what_is_whole_is_called_so),
        store_unit_test(damage_is_named),
        store_unit_test(damage_of_format_1_is_found),
        store_unit_test(looking_may_fail),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
