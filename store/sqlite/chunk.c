/* The bytes of images: uploads of 1 MiB chunks, and the end of those that nobody names. */
#include "store/sqlite/seal_impl.h"
#include "store/sqlite/sqlite_impl.h"

#include <inttypes.h>

#define CHUNK_SHIFT 20
#define CHUNKS_MAX (1u << CHUNK_SHIFT)

static int64_t chunk_key(int64_t upload, uint32_t n)
{
    return (int64_t)((uint64_t)upload << CHUNK_SHIFT) + n;
}

/* Bound to its place: the same bytes have another seal elsewhere. */
static XXH128_canonical_t chunk_seal(int64_t key, const void *bytes, size_t n)
{
    XXH128_canonical_t seal;
    XXH128_canonicalFromHash(&seal, XXH3_128bits_withSeed(n ? bytes : "", n, (uint64_t)key));
    return seal;
}

static void chain_add(uint8_t chain[STORE_HASH_BYTES], const XXH128_canonical_t *seal)
{
    XXH128_canonical_t next;
    uint8_t both[2 * STORE_HASH_BYTES];
    memcpy(both, chain, STORE_HASH_BYTES);
    memcpy(both + STORE_HASH_BYTES, seal, STORE_HASH_BYTES);
    XXH128_canonicalFromHash(&next, XXH3_128bits(both, sizeof both));
    memcpy(chain, &next, STORE_HASH_BYTES);
}

struct store_upload upload_next(struct store *s)
{
    return (struct store_upload){.id = s->next_upload++};
}

enum rxt_status upload_numbers_load(struct store *s, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_UPLOAD_LAST);
    enum rxt_status st = query_row(&q, "count the uploads", err);
    if (st == RXT_OK) {
        s->next_upload = (int64_t)column_count(&q, 0, INT64_MAX >> CHUNK_SHIFT) + 1;
        st = query_check(&q, "count the uploads", err);
    }
    query_close(&q);
    return st;
}

enum rxt_status chunk_put(struct store *s, struct store_upload *u, const void *bytes, size_t n,
                          struct rxt_error *err)
{
    if (n == 0 || n > STORE_CHUNK_BYTES || u->bytes % STORE_CHUNK_BYTES != 0)
        return rxt_fail(err, RXT_EINVAL, "chunk of %zu bytes: all but the last of an image have %u",
                        n, STORE_CHUNK_BYTES);
    if (u->n_chunk == CHUNKS_MAX)
        return rxt_fail(err, RXT_ELIMIT, "image has more than %u chunks", CHUNKS_MAX);
    int64_t key = chunk_key(u->id, u->n_chunk);
    XXH128_canonical_t seal = chunk_seal(key, bytes, n);
    struct query q = query_open(s, SQL_CHUNK_PUT);
    bind_int(&q, key);
    bind_blob(&q, &seal, sizeof seal);
    bind_blob(&q, bytes, n);
    TRY(query_done(&q, "write a chunk of an image", err));
    chain_add(u->check, &seal);
    u->n_chunk++;
    u->bytes += n;
    return RXT_OK;
}

enum rxt_status orphan_put(struct store *s, int64_t orphan, uint64_t fence, struct rxt_error *err)
{
    s->sweep_due |= fence == NOBODY;
    struct query q = query_open(s, SQL_ORPHAN_PUT);
    bind_int(&q, orphan);
    bind_u64(&q, fence);
    return query_done(&q, "note an upload", err);
}

enum rxt_status orphan_check(struct store *s, int64_t orphan, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_ORPHAN_GET);
    bind_int(&q, orphan);
    enum rxt_status st = query_row(&q, "look for an upload", err);
    bool ours = st == RXT_OK && column_u64(&q, 0) == s->fence;
    query_close(&q);
    if (st == RXT_ENOTFOUND || (st == RXT_OK && !ours))
        return rxt_fail(err, RXT_ENOTFOUND, "upload %" PRId64 " is not open", orphan);
    return st;
}

enum rxt_status orphan_delete(struct store *s, int64_t orphan, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_ORPHAN_DELETE);
    bind_int(&q, orphan);
    return query_done(&q, "finish an upload", err);
}

enum rxt_status store_image_begin(struct store *s, struct store_upload *u, struct rxt_error *err)
{
    TRY(tx_begin(s, err));
    *u = upload_next(s);
    return tx_end(s, orphan_put(s, u->id, s->fence, err), err);
}

static enum rxt_status add(struct store *s, struct store_upload *u, const void *bytes, size_t n,
                           struct rxt_error *err)
{
    TRY(orphan_check(s, u->id, err));
    return chunk_put(s, u, bytes, n, err);
}

enum rxt_status store_image_chunk(struct store *s, struct store_upload *u, const void *bytes,
                                  size_t n, struct rxt_error *err)
{
    struct store_upload next = *u;
    TRY(tx_begin(s, err));
    TRY(tx_end(s, add(s, &next, bytes, n, err), err));
    *u = next;
    return RXT_OK;
}

enum rxt_status store_image_abort(struct store *s, const struct store_upload *u,
                                  struct rxt_error *err)
{
    TRY(tx_begin(s, err));
    enum rxt_status st = orphan_check(s, u->id, err);
    if (st == RXT_OK)
        st = orphan_put(s, u->id, NOBODY, err);
    return tx_end(s, st, err);
}

