/* Images: the rows that name their bytes. */
#include "store/sqlite/header_impl.h"
#include "store/sqlite/sqlite_impl.h"

#include "kernels/base/clock.h"

#include <inttypes.h>
#include <string.h>

/* Columns key, upload, header. *out is what the header says, under the version that the key says:
 * where they differ, store_image_stream refuses it, and an older one can be asked for. */
static enum rxt_status image_read(struct query *q, struct image_header *h, struct store_image *out,
                                  struct rxt_error *err)
{
    enum rxt_status st = header_read(h, sqlite3_column_blob(q->stmt, 2),
                                     (size_t)sqlite3_column_bytes(q->stmt, 2), err);
    h->image.upload = column_int(q, 1);
    *out = h->image;
    out->version = column_u64(q, 0) & STORE_VERSION_MAX;
    return st;
}

static enum rxt_status image_query(struct store *s, int64_t session, uint64_t first, uint64_t last,
                                   struct image_header *h, struct store_image *out,
                                   struct rxt_error *err)
{
    struct query q = query_open(s, SQL_IMAGE_FIND);
    bind_int(&q, key_of(session, first));
    bind_int(&q, key_of(session, last < STORE_VERSION_MAX ? last : STORE_VERSION_MAX));
    bind_int(&q, 1);
    enum rxt_status st = query_row(&q, "look for an image", err);
    if (st == RXT_OK)
        st = image_read(&q, h, out, err);
    query_close(&q);
    return st;
}

enum rxt_status image_last(struct store *s, int64_t session, uint64_t version, int64_t *key,
                           int64_t *upload, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_IMAGE_FIND);
    bind_int(&q, key_of(session, 0));
    bind_int(&q, key_of(session, version));
    bind_int(&q, 1);
    enum rxt_status st = query_row(&q, "look for an image", err);
    *key = st == RXT_OK ? column_int(&q, 0) : 0;
    *upload = st == RXT_OK ? column_int(&q, 1) : 0;
    query_close(&q);
    return st;
}

enum rxt_status store_image_find(struct store *s, int64_t session, uint64_t version,
                                 struct store_image *out, struct rxt_error *err)
{
    struct image_header h;
    enum rxt_status st = image_query(s, session, 0, version, &h, out, err);
    if (st == RXT_ENOTFOUND)
        return rxt_fail(err, st, "session has no image of version %" PRIu64 " or older", version);
    return st;
}

enum rxt_status store_image_list(struct store *s, int64_t session, struct store_image *out,
                                 size_t cap, size_t *n, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_IMAGE_FIND);
    bind_int(&q, key_of(session, 0));
    bind_int(&q, key_of(session, STORE_VERSION_MAX));
    bind_int(&q, cap > INT64_MAX ? INT64_MAX : (int64_t)cap);
    enum rxt_status st = RXT_OK;
    *n = 0;
    while (*n < cap && (st = query_row(&q, "list the images", err)) == RXT_OK) {
        struct image_header h;
        st = image_read(&q, &h, &out[*n], err);
        if (st != RXT_OK)
            break;
        ++*n;
    }
    query_close(&q);
    return st == RXT_ENOTFOUND ? RXT_OK : st;
}

enum rxt_status store_image_stream(struct store *s, int64_t session,
                                   const struct store_image *image, store_write write, void *arg,
                                   struct rxt_error *err)
{
    struct store_session x;
    struct image_header h;
    struct store_image there;
    TRY(session_by_id(s, session, &x, err));
    enum rxt_status st = image_query(s, session, image->version, image->version, &h, &there, err);
    if (st == RXT_ENOTFOUND)
        return rxt_fail(err, st, "image of version %" PRIu64 " is not there any more",
                        image->version);
    if (st != RXT_OK)
        return st;
    TRY(header_expect(&h, &x, image, err));
    struct store_upload want = {h.image.upload, h.image.bytes, h.n_chunk, {0}};
    memcpy(want.check, h.chain, sizeof want.check);
    return chunks_stream(s, &want, write, arg, err);
}

struct copy {
    uint8_t *at;
    size_t left;
};

static enum rxt_status copy_write(void *arg, const void *bytes, size_t n)
{
    struct copy *c = arg;
    if (n > c->left)
        return RXT_ESHAPE;
    memcpy(c->at, bytes, n);
    c->at += n;
    c->left -= n;
    return RXT_OK;
}

