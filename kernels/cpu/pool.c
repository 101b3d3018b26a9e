#define _GNU_SOURCE /* syscall */
#include "kernels/cpu/pool_impl.h"

#include "kernels/base/clock.h"
#include "kernels/base/cpu.h"
#include "kernels/base/mem.h"
#include "kernels/base/thread.h"

#include <assert.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPIN_US 50        /* of a worker without a task, before it sleeps */
#define QUIET_US 500      /* without an answer task: an answer lane rests that has not said so */
#define ROUND_US 200      /* of memory work between two looks at the answer lanes */
#define BEHIND_US 10000   /* a memory lane that works for so long stands back no longer */
#define YIELD_US 1000     /* of work of one that is behind between two of its yields */
#define IDLE_US 5000      /* without a task: a memory lane has rested */
#define ALONE_WORK 100000 /* below this a task is over before the workers have heard of it */
#define CHUNK_WORK 100000 /* of the smallest chunk that is worth one more claim */
#define CHUNKS_A_THREAD 4 /* at most: what a slow thread leaves can be taken by the others */
#define FETCH_MOST 64     /* cache lines asked for in advance */

/* What passes between threads, and nothing else, decides how long a task takes to start and to
 * end: a line written by one core takes a quarter of a microsecond to reach another. So a worker
 * waits on the one line that holds all it needs to begin, already in a state in which it may
 * claim; what the caller only counts for itself lies elsewhere. */

/* A thread's share of the current task. `claim` = round << 32 | next << 16 | end, in chunks:
 * whoever raises next owns that chunk. The other fields are written before claim is published and
 * read only after a chunk of this round was won, so a late thread never reads a dead task. */
struct share {
    _Alignas(64) _Atomic uint64_t claim;
    void (*fn)(const void *arg, int32_t first, int32_t last, void *scratch);
    const void *arg;
    const void *fetch;
    void *scratch; /* of the thread this share was made for */
    int32_t first, n_item, n_chunk;
    int32_t n_fetch; /* cache lines */
};
static_assert(sizeof(struct share) == 64, "a share is one cache line");

/* What a worker tells, and whether it has to be woken: a line that the caller writes at every task
 * and the worker only when it goes to sleep. */
struct report {
    _Alignas(64) _Atomic uint64_t n_done; /* chunks, ever */
    _Alignas(64) _Atomic uint32_t asleep; /* futex word */
};

struct worker {
    struct pool *pool;
    int index;
    pthread_t thread;
};

/* Threads that compute a task: a caller, by the share that is its own, and workers [first, last).
 * ANSWERS and MEMORY are the halves of WHOLE. */
enum kind { WHOLE, ANSWERS, MEMORY, KINDS };
struct crew {
    int caller, first, last;
};

/* Whoever has taken ANSWERS or MEMORY has its workers; whoever has both, all. */
struct taken {
    _Alignas(64) _Atomic uint32_t taken;
    uint32_t round; /* of the last task, without its kind */
};

struct pool {
    /* never changes while workers run */
    struct share *share;   /* [n_thread + 1]; 0 and the last are the callers' */
    struct report *report; /* [n_thread]; 0 is not used */
    struct worker *worker;
    struct crew crew[KINDS];
    int n_thread, n_started;
    bool crowded;        /* more threads than processors: yield instead of spinning */
    bool short_of_cores; /* none to spare for a lane that computes beside the pool */
    _Atomic bool stop;

    struct taken taken[KINDS]; /* that of WHOLE is not used */

    _Alignas(64) _Atomic uint64_t n_answer; /* answer tasks started so far */
    _Atomic uint64_t rest_at;               /* the answer lanes rest as long as n_answer is this */
    _Atomic uint32_t answering;             /* answer tasks running */

