/* Sessions: fork, rewind, reset, erase, export, import, eviction, damage, many at once. */
#include "tests/bridge/rig.h"

#include <sys/stat.h>
#include <unistd.h>

static const char *const talk[] = {"My name is Anna.", "My dog is called Bruno.", "How are you?",
                                   "What is my name?", "How is my dog called?"};
enum { TALK = sizeof talk / sizeof *talk };

/* outcome[i] = after turn i of the talk; [0] = version 0. */
static void hashes_of_the_talk(struct rig *r, const char *session, struct outcome o[TALK + 1])
{
    open_session(r, session);
    get(r, session, &o[0]);
    for (int i = 0; i < TALK; i++) {
        struct bridge_request q = question(session, talk[i]);
        assert_ok(call(r, &q, &o[i + 1]));
    }
}

static void fork_at_every_version(void **state)
{
    (void)state;
    struct outcome o[TALK + 1] = {{0}}, f = {0};
    hashes_of_the_talk(&rig, "trunk", o);
    for (uint64_t v = 0; v <= TALK; v++) {
        struct bridge_request q = request(BRIDGE_FORK, "trunk");
        q.version = v;
        (void)snprintf(q.to, sizeof q.to, "branch %d", (int)v);
        assert_ok(call(&rig, &q, &f));
        assert_string_equal(f.info.session, q.to);
        assert_int_equal(f.info.version, v);
        get(&rig, q.to, &f);
        assert_int_equal(f.info.version, v);
        assert_string_equal(f.info.origin, "trunk");
        assert_int_equal(f.info.origin_version, v);
        assert_same_memory(&f, &o[v]);
        if (v == TALK)
            continue;
        struct bridge_request t = question(q.to, talk[v]); /* goes on as the trunk did */
        assert_ok(call(&rig, &t, &f));
        assert_same_memory(&f, &o[v + 1]);
    }
    get(&rig, "trunk", &f);
    assert_same_memory(&f, &o[TALK]);
    struct bridge_request q = request(BRIDGE_FORK, "trunk");
    (void)snprintf(q.to, sizeof q.to, "branch 0");
    assert_status(RXT_EEXIST, call(&rig, &q, &f));
}

static void rewind_and_reset_are_versions(void **state)
{
    (void)state;
    struct outcome o[TALK + 1] = {{0}}, r = {0};
    hashes_of_the_talk(&rig, "rewind", o);
    struct bridge_request q = request(BRIDGE_REWIND, "rewind");
    q.version = 2;
    assert_ok(call(&rig, &q, &r));
    assert_int_equal(r.info.version, TALK + 1);
    assert_same_memory(&r, &o[2]);
    struct bridge_request t = question("rewind", talk[2]);
    assert_ok(call(&rig, &t, &r));
    assert_int_equal(r.info.version, TALK + 2);
    assert_same_memory(&r, &o[3]);
    q = request(BRIDGE_RESET, "rewind");
    assert_ok(call(&rig, &q, &r));
    assert_same_memory(&r, &o[0]);
    q = request(BRIDGE_REWIND, "rewind"); /* to a version behind a rewind, after a restart */
    q.version = TALK + 2;
    rig_reopen(&rig);
    assert_ok(call(&rig, &q, &r));
    assert_same_memory(&r, &o[3]);
    assert_int_equal(r.info.version, TALK + 4);
    q.version = 100;
    assert_status(RXT_ESTALE, call(&rig, &q, &r));
}

static void erased_is_gone(void **state)
{
    (void)state;
    struct outcome o = {0};
    converse(&rig, "gone", talk, 1, &o);
    struct bridge_request q = request(BRIDGE_ERASE, "gone");
    assert_ok(call(&rig, &q, &o));
    q = request(BRIDGE_GET, "gone");
    assert_status(RXT_ENOTFOUND, call(&rig, &q, &o));
    open_session(&rig, "gone");
    get(&rig, "gone", &o);
    assert_int_equal(o.info.version, 0);
    assert_int_equal(o.n_answer, 0);
}

