/* One session's turns: what each of them wrote, and how long slots hold it. */
#include "tools/rxt/inspect/holds.h"
#include "tools/rxt/inspect/measure.h"
#include "tools/rxt/inspect/views.h"
#include "tools/rxt/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A gate that takes or keeps nearly all: |2g - 1| above this, g beyond 1 % or 99 %. */
#define SATURATED 0.98f

/* The walk over versions first + 1 .. last. */
struct walk {
    const struct look *look;
    struct history h;
    uint64_t first, last;
    size_t n; /* versions walked over */
    void *before, *after;
    struct stm_slot_probe *probe;
    struct stm_slot_diff *diff;
    float *written, *take; /* [L, n]: change of a layer, mean of its main gates */
    struct holds holds;
};

static void walk_close(struct walk *w)
{
    history_close(&w->h);
    free(w->before);
    free(w->after);
    free(w->probe);
    free(w->diff);
    free(w->written);
    free(w->take);
    holds_close(&w->holds);
}

static enum rxt_status walk_open(struct walk *w, const struct look *l, struct rxt_error *err)
{
    *w = (struct walk){.look = l};
    TRY(history_open(&w->h, l->store, l->tenant, l->session, l->model, err));
    const struct store_session *x = &w->h.session;
    w->last = x->applied;
    w->first = x->base;
    if (l->turns > 0 && w->last - w->first > (uint64_t)l->turns)
        w->first = w->last - (uint64_t)l->turns;
    w->n = (size_t)(w->last - w->first);
    size_t n_layer = (size_t)w->h.cfg.n_layer, bytes = stm_bytes(&w->h.cfg);
    w->before = malloc(bytes);
    w->after = malloc(bytes);
    w->probe = malloc(w->h.n_slot * sizeof *w->probe);
    w->diff = malloc(w->h.n_slot * sizeof *w->diff);
    w->written = calloc(n_layer * w->n + 1, sizeof *w->written);
    w->take = calloc(n_layer * w->n + 1, sizeof *w->take);
    enum rxt_status st = holds_open(&w->holds, &w->h, w->first, w->last);
    if (!w->before || !w->after || !w->probe || !w->diff || !w->written || !w->take || st != RXT_OK)
        return rxt_fail(err, RXT_ENOMEM, "no memory for %zu turns: use --turns N", w->n);
    return RXT_OK;
}

json_t *look_text(const struct look *l, const int32_t *ids, uint32_t n)
{
    char *text = l->model ? text_of_ids(l->model, ids, (int32_t)n) : NULL;
    json_t *out = text ? plain_text(text) : NULL;
    free(text);
    return out;
}

/* What the row alone says. */
static json_t *row_json(const struct look *l, const struct store_turn *row)
{
    json_t *o = json_pack("{sI ss sI sI sI sI so so}", "version", (json_int_t)row->version, "kind",
                          kind_name(row->kind), "wall_us", (json_int_t)row->wall_us, "query_tokens",
                          (json_int_t)row->n_query, "answer_tokens",
                          (json_int_t)(row->n_ids - row->n_query), "read_version",
                          (json_int_t)row->read_version, "finish", plain_text(row->finish),
                          "bit_class", plain_text(row->bit_class));
    if (o && row->kind == STORE_REWIND)
        (void)json_object_set_new(o, "parent", json_integer((json_int_t)row->parent));
    if (!o || !l->text || row->n_ids == 0)
        return o;
    json_t *query =
        row->query_text ? plain_text(row->query_text) : look_text(l, row->ids, row->n_query);
    json_t *answer = row->answer_text
                         ? plain_text(row->answer_text)
                         : look_text(l, row->ids + row->n_query, row->n_ids - row->n_query);
    (void)json_object_set_new(o, "query", query ? query : json_null());
    (void)json_object_set_new(o, "answer", answer ? answer : json_null());
    return o;
}

/* What the step before -> after did, once it is measured. */
static void add_figures(json_t *o, const struct walk *w, bool update)
{
    size_t n = w->h.n_slot, saturated = 0;
    struct slot_figures *after = malloc(n * sizeof *after);
    if (!after)
        return;
    measure_slots(w->after, &w->h.cfg, after);
    const struct stm_slot_probe *p = w->probe;
    for (size_t i = 0; i < n; i++)
        saturated += p[i].saturation > SATURATED;
    (void)json_object_update_new(
        o, json_pack("{so so so}", "rms", plain_real(measure_rms(&after->rms, n, sizeof *after)),
                     "change", plain_real(measure_rms(&w->diff->change, n, sizeof *w->diff)),
                     "cosine", plain_real(measure_mean(&w->diff->cosine, n, sizeof *w->diff))));
    if (update)
        (void)json_object_update_new(
            o, json_pack("{so so so}", "take",
                         plain_real(measure_mean(&p->gate[STM_GATE_MAIN].take, n, sizeof *p)),
                         "keep", plain_real(measure_mean(&p->keep, n, sizeof *p)), "saturated",
                         plain_real((double)saturated / (double)n)));
    free(after);
}

