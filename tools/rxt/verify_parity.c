#include "tools/rxt/verify_parity.h"

#include "tools/rxt/cli.h"
#include "tools/rxt/replica.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define CLEAR_MARGIN 0.1 /* standard deviations of the logits */
#define MEMORY_LIMIT 2e-2
#define MEMORY_TURNS 14

struct pair {
    struct replica cpu, other;
    int32_t *ids; /* [max_seq_len] of a turn */
};

struct turn_parity {
    int32_t n_answer;
    int32_t wrong; /* another choice although the margin is clear */
    int32_t close; /* another choice, below that margin */
    double kl;     /* of the distributions, the mean over the answer, in nats */
    double memory; /* relative */
};

static double deviation(const float *x, int32_t n)
{
    double sum = 0, squares = 0;
    for (int32_t i = 0; i < n; i++)
        sum += (double)x[i];
    for (int32_t i = 0; i < n; i++)
        squares += ((double)x[i] - sum / n) * ((double)x[i] - sum / n);
    return sqrt(squares / n);
}

/* log sum exp */
static double log_mass(const float *x, int32_t n, float most)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += exp((double)x[i] - (double)most);
    return (double)most + log(sum);
}

/* KL(p || q) of the softmaxes of two rows of logits. */
static double divergence(const float *p, const float *q, int32_t n)
{
    float margin;
    double p_mass = log_mass(p, n, p[replica_argmax(p, n, &margin)]);
    double q_mass = log_mass(q, n, q[replica_argmax(q, n, &margin)]);
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        double log_p = (double)p[i] - p_mass;
        sum += exp(log_p) * (log_p - ((double)q[i] - q_mass));
    }
    return sum;
}

/* The CPU's choice after these rows, whose logits are in both. */
static int32_t compare_row(const float *cpu, const float *other, int32_t vocab,
                           struct turn_parity *t)
{
    float margin, unused;
    int32_t id = replica_argmax(cpu, vocab, &margin);
    if (replica_argmax(other, vocab, &unused) != id) {
        if ((double)margin > CLEAR_MARGIN * deviation(cpu, vocab))
            t->wrong++;
        else
            t->close++;
    }
    t->kl += divergence(cpu, other, vocab);
    return id;
}

static enum rxt_status forward_both(struct pair *p, int32_t from, int32_t n)
{
    TRY(replica_forward(&p->cpu, p->ids + from, n, from));
    return replica_forward(&p->other, p->ids + from, n, from);
}

/* Greedy until [EOS] or the end of the interaction; p->ids then hold n_query + n_answer of them. */
static enum rxt_status answer(struct pair *p, int32_t n_query, struct turn_parity *t)
{
    const struct rxt_info *info = rxt_model_info(p->cpu.model);
    int32_t vocab = info->n_vocab, at = n_query;
    TRY(forward_both(p, 0, n_query));
    size_t last = (size_t)(n_query - 1) * (size_t)vocab;
    while (at < info->max_seq_len) {
        int32_t id = compare_row(p->cpu.logits + last, p->other.logits + last, vocab, t);
        p->ids[at++] = id;
        if (id == info->eos || at == info->max_seq_len)
            break;
        TRY(forward_both(p, at - 1, 1));
        last = 0;
    }
    t->n_answer = at - n_query;
    t->kl /= t->n_answer > 0 ? t->n_answer : 1;
    return RXT_OK;
}

/* |other - cpu| / |cpu|, Frobenius; infinite where a value is not finite. */
static enum rxt_status compare_memories(struct pair *p, double *relative)
{
    size_t n = stm_bytes(stm_config_of(p->cpu.memory)) / sizeof(float);
    float *want = replica_memory(&p->cpu), *got = replica_memory(&p->other);
    double apart = 0, all = 0;
    for (size_t i = 0; want && got && i < n; i++) {
        double d = (double)got[i] - (double)want[i];
        apart += d * d;
        all += (double)want[i] * (double)want[i];
    }
    *relative = isfinite(apart) ? sqrt(apart / all) : INFINITY;
    bool have = want && got;
    free(want);
    free(got);
    return have ? RXT_OK : RXT_ENOMEM;
}

