/* rxt verify: compare a model with recorded outputs of the reference. */
#include "tools/rxt/cli.h"
#include "tools/rxt/replica.h"
#include "tools/rxt/verify_parity.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    double tolerance, margin;
    bool json, parity;
} opt = {.margin = 1e-3};

static const struct option options[] = {
    {"tolerance", OPTION_REAL, &opt.tolerance, "X",
     "max abs error (default: 2e-5, with CUDA 1e-4)"},
    {"margin", OPTION_REAL, &opt.margin, "X",
     "greedy tokens count where the top-1 margin is above (default: 1e-3)"},
    {"parity", OPTION_FLAG, &opt.parity, NULL,
     "a conversation: beside the CPU in f32 instead of what was recorded"},
    {"json", OPTION_FLAG, &opt.json, NULL, "one object a turn"},
    OPTION_MORE(model_options),
    {0},
};

static double max_error(const float *got, const float *want, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - (double)want[i]);
        if (!(e <= worst)) /* a NaN is the worst of all */
            worst = isnan(e) ? INFINITY : e;
    }
    return worst;
}

/* ---- golden folders: expected.safetensors ------------------------------------------------ */

struct turn_errors {
    double logits, encoded, memory;
    int greedy_wrong, greedy_n, greedy_close; /* close: below the margin, not counted */
};

static enum rxt_status expected(const struct rxt_tensors *t, const char *name, int turn,
                                struct rxt_array *out, struct rxt_error *err)
{
    char full[64];
    (void)snprintf(full, sizeof full, "%s.%d", name, turn);
    return rxt_tensors_get(t, full, out, err);
}

static enum rxt_status check_dims(const char *what, size_t got, size_t want, struct rxt_error *err)
{
    if (got == want)
        return RXT_OK;
    return rxt_fail(err, RXT_ESHAPE, "%s has %zu values, this model makes %zu", what, got, want);
}

static enum rxt_status check_greedy(struct replica *o, const struct rxt_array *ids,
                                    const struct rxt_array *greedy, struct turn_errors *e)
{
    int32_t vocab = rxt_model_info(o->model)->n_vocab, at = (int32_t)ids->n;
    const float *last = o->logits + (ids->n - 1) * (size_t)vocab;
    for (size_t i = 0; i < greedy->n; i++) {
        float margin;
        int32_t id = replica_argmax(last, vocab, &margin);
        e->greedy_n++;
        if (id != greedy->i32[i]) {
            if ((double)margin > opt.margin)
                e->greedy_wrong++;
            else
                e->greedy_close++;
            return RXT_OK; /* from here on the texts differ */
        }
        TRY(replica_forward(o, &id, 1, at++));
        last = o->logits;
    }
    return RXT_OK;
}

/* A row in any dtype as float32. */
static enum rxt_status row_values(struct lane *ln, struct tensor row, float *out)
{
    size_t n = (size_t)row.cols, size = dtype_bytes(row.dtype);
    char *raw = (char *)out + n * (sizeof *out - size); /* at its end: widened from the front */
    TRY(lane_download(ln, raw, row.data, n * size));
    for (size_t i = 0; i < n; i++)
        out[i] = dtype_value(raw, row.dtype, i);
    return RXT_OK;
}

static enum rxt_status golden_turn(struct replica *o, const struct rxt_tensors *t, int turn,
                                   struct turn_errors *e, struct rxt_error *err)
{
    const struct rxt_info *info = rxt_model_info(o->model);
    struct lane *ln = rxt_worker_lane(o->worker);
    struct rxt_array before, ids, logits, greedy, encoded, after;
    TRY(expected(t, "stm", turn - 1, &before, err));
    TRY(expected(t, "input_ids", turn, &ids, err));
    TRY(expected(t, "logits", turn, &logits, err));
    TRY(expected(t, "greedy", turn, &greedy, err));
    TRY(expected(t, "encoded", turn, &encoded, err));
    TRY(expected(t, "stm", turn, &after, err));
    size_t n = ids.n, width = (size_t)info->embed_dim;
    size_t memory_n = (size_t)info->n_layer * (size_t)info->n_slot * width;
    if (!before.f32 || !ids.i32 || !logits.f32 || !greedy.i32 || !encoded.f32 || !after.f32)
        return rxt_fail(err, RXT_EFORMAT, "an expected tensor has the wrong dtype");
    if (n == 0 || n + greedy.n > (size_t)info->max_seq_len)
        return rxt_fail(err, RXT_ELIMIT, "input_ids.%d and greedy.%d are longer than %d tokens",
                        turn, turn, info->max_seq_len);
    TRY(check_dims("stm", before.n, memory_n, err));
    TRY(check_dims("stm", after.n, memory_n, err));
    TRY(check_dims("logits", logits.n, n * (size_t)info->n_vocab, err));
    TRY(check_dims("encoded", encoded.n, n * width * (size_t)info->n_layer, err));