enum rxt_status upload_adopt(struct store *s, const struct store_upload *u, struct rxt_error *err)
{
    TRY(orphan_check(s, u->id, err));
    return orphan_delete(s, u->id, err);
}

/* Key of the last chunk of an upload, or ENOTFOUND. */
static enum rxt_status last_chunk(struct store *s, int64_t upload, int64_t *key,
                                  struct rxt_error *err)
{
    struct query q = query_open(s, SQL_CHUNK_LAST);
    bind_int(&q, chunk_key(upload, 0));
    bind_int(&q, chunk_key(upload, CHUNKS_MAX));
    enum rxt_status st = query_row(&q, "look for chunks", err);
    if (st == RXT_OK)
        *key = column_int(&q, 0);
    query_close(&q);
    return st;
}

static enum rxt_status chunk_delete(struct store *s, int64_t key, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_CHUNK_DELETE);
    bind_int(&q, key);
    return query_done(&q, "remove a chunk", err);
}

enum rxt_status chunks_give_up(struct store *s, int64_t upload, struct rxt_error *err)
{
    int64_t key;
    enum rxt_status st = last_chunk(s, upload, &key, err);
    if (st != RXT_OK)
        return st == RXT_ENOTFOUND ? RXT_OK : st;
    /* One chunk at once: its pages are used again by the image that takes its place. */
    return key == chunk_key(upload, 0) ? chunk_delete(s, key, err)
                                       : orphan_put(s, upload, NOBODY, err);
}

static enum rxt_status upload_sweep(struct store *s, int64_t upload, bool *gone,
                                    struct rxt_error *err)
{
    int64_t key;
    enum rxt_status st = last_chunk(s, upload, &key, err);
    *gone = st == RXT_ENOTFOUND;
    if (st == RXT_OK)
        return chunk_delete(s, key, err);
    return *gone ? RXT_OK : st;
}

static enum rxt_status sweep_one(struct store *s, bool *more, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_ORPHAN_NEXT);
    bind_u64(&q, s->fence);
    enum rxt_status st = query_row(&q, "look for what to sweep", err);
    int64_t orphan = st == RXT_OK ? column_int(&q, 0) : 0;
    query_close(&q);
    *more = st == RXT_OK;
    if (st != RXT_OK)
        return st == RXT_ENOTFOUND ? RXT_OK : st;
    bool gone = false;
    TRY(orphan < 0 ? arrival_sweep(s, -orphan, &gone, err) : upload_sweep(s, orphan, &gone, err));
    return gone ? orphan_delete(s, orphan, err) : RXT_OK;
}

enum rxt_status store_sweep(struct store *s, bool *more, struct rxt_error *err)
{
    *more = false;
    TRY(tx_begin(s, err));
    TRY(tx_end(s, sweep_one(s, more, err), err));
    s->sweep_due = *more;
    return RXT_OK;
}

bool store_sweep_due(const struct store *s)
{
    return s->sweep_due;
}

enum rxt_status sweep_all(struct store *s, struct rxt_error *err)
{
    for (bool more = true; more;)
        TRY(store_sweep(s, &more, err));
    return RXT_OK;
}

static enum rxt_status chunk_check(struct query *q, int64_t key, size_t want, const void **bytes,
                                   XXH128_canonical_t *seal, struct rxt_error *err)
{
    enum rxt_status st = query_row(q, "read a chunk of an image", err);
    if (st == RXT_ENOTFOUND)
        return rxt_fail(err, RXT_ECORRUPT, "image lacks a chunk (store %s)", q->s->path);
    if (st != RXT_OK)
        return st;
    column_bytes(q, 0, seal, sizeof *seal);
    *bytes = sqlite3_column_blob(q->stmt, 1);
    size_t n = (size_t)sqlite3_column_bytes(q->stmt, 1);
    TRY(query_check(q, "read a chunk of an image", err));
    if (n != want || !*bytes)
        return rxt_fail(err, RXT_ECORRUPT, "chunk of an image has %zu bytes, not %zu (store %s)", n,
                        want, q->s->path);
    XXH128_canonical_t got = chunk_seal(key, *bytes, n);
    if (memcmp(&got, seal, sizeof got) != 0)
        return rxt_fail(err, RXT_ECORRUPT, "bytes of an image are damaged (store %s)", q->s->path);
    return RXT_OK;
}

enum rxt_status chunks_stream(struct store *s, const struct store_upload *want, store_write write,
                              void *arg, struct rxt_error *err)
{
    uint8_t chain[STORE_HASH_BYTES] = {0};
    uint64_t left = want->bytes;
    for (uint32_t i = 0; i < want->n_chunk; i++) {
        int64_t key = chunk_key(want->id, i);
        size_t n = left < STORE_CHUNK_BYTES ? (size_t)left : STORE_CHUNK_BYTES;
        const void *bytes = NULL;
        XXH128_canonical_t seal;
        struct query q = query_open(s, SQL_CHUNK_GET);
        bind_int(&q, key);
        enum rxt_status st = chunk_check(&q, key, n, &bytes, &seal, err);
        if (st == RXT_OK)
            st = write(arg, bytes, n);
        query_close(&q);
        if (st != RXT_OK)
            return st;
        chain_add(chain, &seal);
        left -= n;
    }
    if (left != 0 || memcmp(chain, want->check, sizeof chain) != 0)
        return rxt_fail(err, RXT_ECORRUPT, "image is not made of the chunks it names (store %s)",
                        s->path);
    return RXT_OK;
}
