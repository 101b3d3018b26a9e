/* The list of sessions, and one session's own row. */
#include "tools/rxt/cli.h"
#include "tools/rxt/inspect/views.h"

#include "kernels/base/clock.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *state_of(const struct store_session *x)
{
    if (x->flags & STORE_HELD)
        return "held";
    return x->head > x->applied ? "behind" : "ready";
}

/* Images of a session and their bytes. A damaged header is counted, too: --verify names it. */
static void count_images(struct store *s, const struct store_session *x, int64_t *n,
                         uint64_t *bytes)
{
    struct store_image image;
    *n = 0;
    *bytes = 0;
    for (uint64_t v = x->applied;; v = image.version - 1) {
        enum rxt_status st = store_image_find(s, x->id, v, &image, NULL);
        if (st != RXT_OK && st != RXT_ECORRUPT)
            return;
        ++*n;
        *bytes += st == RXT_OK ? image.bytes : 0;
        if (image.version == 0)
            return;
    }
}

static json_t *session_json(const struct look *l, const struct store_session *x)
{
    int64_t n_image, now = clock_wall_us();
    uint64_t bytes;
    char seed[24]; /* 64 bits do not fit into an integer of JSON */
    struct stm_config cfg;
    const bool shaped = history_shape(&cfg, x, NULL) == RXT_OK; /* the row may be forged */
    count_images(l->store, x, &n_image, &bytes);
    (void)snprintf(seed, sizeof seed, "%" PRIu64, x->seed);
    json_t *o = json_pack(
        "{so ss ss sI sI sI sI sI sI ss so so ss sI sI sI sI}", "session", plain_text(x->name),
        "state", state_of(x), "tier", l->is_export ? "export" : "store", "version",
        (json_int_t)x->applied, "pending", (json_int_t)(x->head - x->applied), "base",
        (json_int_t)x->base, "images", (json_int_t)n_image, "image_bytes", (json_int_t)bytes,
        "memory_bytes", (json_int_t)(shaped ? stm_bytes(&cfg) : 0), "stm_dtype",
        shaped ? dtype_name(cfg.dtype) : "unknown", "model", plain_text(x->model_name),
        "model_hash", json_hash(x->model_hash), "seed", seed, "created_us",
        (json_int_t)x->created_us, "used_us", (json_int_t)x->used_us, "age",
        (json_int_t)(now - x->created_us), "idle", (json_int_t)(now - x->used_us));
    if (o && x->origin[0])
        (void)json_object_update_new(o, json_pack("{so sI}", "origin", plain_text(x->origin),
                                                  "origin_version", (json_int_t)x->origin_version));
    if (o && x->held_reason[0])
        (void)json_object_set_new(o, "held_reason", plain_text(x->held_reason));
    if (o && x->flags & STORE_MIXED_CLASS)
        (void)json_object_set_new(o, "mixed_class", json_true());
    return o;
}

/* ---- in a server ------------------------------------------------------------------------ */

/* Where its memory is; a held session does not say. */
static const char *tier_of(const struct client_session *x)
{
    if (strcmp(x->state, "held") == 0)
        return "server";
    return strcmp(x->state, "cold") == 0 ? "disk" : "memory";
}

static json_t *live_json(const struct live_list *l, const struct client_session *x)
{
    int64_t now = clock_wall_us();
    char seed[24];
    (void)snprintf(seed, sizeof seed, "%" PRIu64, x->seed);
    json_t *o = json_pack("{so ss ss sI sI sI so ss sI sI sI sI}", "session",
                          plain_text(x->session), "state", x->state, "tier", tier_of(x), "version",
                          (json_int_t)x->version, "turns", (json_int_t)x->n_turn, "resident_bytes",
                          (json_int_t)(strcmp(tier_of(x), "memory") ? 0 : l->session_bytes),
                          "stm_dtype", plain_text(x->stm_dtype), "seed", seed, "created_us",
                          (json_int_t)x->created_us, "used_us", (json_int_t)x->used_us, "age",
                          now - (json_int_t)x->created_us, "idle", now - (json_int_t)x->used_us);
    if (o && x->origin[0])
        (void)json_object_update_new(o, json_pack("{so sI}", "origin", plain_text(x->origin),
                                                  "origin_version", (json_int_t)x->origin_version));
    if (o && x->has_hash)
        (void)json_object_set_new(o, "stm_hash", json_hash(x->stm_hash));
    if (o && x->held_reason[0])
        (void)json_object_set_new(o, "held_reason", plain_text(x->held_reason));
    if (o && x->mixed_class)
        (void)json_object_set_new(o, "mixed_class", json_true());
    return o;
}

