/* The reader of exported sessions. Its bytes may come from anywhere: every length is checked before
 * it is used, and the session becomes visible in one transaction after the seal. Chunks of images
 * and rows of the journal go in before, some at a time; they are nobody's until then, and a failed
 * import leaves them to the sweep. */
#include "store/arrival_impl.h"
#include "store/export_impl.h"
#include "store/sqlite/seal_impl.h"

#include "kernels/base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <sodium.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the store's formats are little endian");

/* Of a step: rows are small, and to write so many takes as long as a sync. */
#define STEP_ROWS 32

struct store_import {
    struct store *s;
    struct store_source from;
    struct rxt_error *err; /* of the call that runs */
    bool started, finished;
    bool arriving; /* the session's row is in the store, hidden */
    crypto_generichash_state seal;
    XXH3_state_t sum; /* of the record under way */
    uint32_t format;
    uint64_t n_record;
    uint32_t type; /* of the record under way, and what is left of its payload */
    uint64_t left;

    struct store_session session;
    uint64_t head; /* version of the last turn so far */
    uint64_t applied;
    uint32_t flags;
    char held_reason[STORE_REASON_MAX];

    struct store_image image[EXPORT_IMAGES_MAX];
    struct store_upload upload[EXPORT_IMAGES_MAX];
    size_t n_upload; /* begun; the last of them perhaps not whole */
    bool in_image;   /* its bytes are next */
    size_t n_read;   /* of them: in buf, not in the store */

    uint8_t *buf; /* a chunk, or ids and texts of a turn */
    size_t buf_bytes;
};

static enum rxt_status bad(struct store_import *in, const char *what)
{
    return rxt_fail(in->err, RXT_EFORMAT,
                    "not an exported session, or cut short: %s (record %" PRIu64 ")", what,
                    in->n_record);
}

static enum rxt_status take(struct store_import *in, void *out, size_t n)
{
    if (n == 0)
        return RXT_OK;
    enum rxt_status st = in->from.read(in->from.arg, out, n);
    if (st == RXT_EFORMAT)
        return bad(in, "it ends too early");
    if (st == RXT_OK) {
        (void)crypto_generichash_update(&in->seal, out, n);
        seal_bytes(&in->sum, out, n);
    }
    return st;
}

/* Fixed parts are read whole, then field by field. */
struct part {
    const uint8_t *at;
};

static void get(struct part *p, void *v, size_t n)
{
    memcpy(v, p->at, n);
    p->at += n;
}

static uint32_t get_u32(struct part *p)
{
    uint32_t v;
    get(p, &v, sizeof v);
    return v;
}

static uint64_t get_u64(struct part *p)
{
    uint64_t v;
    get(p, &v, sizeof v);
    return v;
}

/* False if the text fills its field, or what follows it is not zero. */
static bool get_text(struct part *p, char *out, size_t size)
{
    get(p, out, size);
    size_t n = strnlen(out, size);
    for (size_t i = n; i < size; i++)
        if (out[i])
            return false;
    return n < size;
}

static enum rxt_status reserve(struct store_import *in, size_t bytes)
{
    if (bytes <= in->buf_bytes)
        return RXT_OK;
    uint8_t *buf = mem_realloc(in->buf, bytes);
    if (!buf)
        return rxt_fail(in->err, RXT_ENOMEM, "out of memory for a record of %zu bytes", bytes);
    in->buf = buf;
    in->buf_bytes = bytes;
    return RXT_OK;
}

static enum rxt_status header(struct store_import *in)
{
    uint8_t head[EXPORT_HEADER_BYTES];
    struct part p = {head + 8};
    TRY(take(in, head, sizeof head));
    if (memcmp(head, EXPORT_MAGIC, 8) != 0)
        return bad(in, "it does not begin like one");
    in->format = get_u32(&p);
    if (in->format > EXPORT_FORMAT)
        return rxt_fail(in->err, RXT_ENEWER, "export has format %" PRIu32 ", this program knows %u",
                        in->format, EXPORT_FORMAT);
    if (in->format == 0 || get_u32(&p) != 0)
        return bad(in, "its header is damaged");
    return RXT_OK;
}

static enum rxt_status next(struct store_import *in)
{
    uint8_t head[EXPORT_RECORD_BYTES];
    struct part p = {head};
    (void)XXH3_64bits_reset(&in->sum);
    TRY(take(in, head, sizeof head));
    in->type = get_u32(&p);
    if (get_u32(&p) != 0)
        return bad(in, "a record is damaged");
    in->left = get_u64(&p);
    in->n_record += in->type != EXPORT_END;
    return RXT_OK;
}

