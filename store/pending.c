#include "store/store.h"

struct store_stats store_stats(struct store *s)
{
    (void)s;
    return (struct store_stats){0};
}
void store_close(struct store **s)
{
    *s = NULL;
}
void store_batch_abort(struct store *s)
{
    (void)s;
}
void store_view_end(struct store *s)
{
    (void)s;
}
uint64_t store_lease_fence(const struct store *s)
{
    (void)s;
    return 0;
}

enum rxt_status store_open(struct store **out, const char *path, const struct store_options *opt,
                           struct rxt_error *err)
{
    (void)out;
    (void)path;
    (void)opt;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_lease_take(struct store *s, struct rxt_error *err)
{
    (void)s;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_lease_renew(struct store *s, struct rxt_error *err)
{
    (void)s;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_lease_release(struct store *s, struct rxt_error *err)
{
    (void)s;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_batch_begin(struct store *s, struct rxt_error *err)
{
    (void)s;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_batch_commit(struct store *s, struct rxt_error *err)
{
    (void)s;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_view_begin(struct store *s, struct rxt_error *err)
{
    (void)s;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_session_create(struct store *s, struct store_session *x,
                                     struct rxt_error *err)
{
    (void)s;
    (void)x;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_session_get(struct store *s, const char *tenant, const char *name,
                                  struct store_session *out, struct rxt_error *err)
{
    (void)s;
    (void)tenant;
    (void)name;
    (void)out;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_session_list(struct store *s, const char *tenant, const char *after,
                                   struct store_session *out, size_t cap, size_t *n,
                                   struct rxt_error *err)
{
    (void)s;
    (void)tenant;
    (void)after;
    (void)out;
    (void)cap;
    (void)n;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_session_set_state(struct store *s, int64_t session, uint32_t flags,
                                        const char *reason, struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)flags;
    (void)reason;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_session_fork(struct store *s, int64_t session, uint64_t version,
                                   const char *name, struct store_session *out,
                                   struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)version;
    (void)name;
    (void)out;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_session_erase(struct store *s, const char *tenant, const char *name,
                                    struct rxt_error *err)
{
    (void)s;
    (void)tenant;
    (void)name;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_turn_put(struct store *s, int64_t session, const struct store_turn *t,
                               struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)t;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_turn_applied(struct store *s, int64_t session, uint64_t version,
                                   struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)version;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_turn_void(struct store *s, int64_t session, uint32_t *n,
                                struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)n;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_turn_choose(struct store *s, int64_t session,
                                  const uint8_t request[STORE_REQUEST_BYTES], uint32_t candidate,
                                  uint64_t version, struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)request;
    (void)candidate;
    (void)version;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_turn_expire(struct store *s, int64_t session,
                                  const uint8_t request[STORE_REQUEST_BYTES], struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)request;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_turn_get(struct store *s, int64_t session, uint64_t version,
                               struct store_turn *out, struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)version;
    (void)out;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_turn_next(struct store *s, int64_t session, uint64_t after,
                                struct store_turn *out, struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)after;
    (void)out;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_turn_find(struct store *s, int64_t session,
                                const uint8_t request[STORE_REQUEST_BYTES], uint32_t candidate,
                                struct store_turn *out, struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)request;
    (void)candidate;
    (void)out;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_turn_requests(struct store *s, int64_t session,
                                    struct store_request out[2 * STORE_WINDOW], size_t *n,
                                    struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)out;
    (void)n;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_image_put(struct store *s, int64_t session, const struct store_image *image,
                                const void *bytes, struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)image;
    (void)bytes;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_image_begin(struct store *s, struct store_upload *u, struct rxt_error *err)
{
    (void)s;
    (void)u;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_image_chunk(struct store *s, struct store_upload *u, const void *bytes,
                                  size_t n, struct rxt_error *err)
{
    (void)s;
    (void)u;
    (void)bytes;
    (void)n;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_image_commit(struct store *s, const struct store_upload *u, int64_t session,
                                   const struct store_image *image, struct rxt_error *err)
{
    (void)s;
    (void)u;
    (void)session;
    (void)image;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_image_abort(struct store *s, const struct store_upload *u,
                                  struct rxt_error *err)
{
    (void)s;
    (void)u;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_image_find(struct store *s, int64_t session, uint64_t version,
                                 struct store_image *out, struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)version;
    (void)out;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_image_list(struct store *s, int64_t session, struct store_image *out,
                                 size_t cap, size_t *n, struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)out;
    (void)cap;
    (void)n;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_image_get(struct store *s, int64_t session, const struct store_image *image,
                                void *buf, size_t size, struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)image;
    (void)buf;
    (void)size;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_image_stream(struct store *s, int64_t session,
                                   const struct store_image *image, store_write write, void *arg,
                                   struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)image;
    (void)write;
    (void)arg;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_image_prune(struct store *s, int64_t session, uint32_t keep,
                                  struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)keep;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_export(struct store *s, int64_t session, bool history, store_write write,
                             void *arg, struct rxt_error *err)
{
    (void)s;
    (void)session;
    (void)history;
    (void)write;
    (void)arg;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_import(struct store *s, const char *tenant, const char *name, store_read read,
                             void *arg, struct store_session *out, struct rxt_error *err)
{
    (void)s;
    (void)tenant;
    (void)name;
    (void)read;
    (void)arg;
    (void)out;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_sweep(struct store *s, bool *more, struct rxt_error *err)
{
    (void)s;
    (void)more;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_checkpoint(struct store *s, struct rxt_error *err)
{
    (void)s;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_backup(struct store *s, const char *path, struct rxt_error *err)
{
    (void)s;
    (void)path;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_check(struct store *s, struct rxt_error *err)
{
    (void)s;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_hash_get(struct store *s, const char *path, uint64_t bytes, int64_t mtime_ns,
                               uint8_t hash[STORE_HASH_BYTES], struct rxt_error *err)
{
    (void)s;
    (void)path;
    (void)bytes;
    (void)mtime_ns;
    (void)hash;
    (void)err;
    return RXT_EUNSUPPORTED;
}

enum rxt_status store_hash_put(struct store *s, const char *path, uint64_t bytes, int64_t mtime_ns,
                               const uint8_t hash[STORE_HASH_BYTES], struct rxt_error *err)
{
    (void)s;
    (void)path;
    (void)bytes;
    (void)mtime_ns;
    (void)hash;
    (void)err;
    return RXT_EUNSUPPORTED;
}
