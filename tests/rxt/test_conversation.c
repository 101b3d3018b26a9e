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
    "3457eb2b0b39919f713d54dc00129c2f", "bde037ab78f18dc1469e67f383ce1fad",
    "f7821cd30dce5b26f32bb224312837c9", "a711209d3019218e5c74dc49fa90b6d1",
    "4181bfffdc30ecdf076e931a81af9105", "26fcc0d7ae5435f56b4120b53dfe7cce",
    "d8177425d9d239f3f3f11eeb8411428b", "deb4fa89b19601c35d6f6f395cbf8143",
    "1e754703a1630e360eda94c9e1e11d59", "cef09fcc3b0969381eebec2cceeff08e",
    "16e935b1daed4071062f822278554b05", "32e9a092a58a613825f3e56d1411985c",
    "e6e9536b284db7ea09d597473d61c916", "70d5c82e508d7288f71f7b0bd03fe059",
    "6a2d08474bde545203739fb933f0e41f", "864cf21024f7c3db292c2a47ab464272",
    "1915dfb23081c3da14d3c12fbd4cfb1c", "cf32de427a14c7a9c0c243621f036c1d",
    "7f6e5ec8fe02fa5d87e9e41017f46b16", "ccd5726b99caf47fd3ace8291bcac3ea",
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