/* The sum behind a record. */
static enum rxt_status record_end(struct store_import *in)
{
    uint64_t want = XXH3_64bits_digest(&in->sum), got;
    if (in->format == EXPORT_FORMAT_WITHOUT_SUMS)
        return RXT_OK;
    TRY(take(in, &got, sizeof got));
    if (got == want)
        return RXT_OK;
    return rxt_fail(in->err, RXT_ECORRUPT,
                    "record %" PRIu64 " of the export was changed after it was written, or damaged "
                    "on the way",
                    in->n_record + (in->type == EXPORT_END));
}

static enum rxt_status accept(struct store_import *in)
{
    return in->from.accept ? in->from.accept(in->from.arg, &in->session, in->err) : RXT_OK;
}

static enum rxt_status session(struct store_import *in)
{
    uint8_t body[EXPORT_SESSION_BYTES];
    struct store_session *x = &in->session;
    TRY(next(in));
    if (in->type != EXPORT_SESSION || in->left != sizeof body)
        return bad(in, "the session is not where it should be");
    TRY(take(in, body, sizeof body));
    TRY(record_end(in));
    struct part p = {body};
    get(&p, x->model_hash, sizeof x->model_hash);
    x->dtype = get_u32(&p);
    x->n_layer = get_u32(&p);
    x->n_slot = get_u32(&p);
    x->embed_dim = get_u32(&p);
    x->init = get_u32(&p);
    x->generator = get_u32(&p);
    x->seed = get_u64(&p);
    x->base = get_u64(&p);
    in->applied = get_u64(&p);
    x->origin_version = get_u64(&p);
    x->created_us = (int64_t)get_u64(&p);
    in->flags = get_u32(&p);
    bool whole = get_text(&p, x->model_name, sizeof x->model_name);
    whole = get_text(&p, x->origin, sizeof x->origin) && whole;
    whole = get_text(&p, in->held_reason, sizeof in->held_reason) && whole;
    assert(p.at == body + sizeof body);
    if (!whole || !x->origin[0] || x->base > in->applied || in->applied > STORE_VERSION_MAX ||
        x->origin_version > STORE_VERSION_MAX)
        return bad(in, "the session's row is damaged");
    in->head = x->base;
    return accept(in);
}

static enum rxt_status image_order(struct store_import *in, const struct store_image *im)
{
    uint64_t base = in->session.base;
    bool first = in->n_upload == 0;
    if (im->version < base || im->version > in->applied || (first && base && im->version != base) ||
        (!first && im->version <= in->image[in->n_upload - 1].version))
        return bad(in, "an image is out of order");
    return RXT_OK;
}

static enum rxt_status image(struct store_import *in)
{
    uint8_t body[EXPORT_IMAGE_BYTES];
    if (in->n_upload == EXPORT_IMAGES_MAX || in->left <= sizeof body)
        return bad(in, "an image too many, or without bytes");
    TRY(take(in, body, sizeof body));
    in->left -= sizeof body;
    struct store_image *im = &in->image[in->n_upload];
    const struct store_session *x = &in->session;
    *im = (struct store_image){
        .dtype = x->dtype, .n_layer = x->n_layer, .n_slot = x->n_slot, .embed_dim = x->embed_dim};
    memcpy(im->model_hash, x->model_hash, sizeof im->model_hash);
    struct part p = {body};
    get(&p, im->hash, sizeof im->hash);
    im->version = get_u64(&p);
    im->bytes = get_u64(&p);
    im->created_us = (int64_t)get_u64(&p);
    if (!get_text(&p, im->bit_class, sizeof im->bit_class) || im->bytes != in->left)
        return bad(in, "an image's header is damaged");
    assert(p.at == body + sizeof body);
    TRY(image_order(in, im));
    TRY(reserve(in, STORE_CHUNK_BYTES));
    TRY(store_image_begin(in->s, &in->upload[in->n_upload], in->err));
    in->n_upload++;
    in->in_image = true;
    return RXT_OK;
}

/* One step reads, the next one writes: each takes about as long. */
static enum rxt_status image_chunk(struct store_import *in)
{
    if (in->n_read == 0) {
        in->n_read = in->left < STORE_CHUNK_BYTES ? (size_t)in->left : STORE_CHUNK_BYTES;
        return take(in, in->buf, in->n_read);
    }
    TRY(store_image_chunk(in->s, &in->upload[in->n_upload - 1], in->buf, in->n_read, in->err));
    in->left -= in->n_read;
    in->n_read = 0;
    if (in->left > 0)
        return RXT_OK;
    in->in_image = false;
    TRY(record_end(in));
    return next(in);
}

/* Reads a text of n bytes to *at, with a zero; NULL if it is absent. */
static enum rxt_status text(struct store_import *in, uint32_t n, uint8_t **at, const char **out)
{
    *out = NULL;
    if (n == EXPORT_NO_TEXT)
        return RXT_OK;
    TRY(take(in, *at, n));
    if (memchr(*at, 0, n))
        return bad(in, "a text has a zero in it");
    (*at)[n] = '\0';
    *out = (const char *)*at;
    *at += n + 1;
    return RXT_OK;
}

