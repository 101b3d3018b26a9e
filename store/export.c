#include "store/export_impl.h"
#include "store/sqlite/seal_impl.h"

#include <assert.h>
#include <string.h>

#include <sodium.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the store's formats are little endian");
static_assert(STORE_REASON_MAX == STORE_NAME_MAX, "a field of the export format");

struct out {
    store_write write;
    void *arg;
    crypto_generichash_state seal;
    XXH3_state_t sum; /* of the record under way */
    uint64_t n_record;
};

static enum rxt_status emit(void *arg, const void *bytes, size_t n)
{
    struct out *o = arg;
    if (n == 0)
        return RXT_OK;
    (void)crypto_generichash_update(&o->seal, bytes, n);
    seal_bytes(&o->sum, bytes, n);
    return o->write(o->arg, bytes, n);
}

/* Fixed parts are laid out in a buffer of the right size, field by field. */
struct part {
    uint8_t *at;
};

static void add(struct part *p, const void *v, size_t n)
{
    memcpy(p->at, v, n);
    p->at += n;
}

static void add_u32(struct part *p, uint32_t v)
{
    add(p, &v, sizeof v);
}

static void add_u64(struct part *p, uint64_t v)
{
    add(p, &v, sizeof v);
}

static void add_text(struct part *p, const char *s, size_t size)
{
    size_t n = strnlen(s, size - 1);
    memcpy(p->at, s, n);
    memset(p->at + n, 0, size - n);
    p->at += size;
}

static enum rxt_status record(struct out *o, enum export_type type, uint64_t bytes)
{
    uint8_t head[EXPORT_RECORD_BYTES];
    struct part p = {head};
    add_u32(&p, (uint32_t)type);
    add_u32(&p, 0);
    add_u64(&p, bytes);
    o->n_record += type != EXPORT_END;
    (void)XXH3_64bits_reset(&o->sum);
    return emit(o, head, sizeof head);
}

static enum rxt_status record_end(struct out *o)
{
    uint64_t sum = XXH3_64bits_digest(&o->sum);
    return emit(o, &sum, sizeof sum);
}

static enum rxt_status header(struct out *o)
{
    uint8_t head[EXPORT_HEADER_BYTES];
    struct part p = {head};
    add(&p, EXPORT_MAGIC, 8);
    add_u32(&p, EXPORT_FORMAT);
    add_u32(&p, 0);
    return emit(o, head, sizeof head);
}

static enum rxt_status session(struct out *o, const struct store_session *x, uint64_t base)
{
    uint8_t body[EXPORT_SESSION_BYTES];
    struct part p = {body};
    add(&p, x->model_hash, sizeof x->model_hash);
    add_u32(&p, x->dtype);
    add_u32(&p, x->n_layer);
    add_u32(&p, x->n_slot);
    add_u32(&p, x->embed_dim);
    add_u32(&p, x->init);
    add_u32(&p, x->generator);
    add_u64(&p, x->seed);
    add_u64(&p, base);
    add_u64(&p, x->applied);
    add_u64(&p, x->head);
    add_u64(&p, (uint64_t)x->created_us);
    add_u32(&p, x->flags);
    add_text(&p, x->model_name, sizeof x->model_name);
    add_text(&p, x->name, sizeof x->name);
    add_text(&p, x->held_reason, sizeof x->held_reason);
    assert(p.at == body + sizeof body);
    TRY(record(o, EXPORT_SESSION, sizeof body));
    TRY(emit(o, body, sizeof body));
    return record_end(o);
}

static enum rxt_status image(struct out *o, struct store *s, int64_t id,
                             const struct store_image *im, struct rxt_error *err)
{
    uint8_t body[EXPORT_IMAGE_BYTES];
    struct part p = {body};
    add(&p, im->hash, sizeof im->hash);
    add_u64(&p, im->version);
    add_u64(&p, im->bytes);
    add_u64(&p, (uint64_t)im->created_us);
    add_text(&p, im->bit_class, sizeof im->bit_class);
    assert(p.at == body + sizeof body);
    TRY(record(o, EXPORT_IMAGE, sizeof body + im->bytes));
    TRY(emit(o, body, sizeof body));
    TRY(store_image_stream(s, id, im, emit, o, err));
    return record_end(o);
}

static uint32_t text_bytes(const char *s)
{
    return s ? (uint32_t)strlen(s) : EXPORT_NO_TEXT;
}

