/* Files with exactly the bytes a test wants: hostile headers, odd dtypes, broken indexes. */
#ifndef RXT_TESTS_RAW_FILE_H
#define RXT_TESTS_RAW_FILE_H

#include <stddef.h>

struct raw_bytes {
    char *at; /* malloc */
    size_t n;
};

/* A safetensors file: length of the header, the header, n bytes of data (data NULL: 0, 1, 2, ...
 * modulo 251). */
struct raw_bytes raw_safetensors(const char *header, const void *data, size_t n);
void raw_free(struct raw_bytes *b);

/* Writes DIR/NAME; text without its terminating zero. */
void raw_write(const char *dir, const char *name, const void *bytes, size_t n);
void raw_write_text(const char *dir, const char *name, const char *text);
/* The whole file, and one byte more, which is zero. */
struct raw_bytes raw_read(const char *dir, const char *name);

#endif