static uint64_t length(uint32_t n)
{
    return n == EXPORT_NO_TEXT ? 0 : n;
}

/* What the store refuses to take is the fault of the bytes; what the disk does is not. */
static enum rxt_status content(struct store_import *in, enum rxt_status st, const char *what)
{
    char why[sizeof in->err->text];
    switch (st) {
    case RXT_EINVAL:
    case RXT_EEXIST:
    case RXT_EEXPIRED:
    case RXT_ESTALE:
    case RXT_ENOTFOUND:
    case RXT_ELIMIT:
        (void)snprintf(why, sizeof why, "%s is refused: %.180s", what,
                       in->err ? in->err->text : rxt_status_text(st));
        return bad(in, why);
    default:
        return st;
    }
}

static enum rxt_status turn(struct store_import *in)
{
    uint8_t body[EXPORT_TURN_BYTES];
    if (in->left < sizeof body)
        return bad(in, "a turn is too short");
    TRY(take(in, body, sizeof body));
    struct store_turn t = {.state = STORE_LIVE};
    struct part p = {body};
    get(&p, t.request, sizeof t.request);
    t.kind = (enum store_kind)get_u32(&p);
    t.candidate = get_u32(&p);
    t.n_ids = get_u32(&p);
    t.n_query = get_u32(&p);
    uint32_t query = get_u32(&p), answer = get_u32(&p);
    t.top_k = get_u32(&p);
    get(&p, &t.temperature, sizeof t.temperature);
    get(&p, &t.top_p, sizeof t.top_p);
    t.version = get_u64(&p);
    t.read_version = get_u64(&p);
    t.parent = get_u64(&p);
    t.seed = get_u64(&p);
    t.wall_us = (int64_t)get_u64(&p);
    bool whole = get_text(&p, t.finish, sizeof t.finish);
    whole = get_text(&p, t.bit_class, sizeof t.bit_class) && whole;
    assert(p.at == body + sizeof body);
    uint64_t bytes = (uint64_t)t.n_ids * sizeof *t.ids + length(query) + length(answer);
    if (!whole || t.n_ids > STORE_IDS_MAX || length(query) >= STORE_TEXT_MAX ||
        length(answer) >= STORE_TEXT_MAX || in->left - sizeof body != bytes)
        return bad(in, "a turn is damaged");
    if (t.version != in->head + 1)
        return bad(in, "a turn is out of order");
    TRY(reserve(in, (size_t)bytes + 2));
    TRY(take(in, in->buf, t.n_ids * sizeof *t.ids));
    t.ids = (const int32_t *)(const void *)in->buf;
    uint8_t *at = in->buf + t.n_ids * sizeof *t.ids;
    TRY(text(in, query, &at, &t.query_text));
    TRY(text(in, answer, &at, &t.answer_text));
    TRY(record_end(in));
    in->head = t.version;
    return content(in, store_turn_put(in->s, in->session.id, &t, in->err), "a turn");
}

static enum rxt_status end(struct store_import *in)
{
    uint64_t n;
    uint8_t want[EXPORT_SEAL_BYTES], got[EXPORT_SEAL_BYTES];
    if (in->left != sizeof n)
        return bad(in, "its end is damaged");
    TRY(take(in, &n, sizeof n));
    TRY(record_end(in));
    (void)crypto_generichash_final(&in->seal, want, sizeof want);
    enum rxt_status st = in->from.read(in->from.arg, got, sizeof got);
    if (st != RXT_OK)
        return st == RXT_EFORMAT ? bad(in, "it ends without its seal") : st;
    if (memcmp(want, got, sizeof want) != 0)
        return rxt_fail(in->err, RXT_ECORRUPT,
                        "export was changed after it was sealed, or damaged on the way");
    if (n != in->n_record)
        return bad(in, "records are missing");
    if (in->head < in->applied || (in->session.base && in->n_upload == 0))
        return bad(in, "it lacks what its memory is made of");
    return RXT_OK;
}

/* In a batch: what makes the rows a session, after the seal. */
static enum rxt_status become_visible(struct store_import *in)
{
    struct store *s = in->s;
    TRY(end(in));
    TRY(accept(in));
    in->session.applied = in->applied;
    TRY(arrival_finish(s, &in->session, in->err));
    for (size_t i = 0; i < in->n_upload; i++)
        TRY(store_image_commit(s, &in->upload[i], in->session.id, &in->image[i], in->err));
    return content(in,
                   store_session_set_state(s, in->session.id, in->flags, in->held_reason, in->err),
                   "the session's state");
}

