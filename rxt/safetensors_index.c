/* model.safetensors.index.json: which shard holds which tensor. */
#include "rxt/safetensors_parse_impl.h"

#include "kernels/base/mem.h"
#include "rxt/config_fields_impl.h"

#include <jansson.h>
#include <string.h>

#define SUFFIX ".safetensors"

/* A shard is a file of the same folder: the index comes from strangers and may not point out of it.
 */
static bool is_plain_name(const char *s)
{
    size_t n = strlen(s);
    if (n > ST_MAX_NAME || n <= strlen(SUFFIX) || strcmp(s + n - strlen(SUFFIX), SUFFIX) != 0)
        return false;
    for (; *s; s++) {
        if (*s <= ' ' || *s > '~' || *s == '/' || *s == '\\')
            return false;
    }
    return true;
}

static bool is_tensor_name(const char *s)
{
    if (strlen(s) > ST_MAX_NAME)
        return false;
    for (; *s; s++) {
        if (*s < ' ' || *s > '~' || *s == '\\')
            return false;
    }
    return true;
}

static enum rxt_status add_row(struct st_index *out, const char *name, const json_t *value,
                               struct rxt_error *err)
{
    const char *file = json_string_value(value);
    if (!is_tensor_name(name))
        return rxt_fail(err, RXT_EFORMAT,
                        "index: a tensor name is longer than 255 bytes or not printable ASCII");
    if (!file || !is_plain_name(file))
        return rxt_fail(err, RXT_EFORMAT,
                        "index: tensor '%s': its shard must be the plain name of a " SUFFIX
                        " file in the same folder",
                        name);
    struct st_index_row *row = &out->row[out->n++];
    row->name = mem_strdup(name);
    row->file = mem_strdup(file);
    if (!row->name || !row->file)
        return rxt_fail(err, RXT_ENOMEM, "index: out of memory");
    return RXT_OK;
}

static enum rxt_status read_map(struct st_index *out, const json_t *map, struct rxt_error *err)
{
    size_t n = json_object_size(map);
    if (n == 0)
        return rxt_fail(err, RXT_EFORMAT, "index: weight_map is missing, empty or no object");
    if (n > ST_MAX_TENSOR)
        return rxt_fail(err, RXT_ELIMIT, "index: more than %d tensors", ST_MAX_TENSOR);
    out->row = mem_alloc_n(n, sizeof *out->row);
    if (!out->row)
        return rxt_fail(err, RXT_ENOMEM, "index: out of memory for %zu tensors", n);
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)map, name, value)
    {
        TRY(add_row(out, name, value, err));
    }
    return RXT_OK;
}

enum rxt_status st_index_parse(struct st_index *out, const char *text, size_t n,
                               struct rxt_error *err)
{
    *out = (struct st_index){0};
    json_t *root = NULL;
    TRY(config_json(&root, text, n, "index", err));
    enum rxt_status st = read_map(out, json_object_get(root, "weight_map"), err);
    json_decref(root);
    if (st != RXT_OK)
        st_index_free(out);
    return st;
}

void st_index_free(struct st_index *index)
{
    for (int32_t i = 0; i < index->n; i++) {
        mem_free(index->row[i].name);
        mem_free(index->row[i].file);
    }
    mem_free(index->row);
    *index = (struct st_index){0};
}
