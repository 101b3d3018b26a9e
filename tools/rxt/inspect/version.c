/* One version of a memory, layer by layer and slot by slot, beside another version. */
#include "tools/rxt/cli.h"
#include "tools/rxt/inspect/measure.h"
#include "tools/rxt/inspect/views.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct pair {
    struct history h, other; /* other: only for another session */
    uint64_t version, against;
    bool has_against, asked, other_session; /* asked: --against names it */
    const struct live_options *server;      /* that has both; NULL = they are compared here */
    char against_session[STORE_NAME_MAX];
    void *values, *beside;
    struct slot_figures *slot;
    struct stm_slot_diff *diff;
    struct stm_slot_probe *probe; /* of the row that made the version; NULL: none was asked for */
    struct store_turn row;
    bool update; /* that row is one: probe is filled */
};

static void pair_close(struct pair *p)
{
    history_close(&p->h);
    history_close(&p->other);
    free(p->values);
    free(p->beside);
    free(p->slot);
    free(p->diff);
    free(p->probe);
}

/* ---- which two -------------------------------------------------------------------------- */

static bool number(const char *s, uint64_t *out)
{
    char *end;
    if (*s < '0' || *s > '9')
        return false;
    uint64_t n = strtoull(s, &end, 10);
    if (*end != '\0')
        return false;
    *out = n;
    return true;
}

/* A session whose name is a number is "7:", with or without a version. */
enum rxt_status look_against(const char *against, char session[STORE_NAME_MAX], uint64_t *version,
                             struct rxt_error *err)
{
    const char *colon = strrchr(against, ':');
    size_t n = strlen(against);
    *version = VERSION_HEAD;
    session[0] = '\0';
    if (number(against, version))
        return RXT_OK;
    if (colon && (colon[1] == '\0' || number(colon + 1, version)))
        n = (size_t)(colon - against);
    if (n == 0 || n >= STORE_NAME_MAX)
        return rxt_fail(err, RXT_EINVAL, "--against %.60s: use V, SESSION or SESSION:V", against);
    memcpy(session, against, n);
    session[n] = '\0';
    return RXT_OK;
}

/* The other one stays where it is: which version, the server's list says. */
static enum rxt_status find_other(struct pair *p, const struct look *l, struct rxt_error *err)
{
    struct live_list list;
    enum rxt_status st = live_list(&list, l->server, p->against_session, err);
    const struct client_session *other = live_find(&list, p->against_session);
    if (st == RXT_OK && !other)
        st =
            rxt_fail(err, RXT_ENOTFOUND, "the server has no session \"%.60s\"", p->against_session);
    if (st == RXT_OK && p->against == VERSION_HEAD)
        p->against = other->version;
    else if (st == RXT_OK && p->against > other->version)
        st = rxt_fail(err, RXT_ENOTFOUND,
                      "--against %.60s: the server has it up to version %" PRIu64, l->against,
                      other->version);
    live_list_free(&list);
    return st;
}

static enum rxt_status open_other(struct pair *p, const struct look *l, struct rxt_error *err)
{
    struct look there = *l;
    TRY(history_open(&p->other, l->store, l->tenant, p->against_session, l->model, err));
    const struct stm_config *a = &p->h.cfg, *b = &p->other.cfg;
    if (a->n_layer != b->n_layer || a->n_slot != b->n_slot || a->embed_dim != b->embed_dim)
        return rxt_fail(err, RXT_EMISMATCH,
                        "memories of \"%.40s\" [%d,%d,%d] and \"%.40s\" [%d,%d,%d] have different "
                        "shapes",
                        l->session, a->n_layer, a->n_slot, a->embed_dim, p->against_session,
                        b->n_layer, b->n_slot, b->embed_dim);
    there.version = p->against;
    return look_version(&there, &p->other, &p->against, err);
}

