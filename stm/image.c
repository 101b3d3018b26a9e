/* An image is one version of one memory as bytes: a header, then the values [L,S,D] as they are
 * stored. Little endian throughout. Format 1:
 *
 *   at   bytes  field
 *   0    8      magic "RXT-STM\n"
 *   8    4      format = 1
 *   12   4      dtype of the values: 1 = float32, 2 = bfloat16
 *   16   8      version
 *   24   4      L, layers
 *   28   4      S, slots
 *   32   4      D, embed_dim
 *   36   4      zero
 *   40   8      bytes of the values = L * S * D * 4 or 2
 *   48   32     name of the bit class, terminated, zeros to the end
 *   80   16     hash of the model
 *   96   128    tenant, terminated, zeros to the end
 *   224  128    session, terminated, zeros to the end
 *   352  16     XXH3-128 of the values, canonical (big-endian)
 *   368  16     XXH3-128 of bytes 0..367, canonical
 *   384         values
 *
 * A change of this layout is a new format number; magic and the place of the number stay. */
#include "stm/stm_impl.h"

#include "kernels/base/log.h"

#include <math.h>

static const char MAGIC[8] = {'R', 'X', 'T', '-', 'S', 'T', 'M', '\n'};
enum { FORMAT = 1 };
enum {
    AT_FORMAT = 8,
    AT_DTYPE = 12,
    AT_VERSION = 16,
    AT_LAYERS = 24,
    AT_SLOTS = 28,
    AT_DIM = 32,
    AT_ZERO = 36,
    AT_BYTES = 40,
    AT_CLASS = 48,
    AT_MODEL = 80,
    AT_TENANT = 96,
    AT_SESSION = 224,
    AT_VALUES_HASH = 352,
    AT_HEADER_HASH = 368,
    HEADER = 384,
};
static_assert(AT_CLASS + STM_CLASS_MAX == AT_MODEL && AT_TENANT + STM_OWNER_MAX == AT_SESSION &&
                  AT_SESSION + STM_OWNER_MAX == AT_VALUES_HASH,
              "the layout of format 1 is fixed");

static const enum dtype dtype_of_code[] = {[1] = DTYPE_F32, [2] = DTYPE_BF16};

static uint32_t get32(const void *image, size_t at)
{
    uint32_t v;
    memcpy(&v, (const char *)image + at, sizeof v);
    return v;
}

static uint64_t get64(const void *image, size_t at)
{
    uint64_t v;
    memcpy(&v, (const char *)image + at, sizeof v);
    return v;
}

static void put32(void *image, size_t at, uint32_t v)
{
    memcpy((char *)image + at, &v, sizeof v);
}

static void put64(void *image, size_t at, uint64_t v)
{
    memcpy((char *)image + at, &v, sizeof v);
}

size_t stm_image_bytes(const struct stm_config *cfg)
{
    size_t n = stm_bytes(cfg);
    return n == 0 || n > SIZE_MAX - HEADER ? 0 : HEADER + n;
}

/* ---- write ------------------------------------------------------------------------------ */

static bool terminated(const char *name, size_t size)
{
    return memchr(name, '\0', size) != NULL;
}

/* The field holds zeros already. */
static void put_name(void *image, size_t at, const char *name)
{
    memcpy((char *)image + at, name, strlen(name));
}

static void write_header(char *image, const struct stm_image_info *info, size_t bytes)
{
    memset(image, 0, HEADER);
    memcpy(image, MAGIC, sizeof MAGIC);
    put32(image, AT_FORMAT, FORMAT);
    put32(image, AT_DTYPE, info->dtype == DTYPE_F32 ? 1 : 2);
    put64(image, AT_VERSION, info->version);
    put32(image, AT_LAYERS, (uint32_t)info->n_layer);
    put32(image, AT_SLOTS, (uint32_t)info->n_slot);
    put32(image, AT_DIM, (uint32_t)info->embed_dim);
    put64(image, AT_BYTES, bytes);
    put_name(image, AT_CLASS, info->bit_class);
    memcpy(image + AT_MODEL, info->model_hash, sizeof info->model_hash);
    put_name(image, AT_TENANT, info->tenant);
    put_name(image, AT_SESSION, info->session);
    memcpy(image + AT_VALUES_HASH, info->values_hash, sizeof info->values_hash);
    stm_digest(image, AT_HEADER_HASH, (uint8_t *)image + AT_HEADER_HASH);
}

