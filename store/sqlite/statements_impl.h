/* Every statement of the store: prepared once at open, named by its enum. Searches only: a test
 * holds each against EXPLAIN QUERY PLAN, so that no verb walks a table that grows. */
#ifndef RXT_STORE_STATEMENTS_IMPL_H
#define RXT_STORE_STATEMENTS_IMPL_H

/* Keys of the live rows of session s lie between s << 32 and this. */
#define SQL_ASIDE "0x80000000"

#define SQL_HEAD                                                                     \
    "(SELECT key FROM turn WHERE key > s.id << 32 AND key < s.id << 32 | " SQL_ASIDE \
    " ORDER BY key DESC LIMIT 1)"

#define SQL_SESSION                                                                             \
    "SELECT s.id, s.tenant, s.name, s.model_hash, s.model_name, s.dtype, s.n_layer, s.n_slot,"  \
    " s.embed_dim, s.init, s.generator, s.seed, s.base, coalesce(o.name, s.origin_name),"       \
    " s.origin_version, s.created_us, s.seal, s.flags, s.held_reason, s.applied,"               \
    " s.state_seal = session_seal(s.flags, s.held_reason, s.applied, s.origin, s.origin_name)," \
    " coalesce(t.version, s.base), coalesce(t.wall_us, s.created_us)"                           \
    " FROM session s LEFT JOIN session o ON o.id = s.origin LEFT JOIN turn t ON t.key = " SQL_HEAD

#define SQL_TURN                                                                           \
    "SELECT key, session, state, version, request, candidate, kind, read_version, parent," \
    " n_query, temperature, top_p, top_k, seed, finish, bit_class, wall_us, seal, ids,"    \
    " query_text, answer_text FROM turn"

