#include "store/sqlite/header_impl.h"
#include "store/sqlite/seal_impl.h"

#include <inttypes.h>
#include <string.h>

#define FORMAT 1u
#define SEALED 392 /* bytes in front of the hash */

static const char magic[8] = "RXTIMAGE";

static uint8_t *put(uint8_t *at, const void *v, size_t n)
{
    memcpy(at, v, n);
    return at + n;
}

static const uint8_t *get(const uint8_t *at, void *v, size_t n)
{
    memcpy(v, at, n);
    return at + n;
}

void header_write(const struct image_header *h, uint8_t out[HEADER_BYTES])
{
    const struct store_image *x = &h->image;
    const uint32_t format = FORMAT;
    uint8_t *at = put(out, magic, sizeof magic);
    at = put(at, &format, 4);
    at = put(at, &h->n_chunk, 4);
    at = put(at, &x->version, 8);
    at = put(at, &x->dtype, 4);
    at = put(at, &x->n_layer, 4);
    at = put(at, &x->n_slot, 4);
    at = put(at, &x->embed_dim, 4);
    at = put(at, &x->bytes, 8);
    at = put(at, &x->created_us, 8);
    at = put(at, x->model_hash, sizeof x->model_hash);
    at = put(at, x->hash, sizeof x->hash);
    at = put(at, h->chain, sizeof h->chain);
    memset(at, 0, SEALED - (size_t)(at - out)); /* texts are padded */
    memcpy(at, x->bit_class, strnlen(x->bit_class, sizeof x->bit_class - 1));
    at += sizeof x->bit_class;
    memcpy(at, h->tenant, strnlen(h->tenant, sizeof h->tenant - 1));
    at += sizeof h->tenant;
    memcpy(at, h->session, strnlen(h->session, sizeof h->session - 1));
    XXH128_canonicalFromHash((XXH128_canonical_t *)(void *)(out + SEALED),
                             XXH3_128bits(out, SEALED));
}

enum rxt_status header_read(struct image_header *h, const void *bytes, size_t n,
                            struct rxt_error *err)
{
    const uint8_t *in = bytes;
    XXH128_canonical_t hash;
    uint32_t format;
    *h = (struct image_header){0};
    if (n != HEADER_BYTES || memcmp(in, magic, sizeof magic) != 0)
        return rxt_fail(err, RXT_ECORRUPT, "image header is damaged: %zu bytes, or not its magic",
                        n);
    XXH128_canonicalFromHash(&hash, XXH3_128bits(in, SEALED));
    if (memcmp(in + SEALED, &hash, sizeof hash) != 0)
        return rxt_fail(err, RXT_ECORRUPT, "image header is damaged: its hash does not fit");
    struct store_image *x = &h->image;
    const uint8_t *at = get(in + sizeof magic, &format, 4);
    if (format != FORMAT)
        return rxt_fail(err, RXT_ENEWER, "image has format %" PRIu32 ", this program knows %u",
                        format, FORMAT);
    at = get(at, &h->n_chunk, 4);
    at = get(at, &x->version, 8);
    at = get(at, &x->dtype, 4);
    at = get(at, &x->n_layer, 4);
    at = get(at, &x->n_slot, 4);
    at = get(at, &x->embed_dim, 4);
    at = get(at, &x->bytes, 8);
    at = get(at, &x->created_us, 8);
    at = get(at, x->model_hash, sizeof x->model_hash);
    at = get(at, x->hash, sizeof x->hash);
    at = get(at, h->chain, sizeof h->chain);
    at = get(at, x->bit_class, sizeof x->bit_class);
    at = get(at, h->tenant, sizeof h->tenant);
    (void)get(at, h->session, sizeof h->session);
    if (x->bit_class[sizeof x->bit_class - 1] || h->tenant[sizeof h->tenant - 1] ||
        h->session[sizeof h->session - 1])
        return rxt_fail(err, RXT_ECORRUPT, "image header is damaged: a text has no end");
    return RXT_OK;
}

enum rxt_status header_expect(const struct image_header *h, const struct store_session *x,
                              const struct store_image *want, struct rxt_error *err)
{
    const char *field = NULL;
    const struct store_image *got = &h->image;
    if (strcmp(h->tenant, x->tenant) != 0)
        field = "tenant";
    else if (strcmp(h->session, x->name) != 0)
        field = "session";
    else if (got->version != want->version)
        field = "version";
    else if (memcmp(got->model_hash, x->model_hash, sizeof x->model_hash) != 0)
        field = "model";
    else if (got->dtype != x->dtype)
        field = "dtype";
    else if (got->n_layer != x->n_layer || got->n_slot != x->n_slot ||
             got->embed_dim != x->embed_dim)
        field = "shape";
    else if (got->bytes != want->bytes)
        field = "size";
    else if (memcmp(got->hash, want->hash, sizeof want->hash) != 0)
        field = "hash of the memory";
    if (!field)
        return RXT_OK;
    return rxt_fail(err, RXT_EMISMATCH,
                    "image of version %" PRIu64 " of session %s belongs to another %s",
                    want->version, x->name, field);
}
