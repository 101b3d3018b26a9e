/* Sessions that are held (S2, design 5 and 8): an update that is not finite, an image that was
 * damaged on the disk. Nothing is overwritten, and a rewind to a sound version repairs both. */
#include "tests/bridge/rig.h"

#include <jansson.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* The first model is the bundled one with an infinity in a bias of memory attention. */
static const char poisoned_tensor[] = "memory_attention.model.attention_layers.3.out_proj.bias";

static void link_file(const char *dir, const char *name)
{
    char from[4200], to[512], cwd[4096];
    assert_non_null(getcwd(cwd, sizeof cwd));
    (void)snprintf(from, sizeof from, "%s/%s/%s", cwd, MODEL_DIR, name);
    (void)snprintf(to, sizeof to, "%s/%s", dir, name);
    assert_int_equal(symlink(from, to), 0);
}

/* Where in the file the first value of the tensor lies. */
static long offset_of(const char *bytes, uint64_t header_bytes)
{
    json_t *header = json_loadb(bytes + 8, header_bytes, 0, NULL);
    const json_t *tensor = json_object_get(header, poisoned_tensor);
    assert_non_null(tensor);
    assert_string_equal(json_string_value(json_object_get(tensor, "dtype")), "BF16");
    long at = (long)json_integer_value(json_array_get(json_object_get(tensor, "data_offsets"), 0));
    json_decref(header);
    return 8 + (long)header_bytes + at;
}

static void make_poisoned_model(const char *dir)
{
    char path[512];
    struct stat size;
    uint64_t header_bytes;
    link_file(dir, "config.json");
    link_file(dir, "tokenizer.json");
    assert_int_equal(stat(MODEL_DIR "/model.safetensors", &size), 0);
    char *bytes = malloc((size_t)size.st_size);
    FILE *f = fopen(MODEL_DIR "/model.safetensors", "rb");
    assert_true(bytes && f);
    assert_int_equal(fread(bytes, 1, (size_t)size.st_size, f), size.st_size);
    assert_int_equal(fclose(f), 0);
    memcpy(&header_bytes, bytes, sizeof header_bytes);
    const uint16_t infinity_bf16 = 0x7F80;
    memcpy(bytes + offset_of(bytes, header_bytes), &infinity_bf16, sizeof infinity_bf16);
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, (size_t)size.st_size, f), size.st_size);
    assert_int_equal(fclose(f), 0);
    free(bytes);
}

static void non_finite_update_holds_the_session(void **state)
{
    (void)state;
    struct rig r;
    struct outcome o = {0}, before = {0};
    char *dir = test_dir_make();
    make_poisoned_model(dir);
    rig_open(&r, dir, NULL);
    open_session(&r, "held");
    struct bridge_request get = request(BRIDGE_GET, "held");
    assert_ok(call(&r, &get, &before));

    struct bridge_request q = question("held", "hi");
    assert_status(RXT_ENONFINITE, call(&r, &q, &o));
    assert_true(o.done); /* it was journaled, and could not be remembered */
    assert_int_equal(o.last, BRIDGE_MEMORY_FAILED);
    for (int restarted = 0; restarted < 2; restarted++) {
        assert_status(RXT_EHELD, call(&r, &q, &o));
        assert_int_equal(o.n_token, 0);
        struct bridge_request dry = q;
        dry.dry_run = true;
        assert_ok(call(&r, &dry, &o));
        assert_true(o.n_token > 0);
        assert_ok(call(&r, &get, &o));
        assert_int_equal(o.info.state, BRIDGE_HELD);
        assert_int_equal(o.info.version, 0);
        assert_memory_equal(o.info.stm_hash, before.info.stm_hash, 16);
        assert_true(o.info.held_reason[0]);
        rig_reopen(&r);
    }
    struct bridge_request rewind = request(BRIDGE_REWIND, "held");
    rewind.version = 0;
    assert_ok(call(&r, &rewind, &o));
    assert_ok(call(&r, &get, &o));
    assert_int_equal(o.info.state, BRIDGE_RESIDENT);
    assert_int_equal(o.info.version, 1);
    assert_memory_equal(o.info.stm_hash, before.info.stm_hash, 16);
    rig_close(&r);
    test_dir_remove(dir);
}

/* The first values of layer 2 of the memory after the turn, as they lie in the image. */
static void values_after(const struct rig *r, const struct outcome *turn, float values[16])
{
    struct rxt_session *s = NULL;
    const struct rxt_session_options opt = {.seed = 7};
    assert_ok(rxt_session_create(&s, r->model, &opt, NULL));
    assert_ok(rxt_session_absorb(s, turn->ids, (size_t)(turn->n_query + turn->n_answer), NULL));
    const struct tensor layer = stm_read(rxt_session_memory(s), 1);
    assert_ok(lane_download(rxt_session_lane(s), values, layer.data, 16 * sizeof *values));
    rxt_session_destroy(&s);
}

