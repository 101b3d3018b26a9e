#include "stm/stm_impl.h"

/* Inlined: the state of a stream then lives on the stack, whatever version is installed. */
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { CHUNK = 64 * 1024 }; /* bytes on the stack: the values may lie on a device */

static void put(uint8_t hash[16], XXH128_hash_t value)
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, value);
    memcpy(hash, canonical.digest, 16);
}

void stm_digest(const void *bytes, size_t n, uint8_t hash[16])
{
    put(hash, XXH3_128bits(bytes, n));
}

enum rxt_status stm_hash(const struct stm *m, struct lane *ln, uint8_t hash[16])
{
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    XXH3_128bits_reset(&state);
    char chunk[CHUNK];
    size_t bytes = stm_bytes(&m->cfg);
    for (size_t at = 0; at < bytes; at += CHUNK) {
        size_t n = bytes - at < CHUNK ? bytes - at : CHUNK;
        TRY(lane_download(ln, chunk, (const char *)m->values + at, n));
        XXH3_128bits_update(&state, chunk, n);
    }
    put(hash, XXH3_128bits_digest(&state));
    return RXT_OK;
}
