#include "tests/bridge/rig.h"

#include "tests/rxt/beta.h"

#define CLOSE_US 30000000u

static void open_bridge(struct rig *r)
{
    struct rxt_error err = {0};
    r->cfg.store_path = r->store;
    enum rxt_status st = bridge_open(&r->bridge, r->model, &r->cfg, &err);
    if (st != RXT_OK)
        print_error("%s\n", err.text);
    assert_ok(st);
}

static struct rxt_model *open_model(const char *dir)
{
    struct rxt_error err = {0};
    struct rxt_model *m = NULL;
    const struct rxt_model_options opt = {.backend = "cpu", .n_thread = 2};
    enum rxt_status st = rxt_model_open(&m, dir, &opt, &err);
    if (st != RXT_OK)
        print_error("%s\n", err.text);
    assert_ok(st);
    return m;
}

bool rig_bundled(void)
{
#ifdef RXT_SANITIZED
    const char *model = getenv("RXT_TEST_MODEL");
    return model && strcmp(model, "bundled") == 0;
#else
    return true;
#endif
}

void assert_says(const struct outcome *o, const char *word)
{
    if (rig_bundled())
        assert_non_null(strstr(o->text, word));
}

static struct rxt_model *open_small(void)
{
    char *dir = test_dir_make();
    beta_write(dir, 1, false, RIG_MAX_SEQ);
    struct rxt_model *m = open_model(dir);
    test_dir_remove(dir);
    return m;
}

/* One for all rigs of a program: nothing writes to a model, and packing it takes a sanitizer
 * seconds. */
static struct rxt_model *shared;
static int n_rig;

static void close_shared(void)
{
    if (n_rig == 0) /* a test that failed leaves its bridge running */
        rxt_model_close(&shared);
}

static struct rxt_model *shared_model(void)
{
    if (!shared) {
        shared = rig_bundled() ? open_model(MODEL_DIR) : open_small();
        assert_int_equal(atexit(close_shared), 0);
    }
    return shared;
}

void rig_open(struct rig *r, const char *model, const struct bridge_config *cfg)
{
    *r = (struct rig){.dir = test_dir_make()};
    (void)snprintf(r->store, sizeof r->store, "%s/store.db", r->dir);
    r->model = model ? open_model(model) : shared_model();
    n_rig++;
    if (cfg)
        r->cfg = *cfg;
    open_bridge(r);
}

void rig_close(struct rig *r)
{
    bridge_close(&r->bridge, CLOSE_US);
    if (r->model != shared)
        rxt_model_close(&r->model);
    n_rig--;
    test_dir_remove(r->dir);
}

void rig_reopen(struct rig *r)
{
    bridge_close(&r->bridge, CLOSE_US);
    open_bridge(r);
}

struct rig rig;

int rig_setup(void **state)
{
    (void)state;
    rig_open(&rig, NULL, NULL);
    return 0;
}

int rig_teardown(void **state)
{
    (void)state;
    rig_close(&rig);
    return 0;
}

static void keep_candidates(struct outcome *o, const struct bridge_event *e)
{
    o->n_candidate = e->n_candidate;
    for (int32_t i = 0; i < e->n_candidate; i++) {
        int32_t n = e->usage.n_query + e->answer[i].n_answer;
        assert_true(n <= 512);
        o->candidates[i].n = n;
        memcpy(o->candidates[i].ids, e->answer[i].ids, (size_t)n * sizeof *e->answer[i].ids);
    }
}

/* DONE of what is no single answer. */
static void keep_other(struct outcome *o, const struct bridge_event *e)
{
    o->done = true;
    o->n_list = e->n_list;
    o->more = e->more;
    for (int32_t i = 0; i < e->n_list && i < 8; i++)
        o->list[i] = e->list[i];
    if (e->diff)
        memcpy(o->diff, e->diff, sizeof o->diff);
    keep_candidates(o, e);
}

void on_outcome(void *user, const struct bridge_event *e)
{
    struct outcome *o = user;
    assert_false(o->final); /* nothing comes after the last event */
    o->final = e->final;
    o->last = e->kind;
    o->candidate_at_end = e->candidate;
    switch (e->kind) {
    case BRIDGE_ACCEPTED:
        assert_false(o->accepted);
        assert_true(e->price_tokens > 0 && e->price_bytes > 0);
        o->accepted = true;
        o->position = e->position;
        o->price_bytes = e->price_bytes;
        (void)snprintf(o->ran_in, sizeof o->ran_in, "%s", e->session);
        break;
    case BRIDGE_TOKEN: {
        size_t at = strlen(o->text);
        assert_true(at + e->text_bytes < sizeof o->text);
        memcpy(o->text + at, e->text, e->text_bytes);
        if (++o->n_token == o->cancel_after)
            bridge_cancel(o->bridge, o->ticket);
        break;
    }
    case BRIDGE_UNDECIDED:
        o->undecided = true;
        o->read_version = e->read_version;
        assert_true(e->expires_us > 0);
        keep_candidates(o, e);
        break;
    case BRIDGE_DONE:
        if (e->list || e->diff || e->n_candidate > 0) {
            keep_other(o, e);
            break;
        }
        assert_non_null(e->info);
        o->done = true;
        o->candidate = e->candidate;
        o->stored = e->stored;
        o->n_query = e->usage.n_query;
        o->n_answer = e->usage.n_answer;
        o->finish = e->finish;
        o->read_version = e->read_version;
        o->pending_version = e->pending_version;
        o->info = *e->info;
        assert_true(o->n_query + o->n_answer <= 512);
        if (o->n_query + o->n_answer > 0)
            memcpy(o->ids, e->ids, (size_t)(o->n_query + o->n_answer) * sizeof *o->ids);
        break;
    case BRIDGE_MEMORY:
        assert_true(o->done);
        o->memory = true;
        o->info = *e->info;
        break;
    case BRIDGE_MEMORY_FAILED:
        o->read_version = e->read_version;
        [[fallthrough]];
    case BRIDGE_CANCELLED:
    case BRIDGE_ERROR:
        o->status = e->status;
        assert_int_not_equal(e->status, RXT_OK);
        (void)snprintf(o->error, sizeof o->error, "%s", e->error);
        (void)snprintf(o->key, sizeof o->key, "%s", e->key ? e->key : "");
        o->retry_after_us = e->retry_after_us;
        break;
    }
}

