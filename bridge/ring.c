#include "bridge/ring_impl.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static struct ring_entry entries[RING_ENTRIES];
static atomic_uint n_entry; /* in all */
static volatile sig_atomic_t out_fd = 2;

void ring_note(const struct ring_entry *e)
{
    unsigned n = atomic_load_explicit(&n_entry, memory_order_relaxed);
    entries[n % RING_ENTRIES] = *e;
    atomic_store_explicit(&n_entry, n + 1, memory_order_release);
}

/* ---- text, without the library of a process that is dying -------------------------------- */

struct line {
    char text[256];
    size_t n;
};

static void put(struct line *l, const char *s)
{
    while (*s && l->n < sizeof l->text)
        l->text[l->n++] = *s++;
}

static void put_number(struct line *l, const char *name, uint64_t v)
{
    char digits[24];
    size_t n = sizeof digits;
    digits[--n] = '\0';
    do
        digits[--n] = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    put(l, name);
    put(l, digits + n);
}

void ring_dump(int fd)
{
    unsigned end = atomic_load_explicit(&n_entry, memory_order_acquire);
    unsigned n = end < RING_ENTRIES ? end : RING_ENTRIES;
    for (unsigned i = end - n; i != end; i++) {
        const struct ring_entry *e = &entries[i % RING_ENTRIES];
        struct line l = {.n = 0};
        put(&l, "{\"event\":\"last_request\"");
        put_number(&l, ",\"wall_us\":", (uint64_t)e->wall_us);
        put_number(&l, ",\"verb\":", e->verb);
        put_number(&l, ",\"n_query\":", e->n_query);
        put_number(&l, ",\"n_answer\":", e->n_answer);
        put_number(&l, ",\"us\":", e->us);
        put_number(&l, ",\"code\":", e->code);
        put(&l, "}\n");
        (void)!write(fd, l.text, l.n);
    }
}

static void on_fault(int number)
{
    struct line l = {.n = 0};
    put_number(&l, "{\"level\":\"error\",\"event\":\"crash\",\"signal\":", (uint64_t)number);
    put(&l, "}\n");
    (void)!write((int)out_fd, l.text, l.n);
    ring_dump((int)out_fd);
    (void)raise(number); /* the handler is gone: it dies as it would have */
}

void ring_catch(int fd)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    struct sigaction a = {.sa_handler = on_fault, .sa_flags = (int)SA_RESETHAND | SA_NODEFER};
    out_fd = fd;
    (void)sigemptyset(&a.sa_mask);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        (void)sigaction(faults[i], &a, NULL);
}
