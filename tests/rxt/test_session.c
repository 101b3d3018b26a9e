/* The embedding level: turn semantics of spec 1.2 and 1.5, memory in and out. */
#include "rxt/rxt.h"

#include "tests/lib/test.h"
#include "tests/rxt/beta.h"
#include "tests/rxt/engine.h"

struct fixture {
    char *dir;
    struct rxt_model *beta;    /* random: its answers do not end by themselves; turns of 64 */
    struct rxt_model *bundled; /* a real one */
};

static int open_models(void **state)
{
    static struct fixture f;
    f.dir = test_dir_make();
    beta_write(f.dir, 1, false, 0);
    assert_ok(rxt_model_open(&f.beta, f.dir, NULL, NULL));
    assert_ok(rxt_model_open(&f.bundled, "models/demo-15m", NULL, NULL));
    *state = &f;
    return 0;
}

static int close_models(void **state)
{
    struct fixture *f = *state;
    rxt_model_close(&f->beta);
    rxt_model_close(&f->bundled);
    test_dir_remove(f->dir);
    return 0;
}

static struct rxt_session *session(const struct rxt_model *m, uint64_t seed)
{
    struct rxt_session *s;
    struct rxt_error err = {0};
    if (rxt_session_create(&s, m, &(struct rxt_session_options){.seed = seed}, &err) != RXT_OK)
        fail_msg("%s", err.text);
    return s;
}

static struct rxt_answer ask(struct rxt_session *s, const char *query)
{
    struct rxt_answer a;
    assert_ok(rxt_session_turn(s, &(struct rxt_prompt){.query = query}, &RXT_GREEDY, NULL, NULL, &a,
                               NULL));
    return a;
}

static void hash_of(struct rxt_session *s, uint8_t hash[16])
{
    assert_ok(stm_hash(rxt_session_memory(s), rxt_session_lane(s), hash));
}

static void assert_same_memory(struct rxt_session *a, struct rxt_session *b)
{
    uint8_t x[16], y[16];
    hash_of(a, x);
    hash_of(b, y);
    assert_memory_equal(x, y, sizeof x);
}

/* The update runs over exactly what was said, [EOS] included: absorbing these ids is the same. */
static void a_turn_ends_with_eos_and_is_remembered(void **state)
{
    struct fixture *f = *state;
    struct rxt_session *s = session(f->bundled, 0), *other = session(f->bundled, 0);
    struct rxt_answer a = ask(s, "My name is Anna.");
    assert_int_equal(a.finish, RXT_FINISH_EOS);
    assert_int_equal(a.ids[a.n_query + a.n_answer - 1], rxt_model_info(f->bundled)->eos);
    assert_ok(rxt_session_absorb(other, a.ids, (size_t)(a.n_query + a.n_answer), NULL));
    assert_int_equal(stm_version(rxt_session_memory(s)), 0);
    assert_ok(rxt_session_update(s, NULL));
    assert_int_equal(stm_version(rxt_session_memory(s)), 1);
    assert_same_memory(s, other);
    assert_status(RXT_EINVAL, rxt_session_update(s, NULL)); /* once */
    rxt_session_destroy(&s);
    rxt_session_destroy(&other);
}

/* The limit of a turn ends an answer without [EOS]; it is remembered as it is. */
static void a_turn_ends_at_the_limit_without_eos(void **state)
{
    struct fixture *f = *state;
    struct rxt_session *s = session(f->beta, 3), *other = session(f->beta, 3);
    struct rxt_answer a = ask(s, "x");
    assert_int_equal(a.finish, RXT_FINISH_LENGTH);
    assert_int_equal(a.n_query + a.n_answer, 64);
    assert_int_not_equal(a.ids[63], BETA_EOS);
    assert_ok(rxt_session_absorb(other, a.ids, 64, NULL));
    assert_ok(rxt_session_update(s, NULL));
    assert_same_memory(s, other);
    rxt_session_destroy(&s);
    rxt_session_destroy(&other);
}

static bool stop_at_third(void *user, int32_t id, const char *text, size_t bytes)
{
    (void)id;
    (void)text;
    (void)bytes;
    return ++*(int *)user < 3;
}