struct bridge_request request(enum bridge_verb verb, const char *session)
{
    struct bridge_request r = {.verb = verb,
                               .tenant = "default",
                               .sampling = RXT_GREEDY,
                               .if_version = BRIDGE_HEAD,
                               .version = BRIDGE_HEAD,
                               .seed = 7};
    (void)snprintf(r.session, sizeof r.session, "%s", session);
    return r;
}

struct bridge_request question(const char *session, const char *query)
{
    struct bridge_request r = request(BRIDGE_TURN, session);
    r.prompt.query = query;
    return r;
}

void submit(struct rig *r, const struct bridge_request *q, struct outcome *o)
{
    struct rxt_error err = {0};
    int cancel_after = o->cancel_after;
    *o = (struct outcome){.bridge = r->bridge, .cancel_after = cancel_after};
    enum rxt_status st = bridge_submit(r->bridge, q, on_outcome, o, &o->ticket, &err);
    if (st == RXT_OK)
        return;
    o->final = true;
    o->last = BRIDGE_ERROR;
    o->status = st;
    (void)snprintf(o->error, sizeof o->error, "%s", err.text);
}

void step_or_wait(struct rig *r)
{
    if (!bridge_step(r->bridge))
        bridge_wait(r->bridge, 1000);
}

void step_until_final(struct rig *r, struct outcome *o)
{
    while (!o->final)
        if (!bridge_step(r->bridge))
            bridge_wait(r->bridge, 1000000);
}

void step_until_idle(struct rig *r)
{
    while (!bridge_idle(r->bridge))
        if (!bridge_step(r->bridge))
            bridge_wait(r->bridge, 1000000);
}

enum rxt_status call(struct rig *r, const struct bridge_request *q, struct outcome *o)
{
    submit(r, q, o);
    step_until_final(r, o);
    return o->status;
}

void open_session(struct rig *r, const char *session)
{
    struct outcome o = {0};
    struct bridge_request q = request(BRIDGE_OPEN, session);
    assert_ok(call(r, &q, &o));
}

void absorb(struct rig *r, const char *session, const int32_t *ids, int32_t n, struct outcome *out)
{
    struct bridge_request q = request(BRIDGE_REMEMBER, session);
    q.ids = ids;
    q.n_ids = (size_t)n;
    assert_ok(call(r, &q, out));
    assert_true(out->memory);
}

void get(struct rig *r, const char *session, struct outcome *out)
{
    struct bridge_request q = request(BRIDGE_GET, session);
    assert_ok(call(r, &q, out));
}

void assert_same_memory(const struct outcome *a, const struct outcome *b)
{
    assert_true(a->info.has_hash && b->info.has_hash);
    assert_memory_equal(a->info.stm_hash, b->info.stm_hash, 16);
}

void assert_room(const struct bridge *b)
{
    const struct rxt_info *info = rxt_model_info(b->model);
    size_t row = sizeof(struct session) + (size_t)b->max_seq_len * sizeof(int32_t);
    size_t bytes = (size_t)b->n_slot * info->slot_bytes;
    for (const struct shared_read *r = b->free_read; r; r = r->next)
        bytes += info->read_bytes;
    for (size_t i = 0; i < BRIDGE_BUCKETS; i++)
        for (const struct session *s = b->bucket[i]; s; s = s->chain) {
            assert_true(!s->idle || s->reserved == 0);
            bytes += s->reserved + (s->idle ? row : 0);
        }
    for (size_t i = 0; i < BRIDGE_BUCKETS; i++)
        for (const struct content *c = b->content[i]; c; c = c->chain) {
            int idle = 0, users = 0;
            for (size_t k = 0; k < BRIDGE_BUCKETS; k++)
                for (const struct session *s = b->bucket[k]; s; s = s->chain) {
                    idle += s->content == c && s->idle;
                    users += s->content == c;
                }
            assert_int_equal(c->n_idle, idle);
            assert_int_equal(c->users, users);
            if (idle > 0)
                bytes += stm_bytes(stm_config_of(c->stm)) + info->read_bytes;
        }
    assert_int_equal(b->bytes, bytes);
    assert_true(b->bytes <= b->cfg.max_bytes);
}

uint64_t test_now_us;

static uint64_t stopped_clock(void)
{
    return test_now_us;
}

void stop_clock(struct rig *r)
{
    test_now_us = r->bridge->clock();
    r->bridge->clock = stopped_clock;
}

void converse(struct rig *r, const char *session, const char *const *query, int n,
              struct outcome *out)
{
    open_session(r, session);
    for (int i = 0; i < n; i++) {
        struct bridge_request q = question(session, query[i]);
        assert_ok(call(r, &q, out));
        assert_true(out->accepted && out->done && out->memory);
    }
}
