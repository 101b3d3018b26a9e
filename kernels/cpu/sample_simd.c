#include "kernels/cpu/simd_impl.h"

#include "kernels/base/random.h"
#include "kernels/cpu/math_impl.h"
#include "kernels/cpu/sample_impl.h"

#include <math.h>

#define CHUNK 256 /* logits whose maximum is looked at together */

/* The highest logit, the lowest id among equals; 0 if none is a number above -infinity. */
static int32_t argmax(const float *x, int32_t n, float *top)
{
    int32_t best = 0;
    *top = -INFINITY;
    for (int32_t at = 0; at < n; at += CHUNK) {
        int32_t end = n - at < CHUNK ? n : at + CHUNK;
        struct vec high = vec_set(-INFINITY);
        for (int32_t i = at; i + VEC <= end; i += VEC)
            high = vec_max(vec_load(x + i), high); /* a NaN is passed over */
        float chunk_top = vec_top(high);
        for (int32_t i = end / VEC * VEC; i < end; i++)
            chunk_top = x[i] > chunk_top ? x[i] : chunk_top;
        if (!(chunk_top > *top))
            continue;
        *top = chunk_top;
        for (best = at; x[best] != chunk_top;)
            best++;
    }
    return best;
}

static int32_t choose(const float *logits, const struct sampling *how)
{
    int32_t best = how->choice[0];
    for (int32_t i = 1; i < how->n_choice; i++)
        if (!(logits[best] > logits[how->choice[i]]))
            best = how->choice[i];
    return best;
}