/* ---- the list --------------------------------------------------------------------------- */

static const struct column list_columns[] = {
    {"session", "session", CELL_TEXT},
    {"state", "state", CELL_TEXT},
    {"tier", "tier", CELL_TEXT},
    {"version", "version", CELL_COUNT},
    {"images", "images", CELL_COUNT},
    {"image_bytes", "size", CELL_BYTES},
    {"idle", "idle", CELL_AGE},
    {"age", "age", CELL_AGE},
    {"pending", "pending", CELL_COUNT},
    {"base", "base", CELL_COUNT},
    {"memory_bytes", "memory", CELL_BYTES},
    {"stm_dtype", "dtype", CELL_TEXT},
    {"used_us", "last used (UTC)", CELL_DATE},
    {"model", "model", CELL_TEXT},
};

static const struct column live_columns[] = {
    {"session", "session", CELL_TEXT},   {"state", "state", CELL_TEXT},
    {"tier", "tier", CELL_TEXT},         {"version", "version", CELL_COUNT},
    {"turns", "turns", CELL_COUNT},      {"resident_bytes", "resident", CELL_BYTES},
    {"idle", "idle", CELL_AGE},          {"age", "age", CELL_AGE},
    {"stm_dtype", "dtype", CELL_TEXT},   {"used_us", "last used (UTC)", CELL_DATE},
    {"origin", "comes from", CELL_TEXT},
};

static const char *sort_key;

static int by_key(const void *a, const void *b)
{
    const json_t *x = json_object_get(*(json_t *const *)a, sort_key);
    const json_t *y = json_object_get(*(json_t *const *)b, sort_key);
    if (json_is_string(x) && json_is_string(y))
        return strcmp(json_string_value(x), json_string_value(y));
    json_int_t p = json_integer_value(x), q = json_integer_value(y);
    return (p > q) - (p < q);
}

/* Sorts an array of objects in place. */
static enum rxt_status sort_rows(json_t *rows, const char *key, bool reverse)
{
    size_t n = json_array_size(rows), i;
    json_t **row = malloc((n + 1) * sizeof(json_t *));
    if (!row)
        return RXT_ENOMEM;
    for (i = 0; i < n; i++)
        row[i] = json_incref(json_array_get(rows, i));
    sort_key = key;
    qsort(row, n, sizeof(json_t *), by_key);
    for (i = 0; i < n; i++)
        (void)json_array_set_new(rows, i, row[reverse ? n - 1 - i : i]);
    free(row);
    return RXT_OK;
}

static enum rxt_status check_key(const char *key, const struct column *column, int n_column,
                                 struct rxt_error *err)
{
    char all[192] = "";
    for (int i = 0; i < n_column; i++) {
        if (strcmp(column[i].key, key) == 0)
            return RXT_OK;
        size_t n = strlen(all);
        (void)snprintf(all + n, sizeof all - n, "%s%s", i ? ", " : "", column[i].key);
    }
    return rxt_fail(err, RXT_EINVAL, "--sort %.30s: use one of %s", key, all);
}

static bool matches(const struct look *l, const char *name, const char *state)
{
    return !l->filter || strstr(name, l->filter) || strcmp(state, l->filter) == 0;
}

static enum rxt_status list_stored(struct report *r, struct section *s, const struct look *l,
                                   struct rxt_error *err)
{
    enum { PAGE = 64 };
    struct store_session *page = malloc(PAGE * sizeof *page);
    char after[STORE_NAME_MAX] = "";
    size_t n = 0;
    enum rxt_status st = page ? RXT_OK : RXT_ENOMEM;
    do {
        if (st == RXT_OK)
            st = store_session_list(l->store, l->tenant, after, page, PAGE, &n, err);
        if (st != RXT_OK)
            break;
        for (size_t i = 0; i < n; i++)
            if (matches(l, page[i].name, state_of(&page[i])))
                report_row(r, s, session_json(l, &page[i]));
        if (n > 0)
            memcpy(after, page[n - 1].name, sizeof after);
    } while (n == PAGE);
    free(page);
    return st;
}

