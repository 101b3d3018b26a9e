#include "tests/stm/fixture.h"

#include "stm/stm_impl.h"
#include "tests/lib/test.h"

struct backend *fixture_backend(int n_thread)
{
    const struct backend_config cfg = {.name = "cpu", .n_thread = n_thread};
    struct rxt_error err = {""};
    struct backend *be = NULL;
    assert_ok(backend_create(&be, &cfg, &err));
    return be;
}

int fixture_open(void **state)
{
    /* Less than any shape of the tests: copies do not depend on the limits of a lane. */
    const struct lane_limits tiny = {.max_rows = 1, .max_seq = 1, .max_keys = 1, .max_width = 1};
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->be = fixture_backend(1);
    assert_ok(lane_create(&f->ln, f->be, LANE_MEMORY, &tiny));
    *state = f;
    return 0;
}

int fixture_close(void **state)
{
    struct fixture *f = *state;
    lane_destroy(&f->ln);
    backend_destroy(&f->be);
    free(f);
    return 0;
}

struct stm_config fixture_config(enum dtype dtype)
{
    return (struct stm_config){.n_layer = 2, .n_slot = 3, .embed_dim = 8, .dtype = dtype};
}

float fixture_ramp(size_t i)
{
    return ((float)i - 20) / 4;
}

void *fixture_values(const struct stm_config *cfg)
{
    size_t bytes = stm_bytes(cfg);
    char *values = malloc(bytes);
    assert_non_null(values);
    for (size_t i = 0; i < bytes / dtype_bytes(cfg->dtype); i++) {
        float f = fixture_ramp(i);
        bf16 h = bf16_from_f32(f);
        memcpy(values + i * dtype_bytes(cfg->dtype),
               cfg->dtype == DTYPE_F32 ? (void *)&f : (void *)&h, dtype_bytes(cfg->dtype));
    }
    return values;
}

struct stm *fixture_memory(struct lane *ln, const struct stm_config *cfg, uint64_t version)
{
    struct stm *m = NULL;
    void *values = fixture_values(cfg);
    assert_ok(stm_create(&m, ln, cfg, STM_ZEROS, 0));
    assert_ok(stm_import(m, ln, version, values, stm_bytes(cfg)));
    free(values);
    return m;
}

void fixture_holds(struct lane *ln, const struct stm *m, const void *values)
{
    size_t bytes = stm_bytes(&m->cfg);
    void *got = malloc(bytes);
    assert_non_null(got);
    assert_ok(lane_download(ln, got, m->values, bytes));
    assert_memory_equal(got, values, bytes);
    free(got);
}