    TRY(stm_import(o->memory, ln, (uint64_t)turn - 1, before.f32, memory_n * sizeof(float)));
    TRY(rxt_read_build(o->read, o->worker, o->memory));
    TRY(replica_forward(o, ids.i32, (int32_t)n, 0));
    e->logits = max_error(o->logits, logits.f32, logits.n);
    TRY(check_greedy(o, &ids, &greedy, e));

    const int32_t offset[2] = {0, (int32_t)n};
    const struct ragged rows = {.n_seq = 1, .offset = offset};
    const struct tensor *ed = NULL;
    float *row = calloc(n * width, sizeof *row);
    if (!row)
        return RXT_ENOMEM;
    enum rxt_status st = rxt_memorize(o->worker, &rows, ids.i32, &ed);
    for (int32_t i = 0; i < info->n_layer && st == RXT_OK; i++) {
        for (size_t r = 0; r < n && st == RXT_OK; r++)
            st = row_values(ln, tensor_rows(ed[i], (int32_t)r, 1), row + r * width);
        if (st == RXT_OK)
            e->encoded =
                fmax(e->encoded, max_error(row, encoded.f32 + (size_t)i * n * width, n * width));
    }
    free(row);
    if (st != RXT_OK)
        return st;
    TRY(replica_update(o, ids.i32, (int32_t)n));
    float *values = replica_memory(o);
    if (!values)
        return RXT_ENOMEM;
    e->memory = max_error(values, after.f32, memory_n);
    free(values);
    return RXT_OK;
}