static void a_cancelled_turn_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct rxt_session *s = session(f->beta, 3), *other = session(f->beta, 3);
    struct rxt_answer a;
    int calls = 0;
    assert_status(RXT_ECANCELLED, rxt_session_turn(s, &(struct rxt_prompt){.query = "x"},
                                                   &RXT_GREEDY, stop_at_third, &calls, &a, NULL));
    assert_int_equal(calls, 3);
    assert_int_equal(a.finish, RXT_FINISH_CANCEL);
    assert_status(RXT_EINVAL, rxt_session_update(s, NULL));
    assert_int_equal(stm_version(rxt_session_memory(s)), 0);
    assert_same_memory(s, other);
    /* nor does it disturb the next one */
    struct rxt_answer b = ask(s, "y"), c = ask(other, "y");
    assert_int_equal(b.n_answer, c.n_answer);
    assert_memory_equal(b.ids, c.ids, (size_t)(b.n_query + b.n_answer) * sizeof *b.ids);
    rxt_session_destroy(&s);
    rxt_session_destroy(&other);
}

/* A turn sees the memory and its own tokens, nothing of the turns before: a session that imports
 * the memory and starts with the second turn answers it alike. Positions restart at 0. */
static void a_turn_depends_on_the_memory_alone(void **state)
{
    struct fixture *f = *state;
    struct rxt_session *s = session(f->bundled, 0), *other = session(f->bundled, 0);
    size_t size = rxt_session_image_bytes(s);
    void *image = engine_alloc(size, 1);
    ask(s, "My name is Anna.");
    assert_ok(rxt_session_update(s, NULL));
    assert_ok(rxt_session_export(s, image, size, NULL));
    assert_ok(rxt_session_import(other, image, size, NULL));
    assert_int_equal(stm_version(rxt_session_memory(other)), 1);
    assert_same_memory(s, other);
    struct rxt_answer a = ask(s, "What is my name?"), b = ask(other, "What is my name?");
    assert_int_equal(a.n_answer, b.n_answer);
    assert_memory_equal(a.ids, b.ids, (size_t)(a.n_query + a.n_answer) * sizeof *a.ids);
    assert_ok(rxt_session_update(s, NULL));
    assert_ok(rxt_session_update(other, NULL));
    assert_same_memory(s, other);
    free(image);
    rxt_session_destroy(&s);
    rxt_session_destroy(&other);
}

static void images_that_do_not_belong_are_refused(void **state)
{
    struct fixture *f = *state;
    struct rxt_session *s = session(f->beta, 3), *same = session(f->beta, 3), *half;
    struct rxt_session *foreign = session(f->bundled, 0);
    struct rxt_error err = {0};
    size_t size = rxt_session_image_bytes(s);
    char *image = engine_alloc(size, 1);
    assert_status(RXT_ESHAPE, rxt_session_export(s, image, size - 1, &err));
    ask(s, "x");
    assert_ok(rxt_session_update(s, NULL));
    assert_ok(rxt_session_export(s, image, size, &err));
    assert_status(RXT_EMISMATCH, rxt_session_import(foreign, image, size, &err));
    assert_non_null(strstr(err.text, "model"));
    const struct rxt_session_options opt = {.seed = 3, .stm_dtype = DTYPE_BF16};
    assert_ok(rxt_session_create(&half, f->beta, &opt, NULL));
    assert_status(RXT_EMISMATCH, rxt_session_import(half, image, size, &err));
    struct rxt_session *before = session(f->beta, 3);
    image[size - 1] ^= 1;
    assert_status(RXT_ECORRUPT, rxt_session_import(same, image, size, &err));
    assert_status(RXT_ECORRUPT, rxt_session_import(same, image, size - 1, &err));
    assert_status(RXT_ECORRUPT, rxt_session_import(same, image, 0, &err));
    assert_same_memory(same, before);
    image[size - 1] ^= 1;
    assert_ok(rxt_session_import(same, image, size, &err));
    assert_same_memory(same, s);
    free(image);
    rxt_session_destroy(&s);
    rxt_session_destroy(&same);
    rxt_session_destroy(&half);
    rxt_session_destroy(&foreign);
    rxt_session_destroy(&before);
}

