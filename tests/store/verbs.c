#include "tests/store/verbs.h"

#include "store/sqlite/sqlite_impl.h"

#include <unistd.h>
#include <xxhash.h>

/* ---- digest ----------------------------------------------------------------------------- */

static void mix(uint64_t *d, const void *p, size_t n)
{
    *d = XXH3_64bits_withSeed(p, n, *d);
}

static enum rxt_status mix_write(void *arg, const void *p, size_t n)
{
    mix(arg, p, n);
    return RXT_OK;
}

static void mix_turn(uint64_t *d, const struct store_turn *t)
{
    mix(d, t->ids, t->n_ids * sizeof *t->ids);
    mix(d, t->request, sizeof t->request);
    uint64_t n[] = {t->version, (uint64_t)t->state, (uint64_t)t->kind, t->candidate, t->parent};
    mix(d, n, sizeof n);
}

enum rxt_status verbs_digest_session(struct store *s, const struct store_session *x, uint64_t *d,
                                     struct rxt_error *err)
{
    struct store_turn t;
    struct store_request requests[2 * STORE_WINDOW];
    struct store_image image[8];
    size_t n;
    mix(d, x, sizeof *x);
    for (uint64_t v = x->base; v < x->head; v++) {
        TRY(store_turn_next(s, x->id, v, &t, err));
        mix_turn(d, &t);
    }
    TRY(store_turn_requests(s, x->id, requests, &n, err));
    for (size_t i = 0; i < n; i++) {
        TRY(store_turn_find(s, x->id, requests[i].id, requests[i].candidate, &t, err));
        mix_turn(d, &t);
    }
    TRY(store_image_list(s, x->id, image, 8, &n, err));
    for (size_t i = 0; i < n; i++) {
        mix(d, &image[i].version, sizeof image[i].version);
        TRY(store_image_stream(s, x->id, &image[i], mix_write, d, err));
    }
    return RXT_OK;
}

enum rxt_status verbs_digest(struct store *s, uint64_t *digest, struct rxt_error *err)
{
    char after[STORE_NAME_MAX] = "";
    uint8_t hash[STORE_HASH_BYTES];
    struct store_session x;
    size_t n;
    uint64_t d = 1;
    for (;;) {
        memset(&x, 0, sizeof x);
        TRY(store_session_list(s, "acme", after, &x, 1, &n, err));
        if (n == 0)
            break;
        TRY(verbs_digest_session(s, &x, &d, err));
        strcpy(after, x.name);
    }
    enum rxt_status st = store_hash_get(s, "/model", 1, 1, hash, err);
    if (st == RXT_OK)
        mix(&d, hash, sizeof hash);
    *digest = d;
    return st == RXT_ENOTFOUND ? RXT_OK : st;
}

/* ---- verbs ------------------------------------------------------------------------------ */

static struct {
    struct store_session main; /* the session most verbs work on */
    struct store_upload upload;
    uint8_t request[STORE_REQUEST_BYTES];
    uint64_t n_done; /* makes names and requests new */
    char name[64];
    uint8_t *sealed; /* an export, and how far it was read */
    size_t sealed_bytes, sealed_at;
    bool keeps;
    uint64_t seen; /* what the reading verbs read */
} c;

static struct store_turn fresh_turn(struct fixture *fx, int32_t ids[SAMPLE_IDS])
{
    uint64_t head = session_load(fx, "main").head;
    struct store_turn t = turn_sample(head + 1, ids);
    t.request[0] = 0xfe;
    memcpy(t.request + 1, &c.n_done, sizeof c.n_done);
    return t;
}

static struct store_turn next_turn;
static int32_t next_ids[SAMPLE_IDS];

static void turn_ready(struct fixture *fx)
{
    next_turn = fresh_turn(fx, next_ids);
}

static void name_ready(struct fixture *fx)
{
    (void)fx;
    snprintf(c.name, sizeof c.name, "n%llu", (unsigned long long)c.n_done);
}

static enum rxt_status create(struct fixture *fx)
{
    struct store_session x = session_sample(c.name);
    x.created_us = 1;
    return store_session_create(fx->s, &x, &fx->err);
}

static enum rxt_status set_state(struct fixture *fx)
{
    char why[64];
    snprintf(why, sizeof why, "reason %llu", (unsigned long long)c.n_done);
    struct store_session x;
    TRY(store_session_get(fx->s, "acme", "held", &x, &fx->err));
    return store_session_set_state(fx->s, x.id, STORE_HELD, why, &fx->err);
}

static enum rxt_status put(struct fixture *fx)
{
    return store_turn_put(fx->s, c.main.id, &next_turn, &fx->err);
}

