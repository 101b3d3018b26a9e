-- Schema 1. What changes it is a migration: a new numbered file, never an edit of this one
-- (store/sqlite/schema.c). People may read a store with the sqlite3 program; only rxt writes it.
--
-- Keys are made so that a session's rows lie together and new ones go to the end of them, and that
-- what is asked once a turn is one search in one tree:
--   turn.key   session << 32 | version               a live row: its version is its place in the order
--              session << 32 | 0x80000000 | n        undecided and void rows, in order of arrival
--   image.key  session << 32 | version
--   chunk.key  upload << 20 | n                      bytes of an image, 1 MiB each

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta (key, value) VALUES ('schema', 1);

-- Who writes. The lock that decides is on the file beside the store; this row fences and names.
CREATE TABLE lease (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    fence INTEGER NOT NULL,
    pid INTEGER NOT NULL, -- 0: given back
    host TEXT NOT NULL,
    since_us INTEGER NOT NULL
) STRICT;
INSERT INTO lease (one, fence, pid, host, since_us) VALUES (1, 0, 0, '', 0);

CREATE TABLE session (
    id INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id BETWEEN 1 AND 0x7fffffff),
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    model_hash BLOB NOT NULL,
    model_name TEXT NOT NULL,
    dtype INTEGER NOT NULL,
    n_layer INTEGER NOT NULL,
    n_slot INTEGER NOT NULL,
    embed_dim INTEGER NOT NULL,
    init INTEGER NOT NULL,
    generator INTEGER NOT NULL,
    seed INTEGER NOT NULL, -- 64 bits, as a signed number
    base INTEGER NOT NULL, -- oldest version that can be rebuilt
    origin INTEGER REFERENCES session (id) ON DELETE SET NULL, -- of a fork
    origin_name TEXT NOT NULL, -- of an import
    origin_version INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    seal INTEGER NOT NULL, -- XXH3-64 over what is fixed, save the origin, which may be erased
    flags INTEGER NOT NULL,
    held_reason TEXT NOT NULL,
    applied INTEGER NOT NULL CHECK (applied >= base),
    state_seal INTEGER NOT NULL, -- XXH3-64 over what moves
    UNIQUE (tenant, name)
) STRICT;
CREATE INDEX session_origin ON session (origin) WHERE origin IS NOT NULL;

CREATE TABLE turn (
    key INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES session (id),
    state INTEGER NOT NULL CHECK (state IN (1, 2, 3)), -- live, undecided, void
    version INTEGER NOT NULL,
    request BLOB NOT NULL,
    candidate INTEGER NOT NULL,
    kind INTEGER NOT NULL CHECK (kind IN (1, 2, 3, 4)), -- turn, remember, rewind, reset
    read_version INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    n_query INTEGER NOT NULL,
    temperature REAL NOT NULL,
    top_p REAL NOT NULL,
    top_k INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    finish TEXT NOT NULL,
    bit_class TEXT NOT NULL,
    wall_us INTEGER NOT NULL,
    seal INTEGER NOT NULL, -- XXH3-64 over all but key, session, state and version, which may move
    ids BLOB NOT NULL, -- int32, little endian
    query_text TEXT, -- NULL unless transcripts are kept
    answer_text TEXT,
    CHECK (key >> 32 = session AND (key & 0x80000000 <> 0) = (state <> 1)),
    CHECK (state <> 1 OR key & 0x7fffffff = version)
) STRICT;
CREATE UNIQUE INDEX turn_request ON turn (session, request, candidate);

CREATE TABLE image (
    key INTEGER PRIMARY KEY,
    upload INTEGER NOT NULL, -- whose chunks; forks share them
    header BLOB NOT NULL     -- store/sqlite/header_impl.h
) STRICT;
CREATE INDEX image_upload ON image (upload);

CREATE TABLE chunk (
    key INTEGER PRIMARY KEY,
    seal BLOB NOT NULL, -- XXH3-128 over the data, seeded with the key
    data BLOB NOT NULL
) STRICT;

-- Uploads that no image names: under way (fence of their owner) or to be swept (another fence).
CREATE TABLE orphan (
    upload INTEGER PRIMARY KEY,
    fence INTEGER NOT NULL
) STRICT;

CREATE TABLE file_hash (
    path TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT, WITHOUT ROWID;
