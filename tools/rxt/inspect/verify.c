/* Whether all that is stored of a session is whole, and whether the journal makes it again. */
#include "tools/rxt/cli.h"
#include "tools/rxt/inspect/measure.h"
#include "tools/rxt/inspect/views.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct check {
    const struct look *look;
    char session[STORE_NAME_MAX]; /* being checked; "" = none */
    json_t *rows;                 /* one an examination */
    bool good;
    enum rxt_status status; /* RXT_ENOMEM when a row was lost */
};

/* Reports one examination; version 0 = of none in particular. */
static void note(struct check *c, const char *what, uint64_t version, bool good, const char *detail,
                 ...) __attribute__((format(printf, 5, 6)));
static void note(struct check *c, const char *what, uint64_t version, bool good, const char *detail,
                 ...)
{
    char text[320];
    va_list args;
    va_start(args, detail);
    (void)vsnprintf(text, sizeof text, detail, args);
    va_end(args);
    json_t *o = json_pack("{so ss sb so}", "session", plain_text(c->session), "check", what, "good",
                          good, "detail", plain_text(text));
    if (o && version)
        (void)json_object_set_new(o, "version", json_integer((json_int_t)version));
    if (!o || json_array_append_new(c->rows, o) != 0)
        c->status = RXT_ENOMEM;
    c->good &= good;
}

/* A failure of the machine ends the examination; damage and oddities are what it looks for. */
static bool is_finding(enum rxt_status st)
{
    return st == RXT_ECORRUPT || st == RXT_EMISMATCH || st == RXT_ENOTFOUND || st == RXT_EFORMAT ||
           st == RXT_ENONFINITE || st == RXT_ESHAPE || st == RXT_EINVAL;
}

static const char *reason(enum rxt_status st, const struct rxt_error *err)
{
    return err->text[0] ? err->text : rxt_status_text(st);
}

/* ---- the journal, as it lies ------------------------------------------------------------- */

static enum rxt_status check_rows(struct check *c, const struct store_session *x,
                                  struct rxt_error *err)
{
    uint64_t n_bad = 0, n_ids = 0;
    for (uint64_t v = x->base + 1; v <= x->head; v++) {
        struct store_turn row;
        struct rxt_error why = {0};
        enum rxt_status st = store_turn_get(c->look->store, x->id, v, &row, &why);
        if (st == RXT_OK) {
            n_ids += row.n_ids;
            continue;
        }
        if (!is_finding(st))
            return rxt_fail(err, st, "%s", reason(st, &why));
        note(c, "journal row", v, false, "%s", reason(st, &why));
        n_bad++;
    }
    note(c, "journal", 0, n_bad == 0, "%" PRIu64 " rows with %" PRIu64 " ids, %" PRIu64 " damaged",
         x->head - x->base, n_ids, n_bad);
    return RXT_OK;
}

/* Candidates that were not chosen and rows that were given up. */
static enum rxt_status check_aside(struct check *c, const struct store_session *x,
                                   struct rxt_error *err)
{
    struct store_request *request = malloc(sizeof *request * 2 * STORE_WINDOW);
    size_t n = 0, n_aside = 0;
    struct rxt_error why = {0};
    if (!request)
        return RXT_ENOMEM;
    enum rxt_status st = store_turn_requests(c->look->store, x->id, request, &n, &why);
    for (size_t i = 0; i < n && st == RXT_OK; i++) {
        struct store_turn row;
        if (request[i].state == STORE_LIVE)
            continue;
        st =
            store_turn_find(c->look->store, x->id, request[i].id, request[i].candidate, &row, &why);
        n_aside++;
    }
    free(request);
    if (st != RXT_OK && !is_finding(st))
        return rxt_fail(err, st, "%s", reason(st, &why));
    if (st != RXT_OK)
        note(c, "rows aside", 0, false, "%s", reason(st, &why));
    else if (n_aside)
        note(c, "rows aside", 0, true, "%zu rows that are not part of the memory", n_aside);
    return RXT_OK;
}

/* ---- images ------------------------------------------------------------------------------ */

static bool same_shape(const struct stm_config *cfg, const struct store_image *image)
{
    return image->dtype == (uint32_t)cfg->dtype && image->n_layer == (uint32_t)cfg->n_layer &&
           image->n_slot == (uint32_t)cfg->n_slot && image->embed_dim == (uint32_t)cfg->embed_dim &&
           image->bytes == stm_bytes(cfg);
}

