/* What is damaged in sealed bytes: a walk from record to record that takes nothing for granted and
 * goes on behind a record whose sum does not fit. */
#include "store/export_impl.h"
#include "store/sqlite/seal_impl.h"

#include "kernels/base/mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <sodium.h>

#define PIECE_BYTES 65536u /* what is read of a payload at once */

/* Where the fields lie that are looked at, in the payloads. */
enum {
    SHAPE_AT = 16,
    BASE_AT = 48,
    IMAGE_VERSION_AT = 16,
    IMAGE_BYTES_AT = 24,
    IDS_AT = 24,
    TURN_VERSION_AT = 52,
};

struct walk {
    store_read read;
    void *arg;
    store_part_found found;
    void *user;
    crypto_generichash_state seal;
    XXH3_state_t sum;
    uint32_t format;
    uint64_t at, n_record, n_turn, version; /* version: of the last turn, or base */
    bool has_base, bad;                     /* bad: some part is */
    struct store_image image;               /* shape; of images also the rest */
    uint8_t *buf;
};

static enum rxt_status take(struct walk *w, void *out, size_t n)
{
    enum rxt_status st = w->read(w->arg, out, n);
    if (st != RXT_OK)
        return st;
    (void)crypto_generichash_update(&w->seal, out, n);
    seal_bytes(&w->sum, out, n);
    w->at += n;
    return RXT_OK;
}

/* Tells of a part; detail NULL: nothing is wrong with it. */
static enum rxt_status tell(struct walk *w, const struct store_part *of, const char *detail, ...)
    __attribute__((format(printf, 3, 4)));
static enum rxt_status tell(struct walk *w, const struct store_part *of, const char *detail, ...)
{
    struct store_part part = *of;
    part.good = !detail;
    w->bad |= !part.good;
    if (detail) {
        va_list args;
        va_start(args, detail);
        (void)vsnprintf(part.detail, sizeof part.detail, detail, args);
        va_end(args);
    }
    return w->found(w->user, &part);
}

static uint32_t u32_at(const uint8_t *p, size_t at)
{
    uint32_t v;
    memcpy(&v, p + at, sizeof v);
    return v;
}

static uint64_t u64_at(const uint8_t *p, size_t at)
{
    uint64_t v;
    memcpy(&v, p + at, sizeof v);
    return v;
}

static enum rxt_status header(struct walk *w, bool *go_on)
{
    uint8_t head[EXPORT_HEADER_BYTES];
    const struct store_part part = {.what = STORE_PART_HEADER, .bytes = sizeof head};
    *go_on = false;
    enum rxt_status st = take(w, head, sizeof head);
    if (st == RXT_EFORMAT)
        return tell(w, &part, "it ends inside of its header");
    if (st != RXT_OK)
        return st;
    w->format = u32_at(head, 8);
    if (w->format == 0 || w->format > EXPORT_FORMAT)
        return tell(w, &part, "it says format %" PRIu32 "; this program knows 1 to %u", w->format,
                    EXPORT_FORMAT);
    *go_on = true;
    bool whole = memcmp(head, EXPORT_MAGIC, 8) == 0 && u32_at(head, 12) == 0;
    return tell(w, &part, whole ? NULL : "bytes 0 to 15 are not those of an export");
}

/* Whether a payload of n bytes that begins with these is a turn by its own lengths. */
static bool is_turn(const uint8_t *body, uint64_t n)
{
    uint64_t want = EXPORT_TURN_BYTES;
    if (n < want)
        return false;
    want += UINT64_C(4) * u32_at(body, IDS_AT);
    for (int k = 2; k <= 3; k++) {
        uint32_t text = u32_at(body, IDS_AT + 4 * (size_t)k);
        want += text == EXPORT_NO_TEXT ? 0 : text;
    }
    return n == want;
}

static bool is_image(const uint8_t *body, uint64_t n)
{
    return n > EXPORT_IMAGE_BYTES && u64_at(body, IMAGE_BYTES_AT) == n - EXPORT_IMAGE_BYTES;
}

/* What a record is: by its type, and where that may be damaged by its place and lengths. */
static enum store_part_kind kind_of(const struct walk *w, uint32_t type, const uint8_t *body,
                                    uint64_t n)
{
    if (w->n_record == 1)
        return STORE_PART_SESSION;
    if (n == sizeof(uint64_t) || type == EXPORT_END)
        return STORE_PART_END;
    if (is_turn(body, n) || (type == EXPORT_TURN && !is_image(body, n)))
        return STORE_PART_TURN;
    return w->n_turn && type != EXPORT_IMAGE ? STORE_PART_TURN : STORE_PART_IMAGE;
}

/* Reads a payload; its first bytes stay in `body`. */
static enum rxt_status payload(struct walk *w, uint8_t *body, size_t size, uint64_t n)
{
    size_t first = n < size ? (size_t)n : size;
    TRY(take(w, body, first));
    for (n -= first; n > 0;) {
        size_t some = n < PIECE_BYTES ? (size_t)n : PIECE_BYTES;
        TRY(take(w, w->buf, some));
        n -= some;
    }
    return RXT_OK;
}

