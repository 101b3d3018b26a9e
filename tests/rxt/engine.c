#include "tests/rxt/engine.h"

#include "kernels/base/bf16.h"
#include "kernels/base/random.h"

#include <math.h>

void *engine_alloc(size_t n, size_t size)
{
    void *p = calloc(n, size);
    assert_non_null(p);
    return p;
}

void engine_open(struct engine *e, const char *dir, const struct engine_options *opt)
{
    static const struct engine_options none;
    struct rxt_error err = {0};
    opt = opt ? opt : &none;
    struct rxt_model_options model = opt->model;
    const char *backend = getenv("RXT_TEST_BACKEND");
    if (backend) {
        model.backend = "cuda";
        model.dtype = strcmp(backend, "cuda-f32") == 0 ? "f32" : "bf16";
    }
    *e = (struct engine){0};
    enum rxt_status st = opt->shape ? rxt_model_random(&e->m, opt->shape, opt->seed, &model, &err)
                                    : rxt_model_open(&e->m, dir, &model, &err);
    if (st != RXT_OK)
        fail_msg("%s: %s", opt->shape ? opt->shape : dir, err.text);
    e->info = rxt_model_info(e->m);
    assert_ok(rxt_worker_create(&e->w, e->m, &opt->worker));
    assert_ok(rxt_read_create(&e->read, e->m));
    assert_ok(rxt_slot_create(&e->slot, e->m));
    struct stm_config cfg = rxt_model_stm(e->m, opt->stm_dtype);
    assert_ok(stm_create(&e->memory, rxt_worker_lane(e->w), &cfg, e->info->stm_init, opt->seed));
    assert_ok(stm_pool_create(&e->pool, rxt_model_backend(e->m), &cfg, 1));
    assert_ok(rxt_read_build(e->read, e->w, e->memory));
    e->n_value = (size_t)cfg.n_layer * (size_t)cfg.n_slot * (size_t)cfg.embed_dim;
}

void engine_close(struct engine *e)
{
    stm_pool_destroy(&e->pool);
    stm_destroy(&e->memory);
    rxt_slot_destroy(&e->slot);
    rxt_read_destroy(&e->read);
    rxt_worker_destroy(&e->w);
    rxt_model_close(&e->m);
}

void engine_values(struct engine *e, float *out)
{
    size_t layer = e->n_value / (size_t)e->info->n_layer;
    bf16 *half = engine_alloc(layer, sizeof *half);
    for (int i = 0; i < e->info->n_layer; i++, out += layer) {
        struct tensor t = stm_read(e->memory, i);
        void *to = t.dtype == DTYPE_F32 ? (void *)out : (void *)half;
        assert_ok(lane_download(rxt_worker_lane(e->w), to, t.data, layer * dtype_bytes(t.dtype)));
        for (size_t k = 0; t.dtype == DTYPE_BF16 && k < layer; k++)
            out[k] = bf16_to_f32(half[k]);
    }
    free(half);
}

void engine_inject(struct engine *e, const float *values)
{
    assert_ok(stm_import(e->memory, rxt_worker_lane(e->w), 0, values, e->n_value * sizeof *values));
    assert_ok(rxt_read_build(e->read, e->w, e->memory));
}

static struct rxt_batch one(struct engine *e, const int32_t offset[2], const int32_t *start,
                            const int32_t *ids)
{
    return (struct rxt_batch){.rows = {.n_seq = 1, .offset = offset, .start = start},
                              .ids = ids,
                              .slot = &e->slot,
                              .read = (const struct rxt_read *const *)&e->read};
}

void engine_logits(struct engine *e, const int32_t *ids, int32_t n, int32_t chunk, float *out)
{
    for (int32_t first = 0; first < n;) {
        int32_t rows = chunk > 0 && n - first > chunk ? chunk : n - first;
        const int32_t offset[2] = {0, rows};
        struct rxt_batch b = one(e, offset, &first, ids + first);
        assert_ok(rxt_forward_all(e->w, &b, out + (size_t)first * (size_t)e->info->n_vocab));
        first += rows;
    }
}

int32_t engine_step(struct engine *e, int32_t id, int32_t position)
{
    const int32_t offset[2] = {0, 1};
    struct rxt_batch b = one(e, offset, &position, &id);
    int32_t next;
    assert_ok(rxt_forward(e->w, &b));
    assert_ok(rxt_sample(e->w, &RXT_GREEDY, 1, &next));
    return next;
}

void engine_encode(struct engine *e, const int32_t *ids, int32_t n, float *out)
{
    const int32_t offset[2] = {0, n};
    const struct ragged rows = {.n_seq = 1, .offset = offset};
    const struct tensor *ed;
    assert_ok(rxt_memorize(e->w, &rows, ids, &ed));
    size_t layer = (size_t)n * (size_t)e->info->embed_dim;
    for (int i = 0; i < e->info->n_layer; i++)
        assert_ok(lane_download(rxt_worker_lane(e->w), out + (size_t)i * layer, ed[i].data,
                                layer * sizeof *out));
}

void engine_update(struct engine *e, const int32_t *ids, int32_t n)
{
    const int32_t offset[2] = {0, n};
    const struct ragged rows = {.n_seq = 1, .offset = offset};
    struct stm_spare *spare = stm_spare_take(e->pool);
    assert_non_null(spare);
    assert_ok(rxt_update(e->w, &e->memory, &spare, &rows, ids, NULL));
    assert_ok(stm_commit(e->memory, spare, stm_version(e->memory)));
    stm_spare_give(e->pool, &spare);
    assert_ok(rxt_read_build(e->read, e->w, e->memory));
}

void engine_hash(struct engine *e, char hex[33])
{
    uint8_t hash[16];
    assert_ok(stm_hash(e->memory, rxt_worker_lane(e->w), hash));
    for (int i = 0; i < 16; i++)
        snprintf(hex + 2 * i, 3, "%02x", hash[i]);
}

void engine_ids(int32_t *ids, int32_t n, int32_t n_vocab, uint64_t seed)
{
    for (int32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(random_at(seed, RANDOM_BENCH, 0, (uint64_t)i).v[0] % (uint32_t)n_vocab);
}

float engine_worst(const float *a, const float *b, size_t n)
{
    float d = 0;
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(a[i] - b[i]) <= d)) /* a NaN is the worst of all */
            d = fabsf(a[i] - b[i]);
    return d;
}
