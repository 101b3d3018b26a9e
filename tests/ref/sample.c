#include "tests/ref/ref.h"

#include "kernels/base/random.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

struct token {
    float z;
    int32_t id;
};

/* Highest logit first, lower id first among equals. */
static int by_rank(const void *a, const void *b)
{
    const struct token *x = a, *y = b;
    if (x->z != y->z)
        return x->z > y->z ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* All tokens in rank order; *n_kept of them remain. The caller frees. */
static struct token *ranked(const float *logits, int n_vocab, const struct sampling *how,
                            int *n_kept)
{
    struct token *t = malloc((size_t)n_vocab * sizeof *t);
    assert(t);
    for (int i = 0; i < n_vocab; i++)
        t[i] = (struct token){logits[i] / how->temperature, i};
    qsort(t, (size_t)n_vocab, sizeof *t, by_rank);
    int n = n_vocab;
    if (how->top_k > 0 && how->top_k < n)
        for (n = how->top_k; n < n_vocab && t[n].z == t[how->top_k - 1].z;)
            n++;
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++)
        total += exp((double)t[i].z - t[0].z);
    bool top_p = how->top_p > 0 && how->top_p < 1;
    for (int i = 0; top_p && i < n; i++) {
        sum += exp((double)t[i].z - t[0].z);
        if (sum > how->top_p * total)
            n = i + 1; /* the token that crosses stays */
    }
    *n_kept = n;
    return t;
}

void ref_sample_kept(const float *logits, int n_vocab, const struct sampling *how, bool *kept)
{
    int n;
    struct token *t = ranked(logits, n_vocab, how, &n);
    for (int i = 0; i < n_vocab; i++)
        kept[t[i].id] = i < n;
    free(t);
}

int32_t ref_sample(const float *logits, int n_vocab, const struct sampling *how)
{
    int32_t best = how->n_choice > 0 ? how->choice[0] : 0;
    for (int i = 1; i < how->n_choice; i++)
        if (logits[how->choice[i]] >= logits[best])
            best = how->choice[i];
    for (int i = 1; how->n_choice == 0 && how->temperature == 0 && i < n_vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    if (how->n_choice > 0 || how->temperature == 0)
        return best;
    bool *kept = malloc((size_t)n_vocab * sizeof *kept);
    assert(kept);
    ref_sample_kept(logits, n_vocab, how, kept);
    struct random_block b = random_at(how->seed, RANDOM_SAMPLE, how->turn, (uint64_t)how->position);
    double u = random_uniform(b.v[0], b.v[1]), top = -INFINITY, total = 0, sum = 0;
    for (int i = 0; i < n_vocab; i++)
        top = kept[i] ? fmax(top, logits[i] / how->temperature) : top;
    for (int i = 0; i < n_vocab; i++)
        total += kept[i] ? exp((double)(logits[i] / how->temperature) - top) : 0;
    for (int i = 0; i < n_vocab; i++) {
        if (!kept[i])
            continue;
        best = i;
        sum += exp((double)(logits[i] / how->temperature) - top);
        if (sum > u * total)
            break;
    }
    free(kept);
    return best;
}