/* JSON has no infinity: null. */
static json_t *json_error_of(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static bool report_turn(int turn, const struct turn_errors *e)
{
    bool good = e->logits <= opt.tolerance && e->encoded <= opt.tolerance &&
                e->memory <= opt.tolerance && e->greedy_wrong == 0;
    if (opt.json)
        print_json(json_pack("{si so so so si si sb}", "turn", turn, "logits",
                             json_error_of(e->logits), "encoded", json_error_of(e->encoded),
                             "memory", json_error_of(e->memory), "greedy", e->greedy_n,
                             "greedy_mismatches", e->greedy_wrong, "good", good));
    else
        printf("turn %2d  logits %.2e  encoded %.2e  memory %.2e  greedy %d of %d wrong%s  %s\n",
               turn, e->logits, e->encoded, e->memory, e->greedy_wrong, e->greedy_n,
               e->greedy_close ? " (one below the margin)" : "", good ? "ok" : "FAILED");
    return good;
}

static enum rxt_status verify_golden(struct replica *o, const char *path, bool *good,
                                     struct rxt_error *err)
{
    struct rxt_tensors *t = NULL;
    struct rxt_array ids;
    TRY(rxt_tensors_open(&t, path, err));
    int turn = 1;
    enum rxt_status st = RXT_OK;
    for (; st == RXT_OK && expected(t, "input_ids", turn, &ids, NULL) == RXT_OK; turn++) {
        struct turn_errors e = {0};
        st = golden_turn(o, t, turn, &e, err);
        if (st == RXT_OK)
            *good &= report_turn(turn, &e);
    }
    rxt_tensors_close(&t);
    if (st == RXT_OK && turn == 1)
        return rxt_fail(err, RXT_EFORMAT, "%.180s holds no turn (input_ids.1)", path);
    return st;
}

/* ---- conversations: conversation.json ---------------------------------------------------- */

struct fingerprint {
    double rms, sum, first, last; /* differences */
};

/* 1 to n numbers? */
static bool are_numbers(const json_t *array, size_t n)
{
    size_t i;
    const json_t *v;
    json_array_foreach(array, i, v)
    {
        if (!json_is_number(v))
            return false;
    }
    return json_array_size(array) > 0 && json_array_size(array) <= n;
}

static double worst_of(const float *x, const json_t *want)
{
    double worst = 0;
    for (size_t i = 0; i < json_array_size(want); i++)
        worst = fmax(worst, fabs((double)x[i] - json_number_value(json_array_get(want, i))));
    return worst;
}

static enum rxt_status compare_memory(struct replica *o, const json_t *turn, struct fingerprint *d,
                                      struct rxt_error *err)
{
    size_t n = stm_bytes(stm_config_of(o->memory)) / sizeof(float);
    const json_t *first = json_object_get(turn, "stm_first");
    const json_t *last = json_object_get(turn, "stm_last");
    double squares = 0, sum = 0;
    if (!are_numbers(first, n) || !are_numbers(last, n))
        return rxt_fail(err, RXT_EFORMAT, "stm_first and stm_last must be 1 to %zu numbers each",
                        n);
    float *x = replica_memory(o);
    if (!x)
        return RXT_ENOMEM;
    for (size_t i = 0; i < n; i++) {
        squares += (double)x[i] * (double)x[i];
        sum += (double)x[i];
    }
    *d = (struct fingerprint){
        .rms =
            fabs(sqrt(squares / (double)n) - json_number_value(json_object_get(turn, "stm_rms"))),
        .sum = fabs(sum - json_number_value(json_object_get(turn, "stm_sum"))),
        .first = worst_of(x, first),
        .last = worst_of(x + n - json_array_size(last), last),
    };
    free(x);
    return RXT_OK;
}

/* Limits of golden/README.md; they bound the reference's own rounding over the turns. */
static const struct fingerprint fingerprint_limit = {1e-4, 1, 1e-4, 1e-4};

/* Replays the ids of a turn: *wrong = answers that are not the greedy choice. */
static enum rxt_status replay_turn(struct replica *o, const int32_t *ids, int32_t n_query,
                                   int32_t n_answer, int32_t *wrong)
{
    int32_t vocab = rxt_model_info(o->model)->n_vocab;
    TRY(rxt_read_build(o->read, o->worker, o->memory));
    TRY(replica_forward(o, ids, n_query, 0));
    const float *last = o->logits + (size_t)(n_query - 1) * (size_t)vocab;
    for (int32_t i = 0; i < n_answer; i++) {
        float margin;
        *wrong += replica_argmax(last, vocab, &margin) != ids[n_query + i];
        TRY(replica_forward(o, ids + n_query + i, 1, n_query + i));
        last = o->logits;
    }
    return replica_update(o, ids, n_query + n_answer);
}

static enum rxt_status conversation_turn(struct replica *o, const json_t *turn, int number,
                                         bool *good, struct rxt_error *err)
{
    const struct rxt_info *info = rxt_model_info(o->model);
    int32_t max = info->max_seq_len, vocab = info->n_vocab, wrong = 0, n_answer = -1;
    int32_t *ids = malloc((size_t)max * sizeof *ids);
    if (!ids)
        return RXT_ENOMEM;
    int32_t n_query = replica_ids(json_object_get(turn, "query_ids"), vocab, ids, max);
    if (n_query > 0)
        n_answer =
            replica_ids(json_object_get(turn, "answer_ids"), vocab, ids + n_query, max - n_query);
    enum rxt_status st = n_answer < 0 ? rxt_fail(err, RXT_EFORMAT,
                                                 "turn %d: query_ids and answer_ids must be token "
                                                 "ids of the model, together at most %d",
                                                 number, max)
                                      : replay_turn(o, ids, n_query, n_answer, &wrong);
    struct fingerprint d = {0};
    bool recorded =
        json_object_get(turn, "stm_rms") != NULL; /* not where rounding has grown too far */
    if (st == RXT_OK && recorded)
        st = compare_memory(o, turn, &d, err);
    free(ids);
    if (st != RXT_OK)
        return st;
    bool ok = wrong == 0 && d.rms <= fingerprint_limit.rms && d.sum <= fingerprint_limit.sum &&
              d.first <= fingerprint_limit.first && d.last <= fingerprint_limit.last;
    *good &= ok;
    if (!recorded && opt.json)
        print_json(json_pack("{si si si sb}", "turn", number, "tokens", n_answer,
                             "greedy_mismatches", wrong, "good", ok));
    else if (!recorded)
        printf("turn %2d  greedy %d of %d wrong  %s\n", number, wrong, n_answer,
               ok ? "ok" : "FAILED");
    else if (opt.json)
        print_json(json_pack("{si si si sf sf sf sf sb}", "turn", number, "tokens", n_answer,
                             "greedy_mismatches", wrong, "stm_rms", d.rms, "stm_sum", d.sum,
                             "stm_first", d.first, "stm_last", d.last, "good", ok));
    else
        printf(
            "turn %2d  greedy %d of %d wrong  memory: rms %.1e sum %.1e first %.1e last %.1e  %s\n",
            number, wrong, n_answer, d.rms, d.sum, d.first, d.last, ok ? "ok" : "FAILED");
    return RXT_OK;
}

static enum rxt_status verify_conversation(struct replica *o, const char *path, bool *good,
                                           struct rxt_error *err)
{
    json_t *turns = NULL;
    TRY(replica_turns(&turns, path, err));
    enum rxt_status st = RXT_OK;
    for (size_t i = 0; i < json_array_size(turns) && st == RXT_OK; i++)
        st = conversation_turn(o, json_array_get(turns, i), (int)i + 1, good, err);
    json_decref(turns);
    return st;
}

/* ------------------------------------------------------------------------------------------ */

/* The folder that is verified, and which of the two kinds it is. */
struct folder {
    const char *expected, *conversation; /* one of them; the other is NULL */
};

static enum rxt_status verify(const struct app *a, void *arg, int *code, struct rxt_error *err)
{
    const struct folder *f = arg;
    struct backend *be = rxt_model_backend(a->model);
    struct replica o = {0};
    bool good = true;
    if (opt.parity) {
        if (!f->conversation)
            return rxt_fail(err, RXT_EINVAL, "--parity wants a folder with a conversation.json");
        enum rxt_status st = verify_parity(a->model, f->conversation, opt.json, &good, err);
        *code = good ? 0 : 1;
        return st;
    }
    if (opt.tolerance == 0)
        opt.tolerance = strcmp(backend_name(be), "cpu") == 0 ? 2e-5 : 1e-4;
    if (!opt.json)
        printf("%s on %s, tolerance %.0e\n", rxt_model_info(a->model)->name, backend_describe(be),
               opt.tolerance);
    enum rxt_status st = replica_open(&o, a->model);
    if (st == RXT_OK)
        st = f->expected ? verify_golden(&o, f->expected, &good, err)
                         : verify_conversation(&o, f->conversation, &good, err);
    replica_close(&o);
    *code = good ? 0 : 1;
    return st;
}

int command_verify(int argc, char **argv)
{
    struct command_line line = {
        .usage = "rxt verify DIR [OPTIONS]",
        .about =
            "Runs a golden folder (config.json, model.safetensors, expected.safetensors) or a "
            "recorded\n"
            "conversation (conversation.json, with --model) and prints per turn the largest "
            "absolute\n"
            "errors and the greedy tokens that differ. Exit code 0 only within the tolerance.\n"
            "--parity plays the queries of a conversation on the backend and on the CPU in f32: "
            "the\n"
            "tokens must be equal where the CPU's choice is clear (0.1 standard deviations of "
            "its\n"
            "logits), the memories within 2e-2 after 14 turns.",
        .options = options,
        .min_args = 1,
        .max_args = 1,
    };
    int code = command_line_parse(&line, argc, argv);
    if (code >= 0)
        return code;
    char expected[4096], conversation[4096];
    (void)snprintf(expected, sizeof expected, "%s/expected.safetensors", line.arg[0]);
    (void)snprintf(conversation, sizeof conversation, "%s/conversation.json", line.arg[0]);
    struct folder f = {0};
    if (access(expected, F_OK) == 0)
        f.expected = expected;
    else if (access(conversation, F_OK) == 0)
        f.conversation = conversation;
    if (!f.expected && !f.conversation) {
        (void)fprintf(stderr, "rxt: %s holds neither expected.safetensors nor conversation.json\n",
                      line.arg[0]);
        return 1;
    }
    if (f.expected && !common.model)
        common.model = line.arg[0]; /* a golden folder brings its model along */
    return run_command(NULL, verify, &f);
}
