/* A session as a file: EXPORT writes it, IMPORT reads it. */
#define _XOPEN_SOURCE 700 /* realpath */
#include "bridge/bridge_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- export ----------------------------------------------------------------------------- */

static const char erased[] = "the session was erased before its export had ended";

/* So much at once goes to the disk: more of it would be in the way of what others sync. */
#define SYNC_BYTES STORE_CHUNK_BYTES

/* A pipe or a device may have nothing to sync. */
static bool synced(int fd, int (*sync)(int))
{
    struct stat s;
    return sync(fd) == 0 || (errno == EINVAL && fstat(fd, &s) == 0 && !S_ISREG(s.st_mode));
}

static enum rxt_status write_all(void *arg, const void *bytes, size_t n)
{
    struct task *t = arg;
    if (atomic_load(&t->write.unwanted))
        return RXT_ENOTFOUND;
    t->write.unsynced += n;
    for (const char *p = bytes; n > 0;) {
        ssize_t done = write(t->write.fd, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return errno == ENOSPC ? RXT_EFULL : RXT_EIO;
        p += done;
        n -= (size_t)done;
    }
    if (t->write.unsynced < SYNC_BYTES)
        return RXT_OK;
    t->write.unsynced = 0;
    return synced(t->write.fd, fdatasync) ? RXT_OK : RXT_EIO;
}

static enum rxt_status write_export(struct task *t, struct store *store, const char *path,
                                    struct rxt_error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return rxt_fail(err, RXT_EIO, "cannot write %.180s: %s", path, strerror(errno));
    t->write.fd = fd;
    enum rxt_status st = store_export(store, t->r.tenant, t->r.session, true, write_all, t, err);
    if (st == RXT_OK && !synced(fd, fsync))
        st = rxt_fail(err, RXT_EIO, "cannot sync %.180s: %s", path, strerror(errno));
    if (close(fd) != 0 && st == RXT_OK)
        st = rxt_fail(err, RXT_EIO, "cannot close %.180s: %s", path, strerror(errno));
    return atomic_load(&t->write.unwanted) ? rxt_fail(err, RXT_ENOTFOUND, erased) : st;
}

/* Under another name until it is whole and on the disk. */
static enum rxt_status replace_file(struct task *t, struct store *store, const char *path,
                                    struct rxt_error *err)
{
    char part[PATH_MAX];
    int n = snprintf(part, sizeof part, "%s.part", path);
    if (n < 0 || (size_t)n >= sizeof part)
        return rxt_fail(err, RXT_ELIMIT, "the path is longer than %zu bytes", sizeof part - 6);
    enum rxt_status st = write_export(t, store, part, err);
    if (st == RXT_OK && rename(part, path) != 0)
        st = rxt_fail(err, RXT_EIO, "cannot write %.180s: %s", path, strerror(errno));
    if (st != RXT_OK)
        (void)unlink(part);
    return st;
}

/* A file is replaced as a whole, also behind a link (/dev/stdout is one); a pipe or a device is
 * written to. */
static enum rxt_status run_export(struct work *w, struct store *store, struct rxt_error *err)
{
    struct task *t = w->owner;
    const char *path = t->r.path;
    struct stat s;
    char file[PATH_MAX];
    if (stat(path, &s) != 0 || S_ISDIR(s.st_mode))
        return replace_file(t, store, path, err);
    if (!S_ISREG(s.st_mode))
        return write_export(t, store, path, err);
    return replace_file(t, store, realpath(path, file) ? file : path, err);
}

static void export_done(struct work *w)
{
    struct task *t = w->owner;
    struct bridge *b = t->bridge;
    verb_finished(w);
    if (--b->n_export == 0)
        erases_go_on(b);
}

static bool erase_waits_behind(const struct task *t)
{
    for (const struct task *u = t->next; u; u = u->next)
        if (u->r.verb == BRIDGE_ERASE)
            return true;
    return false;
}

void export_waits(struct task *t, bool waits)
{
    t->bridge->n_export_waits += waits - t->waits_erase;
    t->waits_erase = waits;
}

/* An export that began beside an ERASE would keep it from its end, and the next one, and so on: it
 * waits, and ERASEs that come later wait for it. */
void export_start(struct task *t)
{
    struct bridge *b = t->bridge;
    if (erase_waits_behind(t)) {
        task_fail(t, RXT_ENOTFOUND, erased);
        return;
    }
    bool waited = t->waits_erase;
    export_waits(t, b->n_erase > 0);
    if (t->waits_erase)
        return;
    if (waited)
        verbs_look_again(b, BRIDGE_ERASE);
    atomic_store(&t->write.unwanted, false); /* an ERASE may have come and been cancelled */
    b->n_export++;
    t->work_out = true;
    bridge_post_export(b, &t->write.work, run_export, export_done, t);
}

void exports_unwanted(struct session *s)
{
    for (struct task *t = s->queue; t; t = t->next)
        if (t->r.verb == BRIDGE_EXPORT)
            atomic_store(&t->write.unwanted, true);
}

/* ---- import ----------------------------------------------------------------------------- */

static enum rxt_status read_all(void *arg, void *bytes, size_t n)
{
    const struct task *t = arg;
    for (char *p = bytes; n > 0;) {
        ssize_t done = read(t->write.fd, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return RXT_EIO;
        if (done == 0)
            return RXT_EFORMAT;
        p += done;
        n -= (size_t)done;
    }
    return RXT_OK;
}

static enum rxt_status check_import(void *arg, const struct store_session *x, struct rxt_error *err)
{
    const struct task *t = arg;
    TRY(verb_check_sessions(t, t->write.store, err));
    if (task_check_name("origin's", x->origin, err) != RXT_OK) /* clients are told it */
        return rxt_fail(err, RXT_EFORMAT, "the export is of a session that has no name");
    return session_check_model(x, rxt_model_info(t->bridge->model), err);
}

static enum rxt_status begin_import(struct task *t, struct store *store, struct rxt_error *err)
{
    const struct store_source from = {.read = read_all, .accept = check_import, .arg = t};
    t->write.store = store;
    t->write.fd = open(t->r.path, O_RDONLY | O_CLOEXEC);
    if (t->write.fd < 0)
        return rxt_fail(err, RXT_EIO, "cannot read %.180s: %s", t->r.path, strerror(errno));
    enum rxt_status st =
        store_import_begin(&t->write.import, store, t->r.tenant, t->r.session, &from, err);
    if (st != RXT_OK)
        (void)close(t->write.fd);
    return st;
}

/* A large image goes in pieces, and the turns of others between them. */
static enum rxt_status run_import(struct work *w, struct store *store, struct rxt_error *err)
{
    struct task *t = w->owner;
    if (!t->write.import)
        TRY(begin_import(t, store, err));
    enum rxt_status st = store_import_step(t->write.import, &w->again, err);
    if (w->again)
        return RXT_OK;
    store_import_end(&t->write.import);
    (void)close(t->write.fd);
    if (st == RXT_OK)
        st = store_session_get(store, t->r.tenant, t->r.session, &t->write.session, err);
    return st;
}

void import_start(struct task *t)
{
    verb_post(t, run_import, verb_opened, true);
}