/* Unsigned numbers in the order of the floats. */
static uint32_t key_of(float z)
{
    uint32_t u;
    memcpy(&u, &z, sizeof u);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* The three levels of a search by key: bins of its bits 31..21, 20..10, 9..0. A key lies in the
 * searched part if its higher bits are those of `prefix`. */
struct level {
    int shift, above; /* bits below the bin number; bits from `above` up are the prefix */
};
static const struct level levels[3] = {{21, 32}, {10, 21}, {0, 10}};

static bool in_part(uint32_t key, uint32_t prefix, const struct level *l)
{
    return l->above == 32 || key >> l->above == prefix >> l->above;
}

static uint32_t bin_of(uint32_t key, const struct level *l)
{
    return key >> l->shift & ((1u << (l->above - l->shift)) - 1);
}

/* Key of the candidate that k - 1 others are ranked before. */
static uint32_t key_of_rank(struct sample_place *p, int32_t k)
{
    uint32_t prefix = 0;
    for (int i = 0; i < 3; i++) {
        const struct level *l = &levels[i];
        memset(p->count, 0, sizeof p->count);
        for (int32_t j = 0; j < p->n; j++) {
            uint32_t key = key_of(p->z[j]);
            if (in_part(key, prefix, l))
                p->count[bin_of(key, l)]++;
        }
        uint32_t bin = SAMPLE_BINS - 1;
        for (; p->count[bin] < k; bin--)
            k -= p->count[bin];
        prefix |= bin << l->shift;
    }
    return prefix;
}

/* Drops the candidates below the key, and of those with the key all but the first n_equal. */
static void keep_from(struct sample_place *p, uint32_t key, int32_t n_equal)
{
    int32_t n = 0;
    for (int32_t j = 0; j < p->n; j++) {
        uint32_t own = key_of(p->z[j]);
        if (own < key || (own == key && n_equal-- <= 0))
            continue;
        p->z[n] = p->z[j];
        p->weight[n] = p->weight[j];
        p->id[n++] = p->id[j];
    }
    p->n = n;
}

static double sum_of_weights(const struct sample_place *p)
{
    double sum = 0;
    for (int32_t j = 0; j < p->n; j++)
        sum += (double)p->weight[j];
    return sum;
}

/* Keeps the highest candidates up to the one whose weight brings the sum above `limit`. */
static void keep_mass(struct sample_place *p, double limit)
{
    uint32_t prefix = 0;
    double sum = 0;
    for (int i = 0; i < 3; i++) {
        const struct level *l = &levels[i];
        memset(p->mass, 0, sizeof p->mass);
        for (int32_t j = 0; j < p->n; j++) {
            uint32_t key = key_of(p->z[j]);
            if (in_part(key, prefix, l))
                p->mass[bin_of(key, l)] += (double)p->weight[j];
        }
        uint32_t bin = SAMPLE_BINS - 1, last = 0;
        double before = sum;
        for (; bin > 0 && !(sum + p->mass[bin] > limit); bin--) {
            if (p->mass[bin] > 0) {
                last = bin;
                before = sum;
            }
            sum += p->mass[bin];
        }
        /* where rounding lets no bin cross, the lowest that holds anything does */
        if (!(sum + p->mass[bin] > limit) && p->mass[bin] == 0) {
            bin = last;
            sum = before;
        }
        prefix |= bin << l->shift;
    }
    int32_t n_equal = 0;
    for (int32_t j = 0; j < p->n && !(sum > limit); j++)
        if (key_of(p->z[j]) == prefix) {
            sum += (double)p->weight[j];
            n_equal++;
        }
    keep_from(p, prefix, n_equal);
}

/* z, ids and weights of all tokens, or of the top k with their ties. */
static void take_candidates(struct sample_place *p, const float *logits, int32_t n, float top,
                            const struct sampling *how)
{
    struct vec t = vec_set(how->temperature), low = vec_set(-INFINITY);
    for (int32_t i = 0; i < n; i += VEC) {
        int lanes = vec_left(n - i);
        struct vec z = vec_div(vec_max(vec_load_n(logits + i, lanes), low), t);
        vec_store_n(p->z + i, vec_add(z, vec_zero()), lanes); /* -0 is 0 */
    }
    for (int32_t i = 0; i < n; i++)
        p->id[i] = i;
    p->n = n;
    if (how->top_k > 0 && how->top_k < n)
        keep_from(p, key_of_rank(p, how->top_k), n);
    struct vec shift = vec_div(vec_set(top), t);
    for (int32_t i = 0; i < p->n; i += VEC) {
        int lanes = vec_left(p->n - i);
        vec_store_n(p->weight + i, vec_exp(vec_sub(vec_load_n(p->z + i, lanes), shift)), lanes);
    }
}

static int32_t draw(struct sample_place *p, const float *logits, int32_t n,
                    const struct sampling *how)
{
    if (how->n_choice > 0)
        return choose(logits, how);
    float top;
    int32_t best = argmax(logits, n, &top);
    if (how->temperature == 0 || !(fabsf(top) < INFINITY))
        return best;
    take_candidates(p, logits, n, top, how);
    double total = sum_of_weights(p);
    if (how->top_p > 0 && how->top_p < 1) {
        keep_mass(p, (double)how->top_p * total);
        total = sum_of_weights(p);
    }
    struct random_block b = random_at(how->seed, RANDOM_SAMPLE, how->turn, (uint64_t)how->position);
    double target = random_uniform(b.v[0], b.v[1]) * total, sum = 0;
    for (int32_t j = 0; j < p->n; j++) {
        sum += (double)p->weight[j];
        if (sum > target)
            return p->id[j];
    }
    return best; /* not reached: target < total, the same sum */
}

/* Item = row. */
void SIMD(sample_rows)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    const struct sample_job *job = arg;
    struct sample_place *p = scratch;
    int32_t n = job->logits.cols, room = (n + VEC - 1) / VEC * VEC;
    p->z = (float *)(p + 1);
    p->weight = p->z + room;
    p->id = (int32_t *)(p->weight + room);
    for (int32_t r = first; r < last; r++)
        job->id[r] =
            draw(p, (const float *)job->logits.data + r * job->logits.stride, n, &job->how[r]);
}