static enum rxt_status pair_open(struct pair *p, const struct look *l, struct rxt_error *err)
{
    *p = (struct pair){0};
    TRY(history_open(&p->h, l->store, l->tenant, l->session, l->model, err));
    TRY(look_version(l, &p->h, &p->version, err));
    if (l->against) {
        p->has_against = p->asked = true;
        TRY(look_against(l->against, p->against_session, &p->against, err));
        p->other_session = p->against_session[0] != '\0';
        p->server = l->server;
        if (p->other_session)
            TRY(l->server ? find_other(p, l, err) : open_other(p, l, err));
        else if (p->against < p->h.session.base || p->against > p->h.session.applied)
            return rxt_fail(err, RXT_ENOTFOUND,
                            "--against %" PRIu64 ": session \"%.60s\" has the versions %" PRIu64
                            " to %" PRIu64,
                            p->against, l->session, p->h.session.base, p->h.session.applied);
    } else {
        p->has_against = p->version > p->h.session.base; /* the one before, if there is one */
        p->against = p->version - 1;
    }
    size_t n = p->h.n_slot, bytes = stm_bytes(&p->h.cfg);
    p->values = malloc(bytes);
    p->beside = malloc(p->other.store ? stm_bytes(&p->other.cfg) : bytes);
    p->slot = malloc(n * sizeof *p->slot);
    p->diff = malloc(n * sizeof *p->diff);
    p->probe = calloc(n, sizeof *p->probe);
    if (!p->values || !p->beside || !p->slot || !p->diff || !p->probe)
        return RXT_ENOMEM;
    return RXT_OK;
}

/* ---- their figures ---------------------------------------------------------------------- */

/* The gates of the update that made the version, if it is one and there is a model to ask. */
static enum rxt_status probe_update(struct pair *p, struct rxt_error *err)
{
    if (p->version == p->h.session.base)
        return RXT_OK;
    TRY(store_turn_get(p->h.store, p->h.session.id, p->version, &p->row, err));
    p->update = p->h.model && (p->row.kind == STORE_TURN || p->row.kind == STORE_REMEMBER);
    if (!p->update)
        return RXT_OK;
    TRY(history_load(&p->h, p->version - 1, err));
    return history_step(&p->h, p->version, p->probe, err);
}

static enum rxt_status compare_there(const struct pair *p, struct rxt_error *err)
{
    const char *name = p->h.session.name;
    const struct live_memory old = {p->other_session ? p->against_session : name, p->against};
    return live_diff(p->diff, &p->h.cfg, p->server, &old, &(struct live_memory){name, p->version},
                     err);
}

static enum rxt_status measure(struct pair *p, struct rxt_error *err)
{
    struct history *there = p->other_session ? &p->other : &p->h;
    TRY(history_values(&p->h, p->version, p->values, err));
    measure_slots(p->values, &p->h.cfg, p->slot);
    TRY(probe_update(p, err));
    if (!p->has_against)
        return RXT_OK;
    if (p->server)
        return compare_there(p, err);
    enum rxt_status st = history_values(there, p->against, p->beside, err);
    if (st == RXT_EUNSUPPORTED && !p->asked) {
        p->has_against = false; /* without the model it has no image to be had from */
        return RXT_OK;
    }
    if (st != RXT_OK)
        return st;
    return stm_diff(p->beside, there->cfg.dtype, p->values, p->h.cfg.dtype, &p->h.cfg, p->diff);
}

/* ---- sections --------------------------------------------------------------------------- */

static const struct column fact_columns[] = {
    {"session", "session", CELL_TEXT},
    {"version", "version", CELL_COUNT},
    {"kind", "made by a", CELL_TEXT},
    {"against", "compared with version", CELL_COUNT},
    {"against_session", "... of session", CELL_TEXT},
    {"layers", "layers", CELL_COUNT},
    {"slots", "slots", CELL_COUNT},
    {"width", "width", CELL_COUNT},
    {"stm_dtype", "dtype", CELL_TEXT},
    {"stm_hash", "hash", CELL_TEXT},
    {"finite", "finite", CELL_TEXT},
    {"rms", "rms", CELL_REAL},
    {"change", "change", CELL_REAL},
    {"cosine", "cosine", CELL_REAL},
};

