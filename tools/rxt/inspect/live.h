/* Sessions of a server, looked at over its endpoints while it serves: the list through LIST, one
 * session through EXPORT, the comparison of two memories through DIFF. None of them brings a
 * session in. LIST holds no session up; EXPORT and DIFF have their place in its queue: what comes
 * behind an EXPORT waits until it is written, behind a DIFF until both memories are made again and
 * compared. */
#ifndef RXT_TOOLS_INSPECT_LIVE_H
#define RXT_TOOLS_INSPECT_LIVE_H

#include "stm/stm.h"
#include "tools/rxt/connect.h"

#include <stdio.h>

struct live_options {
    const char *turn;  /* for the list; NULL = this is not about a server */
    const char *state; /* for one session, for a comparison */
    struct connect_keys keys;
};

struct live_list {
    struct client_session *session; /* sorted by name */
    size_t n, cap;
    uint64_t session_bytes; /* what a resident one takes */
};
/* All sessions; with `name` the first whose name begins so, which is the one of that name if there
 * is one. Gives *l for freeing, also when it fails. */
enum rxt_status live_list(struct live_list *l, const struct live_options *o, const char *name,
                          struct rxt_error *err);
void live_list_free(struct live_list *l);
/* The one of this name; NULL if there is none. */
const struct client_session *live_find(const struct live_list *l, const char *name);

/* Writes what EXPORT gives of a session into an empty file. ENOTFOUND: there is none. */
enum rxt_status live_export(FILE *f, const struct live_options *o, const char *session,
                            struct rxt_error *err);

struct live_memory { /* which */
    const char *session;
    uint64_t version;
};
/* How far memory b is from memory a: out[cfg->n_layer * cfg->n_slot], by layer. EMISMATCH: they do
 * not have this shape; ENOTFOUND, ESTALE: the server has no such session or version. */
enum rxt_status live_diff(struct stm_slot_diff *out, const struct stm_config *cfg,
                          const struct live_options *o, const struct live_memory *a,
                          const struct live_memory *b, struct rxt_error *err);

#endif
