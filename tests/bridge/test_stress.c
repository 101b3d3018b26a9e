/* Everything at once, by a seeded order: tens of sessions of three tenants, turns (some with
 * several answers), dry runs, forks, seeds, rewinds, resets, remembers, cancels, repeats,
 * deadlines, failing updates, little room. What each session was told is written down here, and at
 * the end, and after a restart, each memory must be, bit by bit, what those ids make of it alone.
 * RXT_SEED chooses another order, RXT_FULL a long one. */
#include "tests/bridge/rig.h"

enum { SESSIONS = 50, TENANTS = 3, TURNS = 256, AT_ONCE = 24, FORKS = 64 };

static uint64_t random_state;

static uint32_t draw(uint32_t n) /* 0 .. n - 1 */
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % n;
}

/* ---- what a session has been told ------------------------------------------------------- */

enum told_kind { TOLD_IDS, TOLD_REWIND, TOLD_RESET };
struct told {
    enum told_kind kind;
    int32_t ids[256], n;
    uint64_t parent;
};
/* The history of a session, a fork's from the beginning: told[v - 1] made version v. */
struct history {
    char name[BRIDGE_NAME_MAX], tenant[16];
    bool exists;
    bool unknown;  /* a turn forked, and then did not come to its end */
    uint64_t base; /* oldest version it can go back to, as far as we know: where it was forked */
    int n;
    struct told told[TURNS];
};
static struct history history[SESSIONS + FORKS];
static int n_history;

/* ---- requests on their way -------------------------------------------------------------- */

struct flight {
    bool used;
    struct bridge_request r;
    struct history *h, *to;
    uint64_t ticket;
    int cancel_at, n_token;
    bool done, undecided;
    int32_t ids[256], n;
};
static struct flight flight[AT_ONCE];
static struct bridge *bridge;
static int n_done, n_cancelled, n_refused, n_chosen, n_final;

static void note(struct history *h, uint64_t version, const struct told *t)
{
    assert_true(version >= 1 && version <= TURNS);
    assert_int_equal(version, (uint64_t)h->n + 1); /* in order, none lost, none twice */
    h->told[h->n++] = *t;
}

static void note_done(struct flight *f, const struct bridge_event *e)
{
    struct told t = {.parent = f->r.version};
    struct history *h = f->h;
    if (f->r.verb == BRIDGE_TURN && f->r.on_busy == BRIDGE_BUSY_FORK &&
        strcmp(e->session, f->to->name) == 0) {
        h = f->to;
        if (!h->exists) { /* it began at the version before this one */
            uint64_t from = e->pending_version - 1;
            assert_true(from <= (uint64_t)f->h->n);
            memcpy(h->told, f->h->told, (size_t)from * sizeof h->told[0]);
            h->n = (int)from;
            h->base = from;
            h->exists = true;
        }
    }
    switch (f->r.verb) {
    case BRIDGE_TURN:
    case BRIDGE_REMEMBER:
    case BRIDGE_CHOOSE:
        if (f->r.dry_run)
            return;
        t.n = e->usage.n_query + e->usage.n_answer;
        if (f->r.verb == BRIDGE_REMEMBER) {
            t.n = f->n;
            memcpy(t.ids, f->ids, (size_t)t.n * sizeof *t.ids);
        } else {
            memcpy(t.ids, e->ids, (size_t)t.n * sizeof *t.ids);
        }
        note(h, e->pending_version, &t);
        return;
    case BRIDGE_REWIND:
        t.kind = TOLD_REWIND;
        note(h, e->pending_version, &t);
        return;
    case BRIDGE_RESET:
        t.kind = TOLD_RESET;
        note(h, e->pending_version, &t);
        return;
    case BRIDGE_OPEN:
    case BRIDGE_FORK:
        if (f->to && !f->to->exists) {
            uint64_t from = f->r.version;
            memcpy(f->to->told, f->h->told, (size_t)from * sizeof f->h->told[0]);
            f->to->n = (int)from;
            f->to->base = from;
            f->to->exists = true;
        }
        return;
    default:
        return;
    }
}