enum rxt_status stm_export(const struct stm *m, struct lane *ln, struct stm_image_info *info,
                           void *image, size_t size)
{
    if (size != stm_image_bytes(&m->cfg))
        return RXT_ESHAPE;
    if (!terminated(info->bit_class, sizeof info->bit_class) ||
        !terminated(info->tenant, sizeof info->tenant) ||
        !terminated(info->session, sizeof info->session))
        return RXT_EINVAL;
    char *values = (char *)image + HEADER;
    TRY(lane_download(ln, values, m->values, size - HEADER));
    info->version = m->version;
    info->n_layer = m->cfg.n_layer;
    info->n_slot = m->cfg.n_slot;
    info->embed_dim = m->cfg.embed_dim;
    info->dtype = m->cfg.dtype;
    stm_digest(values, size - HEADER, info->values_hash);
    write_header(image, info, size - HEADER);
    return RXT_OK;
}

/* ---- read ------------------------------------------------------------------------------- */

/* A name is text, a terminator, and zeros to the end of its field. */
static bool get_name(char *name, size_t size, const void *image, size_t at)
{
    memcpy(name, (const char *)image + at, size);
    if (!terminated(name, size))
        return false;
    for (size_t i = strlen(name); i < size; i++)
        if (name[i] != '\0')
            return false;
    return true;
}

static bool same_hash(const void *bytes, size_t n, const void *want)
{
    uint8_t hash[16];
    stm_digest(bytes, n, hash);
    return memcmp(hash, want, sizeof hash) == 0;
}

/* Dimensions are bounded by the bytes that are there: nothing else is believed. */
static enum rxt_status parse_shape(const void *image, size_t size, struct stm_image_info *info,
                                   struct rxt_error *err)
{
    uint32_t code = get32(image, AT_DTYPE);
    uint32_t dim[3] = {get32(image, AT_LAYERS), get32(image, AT_SLOTS), get32(image, AT_DIM)};
    if (code != 1 && code != 2)
        return rxt_fail(err, RXT_ECORRUPT, "image: unknown dtype code %u", code);
    for (int i = 0; i < 3; i++)
        if (dim[i] == 0 || dim[i] > INT32_MAX)
            return rxt_fail(err, RXT_ECORRUPT, "image: impossible shape [%u,%u,%u]", dim[0], dim[1],
                            dim[2]);
    const struct stm_config cfg = {.n_layer = (int32_t)dim[0],
                                   .n_slot = (int32_t)dim[1],
                                   .embed_dim = (int32_t)dim[2],
                                   .dtype = dtype_of_code[code]};
    size_t bytes = stm_bytes(&cfg);
    if (bytes == 0 || bytes != get64(image, AT_BYTES) || bytes != size - HEADER)
        return rxt_fail(err, RXT_ECORRUPT,
                        "image: %zu bytes of values do not make [%u,%u,%u] of %s", size - HEADER,
                        dim[0], dim[1], dim[2], dtype_name(cfg.dtype));
    info->n_layer = cfg.n_layer;
    info->n_slot = cfg.n_slot;
    info->embed_dim = cfg.embed_dim;
    info->dtype = cfg.dtype;
    return RXT_OK;
}

