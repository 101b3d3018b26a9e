/* One writer a file. What decides is a lock on the file beside the store, because the system drops
 * it with the process, whatever way that ends. The fence in the store is the second line: should
 * two processes ever hold a lock each (a lock file deleted by hand, a file system without locks),
 * the older one finds a higher fence inside its next transaction and writes nothing. */
#define _DEFAULT_SOURCE /* flock, gethostname */
#include "store/sqlite/sqlite_impl.h"

#include "kernels/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOCK_PATH_MAX 4096
#define HOST_MAX 64
#define WAIT_STEP_MS 5u

struct lease_row {
    uint64_t fence;
    int64_t pid;
    char host[HOST_MAX];
};

static enum rxt_status lease_read(struct store *s, struct lease_row *out, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_LEASE_GET);
    enum rxt_status st = query_row(&q, "read the lease", err);
    if (st == RXT_OK) {
        out->fence = column_count(&q, 0, INT64_MAX);
        out->pid = column_int(&q, 1);
        column_text(&q, 2, out->host, sizeof out->host);
        st = query_check(&q, "read the lease", err);
    } else if (st == RXT_ENOTFOUND) {
        st = rxt_fail(err, RXT_ECORRUPT, "the lease row is gone (store %s)", s->path);
    }
    query_close(&q);
    return st;
}

static enum rxt_status lease_write(struct store *s, uint64_t fence, int64_t pid, const char *host,
                                   struct rxt_error *err)
{
    struct query q = query_open(s, SQL_LEASE_SET);
    bind_u64(&q, fence);
    bind_int(&q, pid);
    bind_text(&q, host);
    bind_int(&q, clock_wall_us());
    return query_done(&q, "write the lease", err);
}

static bool lock_path(const struct store *s, char out[LOCK_PATH_MAX])
{
    int n = snprintf(out, LOCK_PATH_MAX, "%s-lease", s->path);
    return n > 0 && n < LOCK_PATH_MAX;
}

static enum rxt_status locked_by_other(struct store *s, struct rxt_error *err)
{
    struct lease_row row = {0};
    if (s->stmt[SQL_LEASE_GET] && lease_read(s, &row, NULL) == RXT_OK && row.pid != 0)
        return rxt_fail(err, RXT_EFENCED,
                        "store is written by process %" PRId64 " on host %s: stop it or use "
                        "another store (%s)",
                        row.pid, row.host, s->path);
    return rxt_fail(err, RXT_EFENCED,
                    "store is written by another process: stop it or use another store (%s)",
                    s->path);
}

enum rxt_status lock_take(struct store *s, uint32_t wait_ms, struct rxt_error *err)
{
    char path[LOCK_PATH_MAX];
    if (!lock_path(s, path))
        return rxt_fail(err, RXT_EINVAL, "path of the store is too long");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return rxt_fail(err, errno == ENOSPC || errno == EDQUOT ? RXT_EFULL : RXT_EIO,
                        "cannot open lock file %s: %s", path, strerror(errno));
    for (uint32_t waited = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; waited += WAIT_STEP_MS) {
        if (errno == EINTR)
            continue;
        int no = errno;
        if (no == EWOULDBLOCK && waited < wait_ms) {
            nanosleep(&(struct timespec){.tv_nsec = WAIT_STEP_MS * 1000000L}, NULL);
            continue;
        }
        close(fd);
        if (no == EWOULDBLOCK)
            return locked_by_other(s, err);
        return rxt_fail(err, RXT_EIO, "cannot lock %s: %s", path, strerror(no));
    }
    s->lock_fd = fd;
    return RXT_OK;
}

void lock_drop(struct store *s)
{
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    s->lock_fd = -1;
}

/* The file we hold the lock of is still the one the next process would lock. */
static bool lock_is_ours(const struct store *s)
{
    char path[LOCK_PATH_MAX];
    struct stat there, here;
    return lock_path(s, path) && stat(path, &there) == 0 && fstat(s->lock_fd, &here) == 0 &&
           there.st_ino == here.st_ino && there.st_dev == here.st_dev;
}

enum rxt_status lease_check(struct store *s, struct rxt_error *err)
{
    struct lease_row row;
    TRY(lease_read(s, &row, err));
    if (row.fence == s->fence)
        return RXT_OK;
    return rxt_fail(err, RXT_EFENCED,
                    "lease was taken over by process %" PRId64 " on host %s (fence %" PRIu64
                    ", ours is %" PRIu64 ", store %s)",
                    row.pid, row.host, row.fence, s->fence, s->path);
}

static enum rxt_status fence_raise(struct store *s, struct rxt_error *err)
{
    char host[HOST_MAX];
    if (gethostname(host, sizeof host) != 0)
        host[0] = '\0';
    host[sizeof host - 1] = '\0';
    struct lease_row row;
    TRY(lease_read(s, &row, err));
    if (row.fence == INT64_MAX)
        return rxt_fail(err, RXT_ECORRUPT, "fence of the lease is damaged (store %s)", s->path);
    /* From here on the transaction is ours: tx_end of the caller finds the fence it set. */
    s->fence = row.fence + 1;
    TRY(lease_write(s, s->fence, (int64_t)getpid(), host, err));
    return upload_numbers_load(s, err);
}

/* Throws away what an earlier owner left unfinished. */
static enum rxt_status tidy(struct store *s, struct rxt_error *err)
{
    TRY(sweep_all(s, err)); /* our own fence has no upload yet */
    enum rxt_status st = store_checkpoint(s, err);
    if (st == RXT_OK)
        st = erase_finish(s, err);
    /* A reader is in the way: the log is emptied, and an erase finished, later. */
    return st == RXT_EBUSY ? RXT_OK : st;
}

enum rxt_status store_lease_take(struct store *s, struct rxt_error *err)
{
    if (s->read_only)
        return rxt_fail(err, RXT_EINVAL, "store %s was opened read-only", s->path);
    if (s->fence)
        return store_lease_renew(s, err);
    TRY(lock_take(s, 0, err));
    enum rxt_status st = query_exec(s, SQL_BEGIN_WRITE, "take the lease", err);
    if (st == RXT_OK)
        st = tx_end(s, fence_raise(s, err), err);
    if (st == RXT_OK)
        st = tidy(s, err);
    if (st != RXT_OK) {
        s->fence = 0;
        lock_drop(s);
    }
    return st;
}

enum rxt_status store_lease_renew(struct store *s, struct rxt_error *err)
{
    if (s->fence == 0)
        return rxt_fail(err, RXT_EFENCED, "no lease on store %s: take it first", s->path);
    if (!lock_is_ours(s))
        return rxt_fail(err, RXT_EFENCED, "lock file of store %s was replaced: restart", s->path);
    return lease_check(s, err);
}

enum rxt_status store_lease_release(struct store *s, struct rxt_error *err)
{
    if (s->fence == 0)
        return RXT_OK;
    TRY(must_be_idle(s, "a release of the lease", err));
    enum rxt_status st = tx_begin(s, err);
    if (st == RXT_OK)
        st = tx_end(s, lease_write(s, s->fence, 0, "", err), err);
    /* Given back even if the row could not say so: the lock is what decides. */
    s->fence = 0;
    lock_drop(s);
    return st;
}

uint64_t store_lease_fence(const struct store *s)
{
    return s->fence;
}
