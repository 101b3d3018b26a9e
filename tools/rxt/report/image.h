/* A picture in memory and as a file: PNG (ISO/IEC 15948) of 8-bit RGB, written with zlib alone. */
#ifndef RXT_TOOLS_REPORT_IMAGE_H
#define RXT_TOOLS_REPORT_IMAGE_H

#include "tools/rxt/report/colour.h"
#include "tools/rxt/report/font.h"

struct image {
    int width, height;
    uint8_t *rgb; /* [height, 1 + 3 * width]: each line begins with its filter, 0 */
};
extern const struct colour image_paper, image_ink;

/* Letters: points of 2 by 2, the advance of one and the height of a line. */
enum { POINT = 2, ADVANCE = POINT * (FONT_WIDTH + 1), LINE = POINT * (FONT_HEIGHT + 2) };

/* Fills m->rgb for its width and height with paper; false: out of memory. */
bool image_create(struct image *m);
void image_free(struct image *m);
/* What lies outside is cut off. blend: cover is 0 .. 1. */
void image_fill(struct image *m, int x, int y, int w, int h, struct colour c);
void image_blend(struct image *m, int x, int y, struct colour c, double cover);
void image_print(struct image *m, int x, int y, const char *text); /* x, y: top left, ASCII */
/* EIO naming the file; ENOMEM. */
enum rxt_status image_save(const struct image *m, const char *path, struct rxt_error *err);

#endif
