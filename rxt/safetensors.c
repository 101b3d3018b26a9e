#define _DEFAULT_SOURCE /* madvise */
#include "rxt/safetensors_impl.h"

#include "kernels/base/mem.h"
#include "rxt/safetensors_parse_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

struct file {
    char *name;         /* without folder */
    char *header;       /* own copy of the JSON; the names of the tensors lie in it */
    const char *bytes;  /* the whole file: mapped, or lent by the caller */
    size_t n, n_mapped; /* n_mapped 0: lent */
};

struct safetensors {
    struct file *file;
    int32_t n_file, cap_file;
    struct st_list list;
};

static enum rxt_status no_memory(struct rxt_error *err, const char *file)
{
    return rxt_fail(err, RXT_ENOMEM, "%s: out of memory", file);
}

/* ---- one file --------------------------------------------------------------------------- */

/* Size of a header: the first 8 bytes. */
static uint64_t header_size(const char *bytes)
{
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | (unsigned char)bytes[i];
    return n;
}

/* Copies the header and reads it. */
static enum rxt_status read_header(struct safetensors *st, struct file *f, struct rxt_error *err)
{
    if (!f->bytes || f->n < 8) /* an empty file is not mapped */
        return rxt_fail(err, RXT_EFORMAT, "%s: %zu bytes are too few for a header", f->name, f->n);
    uint64_t n = header_size(f->bytes);
    if (n > ST_MAX_HEADER)
        return rxt_fail(err, RXT_ELIMIT, "%s: a header of %llu bytes is over the limit of %u",
                        f->name, (unsigned long long)n, ST_MAX_HEADER);
    if (n > f->n - 8)
        return rxt_fail(err, RXT_EFORMAT, "%s: the header of %llu bytes is cut off", f->name,
                        (unsigned long long)n);
    f->header = mem_alloc((size_t)n + 1);
    if (!f->header)
        return no_memory(err, f->name);
    memcpy(f->header, f->bytes + 8, (size_t)n);

    int32_t first = st->list.n, file = (int32_t)(f - st->file);
    TRY(st_header_parse(&st->list, f->header, (size_t)n, f->n - 8 - n, file, f->name, err));
    for (int32_t i = first; i < st->list.n; i++)
        st->list.tensor[i].data = f->bytes + 8 + n + st->list.tensor[i].begin;
    return RXT_OK;
}

/* The next place of st->file, which holds `name` and nothing yet. */
static enum rxt_status add_file(struct safetensors *st, const char *name, struct file **out,
                                struct rxt_error *err)
{
    if (st->n_file == st->cap_file) {
        int32_t cap = st->cap_file ? 2 * st->cap_file : 1;
        void *grown = mem_realloc(st->file, (size_t)cap * sizeof *st->file);
        if (!grown)
            return no_memory(err, name);
        st->file = grown;
        st->cap_file = cap;
    }
    struct file *f = &st->file[st->n_file];
    *f = (struct file){.name = mem_strdup(name)};
    if (!f->name)
        return no_memory(err, name);
    st->n_file++;
    *out = f;
    return RXT_OK;
}

static enum rxt_status io_error(struct rxt_error *err, const char *name)
{
    if (errno == ENOENT)
        return rxt_fail(err, RXT_ENOTFOUND, "%s: no such file", name);
    if (errno == ENOMEM)
        return no_memory(err, name);
    return rxt_fail(err, RXT_EIO, "%s: %s", name, strerror(errno));
}

/* Opens a regular file for reading: nothing else has bytes that can be mapped. Never waits for the
 * other end of a pipe. */
static enum rxt_status open_regular(const char *path, const char *name, int *fd, size_t *size,
                                    struct rxt_error *err)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return io_error(err, name);
    struct stat s;
    if (fstat(*fd, &s) != 0) {
        enum rxt_status st = io_error(err, name);
        close(*fd);
        return st;
    }
    if (!S_ISREG(s.st_mode)) {
        close(*fd);
        return rxt_fail(err, RXT_EIO, "%s: not a regular file", name);
    }
    *size = (size_t)s.st_size;
    return RXT_OK;
}