static void on_flight(void *user, const struct bridge_event *e)
{
    struct flight *f = user;
    assert_true(f->used);
    switch (e->kind) {
    case BRIDGE_ACCEPTED:
        break;
    case BRIDGE_TOKEN:
        if (++f->n_token == f->cancel_at)
            bridge_cancel(bridge, f->ticket);
        break;
    case BRIDGE_UNDECIDED:
        f->undecided = true;
        break;
    case BRIDGE_DONE:
        assert_false(f->done);
        f->done = true;
        n_done++;
        note_done(f, e);
        break;
    case BRIDGE_MEMORY:
        assert_true(f->done);
        break;
    case BRIDGE_MEMORY_FAILED:
        fail_msg("memory failed: %s", e->error);
        break;
    case BRIDGE_CANCELLED:
        assert_false(f->done);
        n_cancelled++;
        break;
    case BRIDGE_ERROR:
        if (e->status != RXT_EDEADLINE && e->status != RXT_ESTALE)
            fail_msg("%s: %s", rxt_status_name(e->status), e->error);
        n_refused++;
        break;
    }
    f->used = !e->final;
    n_final += e->final;
    if (e->final && !f->done && f->to && f->r.on_busy == BRIDGE_BUSY_FORK)
        f->to->unknown = true;
}

static void nothing(void *user, const struct bridge_event *e)
{
    (void)user;
    (void)e;
}

static void choose_one(struct flight *f)
{
    struct bridge_request q = f->r;
    q.verb = BRIDGE_CHOOSE;
    q.candidate = (int32_t)draw((uint32_t)f->r.n_candidate);
    f->undecided = false;
    enum rxt_status st = bridge_submit(bridge, &q, nothing, NULL, NULL, NULL);
    assert_true(st == RXT_OK || st == RXT_EEXPIRED); /* it is being cancelled */
    n_chosen += st == RXT_OK;
}

/* ---- what to do next -------------------------------------------------------------------- */

static const char *const texts[] = {"My name is Anna.", "My dog is called Bruno.", "How are you?",
                                    "What is my name?", "How is my dog called?",   "thank you"};

static struct history *any_session(void)
{
    struct history *h = &history[draw((uint32_t)n_history)];
    return h->exists ? h : NULL;
}

static struct history *new_session(const struct history *like)
{
    if (n_history == SESSIONS + FORKS)
        return NULL;
    struct history *h = &history[n_history];
    (void)snprintf(h->name, sizeof h->name, "s%d", n_history);
    memcpy(h->tenant, like->tenant, sizeof h->tenant);
    n_history++;
    return h;
}

static void fill_turn(struct flight *f)
{
    struct bridge_request *r = &f->r;
    r->prompt.query = texts[draw(sizeof texts / sizeof *texts)];
    r->max_tokens = (int32_t)draw(10) + 2;
    r->on_stale = draw(3) == 0 ? BRIDGE_STALE_PROCEED : BRIDGE_STALE_WAIT;
    r->on_cancel = draw(2) ? BRIDGE_CANCEL_COMMIT : BRIDGE_CANCEL_DISCARD;
    r->dry_run = draw(8) == 0;
    if (draw(3) == 0)
        r->sampling = (struct sampling){.temperature = 1, .top_p = 1};
    if (draw(6) == 0)
        f->cancel_at = (int)draw(6) + 1;
    if (draw(20) == 0)
        r->deadline.total_us = 2000; /* may pass or not */
    if (draw(6) == 0 && !f->cancel_at && !r->dry_run && r->deadline.total_us == 0) {
        r->n_candidate = 2 + (int32_t)draw(2);
    } else if (draw(10) == 0 && f->h->n < TURNS / 2) {
        f->to = new_session(f->h);
        if (f->to) {
            r->on_busy = BRIDGE_BUSY_FORK;
            r->dry_run = false;
            (void)snprintf(r->to, sizeof r->to, "%s", f->to->name);
        }
    }
}

