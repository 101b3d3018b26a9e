#include "tests/fault/vfs.h"

#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

static struct {
    enum fault_kind kind;
    uint64_t left; /* calls until it comes up */
    bool stays, fired;
    uint64_t salt; /* which bit flips */
} plan;

/* True if this call, one that `kind` is about, is to fail. */
static bool due(enum fault_kind kind)
{
    if (plan.kind != kind || plan.left == 0)
        return false;
    if (plan.left > 1) {
        plan.left--;
        return false;
    }
    plan.fired = true;
    if (!plan.stays)
        plan.left = 0;
    return true;
}

void fault_vfs_arm(enum fault_kind kind, uint64_t nth, bool stays)
{
    plan.kind = kind;
    plan.left = nth;
    plan.stays = stays;
    plan.fired = false;
}

void fault_vfs_salt(uint64_t salt)
{
    plan.salt = salt;
}

bool fault_vfs_disarm(void)
{
    plan.kind = FAULT_NONE;
    return plan.fired;
}

/* ---- files: ours in front, the real one behind it in the same block --------------------- */

struct file {
    sqlite3_file base;
    sqlite3_file *real;
    const char *name; /* SQLite's, for as long as it is open; NULL if it is temporary */
};

static sqlite3_file *real_of(sqlite3_file *f)
{
    return ((struct file *)f)->real;
}

static int file_close(sqlite3_file *f)
{
    return real_of(f)->pMethods->xClose(real_of(f));
}

static int file_read(sqlite3_file *f, void *buf, int n, sqlite3_int64 at)
{
    if (due(FAULT_READ_ERROR))
        return SQLITE_IOERR_READ;
    if (due(FAULT_READ_SHORT)) {
        memset(buf, 0, (size_t)n);
        return SQLITE_IOERR_SHORT_READ;
    }
    int rc = real_of(f)->pMethods->xRead(real_of(f), buf, n, at);
    if (rc == SQLITE_OK && due(FAULT_READ_FLIP)) {
        uint64_t bit = plan.salt % ((uint64_t)n * 8);
        ((unsigned char *)buf)[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    return rc;
}

static int file_write(sqlite3_file *f, const void *buf, int n, sqlite3_int64 at)
{
    if (due(FAULT_WRITE_FULL))
        return SQLITE_FULL;
    if (due(FAULT_WRITE_ERROR))
        return SQLITE_IOERR_WRITE;
    if (due(FAULT_WRITE_SHORT)) {
        (void)real_of(f)->pMethods->xWrite(real_of(f), buf, n / 2, at);
        return SQLITE_IOERR_WRITE;
    }
    return real_of(f)->pMethods->xWrite(real_of(f), buf, n, at);
}

static int file_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    if (due(FAULT_TRUNCATE_ERROR))
        return SQLITE_IOERR_TRUNCATE;
    return real_of(f)->pMethods->xTruncate(real_of(f), size);
}

static uint64_t n_sync;
static const char *synced_dir;

/* In the tests files are small, and nothing else writes them. */
static void synced_path(const char *name, char *out, size_t size)
{
    const char *base = strrchr(name, '/');
    (void)snprintf(out, size, "%s/%s", synced_dir, base ? base + 1 : name);
}

static int keep_synced(struct file *x)
{
    char path[600], block[32768];
    sqlite3_int64 size = 0;
    synced_path(x->name, path, sizeof path);
    FILE *to = fopen(path, "wb");
    int rc = to ? x->real->pMethods->xFileSize(x->real, &size) : SQLITE_IOERR;
    for (sqlite3_int64 at = 0; rc == SQLITE_OK && at < size; at += (int)sizeof block) {
        sqlite3_int64 n = size - at < (int)sizeof block ? size - at : (int)sizeof block;
        rc = x->real->pMethods->xRead(x->real, block, (int)n, at);
        if (rc == SQLITE_OK && fwrite(block, 1, (size_t)n, to) != (size_t)n)
            rc = SQLITE_IOERR;
    }
    if (to && fclose(to) != 0)
        rc = SQLITE_IOERR;
    return rc;
}

static int file_sync(sqlite3_file *f, int flags)
{
    struct file *x = (struct file *)f;
    (void)flags;
    if (due(FAULT_SYNC_ERROR))
        return SQLITE_IOERR_FSYNC;
    n_sync++;
    return synced_dir && x->name ? keep_synced(x) : SQLITE_OK;
}

uint64_t fault_vfs_syncs(void)
{
    return n_sync;
}

void fault_vfs_keep_synced(const char *dir)
{
    synced_dir = dir;
}

static int file_size(sqlite3_file *f, sqlite3_int64 *size)
{
    return real_of(f)->pMethods->xFileSize(real_of(f), size);
}

static int file_lock(sqlite3_file *f, int level)
{
    return real_of(f)->pMethods->xLock(real_of(f), level);
}

static int file_unlock(sqlite3_file *f, int level)
{
    return real_of(f)->pMethods->xUnlock(real_of(f), level);
}

static int file_check_lock(sqlite3_file *f, int *out)
{
    return real_of(f)->pMethods->xCheckReservedLock(real_of(f), out);
}

static int file_control(sqlite3_file *f, int op, void *arg)
{
    return real_of(f)->pMethods->xFileControl(real_of(f), op, arg);
}

static int file_sector(sqlite3_file *f)
{
    return real_of(f)->pMethods->xSectorSize(real_of(f));
}

static int file_device(sqlite3_file *f)
{
    return real_of(f)->pMethods->xDeviceCharacteristics(real_of(f));
}

static int file_shm_map(sqlite3_file *f, int region, int size, int extend, void volatile **out)
{
    return real_of(f)->pMethods->xShmMap(real_of(f), region, size, extend, out);
}

static int file_shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
    return real_of(f)->pMethods->xShmLock(real_of(f), offset, n, flags);
}

