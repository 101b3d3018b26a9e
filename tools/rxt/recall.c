/* rxt recall: how much of what it was told does a model know after k turns?
 *
 * Each item of the benchmark is a conversation of its own: given turns go into the memory, then one
 * question is answered greedily and its answer is searched for the fact. Items run side by side, as
 * the sessions of a server would; that does not change a bit of any of them. */
#include "tools/rxt/cli.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { SIDE_BY_SIDE = 8, ANSWER_TOKENS = 48 };

static struct {
    const char *sets, *control;
    bool json, free_running, show;
    int32_t max_k;
} opt;

static const struct option options[] = {
    {"set", OPTION_TEXT, &opt.sets, "LETTERS", "only these sets, as in BDE (default: all)"},
    {"max-k", OPTION_INT, &opt.max_k, "K",
     "only questions at most K turns after the fact (default: all)"},
    {"free", OPTION_FLAG, &opt.free_running, NULL,
     "the model's own answers enter the memory, not the given ones"},
    {"control", OPTION_TEXT, &opt.control, "NAME",
     "reset, swap, zero or stale: the memory at the question"},
    {"show", OPTION_FLAG, &opt.show, NULL, "print every question and answer"},
    {"json", OPTION_FLAG, &opt.json, NULL, "{\"cells\": [{\"set\", \"k\", \"n\", \"correct\"}]}"},
    OPTION_MORE(model_options),
    {0},
};

enum control { CONTROL_NONE, CONTROL_RESET, CONTROL_SWAP, CONTROL_ZERO, CONTROL_STALE };
static const char *const control_name[] = {"", "reset", "swap", "zero", "stale"};

/* ---- the benchmark ----------------------------------------------------------------------- */

struct items {
    json_t **item;
    size_t n, cap;
};

static bool wanted(const json_t *o)
{
    const char *set = json_string_value(json_object_get(o, "set"));
    json_int_t k = json_integer_value(json_object_get(o, "k"));
    return set && (!opt.sets || strchr(opt.sets, set[0])) && (opt.max_k == 0 || k <= opt.max_k);
}

static bool are_strings(const json_t *array)
{
    size_t i;
    const json_t *s;
    json_array_foreach(array, i, s)
    {
        if (!json_is_string(s))
            return false;
    }
    return true;
}

static bool is_item(const json_t *o)
{
    const char *set = json_string_value(json_object_get(o, "set"));
    const json_t *gold = json_object_get(o, "gold"), *k = json_object_get(o, "k");
    return set && isalpha((unsigned char)set[0]) && !set[1] && json_is_integer(k) &&
           json_integer_value(k) >= 0 && json_integer_value(k) <= INT32_MAX &&
           json_is_array(json_object_get(o, "turns")) &&
           json_is_string(json_object_get(o, "ask")) && json_array_size(gold) > 0 &&
           are_strings(gold) && are_strings(json_object_get(o, "wrong"));
}

static enum rxt_status add_item(struct items *all, const char *line, size_t number,
                                struct rxt_error *err)
{
    json_error_t where;
    json_t *o = json_loads(line, JSON_REJECT_DUPLICATES, &where);
    if (!is_item(o)) {
        json_decref(o);
        return rxt_fail(err, RXT_EFORMAT,
                        "line %zu is no item of the benchmark (set, k, turns, ask, gold): %.80s",
                        number, where.text);
    }
    if (!wanted(o)) {
        json_decref(o);
        return RXT_OK;
    }
    if (all->n == all->cap) {
        size_t cap = 2 * all->cap + 256;
        json_t **p = realloc(all->item, cap * sizeof(json_t *));
        if (!p) {
            json_decref(o);
            return RXT_ENOMEM;
        }
        all->item = p;
        all->cap = cap;
    }
    all->item[all->n++] = o;
    return RXT_OK;
}

/* A line of any length into *line. ENOTFOUND at the end of the file; EIO: damaged, or cut short. */
static enum rxt_status read_line(gzFile f, char **line, size_t *cap)
{
    for (size_t n = 0;;) {
        if (n + 2 > *cap) {
            char *p = realloc(*line, 2 * *cap + 4096);
            if (!p)
                return RXT_ENOMEM;
            *line = p;
            *cap = 2 * *cap + 4096;
        }
        if (!gzgets(f, *line + n, (int)(*cap - n))) {
            int failed = 0;
            (void)gzerror(f, &failed);
            return failed < 0 ? RXT_EIO : n ? RXT_OK : RXT_ENOTFOUND;
        }
        n += strlen(*line + n);
        if (n && (*line)[n - 1] == '\n')
            return RXT_OK;
    }
}

