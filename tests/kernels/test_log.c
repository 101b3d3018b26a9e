#include "kernels/base/log.h"

#include "tests/lib/test.h"

#include <pthread.h>
#include <unistd.h>

/* The log goes into an unnamed file; `read_log` gives its text and empties it. */
static FILE *file;

static int setup(void **state)
{
    (void)state;
    file = tmpfile();
    return file ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    log_open(STDERR_FILENO, LOG_INFO);
    return fclose(file);
}

static char *read_log(void)
{
    static char text[1 << 18];
    int fd = fileno(file);
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    assert_true(n >= 0);
    text[n] = '\0';
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return text;
}

/* Checks the time stamp at the start of a line and gives what follows it. */
static const char *after_time(const char *line)
{
    static const char shape[] = "{\"t\":\"dddd-dd-ddTdd:dd:dd.ddddddZ\"";
    for (size_t i = 0; shape[i]; i++) {
        if (shape[i] == 'd')
            assert_in_range(line[i], '0', '9');
        else
            assert_int_equal(line[i], shape[i]);
    }
    return line + sizeof shape - 1;
}

static void a_line_is_one_object(void **state)
{
    (void)state;
    log_open(fileno(file), LOG_DEBUG);
    log_event(LOG_WARN, "replay", "\"session\":\"%s\",\"version\":%d", "s1", 7);
    assert_string_equal(after_time(read_log()), ",\"level\":\"warn\",\"event\":\"replay\","
                                                "\"session\":\"s1\",\"version\":7}\n");
    log_event(LOG_DEBUG, "start", NULL);
    assert_string_equal(after_time(read_log()), ",\"level\":\"debug\",\"event\":\"start\"}\n");
}

static void lines_below_the_level_are_dropped(void **state)
{
    (void)state;
    log_open(fileno(file), LOG_WARN);
    log_event(LOG_DEBUG, "a", NULL);
    log_event(LOG_INFO, "b", NULL);
    assert_string_equal(read_log(), "");
    log_event(LOG_WARN, "c", NULL);
    log_event(LOG_ERROR, "d", NULL);
    const char *text = read_log();
    assert_non_null(strstr(text, "\"warn\",\"event\":\"c\""));
    assert_non_null(strstr(text, "\"error\",\"event\":\"d\""));
}

/* Around the limit, byte by byte: a rest is there as a whole or not at all. */
static void a_rest_that_does_not_fit_is_cut(void **state)
{
    (void)state;
    static char rest[5000];
    int n_whole = 0, n_cut = 0;
    log_open(fileno(file), LOG_INFO);
    for (size_t n = 3900; n < 4150; n++) {
        memset(rest, '1', n);
        rest[n] = '\0';
        log_event(LOG_INFO, "long", "\"x\":%s", rest);
        const char *text = after_time(read_log());
        assert_true(strlen(text) <= 4096);
        if (strcmp(text, ",\"level\":\"info\",\"event\":\"long\",\"cut\":true}\n") == 0) {
            n_cut++;
            continue;
        }
        assert_int_equal(n_cut, 0); /* longer than one that was cut */
        assert_string_equal(text + strlen(text) - 3, "1}\n");
        assert_int_equal(strlen(text),
                         strlen(",\"level\":\"info\",\"event\":\"long\",\"x\":}\n") + n);
        n_whole++;
    }
    assert_true(n_whole > 0 && n_cut > 0);
}

static void escape_makes_the_inside_of_a_string(void **state)
{
    (void)state;
    char out[64];
    assert_string_equal(log_escape(out, sizeof out, "plain"), "plain");
    assert_string_equal(log_escape(out, sizeof out, "a\"b\\c"), "a\\\"b\\\\c");
    assert_string_equal(log_escape(out, sizeof out, "\n\x7F\xC3\xA9"),
                        "\\u000a\\u007f\\u00c3\\u00a9");
}

static void escape_is_cut_to_fit(void **state)
{
    (void)state;
    const char *const hostile = "\x01\"\\abc\x02\x03\xFF\"\"\"";
    char whole[128], out[128];
    log_escape(whole, sizeof whole, hostile);
    for (int size = 0; size <= (int)sizeof out; size++) {
        memset(out, '?', sizeof out);
        log_escape(out, size, hostile);
        for (size_t i = (size_t)size; i < sizeof out; i++)
            assert_int_equal(out[i], '?');
        if (size > 0)
            assert_memory_equal(out, whole, strlen(out));
    }
    assert_string_equal(out, whole);
}

static void *write_lines(void *arg)
{
    for (int i = 0; i < 100; i++)
        log_event(LOG_INFO, "busy", "\"who\":%d,\"i\":%d,\"end\":1", *(const int *)arg, i);
    return NULL;
}

static void threads_do_not_interleave(void **state)
{
    (void)state;
    enum { N = 4 };
    pthread_t thread[N];
    int who[N], next[N] = {0};
    log_open(fileno(file), LOG_INFO);
    for (int i = 0; i < N; i++) {
        who[i] = i;
        assert_int_equal(pthread_create(&thread[i], NULL, write_lines, &who[i]), 0);
    }
    for (int i = 0; i < N; i++)
        assert_int_equal(pthread_join(thread[i], NULL), 0);
    int n_line = 0;
    char *save = NULL;
    for (char *line = strtok_r(read_log(), "\n", &save); line;
         line = strtok_r(NULL, "\n", &save), n_line++) {
        int w = -1, i = -1, end = 0;
        assert_int_equal(
            sscanf(after_time(line), /* strings of digits only: no overflow */
                   ",\"level\":\"info\",\"event\":\"busy\",\"who\":%d,\"i\":%d,\"end\":%d", &w, &i,
                   &end),
            3);
        assert_in_range(w, 0, N - 1);
        assert_int_equal(i, next[w]++);
    }
    assert_int_equal(n_line, N * 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_is_one_object),
        cmocka_unit_test(lines_below_the_level_are_dropped),
        cmocka_unit_test(a_rest_that_does_not_fit_is_cut),
        cmocka_unit_test(escape_makes_the_inside_of_a_string),
        cmocka_unit_test(escape_is_cut_to_fit),
        cmocka_unit_test(threads_do_not_interleave),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
