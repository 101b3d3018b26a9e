/* The store writer: one thread that owns the SQLite connection that writes.
 *
 * The engine posts pieces of work and gets them back when they are durable (or refused). Work that
 * waits is committed as one group: one sync for all of it. Of work in steps, however many pieces
 * there are of it, one step goes between what is new. Others over handles that only read do
 * what needs no transaction that writes, all of it alone: one page-ins, listings and comparisons,
 * one exports, which wait for the files that they write.
 */
#ifndef RXT_BRIDGE_WRITER_IMPL_H
#define RXT_BRIDGE_WRITER_IMPL_H

#include "bridge/mailbox_impl.h"
#include "store/store.h"

struct work;
/* Runs on the writer's thread. May set `again` to let other work go between its steps. */
typedef enum rxt_status (*work_run)(struct work *w, struct store *s, struct rxt_error *err);

/* Runs on the engine's thread when the work has come back. */
typedef void (*work_done)(struct work *w);

struct work { /* filled by the engine; owned by the writer from post until it comes back */
    struct mail mail;
    work_run run;
    work_done done;
    void *owner; /* the engine's: whose work it is */
    bool alone;  /* not part of a group: reads, and verbs with transactions of their own */
    bool again;  /* set by run: not finished, run me again, alone, after what is new */
    bool stop;   /* ends the thread */
    enum rxt_status status;
    struct rxt_error error;
};

struct writer;

/* Starts the thread over an open store (taken). Finished work is posted to `back`. What that has
 * left behind of images it removes, a chunk at a time, when nothing waits, and one after every few
 * groups when something always does. ENOMEM, EIO. */
enum rxt_status writer_create(struct writer **out, struct store **store, struct mailbox *back);
/* Finishes what is queued, then joins and closes the store. NULL-safe. */
void writer_destroy(struct writer **w);
void writer_post(struct writer *w, struct work *work);

#endif