static void check_values(struct check *c, const struct stm_config *cfg,
                         const struct store_image *image, const void *values)
{
    uint8_t hash[16];
    size_t at, dim = (size_t)cfg->embed_dim;
    measure_hash(values, cfg, hash);
    if (memcmp(hash, image->hash, sizeof hash) != 0)
        note(c, "image", image->version, false, "its values have another hash than it says");
    else if (!measure_finite(values, cfg, &at))
        note(c, "image", image->version, false, "layer %zu, slot %zu, value %zu is not finite",
             at / dim / (size_t)cfg->n_slot, at / dim % (size_t)cfg->n_slot, at % dim);
    else
        note(c, "image", image->version, true, "%" PRIu64 " bytes: hash right, all finite",
             image->bytes);
}

static enum rxt_status check_images(struct check *c, const struct history *h, struct rxt_error *err)
{
    size_t bytes = stm_bytes(&h->cfg);
    void *values = malloc(bytes);
    struct store_image image = {.version = h->session.head + 1};
    if (!values)
        return RXT_ENOMEM;
    while (image.version > 0) {
        struct rxt_error why = {0};
        uint64_t below = image.version - 1;
        enum rxt_status st = store_image_find(h->store, h->session.id, below, &image, &why);
        if (st == RXT_ENOTFOUND)
            break;
        if (st == RXT_OK && !same_shape(&h->cfg, &image))
            st = rxt_fail(&why, RXT_EMISMATCH, "it has not the shape of the session");
        if (st == RXT_OK)
            st = store_image_get(h->store, h->session.id, &image, values, bytes, &why);
        if (st == RXT_OK) {
            check_values(c, &h->cfg, &image, values);
        } else if (is_finding(st)) {
            note(c, "image", image.version, false, "%s", reason(st, &why));
        } else {
            free(values);
            return rxt_fail(err, st, "%s", reason(st, &why));
        }
    }
    free(values);
    return RXT_OK;
}

/* ---- the journal, computed again --------------------------------------------------------- */

struct replay {
    struct check *check;
    struct history h;
    const char *bit_class;     /* the running one */
    void *made, *stored;       /* values */
    uint64_t n_image, n_token; /* compared */
    uint64_t n_other;          /* rows and images of another bit class: bits may differ */
    bool same;
};

/* Compares the memory that was made with the image of this version, if there is one. */
static enum rxt_status compare(struct replay *p, uint64_t version)
{
    struct store_image image;
    const struct stm_config *cfg = &p->h.cfg;
    size_t bytes = stm_bytes(cfg), size = dtype_bytes(cfg->dtype), n = bytes / size, first = n,
           k = 0;
    enum rxt_status st = store_image_find(p->h.store, p->h.session.id, version, &image, NULL);
    if (st != RXT_OK || image.version != version || !same_shape(cfg, &image) ||
        store_image_get(p->h.store, p->h.session.id, &image, p->stored, bytes, NULL) != RXT_OK)
        return RXT_OK; /* none, or damaged, which was reported */
    TRY(history_memory(&p->h, p->made));
    p->n_image++;
    p->n_other += strcmp(image.bit_class, p->bit_class) != 0;
    for (size_t i = 0; i < n; i++)
        if (memcmp((char *)p->made + i * size, (char *)p->stored + i * size, size) != 0) {
            first = first == n ? i : first;
            k++;
        }
    if (k == 0)
        return RXT_OK;
    size_t slot = first / (size_t)cfg->embed_dim;
    note(p->check, "replay", version, false,
         "%zu of %zu values of the image are not what the journal makes, first layer %zu, slot "
         "%zu, value %zu%s",
         k, n, slot / (size_t)cfg->n_slot, slot % (size_t)cfg->n_slot,
         first % (size_t)cfg->embed_dim,
         strcmp(image.bit_class, p->bit_class) ? " (made by another bit class)" : "");
    p->same = false;
    return RXT_OK;
}

static enum rxt_status replay_answer(struct replay *p, uint64_t version, struct rxt_error *err)
{
    struct store_turn row;
    int32_t *ids, wrong;
    TRY(history_row(&p->h, version, &row, &ids, err));
    enum rxt_status st = RXT_OK;
    bool other = row.bit_class[0] && strcmp(row.bit_class, p->bit_class) != 0;
    p->n_other += other;
    if (row.kind == STORE_TURN && !other) {
        st = history_answer(&p->h, &row, &wrong, err);
        p->n_token += row.n_ids - row.n_query;
        if (st == RXT_OK && wrong >= 0) {
            note(p->check, "answer", version, false,
                 "token %d of the answer is not what the model says again",
                 wrong - (int32_t)row.n_query);
            p->same = false;
        }
    }
    free(ids);
    return st;
}

