/* The crash ring: the last requests, oldest first, also out of a process that faults. */
#include "bridge/ring_impl.h"
#include "tests/lib/test.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static char text[RING_ENTRIES * 256];

static size_t count_lines(void)
{
    size_t n = 0;
    for (const char *p = text; (p = strchr(p, '\n')); p++)
        n++;
    return n;
}

static void read_all(int fd)
{
    size_t n = 0;
    for (ssize_t got; (got = read(fd, text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = '\0';
    (void)close(fd);
}

static void dump(void)
{
    FILE *f = tmpfile();
    assert_non_null(f);
    ring_dump(fileno(f));
    int fd = dup(fileno(f));
    assert_true(fd >= 0 && lseek(fd, 0, SEEK_SET) == 0);
    read_all(fd);
    (void)fclose(f);
}

static void test_order(void **state)
{
    (void)state;
    dump();
    assert_string_equal(text, "");
    ring_note(&(struct ring_entry){
        .wall_us = 5, .verb = 1, .n_query = 12, .n_answer = 345, .us = 0, .code = 301});
    dump();
    assert_string_equal(text, "{\"event\":\"last_request\",\"wall_us\":5,\"verb\":1,\"n_query\":12,"
                              "\"n_answer\":345,\"us\":0,\"code\":301}\n");
    for (uint32_t i = 0; i < RING_ENTRIES; i++)
        ring_note(&(struct ring_entry){.wall_us = 1000 + i, .us = UINT64_MAX});
    dump();
    assert_int_equal(count_lines(), RING_ENTRIES);
    assert_non_null(strstr(text, "\"wall_us\":1000,"));
    assert_null(strstr(text, "\"wall_us\":5,"));
    assert_true(strstr(text, "\"wall_us\":1000,") < strstr(text, "\"wall_us\":1001,"));
    assert_non_null(strstr(text, "\"us\":18446744073709551615,"));
}

static void test_fault(void **state)
{
    (void)state;
    int ends[2], status = 0;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)close(ends[0]);
        ring_catch(ends[1]);
        (void)raise(SIGFPE);
        _exit(0);
    }
    (void)close(ends[1]);
    read_all(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGFPE);
    assert_non_null(strstr(text, "\"event\":\"crash\",\"signal\":8}\n"));
    assert_int_equal(count_lines(), 1 + RING_ENTRIES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
