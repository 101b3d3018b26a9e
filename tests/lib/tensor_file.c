#include "tests/lib/tensor_file.h"

#include "kernels/base/bf16.h"
#include "tests/lib/test.h"

#include <jansson.h>

static void *must(void *p)
{
    assert_non_null(p);
    return p;
}

static struct file_tensor *grow(struct tensor_file *t)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 64;
        t->tensor = must(realloc(t->tensor, (size_t)t->cap * sizeof *t->tensor));
    }
    struct file_tensor *x = &t->tensor[t->n++];
    memset(x, 0, sizeof *x);
    return x;
}

static char *slurp(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("cannot open %s", path);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *size = (size_t)ftell(f);
    rewind(f);
    char *data = must(malloc(*size + 1));
    assert_int_equal(fread(data, 1, *size, f), *size);
    assert_int_equal(fclose(f), 0);
    return data;
}

static void read_one(struct file_tensor *x, const char *name, json_t *entry, const char *data)
{
    snprintf(x->name, sizeof x->name, "%s", name);
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    json_t *shape = json_object_get(entry, "shape");
    x->n_dim = (int)json_array_size(shape);
    x->n = 1;
    for (int i = 0; i < x->n_dim; i++) {
        x->dim[i] = json_integer_value(json_array_get(shape, (size_t)i));
        x->n *= (size_t)x->dim[i];
    }
    data += json_integer_value(json_array_get(json_object_get(entry, "data_offsets"), 0));
    if (!strcmp(dtype, "I32")) {
        x->i = must(malloc(x->n * sizeof *x->i));
        memcpy(x->i, data, x->n * sizeof *x->i);
        return;
    }
    x->f = must(malloc(x->n * sizeof *x->f));
    x->bf16 = !strcmp(dtype, "BF16");
    if (!x->bf16) {
        assert_string_equal(dtype, "F32");
        memcpy(x->f, data, x->n * sizeof *x->f);
        return;
    }
    for (size_t k = 0; k < x->n; k++) {
        bf16 h;
        memcpy(&h, data + k * sizeof h, sizeof h);
        x->f[k] = bf16_to_f32(h);
    }
}

void tensor_file_read(struct tensor_file *out, const char *path)
{
    size_t size;
    char *file = slurp(path, &size);
    uint64_t header;
    memcpy(&header, file, sizeof header);
    json_t *root = must(json_loadb(file + 8, header, 0, NULL));
    const char *name;
    json_t *entry;
    *out = (struct tensor_file){0};
    json_object_foreach(root, name, entry)
    {
        if (strcmp(name, "__metadata__") != 0)
            read_one(grow(out), name, entry, file + 8 + header);
    }
    json_decref(root);
    free(file);
}

const struct file_tensor *tensor_file_find(const struct tensor_file *t, const char *name)
{
    for (int i = 0; i < t->n; i++)
        if (!strcmp(t->tensor[i].name, name))
            return &t->tensor[i];
    return NULL;
}

const struct file_tensor *tensor_file_get(const struct tensor_file *t, const char *name)
{
    const struct file_tensor *x = tensor_file_find(t, name);
    if (!x)
        fail_msg("no tensor %s", name);
    return x;
}

struct file_tensor *tensor_file_add(struct tensor_file *t, const char *name, int n_dim, ...)
{
    struct file_tensor *x = grow(t);
    snprintf(x->name, sizeof x->name, "%s", name);
    x->n_dim = n_dim;
    x->n = 1;
    va_list ap;
    va_start(ap, n_dim);
    for (int i = 0; i < n_dim; i++) {
        x->dim[i] = va_arg(ap, int);
        x->n *= (size_t)x->dim[i];
    }
    va_end(ap);
    x->f = must(calloc(x->n, sizeof *x->f));
    return x;
}

static size_t stored_bytes(const struct file_tensor *x)
{
    return x->n * (x->bf16 ? sizeof(bf16) : sizeof(float));
}

static json_t *header_of(const struct tensor_file *t)
{
    json_t *root = must(json_object());
    size_t at = 0;
    for (int i = 0; i < t->n; i++) {
        const struct file_tensor *x = &t->tensor[i];
        json_t *shape = must(json_array());
        for (int d = 0; d < x->n_dim; d++)
            assert_int_equal(json_array_append_new(shape, json_integer(x->dim[d])), 0);
        const char *dtype = x->i ? "I32" : x->bf16 ? "BF16" : "F32";
        json_t *entry =
            must(json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape, "data_offsets",
                           (json_int_t)at, (json_int_t)(at + stored_bytes(x))));
        assert_int_equal(json_object_set_new(root, x->name, entry), 0);
        at += stored_bytes(x);
    }
    return root;
}

static void write_values(FILE *f, const struct file_tensor *x)
{
    if (!x->bf16) {
        const void *data = x->i ? (const void *)x->i : (const void *)x->f;
        assert_int_equal(fwrite(data, 4, x->n, f), x->n);
        return;
    }
    for (size_t k = 0; k < x->n; k++) {
        bf16 h = bf16_from_f32(x->f[k]);
        assert_int_equal(fwrite(&h, sizeof h, 1, f), 1);
    }
}

void tensor_file_write(const struct tensor_file *t, const char *path)
{
    json_t *root = header_of(t);
    char *text = must(json_dumps(root, JSON_COMPACT));
    uint64_t size = strlen(text), padded = (size + 7) / 8 * 8;
    FILE *f = must(fopen(path, "wb"));
    assert_int_equal(fwrite(&padded, sizeof padded, 1, f), 1);
    assert_int_equal(fprintf(f, "%-*s", (int)padded, text), padded);
    for (int i = 0; i < t->n; i++)
        write_values(f, &t->tensor[i]);
    assert_int_equal(fclose(f), 0);
    free(text);
    json_decref(root);
}

void tensor_file_free(struct tensor_file *t)
{
    for (int i = 0; i < t->n; i++) {
        free(t->tensor[i].f);
        free(t->tensor[i].i);
    }
    free(t->tensor);
    *t = (struct tensor_file){0};
}