static enum rxt_status turn(struct out *o, const struct store_turn *t)
{
    uint8_t body[EXPORT_TURN_BYTES];
    struct part p = {body};
    add(&p, t->request, sizeof t->request);
    add_u32(&p, (uint32_t)t->kind);
    add_u32(&p, t->candidate);
    add_u32(&p, t->n_ids);
    add_u32(&p, t->n_query);
    add_u32(&p, text_bytes(t->query_text));
    add_u32(&p, text_bytes(t->answer_text));
    add_u32(&p, t->top_k);
    add(&p, &t->temperature, sizeof t->temperature);
    add(&p, &t->top_p, sizeof t->top_p);
    add_u64(&p, t->version);
    add_u64(&p, t->read_version);
    add_u64(&p, t->parent);
    add_u64(&p, t->seed);
    add_u64(&p, (uint64_t)t->wall_us);
    add_text(&p, t->finish, sizeof t->finish);
    add_text(&p, t->bit_class, sizeof t->bit_class);
    assert(p.at == body + sizeof body);
    size_t ids = t->n_ids * sizeof *t->ids;
    size_t query = t->query_text ? strlen(t->query_text) : 0;
    size_t answer = t->answer_text ? strlen(t->answer_text) : 0;
    TRY(record(o, EXPORT_TURN, sizeof body + ids + query + answer));
    TRY(emit(o, body, sizeof body));
    TRY(emit(o, t->ids, ids));
    TRY(emit(o, t->query_text, query));
    TRY(emit(o, t->answer_text, answer));
    return record_end(o);
}

static enum rxt_status images(struct out *o, struct store *s, const struct store_session *x,
                              uint64_t base, struct rxt_error *err)
{
    struct store_image newest, oldest;
    enum rxt_status st = store_image_find(s, x->id, x->applied, &newest, err);
    if (st == RXT_ENOTFOUND)
        return RXT_OK;
    if (st != RXT_OK)
        return st;
    /* The one of base, or wherever rows are exported from; there is none where that is 0. */
    st = store_image_find(s, x->id, base, &oldest, err);
    if (st == RXT_OK && oldest.version < newest.version)
        TRY(image(o, s, x->id, &oldest, err));
    else if (st != RXT_OK && st != RXT_ENOTFOUND)
        return st;
    return image(o, s, x->id, &newest, err);
}

static enum rxt_status turns(struct out *o, struct store *s, const struct store_session *x,
                             uint64_t base, struct rxt_error *err)
{
    for (uint64_t v = base; v < x->head; v++) {
        struct store_turn t;
        TRY(store_turn_next(s, x->id, v, &t, err));
        TRY(turn(o, &t));
    }
    return RXT_OK;
}

static enum rxt_status end(struct out *o)
{
    uint8_t seal[EXPORT_SEAL_BYTES];
    uint64_t n = o->n_record;
    TRY(record(o, EXPORT_END, sizeof n));
    TRY(emit(o, &n, sizeof n));
    TRY(record_end(o));
    (void)crypto_generichash_final(&o->seal, seal, sizeof seal);
    return o->write(o->arg, seal, sizeof seal);
}

static enum rxt_status export_all(struct out *o, struct store *s, const char *tenant,
                                  const char *name, bool history, struct rxt_error *err)
{
    struct store_session x;
    TRY(store_session_get(s, tenant, name, &x, err));
    uint64_t base = x.base;
    if (!history)
        TRY(store_history_root(s, x.id, x.head, &base, err));
    TRY(header(o));
    TRY(session(o, &x, base));
    TRY(images(o, s, &x, base, err));
    TRY(turns(o, s, &x, base, err));
    return end(o);
}

enum rxt_status store_export(struct store *s, const char *tenant, const char *name, bool history,
                             store_write write, void *arg, struct rxt_error *err)
{
    struct out o = {.write = write, .arg = arg};
    if (sodium_init() < 0)
        return rxt_fail(err, RXT_EUNSUPPORTED, "libsodium cannot be used on this machine");
    (void)crypto_generichash_init(&o.seal, NULL, 0, EXPORT_SEAL_BYTES);
    TRY(store_view_begin(s, err));
    enum rxt_status st = export_all(&o, s, tenant, name, history, err);
    store_view_end(s);
    return st;
}
