/* The conversation of golden/demo-15m, token by token, in whatever way the environment says:
 * RXT_ISA (scalar, avx2, avx512), RXT_TEST_THREADS, RXT_TEST_DTYPE (f32, bf16), RXT_TEST_TURNS (the
 * first so many; RXT_FULL: all). The memory has the same bits in all of them. */
#include "rxt/rxt.h"

#include "kernels/base/cpu.h"
#include "tests/lib/test.h"
#include "tests/rxt/engine.h"

#include <jansson.h>
#include <math.h>

/* stm_hash behind each turn, of bit class cpu-f32/1. They change only with the number of the class
 * and with the model. */
static const char *const hashes[] = {
    "6dcbce92a862dddd59f10e461d04a61d", "539926b520b2a8087df8ee3239c2c469",
    "4079536535abe17f665a1e741c204c8d", "e6071f6fa97cda6fe9a669ec46fc17ad",
    "a31833226200e73e0587d41373c116ea", "3f0c9bef994b38208684083107ce0472",
    "89ac373574c969d4a133c1941468723d", "b72a100127e0ca15ad8ec91146021c9b",
    "7fa68f33bed55a811b5fc778035c471d", "4a24e63b29762bac1c8860ed792cb1cb",
    "a81a1d20b13f40b1ed64b1d9f57d0dae", "55ec3a8bfd052377e0da4f1395c4e10d",
    "d6a0745c52870782eb490c11ce4f0753", "cec3db15121bdd0ece21a66539f1514c",
    "a3c1bfe4e9d7fc548826cb1125724e4a", "209bae2e7c94ea9da30bdf44b2dda618",
    "eb0fabd6e3b5fc578e8dc9849738f978", "1b2a4a53e1655805672cea3d6823072d",
    "ceac46a82c001fd3846c8460552262fc", "16e1e64649f4c36ff0bbfd5706e350b4",
};

enum { N_FINGERPRINT = 10 };

struct heard {
    char text[400];
    size_t n;
};

static bool listen(void *user, int32_t id, const char *text, size_t bytes)
{
    struct heard *h = user;
    (void)id;
    assert_true(h->n + bytes < sizeof h->text);
    memcpy(h->text + h->n, text, bytes);
    h->n += bytes;
    return true;
}

static void check_ids(const json_t *want, const int32_t *got, int32_t n)
{
    assert_int_equal(json_array_size(want), n);
    for (int32_t i = 0; i < n; i++)
        assert_int_equal(json_integer_value(json_array_get(want, (size_t)i)), got[i]);
}

static void check_near(const json_t *want, double got, double tolerance)
{
    assert_true(json_is_number(want));
    if (!(fabs(json_number_value(want) - got) <= tolerance))
        fail_msg("%g is not within %g of %g", got, tolerance, json_number_value(want));
}

/* The first turns have fingerprints of the memory: later rounding is above the tolerance. */
static void check_memory(struct rxt_session *s, const json_t *turn, size_t number)
{
    assert_int_equal(json_object_get(turn, "stm_rms") != NULL, number < N_FINGERPRINT);
    if (number >= N_FINGERPRINT)
        return;
    const struct stm *m = rxt_session_memory(s);
    const struct stm_config *cfg = stm_config_of(m);
    size_t layer = (size_t)cfg->n_slot * (size_t)cfg->embed_dim;
    size_t n = (size_t)cfg->n_layer * layer;
    float *v = engine_alloc(n, sizeof *v);
    for (int i = 0; i < cfg->n_layer; i++)
        assert_ok(lane_download(rxt_session_lane(s), v + (size_t)i * layer, stm_read(m, i).data,
                                layer * sizeof *v));
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        sum += v[i];
        square += (double)v[i] * v[i];
    }
    check_near(json_object_get(turn, "stm_sum"), sum, 1);
    check_near(json_object_get(turn, "stm_rms"), sqrt(square / (double)n), 1e-4);
    for (size_t i = 0; i < 8; i++) {
        check_near(json_array_get(json_object_get(turn, "stm_first"), i), v[i], 1e-4);
        check_near(json_array_get(json_object_get(turn, "stm_last"), i), v[n - 8 + i], 1e-4);
    }
    free(v);
}

static void conversation(void **state)
{
    (void)state;
    const char *threads = getenv("RXT_TEST_THREADS");
    const struct rxt_model_options opt = {.n_thread = threads ? atoi(threads) : 0,
                                          .dtype = getenv("RXT_TEST_DTYPE")};
    struct rxt_model *m;
    struct rxt_session *s;
    struct rxt_error err = {0};
    enum cpu_isa isa;
    if (cpu_isa_get(&isa, NULL) == RXT_EUNSUPPORTED)
        skip(); /* this machine lacks what RXT_ISA asks for */
    if (rxt_model_open(&m, "models/demo-15m", &opt, &err) != RXT_OK)
        fail_msg("%s", err.text);
    assert_string_equal(backend_bit_class(rxt_model_backend(m)), "cpu-f32/1");
    assert_ok(rxt_session_create(&s, m, NULL, &err));
    json_t *turns = json_load_file("tests/golden/demo-15m/conversation.json", 0, NULL);
    assert_int_equal(json_array_size(turns), sizeof hashes / sizeof *hashes);
    const char *limit = getenv("RXT_FULL") ? NULL : getenv("RXT_TEST_TURNS");
    size_t n_turn = limit ? (size_t)atoi(limit) : json_array_size(turns);
    for (size_t i = 0; i < n_turn; i++) {
        json_t *turn = json_array_get(turns, i);
        struct rxt_prompt p = {.query = json_string_value(json_object_get(turn, "query"))};
        struct rxt_answer a;
        struct heard h = {0};
        assert_ok(rxt_session_turn(s, &p, &RXT_GREEDY, listen, &h, &a, &err));
        check_ids(json_object_get(turn, "query_ids"), a.ids, a.n_query);
        check_ids(json_object_get(turn, "answer_ids"), a.ids + a.n_query, a.n_answer);
        assert_string_equal(h.text, json_string_value(json_object_get(turn, "answer")));
        assert_ok(rxt_session_update(s, &err));
        assert_int_equal(stm_version(rxt_session_memory(s)), i + 1);
        check_memory(s, turn, i);
        uint8_t hash[16];
        char hex[33];
        assert_ok(stm_hash(rxt_session_memory(s), rxt_session_lane(s), hash));
        for (int k = 0; k < 16; k++)
            snprintf(hex + 2 * k, 3, "%02x", hash[k]);
        assert_string_equal(hex, hashes[i]);
    }
    json_decref(turns);
    rxt_session_destroy(&s);
    rxt_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
