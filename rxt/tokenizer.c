#include "rxt/tokenizer_impl.h"

#include "rxt/token_impl.h"

#include "kernels/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A scratch that a long text has blown up is given back to the system. */
#define SCRATCH_KEEP ((size_t)8 << 20)

struct token_pool {
    pthread_mutex_t lock; /* of idle: held to take one from the list or to put it back */
    struct token_scratch *idle;
};

/* ---- scratch memory --------------------------------------------------------------------- */

static enum rxt_status pool_create(struct token_pool **out)
{
    *out = mem_alloc(sizeof **out);
    if (!*out || pthread_mutex_init(&(*out)->lock, NULL) != 0) {
        mem_free(*out);
        *out = NULL;
        return RXT_ENOMEM;
    }
    return RXT_OK;
}

static void pool_destroy(struct token_pool *p)
{
    if (!p)
        return;
    while (p->idle) {
        struct token_scratch *s = p->idle;
        p->idle = s->next;
        token_scratch_destroy(&s);
    }
    pthread_mutex_destroy(&p->lock);
    mem_free(p);
}

static enum rxt_status pool_take(const struct tokenizer *t, struct token_scratch **s)
{
    pthread_mutex_lock(&t->pool->lock);
    *s = t->pool->idle;
    if (*s)
        t->pool->idle = (*s)->next;
    pthread_mutex_unlock(&t->pool->lock);
    return *s ? RXT_OK : token_scratch_create(s, t);
}

static void pool_put(const struct tokenizer *t, struct token_scratch *s)
{
    if (token_scratch_bytes(s) > SCRATCH_KEEP) {
        token_scratch_destroy(&s);
        return;
    }
    pthread_mutex_lock(&t->pool->lock);
    s->next = t->pool->idle;
    t->pool->idle = s;
    pthread_mutex_unlock(&t->pool->lock);
}

/* ---- opening ---------------------------------------------------------------------------- */

static enum rxt_status plant(struct tokenizer *t, struct token_scratch *s, size_t i,
                             const char *name)
{
    const struct token_entry *e = &t->vocab.entry[t->added[i].id];
    const char *string = t->vocab.text + e->at;
    size_t len = e->len;
    if (!t->added[i].normalized)
        return token_tree_put(&t->raw, string, len, (int32_t)i);
    TRY(token_normalize(s, string, len, &string, &len));
    enum rxt_status st = RXT_EEXIST;
    if (len > 0)
        st = token_tree_put(&t->normalized, string, len, (int32_t)i);
    if (st == RXT_EEXIST) /* the library takes either, by chance */
        return rxt_fail(s->err, RXT_EUNSUPPORTED,
                        "%s: added_tokens: the normalizer makes token %u equal to %s", name,
                        t->added[i].id, len ? "another" : "nothing");
    return st;
}

/* The strings to cut before normalizing, and the normalized ones to cut after. */
static enum rxt_status plant_trees(struct tokenizer *t, const char *name, struct rxt_error *err)
{
    enum rxt_status st = RXT_OK;
    struct token_scratch *s;
    TRY(pool_take(t, &s));
    s->err = err;
    for (size_t i = 0; st == RXT_OK && i < t->n_added; i++)
        st = plant(t, s, i, name);
    pool_put(t, s);
    return st;
}

static enum rxt_status parse(struct tokenizer **out, const char *name, const char *text, size_t len,
                             struct rxt_error *err)
{
    enum rxt_status st;
    *out = NULL;
    struct tokenizer *t = mem_alloc(sizeof *t);
    if (!t)
        return rxt_fail(err, RXT_ENOMEM, "%s: out of memory", name);
    token_tree_init(&t->raw);
    token_tree_init(&t->normalized);
    TRY_OR(fail, pool_create(&t->pool));
    TRY_OR(fail, token_file_read(t, name, text, len, err));
    TRY_OR(fail, plant_trees(t, name, err));
    *out = t;
    return RXT_OK;
fail:
    tokenizer_destroy(&t);
    return st == RXT_ENOMEM ? rxt_fail(err, st, "%s: out of memory", name) : st;
}

enum rxt_status tokenizer_parse(struct tokenizer **out, const char *text, size_t len,
                                struct rxt_error *err)
{
    return parse(out, "tokenizer.json", text, len, err);
}

static enum rxt_status read_file(int fd, size_t size, char *text)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, text + done, size - done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EINTR) /* 0: it shrinks under our eyes */
            return RXT_EIO;
    }
    return RXT_OK;
}

