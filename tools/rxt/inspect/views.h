/* The views of `rxt inspect`: each puts its sections into a report. They change nothing. */
#ifndef RXT_TOOLS_INSPECT_VIEWS_H
#define RXT_TOOLS_INSPECT_VIEWS_H

#include "tools/rxt/inspect/history.h"
#include "tools/rxt/inspect/live.h"
#include "tools/rxt/inspect/source.h"
#include "tools/rxt/report/report.h"

#define VERSION_HEAD UINT64_MAX /* the newest one that is in the memory */

/* What is asked for. */
struct look {
    struct store *store;
    bool is_export;
    const struct live_list *live; /* what the server says of its sessions; NULL = no server */
    const struct live_options *server;
    const char *tenant, *session;
    const struct rxt_model *model; /* NULL: without what takes one */
    bool text;                     /* what people said may be shown */

    /* sessions */
    const char *filter, *sort;
    bool reverse;
    /* turns: the newest n of them; 0 = all */
    int32_t turns;
    /* version */
    uint64_t version;
    const char *against; /* "V", "SESSION" or "SESSION:V"; NULL = the version before */
    const char *query;
    int32_t layer; /* of the query's map token by token; -1 = none, or every one in `whole` */
    bool whole;    /* for a report of everything: all maps */
};

/* The sessions of the store or server: filtered, sorted. EINVAL: an unknown key to sort by. */
enum rxt_status view_sessions(struct report *r, const struct look *l, struct rxt_error *err);
/* What is known of one session; no model needed. */
enum rxt_status view_session(struct report *r, const struct look *l, struct rxt_error *err);
/* Its turns, what each of them wrote, and which slots hold what for longest. */
enum rxt_status view_turns(struct report *r, const struct look *l, struct rxt_error *err);
/* One version of its memory, beside another. */
enum rxt_status view_version(struct report *r, const struct look *l, struct rxt_error *err);
/* What an answer to l->query would read of that version. */
enum rxt_status view_query(struct report *r, const struct look *l, struct rxt_error *err);
/* Hashes, seals and finiteness of all there is, of one session or (l->session NULL) of all; with
 * replay also the journal, computed again. *good = everything could be checked and is right. */
enum rxt_status view_verify(struct report *r, const struct look *l, bool replay, bool *good,
                            struct rxt_error *err);
/* What is wrong with an export that was refused, part by part. */
enum rxt_status view_damage(struct report *r, const struct look *l, FILE *export_file,
                            struct rxt_error *err);

/* ---- shared by the views ---- */

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof *(array)))

/* l->version of an open history: the newest one if it is VERSION_HEAD. ENOTFOUND if there is none
 * of that number. */
enum rxt_status look_version(const struct look *l, const struct history *h, uint64_t *version,
                             struct rxt_error *err);
/* Reads "V", "SESSION" or "SESSION:V": session "" where none is named, *version VERSION_HEAD.
 * EINVAL. */
enum rxt_status look_against(const char *against, char session[STORE_NAME_MAX], uint64_t *version,
                             struct rxt_error *err);
/* Text of ids by the model, as plain_text; NULL without model or memory. */
json_t *look_text(const struct look *l, const int32_t *ids, uint32_t n);
const char *kind_name(enum store_kind kind);

#endif