static void applied_ready(struct fixture *fx)
{
    struct store_session x = session_load(fx, "main");
    for (uint64_t v = x.applied + 1; v <= x.head; v++)
        must(fx, store_turn_applied(fx->s, x.id, v, &fx->err));
    turn_ready(fx);
    must(fx, put(fx));
}

static enum rxt_status apply(struct fixture *fx)
{
    return store_turn_applied(fx->s, c.main.id, next_turn.version, &fx->err);
}

static enum rxt_status give_up(struct fixture *fx)
{
    return store_turn_void(fx->s, c.main.id, NULL, &fx->err);
}

static enum rxt_status candidates(struct fixture *fx)
{
    struct store_turn t = next_turn;
    t.state = STORE_UNDECIDED;
    t.version = 0;
    TRY(store_batch_begin(fx->s, &fx->err));
    for (t.candidate = 0; t.candidate < 3; t.candidate++) {
        enum rxt_status st = store_turn_put(fx->s, c.main.id, &t, &fx->err);
        if (st != RXT_OK) {
            store_batch_abort(fx->s);
            return st;
        }
    }
    return store_batch_commit(fx->s, &fx->err);
}

static void candidates_ready(struct fixture *fx)
{
    turn_ready(fx);
    must(fx, candidates(fx));
}

static enum rxt_status choose(struct fixture *fx)
{
    return store_turn_choose(fx->s, c.main.id, next_turn.request, 1, next_turn.version, &fx->err);
}

static enum rxt_status expire(struct fixture *fx)
{
    return store_turn_expire(fx->s, c.main.id, next_turn.request, &fx->err);
}

/* What a writer does for a small model after each turn. */
static enum rxt_status turn_and_image(struct fixture *fx)
{
    static uint8_t bytes[100000];
    struct store_image im = image_sample(next_turn.version, sizeof bytes);
    im.created_us = 1;
    TRY(store_batch_begin(fx->s, &fx->err));
    enum rxt_status st = store_turn_put(fx->s, c.main.id, &next_turn, &fx->err);
    if (st == RXT_OK)
        st = store_turn_applied(fx->s, c.main.id, next_turn.version, &fx->err);
    if (st == RXT_OK)
        st = store_image_put(fx->s, c.main.id, &im, bytes, &fx->err);
    if (st == RXT_OK)
        return store_batch_commit(fx->s, &fx->err);
    store_batch_abort(fx->s);
    return st;
}

static void image_ready(struct fixture *fx)
{
    applied_ready(fx);
    must(fx, apply(fx));
}

static enum rxt_status image_put(struct fixture *fx)
{
    static uint8_t bytes[40000];
    struct store_image im = image_sample(next_turn.version, sizeof bytes);
    im.created_us = 1;
    return store_image_put(fx->s, c.main.id, &im, bytes, &fx->err);
}

static enum rxt_status upload_begin(struct fixture *fx)
{
    return store_image_begin(fx->s, &c.upload, &fx->err);
}

static void chunk_ready(struct fixture *fx)
{
    image_ready(fx);
    must(fx, upload_begin(fx));
}

static enum rxt_status chunk(struct fixture *fx)
{
    static uint8_t bytes[70000];
    return store_image_chunk(fx->s, &c.upload, bytes, sizeof bytes, &fx->err);
}

static void upload_ready(struct fixture *fx)
{
    chunk_ready(fx);
    must(fx, chunk(fx));
}

static enum rxt_status upload_commit(struct fixture *fx)
{
    struct store_image im = image_sample(next_turn.version, c.upload.bytes);
    im.created_us = 1;
    return store_image_commit(fx->s, &c.upload, c.main.id, &im, &fx->err);
}

static enum rxt_status upload_abort(struct fixture *fx)
{
    return store_image_abort(fx->s, &c.upload, &fx->err);
}

static void sweep_ready(struct fixture *fx)
{
    upload_ready(fx);
    must(fx, upload_abort(fx));
}

static enum rxt_status sweep(struct fixture *fx)
{
    for (bool more = true; more;)
        TRY(store_sweep(fx->s, &more, &fx->err));
    return RXT_OK;
}

static enum rxt_status prune(struct fixture *fx)
{
    return store_image_prune(fx->s, c.main.id, 1, &fx->err);
}

static void prune_ready(struct fixture *fx)
{
    image_ready(fx);
    must(fx, image_put(fx));
}

static enum rxt_status fork_it(struct fixture *fx)
{
    return store_session_fork(fx->s, c.main.id, c.main.applied, c.name, NULL, &fx->err);
}

