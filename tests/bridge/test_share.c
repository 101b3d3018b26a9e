/* Seeds and forks: sessions that stand at the same version share its bytes, in memory and in the
 * store, until they move on; then nobody notices that they did. */
#include "tests/bridge/rig.h"

static struct store_image newest_image(const struct rig *r, const char *name)
{
    struct store *store = NULL;
    struct store_session row;
    struct store_image image;
    const struct store_options opt = {.read_only = true};
    assert_ok(store_open(&store, r->store, &opt, NULL));
    assert_ok(store_session_get(store, "default", name, &row, NULL));
    assert_ok(store_image_find(store, row.id, BRIDGE_HEAD, &image, NULL));
    store_close(&store);
    return image;
}

static const struct session *in_table(struct rig *r, const char *name)
{
    struct session *s = NULL;
    assert_true(session_peek(r->bridge, "default", name, &s));
    assert_int_equal(s->phase, SESSION_RESIDENT);
    return s;
}

static void open_from(struct rig *r, const char *session, const char *from, uint64_t version)
{
    struct bridge_request q = request(BRIDGE_OPEN, session);
    struct outcome o = {0};
    (void)snprintf(q.from, sizeof q.from, "%s", from);
    q.version = version;
    assert_ok(call(r, &q, &o));
}

static void a_seed_is_shared_by_all(void **state)
{
    (void)state;
    enum { N = 10 };
    struct rig r;
    struct outcome seed = {0}, o[N] = {{0}}, plain = {0};
    rig_open(&r, NULL, NULL);
    converse(&r, "seed", (const char *const[]){"My name is Anna.", "My dog is called Bruno."}, 2,
             &seed);
    step_until_idle(&r);
    size_t bytes = r.bridge->bytes;
    for (int i = 0; i < N; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "s%d", i);
        open_from(&r, name, "seed", BRIDGE_HEAD);
        get(&r, name, &o[i]);
        assert_int_equal(o[i].info.version, 2);
        assert_string_equal(o[i].info.origin, "seed");
        assert_same_memory(&o[i], &seed);
        assert_ptr_equal(in_table(&r, name)->content, in_table(&r, "seed")->content);
        assert_int_equal(newest_image(&r, name).upload, newest_image(&r, "seed").upload);
        open_from(&r, name, "seed", 0); /* it is there: nothing is looked at */
    }
    step_until_idle(&r);
    assert_room(r.bridge);
    size_t row = sizeof(struct session) + (size_t)r.bridge->max_seq_len * sizeof(int32_t);
    assert_int_equal(r.bridge->bytes, bytes + N * row); /* no memory, no K/V of their own */

    converse(
        &r, "plain",
        (const char *const[]){"My name is Anna.", "My dog is called Bruno.", "What is my name?"}, 3,
        &plain);
    for (int i = 0; i < N; i++) { /* each goes on alone, and the seed does not move */
        char name[16];
        (void)snprintf(name, sizeof name, "s%d", i);
        struct bridge_request q = question(name, "What is my name?");
        submit(&r, &q, &o[i]);
    }
    step_until_idle(&r);
    assert_room(r.bridge);
    for (int i = 0; i < N; i++) {
        assert_true(o[i].memory);
        assert_same_memory(&o[i], &plain);
    }
    get(&r, "seed", &o[0]);
    assert_same_memory(&o[0], &seed);
    struct bridge_request erase = request(BRIDGE_ERASE, "seed");
    assert_ok(call(&r, &erase, &o[0]));
    rig_reopen(&r);
    get(&r, "s3", &o[0]);
    assert_same_memory(&o[0], &plain);
    rig_close(&r);
}

/* The one that was there first moves on while others still stand where it was. */
static void the_origin_moves_on(void **state)
{
    (void)state;
    struct rig r;
    struct outcome a = {0}, b = {0}, straight = {0};
    rig_open(&r, NULL, NULL);
    converse(&r, "a", (const char *const[]){"My name is Anna."}, 1, &a);
    open_from(&r, "b", "a", BRIDGE_HEAD);
    get(&r, "b", &b);
    assert_ptr_equal(in_table(&r, "b")->content, in_table(&r, "a")->content);
    converse(&r, "straight", (const char *const[]){"My name is Anna.", "How are you?"}, 2,
             &straight);
    converse(&r, "a", (const char *const[]){"How are you?"}, 1, &a);
    assert_same_memory(&a, &straight);
    get(&r, "b", &b);
    assert_int_equal(b.info.version, 1);
    struct bridge_request q = question("b", "What is my name?");
    q.dry_run = true;
    assert_ok(call(&r, &q, &b));
    assert_says(&b, "Anna");
    converse(&r, "b", (const char *const[]){"How are you?"}, 1, &b);
    assert_same_memory(&b, &straight);
    /* A reset leaves what it shares. */
    open_from(&r, "c", "b", BRIDGE_HEAD);
    get(&r, "c", &a);
    assert_ptr_equal(in_table(&r, "c")->content, in_table(&r, "b")->content);
    struct bridge_request back = request(BRIDGE_RESET, "c");
    assert_ok(call(&r, &back, &a));
    get(&r, "b", &b);
    assert_same_memory(&b, &straight);
    assert_memory_not_equal(a.info.stm_hash, b.info.stm_hash, 16);
    step_until_idle(&r);
    assert_room(r.bridge);
    rig_close(&r);
}