/* From the oldest version on, whatever images lie on the way. */
static enum rxt_status replay_all(struct replay *p, uint64_t *version, struct rxt_error *err)
{
    const struct store_session *x = &p->h.session;
    struct progress progress;
    enum rxt_status st;
    progress_start(&progress, "computing again");
    p->h.from_base = true;
    *version = x->base;
    TRY_OR(done, history_load(&p->h, x->base, err));
    TRY_OR(done, compare(p, x->base));
    for (uint64_t v = x->base + 1; v <= x->applied; v++) {
        *version = v;
        TRY_OR(done, replay_answer(p, v, err));
        TRY_OR(done, history_step(&p->h, v, NULL, err));
        TRY_OR(done, compare(p, v));
        progress_step(&progress, (size_t)(v - x->base), (size_t)(x->applied - x->base));
    }
done:
    progress_end(&progress);
    return st;
}

static enum rxt_status check_replay(struct check *c, struct rxt_error *err)
{
    const struct look *l = c->look;
    struct replay p = {.check = c, .same = true};
    struct rxt_error why = {0};
    uint64_t version = 0;
    enum rxt_status st = history_open(&p.h, l->store, l->tenant, c->session, l->model, &why);
    if (st == RXT_OK) {
        p.bit_class = backend_bit_class(rxt_model_backend(l->model));
        p.made = malloc(stm_bytes(&p.h.cfg));
        p.stored = malloc(stm_bytes(&p.h.cfg));
        st = p.made && p.stored ? replay_all(&p, &version, &why) : RXT_ENOMEM;
    }
    if (st != RXT_OK && is_finding(st))
        note(c, "replay", version, false, "%s", reason(st, &why));
    else if (st == RXT_OK && p.n_other)
        note(c, "replay", 0, false,
             "%" PRIu64 " rows or images were made by another bit class than %s: their bits prove "
             "nothing",
             p.n_other, p.bit_class);
    else if (st == RXT_OK && p.same)
        note(c, "replay", 0, true,
             "versions %" PRIu64 " to %" PRIu64 ": the same bits in %" PRIu64
             " images, the same %" PRIu64 " tokens of answers",
             p.h.session.base, p.h.session.applied, p.n_image, p.n_token);
    free(p.made);
    free(p.stored);
    history_close(&p.h);
    if (st != RXT_OK && !is_finding(st))
        return rxt_fail(err, st, "%s", reason(st, &why));
    return RXT_OK;
}

/* ------------------------------------------------------------------------------------------ */

static enum rxt_status check_session(struct check *c, bool replay, struct rxt_error *err)
{
    struct history h;
    struct rxt_error why = {0};
    enum rxt_status st = history_open(&h, c->look->store, c->look->tenant, c->session, NULL, &why);
    if (st != RXT_OK) {
        history_close(&h);
        if (!is_finding(st) || (st == RXT_ENOTFOUND && c->look->session))
            return rxt_fail(err, st, "%s", reason(st, &why));
        note(c, "session", 0, false, "%s", reason(st, &why));
        return RXT_OK;
    }
    st = check_rows(c, &h.session, err);
    if (st == RXT_OK)
        st = check_aside(c, &h.session, err);
    if (st == RXT_OK)
        st = check_images(c, &h, err);
    history_close(&h);
    if (st == RXT_OK && replay)
        st = check_replay(c, err);
    return st;
}

/* Sessions of the tenant; of those of others their rows, since a damaged one may be anybody's. */
static enum rxt_status check_all(struct check *c, bool replay, struct rxt_error *err)
{
    struct store_session x;
    for (int64_t after = 0;; after = x.id) {
        struct rxt_error why = {0};
        enum rxt_status st = store_session_next(c->look->store, after, &x, &why);
        if (st == RXT_ENOTFOUND)
            return RXT_OK;
        if (st != RXT_OK && !is_finding(st))
            return rxt_fail(err, st, "%s", reason(st, &why));
        if (st != RXT_OK) {
            note(c, "session", 0, false, "%s", reason(st, &why));
            if (x.id == 0) /* no row can be read from there on */
                return RXT_OK;
        } else if (strcmp(x.tenant, c->look->tenant) == 0) {
            memcpy(c->session, x.name, sizeof c->session);
            TRY(check_session(c, replay, err));
            c->session[0] = '\0';
        }
    }
}

static const struct column columns[] = {
    {"session", "session", CELL_TEXT},  {"check", "check", CELL_TEXT},
    {"version", "version", CELL_COUNT}, {"good", "good", CELL_TEXT},
    {"detail", "detail", CELL_TEXT},
};

static void show_checks(struct report *r, const struct check *c)
{
    struct section *s = report_table(r, "checks", "verification", columns, COUNT_OF(columns));
    report_rows(r, s, c->rows);
    section_about(s, c->good ? "All of it is good." : "NOT all of it is good.");
}