static void fork_ready(struct fixture *fx)
{
    name_ready(fx);
    c.main = session_load(fx, "main");
}

static void erase_ready(struct fixture *fx)
{
    fork_ready(fx);
    must(fx, fork_it(fx));
}

/* In steps, so not undone as a whole: again until it is done. */
static enum rxt_status erase(struct fixture *fx)
{
    enum rxt_status st = store_session_erase(fx->s, "acme", c.name, &fx->err);
    return st == RXT_ENOTFOUND ? RXT_OK : st;
}

static enum rxt_status erase_begin(struct fixture *fx)
{
    return store_session_erase_begin(fx->s, "acme", c.name, &fx->err);
}

static enum rxt_status keep(void *arg, const void *p, size_t n)
{
    (void)arg;
    mix(&c.seen, p, n);
    if (c.keeps) {
        memcpy(c.sealed + c.sealed_bytes, p, n);
        c.sealed_bytes += n;
    }
    return RXT_OK;
}

static enum rxt_status export_it(struct fixture *fx)
{
    return store_export(fx->s, "acme", "held", true, keep, NULL, &fx->err);
}

static enum rxt_status give(void *arg, void *p, size_t n)
{
    (void)arg;
    if (n > c.sealed_bytes - c.sealed_at)
        return RXT_EFORMAT;
    memcpy(p, c.sealed + c.sealed_at, n);
    c.sealed_at += n;
    return RXT_OK;
}

static enum rxt_status import_it(struct fixture *fx)
{
    c.sealed_at = 0;
    return store_import(fx->s, "acme", c.name, &(struct store_source){.read = give}, NULL,
                        &fx->err);
}

static enum rxt_status checkpoint(struct fixture *fx)
{
    return store_checkpoint(fx->s, &fx->err);
}

static enum rxt_status backup(struct fixture *fx)
{
    char path[330];
    snprintf(path, sizeof path, "%s.%llu", fx->path, (unsigned long long)c.n_done);
    enum rxt_status st = store_backup(fx->s, path, &fx->err);
    if (st != RXT_OK)
        return st;
    unlink(path);
    return st;
}

static enum rxt_status check(struct fixture *fx)
{
    return store_check(fx->s, &fx->err);
}

static enum rxt_status hash_put(struct fixture *fx)
{
    uint8_t hash[STORE_HASH_BYTES] = {0};
    memcpy(hash, &c.n_done, sizeof c.n_done);
    return store_hash_put(fx->s, "/model", 1, 1, hash, &fx->err);
}

static enum rxt_status lease(struct fixture *fx)
{
    if (store_lease_fence(fx->s))
        TRY(store_lease_release(fx->s, &fx->err));
    return store_lease_take(fx->s, &fx->err);
}

static enum rxt_status renew(struct fixture *fx)
{
    return store_lease_renew(fx->s, &fx->err);
}

static enum rxt_status read_all(struct fixture *fx)
{
    TRY(store_view_begin(fx->s, &fx->err));
    enum rxt_status st = verbs_digest(fx->s, &c.seen, &fx->err);
    store_view_end(fx->s);
    return st;
}

static enum rxt_status look(struct fixture *fx)
{
    struct store *s;
    const struct store_options o = {.read_only = true};
    TRY(store_open(&s, fx->path, &o, &fx->err));
    enum rxt_status st = verbs_digest(s, &c.seen, &fx->err);
    store_close(&s);
    return st;
}

static enum rxt_status open_new(struct fixture *fx)
{
    char path[340], beside[360];
    struct store *s;
    static const char *const end[] = {"", "-wal", "-shm", "-lease"};
    snprintf(path, sizeof path, "%s.new", fx->path);
    enum rxt_status st = store_open(&s, path, NULL, &fx->err);
    store_close(&s);
    for (size_t i = 0; st == RXT_OK && i < sizeof end / sizeof *end; i++) {
        snprintf(beside, sizeof beside, "%s%s", path, end[i]);
        unlink(beside);
    }
    return st;
}