#define STORE_STATEMENTS(X)                                                                        \
    X(BEGIN, "BEGIN")                                                                              \
    X(BEGIN_WRITE, "BEGIN IMMEDIATE")                                                              \
    X(COMMIT, "COMMIT")                                                                            \
    X(ROLLBACK, "ROLLBACK")                                                                        \
    X(VERB_BEGIN, "SAVEPOINT verb")                                                                \
    X(VERB_END, "RELEASE verb")                                                                    \
    X(VERB_UNDO, "ROLLBACK TO verb")                                                               \
    X(META_SCHEMA, "SELECT value FROM meta WHERE key = 'schema'")                                  \
    X(META_ERASING, "SELECT value FROM meta WHERE key = 'erasing'")                                \
    X(META_SET_ERASING, "INSERT OR REPLACE INTO meta (key, value) VALUES ('erasing', ?1)")         \
    X(ROOTS, "SELECT rootpage FROM sqlite_schema WHERE rootpage > 0")                              \
    X(LEASE_GET, "SELECT fence, pid, host FROM lease WHERE one = 1")                               \
    X(LEASE_SET, "UPDATE lease SET fence = ?1, pid = ?2, host = ?3, since_us = ?4 WHERE one = 1")  \
    X(SESSION_CREATE,                                                                              \
      "INSERT INTO session (tenant, name, model_hash, model_name, dtype, n_layer, n_slot,"         \
      " embed_dim, init, generator, seed, base, origin, origin_name, origin_version, created_us,"  \
      " seal, flags, held_reason, applied, state_seal)"                                            \
      " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,"  \
      " '', ?19, session_seal(?18, '', ?19, ?13, ?14))")                                           \
    X(SESSION_GET, SQL_SESSION " WHERE s.tenant = ?1 AND s.name = ?2")                             \
    X(SESSION_ID, "SELECT id FROM session WHERE tenant = ?1 AND name = ?2")                        \
    X(SESSION_BY_ID, SQL_SESSION " WHERE s.id = ?1")                                               \
    X(SESSION_LIST, SQL_SESSION " WHERE s.tenant = ?1 AND s.name > ?2 ORDER BY s.name LIMIT ?3")   \
    X(SESSION_COUNT, "SELECT count(*) FROM session WHERE tenant = ?1")                             \
    X(SESSION_NEXT, SQL_SESSION " WHERE s.id > ?1 AND s.tenant <> '' ORDER BY s.id LIMIT 1")       \
    X(SESSION_STATE, "UPDATE session SET flags = ?2, held_reason = ?3, applied = ?4,"              \
                     " state_seal = session_seal(?2, ?3, ?4, origin, origin_name) WHERE id = ?1")  \
    X(SESSION_ARRIVE, "UPDATE session SET tenant = ?2, name = ?3, seal = ?4, applied = ?5,"        \
                      " state_seal = session_seal(flags, held_reason, ?5, origin, origin_name)"    \
                      " WHERE id = ?1")                                                            \
    X(SESSION_ORPHAN,                                                                              \
      "UPDATE session SET origin = NULL,"                                                          \
      " state_seal = session_seal(flags, held_reason, applied, NULL, origin_name)"                 \
      " WHERE origin = ?1"                                                                         \
      " AND state_seal = session_seal(flags, held_reason, applied, origin, origin_name)")          \
    X(SESSION_DELETE, "DELETE FROM session WHERE id = ?1")                                         \
    X(TURN_PUT, "INSERT INTO turn (key, session, state, version, request, candidate, kind,"        \
                " read_version, parent, n_query, temperature, top_p, top_k, seed, finish,"         \
                " bit_class, wall_us, seal, ids, query_text, answer_text)"                         \
                " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,"  \
                " ?17, ?18, ?19, ?20, ?21)")                                                       \
    X(TURN_GET, SQL_TURN " WHERE key = ?1")                                                        \
    X(TURN_NEXT, SQL_TURN " WHERE key > ?1 AND key < ?2 ORDER BY key LIMIT 1")                     \
    X(TURN_FIND, SQL_TURN " WHERE session = ?1 AND request = ?2 AND candidate = ?3")               \
    X(TURN_LAST_KEY, "SELECT key FROM turn WHERE key > ?1 AND key < ?2 ORDER BY key DESC LIMIT 1") \
    X(TURN_MOVE, "UPDATE turn SET key = ?2, state = ?3, version = ?4 WHERE key = ?1")              \
    X(TURN_EXPIRE, "UPDATE turn SET state = 3 WHERE session = ?1 AND request = ?2 AND state = 2")  \
    X(TURN_REQUESTS, "SELECT request, candidate, state, version FROM turn"                         \
                     " WHERE key > ?1 AND key <= ?2 ORDER BY key DESC")                            \
    X(TURN_PARENT, "SELECT min(parent) FROM turn WHERE key > ?1 AND key <= ?2 AND kind = 3")       \
    X(TURN_COPY,                                                                                   \
      "INSERT INTO turn (key, session, state, version, request, candidate, kind, read_version,"    \
      " parent, n_query, temperature, top_p, top_k, seed, finish, bit_class, wall_us, seal, ids,"  \
      " query_text, answer_text)"                                                                  \
      " SELECT ?1 << 32 | version, ?1, state, version, request, candidate, kind, read_version,"    \
      " parent, n_query, temperature, top_p, top_k, seed, finish, bit_class, wall_us, seal, ids,"  \
      " query_text, answer_text FROM turn WHERE key > ?2 AND key <= ?3")                           \
    X(TURN_DELETE, "DELETE FROM turn WHERE key > ?1 AND key < ?2")                                 \
    X(IMAGE_PUT, "INSERT INTO image (key, upload, header) VALUES (?1, ?2, ?3)")                    \
    X(IMAGE_FIND, "SELECT key, upload, header FROM image WHERE key >= ?1 AND key <= ?2"            \
                  " ORDER BY key DESC LIMIT ?3")                                                   \
    X(IMAGE_SPARE, "SELECT key, upload, header FROM image WHERE key > ?1 AND key < ?2"             \
                   " ORDER BY key DESC LIMIT 1 OFFSET ?3")                                         \
    X(IMAGE_DELETE, "DELETE FROM image WHERE key = ?1")                                            \
    X(IMAGE_SHARED, "SELECT 1 FROM image WHERE upload = ?1 LIMIT 1")                               \
    X(UPLOAD_LAST, "SELECT max(coalesce((SELECT max(key) >> 20 FROM chunk), 0),"                   \
                   " coalesce((SELECT max(upload) FROM image), 0),"                                \
                   " coalesce((SELECT max(upload) FROM orphan), 0))")                              \
    X(CHUNK_PUT, "INSERT INTO chunk (key, seal, data) VALUES (?1, ?2, ?3)")                        \
    X(CHUNK_GET, "SELECT seal, data FROM chunk WHERE key = ?1")                                    \
    X(CHUNK_LAST, "SELECT key FROM chunk WHERE key >= ?1 AND key < ?2 ORDER BY key DESC LIMIT 1")  \
    X(CHUNK_DELETE, "DELETE FROM chunk WHERE key = ?1")                                            \
    X(ORPHAN_PUT, "INSERT OR REPLACE INTO orphan (upload, fence) VALUES (?1, ?2)")                 \
    X(ORPHAN_DELETE, "DELETE FROM orphan WHERE upload = ?1")                                       \
    X(ORPHAN_GET, "SELECT fence FROM orphan WHERE upload = ?1")                                    \
    X(ORPHAN_NEXT, "SELECT upload FROM orphan WHERE fence <> ?1 LIMIT 1")                          \
    X(HASH_GET, "SELECT bytes, mtime_ns, hash FROM file_hash WHERE path = ?1")                     \
    X(HASH_PUT, "INSERT OR REPLACE INTO file_hash (path, bytes, mtime_ns, hash)"                   \
                " VALUES (?1, ?2, ?3, ?4)")

enum sql {
#define STORE_SQL_ENUM(name, text) SQL_##name,
    STORE_STATEMENTS(STORE_SQL_ENUM)
#undef STORE_SQL_ENUM
        SQL_COUNT
};

extern const char *const sql_text[SQL_COUNT];

#endif