/* Thinking modes: what the first token is, and that the answer goes on behind it (spec 1.5). */
static void thinking_modes(void **state)
{
    struct fixture *f = *state;
    bool seen[2] = {false, false};
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct rxt_session *s = session(f->beta, seed);
        struct rxt_answer a;
        struct rxt_prompt p = {.query = "x", .thinking = RXT_AUTO};
        assert_ok(rxt_session_turn(s, &p, &RXT_GREEDY, NULL, NULL, &a, NULL));
        int32_t start = a.ids[a.n_query], answer[64];
        assert_int_equal(a.n_query, 3); /* [BOS] [Q] x */
        assert_true(start == BETA_A || start == BETA_T);
        seen[start == BETA_T] = true;
        memcpy(answer, a.ids + 4, 60 * sizeof *answer);
        /* the rest is what the mode chosen would have said */
        p.thinking = start == BETA_A ? RXT_FAST : RXT_EXTENDED;
        assert_ok(rxt_session_turn(s, &p, &RXT_GREEDY, NULL, NULL, &a, NULL));
        assert_int_equal(a.n_query, 4);
        assert_int_equal(a.ids[3], start);
        assert_memory_equal(answer, a.ids + 4, 60 * sizeof *answer);
        rxt_session_destroy(&s);
    }
    assert_true(seen[0] && seen[1]);
}

struct heard {
    char text[600];
    size_t n;
    int calls, ends;
};

static bool listen(void *user, int32_t id, const char *text, size_t bytes)
{
    struct heard *h = user;
    assert_true(h->n + bytes < sizeof h->text);
    memcpy(h->text + h->n, text, bytes);
    h->n += bytes;
    h->calls += id >= 0;
    h->ends += id < 0;
    return true;
}

static void the_callback_hears_the_text(void **state)
{
    struct fixture *f = *state;
    struct rxt_session *s = session(f->bundled, 0);
    struct rxt_answer a;
    struct heard h = {0};
    assert_ok(rxt_session_turn(s, &(struct rxt_prompt){.query = "My name is Anna!"}, &RXT_GREEDY,
                               listen, &h, &a, NULL));
    assert_string_equal(h.text, "Hello, Anna! It is nice to meet you.");
    assert_int_equal(h.calls, a.n_answer);
    assert_int_equal(h.ends, 0);
    rxt_session_destroy(&s);

    /* bytes at random: whatever comes is UTF-8, and nothing is lost at the end */
    for (uint64_t seed = 0; seed < 6; seed++) {
        s = session(f->beta, seed);
        h = (struct heard){0};
        const struct sampling how = {.temperature = 2, .top_p = 1};
        assert_ok(
            rxt_session_turn(s, &(struct rxt_prompt){.query = "x"}, &how, listen, &h, &a, NULL));
        int32_t back[600];
        size_t n;
        assert_ok(rxt_encode(f->beta, RXT_PLAIN, h.text, h.n, back, 600, &n, NULL));
        assert_int_equal(h.calls, a.n_answer);
        rxt_session_destroy(&s);
    }
}

static void draw(struct rxt_session *s, uint64_t seed, int32_t ids[64])
{
    struct rxt_answer a;
    const struct sampling how = {.temperature = 1, .top_p = 1, .seed = seed};
    assert_ok(rxt_session_turn(s, &(struct rxt_prompt){.query = "x"}, &how, NULL, NULL, &a, NULL));
    memset(ids, 0, 64 * sizeof *ids);
    memcpy(ids, a.ids, (size_t)(a.n_query + a.n_answer) * sizeof *ids);
}