static void keep_maps(struct walk *w, size_t t, bool update)
{
    size_t n_slot = (size_t)w->h.cfg.n_slot;
    for (size_t l = 0; l < (size_t)w->h.cfg.n_layer; l++) {
        size_t first = l * n_slot, at = l * w->n + t;
        w->written[at] = (float)measure_rms(&w->diff[first].change, n_slot, sizeof *w->diff);
        w->take[at] = update ? (float)measure_mean(&w->probe[first].gate[STM_GATE_MAIN].take,
                                                   n_slot, sizeof *w->probe)
                             : NAN;
    }
}

static enum rxt_status step(struct walk *w, const struct store_turn *row, json_t *o,
                            struct rxt_error *err)
{
    bool update = row->kind == STORE_TURN || row->kind == STORE_REMEMBER;
    TRY(history_step(&w->h, row->version, w->probe, err));
    TRY(history_memory(&w->h, w->after));
    TRY(stm_diff(w->before, w->h.cfg.dtype, w->after, w->h.cfg.dtype, &w->h.cfg, w->diff));
    keep_maps(w, (size_t)(row->version - w->first - 1), update);
    holds_note(&w->holds, row, w->probe);
    add_figures(o, w, update);
    void *was = w->before;
    w->before = w->after;
    w->after = was;
    return RXT_OK;
}

/* ---- how long slots hold ---------------------------------------------------------------- */

static const struct column hold_columns[] = {
    {"layer", "layer", CELL_COUNT},
    {"slot", "slot", CELL_COUNT},
    {"version", "written by version", CELL_COUNT},
    {"held", "turns ago", CELL_COUNT},
    {"share", "share of it", CELL_SHARE},
    {"half_life", "half-life", CELL_COUNT},
    {"query", "question of that turn", CELL_TEXT},
};

/* What a turn wrote before what was there first, older writing before newer, more of it before
 * less. */
static int longer(const void *a, const void *b)
{
    const struct hold *x = *(const struct hold *const *)a, *y = *(const struct hold *const *)b;
    if (!x->version != !y->version)
        return x->version ? -1 : 1;
    if (x->version != y->version)
        return x->version < y->version ? -1 : 1;
    return (x->share < y->share) - (x->share > y->share);
}

static enum rxt_status list_holds(struct report *r, const struct walk *w, const struct hold *hold,
                                  struct rxt_error *err)
{
    enum { SHOWN = 12 };
    size_t n = w->h.n_slot;
    const struct hold **order = malloc(n * sizeof(const struct hold *));
    if (!order)
        return RXT_ENOMEM;
    for (size_t i = 0; i < n; i++)
        order[i] = &hold[i];
    qsort(order, n, sizeof(const struct hold *), longer);
    struct section *s = report_table(r, "holds", "slots that hold longest what a turn wrote",
                                     hold_columns, COUNT_OF(hold_columns));
    section_about(s,
                  "The turn whose writing makes the largest part of a slot now, by the products of "
                  "what the gates kept since. Half-life: going back from the newest turn, after so "
                  "many less than half of the slot's old content was left; %zu: after more than "
                  "the turns shown.",
                  w->n + 1);
    enum rxt_status st = RXT_OK;
    for (size_t i = 0; i < n && i < SHOWN && order[i]->version && st == RXT_OK; i++) {
        const struct hold *h = order[i];
        size_t at = (size_t)(h - hold);
        json_t *o =
            json_pack("{sI sI sI sI so sI}", "layer", (json_int_t)(at / (size_t)w->h.cfg.n_slot),
                      "slot", (json_int_t)(at % (size_t)w->h.cfg.n_slot), "version",
                      (json_int_t)h->version, "held", (json_int_t)(w->last - h->version), "share",
                      plain_real((double)h->share), "half_life", (json_int_t)h->half_life);
        if (w->look->text) {
            struct store_turn row;
            st = store_turn_get(w->h.store, w->h.session.id, h->version, &row, err);
            json_t *query = st == RXT_OK ? look_text(w->look, row.ids, row.n_query) : NULL;
            (void)json_object_set_new(o, "query", query ? query : json_null());
        }
        report_row(r, s, o);
    }
    free(order);
    return st;
}

static void name_axes(struct section *s, const char *row, const char *col, int64_t col_first)
{
    s->map.row_name = row;
    s->map.col_name = col;
    s->map.col_first = col_first;
}

static enum rxt_status add_holds(struct report *r, const struct walk *w, struct rxt_error *err)
{
    size_t n = w->h.n_slot;
    struct hold *hold = malloc(n * sizeof *hold);
    float *half = malloc(n * sizeof *half), *version = malloc(n * sizeof *version);
    enum rxt_status st = hold && half && version ? RXT_OK : RXT_ENOMEM;
    if (st == RXT_OK) {
        for (size_t i = 0; i < n; i++) {
            hold[i] = holds_of(&w->holds, i);
            half[i] = hold[i].half_life;
            version[i] = (float)hold[i].version;
        }
        struct section *s = report_map(r, "half_life", "half-life of what slots hold, in turns",
                                       w->h.cfg.n_layer, w->h.cfg.n_slot, half);
        name_axes(s, "layer", "slot", 0);
        s = report_map(r, "holder", "version that wrote the largest part of each slot",
                       w->h.cfg.n_layer, w->h.cfg.n_slot, version);
        name_axes(s, "layer", "slot", 0);
        st = list_holds(r, w, hold, err);
    }
    free(version);
    free(half);
    free(hold);
    return st;
}