/* Reading has a thread and a handle of its own; an erase needs the log without readers. */
static void erase_beside_reads(void **state)
{
    (void)state;
    enum { N = 8 };
    static char path[N][400];
    static struct outcome read_o[2 * N], erase_o[N];
    struct outcome o = {0};
    memset(read_o, 0, sizeof read_o);
    for (int i = 0; i < N; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "kept %d", i);
        converse(&rig, name, talk, 1, &o);
        (void)snprintf(name, sizeof name, "erased %d", i);
        converse(&rig, name, talk, 1, &o);
    }
    step_until_idle(&rig);
    rig_reopen(&rig); /* all are cold */
    for (int i = 0; i < N; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "kept %d", i);
        (void)snprintf(path[i], sizeof path[i], "%s/beside %d", rig.dir, i);
        struct bridge_request q = request(BRIDGE_EXPORT, name);
        q.path = path[i];
        submit(&rig, &q, &read_o[2 * i]);
        q = request(BRIDGE_GET, name);
        submit(&rig, &q, &read_o[2 * i + 1]);
        (void)snprintf(name, sizeof name, "erased %d", i);
        q = request(BRIDGE_ERASE, name);
        submit(&rig, &q, &erase_o[i]);
    }
    step_until_idle(&rig);
    for (int i = 0; i < N; i++) {
        assert_true(read_o[2 * i].done && read_o[2 * i + 1].done && erase_o[i].done);
        assert_same_memory(&read_o[2 * i + 1], &read_o[1]);
    }
}

static void export_and_import(void **state)
{
    (void)state;
    struct outcome o[TALK + 1] = {{0}}, c = {0};
    char path[400];
    (void)snprintf(path, sizeof path, "%s/exported", rig.dir);
    hashes_of_the_talk(&rig, "from", o);
    struct bridge_request q = request(BRIDGE_EXPORT, "from");
    q.path = path;
    assert_ok(call(&rig, &q, &c));
    q = request(BRIDGE_IMPORT, "into");
    q.path = path;
    assert_ok(call(&rig, &q, &c));
    get(&rig, "into", &c);
    assert_int_equal(c.info.version, TALK);
    assert_same_memory(&c, &o[TALK]);
    assert_status(RXT_EEXIST, call(&rig, &q, &c));
    struct bridge_request a = question("from", "thank you"), b = question("into", "thank you");
    assert_ok(call(&rig, &a, &o[0]));
    assert_ok(call(&rig, &b, &c));
    assert_same_memory(&o[0], &c);
    q = request(BRIDGE_IMPORT, "nothing");
    q.path = "tests/golden/README.md";
    assert_status(RXT_EFORMAT, call(&rig, &q, &c));
}

/* Two imports at once, and room for one of them. */
static void imports_keep_to_the_limit(void **state)
{
    (void)state;
    struct rig r;
    struct outcome o[2] = {{0}}, c = {0};
    char path[400];
    const struct bridge_config cfg = {.tenant = {.max_sessions = 2}};
    rig_open(&r, NULL, &cfg);
    (void)snprintf(path, sizeof path, "%s/exported", r.dir);
    converse(&r, "from", (const char *const[]){"Hi"}, 1, &c);
    struct bridge_request q = request(BRIDGE_EXPORT, "from");
    q.path = path;
    assert_ok(call(&r, &q, &c));
    for (int i = 0; i < 2; i++) {
        q = request(BRIDGE_IMPORT, i ? "b" : "a");
        q.path = path;
        submit(&r, &q, &o[i]);
    }
    step_until_idle(&r);
    assert_true(o[0].final && o[1].final);
    assert_int_equal((o[0].status == RXT_OK) + (o[1].status == RXT_OK), 1);
    assert_int_equal((o[0].status == RXT_ELIMIT) + (o[1].status == RXT_ELIMIT), 1);
    rig_close(&r);
}

/* Sessions that share every batch end with the bits they have alone, also when there is room for
 * only one of them and each turn brings its session in again. */
static void many_at_once_and_little_room(void **state)
{
    (void)state;
    enum { N = 6 };
    struct outcome alone[TALK + 1] = {{0}};
    hashes_of_the_talk(&rig, "alone", alone);
    for (int narrow = 0; narrow < 2; narrow++) {
        struct rig r;
        struct bridge_config cfg = {.max_live = 4, .prefill_rows = 5, .n_spare = 3};
        cfg.max_bytes = narrow ? room_price(rig.bridge, 1) : 0;
        rig_open(&r, NULL, &cfg);
        static struct outcome o[N][TALK];
        memset(o, 0, sizeof o);
        for (int s = 0; s < N; s++) {
            char name[16];
            (void)snprintf(name, sizeof name, "s%d", s);
            open_session(&r, name);
            for (int t = 0; t < TALK; t++) {
                struct bridge_request q = question(name, talk[t]);
                submit(&r, &q, &o[s][t]);
            }
        }
        step_until_idle(&r);
        for (int s = 0; s < N; s++)
            for (int t = 0; t < TALK; t++) {
                assert_true(o[s][t].memory);
                assert_same_memory(&o[s][t], &alone[t + 1]);
            }
        rig_close(&r);
    }
}

