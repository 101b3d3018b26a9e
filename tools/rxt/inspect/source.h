/* Where sessions are looked at: a store file, read while a server may be writing it, or an exported
 * session, which is imported into a store of its own that lives as long as the look. A server gives
 * its sessions as exports. */
#ifndef RXT_TOOLS_INSPECT_SOURCE_H
#define RXT_TOOLS_INSPECT_SOURCE_H

#include "store/store.h"
#include "tools/rxt/inspect/live.h"

struct source {
    struct store *store;
    bool is_export;
    char session[STORE_NAME_MAX]; /* of an export: the only one */
    char folder[64];              /* of the imported store; "" = none */
    FILE *damaged;                /* an export that was refused for what is in it; NULL = none */
};

/* Gives *s for closing, also when it fails. tenant: an export becomes a session of it, with the
 * name of the file up to its first dot. EFORMAT: neither; ECORRUPT: the seal of an export does not
 * fit. */
enum rxt_status source_open(struct source *s, const char *path, const char *tenant,
                            struct rxt_error *err);
/* The same of a session of a server. */
enum rxt_status source_connect(struct source *s, const struct live_options *o, const char *tenant,
                               const char *session, struct rxt_error *err);
/* For store_import and store_export_look: reads a FILE. */
enum rxt_status source_read(void *file, void *bytes, size_t n);
void source_close(struct source *s);

#endif