static enum rxt_status read_items(struct items *all, const char *path, struct rxt_error *err)
{
    gzFile f = gzopen(path, "rb"); /* reads plain files as well */
    char *line = NULL;
    size_t cap = 0, number = 0;
    if (!f)
        return rxt_fail(err, RXT_EIO, "cannot read %.180s: %s", path, strerror(errno));
    enum rxt_status st;
    while ((st = read_line(f, &line, &cap)) == RXT_OK) {
        number++;
        if (line[strspn(line, " \t\r\n")] == '\0')
            continue;
        st = add_item(all, line, number, err);
        if (st != RXT_OK)
            break;
    }
    free(line);
    (void)gzclose(f);
    if (st == RXT_EIO)
        return rxt_fail(err, st, "%.180s is damaged or cut short", path);
    if (st == RXT_ENOTFOUND && all->n == 0)
        return rxt_fail(err, st, "%.180s holds no item that was asked for", path);
    return st == RXT_ENOTFOUND ? RXT_OK : st;
}

/* ---- judging ------------------------------------------------------------------------------ */

static bool word_byte(char c)
{
    return isalnum((unsigned char)c) || (unsigned char)c >= 0x80;
}

/* Whether `what` stands in `text` on word borders, ignoring case. */
static bool says(const char *text, const char *what)
{
    size_t n = strlen(what);
    for (const char *p = text; n && *p; p++) {
        size_t i = 0;
        while (i < n && p[i] && tolower((unsigned char)p[i]) == tolower((unsigned char)what[i]))
            i++;
        if (i == n && (p == text || !word_byte(p[-1]) || !word_byte(what[0])) &&
            (!word_byte(p[n]) || !word_byte(what[n - 1])))
            return true;
    }
    return false;
}

/* Right if every gold string (match "any": one) is said and no wrong one. */
static bool correct(const json_t *item, const char *answer)
{
    const char *match = json_string_value(json_object_get(item, "match"));
    const json_t *gold = json_object_get(item, "gold"), *wrong = json_object_get(item, "wrong");
    size_t i, hits = 0;
    const json_t *s;
    json_array_foreach(wrong, i, s)
    {
        if (says(answer, json_string_value(s)))
            return false;
    }
    json_array_foreach(gold, i, s)
    {
        hits += says(answer, json_string_value(s));
    }
    return match && strcmp(match, "any") == 0 ? hits > 0 : hits == json_array_size(gold);
}

/* ---- running ------------------------------------------------------------------------------ */

struct runner {
    const struct rxt_model *model;
    enum control control;
    struct rxt_worker *worker;
    struct stm_pool *pool;
    struct stm *memory[SIDE_BY_SIDE];
    struct rxt_read *read[SIDE_BY_SIDE];
    struct rxt_slot *slot[SIDE_BY_SIDE];
    int32_t *ids[SIDE_BY_SIDE], n_ids[SIDE_BY_SIDE], n_prompt[SIDE_BY_SIDE];
    int32_t *pass_ids;
};

static enum rxt_status runner_open(struct runner *r, const struct rxt_model *m)
{
    const struct rxt_info *info = rxt_model_info(m);
    const struct rxt_worker_config cfg = {.work = RXT_WORK_ALL,
                                          .max_rows = SIDE_BY_SIDE * info->max_seq_len,
                                          .max_seq = SIDE_BY_SIDE};
    struct stm_config stm = rxt_model_stm(m, DTYPE_F32);
    size_t max = (size_t)info->max_seq_len;
    r->model = m;
    TRY(rxt_worker_create(&r->worker, m, &cfg));
    TRY(stm_pool_create(&r->pool, rxt_model_backend(m), &stm, SIDE_BY_SIDE));
    r->pass_ids = malloc(SIDE_BY_SIDE * max * sizeof *r->pass_ids);
    if (!r->pass_ids)
        return RXT_ENOMEM;
    for (int i = 0; i < SIDE_BY_SIDE; i++) {
        struct lane *ln = rxt_worker_lane(r->worker);
        TRY(stm_create(&r->memory[i], ln, &stm, info->stm_init, 1));
        TRY(rxt_read_create(&r->read[i], m));
        TRY(rxt_slot_create(&r->slot[i], m));
        r->ids[i] = malloc(max * sizeof *r->ids[i]);
        if (!r->ids[i])
            return RXT_ENOMEM;
    }
    return RXT_OK;
}