enum rxt_status view_sessions(struct report *r, const struct look *l, struct rxt_error *err)
{
    const char *key = l->sort ? l->sort : "session";
    const struct column *column = l->live ? live_columns : list_columns;
    int n_column = l->live ? COUNT_OF(live_columns) : COUNT_OF(list_columns);
    TRY(check_key(key, column, n_column, err));
    struct section *s = report_table(r, "sessions", "sessions", column, n_column);
    if (!l->live)
        TRY(list_stored(r, s, l, err));
    for (size_t i = 0; l->live && i < l->live->n; i++)
        if (matches(l, l->live->session[i].session, l->live->session[i].state))
            report_row(r, s, live_json(l->live, &l->live->session[i]));
    if (json_array_size(s->rows) == 0)
        section_about(s, "There are none%s of tenant \"%.60s\".",
                      l->filter ? " that match the filter" : "", l->tenant);
    return sort_rows(s->rows, key, l->reverse);
}

/* ---- one -------------------------------------------------------------------------------- */

static const struct column facts[] = {
    {"session", "session", CELL_TEXT},
    {"state", "state", CELL_TEXT},
    {"held_reason", "held because", CELL_TEXT},
    {"tier", "lies in", CELL_TEXT},
    {"version", "version", CELL_COUNT},
    {"pending", "journaled, not applied", CELL_COUNT},
    {"base", "oldest version", CELL_COUNT},
    {"origin", "comes from", CELL_TEXT},
    {"origin_version", "... at version", CELL_COUNT},
    {"turns", "turns", CELL_COUNT},
    {"resident_bytes", "bytes in the server", CELL_BYTES},
    {"images", "images", CELL_COUNT},
    {"image_bytes", "bytes of images", CELL_BYTES},
    {"memory_bytes", "bytes of the memory", CELL_BYTES},
    {"stm_dtype", "dtype", CELL_TEXT},
    {"mixed_class", "replayed by another class", CELL_TEXT},
    {"seed", "seed", CELL_TEXT},
    {"model", "model", CELL_TEXT},
    {"model_hash", "hash of the model", CELL_TEXT},
    {"created_us", "made (UTC)", CELL_DATE},
    {"used_us", "last used (UTC)", CELL_DATE},
    {"age", "age", CELL_AGE},
};

enum rxt_status view_session(struct report *r, const struct look *l, struct rxt_error *err)
{
    struct store_session x;
    TRY(store_session_get(l->store, l->tenant, l->session, &x, err));
    struct section *s = report_facts(r, "session", "session", facts, COUNT_OF(facts));
    const struct client_session *served = l->live ? live_find(l->live, l->session) : NULL;
    json_t *o = session_json(l, &x);
    if (o && served) { /* what the export does not tell, or tells of itself */
        (void)json_object_del(o, "origin");
        (void)json_object_del(o, "origin_version");
        (void)json_object_update_new(o, live_json(l->live, served));
        (void)json_object_set_new(o, "version", json_integer((json_int_t)x.applied));
    }
    report_row(r, s, o);
    return RXT_OK;
}

/* ---- shared ----------------------------------------------------------------------------- */

enum rxt_status look_version(const struct look *l, const struct history *h, uint64_t *version,
                             struct rxt_error *err)
{
    const struct store_session *x = &h->session;
    *version = l->version == VERSION_HEAD ? x->applied : l->version;
    if (*version >= x->base && *version <= x->applied)
        return RXT_OK;
    return rxt_fail(err, RXT_ENOTFOUND,
                    "session \"%.60s\" has the versions %" PRIu64 " to %" PRIu64 ", not %" PRIu64,
                    x->name, x->base, x->applied, *version);
}

const char *kind_name(enum store_kind kind)
{
    switch (kind) {
    case STORE_TURN:
        return "turn";
    case STORE_REMEMBER:
        return "remember";
    case STORE_REWIND:
        return "rewind";
    case STORE_RESET:
        return "reset";
    }
    return "?";
}
