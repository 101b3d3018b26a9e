#include "kernels/base/log.h"

#include <assert.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int log_fd = STDERR_FILENO;
static atomic_int log_level = LOG_INFO;

void log_open(int fd, enum log_level level)
{
    atomic_store(&log_fd, fd);
    atomic_store(&log_level, (int)level);
}

void log_event(enum log_level level, const char *event, const char *fmt, ...)
{
    static const char *const name[] = {"debug", "info", "warn", "error"};
    assert(strlen(event) <= 64);
    if ((int)level < atomic_load_explicit(&log_level, memory_order_relaxed))
        return;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct tm utc;
    gmtime_r(&now.tv_sec, &utc);
    char line[4096];
    const size_t room = sizeof line - 3; /* brace, newline, zero */
    size_t n = strftime(line, room, "{\"t\":\"%Y-%m-%dT%H:%M:%S", &utc);
    int more = snprintf(line + n, room - n, ".%06ldZ\",\"level\":\"%s\",\"event\":\"%s\"",
                        now.tv_nsec / 1000, name[level], event);
    n += (size_t)more;
    if (fmt && n + 1 < room) {
        size_t start = n;
        line[n++] = ',';
        va_list ap;
        va_start(ap, fmt);
        more = vsnprintf(line + n, room - n, fmt, ap);
        va_end(ap);
        /* A cut object would not parse: drop what does not fit and say so. */
        if (more < 0 || (size_t)more >= room - n)
            n = start + (size_t)snprintf(line + start, room - start, ",\"cut\":true");
        else
            n += (size_t)more;
    }
    line[n++] = '}';
    line[n++] = '\n';
    ssize_t written = write(atomic_load(&log_fd), line, n);
    (void)written; /* nowhere left to report it */
}

const char *log_escape(char *out, int out_size, const char *s)
{
    int n = 0;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (n + 7 > out_size)
            break;
        if (c == '"' || c == '\\') {
            out[n++] = '\\';
            out[n++] = (char)c;
        } else if (c < 0x20 || c >= 0x7F) {
            n += snprintf(out + n, (size_t)(out_size - n), "\\u%04x", c);
        } else {
            out[n++] = (char)c;
        }
    }
    if (out_size > 0)
        out[n] = '\0';
    return out;
}
