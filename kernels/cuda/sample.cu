/* sample.cu - one token a row by the rule of spec 5, without sorting and without the host.
 * Shapes   logits [R,V] f32; id [R] in pinned memory. Parameters of 64 rows a launch.
 * Launch   a block of 1024 a row; 17 KB of shared memory.
 * Roofline one reading of V floats for the highest, 16 bytes at a time and 4 of them under way, up
 *          to 10 to draw: bound by what an SM takes from L2, 4 us each for 65,536. Measured before,
 *          256 threads and 4 bytes: 21 us for the highest.
 * Order    tokens are ranked by z = logit / temperature, the lower id first among equals. Weights
 *          e^(z - top) become fixed-point numbers of 40 bits, whose sums have no order: the kept
 *          mass is exact, atomics on integers included. The draw goes by rising id. It agrees with
 *          the CPU's double sums except where a sum lies within V * 2^-40 of a border. A NaN counts
 *          as -infinity; where the highest logit is infinite or none is a number, the draw is the
 *          greedy choice. */
#include "kernels/cuda/device_impl.cuh"

extern "C" {
#include "kernels/base/random.h"
}

#define THREADS 1024
#define BINS 2048
#define ROWS 64
#define AHEAD 4 /* 16 bytes of logits under way together */
static_assert(THREADS == 32 * 32, "a warp looks at what the warps found");

struct draw {
    float temperature, top_p;
    int32_t top_k, n_choice, choice[2];
    double u; /* uniform in (0,1) */
};
struct sample_job {
    struct tensor logits;
    int32_t *id;
    struct draw how[ROWS];
};

typedef unsigned long long mass; /* 2^40 = the weight of the highest logit */

struct sample_place {
    mass bin[BINS];
    mass part[THREADS / 32]; /* of the warps */
    uint32_t key;            /* what thread 0 found, for all */
    mass sum;
};

/* Unsigned numbers in the order of the floats. */
static __device__ inline uint32_t key_of(float z)
{
    uint32_t u = __float_as_uint(z);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* And back. */
__device__ inline float z_of_key(uint32_t key)
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

/* z of a logit: -0 is 0, NaN is -infinity. */
__device__ inline float z_of(float x, float temperature)
{
    return max_or_b(x, -INFINITY) / temperature + 0.0f;
}

__device__ inline mass mass_of(float z, float shift)
{
    float w = exp_below(z - shift);
    return w == w ? (mass)(w * 0x1p40f) : 0;
}

/* The three levels of a search by key: bins of its bits 31..21, 20..10, 9..0. */
__device__ inline int shift_of(int level)
{
    return level == 0 ? 21 : level == 1 ? 10 : 0;
}
__device__ inline bool in_part(uint32_t key, uint32_t prefix, int level)
{
    return level == 0 || key >> shift_of(level - 1) == prefix >> shift_of(level - 1);
}
__device__ inline uint32_t bin_of(uint32_t key, int level)
{
    return key >> shift_of(level) & (level == 2 ? 1023u : 2047u);
}

/* The highest so far, and its id; ids rise, so that the lowest wins a tie. */
struct high {
    float x;
    int32_t id;

    __device__ void see(float other, int32_t other_id)
    {
        if (other > x) {
            x = other;
            id = other_id;
        }
    }
};

/* The highest of the lanes' numbers. */
__device__ inline mass warp_most(mass v)
{
    uint32_t high = (uint32_t)(v >> 32), most = __reduce_max_sync(0xFFFFFFFFu, high);
    return (mass)most << 32 | __reduce_max_sync(0xFFFFFFFFu, high == most ? (uint32_t)v : 0u);
}

/* The highest logit above -infinity as key and complement of its id, so that the lowest id wins a
 * tie; 0 if there is none. All threads get it. */
__device__ inline mass best_of(const float *x, int32_t n, struct sample_place *p)
{
    struct high own = {-INFINITY, 0};
    int32_t whole = (uintptr_t)x % 16 == 0 ? n / 4 : 0;
#pragma unroll 1
    for (int32_t first = (int32_t)threadIdx.x; first < whole; first += AHEAD * THREADS) {
        float4 v[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) { /* behind the end the last ones once more */
            int32_t i = min(first + a * THREADS, whole - 1);
            v[a] = __ldcg((const float4 *)(x + 4 * i));
        }
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int32_t i = min(first + a * THREADS, whole - 1);
            own.see(v[a].x, 4 * i);
            own.see(v[a].y, 4 * i + 1);
            own.see(v[a].z, 4 * i + 2);
            own.see(v[a].w, 4 * i + 3);
        }
    }
    for (int32_t i = 4 * whole + (int32_t)threadIdx.x; i < n; i += THREADS)
        own.see(x[i], i);
    mass best = 0;
    if (own.x > -INFINITY)
        best = (mass)key_of(own.x + 0.0f) << 32 | (0xFFFFFFFFu - (uint32_t)own.id);
    best = warp_most(best);
    if (threadIdx.x % 32 == 0)
        p->part[threadIdx.x / 32] = best;
    __syncthreads();
    best = warp_most(p->part[threadIdx.x % 32]);
    __syncthreads();
    return best;
}

