/* What an answer to a question would read: the shares of the slots, token by token. */
#include "tools/rxt/inspect/holds.h"
#include "tools/rxt/inspect/measure.h"
#include "tools/rxt/inspect/views.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

struct query {
    struct history h;
    uint64_t version;
    int32_t *ids, n;
    float *attention, *entropy; /* [L,n,S], [L,n] */
    bool has_holds;
    struct holds holds;  /* who wrote what is read */
    float *slots, *last; /* [L,S]: the mean over tokens, and what the last token reads */
};

static void query_close(struct query *q)
{
    history_close(&q->h);
    holds_close(&q->holds);
    free(q->ids);
    free(q->attention);
    free(q->entropy);
    free(q->slots);
    free(q->last);
}

static enum rxt_status query_ids(struct query *q, const struct look *l, struct rxt_error *err)
{
    size_t cap = (size_t)rxt_model_info(l->model)->max_seq_len, n;
    const struct rxt_prompt prompt = {.query = l->query};
    q->ids = malloc(cap * sizeof *q->ids);
    if (!q->ids)
        return RXT_ENOMEM;
    TRY(rxt_prompt_ids(l->model, &prompt, q->ids, cap, &n, err));
    q->n = (int32_t)n;
    return RXT_OK;
}

/* The version into the memory, with its origins unless they would take long: few sessions have
 * images of long ago, so that the whole journal may have to be computed again. */
static enum rxt_status load(struct query *q, const struct look *l, struct rxt_error *err)
{
    enum { SOON = 1000 };
    uint64_t first = q->h.session.base, n = q->version - first;
    q->has_holds = n <= SOON || l->turns == 0;
    if (!q->has_holds)
        return history_load(&q->h, q->version, err);
    if (l->turns > 0 && n > (uint64_t)l->turns)
        first = q->version - (uint64_t)l->turns;
    TRY(holds_open(&q->holds, &q->h, first, q->version));
    return holds_walk(&q->holds, &q->h, err);
}

static enum rxt_status query_run(struct query *q, const struct look *l, struct rxt_error *err)
{
    TRY(look_version(l, &q->h, &q->version, err));
    TRY(query_ids(q, l, err));
    size_t n = (size_t)q->n, n_layer = (size_t)q->h.cfg.n_layer, n_slot = (size_t)q->h.cfg.n_slot;
    q->attention = malloc(n_layer * n * n_slot * sizeof *q->attention);
    q->entropy = malloc(n_layer * n * sizeof *q->entropy);
    q->slots = calloc(n_layer * n_slot, sizeof *q->slots);
    q->last = malloc(n_layer * n_slot * sizeof *q->last);
    if (!q->attention || !q->entropy || !q->slots || !q->last)
        return RXT_ENOMEM;
    TRY(load(q, l, err));
    TRY(rxt_probe(q->h.worker, q->h.memory, q->ids, q->n, q->attention, q->entropy));
    for (size_t layer = 0; layer < n_layer; layer++)
        for (size_t s = 0; s < n_slot; s++) {
            const float *of_token = q->attention + layer * n * n_slot + s;
            for (size_t t = 0; t < n; t++)
                q->slots[layer * n_slot + s] += of_token[t * n_slot] / (float)n;
            q->last[layer * n_slot + s] = of_token[(n - 1) * n_slot];
        }
    return RXT_OK;
}

/* The pieces of the question, if texts may be shown. */
static json_t *pieces(const struct query *q, const struct look *l)
{
    json_t *array = l->text ? json_array() : NULL;
    for (int32_t i = 0; array && i < q->n; i++) {
        json_t *text = look_text(l, q->ids + i, 1);
        if (text && json_string_length(text) == 0) { /* a special token adds no text */
            json_decref(text);
            const char *name = rxt_token_text(l->model, q->ids[i]);
            text = plain_text(name ? name : "");
        }
        (void)json_array_append_new(array, text ? text : json_null());
    }
    return array;
}

static const struct column read_columns[] = {
    {"layer", "layer", CELL_COUNT},
    {"slot", "most read", CELL_COUNT},
    {"share", "share", CELL_SHARE},
    {"version", "written by", CELL_COUNT},
    {"last_slot", "by the last token", CELL_COUNT},
    {"last_share", "share", CELL_SHARE},
    {"last_version", "written by", CELL_COUNT},
    {"entropy", "entropy", CELL_REAL},
    {"last_entropy", "of the last", CELL_REAL},
};

