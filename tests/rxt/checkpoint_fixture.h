/* A small checkpoint in a folder of its own, whose tensors a test may rename, reshape, add and take
 * away before it is opened. */
#ifndef RXT_TESTS_CHECKPOINT_FIXTURE_H
#define RXT_TESTS_CHECKPOINT_FIXTURE_H

#include "rxt/checkpoint_impl.h"
#include "rxt/safetensors_impl.h"
#include "tests/lib/raw_file.h"
#include "tests/lib/tensor_file.h"
#include "tests/lib/test.h"
#include "tests/ref/model_random.h"

#include <jansson.h>

struct fixture {
    char *dir;
    struct tensor_file file; /* as it will be written */
    json_t *config;
    struct checkpoint *ck;
    struct rxt_error err;
};

static inline void fixture_close(struct fixture *f)
{
    checkpoint_close(&f->ck);
    tensor_file_free(&f->file);
    json_decref(f->config);
    test_dir_remove(f->dir);
}

/* Takes what lies in `from`; f->dir is a fresh folder. */
static inline void fixture_load(struct fixture *f, const char *from)
{
    char path[512];
    *f = (struct fixture){.dir = test_dir_make()};
    snprintf(path, sizeof path, "%s/model.safetensors", from);
    tensor_file_read(&f->file, path);
    snprintf(path, sizeof path, "%s/config.json", from);
    f->config = json_load_file(path, 0, NULL);
    assert_non_null(f->config);
}

static inline void fixture_random(struct fixture *f, const struct random_model *how)
{
    char *dir = test_dir_make();
    random_model_write(dir, how);
    fixture_load(f, dir);
    test_dir_remove(dir);
}

/* Writes config and tensors and opens them. */
static inline enum rxt_status fixture_open(struct fixture *f)
{
    char path[512];
    checkpoint_close(&f->ck);
    f->err.text[0] = '\0';
    snprintf(path, sizeof path, "%s/model.safetensors", f->dir);
    tensor_file_write(&f->file, path);
    snprintf(path, sizeof path, "%s/config.json", f->dir);
    assert_int_equal(json_dump_file(f->config, path, 0), 0);
    return checkpoint_open(&f->ck, f->dir, &f->err);
}

/* Takes tensor `name` out of the file, and gives it; its values are the caller's. */
static inline struct file_tensor fixture_take(struct fixture *f, const char *name)
{
    for (int i = 0; i < f->file.n; i++) {
        struct file_tensor t = f->file.tensor[i];
        if (strcmp(t.name, name) != 0)
            continue;
        f->file.tensor[i] = f->file.tensor[--f->file.n];
        return t;
    }
    fail_msg("no tensor %s", name);
    return (struct file_tensor){0};
}

static inline void fixture_drop(struct fixture *f, const char *name)
{
    struct file_tensor t = fixture_take(f, name);
    free(t.f);
    free(t.i);
}

/* Puts a tensor that fixture_take gave back, under its name. */
static inline void fixture_put(struct fixture *f, struct file_tensor t)
{
    struct file_tensor *slot = tensor_file_add(&f->file, t.name, 1, 1);
    free(slot->f);
    *slot = t;
}

/* A second tensor with the values of `name`. */
static inline void fixture_copy(struct fixture *f, const char *name, const char *to)
{
    struct file_tensor t = *tensor_file_get(&f->file, name);
    float *values = malloc(t.n * sizeof *values);
    memcpy(values, t.f, t.n * sizeof *values);
    t.f = values;
    snprintf(t.name, sizeof t.name, "%s", to);
    fixture_put(f, t);
}

static inline void fixture_rename(struct fixture *f, const char *name, const char *to)
{
    struct file_tensor t = fixture_take(f, name);
    snprintf(t.name, sizeof t.name, "%s", to);
    fixture_put(f, t);
}

/* Sets "object.field" or "field" of the config to a JSON text; NULL takes it away. */
static inline void fixture_set(struct fixture *f, const char *path, const char *text)
{
    const char *dot = strchr(path, '.');
    json_t *object = f->config;
    if (dot) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(dot - path), path);
        object = json_object_get(f->config, name);
        path = dot + 1;
    }
    if (!text) {
        (void)json_object_del(object, path);
        return;
    }
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_non_null(value);
    assert_int_equal(json_object_set_new(object, path, value), 0);
}

/* ---- looking at what was bound ---------------------------------------------------------- */

static inline float fixture_at(const struct host_matrix *m, int32_t r, int32_t c)
{
    int32_t row = m->row_of ? m->row_of[r] : r;
    size_t i = m->transposed ? (size_t)c * (size_t)m->rows + (size_t)r
                             : (size_t)row * (size_t)m->cols + (size_t)c;
    return dtype_value(m->data, m->dtype, i);
}

/* m has the values of the tensor, row by row. */
static inline void assert_matrix(const struct fixture *f, const struct host_matrix *m,
                                 const char *name)
{
    const struct file_tensor *t = tensor_file_get(&f->file, name);
    assert_int_equal((size_t)m->rows * (size_t)m->cols, t->n);
    for (int32_t r = 0; r < m->rows; r++)
        for (int32_t c = 0; c < m->cols; c++)
            if (fixture_at(m, r, c) != t->f[(size_t)r * (size_t)m->cols + (size_t)c])
                fail_msg("%s differs at [%d,%d]", name, r, c);
}

static inline void assert_vector(const struct fixture *f, const struct host_vector *v,
                                 const char *name)
{
    const struct file_tensor *t = tensor_file_get(&f->file, name);
    assert_int_equal(v->n, t->n);
    for (int32_t i = 0; i < v->n; i++)
        if (dtype_value(v->data, v->dtype, (size_t)i) != t->f[i])
            fail_msg("%s differs at [%d]", name, i);
}

#endif
