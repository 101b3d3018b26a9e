/* Hashes of files that are slow to read. */
#include "store/sqlite/sqlite_impl.h"

enum rxt_status store_hash_get(struct store *s, const char *path, uint64_t bytes, int64_t mtime_ns,
                               uint8_t hash[STORE_HASH_BYTES], struct rxt_error *err)
{
    struct query q = query_open(s, SQL_HASH_GET);
    bind_text(&q, path);
    enum rxt_status st = query_row(&q, "read the hash of a file", err);
    if (st == RXT_OK && (column_u64(&q, 0) != bytes || column_int(&q, 1) != mtime_ns))
        st = RXT_ENOTFOUND;
    if (st == RXT_OK) {
        column_bytes(&q, 2, hash, STORE_HASH_BYTES);
        st = query_check(&q, "read the hash of a file", err);
    }
    query_close(&q);
    if (st == RXT_ENOTFOUND)
        return rxt_fail(err, st, "no hash of %s as it is now", path);
    return st;
}

static enum rxt_status put(struct store *s, const char *path, uint64_t bytes, int64_t mtime_ns,
                           const uint8_t *hash, struct rxt_error *err)
{
    struct query q = query_open(s, SQL_HASH_PUT);
    bind_text(&q, path);
    bind_u64(&q, bytes);
    bind_int(&q, mtime_ns);
    bind_blob(&q, hash, STORE_HASH_BYTES);
    return query_done(&q, "write the hash of a file", err);
}

enum rxt_status store_hash_put(struct store *s, const char *path, uint64_t bytes, int64_t mtime_ns,
                               const uint8_t hash[STORE_HASH_BYTES], struct rxt_error *err)
{
    TRY(tx_begin(s, err));
    return tx_end(s, put(s, path, bytes, mtime_ns, hash, err), err);
}