/* Fills in what a record says of itself; whether it stands where it may. */
static bool read_fields(struct walk *w, struct store_part *part, const uint8_t *body, bool sum_fits)
{
    struct store_image *im = &w->image;
    uint64_t next = w->version + 1;
    switch (part->what) {
    case STORE_PART_SESSION:
        memcpy(im->model_hash, body, sizeof im->model_hash);
        im->dtype = u32_at(body, SHAPE_AT);
        im->n_layer = u32_at(body, SHAPE_AT + 4);
        im->n_slot = u32_at(body, SHAPE_AT + 8);
        im->embed_dim = u32_at(body, SHAPE_AT + 12);
        w->version = u64_at(body, BASE_AT);
        w->has_base = sum_fits;
        return part->bytes == EXPORT_SESSION_BYTES;
    case STORE_PART_IMAGE:
        memcpy(im->hash, body, sizeof im->hash);
        im->version = u64_at(body, IMAGE_VERSION_AT);
        im->bytes = u64_at(body, IMAGE_BYTES_AT);
        part->version = im->version;
        part->image = im;
        return is_image(body, part->bytes);
    case STORE_PART_TURN:
        part->version = u64_at(body, TURN_VERSION_AT);
        w->version = w->has_base || w->n_turn ? next : part->version;
        if (!sum_fits)
            part->version = w->version;
        w->n_turn++;
        return is_turn(body, part->bytes) && part->version == w->version;
    default:
        return part->bytes == sizeof(uint64_t) && u64_at(body, 0) == w->n_record - 1;
    }
}

/* One record; *end = it is the last one that can be told. */
static enum rxt_status record(struct walk *w, bool *end)
{
    uint8_t head[EXPORT_RECORD_BYTES] = {0}, body[EXPORT_SESSION_BYTES] = {0};
    struct store_part part = {.at = w->at + sizeof head};
    bool bad_before = w->bad;
    *end = true;
    w->n_record++;
    (void)XXH3_64bits_reset(&w->sum);
    enum rxt_status st = take(w, head, sizeof head);
    uint32_t type = u32_at(head, 0);
    part.bytes = u64_at(head, 8);
    bool sane = type >= EXPORT_SESSION && type <= EXPORT_END && u32_at(head, 4) == 0;
    if (bad_before && (st == RXT_EFORMAT || (st == RXT_OK && !sane)))
        return RXT_OK; /* the length of a damaged one led nowhere; that one was told */
    if (st == RXT_OK)
        st = payload(w, body, sizeof body, part.bytes);
    part.what = kind_of(w, type, body, part.bytes);
    uint64_t want = XXH3_64bits_digest(&w->sum), sum = want;
    if (st == RXT_OK && w->format != EXPORT_FORMAT_WITHOUT_SUMS)
        st = take(w, &sum, sizeof sum);
    if (st != RXT_OK && st != RXT_EFORMAT)
        return st;
    bool fits = st == RXT_OK && sum == want && sane;
    bool whole = read_fields(w, &part, body, fits) && fits;
    *end = st != RXT_OK || (part.what == STORE_PART_END && (fits || type == EXPORT_END));
    if (st != RXT_OK)
        return tell(w, &part, "record %" PRIu64 " is cut short, or its length is damaged",
                    w->n_record);
    return tell(w, &part,
                whole         ? NULL
                : sum != want ? "record %" PRIu64 " was changed after it was written"
                              : "record %" PRIu64 " contradicts itself or those before it",
                w->n_record);
}

static enum rxt_status seal(struct walk *w)
{
    uint8_t want[EXPORT_SEAL_BYTES], got[EXPORT_SEAL_BYTES];
    struct store_part part = {
        .what = STORE_PART_SEAL, .at = w->at, .bytes = sizeof want, .version = w->version};
    (void)crypto_generichash_final(&w->seal, want, sizeof want);
    enum rxt_status st = w->read(w->arg, got, sizeof got);
    if (st != RXT_OK && st != RXT_EFORMAT)
        return st;
    if (st == RXT_OK && memcmp(want, got, sizeof want) == 0)
        return tell(w, &part, NULL);
    if (st != RXT_OK)
        return w->bad ? RXT_OK : tell(w, &part, "it ends without its seal");
    if (w->bad)
        return tell(w, &part, "it does not fit, because of that");
    if (w->format != EXPORT_FORMAT_WITHOUT_SUMS)
        return tell(w, &part, "the seal itself was changed: all records are as they were written");
    part.unsure = true;
    return tell(w, &part, "something was changed, and format %u has no sums that tell what",
                EXPORT_FORMAT_WITHOUT_SUMS);
}

enum rxt_status store_export_look(store_read read, void *arg, store_part_found found, void *user,
                                  struct rxt_error *err)
{
    struct walk w = {.read = read, .arg = arg, .found = found, .user = user};
    bool go_on = false, end = false;
    if (sodium_init() < 0)
        return rxt_fail(err, RXT_EUNSUPPORTED, "libsodium cannot be used on this machine");
    w.buf = mem_alloc(PIECE_BYTES);
    if (!w.buf)
        return rxt_fail(err, RXT_ENOMEM, "out of memory for %u bytes of a record", PIECE_BYTES);
    (void)crypto_generichash_init(&w.seal, NULL, 0, EXPORT_SEAL_BYTES);
    enum rxt_status st = header(&w, &go_on);
    while (st == RXT_OK && go_on && !end)
        st = record(&w, &end);
    if (st == RXT_OK && go_on)
        st = seal(&w);
    mem_free(w.buf);
    return st;
}
