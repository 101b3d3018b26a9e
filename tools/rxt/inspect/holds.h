/* How long slots hold what a turn wrote: provenance by the gates. An update leaves `keep` of a
 * slot's old content (struct stm_slot_probe) and writes the rest; so of what turn t wrote there is
 * now (1 - keep of t) times the keeps of all turns after it. A rewind goes back to the version it
 * names, a reset to nobody's writing. */
#ifndef RXT_TOOLS_INSPECT_HOLDS_H
#define RXT_TOOLS_INSPECT_HOLDS_H

#include "tools/rxt/inspect/history.h"

/* Over the versions first + 1 .. last of a session. */
struct holds {
    uint64_t first, last;
    size_t n_slot; /* of all layers */
    float *keep;   /* [last - first, n_slot] */
    struct hold_row {
        enum store_kind kind;
        uint64_t parent;
    } * row; /* [last - first] */
};

/* Gives *d for closing, also when it fails. ENOMEM. */
enum rxt_status holds_open(struct holds *d, const struct history *h, uint64_t first, uint64_t last);
void holds_close(struct holds *d);
/* What made a version: its row, and (of an update) what the probe saw. */
void holds_note(struct holds *d, const struct store_turn *row, const struct stm_slot_probe *probe);
/* Walks h from `first` on and notes everything. */
enum rxt_status holds_walk(struct holds *d, struct history *h, struct rxt_error *err);

struct hold {
    uint64_t version; /* whose writing makes the largest part; 0: what was there at `first` */
    float share;      /* that part */
    float half_life;  /* going back from the newest turn, after so many less than half of the old
                       * content was left; one more than there are if it still is */
};
struct hold holds_of(const struct holds *d, size_t slot);

#endif