enum rxt_status tokenizer_open(struct tokenizer **out, const char *path, struct rxt_error *err)
{
    enum rxt_status st = RXT_OK;
    struct stat info;
    char *text = NULL;
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0) {
        st = rxt_fail(err, RXT_EIO, "%s: %s", path, strerror(errno));
        goto end;
    }
    if (!S_ISREG(info.st_mode) || info.st_size <= 0) {
        st = rxt_fail(err, RXT_EFORMAT, "%s: not a file, or empty", path);
        goto end;
    }
    size_t size = (size_t)info.st_size;
    if (size > TOKENIZER_FILE_MAX) {
        st = rxt_fail(err, RXT_ELIMIT, "%s: %zu bytes; the limit is %zu", path, size,
                      TOKENIZER_FILE_MAX);
        goto end;
    }
    text = mem_alloc(size);
    if (!text) {
        st = rxt_fail(err, RXT_ENOMEM, "%s: out of memory for %zu bytes", path, size);
        goto end;
    }
    st = read_file(fd, size, text);
    if (st != RXT_OK) {
        st = rxt_fail(err, st, "%s: cannot be read to its end", path);
        goto end;
    }
    st = parse(out, path, text, size, err);
end:
    mem_free(text);
    if (fd >= 0)
        close(fd);
    return st;
}

void tokenizer_destroy(struct tokenizer **t)
{
    struct tokenizer *k = *t;
    *t = NULL;
    if (!k)
        return;
    pool_destroy(k->pool);
    token_vocab_free(&k->vocab);
    token_merges_free(&k->merges);
    mem_free(k->added);
    token_tree_free(&k->raw);
    token_tree_free(&k->normalized);
    for (size_t i = 0; i < k->n_normal; i++) {
        token_pattern_free(&k->normal[i].pattern);
        mem_free(k->normal[i].text);
    }
    for (size_t i = 0; i < k->n_split; i++)
        token_pattern_free(&k->split[i].pattern);
    mem_free(k);
}

/* ---- ids and strings -------------------------------------------------------------------- */

static const struct token_entry *entry_of(const struct tokenizer *t, int32_t id)
{
    if (id < 0 || (size_t)id >= t->vocab.n_id || t->vocab.entry[id].flags == 0)
        return NULL;
    return &t->vocab.entry[id];
}

enum rxt_status tokenizer_mark_special(struct tokenizer *t, int32_t id, struct rxt_error *err)
{
    const struct token_entry *e = entry_of(t, id);
    if (!e)
        return rxt_fail(err, RXT_EINVAL, "tokenizer: no token of id %d", id);
    if (e->flags & TOKEN_MADE)
        return rxt_fail(err, RXT_EUNSUPPORTED,
                        "tokenizer: token %d cannot be special, plain text yields it", id);
    t->vocab.entry[id].flags |= TOKEN_SPECIAL;
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].id == (uint32_t)id)
            t->added[i].special = true;
    return RXT_OK;
}

int32_t tokenizer_n_id(const struct tokenizer *t)
{
    return (int32_t)t->vocab.n_id;
}

int32_t tokenizer_id(const struct tokenizer *t, const char *token, size_t len)
{
    uint32_t id = token_vocab_find(&t->vocab, token, len);
    return id == TOKEN_NONE ? -1 : (int32_t)id;
}

const char *tokenizer_token(const struct tokenizer *t, int32_t id)
{
    const struct token_entry *e = entry_of(t, id);
    return e ? t->vocab.text + e->at : NULL;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    const struct token_entry *e = entry_of(t, id);
    return e && e->flags & TOKEN_SPECIAL;
}

/* ---- encoding --------------------------------------------------------------------------- */

enum rxt_status tokenizer_encode(const struct tokenizer *t, enum rxt_text_mode mode,
                                 const char *text, size_t len, int32_t *ids, size_t cap, size_t *n,
                                 struct rxt_error *err)
{
    struct token_scratch *s;
    *n = 0;
    TRY(pool_take(t, &s));
    s->mode = mode;
    s->ids = ids;
    s->cap = cap;
    s->n = 0;
    s->err = err;
    enum rxt_status st = token_encode(s, text, len);
    if (st == RXT_OK) {
        *n = s->n;
        if (s->n > cap)
            st = rxt_fail(err, RXT_ELIMIT, "text of %zu tokens; there is room for %zu", s->n, cap);
    }
    pool_put(t, s);
    return st;
}
