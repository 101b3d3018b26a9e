/* Bytes: who may hold them, and who must give them back.
 *
 *     bytes = what is reserved by sessions with something to do
 *           + what sessions without anything to do hold
 *           + what lies free in the pools                         <= max_bytes, always
 *
 * A session with something to do reserves the most it can need (room_price) until it has nothing to
 * do, so that nothing that was begun ever lacks memory. What it then keeps is counted as it is, and
 * given up, the longest unused first, when others need room. A tenant may have a share of its own,
 * of what is reserved: what it keeps without anything to do is in nobody's way. */
#include "bridge/bridge_impl.h"

#include "kernels/base/mem.h"

#include <assert.h>

/* Of one row of the table. */
static size_t row_bytes(const struct bridge *b)
{
    return sizeof(struct session) + (size_t)b->max_seq_len * sizeof(int32_t);
}

static size_t content_bytes(const struct bridge *b, const struct content *c)
{
    return stm_bytes(stm_config_of(c->stm)) + rxt_model_info(b->model)->read_bytes;
}

/* A memory, its K/V twice (one is read while the next one is built), slots. */
size_t room_price(const struct bridge *b, int32_t n_answer)
{
    const struct rxt_info *info = rxt_model_info(b->model);
    return row_bytes(b) + info->stm_bytes + 2 * info->read_bytes +
           (size_t)n_answer * info->slot_bytes;
}

size_t room_minimum(const struct bridge *b)
{
    return room_price(b, 1);
}

/* ---- pools ------------------------------------------------------------------------------ */

enum rxt_status room_read_take(struct bridge *b, struct shared_read **out)
{
    struct shared_read *r = b->free_read;
    if (r) {
        b->free_read = r->next;
        b->bytes -= rxt_model_info(b->model)->read_bytes;
    } else {
        r = mem_alloc(sizeof *r);
        if (!r)
            return RXT_ENOMEM;
        enum rxt_status st = rxt_read_create(&r->read, b->model);
        if (st != RXT_OK) {
            mem_free(r);
            return st;
        }
    }
    r->users = 1;
    *out = r;
    return RXT_OK;
}

void room_read_release(struct bridge *b, struct shared_read *r)
{
    size_t bytes = rxt_model_info(b->model)->read_bytes;
    if (--r->users > 0)
        return;
    if (b->bytes + bytes > b->cfg.max_bytes) {
        rxt_read_destroy(&r->read);
        mem_free(r);
        return;
    }
    r->next = b->free_read;
    b->free_read = r;
    b->bytes += bytes;
}

enum rxt_status room_slot_take(struct bridge *b, struct rxt_slot **out)
{
    if (b->n_slot == 0)
        return rxt_slot_create(out, b->model);
    *out = b->slot[--b->n_slot];
    b->bytes -= rxt_model_info(b->model)->slot_bytes;
    return RXT_OK;
}

void room_slot_release(struct bridge *b, struct rxt_slot **slot)
{
    size_t bytes = rxt_model_info(b->model)->slot_bytes;
    if (!*slot)
        return;
    if (b->bytes + bytes > b->cfg.max_bytes) {
        rxt_slot_destroy(slot);
        return;
    }
    b->slot[b->n_slot++] = *slot;
    b->bytes += bytes;
    *slot = NULL;
}

/* True if there was something free. */
static bool shrink_pools(struct bridge *b)
{
    const struct rxt_info *info = rxt_model_info(b->model);
    struct shared_read *r = b->free_read;
    if (r) {
        b->free_read = r->next;
        rxt_read_destroy(&r->read);
        mem_free(r);
        b->bytes -= info->read_bytes;
        return true;
    }
    if (b->n_slot == 0)
        return false;
    rxt_slot_destroy(&b->slot[--b->n_slot]);
    b->bytes -= info->slot_bytes;
    return true;
}

void room_destroy(struct bridge *b)
{
    while (shrink_pools(b)) {
    }
}

/* ---- idle sessions ---------------------------------------------------------------------- */

static void enter_idle(struct session *s)
{
    struct bridge *b = s->bridge;
    assert(!s->idle && s->phase == SESSION_RESIDENT);
    s->idle = true;
    s->lru_prev = b->lru_last;
    s->lru_next = NULL;
    if (b->lru_last)
        b->lru_last->lru_next = s;
    else
        b->lru = s;
    b->lru_last = s;
    b->bytes += row_bytes(b);
    if (s->content->n_idle++ == 0)
        b->bytes += content_bytes(b, s->content);
}

void room_leave(struct session *s)
{
    struct bridge *b = s->bridge;
    if (!s->idle)
        return;
    s->idle = false;
    if (s->lru_prev)
        s->lru_prev->lru_next = s->lru_next;
    else
        b->lru = s->lru_next;
    if (s->lru_next)
        s->lru_next->lru_prev = s->lru_prev;
    else
        b->lru_last = s->lru_prev;
    s->lru_prev = s->lru_next = NULL;
    b->bytes -= row_bytes(b);
    if (--s->content->n_idle == 0)
        b->bytes -= content_bytes(b, s->content);
}

/* Its rows are in the journal, so the session can be had again. One that waits for its turn stays
 * in the table and is brought in again when that has come. */
static void page_out(struct session *s)
{
    struct task *t = s->queue;
    s->bridge->n_evicted++;
    session_drop(s);
    if (t)
        schedule_forget(t);
    if (session_forgettable(s))
        session_forget(s);
    else
        bridge_activate(s->bridge, s);
}

static bool make_room(struct bridge *b)
{
    if (shrink_pools(b))
        return true;
    for (struct session *s = b->lru; s; s = s->lru_next) {
        /* The store is about to have its image, or should: bringing it in again would be dear. */
        if (s->apply_out || s->job_out || session_image(s, b->cfg.image_budget_us / 2))
            continue;
        page_out(s);
        return true;
    }
    return false;
}

/* ---- reserve ---------------------------------------------------------------------------- */

bool room_tenant_has(const struct task *t)
{
    const struct session *s = t->session;
    size_t price = room_price(t->bridge, t->state == TASK_UNDECIDED ? 1 : t->n_answer);
    size_t others = s->tenant->reserved - s->reserved;
    return s->reserved >= price || others == 0 || others + price <= t->bridge->cfg.tenant.max_bytes;
}

bool room_take(struct session *s, int32_t n_answer)
{
    struct bridge *b = s->bridge;
    size_t price = room_price(b, n_answer);
    bool was_idle = s->idle;
    if (s->reserved >= price)
        return true;
    /* Others with something to do hold the rest: nobody has to go for nothing. */
    if (b->reserved + price - s->reserved > b->cfg.max_bytes)
        return false;
    room_leave(s);
    while (b->bytes + price - s->reserved > b->cfg.max_bytes)
        if (!make_room(b)) {
            if (was_idle)
                enter_idle(s);
            return false;
        }
    b->bytes += price - s->reserved;
    b->reserved += price - s->reserved;
    s->tenant->reserved += price - s->reserved;
    s->reserved = price;
    return true;
}

void room_rest(struct session *s)
{
    struct bridge *b = s->bridge;
    if (s->reserved == 0)
        return;
    b->bytes -= s->reserved;
    b->reserved -= s->reserved;
    s->tenant->reserved -= s->reserved;
    s->reserved = 0;
    if (s->phase == SESSION_RESIDENT)
        enter_idle(s);
}
