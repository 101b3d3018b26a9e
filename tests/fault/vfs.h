/* A disk that fails on purpose: a layer between SQLite and the real files. One plan at a time, for
 * one thread. */
#ifndef RXT_TESTS_FAULT_VFS_H
#define RXT_TESTS_FAULT_VFS_H

#include <stdbool.h>
#include <stdint.h>

enum fault_kind {
    FAULT_NONE,
    FAULT_WRITE_FULL,  /* no space left: nothing is written */
    FAULT_WRITE_ERROR, /* the device refuses: nothing is written */
    FAULT_WRITE_SHORT, /* half of it is written, then an error: a torn page */
    FAULT_SYNC_ERROR,
    FAULT_READ_ERROR,
    FAULT_READ_SHORT, /* the file seems to end early */
    FAULT_READ_FLIP,  /* one bit of what is read is another one; no error */
    FAULT_TRUNCATE_ERROR,
    FAULT_OPEN_ERROR,
    FAULT_KINDS
};

/* Puts the layer in front of every file SQLite opens from now on; again: nothing. Syncs are counted
 * and may fail, but do not go to the disk: a test ends before the power does. */
void fault_vfs_install(void);
uint64_t fault_vfs_syncs(void); /* so far */

/* From now on what a file is when it is synced is kept in `dir` under its name: what is there after
 * a power cut, if nothing reached the disk by itself. NULL ends it. */
void fault_vfs_keep_synced(const char *dir);

/* The nth call (1 = the next) of the sort that the kind is about fails, and if `stays` all later
 * ones, too, until disarmed. */
void fault_vfs_arm(enum fault_kind kind, uint64_t nth, bool stays);
/* Which bit FAULT_READ_FLIP turns: salt modulo the bits of what is read. */
void fault_vfs_salt(uint64_t salt);
/* True if the fault has come up. */
bool fault_vfs_disarm(void);

#endif
