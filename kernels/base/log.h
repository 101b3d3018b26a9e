/* The log: one JSON object a line on a file descriptor, written with one write() so that threads
 * never interleave. No text of users goes in (design 10): callers log ids, counts and codes.
 * Thread-safe; never on the hot path. */
#ifndef RXT_BASE_LOG_H
#define RXT_BASE_LOG_H

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Lines below `level` are dropped. Default: LOG_INFO to standard error. */
void log_open(int fd, enum log_level level);

/* {"t":"2026-01-31T12:00:00.000000Z","level":"warn","event":event, ...}. event is a literal of at
 * most 64 bytes. fmt makes the rest, which must be the inside of a JSON object
 * ("\"session\":\"%s\",\"version\":%llu"); NULL for none. Strings from outside go through
 * log_escape first. A rest that does not fit into a line of 4 KiB becomes "cut":true. */
void log_event(enum log_level level, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Writes s into out as the inside of a JSON string (quotes, backslashes, control and non-ASCII
 * bytes escaped), cut to fit; returns out. */
const char *log_escape(char *out, int out_size, const char *s);

#endif