static void runner_close(struct runner *r)
{
    for (int i = 0; i < SIDE_BY_SIDE; i++) {
        free(r->ids[i]);
        rxt_slot_destroy(&r->slot[i]);
        rxt_read_destroy(&r->read[i]);
        stm_destroy(&r->memory[i]);
    }
    free(r->pass_ids);
    stm_pool_destroy(&r->pool);
    rxt_worker_destroy(&r->worker);
}

/* Which of the items run in this step: a compact list of their places. */
struct active {
    int place[SIDE_BY_SIDE], n;
};

static enum rxt_status absorb(struct runner *r, const struct active *a)
{
    struct stm *memory[SIDE_BY_SIDE];
    struct stm_spare *spare[SIDE_BY_SIDE];
    int32_t offset[SIDE_BY_SIDE + 1] = {0};
    for (int i = 0; i < a->n; i++) {
        int p = a->place[i];
        memory[i] = r->memory[p];
        spare[i] = stm_spare_take(r->pool);
        memcpy(r->pass_ids + offset[i], r->ids[p], (size_t)r->n_ids[p] * sizeof *r->pass_ids);
        offset[i + 1] = offset[i] + r->n_ids[p];
    }
    const struct ragged rows = {.n_seq = a->n, .offset = offset};
    enum rxt_status st = rxt_update(r->worker, memory, spare, &rows, r->pass_ids, NULL);
    for (int i = 0; i < a->n; i++) {
        if (st == RXT_OK)
            st = stm_commit(memory[i], spare[i], stm_version(memory[i]));
        stm_spare_give(r->pool, &spare[i]);
    }
    return st;
}

/* Decodes greedily for all active items until each has its [EOS], `limit` tokens or a full turn. */
static enum rxt_status answer(struct runner *r, const struct active *given, int32_t limit)
{
    const struct rxt_info *info = rxt_model_info(r->model);
    struct active a = *given;
    int32_t done[SIDE_BY_SIDE] = {0};
    for (int i = 0; i < a.n; i++)
        TRY(rxt_read_build(r->read[a.place[i]], r->worker, r->memory[a.place[i]]));
    while (a.n > 0) {
        int32_t offset[SIDE_BY_SIDE + 1] = {0}, start[SIDE_BY_SIDE], next[SIDE_BY_SIDE];
        struct rxt_slot *slot[SIDE_BY_SIDE];
        const struct rxt_read *read[SIDE_BY_SIDE];
        struct sampling how[SIDE_BY_SIDE];
        for (int i = 0; i < a.n; i++) {
            int p = a.place[i];
            int32_t n = r->n_ids[p] - done[p];
            memcpy(r->pass_ids + offset[i], r->ids[p] + done[p], (size_t)n * sizeof *r->pass_ids);
            offset[i + 1] = offset[i] + n;
            start[i] = done[p];
            slot[i] = r->slot[p];
            read[i] = r->read[p];
            how[i] = RXT_GREEDY;
            done[p] += n;
        }
        const struct rxt_batch b = {.rows = {.n_seq = a.n, .offset = offset, .start = start},
                                    .ids = r->pass_ids,
                                    .slot = slot,
                                    .read = read};
        TRY(rxt_forward(r->worker, &b));
        TRY(rxt_sample(r->worker, how, a.n, next));
        struct active left = {.n = 0};
        for (int i = 0; i < a.n; i++) {
            int p = a.place[i];
            r->ids[p][r->n_ids[p]++] = next[i];
            if (next[i] != info->eos && r->n_ids[p] < info->max_seq_len &&
                r->n_ids[p] - r->n_prompt[p] < limit)
                left.place[left.n++] = p;
        }
        a = left;
    }
    return RXT_OK;
}

static enum rxt_status prompt(struct runner *r, int p, const char *query, struct rxt_error *err)
{
    size_t n = 0;
    const struct rxt_prompt text = {.query = query};
    TRY(rxt_prompt_ids(r->model, &text, r->ids[p], (size_t)rxt_model_info(r->model)->max_seq_len,
                       &n, err));
    r->n_ids[p] = r->n_prompt[p] = (int32_t)n;
    return RXT_OK;
}

