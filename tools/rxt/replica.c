#include "tools/rxt/replica.h"

#include <math.h>
#include <stdlib.h>

enum rxt_status replica_open(struct replica *o, const struct rxt_model *m)
{
    const struct rxt_info *info = rxt_model_info(m);
    const struct rxt_worker_config cfg = {.work = RXT_WORK_ALL};
    struct stm_config stm = rxt_model_stm(m, DTYPE_F32);
    *o = (struct replica){.model = m};
    TRY(rxt_worker_create(&o->worker, m, &cfg));
    TRY(rxt_read_create(&o->read, m));
    TRY(rxt_slot_create(&o->slot, m));
    TRY(stm_create(&o->memory, rxt_worker_lane(o->worker), &stm, info->stm_init, 1));
    TRY(stm_pool_create(&o->pool, rxt_model_backend(m), &stm, 1));
    o->logits = malloc((size_t)info->max_seq_len * (size_t)info->n_vocab * sizeof *o->logits);
    return o->logits ? RXT_OK : RXT_ENOMEM;
}

void replica_close(struct replica *o)
{
    free(o->logits);
    stm_pool_destroy(&o->pool);
    stm_destroy(&o->memory);
    rxt_slot_destroy(&o->slot);
    rxt_read_destroy(&o->read);
    rxt_worker_destroy(&o->worker);
}

enum rxt_status replica_forward(struct replica *o, const int32_t *ids, int32_t n, int32_t start)
{
    const int32_t offset[2] = {0, n};
    const struct rxt_read *read = o->read;
    const struct rxt_batch b = {
        .rows = {.n_seq = 1, .offset = offset, .start = &start},
        .ids = ids,
        .slot = &o->slot,
        .read = &read,
    };
    return rxt_forward_all(o->worker, &b, o->logits);
}

enum rxt_status replica_update(struct replica *o, const int32_t *ids, int32_t n)
{
    const int32_t offset[2] = {0, n};
    const struct ragged rows = {.n_seq = 1, .offset = offset};
    struct stm_spare *spare = stm_spare_take(o->pool);
    enum rxt_status st = rxt_update(o->worker, &o->memory, &spare, &rows, ids, NULL);
    if (st == RXT_OK)
        st = stm_commit(o->memory, spare, stm_version(o->memory));
    stm_spare_give(o->pool, &spare);
    return st;
}

float *replica_memory(struct replica *o)
{
    const struct stm_config *cfg = stm_config_of(o->memory);
    size_t layer = (size_t)cfg->n_slot * (size_t)cfg->embed_dim;
    float *x = calloc(layer * (size_t)cfg->n_layer, sizeof *x);
    for (int i = 0; x && i < cfg->n_layer; i++)
        if (lane_download(rxt_worker_lane(o->worker), x + (size_t)i * layer,
                          stm_read(o->memory, i).data, layer * sizeof *x) != RXT_OK) {
            free(x);
            return NULL;
        }
    return x;
}

int32_t replica_argmax(const float *x, int32_t n, float *margin)
{
    int32_t best = 0;
    float second = -INFINITY;
    for (int32_t i = 1; i < n; i++) {
        if (x[i] > x[best]) {
            second = x[best];
            best = i;
        } else if (x[i] > second) {
            second = x[i];
        }
    }
    *margin = x[best] - second;
    return best;
}

int32_t replica_ids(const json_t *array, int32_t n_vocab, int32_t *out, int32_t cap)
{
    size_t n = json_array_size(array);
    if (!json_is_array(array) || n > (size_t)cap)
        return -1;
    for (size_t i = 0; i < n; i++) {
        json_int_t id = json_integer_value(json_array_get(array, i));
        if (!json_is_integer(json_array_get(array, i)) || id < 0 || id >= n_vocab)
            return -1;
        out[i] = (int32_t)id;
    }
    return (int32_t)n;
}

enum rxt_status replica_turns(json_t **out, const char *path, struct rxt_error *err)
{
    json_error_t where;
    json_t *turns = json_load_file(path, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_array(turns) || json_array_size(turns) == 0) {
        json_decref(turns);
        return rxt_fail(err, RXT_EFORMAT, "%.140s is not a JSON array of turns: %.60s", path,
                        where.text);
    }
    *out = turns;
    return RXT_OK;
}
