/* Header of an image, column image.header: what the bytes are bound to. It repeats what keys and
 * session row say, so that an image that came to the wrong place is refused and not remembered.
 *
 *   at  bytes  (little endian)
 *    0      8  "RXTIMAGE"
 *    8      4  format, 1
 *   12      4  number of chunks
 *   16      8  version
 *   24      4  dtype
 *   28     12  n_layer, n_slot, embed_dim
 *   40      8  bytes
 *   48      8  created, microseconds since 1970
 *   56     16  model hash
 *   72     16  hash of the memory, as the caller counts it
 *   88     16  chain over the seals of the chunks, in order
 *  104     32  bit class, padded with zeros
 *  136    128  tenant, padded with zeros
 *  264    128  session, padded with zeros
 *  392     16  XXH3-128 of bytes 0 to 391
 */
#ifndef RXT_STORE_HEADER_IMPL_H
#define RXT_STORE_HEADER_IMPL_H

#include "store/store.h"

#define HEADER_BYTES 408

struct image_header {
    struct store_image image; /* but not its upload */
    uint32_t n_chunk;
    uint8_t chain[STORE_HASH_BYTES];
    char tenant[STORE_NAME_MAX], session[STORE_NAME_MAX];
};

void header_write(const struct image_header *h, uint8_t out[HEADER_BYTES]);
/* Parses hostile bytes. ECORRUPT, ENEWER (format). */
enum rxt_status header_read(struct image_header *h, const void *bytes, size_t n,
                            struct rxt_error *err);
/* EMISMATCH naming the first field that is not as the session and the wanted image say. */
enum rxt_status header_expect(const struct image_header *h, const struct store_session *x,
                              const struct store_image *want, struct rxt_error *err);

#endif
