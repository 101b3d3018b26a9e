/* A copy of the whole file while others write it. */
#define _DEFAULT_SOURCE /* O_DIRECTORY */
#include "store/sqlite/sqlite_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PATH_SIZE 4096

/* A name in a folder is durable when the folder is. */
static enum rxt_status sync_folder_of(const char *path, struct rxt_error *err)
{
    char dir[PATH_SIZE];
    (void)snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    if (!slash)
        (void)snprintf(dir, sizeof dir, ".");
    else
        slash[slash == dir] = '\0';
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int ok = fd >= 0 && fsync(fd) == 0;
    int no = errno;
    if (fd >= 0)
        close(fd);
    return ok ? RXT_OK : rxt_fail(err, RXT_EIO, "cannot sync folder %s: %s", dir, strerror(no));
}

/* One step of all pages: in the log mode it reads one state and holds no writer up. */
static enum rxt_status copy_to(struct store *s, const char *path, struct rxt_error *err)
{
    sqlite3 *to = NULL;
    int rc = sqlite3_open_v2(
        path, &to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    sqlite3_backup *b = rc == SQLITE_OK ? sqlite3_backup_init(to, "main", s->db, "main") : NULL;
    if (b) {
        (void)sqlite3_backup_step(b, -1);
        rc = sqlite3_backup_finish(b);
    } else if (rc == SQLITE_OK) {
        rc = sqlite3_extended_errcode(to);
    }
    enum rxt_status st = RXT_OK;
    if (rc != SQLITE_OK)
        st = rxt_fail(err, sql_status(rc), "cannot copy store %s: %s (to %s)", s->path,
                      sqlite3_errmsg(to), path);
    int closed = sqlite3_close(to);
    if (st == RXT_OK && closed != SQLITE_OK)
        st = rxt_fail(err, sql_status(closed), "cannot finish copy %s", path);
    return st;
}

enum rxt_status store_backup(struct store *s, const char *path, struct rxt_error *err)
{
    char part[PATH_SIZE]; /* the name is given to a copy that is whole */
    int n = snprintf(part, sizeof part, "%s.part", path);
    if (n < 0 || (size_t)n >= sizeof part)
        return rxt_fail(err, RXT_EINVAL, "path of the copy is too long");
    if (s->mode != STORE_IDLE)
        return rxt_fail(err, RXT_EINVAL, "a backup inside a batch or view");
    if (access(path, F_OK) == 0)
        return rxt_fail(err, RXT_EEXIST, "%s is there already", path);
    int fd = open(part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return rxt_fail(err, errno == EEXIST ? RXT_EEXIST : RXT_EIO, "cannot make %s: %s", part,
                        strerror(errno));
    close(fd);
    enum rxt_status st = copy_to(s, part, err);
    /* link, not rename: it does not replace a file that came in between */
    if (st == RXT_OK && link(part, path) != 0)
        st = rxt_fail(err, errno == EEXIST ? RXT_EEXIST : RXT_EIO, "cannot name the copy %s: %s",
                      path, strerror(errno));
    (void)unlink(part);
    return st == RXT_OK ? sync_folder_of(path, err) : st;
}
