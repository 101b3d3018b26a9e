#include "bridge/replay_impl.h"

#include "kernels/base/mem.h"

#include <inttypes.h>
#include <string.h>

/* Versions whose rows must be absorbed, newest first while walking back. */
struct walk {
    uint64_t *version;
    size_t n, cap;
    size_t n_ids;
};

static enum rxt_status walk_push(struct walk *w, uint64_t version, size_t n_ids)
{
    if (w->n == w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 64;
        uint64_t *p = mem_realloc(w->version, cap * sizeof *p);
        if (!p)
            return RXT_ENOMEM;
        w->version = p;
        w->cap = cap;
    }
    w->version[w->n++] = version;
    w->n_ids += n_ids;
    return RXT_OK;
}

/* From the target back to something that needs no row: an image, a reset, or version 0. A rewind
 * row stands for the content of its parent, so the walk goes on there. */
static enum rxt_status walk_back(struct replay *r, struct walk *w, struct store *s,
                                 const struct store_session *session, const char *bit_class,
                                 struct rxt_error *err)
{
    uint64_t version = r->target;
    struct store_image image = {0};
    enum rxt_status found = store_image_find(s, session->id, version, &image, err);
    while (version > 0) {
        if (found == RXT_OK && image.version == version) {
            r->other_class |= strcmp(image.bit_class, bit_class) != 0;
            r->has_image = true;
            r->image = image;
            return RXT_OK;
        }
        if (found != RXT_OK && found != RXT_ENOTFOUND)
            return found;
        struct store_turn row;
        TRY(store_turn_get(s, session->id, version, &row, err));
        switch (row.kind) {
        case STORE_TURN:
        case STORE_REMEMBER:
            r->other_class |= strcmp(row.bit_class, bit_class) != 0;
            TRY(walk_push(w, version, row.n_ids));
            version--;
            break;
        case STORE_REWIND:
            version = row.parent;
            found = store_image_find(s, session->id, version, &image, err);
            break;
        case STORE_RESET:
            return RXT_OK;
        }
    }
    return RXT_OK;
}

static enum rxt_status read_steps(struct replay *r, const struct walk *w, struct store *s,
                                  const struct store_session *session, struct rxt_error *err)
{
    if (w->n == 0)
        return RXT_OK;
    r->step = mem_alloc_n(w->n, sizeof *r->step);
    r->ids = mem_alloc_n(w->n_ids ? w->n_ids : 1, sizeof *r->ids);
    if (!r->step || !r->ids)
        return rxt_fail(err, RXT_ENOMEM, "no memory to replay %zu turns", w->n);
    size_t at = 0;
    for (size_t i = w->n; i-- > 0;) {
        struct store_turn row;
        TRY(store_turn_get(s, session->id, w->version[i], &row, err));
        if (row.n_ids > w->n_ids - at)
            return rxt_fail(err, RXT_ECORRUPT, "turn %" PRIu64 " changed while it was read",
                            w->version[i]);
        memcpy(r->ids + at, row.ids, row.n_ids * sizeof *r->ids);
        r->step[r->n_step++] = (struct memory_step){.ids = r->ids + at, .n = (int32_t)row.n_ids};
        at += row.n_ids;
    }
    return RXT_OK;
}

enum rxt_status replay_plan(struct replay *r, struct store *s, const struct store_session *session,
                            uint64_t target, const char *bit_class, struct rxt_error *err)
{
    *r = (struct replay){.target = target};
    struct walk w = {0};
    enum rxt_status st = walk_back(r, &w, s, session, bit_class, err);
    if (st == RXT_OK)
        st = read_steps(r, &w, s, session, err);
    mem_free(w.version);
    if (st != RXT_OK)
        replay_free(r);
    return st;
}

enum rxt_status replay_read_values(struct replay *r, struct store *s, int64_t session,
                                   struct rxt_error *err)
{
    if (!r->has_image)
        return RXT_OK;
    mem_free(r->values); /* of a try that failed */
    r->values = mem_alloc(r->image.bytes);
    if (!r->values)
        return rxt_fail(err, RXT_ENOMEM, "no memory for an image of %" PRIu64 " bytes",
                        r->image.bytes);
    r->values_bytes = r->image.bytes;
    return store_image_get(s, session, &r->image, r->values, r->values_bytes, err);
}

void replay_free(struct replay *r)
{
    mem_free(r->values);
    mem_free(r->step);
    mem_free(r->ids);
    *r = (struct replay){0};
}
