#include "store/sqlite/sqlite_impl.h"

#include <errno.h>

enum rxt_status sql_status(int rc)
{
    switch (rc) { /* extended codes first */
    case SQLITE_IOERR_NOMEM:
        return RXT_ENOMEM;
    case SQLITE_CONSTRAINT_UNIQUE:
    case SQLITE_CONSTRAINT_PRIMARYKEY:
    case SQLITE_CONSTRAINT_ROWID:
        return RXT_EEXIST;
    default:
        break;
    }
    switch (rc & 0xff) {
    case SQLITE_OK:
        return RXT_OK;
    case SQLITE_NOMEM:
        return RXT_ENOMEM;
    case SQLITE_FULL:
        return RXT_EFULL;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_SCHEMA:
    case SQLITE_MISMATCH:
        return RXT_ECORRUPT;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return RXT_EBUSY;
    case SQLITE_TOOBIG:
        return RXT_ELIMIT;
    case SQLITE_INTERRUPT:
        return RXT_ECANCELLED;
    case SQLITE_CONSTRAINT:
    case SQLITE_RANGE:
    case SQLITE_MISUSE:
        return RXT_EINVAL;
    default: /* IOERR, CANTOPEN, READONLY, PERM, PROTOCOL, ...: the file cannot be used */
        return RXT_EIO;
    }
}

/* A constraint undoes its statement; these may have undone the transaction, and even where they
 * have not, the next statement would meet the same disk. */
static bool is_disk(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_CONSTRAINT:
    case SQLITE_TOOBIG:
    case SQLITE_RANGE:
    case SQLITE_MISUSE:
        return false;
    default:
        return true;
    }
}

enum rxt_status sql_fail(struct store *s, int rc, const char *what, struct rxt_error *err)
{
    s->disk_failed = s->disk_failed || is_disk(rc);
    enum rxt_status st = sql_status(rc);
    int os = rc & 0xff;
    if (os == SQLITE_IOERR || os == SQLITE_CANTOPEN) {
        int no = sqlite3_system_errno(s->db);
        if (no == ENOSPC || no == EDQUOT)
            st = RXT_EFULL;
    }
    return rxt_fail(err, st, "cannot %s: %s (SQLite %d, store %s)", what,
                    s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(rc), rc, s->path);
}