/* Turn number `turn` of every item that has one: into ids, and into the memory. */
static enum rxt_status feed_turn(struct runner *r, json_t *const *item, int n, size_t turn,
                                 bool *any, struct rxt_error *err)
{
    struct active a = {.n = 0};
    int32_t max = rxt_model_info(r->model)->max_seq_len;
    for (int p = 0; p < n; p++) {
        const json_t *turns = json_object_get(item[p], "turns");
        const json_t *t = json_array_get(turns, turn);
        const char *q = json_string_value(json_object_get(t, "q"));
        const char *given = json_string_value(json_object_get(t, "a"));
        size_t len = 0;
        if (!t)
            continue;
        if (!q || !given)
            return rxt_fail(err, RXT_EFORMAT, "a turn has no \"q\" or no \"a\"");
        if (r->control == CONTROL_STALE && turn + 1 == json_array_size(turns))
            continue; /* the memory is one update behind */
        if (opt.free_running) {
            TRY(prompt(r, p, q, err));
        } else {
            TRY(rxt_turn_ids(r->model, q, given, r->ids[p], (size_t)max, &len, err));
            r->n_ids[p] = (int32_t)len;
        }
        a.place[a.n++] = p;
    }
    *any = a.n > 0;
    if (a.n == 0)
        return RXT_OK;
    if (opt.free_running)
        TRY(answer(r, &a, max));
    return absorb(r, &a);
}

/* Puts the memory of the control in place of the true one. */
static enum rxt_status apply_control(struct runner *r, int n)
{
    struct lane *ln = rxt_worker_lane(r->worker);
    const struct rxt_info *info = rxt_model_info(r->model);
    if (r->control == CONTROL_SWAP && n > 1) {
        struct stm *first = r->memory[0];
        memmove(r->memory, r->memory + 1, (size_t)(n - 1) * sizeof(struct stm *));
        r->memory[n - 1] = first;
    }
    for (int p = 0; p < n; p++) {
        if (r->control == CONTROL_RESET)
            TRY(stm_restart(r->memory[p], ln, 0, info->stm_init, 1));
        /* No memory at all: the norm of zero slots is zero, so cross-attention adds nothing. */
        if (r->control == CONTROL_ZERO)
            TRY(stm_restart(r->memory[p], ln, 0, STM_ZEROS, 1));
    }
    return RXT_OK;
}

static enum rxt_status run_group(struct runner *r, json_t *const *item, int n, bool *right,
                                 struct rxt_error *err)
{
    struct active all = {.n = n};
    bool any = true;
    for (int p = 0; p < n; p++)
        TRY(stm_restart(r->memory[p], rxt_worker_lane(r->worker), 0,
                        rxt_model_info(r->model)->stm_init, 1));
    for (size_t turn = 0; any; turn++)
        TRY(feed_turn(r, item, n, turn, &any, err));
    TRY(apply_control(r, n));
    for (int p = 0; p < n; p++) {
        TRY(prompt(r, p, json_string_value(json_object_get(item[p], "ask")), err));
        all.place[p] = p;
    }
    TRY(answer(r, &all, ANSWER_TOKENS));
    for (int p = 0; p < n; p++) {
        char *text =
            text_of_ids(r->model, r->ids[p] + r->n_prompt[p], r->n_ids[p] - r->n_prompt[p]);
        if (!text)
            return RXT_ENOMEM;
        right[p] = correct(item[p], text);
        if (opt.show)
            (void)fprintf(stderr, "%s %s k=%lld: %s -> %s\n", right[p] ? "right" : "WRONG",
                          json_string_value(json_object_get(item[p], "set")),
                          (long long)json_integer_value(json_object_get(item[p], "k")),
                          json_string_value(json_object_get(item[p], "ask")), text);
        free(text);
    }
    return RXT_OK;
}

/* ---- report ------------------------------------------------------------------------------- */

enum { MAX_CELLS = 512 };
struct cell {
    char set;
    int k, n, correct;
};
struct table {
    struct cell cell[MAX_CELLS];
    int n;
};

static enum rxt_status count(struct table *t, const json_t *item, bool right, struct rxt_error *err)
{
    char set = json_string_value(json_object_get(item, "set"))[0];
    json_int_t k = json_integer_value(json_object_get(item, "k"));
    int i = 0;
    while (i < t->n && (t->cell[i].set != set || t->cell[i].k != k))
        i++;
    if (i == MAX_CELLS)
        return rxt_fail(err, RXT_ELIMIT, "more than %d pairs of set and k", MAX_CELLS);
    if (i == t->n)
        t->cell[t->n++] = (struct cell){.set = set, .k = (int)k};
    t->cell[i].n++;
    t->cell[i].correct += right;
    return RXT_OK;
}