static const struct verb {
    const char *name;
    void (*ready)(struct fixture *fx);
    enum rxt_status (*run)(struct fixture *fx);
    bool in_steps;        /* a failure may leave part of it done */
    enum rxt_status also; /* what else it may return */
} verbs[] = {
    {"session_create", name_ready, create, false, RXT_OK},
    {"session_set_state", NULL, set_state, false, RXT_OK},
    {"turn_put", turn_ready, put, false, RXT_OK},
    {"turn_applied", applied_ready, apply, false, RXT_OK},
    {"turn_void", applied_ready, give_up, false, RXT_OK},
    {"turn_put candidates", turn_ready, candidates, false, RXT_OK},
    {"turn_choose", candidates_ready, choose, false, RXT_OK},
    {"turn_expire", candidates_ready, expire, false, RXT_OK},
    {"turn_void chosen", NULL, give_up, false, RXT_OK},
    {"batch of turn and image", turn_ready, turn_and_image, false, RXT_OK},
    {"image_put", image_ready, image_put, false, RXT_OK},
    {"image_begin", NULL, upload_begin, false, RXT_OK},
    {"image_chunk", chunk_ready, chunk, false, RXT_OK},
    {"image_commit", upload_ready, upload_commit, false, RXT_OK},
    {"image_abort", upload_ready, upload_abort, false, RXT_OK},
    {"image_prune", prune_ready, prune, false, RXT_OK},
    {"session_fork", fork_ready, fork_it, false, RXT_OK},
    {"session_erase", erase_ready, erase, true, RXT_OK},
    {"session_erase_begin", erase_ready, erase_begin, false, RXT_OK},
    {"export", NULL, export_it, false, RXT_OK},
    {"import", name_ready, import_it, false, RXT_OK},
    {"sweep", sweep_ready, sweep, false, RXT_OK},
    {"checkpoint", NULL, checkpoint, false, RXT_OK},
    {"backup", NULL, backup, false, RXT_OK},
    {"check", NULL, check, false, RXT_ECORRUPT},
    {"hash_put", NULL, hash_put, false, RXT_OK},
    {"lease_renew", NULL, renew, false, RXT_OK},
    {"lease_release and take", NULL, lease, true, RXT_OK},
    {"reads", NULL, read_all, false, RXT_OK},
    {"open read-only", NULL, look, false, RXT_OK},
    {"open a new file", NULL, open_new, false, RXT_OK},
};

static uint64_t digest(struct fixture *fx)
{
    uint64_t d = 0;
    must(fx, store_view_begin(fx->s, &fx->err));
    must(fx, verbs_digest(fx->s, &d, &fx->err));
    store_view_end(fx->s);
    return d;
}

/* True when nothing failed any more. */
static bool survive_one(struct fixture *fx, const struct verb *v, const struct breaker *b,
                        uint64_t nth, bool cold, bool *refused)
{
    c.n_done++;
    if (v->ready)
        v->ready(fx);
    uint64_t before = digest(fx);
    if (cold)
        (void)sqlite3_db_release_memory(fx->s->db);
    fx->err.text[0] = '\0';
    b->arm(nth);
    enum rxt_status st = v->run(fx);
    bool failed = b->disarm();
    if (st != RXT_OK) {
        *refused = true;
        if (!failed || (st != b->allowed && st != v->also) || !fx->err.text[0])
            fail_msg("%s, failure %llu: %s: %s", v->name, (unsigned long long)nth,
                     rxt_status_name(st), fx->err.text);
        if (!v->in_steps && digest(fx) != before)
            fail_msg("%s, failure %llu: refused, but something changed", v->name,
                     (unsigned long long)nth);
        st = v->run(fx);
        if (st != RXT_OK)
            fail_msg("%s after failure %llu: %s: %s", v->name, (unsigned long long)nth,
                     rxt_status_name(st), fx->err.text);
    }
    return !failed;
}

static void begin(struct fixture *fx)
{
    memset(&c, 0, sizeof c);
    fixture_renew(fx);
    struct store_session held = session_make(fx, "held");
    c.main = session_make(fx, "main");
    must(fx, store_batch_begin(fx->s, &fx->err));
    for (uint64_t v = 1; v <= 12; v++) {
        turn_add(fx, held.id, v);
        turn_add(fx, c.main.id, v);
    }
    image_add(fx, held.id, 12, 50000);
    must(fx, store_batch_commit(fx->s, &fx->err));
    c.sealed = malloc(1 << 20);
    c.keeps = true;
    must(fx, export_it(fx));
    c.keeps = false;
}

static void end(struct fixture *fx)
{
    uint64_t d = digest(fx);
    fixture_reopen(fx);
    assert_true(digest(fx) == d);
    must(fx, store_check(fx->s, &fx->err));
    free(c.sealed);
}

void verbs_survive(struct fixture *fx, const struct breaker *b, bool thorough, bool cold)
{
    int n_refused = 0;
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        bool refused = false;
        uint64_t nth = 1;
        begin(fx);
        while (!survive_one(fx, &verbs[i], b, nth, cold, &refused))
            nth += thorough ? 1 + nth / 100 : nth < 4 ? 1 : 3 + nth / 2;
        end(fx);
        n_refused += refused;
    }
    assert_true(n_refused >= b->n_verb);
}
