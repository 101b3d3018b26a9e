#include "bridge/server_impl.h"

#include "kernels/base/mem.h"
#include "kernels/base/thread.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct spool {
    struct spool_config cfg;
    struct mailbox in;
    bool has_in, started;
    pthread_t thread;
    struct order stop; /* of it; the others are from the heap */
};

void spool_path(char out[SPOOL_PATH_MAX], const char *folder, uint64_t file)
{
    (void)snprintf(out, SPOOL_PATH_MAX, "%s/%" PRIu64, folder, file);
}

/* ---- one order --------------------------------------------------------------------------- */

static enum rxt_status read_at(const char *path, struct order *o, uint8_t *out, size_t *n,
                               uint64_t *all)
{
    struct stat s;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return RXT_EIO;
    enum rxt_status st = fstat(fd, &s) == 0 && s.st_size >= 0 ? RXT_OK : RXT_EIO;
    *all = st == RXT_OK ? (uint64_t)s.st_size : 0;
    for (*n = 0; st == RXT_OK && *n < o->n_bytes;) {
        ssize_t got = pread(fd, out + *n, o->n_bytes - *n, (off_t)(o->offset + *n));
        if (got < 0 && errno != EINTR)
            st = RXT_EIO;
        if (got == 0)
            break;
        *n += got > 0 ? (size_t)got : 0;
    }
    (void)close(fd);
    return st == RXT_OK && *n == 0 ? RXT_EIO : st; /* nothing there: the file is not what it was */
}

static enum rxt_status write_at(const char *path, const struct order *o)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno == ENOSPC ? RXT_EFULL : RXT_EIO;
    enum rxt_status st = RXT_OK;
    for (size_t n = 0; st == RXT_OK && n < o->n_bytes;) {
        ssize_t put = pwrite(fd, o->bytes + n, o->n_bytes - n, (off_t)(o->offset + n));
        if (put < 0 && errno != EINTR)
            st = errno == ENOSPC ? RXT_EFULL : RXT_EIO;
        n += put > 0 ? (size_t)put : 0;
    }
    if (close(fd) != 0 && st == RXT_OK)
        st = RXT_EIO;
    return st;
}

/* One note with room for n bytes; NULL: no memory. */
static struct batch *new_batch(struct order *o, enum note_kind kind, size_t n)
{
    size_t size = (sizeof(struct note) + n + 15) / 16 * 16;
    struct batch *b = mem_alloc(sizeof *b + size);
    if (!b)
        return NULL;
    b->order.kind = ORDER_BATCH;
    b->room = b->used = size;
    struct note *note = (struct note *)(void *)b->bytes;
    *note = (struct note){.size = (uint32_t)size, .stream = o->stream, .kind = kind};
    return b;
}

static struct batch *do_read(const char *path, struct order *o)
{
    size_t n = 0;
    struct batch *b = new_batch(o, NOTE_CHUNK, o->n_bytes);
    if (!b)
        return NULL;
    struct note *note = (struct note *)(void *)b->bytes;
    note->status = read_at(path, o, (uint8_t *)(note + 1), &n, &note->ticket);
    note->bytes = (uint32_t)n;
    return b;
}

static struct batch *do_write(const char *path, struct order *o)
{
    struct batch *b = new_batch(o, NOTE_WROTE, 0);
    if (!b)
        return NULL;
    struct note *note = (struct note *)(void *)b->bytes;
    note->status = write_at(path, o);
    note->ticket = o->n_bytes;
    return b;
}

/* False: no memory to say what came of it; to be tried again. */
static bool carry_out(struct spool *s, struct order *o)
{
    char path[SPOOL_PATH_MAX];
    struct batch *b = NULL;
    spool_path(path, s->cfg.folder, o->spool);
    if (o->kind == ORDER_DROP) {
        (void)unlink(path);
        return true;
    }
    b = o->kind == ORDER_READ ? do_read(path, o) : do_write(path, o);
    if (!b)
        return false;
    mailbox_post(s->cfg.out, &b->order.mail);
    s->cfg.wake(s->cfg.arg);
    return true;
}

static void *run(void *arg)
{
    struct spool *s = arg;
    thread_name("rxt-spool");
    for (;;) {
        mailbox_wait(&s->in, UINT64_MAX);
        for (struct mail *mail = mailbox_take(&s->in); mail;) {
            struct order *o = (struct order *)mail;
            mail = mail->next;
            if (o->kind == ORDER_STOP)
                return NULL;
            while (!carry_out(s, o))
                (void)nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
            mem_free(o);
        }
    }
}

/* ---- open, close ------------------------------------------------------------------------- */

/* What an earlier process left. Only our own names: digits, and the unfinished files of exports. */
static void remove_leftovers(const char *folder)
{
    DIR *d = opendir(folder);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        char path[SPOOL_PATH_MAX + 256];
        size_t n = strspn(e->d_name, "0123456789");
        if (n == 0 || (e->d_name[n] && strcmp(e->d_name + n, ".part") != 0))
            continue;
        (void)snprintf(path, sizeof path, "%s/%.255s", folder, e->d_name);
        (void)unlink(path);
    }
    (void)closedir(d);
}

enum rxt_status spool_open(struct spool **out, const struct spool_config *cfg,
                           struct rxt_error *err)
{
    struct spool *s = mem_alloc(sizeof *s);
    if (!s)
        return RXT_ENOMEM;
    s->cfg = *cfg;
    enum rxt_status st = mailbox_create(&s->in);
    s->has_in = st == RXT_OK;
    if (st == RXT_OK && mkdir(cfg->folder, 0700) != 0 && errno != EEXIST)
        st = rxt_fail(err, RXT_EIO, "cannot make the folder %.150s: %s", cfg->folder,
                      strerror(errno));
    if (st == RXT_OK) {
        remove_leftovers(cfg->folder);
        s->started = pthread_create(&s->thread, NULL, run, s) == 0;
        if (!s->started)
            st = rxt_fail(err, RXT_EIO, "cannot start the thread of exports and imports");
    }
    if (st != RXT_OK) {
        spool_close(&s);
        return st;
    }
    *out = s;
    return RXT_OK;
}

void spool_post(struct spool *s, struct order *o)
{
    mailbox_post(&s->in, &o->mail);
}

void spool_close(struct spool **spool)
{
    struct spool *s = *spool;
    if (!s)
        return;
    if (s->started) {
        s->stop.kind = ORDER_STOP;
        spool_post(s, &s->stop);
        (void)pthread_join(s->thread, NULL);
    }
    if (s->has_in) {
        for (struct mail *mail = mailbox_take(&s->in), *next; mail; mail = next) {
            next = mail->next;
            mem_free(mail);
        }
        mailbox_destroy(&s->in);
    }
    mem_free(s);
    *spool = NULL;
}