static bool fill(struct flight *f)
{
    struct history *h = any_session();
    *f = (struct flight){.h = h};
    if (!h || h->n > TURNS - AT_ONCE - 2)
        return false;
    f->r = request(BRIDGE_TURN, h->name);
    (void)snprintf(f->r.tenant, sizeof f->r.tenant, "%s", h->tenant);
    for (int i = 0; i < BRIDGE_ID_BYTES; i++)
        f->r.id[i] = (uint8_t)draw(256);
    uint32_t what = draw(100);
    if (what < 70) {
        fill_turn(f);
    } else if (what < 80) {
        f->r.verb = BRIDGE_REMEMBER;
        f->n = (int32_t)draw(40) + 1;
        for (int32_t i = 0; i < f->n; i++)
            f->ids[i] = (int32_t)draw(250) + 10;
        f->r.ids = f->ids;
        f->r.n_ids = (size_t)f->n;
    } else if (what < 84) {
        f->r.verb = BRIDGE_GET;
    } else if (what < 88 && h->n > 0) {
        f->r.verb = BRIDGE_REWIND;
        f->r.version = h->base + draw((uint32_t)((uint64_t)h->n - h->base) + 1);
    } else if (what < 90) {
        f->r.verb = BRIDGE_RESET;
    } else {
        f->to = new_session(h);
        if (!f->to)
            return false;
        f->r.version = (uint64_t)h->n; /* what is journaled now will be applied by then */
        f->r.verb = what < 95 ? BRIDGE_FORK : BRIDGE_OPEN;
        if (f->r.verb == BRIDGE_FORK) {
            (void)snprintf(f->r.to, sizeof f->r.to, "%s", f->to->name);
        } else {
            (void)snprintf(f->r.from, sizeof f->r.from, "%s", h->name);
            (void)snprintf(f->r.session, sizeof f->r.session, "%s", f->to->name);
        }
    }
    return true;
}

static void launch(struct flight *f)
{
    struct rxt_error err = {0};
    f->used = true;
    enum rxt_status st = bridge_submit(bridge, &f->r, on_flight, f, &f->ticket, &err);
    assert_true(st == RXT_OK || st == RXT_EBUSY);
    f->used = st == RXT_OK;
    if (st == RXT_OK && draw(10) == 0) /* somebody sends it twice */
        assert_ok(bridge_submit(bridge, &f->r, nothing, NULL, NULL, NULL));
    if (st == RXT_OK && draw(12) == 0)
        bridge_cancel(bridge, f->ticket);
}

static void one_round(void)
{
    for (uint32_t i = draw(4); i > 0; i--) {
        struct flight *f = &flight[draw(AT_ONCE)];
        if (!f->used && fill(f))
            launch(f);
    }
    for (int i = 0; i < AT_ONCE; i++)
        if (flight[i].used && flight[i].undecided && draw(4) == 0)
            choose_one(&flight[i]);
    if (draw(40) == 0)
        fault_arm("update", RXT_EDEVICE, 1);
    /* Until something has come to its end, or for a while; then in the middle of things. */
    int before = n_final;
    for (int i = 0; i < 100 && n_final == before; i++)
        if (!bridge_step(bridge))
            bridge_wait(bridge, 1000);
    for (uint32_t i = draw(6); i > 0; i--)
        (void)bridge_step(bridge);
    assert_room(bridge);
}

static bool any_in_flight(void)
{
    for (int i = 0; i < AT_ONCE; i++)
        if (flight[i].used)
            return true;
    return false;
}

static void finish_all(void)
{
    while (any_in_flight()) {
        for (int i = 0; i < AT_ONCE; i++)
            if (flight[i].used && flight[i].undecided)
                choose_one(&flight[i]);
        if (!bridge_step(bridge))
            bridge_wait(bridge, 1000);
    }
    while (!bridge_idle(bridge))
        if (!bridge_step(bridge))
            bridge_wait(bridge, 1000);
}

