/* XXH3 over fields in a fixed order and form, so that a row or header that was changed by anything
 * but us is seen when it is read: SQLite keeps no sums of its pages. */
#ifndef RXT_STORE_SEAL_IMPL_H
#define RXT_STORE_SEAL_IMPL_H

#include "store/store.h"

#include <assert.h>
#include <string.h>

/* Inline: the streaming state lies on our stack, whose size only the same version may say. */
#define XXH_INLINE_ALL
#include <xxhash.h>

/* Integers are written as they lie in memory. */
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the store's formats are little endian");

static inline void seal_bytes(XXH3_state_t *h, const void *p, size_t n)
{
    (void)XXH3_64bits_update(h, p, n); /* fails only for NULL with n > 0 */
}

static inline void seal_u64(XXH3_state_t *h, uint64_t v)
{
    seal_bytes(h, &v, sizeof v);
}

/* With its length: "ab","c" is not "a","bc". NULL is not "". */
static inline void seal_text(XXH3_state_t *h, const char *s)
{
    size_t n = s ? strlen(s) : 0;
    seal_u64(h, s ? n : UINT64_MAX);
    seal_bytes(h, s ? s : "", n);
}

#endif