static size_t largest(const float *x, size_t n)
{
    size_t top = 0;
    for (size_t i = 1; i < n; i++)
        top = x[i] > x[top] ? i : top;
    return top;
}

/* Who wrote the slot that is read most, and the one that the last token reads most. */
static void add_writers(json_t *o, const struct query *q, size_t slot, size_t last)
{
    (void)json_object_update_new(
        o, json_pack("{sI sI}", "version", (json_int_t)holds_of(&q->holds, slot).version,
                     "last_version", (json_int_t)holds_of(&q->holds, last).version));
}

static void add_reads(struct report *r, const struct query *q)
{
    size_t n = (size_t)q->n, n_slot = (size_t)q->h.cfg.n_slot;
    char title[64];
    (void)snprintf(title, sizeof title, "what the question reads of version %" PRIu64, q->version);
    struct section *s = report_table(r, "reads", title, read_columns, COUNT_OF(read_columns));
    for (size_t l = 0; l < (size_t)q->h.cfg.n_layer; l++) {
        const float *slots = q->slots + l * n_slot, *last = q->last + l * n_slot;
        const float *entropy = q->entropy + l * n;
        size_t a = largest(slots, n_slot), b = largest(last, n_slot);
        json_t *o = json_pack("{sI sI so sI so so so}", "layer", (json_int_t)l, "slot",
                              (json_int_t)a, "share", plain_real((double)slots[a]), "last_slot",
                              (json_int_t)b, "last_share", plain_real((double)last[b]), "entropy",
                              plain_real(measure_mean(entropy, n, sizeof *entropy)), "last_entropy",
                              plain_real((double)entropy[n - 1]));
        if (q->has_holds)
            add_writers(o, q, l * n_slot + a, l * n_slot + b);
        report_row(r, s, o);
    }
    section_about(
        s,
        "The slot with the largest share in memory cross-attention (mean over heads), and "
        "the version whose writing makes the largest part of it (%s). The last token is the "
        "one behind which the answer begins. Entropy in bits: 0 = one slot is read, %.3g = "
        "all alike.",
        q->has_holds ? "0: what was there before" : "takes long here: add --turns 0",
        log2((double)n_slot));
}

static void add_attention(struct report *r, const struct query *q, const struct look *l)
{
    int32_t n_layer = q->h.cfg.n_layer, n_slot = q->h.cfg.n_slot;
    json_t *names = pieces(q, l);
    struct section *s = report_map(r, "entropy", "entropy of what each token reads, in bits",
                                   n_layer, q->n, q->entropy);
    s->map.row_name = "layer";
    s->map.col_name = "token";
    s = report_map(r, "attention_slots", "share of each slot, mean over tokens", n_layer, n_slot,
                   q->slots);
    s->map.row_name = "layer";
    s->map.col_name = "slot";
    s = report_map(r, "attention_last", "share of each slot for the last token", n_layer, n_slot,
                   q->last);
    s->map.row_name = "layer";
    s->map.col_name = "slot";
    for (int32_t layer = 0; layer < n_layer; layer++) {
        char key[32], title[96];
        if (layer != l->layer && !l->whole)
            continue;
        (void)snprintf(key, sizeof key, "attention_layer_%d", layer);
        (void)snprintf(title, sizeof title, "share of each slot for each token, layer %d", layer);
        s = report_map(r, key, title, q->n, n_slot,
                       q->attention + (size_t)layer * (size_t)q->n * (size_t)n_slot);
        s->map.row_name = "token";
        s->map.col_name = "slot";
        s->map.row_label = json_incref(names);
    }
    json_decref(names);
}

enum rxt_status view_query(struct report *r, const struct look *l, struct rxt_error *err)
{
    struct query q = {0};
    enum rxt_status st = history_open(&q.h, l->store, l->tenant, l->session, l->model, err);
    if (st == RXT_OK)
        st = query_run(&q, l, err);
    if (st == RXT_OK) {
        add_reads(r, &q);
        add_attention(r, &q, l);
    }
    query_close(&q);
    return st;
}
