#include "tests/emulator/emulator.h"

#include "kernels/base/bf16.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#ifdef RXT_SANITIZE_ADDRESS
#include <sanitizer/common_interface_defs.h>
#endif

#define MAX_THREADS 1024
#define STACK                                                                             \
    (((size_t)64 << 10) + 1088)    /* not a power of two: their tops share no cache lines \
                                    */
#define SHARED ((size_t)227 << 10) /* of a block of sm_90 */

struct emulated_index emulated_thread, emulated_block, emulated_block_dim, emulated_grid_dim;

enum meets { RUNS, MEETS_WARP, MEETS_BLOCK, ENDED };

struct fiber {
    void *sp;   /* where it stopped */
    void *fake; /* stack of the address sanitizer, kept for the next one: to map it is slow */
    enum meets meets;
    unsigned n_exchange;
    bool waited; /* for the launch before */
};

static struct {
    pthread_mutex_t mutex; /* one launch at a time */
    struct fiber fiber[MAX_THREADS];
    struct fiber scheduler;
    unsigned n, now;
    size_t n_shared;
    const struct emulated_kernel *kernel;
    void *const *param;
    bool backwards;
    /* What the lanes of a warp give each other: two calls in turn, so that one barrier is enough.
     */
    uint64_t given[MAX_THREADS][2];
    uint32_t a[MAX_THREADS][2][4], b[MAX_THREADS][2][2];
    _Alignas(64) char shared[SHARED];
    const void *main_stack; /* of the thread that launches; for the address sanitizer */
    size_t main_bytes;
} e = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static _Alignas(64) char stacks[MAX_THREADS][STACK];

static char *stack_of(const struct fiber *f)
{
    return stacks[f - e.fiber];
}

void emulator_backwards(bool backwards)
{
    e.backwards = backwards;
}

bool emulator_is_backwards(void)
{
    return e.backwards;
}

void *emulator_shared(void)
{
    return e.shared;
}

/* ---- fibers ---- */

static _Noreturn void run_fiber(void);

#if defined(__x86_64__)
/* Saves what a call must keep, swaps the stacks, takes the other's back. */
void emulator_swap(void **from, void *to);
__asm__(".text\n"
        ".globl emulator_swap\n"
        ".hidden emulator_swap\n"
        ".type emulator_swap, @function\n"
        "emulator_swap:\n"
        "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
        "  mov %rsp, (%rdi)\n"
        "  mov %rsi, %rsp\n"
        "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n"
        "  ret\n"
        ".size emulator_swap, .-emulator_swap\n"
        ".section .note.GNU-stack,\"\",@progbits\n"
        ".text\n");

static void prepare(struct fiber *f)
{
    void **top = (void **)(void *)(stack_of(f) + STACK) - 1; /* a function begins 8 bytes off 16 */
    *--top = (void *)run_fiber;
    memset(top -= 6, 0, 6 * sizeof *top);
    f->sp = top;
}
static void swap(struct fiber *from, struct fiber *to)
{
    emulator_swap(&from->sp, to->sp);
}
#else
static ucontext_t context[MAX_THREADS + 1];

static ucontext_t *context_of(const struct fiber *f)
{
    return f == &e.scheduler ? &context[MAX_THREADS] : &context[f - e.fiber];
}
static void prepare(struct fiber *f)
{
    ucontext_t *c = context_of(f);
    int failed = getcontext(c);
    assert(failed == 0);
    c->uc_stack.ss_sp = stack_of(f);
    c->uc_stack.ss_size = STACK;
    makecontext(c, (void (*)(void))run_fiber, 0);
}
static void swap(struct fiber *from, struct fiber *to)
{
    int failed = swapcontext(context_of(from), context_of(to));
    assert(failed == 0);
}
#endif

/* The sanitizer wants to know which stack comes next, and on arrival which one it left. */
static void leave(struct fiber *from, const struct fiber *to)
{
#ifdef RXT_SANITIZE_ADDRESS
    bool back = to == &e.scheduler;
    __sanitizer_start_switch_fiber(&from->fake, back ? e.main_stack : stack_of(to),
                                   back ? e.main_bytes : STACK);
#else
    (void)from;
    (void)to;
#endif
}
static void arrive(const struct fiber *at)
{
#ifdef RXT_SANITIZE_ADDRESS
    bool back = at == &e.scheduler;
    __sanitizer_finish_switch_fiber(at->fake, back ? NULL : &e.main_stack,
                                    back ? NULL : &e.main_bytes);
#else
    (void)at;
#endif
}

static void stop_and(enum meets meets)
{
    struct fiber *f = &e.fiber[e.now];
    f->meets = meets;
    leave(f, &e.scheduler);
    swap(f, &e.scheduler);
    arrive(f);
}

static void run_fiber(void)
{
    arrive(&e.fiber[e.now]);
    e.kernel->run(e.kernel->kernel, e.param);
    if (!e.fiber[e.now].waited) {
        fprintf(stderr, "emulator: a thread ended before the launch before it, block %u,%u,%u\n",
                emulated_block.x, emulated_block.y, emulated_block.z);
        abort();
    }
    stop_and(ENDED);
    abort();
}

