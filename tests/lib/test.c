#define _XOPEN_SOURCE 700 /* nftw */
#include "tests/lib/test.h"

#include "kernels/base/mem.h"

#include <ftw.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

void assert_status_(enum rxt_status want, enum rxt_status got, const char *call, const char *file,
                    int line)
{
    if (want == got)
        return;
    print_error("%s: expected %s, got %s\n", call, rxt_status_name(want), rxt_status_name(got));
    _fail(file, line);
}

void assert_survives_no_memory(enum rxt_status (*body)(void *arg), void *arg)
{
    for (uint64_t nth = 1;; nth++) {
        uint64_t live = mem_stats().live_bytes;
        mem_fail_from(nth);
        enum rxt_status st = body(arg);
        int failed = mem_fail_never();
        assert_int_equal(mem_stats().live_bytes, live);
        if (!failed) {
            assert_status(RXT_OK, st);
            assert_true(nth > 1); /* a body that allocates nothing proves nothing */
            return;
        }
        assert_status(RXT_ENOMEM, st);
    }
}

void assert_aborts_(void (*body)(void *arg), void *arg, const char *what, const char *file,
                    int line)
{
    pid_t child = fork();
    if (child == 0) {
        (void)close(STDERR_FILENO);
        body(arg);
        _exit(0);
    }
    int status = 0;
    if (child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status) &&
        WTERMSIG(status) == SIGABRT)
        return;
    print_error("%s: expected abort(), got wait status %#x\n", what, (unsigned)status);
    _fail(file, line);
}

char *test_dir_make(void)
{
    const char *tmp = getenv("TMPDIR");
    char *dir = malloc(256);
    assert_non_null(dir);
    snprintf(dir, 256, "%s/rxt-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
    return dir;
}

static int remove_one(const char *path, const struct stat *s, int flag, struct FTW *ftw)
{
    (void)s;
    (void)flag;
    (void)ftw;
    return remove(path);
}

void test_dir_remove(char *dir)
{
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(dir);
}
