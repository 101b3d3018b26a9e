#include "tools/rxt/report/image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

const struct colour image_paper = {255, 255, 255}, image_ink = {32, 32, 40};

/* ---- the file ---------------------------------------------------------------------------- */

static size_t line_bytes(const struct image *m)
{
    return 1 + 3 * (size_t)m->width;
}

static void put32(uint8_t out[4], size_t v)
{
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(v >> (24 - 8 * i));
}

static bool write_chunk(FILE *f, const char type[5], const uint8_t *data, size_t n)
{
    uint8_t length[4], sum[4];
    uLong crc = crc32(0, (const Bytef *)type, 4);
    if (n)
        crc = crc32(crc, data, (uInt)n);
    put32(length, n);
    put32(sum, crc);
    return fwrite(length, 1, 4, f) == 4 && fwrite(type, 1, 4, f) == 4 &&
           (n == 0 || fwrite(data, 1, n, f) == n) && fwrite(sum, 1, 4, f) == 4;
}

static bool write_image(FILE *f, const struct image *m, const uint8_t *packed, size_t n)
{
    static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    uint8_t header[13] = {[8] = 8, [9] = 2}; /* 8 bits, RGB; deflate, no interlace */
    put32(header, (size_t)m->width);
    put32(header + 4, (size_t)m->height);
    return fwrite(signature, 1, sizeof signature, f) == sizeof signature &&
           write_chunk(f, "IHDR", header, sizeof header) && write_chunk(f, "IDAT", packed, n) &&
           write_chunk(f, "IEND", NULL, 0);
}

enum rxt_status image_save(const struct image *m, const char *path, struct rxt_error *err)
{
    uLong bytes = (uLong)line_bytes(m) * (uLong)m->height;
    uLongf n = compressBound(bytes);
    uint8_t *packed = malloc(n);
    if (!packed || compress2(packed, &n, m->rgb, bytes, 9) != Z_OK) {
        free(packed);
        return RXT_ENOMEM;
    }
    FILE *f = fopen(path, "wb");
    bool good = f && write_image(f, m, packed, n);
    if (f && fclose(f) != 0)
        good = false;
    free(packed);
    if (!good)
        return rxt_fail(err, RXT_EIO, "cannot write %.180s: %s", path, strerror(errno));
    return RXT_OK;
}

/* ---- drawing ----------------------------------------------------------------------------- */

bool image_create(struct image *m)
{
    m->rgb = calloc((size_t)m->height, line_bytes(m));
    if (m->rgb)
        image_fill(m, 0, 0, m->width, m->height, image_paper);
    return m->rgb != NULL;
}

void image_free(struct image *m)
{
    free(m->rgb);
    m->rgb = NULL;
}

void image_fill(struct image *m, int x, int y, int w, int h, struct colour c)
{
    for (int i = y < 0 ? 0 : y; i < y + h && i < m->height; i++)
        for (int k = x < 0 ? 0 : x; k < x + w && k < m->width; k++) {
            uint8_t *p = m->rgb + (size_t)i * line_bytes(m) + 1 + 3 * (size_t)k;
            p[0] = c.r;
            p[1] = c.g;
            p[2] = c.b;
        }
}

void image_blend(struct image *m, int x, int y, struct colour c, double cover)
{
    if (x < 0 || y < 0 || x >= m->width || y >= m->height)
        return;
    uint8_t *p = m->rgb + (size_t)y * line_bytes(m) + 1 + 3 * (size_t)x;
    p[0] = (uint8_t)(p[0] + cover * (c.r - p[0]) + 0.5);
    p[1] = (uint8_t)(p[1] + cover * (c.g - p[1]) + 0.5);
    p[2] = (uint8_t)(p[2] + cover * (c.b - p[2]) + 0.5);
}

void image_print(struct image *m, int x, int y, const char *text)
{
    for (; *text; text++, x += ADVANCE) {
        const uint8_t *rows = font[(unsigned char)*text < 128 ? (unsigned char)*text : '?'];
        for (int r = 0; r < FONT_HEIGHT; r++)
            for (int c = 0; c < FONT_WIDTH; c++)
                if (rows[r] >> (FONT_WIDTH - 1 - c) & 1)
                    image_fill(m, x + POINT * c, y + POINT * r, POINT, POINT, image_ink);
    }
}