void emulator_wait_for_previous(void)
{
    e.fiber[e.now].waited = true;
}

/* ---- barriers ---- */

void emulator_sync_block(void)
{
    stop_and(MEETS_BLOCK);
}

void emulator_sync_warp(void)
{
    stop_and(MEETS_WARP);
}

static bool all_meet(unsigned first, unsigned last, enum meets meets)
{
    for (unsigned i = first; i < last; i++)
        if (e.fiber[i].meets != meets)
            return false;
    return true;
}

static void release(unsigned first, unsigned last)
{
    for (unsigned i = first; i < last; i++)
        e.fiber[i].meets = RUNS;
}

/* Lets the threads go on that have met; false when all have ended. */
static bool go_on(void)
{
    bool any = false;
    for (unsigned first = 0; first < e.n; first += 32) {
        unsigned last = first + 32 < e.n ? first + 32 : e.n;
        if (!all_meet(first, last, MEETS_WARP))
            continue;
        release(first, last);
        any = true;
    }
    if (any)
        return true;
    if (all_meet(0, e.n, ENDED))
        return false;
    if (!all_meet(0, e.n, MEETS_BLOCK)) {
        fprintf(stderr, "emulator: a barrier that not all threads meet, block %u,%u,%u\n",
                emulated_block.x, emulated_block.y, emulated_block.z);
        abort();
    }
    release(0, e.n);
    return true;
}

/* ---- between the lanes of a warp ---- */

uint64_t emulator_exchange(uint64_t own, unsigned from)
{
    unsigned i = e.now, turn = e.fiber[i].n_exchange++ % 2;
    e.given[i][turn] = own;
    emulator_sync_warp();
    return e.given[i / 32 * 32 + from][turn];
}

/* The two halves of a word. */
static void unpack(double out[2], uint32_t word)
{
    out[0] = bf16_to_f32((bf16)(word & 0xFFFFu));
    out[1] = bf16_to_f32((bf16)(word >> 16));
}

/* Lane l holds of A the rows l/4 and l/4 + 8, of B column l/4, both at k = l%4 * 2 + {0,1}, and 8
 * further; of C the rows l/4 and l/4 + 8 at columns l%4 * 2 + {0,1}. */
void emulator_mma(float c[4], const uint32_t *a, const uint32_t *b, int k)
{
    unsigned i = e.now, turn = e.fiber[i].n_exchange++ % 2, lane = i % 32, warp = i - lane;
    memcpy(e.a[i][turn], a, (size_t)k / 4 * sizeof *a);
    memcpy(e.b[i][turn], b, (size_t)k / 8 * sizeof *b);
    emulator_sync_warp();
    double row[2][16], col[2][16];
    for (unsigned at = 0; at < (unsigned)k; at += 2)
        for (unsigned j = 0; j < 2; j++) {
            unsigned holds = at % 8 / 2, part = at / 8;
            unpack(&row[j][at], e.a[warp + lane / 4 * 4 + holds][turn][j + part * 2]);
            unpack(&col[j][at], e.b[warp + (lane % 4 * 2 + j) * 4 + holds][turn][part]);
        }
    double sum[4] = {c[0], c[1], c[2], c[3]};
    for (int at = 0; at < k; at++)
        for (int j = 0; j < 4; j++)
            sum[j] += row[j / 2][at] * col[j % 2][at];
    for (int j = 0; j < 4; j++)
        c[j] = (float)sum[j];
}

/* ---- launches ---- */

static void run_block(struct emulated_index block)
{
    memset(e.shared, 0xFF, e.n_shared);
    for (unsigned i = 0; i < e.n; i++) {
        prepare(&e.fiber[i]);
        e.fiber[i].n_exchange = 0;
        e.fiber[i].waited = false;
        e.fiber[i].meets = RUNS;
    }
    emulated_block = block;
    do
        for (unsigned i = 0; i < e.n; i++) {
            e.now = e.backwards ? e.n - 1 - i : i;
            struct fiber *f = &e.fiber[e.now];
            if (f->meets != RUNS)
                continue;
            emulated_thread = (struct emulated_index){e.now, 0, 0};
            leave(&e.scheduler, f);
            swap(&e.scheduler, f);
            arrive(&e.scheduler);
        }
    while (go_on());
}

void emulator_launch(struct emulated_index grid, struct emulated_index block, size_t shared,
                     const struct emulated_kernel *kernel, void *const *param)
{
    assert(block.x >= 1 && block.x <= MAX_THREADS && block.y == 1 && block.z == 1);
    assert(grid.x >= 1 && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 && grid.z <= 65535 &&
           shared <= SHARED);
    (void)pthread_mutex_lock(&e.mutex);
    e.n = block.x;
    e.n_shared = shared;
    e.kernel = kernel;
    e.param = param;
    emulated_block_dim = block;
    emulated_grid_dim = grid;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++)
                run_block((struct emulated_index){x, y, z});
    (void)pthread_mutex_unlock(&e.mutex);
}
