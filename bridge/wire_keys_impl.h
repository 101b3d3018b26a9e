/* The keys of every message as data: name, kind, place in the struct, limits, default. Read by the
 * decoder and by the encoder, so that both say the same. */
#ifndef RXT_BRIDGE_WIRE_KEYS_IMPL_H
#define RXT_BRIDGE_WIRE_KEYS_IMPL_H

#include "bridge/wire_impl.h"

enum wire_kind {
    KIND_TEXT,   /* struct wire_text: lo to hi bytes of UTF-8 without U+0000 */
    KIND_NAME,   /* the same without control characters */
    KIND_BIN,    /* struct wire_text: lo to hi bytes */
    KIND_UINT,   /* uint64_t: lo to hi */
    KIND_BOOL,   /* int */
    KIND_REAL,   /* double, finite: lo to hi, lo itself only if closed */
    KIND_CHOICE, /* int: place in `choice` */
    KIND_IDS,    /* struct wire_ids: lo to hi of them */
    KIND_MAP,    /* a struct of its own, keys in `sub` */
    KIND_MAPS,   /* struct array behind a pointer: at most hi, keys in `sub` */
};

struct wire_key {
    const char *name; /* NULL ends a table */
    enum wire_kind kind;
    size_t at; /* offset in the struct of the table */
    bool must;
    uint64_t lo, hi;
    uint64_t init; /* UINT, CHOICE, BOOL (-1 = absent) */
    double real_init, real_hi;
    bool open_lo;               /* REAL: lo (0) is not allowed */
    const char *const *choice;  /* ends with NULL */
    const struct wire_key *sub; /* MAP, MAPS */
    size_t sub_bytes;           /* MAPS: of one */
    size_t count_at, cap_at;    /* MAPS: uint32_t in the same struct */
};

/* NULL for an unknown type. */
const struct wire_key *wire_keys(uint8_t type);

#endif
