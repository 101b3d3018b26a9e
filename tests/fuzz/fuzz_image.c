/* Images of a memory.
 * covers: stm/image.c
 *
 * Each input is read as it is, then with its hashes mended, then with its length mended as well: a
 * hash is no secret, so nothing behind it may rely on it. What is accepted must be the one spelling
 * of its content: imported and exported again it is the same bytes. */
#include "stm/stm_impl.h"

#include <stdlib.h>

enum { AT_BYTES = 40, AT_VALUES_HASH = 352, AT_HEADER_HASH = 368, HEADER = 384 };

static void must(bool condition)
{
    if (!condition)
        abort();
}

static struct lane *lane(void)
{
    static struct backend *be;
    static struct lane *ln;
    const struct backend_config cfg = {.name = "cpu", .n_thread = 1};
    const struct lane_limits limits = {.max_rows = 1, .max_seq = 1, .max_keys = 1, .max_width = 1};
    if (!ln) {
        must(backend_create(&be, &cfg, NULL) == RXT_OK);
        must(lane_create(&ln, be, LANE_MEMORY, &limits) == RXT_OK);
    }
    return ln;
}

static void same_again(const uint8_t *image, size_t size, const struct stm_image_info *info,
                       const void *values, size_t bytes)
{
    const struct stm_config cfg = {.n_layer = info->n_layer,
                                   .n_slot = info->n_slot,
                                   .embed_dim = info->embed_dim,
                                   .dtype = info->dtype};
    struct stm_image_info copy = *info;
    struct stm *m = NULL;
    uint8_t *again = malloc(size);
    must(again && stm_image_bytes(&cfg) == size && stm_bytes(&cfg) == bytes);
    must(stm_create(&m, lane(), &cfg, STM_ZEROS, 0) == RXT_OK);
    must(stm_import(m, lane(), info->version, values, bytes) == RXT_OK);
    must(stm_export(m, lane(), &copy, again, size) == RXT_OK);
    must(memcmp(again, image, size) == 0);
    stm_destroy(&m);
    free(again);
}

/* Against itself, and against an image that every other one differs from in some field. */
static void expect(const struct stm_image_info *info)
{
    static struct stm_image_info last;
    struct rxt_error err = {""};
    must(stm_image_expect(info, info, &err) == RXT_OK);
    if (stm_image_expect(info, &last, &err) != RXT_OK)
        must(err.text[0] != '\0');
    for (int field = 0; field < 6; field++) {
        struct stm_image_info other = *info;
        other.model_hash[0] ^= field == 0;
        other.tenant[0] = (char)(other.tenant[0] ^ (field == 1));
        other.session[0] = (char)(other.session[0] ^ (field == 2));
        other.n_slot += field == 3;
        other.dtype = field == 4 ? DTYPE_F16 : other.dtype;
        other.version += field == 5;
        must(stm_image_expect(info, &other, &err) == RXT_EMISMATCH && err.text[0] != '\0');
    }
    last = *info;
}

static void parse(const uint8_t *image, size_t size)
{
    struct stm_image_info info;
    struct rxt_error err = {""};
    const void *values = NULL;
    size_t bytes = 0;
    enum rxt_status st = stm_image_parse(image, size, &info, &values, &bytes, &err);
    must(st == RXT_OK || err.text[0] != '\0');
    if (st != RXT_OK)
        return;
    same_again(image, size, &info, values, bytes);
    expect(&info);
}

static void mend_hashes(uint8_t *image, size_t size)
{
    stm_digest(image + HEADER, size - HEADER, image + AT_VALUES_HASH);
    stm_digest(image, AT_HEADER_HASH, image + AT_HEADER_HASH);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    parse(data, size);
    if (size < HEADER)
        return 0;
    uint8_t *image = malloc(size);
    must(image != NULL);
    memcpy(image, data, size);
    mend_hashes(image, size);
    parse(image, size);
    uint64_t bytes = size - HEADER;
    memcpy(image + AT_BYTES, &bytes, sizeof bytes);
    mend_hashes(image, size);
    parse(image, size);
    free(image);
    return 0;
}
