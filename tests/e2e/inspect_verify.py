"""rxt inspect --verify finds what is damaged or forged, and says which image, row or part it is."""

import contextlib
import hashlib
import json
import pathlib
import random
import shutil
import sqlite3
import struct
import sys
import tempfile

from run_rxt import DIM, LAYERS, QUERIES, SLOTS, chat, run

TURNS = 6


def verify(path, *options):
    """(exit code, the examinations that found something)."""
    done = run(["inspect", path, "--verify", "--json", *options], check=False)
    if not done.stdout:
        return done.returncode, [{"check": "open", "detail": done.stderr}]
    return done.returncode, [c for c in json.loads(done.stdout)["checks"] if not c["good"]]


def edited(store, copy, change):
    """A copy of the store that SQLite finds nothing wrong with."""
    shutil.copy(store, copy)
    for tail in ("-wal", "-shm"):
        pathlib.Path(f"{copy}{tail}").unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(copy)) as db, db:
        change(db)
    return copy


def flip(data, bit):
    out = bytearray(data)
    out[bit // 8 % len(out)] ^= 1 << bit % 8
    return bytes(out)


def rows(store, copy, dice):
    """Every column of every journal row is part of what the row is."""
    columns = ["request", "candidate", "kind", "read_version", "parent", "n_query", "temperature",
               "top_p", "top_k", "seed", "finish", "bit_class", "wall_us", "seal", "ids"]
    for column in columns:
        version = dice.randint(1, TURNS)

        def change(db):
            (value,) = db.execute(f"SELECT {column} FROM turn WHERE version = ?", (version,)).fetchone()
            if isinstance(value, bytes):
                value = flip(value, dice.randrange(8 * len(value)))
            elif isinstance(value, str):
                value = flip(value.encode() or b"a", 0).decode()
            elif column == "kind":
                value = 2 if value == 1 else 1
            else:
                value = value + 1 if value < 2**62 else value - 1
            db.execute(f"UPDATE turn SET {column} = ? WHERE version = ?", (value, version))

        code, found = verify(edited(store, copy, change))
        assert code == 1, column
        assert ("journal row", version) in [(f["check"], f.get("version")) for f in found], (column, found)


def missing_row(store, copy):
    code, found = verify(edited(store, copy, lambda db: db.execute("DELETE FROM turn WHERE version = 3")))
    assert code == 1 and ("journal row", 3) in [(f["check"], f.get("version")) for f in found], found


def session_rows(store, copy, dice):
    """Every column of a session's row."""
    with contextlib.closing(sqlite3.connect(store)) as db:
        row = db.execute("SELECT * FROM session")
        columns = [c[0] for c in row.description]
        values = dict(zip(columns, row.fetchone()))
    for column in columns:
        value = values[column]
        if isinstance(value, bytes):
            value = flip(value, dice.randrange(8 * len(value)))
        elif isinstance(value, str):
            value = flip(value.encode() or b"a", 0).decode()
        else:
            value = (value or 0) ^ (2 if column == "id" else 1)
        change = lambda db: db.execute(f"UPDATE session SET {column} = ?", (value,))
        code, found = verify(edited(store, copy, change))
        assert code == 1 and [f["check"] for f in found] == ["session"], (column, found)
        name = value if column == "name" else "s"
        assert f"session {name} is damaged" in found[0]["detail"], (column, found)


def image_keys(store, copy):
    """The rows that say whose an image is and where its bytes are."""
    for change, version in [
        ("UPDATE image SET key = key - 3 WHERE key & 0x7fffffff = 6", 3),
        ("UPDATE image SET upload = upload + 50 WHERE key & 0x7fffffff = 6", 6),
        ("UPDATE chunk SET key = key + 1 WHERE key >> 20 = (SELECT max(upload) FROM image)", 6),
        ("UPDATE chunk SET seal = zeroblob(16) WHERE key >> 20 = (SELECT max(upload) FROM image)", 6),
        ("DELETE FROM chunk WHERE key >> 20 = (SELECT max(upload) FROM image)", 6),
    ]:
        code, found = verify(edited(store, copy, lambda db: db.execute(change)))
        assert code == 1, change
        assert ("image", version) in [(f["check"], f.get("version")) for f in found], (change, found)


def images(store, copy, dice):
    with contextlib.closing(sqlite3.connect(store)) as db:
        stored = db.execute("SELECT key, upload, header FROM image").fetchall()
    assert sorted(key & 0x7FFFFFFF for key, _, _ in stored) == [TURNS - 1, TURNS]
    for key, upload, header in stored:
        version = key & 0x7FFFFFFF
        for _ in range(8):

            def header_bit(db):
                value = flip(header, dice.randrange(8 * len(header)))
                db.execute("UPDATE image SET header = ? WHERE key = ?", (value, key))

            def data_bit(db):
                at, data = db.execute("SELECT key, data FROM chunk WHERE key >> 20 = ?", (upload,)).fetchone()
                value = flip(data, dice.randrange(8 * len(data)))
                db.execute("UPDATE chunk SET data = ? WHERE key = ?", (value, at))

            for change in (header_bit, data_bit):
                code, found = verify(edited(store, copy, change))
                assert code == 1, (version, change)
                named = [(f["check"], f.get("version")) for f in found]
                assert ("image", version) in named, (version, change, found)


def raw_bits(store, copy, dice):
    """Bits of the file itself, below SQLite: of token ids and of values, where they lie."""
    data = store.read_bytes()
    with contextlib.closing(sqlite3.connect(store)) as db:
        ids = db.execute("SELECT version, ids FROM turn").fetchall()
    for version, blob in ids:
        at = data.find(blob)
        assert at > 0
        copy.write_bytes(flip(data, 8 * at + dice.randrange(8 * len(blob))))
        code, found = verify(copy)
        assert code == 1 and ("journal row", version) in [(f["check"], f.get("version")) for f in found]


def sealed(body):
    return body + hashlib.blake2b(body, digest_size=32).digest()


def records(data):
    """(type, where its payload begins, its bytes); format 2 has a sum behind it."""
    sum_bytes = 8 * (struct.unpack("<I", data[8:12])[0] == 2)
    at = 16
    while at < len(data) - 32:
        kind, _, n = struct.unpack("<IIQ", data[at : at + 16])
        yield kind, at + 16, n
        at += 16 + n + sum_bytes


def without_sums(data):
    """The same export in format 1."""
    body = data[:8] + struct.pack("<I", 1) + data[12:16]
    return sealed(body + b"".join(data[at - 16 : at + n] for _, at, n in records(data)))


def parts(data):
    """(what --verify calls it, its version, first byte, byte behind it), in order."""
    yield "header", None, 0, 16
    for kind, at, n in records(data):
        name = {1: "session row", 2: "image", 3: "journal row", 4: "end"}[kind]
        field = {2: 16, 3: 52}.get(kind)
        version = struct.unpack("<Q", data[at + field : at + field + 8])[0] if field else None
        yield name, version, at - 16, at + n + 8
    yield "seal", None, len(data) - 32, len(data)


def exports(export, copy, dice):
    """A bit of each part, and of the fields at its front, which say what it is."""
    data = export.read_bytes()
    for name, version, first, end in parts(data):
        places = [dice.randrange(8 * first, 8 * end) for _ in range(3)]
        places += [8 * first + dice.randrange(8 * min(72, end - first)) for _ in range(3)]
        for bit in places:
            copy.write_bytes(flip(data, bit))
            code, found = verify(copy)
            assert code == 1 and found[0]["check"] == name, (name, version, bit, found)
            head = name == "image" and bit < 8 * (first + 40)  # its version may be what is hit
            assert head or found[0].get("version") == version, (name, version, bit, found)
            refused = run(["inspect", copy], check=False)
            assert refused.returncode == 1 and str(copy) in refused.stderr, refused.stderr
    for end in (len(data) - 1, len(data) // 2, 40):
        copy.write_bytes(data[:end])
        assert verify(copy)[0] == 1


def old_exports(export, copy, dice):
    """Format 1 has one seal: an image tells by its hash, for the journal it is said that it cannot."""
    old = without_sums(export.read_bytes())
    copy.write_bytes(old)
    assert verify(copy, "--replay") == (0, [])
    for kind, at, n in records(old):
        if kind == 2:
            copy.write_bytes(flip(old, 8 * (at + 72) + dice.randrange(8 * (n - 72))))
            code, found = verify(copy)
            assert code == 1 and (found[0]["check"], found[0]["version"]) == ("image", TURNS), found
        if kind == 3:
            copy.write_bytes(flip(old, 8 * (at + 156) + dice.randrange(8 * (n - 156))))
            code, found = verify(copy)
            assert code == 1 and [f["check"] for f in found] == ["seal"], found
            assert f"between row 1 and {TURNS}" in found[0]["detail"], found
            assert "not in the values of its images" in found[0]["detail"], found


def forgeries(export, copy, dice):
    """Changed and sealed again: only computing it again tells, and says what is wrong."""
    data = without_sums(export.read_bytes())
    turns = [(at, n) for kind, at, n in records(data) if kind == 3]
    assert len(turns) == TURNS
    for at, n in turns:
        version = struct.unpack("<Q", data[at + 52 : at + 60])[0]
        n_ids, n_query = struct.unpack("<II", data[at + 24 : at + 32])
        token = dice.randrange(n_query, n_ids)
        body = bytearray(data[:-32])
        body[at + n - 4 * (n_ids - token)] ^= 1  # the last ids are the answer; there are no texts
        copy.write_bytes(sealed(bytes(body)))
        assert verify(copy) == (0, []), "the seal fits"
        code, found = verify(copy, "--replay")
        named = [(f["check"], f.get("version")) for f in found]
        assert code == 1 and ("answer", version) in named and ("replay", TURNS) in named, found
    ((at, n),) = [(at, n) for kind, at, n in records(data) if kind == 2]
    body = bytearray(data[:-32])
    body[at + n - 2] ^= 1
    copy.write_bytes(sealed(bytes(body)))
    code, found = verify(copy)
    assert code == 1 and [(f["check"], f["version"]) for f in found] == [("image", TURNS)], found
    code, found = verify(copy, "--replay")
    replay = [f for f in found if f["check"] == "replay"]
    assert code == 1 and f"1 of {LAYERS * SLOTS * DIM} values" in replay[0]["detail"], found
    last = f"layer {LAYERS - 1}, slot {SLOTS - 1}, value {DIM - 1}"
    assert last in replay[0]["detail"], found


def nonsense(export, copy):
    """A session row that no memory can have, sealed again: refused before anything is looked up by
    it."""
    data = without_sums(export.read_bytes())
    ((row, _),) = [(at, n) for kind, at, n in records(data) if kind == 1]
    for field, value in [(0, 77), (0, 2**32 - 1), (1, 0), (2, 2**31), (3, 0), (4, 9)]:
        body = bytearray(data[:-32])
        struct.pack_into("<I", body, row + 16 + 4 * field, value)  # dtype, layers, slots, width, init
        copy.write_bytes(sealed(bytes(body)))
        done = run(["inspect", copy], check=False)
        assert done.returncode == 1 and "has a memory of" in done.stderr, (field, value, done)
        code, found = verify(copy)
        assert code == 1 and ("image" if field < 4 else "content") in [f["check"] for f in found], found


def main():
    dice = random.Random(11)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        store, copy = folder / "a.db", folder / "copy.db"
        chat(store, QUERIES[:TURNS], options=["--temperature", "0.7"])
        run(["session", "export", "s", "--file", folder / "s.rxt", "--store", store])
        with contextlib.closing(sqlite3.connect(store)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for path in (store, folder / "s.rxt"):
            assert verify(path, "--replay") == (0, []), path
        rows(store, copy, dice)
        missing_row(store, copy)
        session_rows(store, copy, dice)
        images(store, copy, dice)
        image_keys(store, copy)
        raw_bits(store, copy, dice)
        exports(folder / "s.rxt", folder / "copy.rxt", dice)
        old_exports(folder / "s.rxt", folder / "copy.rxt", dice)
        forgeries(folder / "s.rxt", folder / "copy.rxt", dice)
        nonsense(folder / "s.rxt", folder / "copy.rxt")
    print("verify: everything that was changed is found and named")


if __name__ == "__main__":
    sys.exit(main())