/* The sum of the threads before this one; *all: of all. */
__device__ inline mass sum_before(struct sample_place *p, mass own, mass *all)
{
    int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    mass sum = own, before = 0;
    for (int apart = 1; apart < 32; apart *= 2) {
        mass other = __shfl_up_sync(0xFFFFFFFFu, sum, (unsigned)apart);
        if (lane >= apart)
            sum += other;
    }
    if (lane == 31)
        p->part[warp] = sum;
    __syncthreads();
    *all = 0;
    for (int32_t i = 0; i < THREADS / 32; i++) {
        mass part = p->part[i];
        before += i < warp ? part : 0;
        *all += part;
    }
    __syncthreads();
    return before + sum - own;
}

/* The candidates of a row: those whose key is at least `lowest`. */
struct row {
    const float *x;
    int32_t n;
    float temperature, shift; /* shift: the highest z */
    uint32_t lowest;
};

/* Fills the bins of a level with the number of candidates, or with their mass. */
__device__ inline void fill_bins(struct sample_place *p, const struct row *r, uint32_t prefix,
                                 int level, bool weighted)
{
    for (int32_t i = (int32_t)threadIdx.x; i < BINS; i += THREADS)
        p->bin[i] = 0;
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < r->n; i += THREADS) {
        float z = z_of(r->x[i], r->temperature);
        uint32_t key = key_of(z);
        if (key >= r->lowest && in_part(key, prefix, level))
            atomicAdd(&p->bin[bin_of(key, level)], weighted ? mass_of(z, r->shift) : (mass)1);
    }
    __syncthreads();
}

/* The key at which the sum from the highest candidate down passes `limit`; *before: the sum of
 * those above it. The sum of all passes it. */
__device__ inline uint32_t key_passing(struct sample_place *p, const struct row *r, mass limit,
                                       bool weighted, mass *before)
{
    uint32_t prefix = 0;
    mass sum = 0;
    for (int level = 0; level < 3; level++) {
        fill_bins(p, r, prefix, level, weighted);
        const int32_t each = BINS / THREADS;
        mass own = 0, all;
        int32_t bin = BINS - 1 - (int32_t)threadIdx.x * each; /* this thread's highest */
        for (int32_t i = 0; i < each; i++)
            own += p->bin[bin - i];
        mass above = sum + sum_before(p, own, &all);
        if (above <= limit && limit < above + own) {
            for (; above + p->bin[bin] <= limit; bin--)
                above += p->bin[bin];
            p->key = prefix | (uint32_t)bin << shift_of(level);
            p->sum = above;
        }
        __syncthreads();
        prefix = p->key;
        sum = p->sum;
        __syncthreads();
    }
    *before = sum;
    return prefix;
}

/* The mass of token i if it is kept: above the key, or one of the first n_equal that have it; seen:
 * how many have it so far. */
__device__ inline mass kept_mass(const struct row *r, int32_t i, uint32_t key, mass n_equal,
                                 mass *seen)
{
    float z = z_of(r->x[i], r->temperature);
    uint32_t own = key_of(z);
    if (own < key || (own == key && (*seen)++ >= n_equal))
        return 0;
    return mass_of(z, r->shift);
}

/* Draws from the kept tokens: `own` range of ids, so that the sums go by rising id. The thread that
 * meets the target writes. */