/* In a batch: some rows, and the end if it comes behind them. */
static enum rxt_status rows(struct store_import *in, bool *whole)
{
    uint64_t bytes = 0;
    if (!in->arriving)
        TRY(arrival_begin(in->s, &in->session, in->err));
    for (int n = 0; in->type == EXPORT_TURN; n++) {
        bytes += in->left;
        if (n == STEP_ROWS || (n > 0 && bytes > STORE_CHUNK_BYTES))
            return RXT_OK;
        TRY(turn(in));
        TRY(next(in));
    }
    if (in->type != EXPORT_END)
        return bad(in, "a record is of unknown type");
    *whole = true;
    return become_visible(in);
}

static enum rxt_status start(struct store_import *in)
{
    struct store_session there;
    TRY(store_view_begin(in->s, in->err)); /* refuses to be inside of a batch */
    enum rxt_status st =
        store_session_get(in->s, in->session.tenant, in->session.name, &there, in->err);
    store_view_end(in->s);
    if (st == RXT_OK)
        return rxt_fail(in->err, RXT_EEXIST, "session %s is there already", in->session.name);
    if (st != RXT_ENOTFOUND)
        return st;
    TRY(header(in));
    TRY(session(in));
    return next(in);
}

static enum rxt_status some_rows(struct store_import *in)
{
    bool whole = false;
    TRY(store_batch_begin(in->s, in->err));
    enum rxt_status st = rows(in, &whole);
    if (st != RXT_OK) {
        store_batch_abort(in->s);
        return st;
    }
    TRY(store_batch_commit(in->s, in->err));
    in->arriving = true;
    in->finished = whole;
    return RXT_OK;
}

static enum rxt_status step(struct store_import *in)
{
    if (!in->started) {
        in->started = true;
        return start(in);
    }
    if (in->type != EXPORT_IMAGE)
        return some_rows(in);
    return in->in_image ? image_chunk(in) : image(in);
}

/* What was written for nothing is left to store_sweep; what cannot be given up now is swept when
 * the lease is taken. */
static void give_up(struct store_import *in)
{
    if (in->n_upload == 0 && !in->arriving)
        return;
    if (store_batch_begin(in->s, NULL) != RXT_OK)
        return;
    for (size_t i = 0; i < in->n_upload; i++)
        (void)store_image_abort(in->s, &in->upload[i], NULL);
    if (in->arriving)
        (void)arrival_give_up(in->s, in->session.id, NULL);
    (void)store_batch_commit(in->s, NULL);
}

enum rxt_status store_import_begin(struct store_import **out, struct store *s, const char *tenant,
                                   const char *name, const struct store_source *from,
                                   struct rxt_error *err)
{
    if (strnlen(tenant, STORE_NAME_MAX) == STORE_NAME_MAX ||
        strnlen(name, STORE_NAME_MAX) == STORE_NAME_MAX)
        return rxt_fail(err, RXT_ELIMIT, "name is longer than %d bytes", STORE_NAME_MAX - 1);
    if (sodium_init() < 0)
        return rxt_fail(err, RXT_EUNSUPPORTED, "libsodium cannot be used on this machine");
    struct store_import *in = mem_alloc(sizeof *in);
    if (!in)
        return rxt_fail(err, RXT_ENOMEM, "out of memory for an import");
    in->s = s;
    in->from = *from;
    /* arrival_begin checks the lengths of these and the flags */
    (void)memccpy(in->session.tenant, tenant, 0, sizeof in->session.tenant);
    (void)memccpy(in->session.name, name, 0, sizeof in->session.name);
    (void)crypto_generichash_init(&in->seal, NULL, 0, EXPORT_SEAL_BYTES);
    *out = in;
    return RXT_OK;
}

enum rxt_status store_import_step(struct store_import *in, bool *more, struct rxt_error *err)
{
    in->err = err;
    enum rxt_status st = step(in);
    *more = st == RXT_OK && !in->finished;
    return st;
}

void store_import_end(struct store_import **import)
{
    struct store_import *in = *import;
    if (!in)
        return;
    if (!in->finished)
        give_up(in);
    mem_free(in->buf);
    mem_free(in);
    *import = NULL;
}

enum rxt_status store_import(struct store *s, const char *tenant, const char *name,
                             const struct store_source *from, struct store_session *out,
                             struct rxt_error *err)
{
    struct store_import *in = NULL;
    bool more = true;
    TRY(store_import_begin(&in, s, tenant, name, from, err));
    enum rxt_status st = RXT_OK;
    while (st == RXT_OK && more)
        st = store_import_step(in, &more, err);
    store_import_end(&in);
    if (st == RXT_OK && out)
        st = store_session_get(s, tenant, name, out, err);
    return st;
}
