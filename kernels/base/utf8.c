#include "kernels/base/utf8.h"

#include <stdbool.h>
#include <string.h>

/* Continuation bytes after a lead byte, or -1 where none may lead. */
static int trail_of(unsigned char lead)
{
    if (lead < 0x80)
        return 0;
    if (lead < 0xC2)
        return -1;
    if (lead < 0xE0)
        return 1;
    if (lead < 0xF0)
        return 2;
    return lead < 0xF5 ? 3 : -1;
}

/* The second byte carries the exceptions: no overlong form, no surrogate, nothing too large. */
static bool is_second(unsigned char lead, unsigned char c)
{
    switch (lead) {
    case 0xE0:
        return c >= 0xA0 && c <= 0xBF;
    case 0xED:
        return c >= 0x80 && c <= 0x9F;
    case 0xF0:
        return c >= 0x90 && c <= 0xBF;
    case 0xF4:
        return c >= 0x80 && c <= 0x8F;
    default:
        return c >= 0x80 && c <= 0xBF;
    }
}

struct utf8_step utf8_next(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    int trail = trail_of(u[0]);
    if (trail < 0)
        return (struct utf8_step){UTF8_BAD, 1};
    for (int i = 1; i <= trail; i++) {
        if ((size_t)i == n)
            return (struct utf8_step){UTF8_CUT, (uint8_t)n};
        if (i == 1 ? !is_second(u[0], u[1]) : (u[i] & 0xC0) != 0x80)
            return (struct utf8_step){UTF8_BAD, (uint8_t)i};
    }
    size_t len;
    int32_t cp = utf8_read(s, &len);
    return (struct utf8_step){cp, (uint8_t)len};
}

size_t utf8_valid(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= sizeof eight) {
            memcpy(&eight, s + i, sizeof eight);
            eight &= 0x8080808080808080u;
            if (eight == 0) {
                i += sizeof eight;
                continue;
            }
            i += (size_t)__builtin_ctzll(eight) / 8; /* little endian: the first wide byte */
        }
        struct utf8_step step = utf8_next(s + i, n - i);
        if (step.cp < 0)
            break;
        i += step.len;
    }
    return i;
}

size_t utf8_put(int32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}