static enum rxt_status map_file(struct safetensors *st, const char *path, struct rxt_error *err)
{
    const char *slash = strrchr(path, '/');
    struct file *f = NULL;
    TRY(add_file(st, slash ? slash + 1 : path, &f, err));
    int fd = -1;
    TRY(open_regular(path, f->name, &fd, &f->n, err));
    void *map = f->n ? mmap(NULL, f->n, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    if (map == MAP_FAILED) {
        enum rxt_status failed = io_error(err, f->name);
        close(fd);
        return failed;
    }
    close(fd);
    f->bytes = map;
    f->n_mapped = f->n;
    return read_header(st, f, err);
}

/* ---- all files -------------------------------------------------------------------------- */

static int by_name(const void *pa, const void *pb)
{
    const struct st_tensor *a = pa, *b = pb;
    int order = strcmp(a->name, b->name);
    return order ? order : a->file - b->file;
}

/* Compute reads values of its dtype: what lies at an odd address is copied, once. Files of the
 * usual writers have none. */
static enum rxt_status align(struct safetensors *st, struct rxt_error *err)
{
    for (int32_t i = 0; i < st->list.n; i++) {
        struct st_tensor *t = &st->list.tensor[i];
        if (t->bytes == 0 || (uintptr_t)t->data % st_dtype_bytes(t->dtype) == 0)
            continue;
        void *copy = mem_dup(t->data, t->bytes);
        if (!copy)
            return no_memory(err, t->name);
        t->data = copy;
        t->copied = true;
    }
    return RXT_OK;
}

static enum rxt_status finish(struct safetensors *st, struct rxt_error *err)
{
    struct st_tensor *t = st->list.tensor;
    if (st->list.n > 0)
        qsort(t, (size_t)st->list.n, sizeof *t, by_name);
    for (int32_t i = 1; i < st->list.n; i++) {
        if (strcmp(t[i].name, t[i - 1].name) != 0)
            continue;
        if (t[i].file == t[i - 1].file)
            return rxt_fail(err, RXT_EFORMAT, "%s: tensor '%s' stands there twice",
                            st->file[t[i].file].name, t[i].name);
        return rxt_fail(err, RXT_EFORMAT, "%s: tensor '%s' is also in %s", st->file[t[i].file].name,
                        t[i].name, st->file[t[i - 1].file].name);
    }
    return align(st, err);
}

static struct safetensors *create(struct rxt_error *err)
{
    struct safetensors *st = mem_alloc(sizeof *st);
    if (!st)
        (void)no_memory(err, "safetensors");
    return st;
}

enum rxt_status safetensors_open_file(struct safetensors **out, const char *path,
                                      struct rxt_error *err)
{
    *out = NULL;
    enum rxt_status st;
    struct safetensors *s = create(err);
    if (!s)
        return RXT_ENOMEM;
    TRY_OR(fail, map_file(s, path, err));
    TRY_OR(fail, finish(s, err));
    *out = s;
    return RXT_OK;
fail:
    safetensors_close(&s);
    return st;
}

enum rxt_status safetensors_open_memory(struct safetensors **out, const void *bytes, size_t n,
                                        const char *name, struct rxt_error *err)
{
    *out = NULL;
    enum rxt_status st;
    struct file *f = NULL;
    struct safetensors *s = create(err);
    if (!s)
        return RXT_ENOMEM;
    TRY_OR(fail, add_file(s, name, &f, err));
    f->bytes = bytes;
    f->n = n;
    TRY_OR(fail, read_header(s, f, err));
    TRY_OR(fail, finish(s, err));
    *out = s;
    return RXT_OK;
fail:
    safetensors_close(&s);
    return st;
}

void safetensors_close(struct safetensors **st)
{
    struct safetensors *s = *st;
    if (!s)
        return;
    for (int32_t i = 0; i < s->list.n; i++) {
        if (s->list.tensor[i].copied)
            mem_free((void *)s->list.tensor[i].data);
    }
    for (int32_t i = 0; i < s->n_file; i++) {
        mem_free(s->file[i].name);
        mem_free(s->file[i].header);
        if (s->file[i].n_mapped)
            munmap((void *)s->file[i].bytes, s->file[i].n_mapped);
    }
    mem_free(s->list.tensor);
    mem_free(s->file);
    mem_free(s);
    *st = NULL;
}

/* ---- shards ----------------------------------------------------------------------------- */

static enum rxt_status join(char *out, size_t size, const char *dir, const char *name,
                            struct rxt_error *err)
{
    int n = snprintf(out, size, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= size)
        return rxt_fail(err, RXT_EINVAL, "%s: path of the folder is too long", name);
    return RXT_OK;
}

static enum rxt_status read_index(struct st_index *out, const char *path, struct rxt_error *err)
{
    int fd = -1;
    size_t n = 0;
    TRY(open_regular(path, INDEX, &fd, &n, err));
    if (n == 0 || n > ST_MAX_INDEX) {
        close(fd);
        return rxt_fail(err, RXT_ELIMIT, INDEX ": %zu bytes; at least 1, at most %zu", n,
                        ST_MAX_INDEX);
    }
    void *map = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    enum rxt_status st = map == MAP_FAILED ? io_error(err, INDEX) : RXT_OK;
    close(fd);
    TRY(st);
    st = st_index_parse(out, map, n, err);
    munmap(map, n);
    return st;
}

static int row_by_file(const void *a, const void *b)
{
    return strcmp(((const struct st_index_row *)a)->file, ((const struct st_index_row *)b)->file);
}

static int row_by_name(const void *a, const void *b)
{
    return strcmp(((const struct st_index_row *)a)->name, ((const struct st_index_row *)b)->name);
}

/* Opens each shard once, in the order of their names. */
static enum rxt_status map_shards(struct safetensors *st, const char *dir, struct st_index *index,
                                  struct rxt_error *err)
{
    char path[4096];
    qsort(index->row, (size_t)index->n, sizeof *index->row, row_by_file);
    for (int32_t i = 0; i < index->n; i++) {
        const char *name = index->row[i].file;
        if (i > 0 && strcmp(name, index->row[i - 1].file) == 0)
            continue;
        if (st->n_file == ST_MAX_SHARD)
            return rxt_fail(err, RXT_ELIMIT, INDEX ": more than %d shards", ST_MAX_SHARD);
        TRY(join(path, sizeof path, dir, name, err));
        TRY(map_file(st, path, err));
    }
    return RXT_OK;
}

static enum rxt_status not_in_index(const struct safetensors *st, int32_t i, struct rxt_error *err)
{
    const struct st_tensor *t = &st->list.tensor[i];
    return rxt_fail(err, RXT_EFORMAT, "%s: tensor '%s' is not in " INDEX, st->file[t->file].name,
                    t->name);
}

static enum rxt_status not_in_shard(const struct st_index_row *row, struct rxt_error *err)
{
    return rxt_fail(err, RXT_ENOTFOUND, "%s: tensor '%s' is missing, " INDEX " puts it here",
                    row->file, row->name);
}

/* The index and the shards must tell the same: each tensor in the shard named for it, and no other
 * tensors. */
static enum rxt_status check_index(const struct safetensors *st, struct st_index *index,
                                   struct rxt_error *err)
{
    qsort(index->row, (size_t)index->n, sizeof *index->row, row_by_name);
    for (int32_t i = 0; i < index->n || i < st->list.n; i++) {
        if (i == st->list.n)
            return not_in_shard(&index->row[i], err);
        if (i == index->n)
            return not_in_index(st, i, err);
        const struct st_tensor *t = &st->list.tensor[i];
        const struct st_index_row *row = &index->row[i];
        int order = strcmp(t->name, row->name);
        if (order != 0)
            return order < 0 ? not_in_index(st, i, err) : not_in_shard(row, err);
        if (strcmp(st->file[t->file].name, row->file) != 0)
            return rxt_fail(err, RXT_EFORMAT, "%s: tensor '%s' belongs into %s by " INDEX,
                            st->file[t->file].name, t->name, row->file);
    }
    return RXT_OK;
}

static enum rxt_status open_shards(struct safetensors **out, const char *dir, const char *path,
                                   struct rxt_error *err)
{
    enum rxt_status st;
    struct st_index index = {0};
    struct safetensors *s = create(err);
    if (!s)
        return RXT_ENOMEM;
    TRY_OR(fail, read_index(&index, path, err));
    TRY_OR(fail, map_shards(s, dir, &index, err));
    TRY_OR(fail, finish(s, err));
    TRY_OR(fail, check_index(s, &index, err));
    st_index_free(&index);
    *out = s;
    return RXT_OK;
fail:
    st_index_free(&index);
    safetensors_close(&s);
    return st;
}

enum rxt_status safetensors_open(struct safetensors **out, const char *dir, struct rxt_error *err)
{
    *out = NULL;
    char path[4096];
    TRY(join(path, sizeof path, dir, SINGLE, err));
    if (access(path, F_OK) == 0)
        return safetensors_open_file(out, path, err);
    TRY(join(path, sizeof path, dir, INDEX, err));
    if (access(path, F_OK) == 0)
        return open_shards(out, dir, path, err);
    return rxt_fail(err, RXT_ENOTFOUND, "%s: neither " SINGLE " nor " INDEX " is there", dir);
}

/* ---- look ups --------------------------------------------------------------------------- */

int32_t safetensors_count(const struct safetensors *st)
{
    return st->list.n;
}

const struct st_tensor *safetensors_at(const struct safetensors *st, int32_t i)
{
    return &st->list.tensor[i];
}

static int name_against(const void *name, const void *t)
{
    return strcmp(name, ((const struct st_tensor *)t)->name);
}

const struct st_tensor *safetensors_find(const struct safetensors *st, const char *name)
{
    if (st->list.n == 0)
        return NULL;
    return bsearch(name, st->list.tensor, (size_t)st->list.n, sizeof *st->list.tensor,
                   name_against);
}

int32_t safetensors_index(const struct safetensors *st, const struct st_tensor *t)
{
    return (int32_t)(t - st->list.tensor);
}

int32_t safetensors_n_file(const struct safetensors *st)
{
    return st->n_file;
}

const char *safetensors_file_name(const struct safetensors *st, int32_t file)
{
    return st->file[file].name;
}

const void *safetensors_file_bytes(const struct safetensors *st, int32_t file, size_t *n)
{
    *n = st->file[file].n;
    return st->file[file].bytes;
}

/* Whole pages of [begin, end). */
static void drop_range(const char *begin, const char *end)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    begin += (page - (uintptr_t)begin % page) % page;
    end -= (uintptr_t)end % page;
    if (begin < end)
        (void)madvise((void *)begin, (size_t)(end - begin), MADV_DONTNEED); /* a hint */
}

void safetensors_drop(const struct safetensors *st, const void *keep, size_t n)
{
    const char *first = n > 0 ? keep : NULL, *last = first ? first + n : NULL;
    for (int32_t i = 0; i < st->n_file; i++) {
        const struct file *f = &st->file[i];
        if (f->n_mapped == 0)
            continue;
        const char *begin = f->bytes, *end = begin + f->n_mapped;
        bool inside =
            first && (uintptr_t)first >= (uintptr_t)begin && (uintptr_t)last <= (uintptr_t)end;
        drop_range(begin, inside ? first : end);
        if (inside)
            drop_range(last, end);
    }
}
