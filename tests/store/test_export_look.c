/* Exports that are false, old or damaged: refused, read, and named part by part. */
#include "tests/store/export_rig.h"

#include <math.h>

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
    uint64_t n;
    *hidden = false;
    if (i >= b->n - EXPORT_SEAL_BYTES)
        part.what = STORE_PART_SEAL;
    for (size_t at = EXPORT_HEADER_BYTES; at <= i && part.what != STORE_PART_SEAL;) {
        const uint8_t *body = b->p + at + EXPORT_RECORD_BYTES;
        uint32_t type;
        memcpy(&type, b->p + at, 4);
        memcpy(&n, b->p + at + 8, 8);
        size_t field = type == EXPORT_IMAGE ? 16 : 52;
        part.what = type == EXPORT_SESSION ? STORE_PART_SESSION
                    : type == EXPORT_IMAGE ? STORE_PART_IMAGE
                    : type == EXPORT_TURN  ? STORE_PART_TURN
                                           : STORE_PART_END;
        part.version = 0;
        if (type == EXPORT_IMAGE || type == EXPORT_TURN)
            memcpy(&part.version, body + field, sizeof part.version);
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
        store_unit_test(sealed_lies_are_refused),     store_unit_test(format_1_is_read),
        store_unit_test(what_is_whole_is_called_so),  store_unit_test(damage_is_named),
        store_unit_test(damage_of_format_1_is_found), store_unit_test(looking_may_fail),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
