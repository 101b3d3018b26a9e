/* The fingerprint of a model: what is in its files. */
#include "rxt/checkpoint_impl.h"

#include "kernels/base/mem.h"
#include "rxt/safetensors_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define CHUNK ((size_t)64 * 1024)

/* What stands before the bytes of each file: its name and its size. */
static void add_head(XXH3_state_t *state, const char *name, uint64_t size)
{
    uint8_t le[8];
    for (int i = 0; i < 8; i++)
        le[i] = (uint8_t)(size >> (8 * i));
    (void)XXH3_128bits_update(state, name, strlen(name) + 1);
    (void)XXH3_128bits_update(state, le, sizeof le);
}

static enum rxt_status add_bytes(XXH3_state_t *state, int fd, uint64_t size, char *chunk)
{
    while (size > 0) {
        ssize_t got = read(fd, chunk, size < CHUNK ? (size_t)size : CHUNK);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) /* an error, or a file that became shorter */
            return RXT_EIO;
        (void)XXH3_128bits_update(state, chunk, (size_t)got);
        size -= (uint64_t)got;
    }
    return RXT_OK;
}

static enum rxt_status add_file(XXH3_state_t *state, const char *dir, const char *name,
                                bool required, struct rxt_error *err)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return rxt_fail(err, RXT_EINVAL, "%s: path of the folder is too long", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT && !required)
        return RXT_OK;
    struct stat s;
    enum rxt_status st = fd < 0 || fstat(fd, &s) != 0 ? RXT_EIO : RXT_OK;
    char *chunk = st == RXT_OK ? mem_alloc(CHUNK) : NULL;
    if (chunk) {
        add_head(state, name, (uint64_t)s.st_size);
        st = add_bytes(state, fd, (uint64_t)s.st_size, chunk);
    } else if (st == RXT_OK) {
        st = RXT_ENOMEM;
    }
    if (st != RXT_OK)
        (void)rxt_fail(err, st, "%s: %s", name,
                       st == RXT_ENOMEM ? "out of memory" : "cannot be read");
    mem_free(chunk);
    if (fd >= 0)
        close(fd);
    return st;
}

enum rxt_status checkpoint_hash(const struct checkpoint *ck, const char *dir, uint8_t hash[16],
                                struct rxt_error *err)
{
    enum rxt_status st;
    XXH3_state_t *state = XXH3_createState();
    if (!state || XXH3_128bits_reset(state) != XXH_OK) {
        XXH3_freeState(state);
        return rxt_fail(err, RXT_ENOMEM, "out of memory for a hash");
    }
    TRY_OR(done, add_file(state, dir, "config.json", true, err));
    TRY_OR(done, add_file(state, dir, "tokenizer.json", false, err));
    for (int32_t i = 0; i < safetensors_n_file(ck->files); i++) {
        size_t n = 0;
        const void *bytes = safetensors_file_bytes(ck->files, i, &n);
        add_head(state, safetensors_file_name(ck->files, i), n);
        (void)XXH3_128bits_update(state, bytes, n);
    }
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
    memcpy(hash, canonical.digest, 16);
done:
    XXH3_freeState(state);
    return st;
}
