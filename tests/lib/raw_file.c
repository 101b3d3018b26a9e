#include "tests/lib/raw_file.h"

#include "tests/lib/test.h"

struct raw_bytes raw_safetensors(const char *header, const void *data, size_t n)
{
    uint64_t n_header = strlen(header);
    struct raw_bytes b = {.n = 8 + n_header + n};
    b.at = malloc(b.n);
    assert_non_null(b.at);
    for (int i = 0; i < 8; i++)
        b.at[i] = (char)(n_header >> (8 * i) & 0xFF);
    memcpy(b.at + 8, header, n_header);
    for (size_t i = 0; i < n; i++)
        b.at[8 + n_header + i] = (char)(data ? ((const uint8_t *)data)[i] : i % 251);
    return b;
}

void raw_free(struct raw_bytes *b)
{
    free(b->at);
    *b = (struct raw_bytes){0};
}

void raw_write(const char *dir, const char *name, const void *bytes, size_t n)
{
    char path[512];
    assert_true(snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

void raw_write_text(const char *dir, const char *name, const char *text)
{
    raw_write(dir, name, text, strlen(text));
}

struct raw_bytes raw_read(const char *dir, const char *name)
{
    char path[512];
    assert_true(snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long size = ftell(f);
    assert_true(size >= 0);
    rewind(f);
    struct raw_bytes b = {.at = calloc(1, (size_t)size + 1), .n = (size_t)size};
    assert_non_null(b.at);
    assert_int_equal(fread(b.at, 1, b.n, f), b.n);
    assert_int_equal(fclose(f), 0);
    return b;
}
