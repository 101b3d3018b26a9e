/* MessagePack, read piece by piece from bytes of a stranger. Not the unpacker of msgpack-c, which
 * allocates an array of as many elements as a header of 5 bytes claims; here nothing is allocated
 * and nothing is believed. */
#ifndef RXT_BRIDGE_WIRE_READ_IMPL_H
#define RXT_BRIDGE_WIRE_READ_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wire_cursor {
    const uint8_t *p, *end;
};

enum wire_item_kind {
    ITEM_UINT,  /* u */
    ITEM_NINT,  /* a negative integer; not kept, no key wants one */
    ITEM_REAL,  /* real */
    ITEM_BOOL,  /* u */
    ITEM_STR,   /* u bytes at p */
    ITEM_BIN,   /* u bytes at p */
    ITEM_ARRAY, /* u items follow */
    ITEM_MAP,   /* u pairs follow */
    ITEM_NIL,
    ITEM_OTHER, /* extensions, the byte that is never used */
};
struct wire_item {
    enum wire_item_kind kind;
    uint64_t u;
    double real;
    const uint8_t *p;
};

/* The next item; str and bin with their bytes. False: truncated. */
bool wire_next(struct wire_cursor *c, struct wire_item *out);

/* Checks one whole value, from the cursor on: nothing truncated, at most `depth` arrays and maps
 * inside each other, no nil and no extension, map keys str of valid UTF-8, at most n_keys and none
 * twice. NULL, the cursor behind it; or a sentence. */
const char *wire_check(struct wire_cursor *c, int depth, uint32_t n_keys);
/* Steps over a value that wire_check has passed. */
void wire_skip(struct wire_cursor *c);

#endif