static void add_facts(struct report *r, const struct pair *p)
{
    const struct stm_config *cfg = &p->h.cfg;
    uint8_t hash[16];
    size_t n = p->h.n_slot, at;
    measure_hash(p->values, cfg, hash);
    json_t *o =
        json_pack("{so sI si si si ss so sb so}", "session", plain_text(p->h.session.name),
                  "version", (json_int_t)p->version, "layers", cfg->n_layer, "slots", cfg->n_slot,
                  "width", cfg->embed_dim, "stm_dtype", dtype_name(cfg->dtype), "stm_hash",
                  json_hash(hash), "finite", measure_finite(p->values, cfg, &at), "rms",
                  plain_real(measure_rms(&p->slot->rms, n, sizeof *p->slot)));
    if (o && p->row.kind)
        (void)json_object_set_new(o, "kind", json_string(kind_name(p->row.kind)));
    if (o && p->has_against)
        (void)json_object_update_new(
            o, json_pack("{sI so so}", "against", (json_int_t)p->against, "change",
                         plain_real(measure_rms(&p->diff->change, n, sizeof *p->diff)), "cosine",
                         plain_real(measure_mean(&p->diff->cosine, n, sizeof *p->diff))));
    if (o && p->other_session)
        (void)json_object_set_new(o, "against_session", plain_text(p->against_session));
    report_row(r, report_facts(r, "version", "version", fact_columns, COUNT_OF(fact_columns)), o);
}

static const struct column layer_columns[] = {
    {"layer", "layer", CELL_COUNT},
    {"rms", "rms", CELL_REAL},
    {"max", "largest", CELL_REAL},
    {"change", "change", CELL_REAL},
    {"cosine", "cosine", CELL_REAL},
    {"take", "open", CELL_SHARE},
    {"keep", "kept", CELL_SHARE},
    {"saturation", "saturation", CELL_REAL},
    {"take_mean", "open (layers)", CELL_SHARE},
    {"take_interlayer", "open (mix)", CELL_SHARE},
    {"take_self", "open (self)", CELL_SHARE},
    {"offer", "offered rms", CELL_REAL},
};

static void gate_json(json_t *o, const char *key, const struct stm_slot_probe *p, size_t n,
                      enum stm_gate which)
{
    double take = measure_mean(&p->gate[which].take, n, sizeof *p);
    double keep = measure_mean(&p->gate[which].keep, n, sizeof *p);
    if (take != 0 || keep != 0) // NOLINT: zero is what the probe gives where there is no such gate
        (void)json_object_set_new(o, key, plain_real(take));
}

static void add_layers(struct report *r, const struct pair *p)
{
    size_t n = (size_t)p->h.cfg.n_slot;
    struct section *s = report_table(r, "layers", "layers", layer_columns, COUNT_OF(layer_columns));
    for (size_t l = 0; l < (size_t)p->h.cfg.n_layer; l++) {
        const struct slot_figures *slot = p->slot + l * n;
        const struct stm_slot_diff *diff = p->diff + l * n;
        const struct stm_slot_probe *probe = p->probe + l * n;
        float top = 0;
        for (size_t i = 0; i < n; i++)
            top = fmaxf(top, slot[i].max_abs);
        json_t *o =
            json_pack("{sI so so}", "layer", (json_int_t)l, "rms",
                      plain_real(measure_rms(&slot->rms, n, sizeof *slot)), "max", plain_real(top));
        if (o && p->has_against)
            (void)json_object_update_new(
                o, json_pack("{so so}", "change",
                             plain_real(measure_rms(&diff->change, n, sizeof *diff)), "cosine",
                             plain_real(measure_mean(&diff->cosine, n, sizeof *diff))));
        if (o && p->update) {
            (void)json_object_update_new(
                o, json_pack("{so so so}", "keep",
                             plain_real(measure_mean(&probe->keep, n, sizeof *probe)), "saturation",
                             plain_real(measure_mean(&probe->saturation, n, sizeof *probe)),
                             "offer", plain_real(measure_rms(&probe->offer, n, sizeof *probe))));
            gate_json(o, "take", probe, n, STM_GATE_MAIN);
            gate_json(o, "take_mean", probe, n, STM_GATE_MEAN);
            gate_json(o, "take_interlayer", probe, n, STM_GATE_INTERLAYER);
            gate_json(o, "take_self", probe, n, STM_GATE_SELF);
        }
        report_row(r, s, o);
    }
}

