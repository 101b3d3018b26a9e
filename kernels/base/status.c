#include "kernels/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *rxt_status_name(enum rxt_status st)
{
    switch (st) {
#define RXT_STATUS_NAME(code, number, text) \
    case code:                              \
        return #code;
        RXT_STATUS_TABLE(RXT_STATUS_NAME)
#undef RXT_STATUS_NAME
    }
    return "RXT_UNKNOWN";
}

const char *rxt_status_text(enum rxt_status st)
{
    switch (st) {
#define RXT_STATUS_TEXT(code, number, text) \
    case code:                              \
        return text;
        RXT_STATUS_TABLE(RXT_STATUS_TEXT)
#undef RXT_STATUS_TEXT
    }
    return "unknown status";
}

/* vsnprintf cuts at a byte; step back to the last border of a code point. */
static void cut_to_code_point(char *s, size_t len)
{
    size_t i = len;
    while (i > 0 && ((unsigned char)s[i - 1] & 0xC0u) == 0x80u)
        i--;
    if (i == 0)
        return;
    unsigned char lead = (unsigned char)s[i - 1];
    size_t want = lead < 0x80u ? 1 : lead >= 0xF0u ? 4 : lead >= 0xE0u ? 3 : 2;
    if (i - 1 + want != len)
        s[i - 1] = '\0';
}

enum rxt_status(rxt_fail)(struct rxt_error *err, enum rxt_status st, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
        if (n < 0)
            err->text[0] = '\0';
        else if ((size_t)n >= sizeof err->text)
            cut_to_code_point(err->text, sizeof err->text - 1);
    }
    return st;
}
