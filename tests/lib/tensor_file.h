/* Safetensors files for tests, read and written by code of their own: an error in the shipped
 * reader must show. Trusts what it reads; a file that cannot be read fails the test. */
#ifndef RXT_TESTS_TENSOR_FILE_H
#define RXT_TESTS_TENSOR_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct file_tensor {
    char name[160];
    int n_dim;
    int64_t dim[4];
    size_t n;   /* elements */
    bool bf16;  /* how the file holds f: BF16 or F32 */
    float *f;   /* F32, BF16 widened; NULL for I32 */
    int32_t *i; /* I32; NULL else */
};

struct tensor_file {
    struct file_tensor *tensor;
    int n, cap;
};

void tensor_file_read(struct tensor_file *out, const char *path);
/* NULL if there is none of this name. */
const struct file_tensor *tensor_file_find(const struct tensor_file *t, const char *name);
/* The same, but fails the test. */
const struct file_tensor *tensor_file_get(const struct tensor_file *t, const char *name);

/* Adds a tensor of zeros and returns it, lent until the next add. n_dim sizes follow. */
struct file_tensor *tensor_file_add(struct tensor_file *t, const char *name, int n_dim, ...);
void tensor_file_write(const struct tensor_file *t, const char *path);
void tensor_file_free(struct tensor_file *t);

#endif