enum rxt_status view_verify(struct report *r, const struct look *l, bool replay, bool *good,
                            struct rxt_error *err)
{
    struct check c = {.look = l, .rows = json_array(), .good = true};
    struct rxt_error why = {0};
    if (!c.rows)
        return RXT_ENOMEM;
    (void)snprintf(c.session, sizeof c.session, "%s", l->session ? l->session : "");
    if (!l->is_export) {
        enum rxt_status st = store_check(l->store, &why);
        note(&c, "file", 0, st == RXT_OK, "%s",
             st == RXT_OK ? "every page is whole" : reason(st, &why));
    }
    enum rxt_status st = l->session ? check_session(&c, replay, err) : check_all(&c, replay, err);
    if (st == RXT_OK)
        st = c.status;
    if (st == RXT_OK)
        show_checks(r, &c);
    *good = st == RXT_OK && c.good;
    json_decref(c.rows);
    return st;
}

/* ---- an export that was refused ----------------------------------------------------------- */

struct damage {
    struct check check;
    FILE *file;
    uint64_t n_bad, first, last; /* parts with findings; the journal's rows */
    const char *images;          /* what is known of them */
};

/* The values of an image against the hash it carries; the file stands where it stood. */
static enum rxt_status check_exported(struct damage *d, const struct store_part *part)
{
    const struct store_image *im = part->image;
    const struct stm_config cfg = {.n_layer = (int32_t)im->n_layer,
                                   .n_slot = (int32_t)im->n_slot,
                                   .embed_dim = (int32_t)im->embed_dim,
                                   .dtype = (enum dtype)im->dtype};
    uint8_t hash[16];
    long here = ftell(d->file);
    bool shaped = im->dtype <= DTYPE_BF16 && im->n_layer < 65536 && im->n_slot < (1 << 24) &&
                  im->embed_dim < (1 << 24) && stm_bytes(&cfg) == im->bytes;
    if (!shaped) {
        note(&d->check, "image", part->version, false, "it has not the shape of the session");
        d->n_bad++;
        return RXT_OK;
    }
    void *values = malloc(im->bytes);
    if (!values)
        return RXT_ENOMEM;
    bool read =
        here >= 0 && fseek(d->file, (long)(part->at + part->bytes - im->bytes), SEEK_SET) == 0 &&
        fread(values, 1, im->bytes, d->file) == im->bytes && fseek(d->file, here, SEEK_SET) == 0;
    if (read)
        measure_hash(values, &cfg, hash);
    free(values);
    if (!read)
        return RXT_EIO;
    if (memcmp(hash, im->hash, sizeof hash) != 0) {
        note(&d->check, "image", part->version, false, "its values have another hash than it says");
        d->n_bad++;
    }
    d->images = ", not in the values of its images, whose hashes are right";
    return RXT_OK;
}

static enum rxt_status on_part(void *arg, const struct store_part *part)
{
    static const char *const name[] = {
        [STORE_PART_HEADER] = "header", [STORE_PART_SESSION] = "session row",
        [STORE_PART_IMAGE] = "image",   [STORE_PART_TURN] = "journal row",
        [STORE_PART_END] = "end",       [STORE_PART_SEAL] = "seal",
    };
    struct damage *d = arg;
    if (part->what == STORE_PART_TURN) {
        d->first = d->first ? d->first : part->version;
        d->last = part->version;
    }
    if (part->what == STORE_PART_IMAGE && part->good)
        return check_exported(d, part);
    if (part->good)
        return RXT_OK;
    bool seal = part->what == STORE_PART_SEAL;
    if (seal && d->n_bad == 0 && part->unsure)
        note(&d->check, name[part->what], 0, false,
             "%s: in the row of the session, the head of an image or the journal between row "
             "%" PRIu64 " and %" PRIu64 "%s",
             part->detail, d->first, d->last, d->images);
    else
        note(&d->check, name[part->what], seal ? 0 : part->version, false,
             "%s (bytes %" PRIu64 " to %" PRIu64 ")", part->detail, part->at,
             part->at + part->bytes - 1);
    d->n_bad++;
    return RXT_OK;
}

enum rxt_status view_damage(struct report *r, const struct look *l, FILE *export_file,
                            struct rxt_error *err)
{
    struct damage d = {.check = {.look = l, .rows = json_array(), .good = true},
                       .file = export_file,
                       .images = ""};
    struct check *c = &d.check;
    if (!c->rows)
        return RXT_ENOMEM;
    (void)snprintf(c->session, sizeof c->session, "%s", l->session);
    rewind(export_file);
    enum rxt_status st = store_export_look(source_read, export_file, on_part, &d, err);
    if (st == RXT_EIO)
        st = rxt_fail(err, st, "cannot read all of the export: %s", strerror(errno));
    if (st == RXT_OK && c->good) /* sealed by somebody who wrote something else */
        note(c, "content", 0, false, "sealed, but refused: %s", err->text);
    if (st == RXT_OK)
        st = c->status;
    if (st == RXT_OK)
        show_checks(r, c);
    json_decref(c->rows);
    return st;
}
