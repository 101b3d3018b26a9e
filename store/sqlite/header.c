#include "store/sqlite/header_impl.h"
#include "store/sqlite/seal_impl.h"

#include <inttypes.h>
#include <string.h>

#define FORMAT 1u
#define SEALED 392 /* bytes in front of the hash */

static const char magic[8] = "RXTIMAGE";

/* Every field between magic and hash, in the order of the layout. */
static void copy_fields(struct image_header *h, uint32_t *format, uint8_t *bytes, bool read)
{
    struct store_image *x = &h->image;
    const struct {
        void *at;
        size_t n;
    } field[] = {
        {format, 4},
        {&h->n_chunk, 4},
        {&x->version, 8},
        {&x->dtype, 4},
        {&x->n_layer, 4},
        {&x->n_slot, 4},
        {&x->embed_dim, 4},
        {&x->bytes, 8},
        {&x->created_us, 8},
        {x->model_hash, sizeof x->model_hash},
        {x->hash, sizeof x->hash},
        {h->chain, sizeof h->chain},
        {x->bit_class, sizeof x->bit_class},
        {h->tenant, sizeof h->tenant},
        {h->session, sizeof h->session},
    };
    bytes += sizeof magic;
    for (size_t i = 0; i < sizeof field / sizeof *field; i++) {
        memcpy(read ? field[i].at : bytes, read ? bytes : field[i].at, field[i].n);
        bytes += field[i].n;
    }
}

/* Zeros from the end of a text to the end of its field. */
static void pad(char *text, size_t size)
{
    size_t n = strnlen(text, size - 1);
    memset(text + n, 0, size - n);
}

void header_write(const struct image_header *h, uint8_t out[HEADER_BYTES])
{
    struct image_header x = *h;
    uint32_t format = FORMAT;
    pad(x.image.bit_class, sizeof x.image.bit_class);
    pad(x.tenant, sizeof x.tenant);
    pad(x.session, sizeof x.session);
    memcpy(out, magic, sizeof magic);
    copy_fields(&x, &format, out, false);
    XXH128_canonicalFromHash((XXH128_canonical_t *)(void *)(out + SEALED),
                             XXH3_128bits(out, SEALED));
}

enum rxt_status header_read(struct image_header *h, const void *bytes, size_t n,
                            struct rxt_error *err)
{
    uint8_t in[HEADER_BYTES];
    XXH128_canonical_t hash;
    uint32_t format;
    *h = (struct image_header){0};
    if (n != HEADER_BYTES || memcmp(bytes, magic, sizeof magic) != 0)
        return rxt_fail(err, RXT_ECORRUPT, "image header is damaged: %zu bytes, or not its magic",
                        n);
    memcpy(in, bytes, sizeof in);
    XXH128_canonicalFromHash(&hash, XXH3_128bits(in, SEALED));
    if (memcmp(in + SEALED, &hash, sizeof hash) != 0)
        return rxt_fail(err, RXT_ECORRUPT, "image header is damaged: its hash does not fit");
    struct image_header x = {0};
    copy_fields(&x, &format, in, true);
    if (format != FORMAT)
        return rxt_fail(err, RXT_ENEWER, "image has format %" PRIu32 ", this program knows %u",
                        format, FORMAT);
    if (x.image.bit_class[sizeof x.image.bit_class - 1] || x.tenant[sizeof x.tenant - 1] ||
        x.session[sizeof x.session - 1])
        return rxt_fail(err, RXT_ECORRUPT, "image header is damaged: a text has no end");
    *h = x;
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
