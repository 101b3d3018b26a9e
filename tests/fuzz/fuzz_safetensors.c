/* Headers of weight files and indexes of sharded ones.
 * covers: rxt/safetensors_header.c rxt/safetensors_index.c */
#include "kernels/base/mem.h"
#include "rxt/safetensors_impl.h"
#include "rxt/safetensors_parse_impl.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was accepted keeps its promises: rising names, whole data, values where they may be read. */
static void check_tensors(const struct safetensors *st, const char *end)
{
    for (int32_t i = 0; i < safetensors_count(st); i++) {
        const struct st_tensor *t = safetensors_at(st, i);
        uint64_t n = st_dtype_bytes(t->dtype);
        for (int32_t d = 0; d < t->n_dim; d++)
            n *= (uint64_t)t->shape[d];
        assert(n == t->bytes);
        assert(i == 0 || strcmp(safetensors_at(st, i - 1)->name, t->name) < 0);
        assert(safetensors_find(st, t->name) == t);
        assert(t->copied || (const char *)t->data + t->bytes <= end);
        for (uint64_t k = 0; k < t->bytes; k++)
            (void)*((const volatile char *)t->data + k);
    }
}

static void open_bytes(const char *bytes, size_t n)
{
    struct safetensors *st = NULL;
    struct rxt_error err;
    if (safetensors_open_memory(&st, bytes, n, "fuzz", &err) == RXT_OK)
        check_tensors(st, bytes + n);
    safetensors_close(&st);
}

/* A header of the right length in front of n_data bytes: lengths are mended, so that the fuzzer
 * need not guess them. */
static void open_mended(const uint8_t *json, size_t n, size_t n_data)
{
    char *file = mem_alloc(8 + n + n_data);
    assert(file);
    for (int i = 0; i < 8; i++)
        file[i] = (char)((uint64_t)n >> (8 * i));
    memcpy(file + 8, json, n);
    open_bytes(file, 8 + n + n_data);
    mem_free(file);
}

/* First byte: 'r' a whole file as it is, 'i' an index, else the size of the data behind the header
 * which follows. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (*data == 'r') {
        open_bytes((const char *)data + 1, size - 1);
    } else if (*data == 'i') {
        struct st_index index;
        struct rxt_error err;
        if (st_index_parse(&index, (const char *)data + 1, size - 1, &err) == RXT_OK) {
            for (int32_t i = 0; i < index.n; i++)
                assert(!strchr(index.row[i].file, '/') && index.row[i].name);
            st_index_free(&index);
        }
    } else {
        open_mended(data + 1, size - 1, *data);
    }
    return 0;
}