/* ---- what must be ----------------------------------------------------------------------- */

/* The version before the first row that the content of version v needs: steps[] in reverse. */
static void hash_alone(const struct rxt_model *m, const struct history *h, uint8_t hash[16])
{
    int steps[TURNS], n = 0;
    for (uint64_t v = (uint64_t)h->n; v > 0;) {
        const struct told *t = &h->told[v - 1];
        if (t->kind == TOLD_RESET)
            break;
        if (t->kind == TOLD_REWIND) {
            v = t->parent;
            continue;
        }
        steps[n++] = (int)v - 1;
        v--;
    }
    struct rxt_session *s = NULL;
    const struct rxt_session_options opt = {.seed = 7};
    assert_ok(rxt_session_create(&s, m, &opt, NULL));
    while (n > 0) {
        const struct told *t = &h->told[steps[--n]];
        assert_ok(rxt_session_absorb(s, t->ids, (size_t)t->n, NULL));
    }
    assert_ok(stm_hash(rxt_session_memory(s), rxt_session_lane(s), hash));
    rxt_session_destroy(&s);
}

static void check_all(struct rig *r, uint8_t (*want)[16])
{
    for (int i = 0; i < n_history; i++) {
        const struct history *h = &history[i];
        struct outcome o = {0};
        struct bridge_request q = request(BRIDGE_GET, h->name);
        (void)snprintf(q.tenant, sizeof q.tenant, "%s", h->tenant);
        if (h->unknown)
            continue;
        if (!h->exists) {
            assert_status(RXT_ENOTFOUND, call(r, &q, &o));
            continue;
        }
        assert_ok(call(r, &q, &o));
        assert_int_equal(o.info.version, h->n);
        assert_memory_equal(o.info.stm_hash, want[i], 16);
        assert_room(r->bridge);
    }
}

static void memories_are_those_of_lone_runs(void **state)
{
    (void)state;
    static uint8_t want[SESSIONS + FORKS][16];
    struct rig r;
    const char *seed = getenv("RXT_SEED");
    random_state = seed ? strtoull(seed, NULL, 10) * 2 + 1 : 20251;
    struct bridge_config cfg = {
        .max_live = 6, .prefill_rows = 17, .n_spare = 3, .sync = STORE_SYNC_NORMAL};
    rig_open(&r, NULL, NULL);
    cfg.max_bytes = 8 * room_price(r.bridge, 1);
    rig_close(&r);
    rig_open(&r, NULL, &cfg);
    bridge = r.bridge;
    for (int i = 0; i < SESSIONS; i++) {
        struct history *h = &history[n_history++];
        struct outcome o = {0};
        (void)snprintf(h->name, sizeof h->name, "s%d", i);
        (void)snprintf(h->tenant, sizeof h->tenant, "t%d", i % TENANTS);
        struct bridge_request q = request(BRIDGE_OPEN, h->name);
        (void)snprintf(q.tenant, sizeof q.tenant, "%s", h->tenant);
        assert_ok(call(&r, &q, &o));
        h->exists = true;
    }
#if defined(RXT_SANITIZED)
    const int rounds = 120;
#else
    const int rounds = getenv("RXT_FULL") ? 600 : 200;
#endif
    for (int i = 0; i < rounds; i++)
        one_round();
    fault_arm(NULL, RXT_OK, 0);
    finish_all();
    assert_room(bridge);
    print_message("%d sessions: %d done, %d cancelled, %d refused, %d choices\n", n_history, n_done,
                  n_cancelled, n_refused, n_chosen);
    assert_true(n_done > rounds / 4 && n_cancelled > 0 && n_chosen > 0);
    for (int i = 0; i < n_history; i++)
        if (history[i].exists)
            hash_alone(r.model, &history[i], want[i]);
    check_all(&r, want);
    rig_reopen(&r);
    check_all(&r, want);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(memories_are_those_of_lone_runs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