/* Draws depend on the seed, not on what was drawn before. */
static void draws_are_repeatable(void **state)
{
    struct fixture *f = *state;
    struct rxt_session *s = session(f->beta, 3), *same = session(f->beta, 3);
    int32_t a[64], b[64];
    draw(s, 0, a);
    draw(same, 0, b);
    assert_memory_equal(a, b, sizeof a);
    draw(s, 0, b); /* not remembered: the same turn again */
    assert_memory_equal(a, b, sizeof a);
    draw(s, 3, b); /* the session's own seed */
    assert_memory_equal(a, b, sizeof a);
    draw(s, 4, b);
    assert_memory_not_equal(a, b, sizeof a);
    rxt_session_destroy(&s);
    rxt_session_destroy(&same);
}

static void a_memory_in_bf16(void **state)
{
    struct fixture *f = *state;
    struct rxt_session *s;
    const struct rxt_session_options opt = {.stm_dtype = DTYPE_BF16};
    const struct rxt_info *info = rxt_model_info(f->bundled);
    assert_ok(rxt_session_create(&s, f->bundled, &opt, NULL));
    assert_int_equal(2 * stm_bytes(stm_config_of(rxt_session_memory(s))), info->stm_bytes);
    struct heard h = {0};
    ask(s, "My name is Anna.");
    assert_ok(rxt_session_update(s, NULL));
    assert_ok(rxt_session_turn(s, &(struct rxt_prompt){.query = "What is my name?"}, &RXT_GREEDY,
                               listen, &h, NULL, NULL));
    assert_string_equal(h.text, "Anna.");
    rxt_session_destroy(&s);
}

static void what_is_refused(void **state)
{
    struct fixture *f = *state;
    struct rxt_session *s = session(f->beta, 3);
    struct rxt_error err = {0};
    int32_t ids[70] = {0};
    struct rxt_prompt p = {.query = "x"};
    assert_status(RXT_EINVAL, rxt_session_update(s, &err));
    assert_status(RXT_EINVAL, rxt_session_absorb(s, ids, 0, &err));
    assert_status(RXT_ELIMIT, rxt_session_absorb(s, ids, 65, &err));
    assert_non_null(strstr(err.text, "65"));
    ids[2] = BETA_VOCAB;
    assert_status(RXT_EINVAL, rxt_session_absorb(s, ids, 4, &err));
    assert_int_equal(stm_version(rxt_session_memory(s)), 0);
    ask(s, "y");
    assert_status(RXT_EINVAL,
                  rxt_session_turn(s, &p, &(struct sampling){.top_p = 2}, NULL, NULL, NULL, &err));
    p.query = "";
    assert_status(RXT_EINVAL, rxt_session_turn(s, &p, &RXT_GREEDY, NULL, NULL, NULL, &err));
    assert_status(RXT_EINVAL, rxt_session_update(s, &err)); /* the turn before it is gone */
    rxt_session_destroy(&s);
    struct rxt_session_options opt = {.stm_dtype = DTYPE_F16};
    assert_status(RXT_ESHAPE, rxt_session_create(&s, f->beta, &opt, &err));
}

static enum rxt_status live(void *arg)
{
    enum rxt_status st;
    struct rxt_session *s = NULL;
    const int32_t ids[4] = {BETA_BOS, BETA_Q, BETA_A, BETA_EOS};
    TRY_OR(done, rxt_session_create(&s, arg, NULL, NULL));
    TRY_OR(done, rxt_session_absorb(s, ids, 4, NULL));
done:
    rxt_session_destroy(&s);
    return st;
}

static void survives_no_memory(void **state)
{
    struct fixture *f = *state;
    assert_survives_no_memory(live, f->beta);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_turn_ends_with_eos_and_is_remembered),
        cmocka_unit_test(a_turn_ends_at_the_limit_without_eos),
        cmocka_unit_test(a_cancelled_turn_leaves_nothing),
        cmocka_unit_test(a_turn_depends_on_the_memory_alone),
        cmocka_unit_test(images_that_do_not_belong_are_refused),
        cmocka_unit_test(thinking_modes),
        cmocka_unit_test(the_callback_hears_the_text),
        cmocka_unit_test(draws_are_repeatable),
        cmocka_unit_test(a_memory_in_bf16),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(survives_no_memory),
    };
    return cmocka_run_group_tests(tests, open_models, close_models);
}