/* Names that somebody makes up leave nothing behind in memory. */
static void unknown_names_are_forgotten(void **state)
{
    (void)state;
    struct outcome o = {0};
    for (int i = 0; i < 300; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "made up %d", i);
        struct bridge_request q = question(name, "hi");
        assert_status(RXT_ENOTFOUND, call(&rig, &q, &o));
    }
    step_until_idle(&rig);
    while (bridge_step(rig.bridge)) {
    }
    for (size_t i = 0; i < BRIDGE_BUCKETS; i++)
        for (const struct session *s = rig.bridge->bucket[i]; s; s = s->chain)
            assert_null(strstr(s->name, "made up"));
}

static void list_shows_what_is_there(void **state)
{
    (void)state;
    struct rig r;
    struct rxt_error err = {0};
    struct bridge_session_info info[4];
    size_t n = 0;
    struct outcome o = {0};
    rig_open(&r, NULL, NULL);
    assert_ok(bridge_list(r.bridge, "default", "", info, 4, &n, &err));
    assert_int_equal(n, 0);
    converse(&r, "b", talk, 2, &o);
    open_session(&r, "a");
    assert_ok(bridge_list(r.bridge, "default", "", info, 4, &n, &err));
    assert_int_equal(n, 2);
    assert_string_equal(info[0].session, "a");
    assert_string_equal(info[1].session, "b");
    assert_int_equal(info[1].version, 2);
    assert_ok(bridge_list(r.bridge, "default", "a", info, 4, &n, &err));
    assert_int_equal(n, 1);
    rig_close(&r);
}

static void a_second_process_is_refused(void **state)
{
    (void)state;
    struct bridge *second = NULL;
    struct rxt_error err = {0};
    struct bridge_config cfg = {.store_path = rig.store};
    assert_status(RXT_EFENCED, bridge_open(&second, rig.model, &cfg, &err));
    assert_true(err.text[0]);
}

/* The bundled model under another name: a config with one more newline is another model. */
static void make_other_model(char *dir, size_t size)
{
    char from[4200], to[512], cwd[4096];
    assert_non_null(getcwd(cwd, sizeof cwd));
    (void)snprintf(dir, size, "%s/older", rig.dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    const char *const linked[] = {"model.safetensors", "tokenizer.json"};
    for (int i = 0; i < 2; i++) {
        (void)snprintf(from, sizeof from, "%s/%s/%s", cwd, MODEL_DIR, linked[i]);
        (void)snprintf(to, sizeof to, "%s/%s", dir, linked[i]);
        assert_int_equal(symlink(from, to), 0);
    }
    (void)snprintf(to, sizeof to, "%s/config.json", dir);
    FILE *in = fopen(MODEL_DIR "/config.json", "r"), *out = fopen(to, "w");
    assert_true(in && out);
    for (int c; (c = getc(in)) != EOF;)
        assert_int_not_equal(putc(c, out), EOF);
    assert_int_not_equal(putc('\n', out), EOF);
    assert_int_equal(fclose(in), 0);
    assert_int_equal(fclose(out), 0);
}

static void another_model_is_refused(void **state)
{
    (void)state;
    struct rig r;
    struct outcome o = {0};
    char older[400];
    make_other_model(older, sizeof older);
    rig_open(&r, older, NULL);
    converse(&r, "model", talk, 1, &o);
    bridge_close(&r.bridge, 1000000);
    rxt_model_close(&r.model);
    assert_ok(rxt_model_open(&r.model, MODEL_DIR, NULL, NULL));
    assert_ok(bridge_open(&r.bridge, r.model, &r.cfg, NULL));
    struct bridge_request q = question("model", "hi");
    assert_status(RXT_EMISMATCH, call(&r, &q, &o));
    assert_non_null(strstr(o.error, "older"));
    assert_non_null(strstr(o.error, "demo-15m"));
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fork_at_every_version),
        cmocka_unit_test(rewind_and_reset_are_versions),
        cmocka_unit_test(erased_is_gone),
        cmocka_unit_test(erase_beside_reads),
        cmocka_unit_test(export_and_import),
        cmocka_unit_test(imports_keep_to_the_limit),
        cmocka_unit_test(many_at_once_and_little_room),
        cmocka_unit_test(unknown_names_are_forgotten),
        cmocka_unit_test(list_shows_what_is_there),
        cmocka_unit_test(a_second_process_is_refused),
        cmocka_unit_test(another_model_is_refused),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
