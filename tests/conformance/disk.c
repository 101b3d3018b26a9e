/* A disk and a clock that fail when told to: loaded before the C library into rxtd (LD_PRELOAD).
 * What the file RXT_DISK_FILE says now is what happens: "full" and "broken" fail writes, "frozen"
 * lets them hang, "nomem" fails the heap of kernels/base/mem.c, "future" and "past" are where the
 * wall clock has jumped to. Nothing else of the process is touched. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static bool told(const char *word)
{
    char said[16] = "";
    const char *path = getenv("RXT_DISK_FILE");
    int kept = errno;
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = file < 0 ? 0 : read(file, said, sizeof said - 1);
    if (file >= 0)
        (void)close(file);
    errno = kept;
    return n > 0 && strcmp(said, word) == 0;
}

/* POSIX names the functions behind dlsym as objects; a union is how C takes them. */
union symbol {
    void *object;
    ssize_t (*pwrite)(int, const void *, size_t, off_t);
    int (*sync)(int);
    int (*memalign)(void **, size_t, size_t);
    int (*clock)(clockid_t, struct timespec *);
};

static bool fails(void)
{
    while (told("frozen"))
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (told("full"))
        errno = ENOSPC;
    else if (told("broken"))
        errno = EIO;
    else
        return false;
    return true;
}

EXPORT ssize_t pwrite64(int file, const void *bytes, size_t n, off_t at)
{
    union symbol next = {.object = dlsym(RTLD_NEXT, "pwrite64")};
    return fails() ? -1 : next.pwrite(file, bytes, n, at);
}

EXPORT int fdatasync(int file)
{
    union symbol next = {.object = dlsym(RTLD_NEXT, "fdatasync")};
    return fails() ? -1 : next.sync(file);
}

/* Large blocks are left alone: the queues of libzmq want some, and end the process without. */
EXPORT int posix_memalign(void **out, size_t alignment, size_t n)
{
    union symbol next = {.object = dlsym(RTLD_NEXT, "posix_memalign")};
    return n < 8192 && told("nomem") ? ENOMEM : next.memalign(out, alignment, n);
}

EXPORT int clock_gettime(clockid_t which, struct timespec *out)
{
    const time_t years = 10 * (time_t)31557600;
    union symbol next = {.object = dlsym(RTLD_NEXT, "clock_gettime")};
    int failed = next.clock(which, out);
    if (which == CLOCK_REALTIME && told("future"))
        out->tv_sec += years;
    if (which == CLOCK_REALTIME && told("past"))
        out->tv_sec -= years;
    return failed;
}