static enum rxt_status parse_header(const void *image, size_t size, struct stm_image_info *info,
                                    struct rxt_error *err)
{
    if (size < HEADER)
        return rxt_fail(err, RXT_ECORRUPT, "image: %zu bytes, a header alone has %d", size, HEADER);
    if (memcmp(image, MAGIC, sizeof MAGIC) != 0)
        return rxt_fail(err, RXT_ECORRUPT, "image: does not begin as an image of a memory");
    uint32_t format = get32(image, AT_FORMAT);
    if (format > FORMAT)
        return rxt_fail(err, RXT_ENEWER, "image: format %u, this release reads up to %d", format,
                        FORMAT);
    if (format != FORMAT)
        return rxt_fail(err, RXT_ECORRUPT, "image: there is no format %u", format);
    if (!same_hash(image, AT_HEADER_HASH, (const char *)image + AT_HEADER_HASH))
        return rxt_fail(err, RXT_ECORRUPT, "image: the header is not what was written");
    TRY(parse_shape(image, size, info, err));
    info->version = get64(image, AT_VERSION);
    memcpy(info->model_hash, (const char *)image + AT_MODEL, sizeof info->model_hash);
    memcpy(info->values_hash, (const char *)image + AT_VALUES_HASH, sizeof info->values_hash);
    if (get32(image, AT_ZERO) != 0 ||
        !get_name(info->bit_class, sizeof info->bit_class, image, AT_CLASS) ||
        !get_name(info->tenant, sizeof info->tenant, image, AT_TENANT) ||
        !get_name(info->session, sizeof info->session, image, AT_SESSION))
        return rxt_fail(err, RXT_ECORRUPT, "image: a name or the padding of the header is bad");
    return RXT_OK;
}

enum rxt_status stm_image_parse(const void *image, size_t size, struct stm_image_info *info,
                                const void **values, size_t *values_bytes, struct rxt_error *err)
{
    TRY(parse_header(image, size, info, err));
    const char *first = (const char *)image + HEADER;
    size_t bytes = size - HEADER, n = bytes / dtype_bytes(info->dtype);
    if (!same_hash(first, bytes, info->values_hash))
        return rxt_fail(err, RXT_ECORRUPT, "image: the values are not what was written");
    for (size_t i = 0; i < n; i++)
        if (!isfinite(dtype_value(first, info->dtype, i)))
            return rxt_fail(err, RXT_ECORRUPT, "image: value %zu is not finite", i);
    if (values)
        *values = first;
    if (values_bytes)
        *values_bytes = bytes;
    return RXT_OK;
}

/* ---- compare ---------------------------------------------------------------------------- */

static void hex(const uint8_t hash[16], char out[33])
{
    for (int i = 0; i < 16; i++)
        for (int half = 0; half < 2; half++)
            out[2 * i + half] = "0123456789abcdef"[hash[i] >> (half ? 0 : 4) & 15];
    out[32] = '\0';
}

/* Names come from outside: escaped, and cut so that both fit into the sentence. */
static enum rxt_status other_name(struct rxt_error *err, const char *field, const char *got,
                                  const char *want)
{
    char a[80], b[80];
    return rxt_fail(err, RXT_EMISMATCH, "image of %s \"%s\", expected \"%s\"", field,
                    log_escape(a, sizeof a, got), log_escape(b, sizeof b, want));
}

enum rxt_status stm_image_expect(const struct stm_image_info *got,
                                 const struct stm_image_info *want, struct rxt_error *err)
{
    if (memcmp(got->model_hash, want->model_hash, sizeof got->model_hash) != 0) {
        char a[33], b[33];
        hex(got->model_hash, a);
        hex(want->model_hash, b);
        return rxt_fail(err, RXT_EMISMATCH, "image of model %s, expected %s", a, b);
    }
    if (strcmp(got->tenant, want->tenant) != 0)
        return other_name(err, "tenant", got->tenant, want->tenant);
    if (strcmp(got->session, want->session) != 0)
        return other_name(err, "session", got->session, want->session);
    if (got->n_layer != want->n_layer || got->n_slot != want->n_slot ||
        got->embed_dim != want->embed_dim)
        return rxt_fail(err, RXT_EMISMATCH, "image of shape [%d,%d,%d], expected [%d,%d,%d]",
                        got->n_layer, got->n_slot, got->embed_dim, want->n_layer, want->n_slot,
                        want->embed_dim);
    if (got->dtype != want->dtype)
        return rxt_fail(err, RXT_EMISMATCH, "image of dtype %s, expected %s",
                        dtype_name(got->dtype), dtype_name(want->dtype));
    if (got->version != want->version)
        return rxt_fail(err, RXT_EMISMATCH, "image of version %llu, expected %llu",
                        (unsigned long long)got->version, (unsigned long long)want->version);
    return RXT_OK;
}