/* Idle sessions go, the longest unused first, and come back as they were. */
static void the_longest_unused_goes(void **state)
{
    (void)state;
    enum { N = 6 };
    struct rig r;
    struct bridge_config cfg = {0};
    struct outcome o[N] = {{0}}, again = {0};
    rig_open(&r, NULL, NULL);
    const struct rxt_info *info = rxt_model_info(r.model);
    cfg.max_bytes = room_price(r.bridge, 1) + 2 * (info->stm_bytes + info->read_bytes);
    rig_close(&r);
    rig_open(&r, NULL, &cfg);
    for (int i = 0; i < N; i++) {
        char name[16], text[32];
        (void)snprintf(name, sizeof name, "s%d", i);
        (void)snprintf(text, sizeof text, "my number is %d", i);
        converse(&r, name, (const char *const[]){text}, 1, &o[i]);
        step_until_idle(&r);
        assert_room(r.bridge);
    }
    struct session *s = NULL;
    assert_false(session_peek(r.bridge, "default", "s0", &s)); /* gone */
    assert_true(session_peek(r.bridge, "default", "s5", &s));
    for (int i = 0; i < N; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "s%d", i);
        get(&r, name, &again);
        assert_same_memory(&again, &o[i]);
        assert_room(r.bridge);
    }
    rig_close(&r);
}

/* Two turns without an image, as if the memory were large. */
static void talk_without_images(struct rig *r, const char *session, struct outcome *o)
{
    int32_t n = r->bridge->n_image_buffer;
    r->bridge->n_image_buffer = 0;
    converse(r, session, (const char *const[]){"My name is Anna.", "How are you?"}, 2, o);
    step_until_idle(r);
    r->bridge->n_image_buffer = n;
}

static void images_are_written_before_it_gets_dear(void **state)
{
    (void)state;
    struct rig r;
    struct outcome a = {0}, b = {0}, again = {0};
    struct bridge_gauges g;
    struct bridge_config cfg = {.image_budget_us = 1};
    rig_open(&r, NULL, NULL);
    cfg.max_bytes = room_price(r.bridge, 1);
    rig_close(&r);
    rig_open(&r, NULL, &cfg);
    talk_without_images(&r, "a", &a);
    open_session(&r, "b");
    get(&r, "b", &b); /* "a" had to go, with an image */
    bridge_gauges(r.bridge, &g);
    assert_true(g.n_evicted == 1 && g.n_loaded == 2);
    assert_int_equal(newest_image(&r, "a").version, 2);
    talk_without_images(&r, "b", &b);
    rig_reopen(&r); /* "b" had time for one when the bridge stopped */
    assert_int_equal(newest_image(&r, "b").version, 2);
    get(&r, "a", &again);
    assert_same_memory(&again, &a);
    get(&r, "b", &again);
    assert_same_memory(&again, &b);
    bridge_gauges(r.bridge, &g);
    assert_int_equal(g.n_replayed, 0);
    assert_int_equal(g.n_session[BRIDGE_RESIDENT], 1);
    assert_true(g.bytes > 0 && g.bytes <= g.max_bytes);
    rig_close(&r);
}

static void a_busy_session_forks(void **state)
{
    (void)state;
    struct rig r;
    struct outcome o = {0}, a = {0}, b = {0}, again = {0};
    rig_open(&r, NULL, NULL);
    converse(&r, "s", (const char *const[]){"My name is Anna."}, 1, &o);
    struct bridge_request q = question("s", "How are you?");
    struct bridge_request f = question("s", "What is my name?");
    f.on_busy = BRIDGE_BUSY_FORK;
    memset(f.id, 0x5A, sizeof f.id);
    assert_status(RXT_EINVAL, call(&r, &f, &b)); /* without a name for it */
    (void)snprintf(f.to, sizeof f.to, "s fork");
    submit(&r, &q, &a);
    submit(&r, &f, &b);
    submit(&r, &f, &again); /* joins it there */
    step_until_final(&r, &a);
    step_until_final(&r, &b);
    step_until_final(&r, &again);
    assert_string_equal(a.ran_in, "s");
    assert_string_equal(b.ran_in, "s fork");
    assert_says(&b, "Anna");
    assert_true(again.memory);
    assert_string_equal(b.info.session, "s fork");
    assert_string_equal(b.info.origin, "s");
    assert_int_equal(b.info.version, 2);
    assert_int_equal(b.info.origin_version, 1);
    /* A repeat when nobody is busy finds the answer in the fork, also after a restart. */
    for (int round = 0; round < 2; round++) {
        assert_ok(call(&r, &f, &again));
        assert_true(again.stored);
        assert_int_equal(again.n_answer, b.n_answer);
        rig_reopen(&r);
    }
    memset(f.id, 0x5B, sizeof f.id); /* not busy: it runs here */
    (void)snprintf(f.to, sizeof f.to, "s fork 2");
    assert_ok(call(&r, &f, &b));
    assert_string_equal(b.ran_in, "s");
    assert_int_equal(b.info.version, 3);
    /* A name that belongs to something else. */
    open_session(&r, "taken");
    memset(f.id, 0x5C, sizeof f.id);
    (void)snprintf(f.to, sizeof f.to, "taken");
    submit(&r, &q, &a);
    assert_status(RXT_EEXIST, call(&r, &f, &b));
    step_until_final(&r, &a);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_seed_is_shared_by_all),
        cmocka_unit_test(the_origin_moves_on),
        cmocka_unit_test(the_longest_unused_goes),
        cmocka_unit_test(images_are_written_before_it_gets_dear),
        cmocka_unit_test(a_busy_session_forks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
