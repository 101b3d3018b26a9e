/* What the tokenizer makes of texts, for comparison with another implementation
 * (tests/oracle/tokenizer_oracle.py), and how fast.
 *
 * tokenizer_dump FILE plain|special
 *   Each text on stdin: u32 bytes, the bytes. To stdout, for each: u32 n, n times i32 id, u32 bytes
 *   of the decoded text, the text. A refused one is the u32 2^32 - 1 and the u32 status.
 * tokenizer_dump FILE speed TEXT
 *   Encodes the file TEXT line by line, ten times over; prints the best MB (10^6 bytes) a second
 *   of processor time.
 *
 * Numbers as they lie in memory. */
#include "rxt/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TEXT_MAX ((size_t)1 << 24)

static _Noreturn void die(const char *what)
{
    (void)fprintf(stderr, "tokenizer_dump: %s\n", what);
    exit(2);
}

static void write_all(const void *p, size_t n)
{
    if (n && fwrite(p, 1, n, stdout) != n)
        die("cannot write");
}

static void write_u32(uint32_t v)
{
    write_all(&v, sizeof v);
}

static void dump_one(const struct tokenizer *t, enum rxt_text_mode mode, const char *text,
                     size_t len, int32_t *ids, char *decoded)
{
    size_t n, n_decoded = 0;
    struct rxt_error err = {""};
    struct rxt_text d = {0};
    enum rxt_status st = tokenizer_encode(t, mode, text, len, ids, TEXT_MAX, &n, &err);
    if (st != RXT_OK) {
        write_u32(UINT32_MAX);
        write_u32((uint32_t)st);
        return;
    }
    for (size_t i = 0; i < n; i++)
        n_decoded += tokenizer_decode(t, &d, false, ids[i], decoded + n_decoded);
    n_decoded += tokenizer_decode_end(&d, decoded + n_decoded);
    write_u32((uint32_t)n);
    write_all(ids, n * sizeof *ids);
    write_u32((uint32_t)n_decoded);
    write_all(decoded, n_decoded);
}

static void dump(const struct tokenizer *t, enum rxt_text_mode mode)
{
    char *text = malloc(TEXT_MAX), *decoded = malloc(4 * TEXT_MAX);
    int32_t *ids = malloc(TEXT_MAX * sizeof *ids);
    if (!text || !ids || !decoded)
        die("out of memory");
    for (uint32_t len; fread(&len, sizeof len, 1, stdin) == 1;) {
        if (len > TEXT_MAX || fread(text, 1, len, stdin) != len)
            die("text cut short, or too long");
        dump_one(t, mode, text, len, ids, decoded);
    }
    free(text);
    free(decoded);
    free(ids);
}

/* Of this thread, in microseconds: what others do on the machine does not count. */
static double cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void speed(const struct tokenizer *t, const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = malloc(TEXT_MAX);
    int32_t *ids = malloc(TEXT_MAX * sizeof *ids);
    size_t size = f && text ? fread(text, 1, TEXT_MAX, f) : 0, n_id = 0;
    if (size == 0 || !ids)
        die("no text to measure");
    (void)fclose(f);
    double best = 0;
    for (int round = 0; round < 10; round++) {
        double start = cpu_us();
        n_id = 0;
        for (size_t from = 0; from < size;) {
            const char *line = memchr(text + from, '\n', size - from);
            size_t end = line ? (size_t)(line - text) + 1 : size, n;
            if (tokenizer_encode(t, RXT_PLAIN, text + from, end - from, ids, TEXT_MAX, &n, NULL))
                die("a line is refused");
            n_id += n;
            from = end;
        }
        double rate = (double)size / (cpu_us() - start);
        best = rate > best ? rate : best;
    }
    printf("%zu bytes, %zu ids, %.1f MB/s\n", size, n_id, best);
    free(text);
    free(ids);
}

int main(int argc, char **argv)
{
    struct tokenizer *t = NULL;
    struct rxt_error err = {""};
    if (argc < 3)
        die("usage: tokenizer_dump FILE plain|special, or FILE speed TEXT");
    double start = cpu_us();
    if (tokenizer_open(&t, argv[1], &err) != RXT_OK)
        die(err.text);
    if (argc == 4 && strcmp(argv[2], "speed") == 0) {
        printf("opened in %.2f ms\n", (cpu_us() - start) / 1000);
        speed(t, argv[3]);
    } else {
        dump(t, strcmp(argv[2], "plain") == 0 ? RXT_PLAIN : RXT_SPECIAL);
    }
    tokenizer_destroy(&t);
    return 0;
}