static enum rxt_status play(struct pair *p, const json_t *turn, int number, struct turn_parity *t,
                            struct rxt_error *err)
{
    const struct rxt_info *info = rxt_model_info(p->cpu.model);
    int32_t n_query = replica_ids(json_object_get(turn, "query_ids"), info->n_vocab, p->ids,
                                  info->max_seq_len - 1);
    if (n_query < 1)
        return rxt_fail(err, RXT_EFORMAT,
                        "turn %d: query_ids must be token ids of the model, less than %d", number,
                        info->max_seq_len);
    TRY(rxt_read_build(p->cpu.read, p->cpu.worker, p->cpu.memory));
    TRY(rxt_read_build(p->other.read, p->other.worker, p->other.memory));
    TRY(answer(p, n_query, t));
    TRY(replica_update(&p->cpu, p->ids, n_query + t->n_answer));
    TRY(replica_update(&p->other, p->ids, n_query + t->n_answer));
    return compare_memories(p, &t->memory);
}

static bool report(int number, const struct turn_parity *t, bool json)
{
    bool good =
        t->wrong == 0 && (number > MEMORY_TURNS || t->memory <= MEMORY_LIMIT); /* NaN is not */
    if (json)
        print_json(json_pack("{si si si si sf so sb}", "turn", number, "tokens", t->n_answer,
                             "wrong", t->wrong, "close", t->close, "kl", t->kl, "memory",
                             isfinite(t->memory) ? json_real(t->memory) : json_null(), "good",
                             good));
    else
        printf("turn %2d  %2d of %d tokens differ, %d below the margin  KL %.1e  memory %.2e  %s\n",
               number, t->wrong + t->close, t->n_answer, t->close, t->kl, t->memory,
               good ? "ok" : "FAILED");
    return good;
}

static enum rxt_status play_all(struct pair *p, const char *path, bool json, bool *good,
                                struct rxt_error *err)
{
    json_t *turns = NULL;
    TRY(replica_turns(&turns, path, err));
    enum rxt_status st = RXT_OK;
    for (size_t i = 0; i < json_array_size(turns) && st == RXT_OK; i++) {
        struct turn_parity t = {0};
        st = play(p, json_array_get(turns, i), (int)i + 1, &t, err);
        if (st == RXT_OK)
            *good &= report((int)i + 1, &t, json);
    }
    json_decref(turns);
    return st;
}

static enum rxt_status open_cpu(struct rxt_model **out, struct rxt_error *err)
{
    const struct common_options asked = common;
    common.backend = "cpu";
    common.dtype = "f32";
    enum rxt_status st = open_model(out, err);
    common = asked;
    return st;
}

enum rxt_status verify_parity(const struct rxt_model *m, const char *path, bool json, bool *good,
                              struct rxt_error *err)
{
    struct rxt_model *cpu = NULL;
    struct pair p = {0};
    TRY(open_cpu(&cpu, err));
    if (!json)
        printf("%s on %s, beside %s in f32\n", rxt_model_info(m)->name,
               backend_describe(rxt_model_backend(m)), backend_describe(rxt_model_backend(cpu)));
    enum rxt_status st = replica_open(&p.cpu, cpu);
    if (st == RXT_OK)
        st = replica_open(&p.other, m);
    p.ids = calloc((size_t)rxt_model_info(m)->max_seq_len, sizeof *p.ids);
    if (st == RXT_OK && !p.ids)
        st = RXT_ENOMEM;
    if (st == RXT_OK)
        st = play_all(&p, path, json, good, err);
    free(p.ids);
    replica_close(&p.other);
    replica_close(&p.cpu);
    rxt_model_close(&cpu);
    return st;
}
