/* Where an EXPORT goes: into a file as a whole or not at all, or into a pipe. */
#define _GNU_SOURCE /* F_SETPIPE_SZ, syscall */
#include "tests/bridge/rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BYTES = 1 << 22 };

static char path[400], part[420];

static void name_path(const char *name)
{
    (void)snprintf(path, sizeof path, "%s/%s", rig.dir, name);
    (void)snprintf(part, sizeof part, "%s.part", path);
}

static enum rxt_status export_to(const char *to)
{
    struct outcome o = {0};
    struct bridge_request q = request(BRIDGE_EXPORT, "from");
    q.path = to;
    return call(&rig, &q, &o);
}

/* What a descriptor gives now, behind n bytes. */
static size_t take(int fd, char *bytes, size_t n)
{
    for (ssize_t more; n < BYTES && (more = read(fd, bytes + n, BYTES - n)) > 0;)
        n += (size_t)more;
    return n;
}

static size_t take_file(char *bytes)
{
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    size_t n = take(fd, bytes, 0);
    assert_int_equal(close(fd), 0);
    return n;
}

static bool is_there(const char *name, mode_t type)
{
    struct stat s;
    return lstat(name, &s) == 0 && (s.st_mode & S_IFMT) == type;
}

/* The bytes of a file, and the pipe stays one. */
static void into_a_pipe(void **state)
{
    (void)state;
    static char want[BYTES], got[BYTES];
    struct outcome o = {0}, out = {0};
    converse(&rig, "from", (const char *const[]){"My name is Anna."}, 1, &o);
    name_path("file");
    assert_ok(export_to(path));
    assert_false(is_there(part, S_IFREG));
    const size_t n = take_file(want);
    assert_true(n > 4096); /* more than the pipe holds */
    name_path("pipe");
    assert_int_equal(mkfifo(path, 0600), 0);
    int reader = open(path, O_RDONLY | O_NONBLOCK);
    assert_true(reader >= 0);
    assert_true(fcntl(reader, F_SETPIPE_SZ, 4096) > 0);
    struct bridge_request q = request(BRIDGE_EXPORT, "from");
    q.path = path;
    submit(&rig, &q, &out);
    size_t came = 0;
    while (!out.final) {
        came = take(reader, got, came);
        step_or_wait(&rig);
    }
    assert_ok(out.status);
    came = take(reader, got, came);
    assert_int_equal(close(reader), 0);
    assert_int_equal(came, n);
    assert_memory_equal(got, want, n);
    assert_true(is_there(path, S_IFIFO) && !is_there(part, S_IFREG));
}

/* As /dev/stdout is one to the file that a shell has opened. */
static void behind_a_link(void **state)
{
    (void)state;
    static char want[BYTES], got[BYTES];
    char link[420];
    name_path("file");
    assert_ok(export_to(path));
    const size_t n = take_file(want);
    assert_int_equal(truncate(path, 0), 0);
    (void)snprintf(link, sizeof link, "%s/link", rig.dir);
    assert_int_equal(symlink(path, link), 0);
    assert_ok(export_to(link));
    assert_true(is_there(link, S_IFLNK) && is_there(path, S_IFREG) && !is_there(part, S_IFREG));
    assert_int_equal(take_file(got), n);
    assert_memory_equal(got, want, n);
}

static void where_nothing_can_be_written(void **state)
{
    (void)state;
    name_path("full"); /* a link, so that what would be replaced by mistake is that */
    assert_int_equal(symlink("/dev/full", path), 0);
    assert_status(RXT_EFULL, export_to(path));
    assert_true(is_there(path, S_IFLNK) && !is_there(part, S_IFREG));
    assert_status(RXT_EIO, export_to(rig.dir));
    name_path("no folder/file");
    assert_status(RXT_EIO, export_to(path));
}

/* What fsync says of the file of an export; 0 = the truth. */
static atomic_int sync_error;

int fsync(int fd)
{
    char self[32], name[500];
    (void)snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(self, name, sizeof name);
    const int error = atomic_load(&sync_error);
    if (error && n > 5 && memcmp(name + n - 5, ".part", 5) == 0) {
        errno = error;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

/* EINVAL as well, which is no fault of a pipe: nothing is there, the former export stays. */
static void a_file_that_cannot_be_synced(void **state)
{
    (void)state;
    static char want[BYTES], got[BYTES];
    static const int error[] = {EIO, EINVAL};
    name_path("file");
    const size_t n = take_file(want);
    for (int i = 0; i < 2; i++) {
        atomic_store(&sync_error, error[i]);
        assert_status(RXT_EIO, export_to(path));
        atomic_store(&sync_error, 0);
        assert_false(is_there(part, S_IFREG));
        assert_int_equal(take_file(got), n);
        assert_memory_equal(got, want, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(into_a_pipe),
        cmocka_unit_test(behind_a_link),
        cmocka_unit_test(where_nothing_can_be_written),
        cmocka_unit_test(a_file_that_cannot_be_synced),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