static int by_set_then_k(const void *a, const void *b)
{
    const struct cell *x = a, *y = b;
    return x->set != y->set ? x->set - y->set : x->k - y->k;
}

/* Wilson score interval at 95 %. */
static void wilson(int right, int n, double *low, double *high)
{
    double z = 1.959964, p = (double)right / n, d = 1 + z * z / n;
    double mid = (p + z * z / (2 * n)) / d;
    double half = z * sqrt(p * (1 - p) / n + z * z / (4.0 * n * n)) / d;
    *low = mid > half ? mid - half : 0;
    *high = mid + half;
}

static void print_table(struct table *t)
{
    int n = 0, right = 0;
    double low, high;
    printf("set    k    right            95 %% interval\n");
    for (int i = 0; i < t->n; i++) {
        const struct cell *c = &t->cell[i];
        wilson(c->correct, c->n, &low, &high);
        printf("%c   %4d  %4d of %-4d %3.0f %%  %3.0f - %.0f %%\n", c->set, c->k, c->correct, c->n,
               100.0 * c->correct / c->n, 100 * low, 100 * high);
        n += c->n;
        right += c->correct;
    }
    wilson(right, n, &low, &high);
    printf("all       %4d of %-4d %3.0f %%  %3.0f - %.0f %%\n", right, n, 100.0 * right / n,
           100 * low, 100 * high);
}

static void print_cells(const struct table *t)
{
    json_t *cells = json_array();
    for (int i = 0; i < t->n; i++)
        (void)json_array_append_new(cells, json_pack("{ss% si si si}", "set", &t->cell[i].set,
                                                     (size_t)1, "k", t->cell[i].k, "n",
                                                     t->cell[i].n, "correct", t->cell[i].correct));
    print_json(json_pack("{so}", "cells", cells));
}

struct task {
    struct items items;
    enum control control;
};

static enum rxt_status recall(const struct app *a, void *arg, int *code, struct rxt_error *err)
{
    const struct task *task = arg;
    const struct items *all = &task->items;
    struct runner r = {.control = task->control};
    struct table table = {.n = 0};
    struct progress bar;
    (void)code;
    enum rxt_status st = runner_open(&r, a->model);
    progress_start(&bar, "recall");
    for (size_t i = 0; i < all->n && st == RXT_OK; i += SIDE_BY_SIDE) {
        bool right[SIDE_BY_SIDE];
        int n = (int)(all->n - i < SIDE_BY_SIDE ? all->n - i : SIDE_BY_SIDE);
        st = run_group(&r, all->item + i, n, right, err);
        for (int p = 0; p < n && st == RXT_OK; p++)
            st = count(&table, all->item[i + (size_t)p], right[p], err);
        progress_step(&bar, i + (size_t)n, all->n);
    }
    progress_end(&bar);
    qsort(table.cell, (size_t)table.n, sizeof table.cell[0], by_set_then_k);
    if (st == RXT_OK && opt.json)
        print_cells(&table);
    else if (st == RXT_OK)
        print_table(&table);
    runner_close(&r);
    return st;
}

int command_recall(int argc, char **argv)
{
    struct command_line line = {
        .usage = "rxt recall BENCH.jsonl[.gz] [OPTIONS]",
        .about =
            "Runs the recall benchmark: the given turns go into the memory, then the question is\n"
            "answered greedily. Prints how often the fact was in the answer, by set and by the\n"
            "number k of turns since it was told, with 95 % Wilson intervals.",
        .options = options,
        .min_args = 1,
        .max_args = 1,
    };
    int code = command_line_parse(&line, argc, argv);
    if (code >= 0)
        return code;
    struct task task = {.control = CONTROL_NONE};
    for (int i = CONTROL_RESET; opt.control && i <= CONTROL_STALE; i++)
        if (strcmp(opt.control, control_name[i]) == 0)
            task.control = (enum control)i;
    if (opt.control && task.control == CONTROL_NONE) {
        (void)fprintf(stderr, "rxt: --control %s: use reset, swap, zero or stale\n", opt.control);
        return EXIT_USAGE;
    }
    struct rxt_error err = {0};
    enum rxt_status st = read_items(&task.items, line.arg[0], &err);
    code = st == RXT_OK ? run_command(NULL, recall, &task) : complain(st, &err);
    for (size_t i = 0; i < task.items.n; i++)
        json_decref(task.items.item[i]);
    free(task.items.item);
    return code;
}