enum rxt_status store_image_get(struct store *s, int64_t session, const struct store_image *image,
                                void *buf, size_t size, struct rxt_error *err)
{
    if (size != image->bytes)
        return rxt_fail(err, RXT_ESHAPE, "image has %" PRIu64 " bytes, the buffer %zu",
                        image->bytes, size);
    return store_image_stream(s, session, image, copy_write, &(struct copy){buf, size}, err);
}

/* ---- writing ---------------------------------------------------------------------------- */

static enum rxt_status fits(const struct store_session *x, const struct store_image *image,
                            struct rxt_error *err)
{
    const char *field = NULL;
    if (memcmp(image->model_hash, x->model_hash, sizeof x->model_hash) != 0)
        field = "model";
    else if (image->dtype != x->dtype)
        field = "dtype";
    else if (image->n_layer != x->n_layer || image->n_slot != x->n_slot ||
             image->embed_dim != x->embed_dim)
        field = "shape";
    if (field)
        return rxt_fail(err, RXT_EMISMATCH, "image has another %s than session %s", field, x->name);
    if (image->version < x->base || image->version > x->applied)
        return rxt_fail(err, RXT_ESTALE,
                        "image of version %" PRIu64 ", session %s has %" PRIu64 " to %" PRIu64,
                        image->version, x->name, x->base, x->applied);
    if (strnlen(image->bit_class, sizeof image->bit_class) == sizeof image->bit_class)
        return rxt_fail(err, RXT_EINVAL, "bit class has no end");
    return RXT_OK;
}

static enum rxt_status insert(struct store *s, const struct store_session *x,
                              const struct image_header *h, struct rxt_error *err)
{
    uint8_t header[HEADER_BYTES];
    header_write(h, header);
    struct query q = query_open(s, SQL_IMAGE_PUT);
    bind_int(&q, key_of(x->id, h->image.version));
    bind_int(&q, h->image.upload);
    bind_blob(&q, header, sizeof header);
    enum rxt_status st = query_done(&q, "write an image", err);
    if (st == RXT_EEXIST)
        return rxt_fail(err, st, "session %s has an image of version %" PRIu64 " already", x->name,
                        h->image.version);
    return st;
}

enum rxt_status image_delete(struct store *s, int64_t key, int64_t upload, struct rxt_error *err)
{
    struct query image = query_open(s, SQL_IMAGE_DELETE);
    bind_int(&image, key);
    TRY(query_done(&image, "remove an image", err));
    struct query shared = query_open(s, SQL_IMAGE_SHARED);
    bind_int(&shared, upload);
    enum rxt_status st = query_row(&shared, "look for forks of an image", err);
    query_close(&shared);
    return st == RXT_ENOTFOUND ? chunks_give_up(s, upload, err) : st;
}

/* Keeps the newest `keep`, and that of base. From the newest of the rest on; a handful at most, as
 * every commit of an image prunes. */
static enum rxt_status prune(struct store *s, int64_t session, uint64_t base, uint32_t keep,
                             struct rxt_error *err)
{
    for (;;) {
        struct query q = query_open(s, SQL_IMAGE_SPARE);
        /* The image of base is no candidate; base 0 has none, and may lose one. */
        bind_int(&q, key_of(session, base) - (base == 0));
        bind_int(&q, key_of(session, KEY_ASIDE));
        bind_int(&q, keep);
        enum rxt_status st = query_row(&q, "look for old images", err);
        int64_t key = st == RXT_OK ? column_int(&q, 0) : 0;
        int64_t upload = st == RXT_OK ? column_int(&q, 1) : 0;
        query_close(&q);
        if (st != RXT_OK)
            return st == RXT_ENOTFOUND ? RXT_OK : st;
        TRY(image_delete(s, key, upload, err));
    }
}

static enum rxt_status prune_one(struct store *s, int64_t session, uint32_t keep,
                                 struct rxt_error *err)
{
    struct store_session x;
    TRY(session_by_id(s, session, &x, err));
    return prune(s, session, x.base, keep, err);
}

enum rxt_status store_image_prune(struct store *s, int64_t session, uint32_t keep,
                                  struct rxt_error *err)
{
    TRY(tx_begin(s, err));
    return tx_end(s, prune_one(s, session, keep, err), err);
}

