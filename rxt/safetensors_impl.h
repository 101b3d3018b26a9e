/* Read-only view of a safetensors checkpoint: one file, or shards named by an index. The header is
 * checked completely at open, the data is mapped and never copied.
 *
 * File: 8 bytes N little endian, N bytes JSON, data. The JSON maps each tensor name to its dtype,
 * shape and data_offsets [begin, end) in the data; "__metadata__" maps strings to strings.
 *
 * Hostile files: every number is checked before it is used. A file that another process shortens
 * in place while it is mapped ends this process with SIGBUS, as with every mapping; to replace a
 * model, write a new file and rename it. Not thread-safe to open; lookups are reads only. */
#ifndef RXT_SAFETENSORS_IMPL_H
#define RXT_SAFETENSORS_IMPL_H

#include "kernels/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Enum, name in the file, bytes of an element. */
#define ST_DTYPE_TABLE(X)       \
    X(ST_F64, "F64", 8)         \
    X(ST_F32, "F32", 4)         \
    X(ST_F16, "F16", 2)         \
    X(ST_BF16, "BF16", 2)       \
    X(ST_F8_E4M3, "F8_E4M3", 1) \
    X(ST_F8_E5M2, "F8_E5M2", 1) \
    X(ST_I64, "I64", 8)         \
    X(ST_I32, "I32", 4)         \
    X(ST_I16, "I16", 2)         \
    X(ST_I8, "I8", 1)           \
    X(ST_U64, "U64", 8)         \
    X(ST_U32, "U32", 4)         \
    X(ST_U16, "U16", 2)         \
    X(ST_U8, "U8", 1)           \
    X(ST_BOOL, "BOOL", 1)

enum st_dtype {
#define ST_DTYPE_ENUM(code, name, bytes) code,
    ST_DTYPE_TABLE(ST_DTYPE_ENUM)
#undef ST_DTYPE_ENUM
};
const char *st_dtype_name(enum st_dtype t);
size_t st_dtype_bytes(enum st_dtype t);

#define ST_MAX_DIM 8
#define ST_MAX_NAME 255          /* bytes; printable ASCII without " and \ */
#define ST_MAX_HEADER 100000000u /* bytes of JSON; the limit of the format */
#define ST_MAX_TENSOR 1000000    /* in all shards together */
#define ST_MAX_SHARD 4096
#define ST_MAX_INDEX ((size_t)64 * 1024 * 1024) /* bytes of an index */

struct st_tensor {
    const char *name;
    enum st_dtype dtype;
    int32_t n_dim;
    int64_t shape[ST_MAX_DIM];
    uint64_t begin, bytes; /* in the data of its file */
    const void *data;      /* aligned to its dtype; any address if bytes == 0 */
    int32_t file;
    bool copied; /* data is a copy of our own, because it lies unaligned in the file */
};

struct safetensors;

/* Opens DIR/model.safetensors or, if there is none, the shards of DIR/model.safetensors.index.json.
 * Gives *out. err names file and tensor. EIO, ENOTFOUND, EFORMAT, ELIMIT, EUNSUPPORTED (dtype),
 * ENOMEM. */
enum rxt_status safetensors_open(struct safetensors **out, const char *dir, struct rxt_error *err);
/* Opens one file. */
enum rxt_status safetensors_open_file(struct safetensors **out, const char *path,
                                      struct rxt_error *err);
/* The same over bytes in memory, which must outlive *out; name is for messages. */
enum rxt_status safetensors_open_memory(struct safetensors **out, const void *bytes, size_t n,
                                        const char *name, struct rxt_error *err);
void safetensors_close(struct safetensors **st); /* NULL-safe */

int32_t safetensors_count(const struct safetensors *st);
/* i-th tensor in the order of names (bytes compared), 0 <= i < count; lent until close. */
const struct st_tensor *safetensors_at(const struct safetensors *st, int32_t i);
/* NULL if there is none of this name. Binary search: 17 comparisons among 100,000. */
const struct st_tensor *safetensors_find(const struct safetensors *st, const char *name);
/* Its place in the order of names. */
int32_t safetensors_index(const struct safetensors *st, const struct st_tensor *t);

/* Files in the order of their names, for messages and for hashing. */
int32_t safetensors_n_file(const struct safetensors *st);
const char *safetensors_file_name(const struct safetensors *st, int32_t file); /* no folder */
/* Name and raw bytes of a file, mapped. */
const void *safetensors_file_bytes(const struct safetensors *st, int32_t file, size_t *n);

/* Gives the physical memory behind the mappings back, but for [keep, keep + n): they are read
 * again from the file if they are touched. For after the weights were packed. */
void safetensors_drop(const struct safetensors *st, const void *keep, size_t n);

#endif
