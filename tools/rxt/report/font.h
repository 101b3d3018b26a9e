/* Letters of five by seven points, two more below the line, for pictures: no library needed, the
 * same everywhere. */
#ifndef RXT_TOOLS_REPORT_FONT_H
#define RXT_TOOLS_REPORT_FONT_H

#include <stdint.h>

enum { FONT_WIDTH = 5, FONT_HEIGHT = 9 };

/* Rows of a character of ASCII, from the top; the leftmost point is bit 4. What the font lacks is
 * empty. */
extern const uint8_t font[128][FONT_HEIGHT];

#endif