/* Flips one bit of the first place in the file that holds these bytes. */
static void damage(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long size = ftell(f);
    char *all = malloc((size_t)size);
    assert_non_null(all);
    rewind(f);
    assert_int_equal(fread(all, 1, (size_t)size, f), size);
    long at = 0;
    while (at + (long)n <= size && memcmp(all + at, bytes, n) != 0)
        at++;
    assert_true(at + (long)n <= size); /* the image is there */
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    assert_int_equal(fputc(all[at] ^ 4, f), (unsigned char)(all[at] ^ 4));
    assert_int_equal(fclose(f), 0);
    free(all);
}

static int32_t n_held(struct rig *r, const char *tenant, struct outcome *o)
{
    struct bridge_request q = request(BRIDGE_LIST, "");
    (void)snprintf(q.tenant, sizeof q.tenant, "%s", tenant);
    q.limit = 8;
    q.only_held = true;
    assert_ok(call(r, &q, o));
    return o->n_list;
}

/* The session is held, cold, and the store cannot be told: who was told so finds it listed. */
static void held_sessions_are_listed(void **state)
{
    (void)state;
    struct rig r;
    struct outcome turn = {0}, o = {0};
    float values[16];
    struct rlimit limit;
    assert_true(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    rig_open(&r, NULL, NULL);
    converse(&r, "damaged", (const char *const[]){"My name is Anna."}, 1, &turn);
    open_session(&r, "sound");
    values_after(&r, &turn, values);
    bridge_close(&r.bridge, 10000000);
    damage(r.store, values, sizeof values);
    assert_ok(bridge_open(&r.bridge, r.model, &r.cfg, NULL));
    const struct rlimit full = {.rlim_cur = 4096, .rlim_max = limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &full), 0);
    struct bridge_request q = question("damaged", "What is my name?");
    assert_int_not_equal(call(&r, &q, &o), RXT_OK);
    for (int settled = 0; settled < 2; settled++) {
        assert_int_equal(n_held(&r, "default", &o), 1);
        assert_string_equal(o.list[0].session, "damaged");
        assert_int_equal(o.list[0].state, BRIDGE_HELD);
        assert_int_equal(o.list[0].version, 1);
        assert_true(o.list[0].held_reason[0]);
        assert_int_equal(n_held(&r, "other", &o), 0);
        step_until_idle(&r); /* the store has refused it by now */
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct bridge_request back = request(BRIDGE_REWIND, "damaged");
    back.version = 0;
    assert_ok(call(&r, &back, &o));
    assert_int_equal(n_held(&r, "default", &o), 0);
    rig_close(&r);
}

static void damaged_image_holds_the_session(void **state)
{
    (void)state;
    struct rig r;
    struct outcome turn = {0}, other = {0}, before = {0}, o = {0};
    float values[16];
    rig_open(&r, NULL, NULL);
    open_session(&r, "damaged");
    struct bridge_request get = request(BRIDGE_GET, "damaged");
    assert_ok(call(&r, &get, &before));
    converse(&r, "damaged", (const char *const[]){"My name is Anna."}, 1, &turn);
    converse(&r, "sound", (const char *const[]){"How are you?"}, 1, &other);
    values_after(&r, &turn, values);
    bridge_close(&r.bridge, 10000000);
    damage(r.store, values, sizeof values);
    assert_ok(bridge_open(&r.bridge, r.model, &r.cfg, NULL));

    struct bridge_request q = question("damaged", "What is my name?");
    for (int restarted = 0; restarted < 2; restarted++) {
        assert_int_not_equal(call(&r, &q, &o), RXT_OK);
        assert_int_equal(o.n_token, 0);
        assert_int_not_equal(call(&r, &get, &o), RXT_OK);
        assert_true(o.error[0]);
        rig_reopen(&r);
    }
    struct bridge_request sound = request(BRIDGE_GET, "sound"); /* others go on */
    assert_ok(call(&r, &sound, &o));
    assert_memory_equal(o.info.stm_hash, other.info.stm_hash, 16);
    struct bridge_request back = request(BRIDGE_REWIND, "damaged");
    back.version = 0;
    assert_ok(call(&r, &back, &o));
    assert_ok(call(&r, &get, &o));
    assert_int_equal(o.info.version, 2);
    assert_memory_equal(o.info.stm_hash, before.info.stm_hash, 16);
    assert_ok(call(&r, &q, &o));
    rig_close(&r);
}

/* ---- turns that are under way when it happens -------------------------------------------- */

/* Work that keeps the writer until the test lets it go. */
struct blocker {
    struct work work;
    sem_t go;
    bool back;
};

static enum rxt_status run_blocker(struct work *w, struct store *s, struct rxt_error *err)
{
    (void)s;
    (void)err;
    assert_int_equal(sem_wait(&((struct blocker *)w)->go), 0);
    return RXT_OK;
}

static void blocker_done(struct work *w)
{
    ((struct blocker *)w)->back = true;
}

static void block(struct rig *r, struct blocker *k)
{
    *k = (struct blocker){.work.alone = true};
    assert_int_equal(sem_init(&k->go, 0, 0), 0);
    bridge_post(r->bridge, &k->work, run_blocker, blocker_done, NULL);
}

static void step_once(struct rig *r)
{
    if (!bridge_step(r->bridge))
        bridge_wait(r->bridge, 1000);
}

static void let_go(struct rig *r, struct blocker *k)
{
    assert_int_equal(sem_post(&k->go), 0);
    while (!k->back)
        step_once(r);
    assert_int_equal(sem_destroy(&k->go), 0);
}

/* The update of `first`, which has reported DONE, fails until the session is held; the clock stands
 * still. */
static void fail_updates(struct rig *r, struct session *s, struct outcome *first)
{
    while (!s->held) {
        test_now_us += s->retry_us ? 1000000 : 0;
        step_once(r);
    }
    assert_int_equal(first->last, BRIDGE_MEMORY_FAILED);
}

/* A second turn of the session, on the version before and of this many candidates, is answered and
 * ... */
static struct session *two_turns(struct rig *r, struct outcome *first, struct outcome *second,
                                 int32_t n_candidate)
{
    struct session *s = NULL;
    struct bridge_request q = question("held", "hi");
    rig_open(r, NULL, NULL);
    open_session(r, "held");
    stop_clock(r);
    fault_arm("update", RXT_EDEVICE, 1000);
    submit(r, &q, first);
    while (!first->done)
        step_once(r);
    q.on_stale = BRIDGE_STALE_PROCEED;
    q.n_candidate = n_candidate;
    memset(q.id, 2, sizeof q.id);
    submit(r, &q, second);
    assert_true(session_peek(r->bridge, "default", "held", &s));
    return s;
}

static void assert_repaired(struct rig *r)
{
    struct outcome o = {0};
    struct bridge_request back = request(BRIDGE_REWIND, "held");
    fault_arm(NULL, RXT_OK, 0);
    back.version = 0;
    assert_ok(call(r, &back, &o));
    assert_true(o.memory && o.info.state != BRIDGE_HELD);
    rig_close(r);
}

/* ... is with the writer when the session is held: what is journaled says DONE, and is told that no
 * memory follows. */
static void a_turn_with_the_writer_has_an_end(void **state)
{
    struct rig r;
    struct blocker k;
    struct outcome first = {0}, second = {0};
    (void)state;
    struct session *s = two_turns(&r, &first, &second, 1);
    block(&r, &k);
    while (!s->queue || s->queue->state != TASK_JOURNAL)
        step_once(&r);
    fail_updates(&r, s, &first);
    assert_false(second.done);
    let_go(&r, &k);
    for (int i = 0; i < 1000 && !second.final; i++)
        step_once(&r);
    assert_true(second.done && second.final);
    assert_int_equal(second.last, BRIDGE_MEMORY_FAILED);
    assert_status(RXT_EHELD, second.status);
    assert_repaired(&r);
}

/* From here on it is held, and the store does not hear of it. */
static void hold(struct rig *r, struct session *s, struct blocker *k)
{
    block(r, k);
    s->apply_out = true; /* as if an image were being written */
    s->held = true;
}

static void assert_refused(struct rig *r, struct session *s, struct blocker *k,
                           struct outcome *first, const struct outcome *second)
{
    assert_true(second->final && !second->done);
    assert_status(RXT_EHELD, second->status);
    s->held = s->apply_out = false;
    let_go(r, k);
    fail_updates(r, s, first);
    assert_repaired(r);
}

/* ... still speaks: it is refused at its end and not journaled, however late the store hears that
 * the session is held. */
static void speaks_when_held(int32_t n_candidate)
{
    struct rig r;
    struct blocker k;
    struct outcome first = {0}, second = {0};
    struct session *s = two_turns(&r, &first, &second, n_candidate);
    while (second.n_token == 0)
        step_once(&r);
    hold(&r, s, &k);
    while (!second.final && s->queue && s->queue->state < TASK_JOURNAL)
        step_once(&r);
    assert_refused(&r, s, &k, &first, &second);
}

static void a_turn_that_speaks_is_refused(void **state)
{
    (void)state;
    speaks_when_held(1);
}

static void candidates_that_speak_are_refused(void **state)
{
    (void)state;
    speaks_when_held(2);
}

/* ... waits for a choice: that is refused, and so is the turn. */
static void a_choice_is_refused(void **state)
{
    struct rig r;
    struct blocker k;
    struct outcome first = {0}, second = {0}, chosen = {0};
    (void)state;
    struct session *s = two_turns(&r, &first, &second, 2);
    while (!second.undecided)
        step_once(&r);
    hold(&r, s, &k);
    struct bridge_request q = request(BRIDGE_CHOOSE, "held");
    q.candidate = 1;
    memset(q.id, 2, sizeof q.id);
    submit(&r, &q, &chosen);
    for (int i = 0; i < 1000 && !second.final; i++)
        step_once(&r);
    assert_status(RXT_EHELD, chosen.status);
    assert_refused(&r, s, &k, &first, &second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_choice_is_refused),
        cmocka_unit_test(a_turn_with_the_writer_has_an_end),
        cmocka_unit_test(a_turn_that_speaks_is_refused),
        cmocka_unit_test(candidates_that_speak_are_refused),
        cmocka_unit_test(damaged_image_holds_the_session),
        cmocka_unit_test(held_sessions_are_listed),
        cmocka_unit_test(non_finite_update_holds_the_session),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