__device__ inline void draw_one(struct sample_place *p, const struct row *r, uint32_t key,
                                mass n_equal, double u, int32_t best, int32_t *id)
{
    int32_t chunk = (r->n + THREADS - 1) / THREADS;
    int64_t begin = (int64_t)threadIdx.x * chunk;
    int32_t first = begin < r->n ? (int32_t)begin : r->n;
    int32_t last = r->n - first < chunk ? r->n : first + chunk;
    mass equal = 0;
    for (int32_t i = first; i < last; i++)
        equal += key_of(z_of(r->x[i], r->temperature)) == key;
    mass total, before = sum_before(p, equal, &total), seen = before, own = 0;
    for (int32_t i = first; i < last; i++)
        own += kept_mass(r, i, key, n_equal, &seen);
    mass sum = sum_before(p, own, &total);
    mass target = (mass)(u * (double)total);
    if (target >= total && total > 0)
        target = total - 1;
    if (total == 0) {
        if (threadIdx.x == 0)
            *id = best;
    } else if (sum <= target && target < sum + own) {
        seen = before;
        for (int32_t i = first; i < last; i++) {
            sum += kept_mass(r, i, key, n_equal, &seen);
            if (sum > target) {
                *id = i;
                break;
            }
        }
    }
    __syncthreads();
}

__device__ inline int32_t choice_of(const float *x, const struct draw *how)
{
    int32_t best = how->choice[0];
    if (how->n_choice == 2 && !(x[best] > x[how->choice[1]]))
        best = how->choice[1];
    return best;
}

/* Block = row. */
static __global__ void __launch_bounds__(THREADS, 1)
    sample_rows(const __grid_constant__ struct sample_job job)
{
    __shared__ struct sample_place p;
    start_and_wait();
    const struct draw *how = &job.how[blockIdx.x];
    int32_t *id = &job.id[blockIdx.x];
    struct row r;
    r.x = (const float *)job.logits.data + (int64_t)blockIdx.x * job.logits.stride; // logits[r,:]
    r.n = job.logits.cols;
    if (how->n_choice > 0) {
        if (threadIdx.x == 0)
            *id = choice_of(r.x, how);
        return;
    }
    mass found = best_of(r.x, r.n, &p);
    int32_t best = found ? (int32_t)(0xFFFFFFFFu - (uint32_t)found) : 0;
    if (how->temperature == 0.0f || !found || !(r.x[best] < INFINITY)) {
        if (threadIdx.x == 0)
            *id = best;
        return;
    }
    r.temperature = how->temperature;
    r.shift = z_of(r.x[best], r.temperature);
    r.lowest = 0;
    uint32_t key = 0;
    mass before, n_equal = (mass)r.n;
    if (how->top_k > 0 && how->top_k < r.n)
        key = r.lowest = key_passing(&p, &r, (mass)(how->top_k - 1), false, &before);
    if (how->top_p > 0.0f && how->top_p < 1.0f) {
        mass own = 0;
        for (int32_t i = (int32_t)threadIdx.x; i < r.n; i += THREADS) {
            float z = z_of(r.x[i], r.temperature);
            own += key_of(z) >= r.lowest ? mass_of(z, r.shift) : 0;
        }
        mass total;
        (void)sum_before(&p, own, &total);
        mass limit = (mass)((double)how->top_p * (double)total);
        if (total > limit) {
            key = key_passing(&p, &r, limit, true, &before);
            mass one = mass_of(z_of_key(key), r.shift);
            if (one > 0)
                n_equal = (limit - before) / one + 1;
        }
    }
    draw_one(&p, &r, key, n_equal, how->u, best, id);
}

extern "C" enum rxt_status cuda_sample(struct lane *lane, int32_t *id, struct tensor logits,
                                       const struct sampling *how)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    struct cuda_result result = {id, nullptr, 0, logits.rows};
    TRY(cuda_result(ln, &result));
    for (int32_t first = 0; first < logits.rows; first += ROWS) {
        int32_t n = logits.rows - first < ROWS ? logits.rows - first : ROWS;
        struct sample_job job = {};
        job.logits = tensor_rows(logits, first, n);
        job.id = ln->results + result.first + first;
        for (int32_t i = 0; i < n; i++) {
            const struct sampling *s = &how[first + i];
            struct random_block b =
                random_at(s->seed, RANDOM_SAMPLE, s->turn, (uint64_t)s->position);
            struct draw *d = &job.how[i];
            d->temperature = s->temperature;
            d->top_p = s->top_p;
            d->top_k = s->top_k;
            d->n_choice = s->n_choice;
            d->choice[0] = s->choice[0];
            d->choice[1] = s->choice[1];
            d->u = random_uniform(b.v[0], b.v[1]);
        }
        LAUNCH(sample_rows, (unsigned)n, THREADS, 0, ln, job);
    }
    return cuda_done(ln);
}