    _Alignas(64) _Atomic uint64_t n_memory; /* rounds of memory lanes started so far */
    _Atomic uint64_t heard_of;              /* n_memory when the last answer task began */
    _Atomic uint32_t remembering;           /* of them, running */
    _Atomic uint32_t waiting;               /* memory lanes that stand back */
    _Atomic uint32_t door;                  /* futex word: counts what they may want to hear of */
};

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* us = 0: for ever */
static void futex_sleep(_Atomic uint32_t *word, uint32_t expected, uint64_t us)
{
    const struct timespec t = {.tv_sec = (time_t)(us / 1000000),
                               .tv_nsec = (long)(us % 1000000 * 1000)};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, us > 0 ? &t : NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* ---- one round ---- */

/* Rounds of all kinds differ, so that a thread never takes another crew's task for its own. */
static uint32_t round_of(uint64_t claim)
{
    return (uint32_t)(claim >> 32);
}
static const struct crew *crew_of(const struct pool *p, uint32_t round)
{
    return &p->crew[round % 4];
}

static int crew_size(const struct crew *c)
{
    return 1 + c->last - c->first;
}
/* The share of thread `rank` of a crew, 0 being the caller. */
static struct share *share_of(const struct pool *p, const struct crew *c, int rank)
{
    return &p->share[rank == 0 ? c->caller : c->first + rank - 1];
}

/* Wins a chunk of `s` in this round, or gives -1. */
static int32_t claim_chunk(struct share *s, uint32_t round)
{
    uint64_t c = atomic_load_explicit(&s->claim, memory_order_acquire);
    for (;;) {
        uint32_t next = (uint32_t)(c >> 16) & 0xFFFFu, end = (uint32_t)c & 0xFFFFu;
        if (round_of(c) != round || next >= end)
            return -1;
        if (atomic_compare_exchange_weak_explicit(&s->claim, &c, c + (1u << 16),
                                                  memory_order_acq_rel, memory_order_acquire))
            return (int32_t)next;
    }
}

static void fetch(const void *from, int32_t n_line)
{
    for (int32_t i = 0; i < n_line; i++)
        __builtin_prefetch((const char *)from + 64 * i);
}

/* Computes chunks of this round until there is none left, its own first; gives their number. */
static uint32_t work_on_round(struct pool *p, int rank, uint32_t round)
{
    const struct crew *c = crew_of(p, round);
    const struct share *own = share_of(p, c, rank);
    int size = crew_size(c);
    uint32_t n = 0;
    for (int i = 0; i < size; i++) {
        struct share *s = share_of(p, c, rank + i < size ? rank + i : rank + i - size);
        for (int32_t chunk; (chunk = claim_chunk(s, round)) >= 0; n++) {
            if (n == 0 && rank > 0) {
                fetch(own->arg, 2);
                fetch(own->fetch, own->n_fetch);
            }
            int32_t first = s->first + (int32_t)((int64_t)s->n_item * chunk / s->n_chunk);
            int32_t last = s->first + (int32_t)((int64_t)s->n_item * (chunk + 1) / s->n_chunk);
            own->fn(own->arg, first, last, own->scratch);
        }
    }
    return n;
}

/* Where the items of a crew's thread begin. */
static int32_t share_start(const struct task *t, int size, int rank)
{
    return (int32_t)((int64_t)t->n_item * rank / size);
}

static int32_t chunks_of(const struct task *t, int32_t n_item)
{
    uint64_t n = t->work / CHUNK_WORK * (uint64_t)n_item / (uint64_t)t->n_item;
    int32_t most = n_item < CHUNKS_A_THREAD ? n_item : CHUNKS_A_THREAD;
    return n >= (uint64_t)most ? most : n > 1 ? (int32_t)n : n_item > 0;
}

/* Worker and caller exchange this word: whoever comes second sees what the first did before, so
 * either the worker sees its new claim or the caller that it sleeps. */
static void wake(struct report *r)
{
    if (atomic_exchange(&r->asleep, 0))
        futex_wake(&r->asleep);
}

/* Hands a thread of the round's crew its share of the task; gives the number of chunks. */
static int32_t publish(struct pool *p, const struct task *t, uint32_t round, int rank)
{
    const struct crew *c = crew_of(p, round);
    struct share *s = share_of(p, c, rank);
    s->fn = t->fn;
    s->arg = t->arg;
    s->fetch = t->fetch;
    s->n_fetch =
        t->fetch_bytes < 64 * FETCH_MOST ? (int32_t)(t->fetch_bytes + 63) / 64 : FETCH_MOST;
    s->scratch = !t->scratch ? NULL : t->scratch + (size_t)rank * t->scratch_bytes;
    s->first = share_start(t, crew_size(c), rank);
    s->n_item = share_start(t, crew_size(c), rank + 1) - s->first;
    s->n_chunk = chunks_of(t, s->n_item);
    int32_t n_chunk = s->n_chunk;
    atomic_store_explicit(&s->claim, (uint64_t)round << 32 | (uint64_t)n_chunk,
                          memory_order_release);
    if (rank > 0)
        wake(&p->report[c->first + rank - 1]);
    return n_chunk;
}

static uint64_t reported(const struct pool *p, const struct crew *c)
{
    uint64_t n = 0;
    for (int i = c->first; i < c->last; i++)
        n += atomic_load_explicit(&p->report[i].n_done, memory_order_acquire);
    return n;
}

/* Runs the task with a crew, whose workers the caller has. */
static void run_together(struct pool *p, const struct task *t, uint32_t round)
{
    const struct crew *c = crew_of(p, round);
    uint64_t n_done = reported(p, c); /* all of earlier rounds: their callers waited for it */
    for (int rank = crew_size(c) - 1; rank >= 0; rank--)
        n_done += (uint64_t)publish(p, t, round, rank);
    n_done -= work_on_round(p, 0, round);
    for (int spin = 0; reported(p, c) != n_done; spin++) {
        if (p->crowded || spin > 5000)
            sched_yield();
        else
            pause_cpu();
    }
}

/* ---- workers ---- */

/* The next round's number, or `seen` again when the pool stops. */
static uint32_t wait_for_round(struct pool *p, int self, uint32_t seen)
{
    struct share *s = &p->share[self];
    struct report *r = &p->report[self];
    uint64_t start = 0;
    for (uint32_t spin = 1;; spin++) {
        __builtin_prefetch(&s->claim, 1); /* to claim at once, without asking for the line again */
        uint32_t round = round_of(atomic_load_explicit(&s->claim, memory_order_acquire));
        if (round != seen)
            return round;
        if (p->crowded)
            sched_yield();
        else
            pause_cpu();
        if (spin % 64 != 0)
            continue;
        if (atomic_load_explicit(&p->stop, memory_order_acquire))
            return seen;
        uint64_t now = clock_us();
        if (start == 0)
            start = now;
        if (now - start < SPIN_US)
            continue;
        atomic_exchange(&r->asleep, 1);
        if (round_of(atomic_load(&s->claim)) == seen && !atomic_load(&p->stop))
            futex_sleep(&r->asleep, 1, 0);
        atomic_exchange(&r->asleep, 0);
        start = 0;
    }
}

static void *worker_main(void *arg)
{
    const struct worker *w = arg;
    struct pool *p = w->pool;
    struct report *r = &p->report[w->index];
    uint64_t n_done = 0;
    uint32_t seen = 0;
    thread_name("rxt-pool");
    (void)thread_slice(THREAD_COMPUTES_US);
    for (uint32_t round; (round = wait_for_round(p, w->index, seen)) != seen; seen = round) {
        n_done += work_on_round(p, 1 + w->index - crew_of(p, round)->first, round);
        atomic_store_explicit(&r->n_done, n_done, memory_order_release);
    }
    return NULL;
}

/* A memory lane is a thread of its own, so that both halves have one worker less than threads. */
static void make_crews(struct pool *p)
{
    int n = p->n_thread, half = p->short_of_cores ? (n + 1) / 2 : n;
    int end = n - half > 1 ? n - 1 : half; /* of the workers of a half */
    p->crew[WHOLE] = (struct crew){.caller = 0, .first = 1, .last = n};
    p->crew[ANSWERS] = (struct crew){.caller = 0, .first = 1, .last = half};
    p->crew[MEMORY] = (struct crew){.caller = n, .first = half, .last = end};
}

enum rxt_status pool_create(struct pool **out, int n_thread)
{
    assert(n_thread >= 1);
    *out = NULL;
    struct pool *p = mem_alloc(sizeof *p);
    if (!p)
        return RXT_ENOMEM;
    p->n_thread = n_thread;
    p->crowded = n_thread > cpu_count();
    p->short_of_cores = n_thread >= cpu_count();
    make_crews(p);
    p->share = mem_alloc_n((size_t)n_thread + 1, sizeof *p->share);
    p->report = mem_alloc_n((size_t)n_thread, sizeof *p->report);
    p->worker = mem_alloc_n((size_t)n_thread, sizeof *p->worker);
    if (!p->share || !p->report || !p->worker)
        goto fail;
    for (p->n_started = 1; p->n_started < n_thread; p->n_started++) {
        struct worker *w = &p->worker[p->n_started];
        *w = (struct worker){.pool = p, .index = p->n_started};
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
            goto fail;
    }
    *out = p;
    return RXT_OK;
fail:
    pool_destroy(&p);
    return RXT_ENOMEM;
}

void pool_destroy(struct pool **pool)
{
    struct pool *p = *pool;
    if (!p)
        return;
    atomic_store(&p->stop, true);
    for (int i = 1; i < p->n_started; i++) {
        wake(&p->report[i]);
        pthread_join(p->worker[i].thread, NULL);
    }
    mem_free(p->worker);
    mem_free(p->report);
    mem_free(p->share);
    mem_free(p);
    *pool = NULL;
}

int pool_threads(const struct pool *p)
{
    return p->n_thread;
}

/* ---- lanes ---- */

static bool take(struct pool *p, enum kind half)
{
    uint32_t no = 0;
    return atomic_compare_exchange_strong_explicit(&p->taken[half].taken, &no, 1,
                                                   memory_order_acquire, memory_order_relaxed);
}

static void give(struct pool *p, enum kind half)
{
    atomic_store_explicit(&p->taken[half].taken, 0, memory_order_release);
}

/* Runs a task of an answer or a memory lane with its half of the threads or, where `whole`, with
 * all; whichever are free. Gives how many threads had it. */
static int run_now(struct pool *p, const struct task *t, enum kind half, bool whole)
{
    enum kind kind = half, other = half == ANSWERS ? MEMORY : ANSWERS;
    if (t->n_item > 1 && t->work >= ALONE_WORK && take(p, half)) {
        bool both = whole && take(p, other);
        if (both)
            kind = WHOLE;
        struct taken *of = &p->taken[both ? ANSWERS : half];
        int size = crew_size(&p->crew[kind]);
        if (size > 1)
            run_together(p, t, 4 * ++of->round + kind);
        else
            t->fn(t->arg, 0, t->n_item, t->scratch);
        if (both)
            give(p, other);
        give(p, half);
        return size;
    }
    t->fn(t->arg, 0, t->n_item, t->scratch);
    return 1;
}

/* Whether a memory lane is in a round, or has been in one since the last answer task: rounds of an
 * update follow each other within a microsecond. */
static bool memory_works(struct pool *p)
{
    uint64_t n = atomic_load(&p->n_memory);
    if (n != atomic_load(&p->heard_of)) {
        atomic_store(&p->heard_of, n);
        return true;
    }
    return atomic_load(&p->remembering) > 0;
}

static bool answers_rest(struct pool *p, struct pace *pace, uint64_t now)
{
    uint64_t n = atomic_load(&p->n_answer);
    if (atomic_load(&p->answering) > 0)
        return false;
    if (n == atomic_load(&p->rest_at))
        return true;
    if (n != pace->n_answer) {
        pace->n_answer = n;
        pace->quiet_since_us = now;
    }
    if (now - pace->quiet_since_us < QUIET_US)
        return false;
    atomic_store(&p->rest_at, n);
    return true;
}

/* Waits for a memory lane's turn: until the answers rest, which gives true, or it is behind. Each
 * side says first what it does and then looks for the other: either the lane sees that it may work
 * or the other that it waits. */
static bool wait_for_turn(struct pool *p, struct pace *pace)
{
    uint64_t now = clock_us();
    if (now - pace->last_us > IDLE_US)
        pace->since_us = now;
    if (answers_rest(p, pace, now))
        return true;
    if (!p->short_of_cores || now - pace->since_us >= BEHIND_US)
        return false;
    bool rest = false;
    atomic_fetch_add(&p->waiting, 1);
    for (;;) {
        uint32_t door = atomic_load(&p->door);
        rest = answers_rest(p, pace, now);
        if (rest || now - pace->since_us >= BEHIND_US)
            break;
        uint64_t left = pace->since_us + BEHIND_US - now;
        futex_sleep(&p->door, door, left < QUIET_US ? left : QUIET_US);
        now = clock_us();
    }
    atomic_fetch_sub(&p->waiting, 1);
    return rest;
}

struct part {
    const struct task *whole;
    int32_t first;
};

static void run_part(const void *arg, int32_t first, int32_t last, void *scratch)
{
    const struct part *part = arg;
    part->whole->fn(part->whole->arg, part->first + first, part->first + last, scratch);
}

/* Where the pace of a kernel is kept. */
static double *pace_of(struct pace *pace, const struct task *t)
{
    int i = 0;
    while (i < PACE_KERNELS - 1 && pace->of[i].fn && pace->of[i].fn != t->fn)
        i++;
    pace->of[i].fn = t->fn;
    return &pace->of[i].ns_per_work;
}

/* A round that was slow may have lost its processor to others; one that was fast was not. */
static void note_pace(double *ns_per_work, double now)
{
    double was = *ns_per_work;
    if (was == 0 || now < was)
        *ns_per_work = now;
    else
        *ns_per_work = was + (now < 2 * was ? now - was : was) / 8;
}

/* Linux lets a thread that wakes run at once only if it has had less than its share, which one that
 * wakes for every token may not; else at the next tick, after up to 4 ms. So a memory lane offers
 * its processor to the threads that carry tokens and write the journal: after every round, or, when
 * it is behind, now and then. */
static void offer_processor(const struct pool *p, struct pace *pace, uint64_t now)
{
    bool behind = now - pace->since_us >= BEHIND_US;
    if (!p->short_of_cores || (behind && now - pace->yielded_us < YIELD_US))
        return;
    pace->yielded_us = now;
    sched_yield();
}

/* Of a memory lane. Answers that come find threads busy for about ROUND_US. */
static void run_in_rounds(struct pool *p, const struct task *t, struct pace *pace)
{
    double work = (double)(t->work > 0 ? t->work : 1) / t->n_item; /* of one item */
    double *ns_per_work = pace_of(pace, t);                        /* of a thread */
    for (int32_t first = 0; first < t->n_item;) {
        bool whole = wait_for_turn(p, pace);
        int size = crew_size(&p->crew[whole ? WHOLE : MEMORY]);
        double fit =
            *ns_per_work > 0 ? 1000.0 * ROUND_US * size / (*ns_per_work * work) : p->n_thread;
        int32_t left = t->n_item - first;
        int32_t n = fit >= left ? left : fit < 1 ? 1 : (int32_t)fit;
        struct part part = {t, first};
        struct task round = *t;
        round.fn = run_part;
        round.arg = &part;
        round.n_item = n;
        round.work = (uint64_t)(work * n);
        atomic_fetch_add(&p->remembering, 1);
        atomic_fetch_add(&p->n_memory, 1);
        uint64_t start = clock_ns();
        size = run_now(p, &round, MEMORY, whole);
        uint64_t end = clock_ns();
        atomic_fetch_sub(&p->remembering, 1);
        pace->last_us = end / 1000;
        note_pace(ns_per_work, (double)(end - start + 1) * size / (work * n));
        offer_processor(p, pace, end / 1000);
        first += n;
    }
}

void pool_run(struct pool *p, const struct task *t, struct pace *pace)
{
    if (t->n_item <= 0)
        return;
    if (pace) {
        run_in_rounds(p, t, pace);
        return;
    }
    atomic_fetch_add(&p->answering, 1);
    atomic_fetch_add(&p->n_answer, 1);
    (void)run_now(p, t, ANSWERS, !p->short_of_cores || !memory_works(p));
    atomic_fetch_sub(&p->answering, 1);
}

void pool_rest(struct pool *p, struct pace *pace)
{
    if (pace) {
        pace->last_us = 0;
        return;
    }
    atomic_store(&p->rest_at, atomic_load(&p->n_answer));
    if (atomic_load(&p->waiting) == 0)
        return;
    atomic_fetch_add(&p->door, 1);
    futex_wake(&p->door);
}