/* In a transaction: checks, makes room, then names the bytes. Room first, because the pages that
 * it frees are then written once, with the new bytes. */
static enum rxt_status commit_begin(struct store *s, int64_t session,
                                    const struct store_image *image, struct store_session *x,
                                    struct rxt_error *err)
{
    struct image_header h;
    struct store_image newest;
    TRY(session_by_id(s, session, x, err));
    TRY(fits(x, image, err));
    enum rxt_status st = image_query(s, session, 0, STORE_VERSION_MAX, &h, &newest, err);
    if (st == RXT_OK && newest.version < image->version)
        return prune(s, session, x->base, s->keep_images - 1, err);
    return st == RXT_ENOTFOUND || st == RXT_ECORRUPT ? RXT_OK : st;
}

static enum rxt_status commit_end(struct store *s, const struct store_upload *u,
                                  const struct store_session *x, const struct store_image *image,
                                  struct rxt_error *err)
{
    struct image_header h = {.image = *image, .n_chunk = u->n_chunk};
    if (image->bytes != u->bytes)
        return rxt_fail(err, RXT_ESHAPE, "image says %" PRIu64 " bytes, %" PRIu64 " were written",
                        image->bytes, u->bytes);
    h.image.upload = u->id;
    if (h.image.created_us == 0)
        h.image.created_us = clock_wall_us();
    memcpy(h.chain, u->check, sizeof h.chain);
    memcpy(h.tenant, x->tenant, sizeof h.tenant);
    memcpy(h.session, x->name, sizeof h.session);
    TRY(insert(s, x, &h, err));
    return prune(s, x->id, x->base, s->keep_images, err);
}

static enum rxt_status put_small(struct store *s, int64_t session, const struct store_image *image,
                                 const void *bytes, struct rxt_error *err)
{
    struct store_session x;
    TRY(commit_begin(s, session, image, &x, err));
    struct store_upload u = upload_next(s);
    TRY(chunk_put(s, &u, bytes, (size_t)image->bytes, err));
    return commit_end(s, &u, &x, image, err);
}

enum rxt_status store_image_put(struct store *s, int64_t session, const struct store_image *image,
                                const void *bytes, struct rxt_error *err)
{
    if (image->bytes == 0 || image->bytes > STORE_CHUNK_BYTES)
        return rxt_fail(err, RXT_ELIMIT, "image of %" PRIu64 " bytes: up to %u in one piece",
                        image->bytes, STORE_CHUNK_BYTES);
    TRY(tx_begin(s, err));
    return tx_end(s, put_small(s, session, image, bytes, err), err);
}

static enum rxt_status commit_large(struct store *s, const struct store_upload *u, int64_t session,
                                    const struct store_image *image, struct rxt_error *err)
{
    struct store_session x;
    TRY(upload_adopt(s, u, err));
    TRY(commit_begin(s, session, image, &x, err));
    return commit_end(s, u, &x, image, err);
}

enum rxt_status store_image_commit(struct store *s, const struct store_upload *u, int64_t session,
                                   const struct store_image *image, struct rxt_error *err)
{
    TRY(tx_begin(s, err));
    return tx_end(s, commit_large(s, u, session, image, err), err);
}

static enum rxt_status share_one(struct store *s, const struct store_session *from,
                                 const struct store_session *to, struct image_header *h,
                                 const struct store_image *there, struct rxt_error *err)
{
    TRY(header_expect(h, from, there, err));
    memcpy(h->tenant, to->tenant, sizeof h->tenant);
    memcpy(h->session, to->name, sizeof h->session);
    return insert(s, to, h, err);
}

enum rxt_status image_share(struct store *s, const struct store_session *from,
                            const struct store_session *to, uint64_t first, uint64_t last,
                            struct rxt_error *err)
{
    for (uint64_t v = last;;) {
        struct image_header h;
        struct store_image there;
        enum rxt_status st = image_query(s, from->id, first, v, &h, &there, err);
        if (st != RXT_OK)
            return st == RXT_ENOTFOUND ? RXT_OK : st;
        TRY(share_one(s, from, to, &h, &there, err));
        if (h.image.version == first)
            return RXT_OK;
        v = h.image.version - 1;
    }
}