/* ---- the view --------------------------------------------------------------------------- */

static const struct column turn_columns[] = {
    {"version", "version", CELL_COUNT},    {"kind", "kind", CELL_TEXT},
    {"query_tokens", "asked", CELL_COUNT}, {"answer_tokens", "said", CELL_COUNT},
    {"change", "change", CELL_REAL},       {"cosine", "cosine", CELL_REAL},
    {"take", "open", CELL_SHARE},          {"keep", "kept", CELL_SHARE},
    {"saturated", "stuck", CELL_SHARE},    {"rms", "rms", CELL_REAL},
    {"read_version", "read", CELL_COUNT},  {"parent", "of", CELL_COUNT},
    {"finish", "end", CELL_TEXT},          {"wall_us", "when (UTC)", CELL_DATE},
    {"bit_class", "class", CELL_TEXT},
};
static const struct column text_columns[] = {
    {"version", "version", CELL_COUNT},
    {"query", "question", CELL_TEXT},
    {"answer", "answer", CELL_TEXT},
};

/* One object a row, and one with its texts, which the tables take over. */
struct rows {
    json_t *turns, *texts;
};

static void add_row(const struct walk *w, struct rows *rows, json_t *o)
{
    if (w->look->text && json_object_get(o, "query"))
        (void)json_array_append_new(rows->texts, json_pack("{sO sO sO}", "version",
                                                           json_object_get(o, "version"), "query",
                                                           json_object_get(o, "query"), "answer",
                                                           json_object_get(o, "answer")));
    (void)json_object_del(o, "query");
    (void)json_object_del(o, "answer");
    (void)json_array_append_new(rows->turns, o);
}

static enum rxt_status walk_rows(struct walk *w, struct rows *rows, struct rxt_error *err)
{
    const struct store_session *x = &w->h.session;
    struct progress p;
    enum rxt_status st = RXT_OK;
    progress_start(&p, "reading turns");
    if (w->look->model) {
        TRY(history_load(&w->h, w->first, err));
        TRY(history_memory(&w->h, w->before));
    }
    for (uint64_t v = w->first + 1; v <= x->head && st == RXT_OK; v++) {
        struct store_turn row;
        TRY_OR(done, store_turn_get(w->h.store, x->id, v, &row, err));
        json_t *o = row_json(w->look, &row);
        if (!o) {
            st = RXT_ENOMEM;
            break;
        }
        if (v <= w->last && w->look->model)
            st = step(w, &row, o, err);
        add_row(w, rows, o);
        progress_step(&p, (size_t)(v - w->first), (size_t)(x->head - w->first));
    }
done:
    progress_end(&p);
    return st;
}

static void add_tables(struct report *r, const struct walk *w, const struct rows *rows)
{
    struct section *s = report_table(r, "turns", "turns", turn_columns, COUNT_OF(turn_columns));
    report_rows(r, s, rows->turns);
    if (w->look->model)
        section_about(
            s, "change: rms of new less old memory, over all slots. open: mean share of the new "
               "value that the main gates took; kept: of the old value, through all gates; stuck: "
               "slots whose main gate took less than 1 %% or more than 99 %%.");
    else
        section_about(s,
                      "What a turn did to the memory takes the model \"%.60s\": use --model DIR.",
                      w->h.session.model_name);
    if (w->look->text)
        report_rows(r,
                    report_table(r, "said", "what was said", text_columns, COUNT_OF(text_columns)),
                    rows->texts);
}

static void add_maps(struct report *r, const struct walk *w)
{
    int32_t n_layer = w->h.cfg.n_layer, n = (int32_t)w->n;
    struct section *s = report_map(r, "written", "how much each turn changed each layer (rms)",
                                   n_layer, n, w->written);
    name_axes(s, "layer", "version", (int64_t)w->first + 1);
    s = report_map(r, "take", "how far the main gates were open, mean of a layer", n_layer, n,
                   w->take);
    name_axes(s, "layer", "version", (int64_t)w->first + 1);
}

static enum rxt_status look_at_turns(struct report *r, struct walk *w, struct rxt_error *err)
{
    struct rows rows = {json_array(), json_array()};
    enum rxt_status st = rows.turns && rows.texts ? walk_rows(w, &rows, err) : RXT_ENOMEM;
    if (st == RXT_OK)
        add_tables(r, w, &rows);
    json_decref(rows.turns);
    json_decref(rows.texts);
    if (st != RXT_OK || !w->look->model || w->n == 0)
        return st;
    add_maps(r, w);
    return add_holds(r, w, err);
}

enum rxt_status view_turns(struct report *r, const struct look *l, struct rxt_error *err)
{
    struct walk w;
    enum rxt_status st = walk_open(&w, l, err);
    if (st == RXT_OK)
        st = look_at_turns(r, &w, err);
    walk_close(&w);
    return st;
}
