#include "tests/bridge/rig.h"

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

void rig_open(struct rig *r, const char *model, const struct bridge_config *cfg)
{
    struct rxt_error err = {0};
    *r = (struct rig){.dir = test_dir_make()};
    (void)snprintf(r->store, sizeof r->store, "%s/store.db", r->dir);
    const struct rxt_model_options opt = {.backend = "cpu", .n_thread = 2};
    enum rxt_status st = rxt_model_open(&r->model, model ? model : MODEL_DIR, &opt, &err);
    if (st != RXT_OK)
        print_error("%s\n", err.text);
    assert_ok(st);
    if (cfg)
        r->cfg = *cfg;
    open_bridge(r);
}

void rig_close(struct rig *r)
{
    bridge_close(&r->bridge, CLOSE_US);
    rxt_model_close(&r->model);
    test_dir_remove(r->dir);
}

void rig_reopen(struct rig *r)
{
    bridge_close(&r->bridge, CLOSE_US);
    open_bridge(r);
}

void on_outcome(void *user, const struct bridge_event *e)
{
    struct outcome *o = user;
    assert_false(o->final); /* nothing comes after the last event */
    o->final = e->final;
    o->last = e->kind;
    switch (e->kind) {
    case BRIDGE_ACCEPTED:
        assert_true(e->price_tokens > 0 && e->price_bytes > 0);
        o->accepted = true;
        break;
    case BRIDGE_TOKEN: {
        size_t at = strlen(o->text);
        assert_true(at + e->text_bytes < sizeof o->text);
        memcpy(o->text + at, e->text, e->text_bytes);
        if (++o->n_token == o->cancel_after)
            bridge_cancel(o->bridge, o->ticket);
        break;
    }
    case BRIDGE_DONE:
        o->done = true;
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
    case BRIDGE_CANCELLED:
    case BRIDGE_ERROR:
        o->status = e->status;
        assert_int_not_equal(e->status, RXT_OK);
        (void)snprintf(o->error, sizeof o->error, "%s", e->error);
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
