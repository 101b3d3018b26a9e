/* UTF-8, the one place that knows the encoding: checking, stepping, replacing.
 *
 * "Bad" is what Unicode 15 (3.9, table 3-7) does not list: overlong forms, surrogates, above
 * U+10FFFF, stray and missing continuation bytes. One U+FFFD replaces one maximal subpart. */
#ifndef RXT_BASE_UTF8_H
#define RXT_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

#define UTF8_BAD (-1) /* len bytes (1 to 3) that no code point begins with */
#define UTF8_CUT (-2) /* all n bytes begin a code point, and more must follow */

struct utf8_step {
    int32_t cp; /* code point, UTF8_BAD or UTF8_CUT */
    uint8_t len;
};
/* The first step into s[0..n), n > 0. */
struct utf8_step utf8_next(const char *s, size_t n);

/* Bytes at the front of s[0..n) that are whole code points: n if the text is valid. */
size_t utf8_valid(const char *s, size_t n);

/* Writes a code point (not a surrogate), returns its bytes, 1 to 4. */
size_t utf8_put(int32_t cp, char out[4]);

/* The code point at s in a text that is known to be valid; *len its bytes. */
static inline int32_t utf8_read(const char *s, size_t *len)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) {
        *len = 1;
        return u[0];
    }
    if (u[0] < 0xE0) {
        *len = 2;
        return (u[0] & 0x1F) << 6 | (u[1] & 0x3F);
    }
    if (u[0] < 0xF0) {
        *len = 3;
        return (u[0] & 0x0F) << 12 | (u[1] & 0x3F) << 6 | (u[2] & 0x3F);
    }
    *len = 4;
    return (u[0] & 0x07) << 18 | (u[1] & 0x3F) << 12 | (u[2] & 0x3F) << 6 | (u[3] & 0x3F);
}

#endif