static void file_shm_barrier(sqlite3_file *f)
{
    real_of(f)->pMethods->xShmBarrier(real_of(f));
}

static int file_shm_unmap(sqlite3_file *f, int delete_flag)
{
    return real_of(f)->pMethods->xShmUnmap(real_of(f), delete_flag);
}

static const sqlite3_io_methods methods = {
    .iVersion = 2, /* without memory mapping, so that every read is seen */
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_check_lock,
    .xFileControl = file_control,
    .xSectorSize = file_sector,
    .xDeviceCharacteristics = file_device,
    .xShmMap = file_shm_map,
    .xShmLock = file_shm_lock,
    .xShmBarrier = file_shm_barrier,
    .xShmUnmap = file_shm_unmap,
};

/* ---- the layer -------------------------------------------------------------------------- */

static sqlite3_vfs layer, *below;

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
    (void)vfs;
    struct file *x = (struct file *)f;
    f->pMethods = NULL; /* until it is open there is nothing to close */
    if (due(FAULT_OPEN_ERROR))
        return SQLITE_CANTOPEN;
    x->real = (sqlite3_file *)(x + 1);
    x->name = name;
    int rc = below->xOpen(below, name, x->real, flags, out);
    if (rc == SQLITE_OK)
        f->pMethods = &methods;
    else if (x->real->pMethods)
        (void)x->real->pMethods->xClose(x->real);
    return rc;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_dir)
{
    (void)vfs;
    (void)sync_dir;
    if (synced_dir) {
        char path[600];
        synced_path(name, path, sizeof path);
        (void)remove(path);
    }
    return below->xDelete(below, name, 0);
}

void fault_vfs_install(void)
{
    if (below)
        return;
    below = sqlite3_vfs_find(NULL);
    layer = *below;
    layer.zName = "fault";
    layer.szOsFile = (int)sizeof(struct file) + below->szOsFile;
    layer.xOpen = vfs_open;
    layer.xDelete = vfs_delete;
    layer.pNext = NULL;
    (void)sqlite3_vfs_register(&layer, 1);
}
