/* Exports in memory: a session with something of everything, its bytes, and the same bytes changed
 * and sealed again, as somebody would who knows the format. */
#ifndef RXT_TESTS_STORE_EXPORT_RIG_H
#define RXT_TESTS_STORE_EXPORT_RIG_H

#include "store/export_impl.h"

#include "tests/store/verbs.h"

#include <sodium.h>
#include <xxhash.h>

struct bytes {
    uint8_t *p;
    size_t n, at;
    size_t fail_after; /* writes; 0 = never */
};

static inline enum rxt_status gather(void *arg, const void *p, size_t n)
{
    struct bytes *b = arg;
    if (b->fail_after && --b->fail_after == 0)
        return RXT_EFULL;
    b->p = realloc(b->p, b->n + n);
    memcpy(b->p + b->n, p, n);
    b->n += n;
    return RXT_OK;
}

static inline enum rxt_status supply(void *arg, void *p, size_t n)
{
    struct bytes *b = arg;
    if (n > b->n - b->at)
        return RXT_EFORMAT;
    memcpy(p, b->p + b->at, n);
    b->at += n;
    return RXT_OK;
}

static inline struct bytes export_of(struct fixture *fx, const char *name, bool history)
{
    struct bytes b = {0};
    must(fx, store_export(fx->s, "acme", name, history, gather, &b, &fx->err));
    return b;
}

static inline enum rxt_status import_of(struct fixture *fx, struct bytes *b, const char *name)
{
    b->at = 0;
    fx->err.text[0] = '\0';
    return store_import(fx->s, "acme", name, &(struct store_source){.read = supply, .arg = b}, NULL,
                        &fx->err);
}

/* Eight versions with images of 4 and 7, a rewind, a chosen candidate, texts, one row not applied,
 * held. */
static inline struct store_session rich_session(struct fixture *fx, size_t image_size)
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

/* As somebody would who knows the format: with the sums of the records, as far as their lengths
 * lead. */
static inline void seal(struct bytes *b)
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
static inline uint8_t *payload(struct bytes *b, enum export_type type, int nth)
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

static inline void set32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}

static inline void set64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

/* Takes a record out. */
static inline void drop(struct bytes *b, enum export_type type, int nth)
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

static inline void check_turns(struct fixture *fx, const struct store_session *a,
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

static inline int64_t leftovers(struct fixture *fx)
{
    return fixture_number(fx, "SELECT (SELECT count(*) FROM orphan) + (SELECT count(*) FROM chunk) "
                              "- (SELECT count(*) FROM image)");
}

static inline void sweep_all_chunks(struct fixture *fx)
{
    for (bool more = true; more;)
        must(fx, store_sweep(fx->s, &more, &fx->err));
}

#endif