/* A map of a field of n structs that lie `step` bytes apart. */
static void add_map(struct report *r, const struct pair *p, const char *key, const char *title,
                    const float *first, size_t step)
{
    float *value = malloc(p->h.n_slot * sizeof *value);
    if (!value) {
        r->status = RXT_ENOMEM;
        return;
    }
    for (size_t i = 0; i < p->h.n_slot; i++)
        value[i] = *(const float *)(const void *)((const char *)first + i * step);
    struct section *s = report_map(r, key, title, p->h.cfg.n_layer, p->h.cfg.n_slot, value);
    s->map.row_name = "layer";
    s->map.col_name = "slot";
    free(value);
}

static void add_maps(struct report *r, const struct pair *p)
{
    const struct stm_slot_probe *probe = p->probe;
    add_map(r, p, "norm", "rms of each slot", &p->slot->rms, sizeof *p->slot);
    if (p->has_against) {
        add_map(r, p, "slot_change", "change of each slot (rms of the difference)",
                &p->diff->change, sizeof *p->diff);
        add_map(r, p, "slot_cosine", "cosine of each slot, old and new", &p->diff->cosine,
                sizeof *p->diff);
    }
    if (p->update) {
        add_map(r, p, "gate_take", "how far the main gate of each slot was open",
                &probe->gate[STM_GATE_MAIN].take, sizeof *probe);
        add_map(r, p, "gate_keep", "what each slot kept of its old value", &probe->keep,
                sizeof *probe);
        add_map(r, p, "gate_saturation",
                "saturation of the main gate (1: only takes or only keeps)", &probe->saturation,
                sizeof *probe);
    }
}

static const struct column top_columns[] = {
    {"layer", "layer", CELL_COUNT},  {"slot", "slot", CELL_COUNT}, {"change", "change", CELL_REAL},
    {"cosine", "cosine", CELL_REAL}, {"rms", "rms", CELL_REAL},
};

static int larger(const void *a, const void *b)
{
    const struct stm_slot_diff *const *x = a, *const *y = b;
    return ((*x)->change < (*y)->change) - ((*x)->change > (*y)->change);
}

static void add_top(struct report *r, const struct pair *p)
{
    enum { SHOWN = 8 };
    size_t n = p->h.n_slot, n_slot = (size_t)p->h.cfg.n_slot;
    const struct stm_slot_diff **order = malloc(n * sizeof(const struct stm_slot_diff *));
    if (!order) {
        r->status = RXT_ENOMEM;
        return;
    }
    for (size_t i = 0; i < n; i++)
        order[i] = &p->diff[i];
    qsort(order, n, sizeof(const struct stm_slot_diff *), larger);
    struct section *s = report_table(r, "most_changed", "slots that changed most", top_columns,
                                     COUNT_OF(top_columns));
    for (size_t i = 0; i < n && i < SHOWN; i++) {
        size_t at = (size_t)(order[i] - p->diff);
        report_row(r, s,
                   json_pack("{sI sI so so so}", "layer", (json_int_t)(at / n_slot), "slot",
                             (json_int_t)(at % n_slot), "change",
                             plain_real((double)order[i]->change), "cosine",
                             plain_real((double)order[i]->cosine), "rms",
                             plain_real((double)p->slot[at].rms)));
    }
    free(order);
}

enum rxt_status view_version(struct report *r, const struct look *l, struct rxt_error *err)
{
    struct pair p;
    enum rxt_status st = pair_open(&p, l, err);
    if (st == RXT_OK)
        st = measure(&p, err);
    if (st == RXT_OK) {
        add_facts(r, &p);
        add_layers(r, &p);
        if (p.has_against)
            add_top(r, &p);
        add_maps(r, &p);
    }
    pair_close(&p);
    return st;
}
