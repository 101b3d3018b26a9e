/* Out of memory at every allocation: a refusal, nothing lost, nothing left behind. */
#include "tests/bridge/rig.h"

#include "kernels/base/mem.h"

static enum rxt_status open_and_close(void *arg)
{
    const struct rig *r = arg;
    struct bridge *b = NULL;
    enum rxt_status st = bridge_open(&b, r->model, &r->cfg, NULL);
    bridge_close(&b, 1000000);
    return st;
}

static void a_bridge(void **state)
{
    (void)state;
    struct rig r;
    const struct bridge_config cfg = {.max_live = 2, .n_spare = 2};
    rig_open(&r, NULL, &cfg);
    bridge_close(&r.bridge, 1000000);
    assert_survives_no_memory(open_and_close, &r);
    assert_ok(bridge_open(&r.bridge, r.model, &r.cfg, NULL));
    rig_close(&r);
}

static enum rxt_status submit_and_cancel(void *arg)
{
    struct rig *r = arg;
    uint64_t ticket = 0;
    struct bridge_request q = question("s", "hi, i'm Anna");
    q.n_candidate = 2;
    enum rxt_status st = bridge_submit(r->bridge, &q, NULL, NULL, &ticket, NULL);
    bridge_cancel(r->bridge, ticket);
    while (bridge_step(r->bridge)) { /* the row of the table that was made for it goes */
    }
    return st;
}

static enum rxt_status submit_list(void *arg)
{
    struct rig *r = arg;
    struct bridge_request q = request(BRIDGE_LIST, "");
    q.limit = 1;
    return bridge_call(r->bridge, &q, NULL, NULL, NULL);
}

static void requests(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL, NULL);
    open_session(&r, "s");
    step_until_idle(&r);
    assert_survives_no_memory(submit_and_cancel, &r);
    assert_survives_no_memory(submit_list, &r);
    rig_close(&r);
}

/* A turn with everything it needs: page-in, slot, K/V, journal, update. Where memory is short it is
 * refused or, once it is journaled, remembered all the same. */
static void turns(void **state)
{
    (void)state;
    struct rig r;
    struct outcome o = {0}, plain = {0};
    rig_open(&r, NULL, NULL);
    converse(&r, "plain", (const char *const[]){"hi, i'm Anna"}, 1, &plain);
    int n_refused = 0, n_done = 0;
    stop_clock(&r); /* a failing update waits for it */
    for (uint64_t nth = 1; n_done < 3; nth++) {
        char name[32];
        (void)snprintf(name, sizeof name, "s%d", (int)nth);
        open_session(&r, name);
        struct bridge_request q = question(name, "hi, i'm Anna");
        submit(&r, &q, &o);
        mem_fail_from(nth);
        for (int i = 0; i < 50 && !o.final; i++)
            if (!bridge_step(r.bridge))
                bridge_wait(r.bridge, 1000);
        bool failed = mem_fail_never();
        while (!o.final) {
            test_now_us += 100000;
            if (!bridge_step(r.bridge))
                bridge_wait(r.bridge, 1000);
        }
        n_done += !failed;
        if (!o.memory) {
            assert_status(RXT_ENOMEM, o.status);
            assert_false(o.done);
            n_refused++;
            assert_ok(call(&r, &q, &o)); /* now there is enough */
        }
        assert_same_memory(&o, &plain);
        assert_room(r.bridge);
    }
    assert_true(n_refused > 3);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bridge),
        cmocka_unit_test(requests),
        cmocka_unit_test(turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
