"""EXPORT, IMPORT, DIFF: the state endpoint."""

import hashlib
import os
import struct

from rxtp import check
from server import MODEL
from suite import case

IMAGE = "image with wrong hash, model, tenant, session, shape, version"


def export(state, session):
    """Its bytes."""
    id = state.send("EXPORT", {"session": session})
    *chunks, done = state.finish(id)
    size = state.welcome["chunk_bytes"]
    check(done.name == "DONE", "EXPORT ended with", done.name, done.body)
    check(all(len(c.raw) == size for c in chunks[:-1]), "chunks of", {len(c.raw) for c in chunks})
    data = b"".join(c.raw for c in chunks)
    check(done.body["bytes"] == len(data) and done.body["chunks"] == len(chunks), done.body)
    return data


def import_(state, session, data, *, size=None, numbers=None):
    """Sends it; the last message."""
    chunk = size or state.welcome["chunk_bytes"]
    id = state.send("IMPORT", {"session": session, "bytes": len(data)})
    m = state.expect_any(id)
    if m.name == "ERROR":
        return m
    window = m.body["credit"]
    pieces = [data[i : i + chunk] for i in range(0, len(data), chunk)]
    for k, raw in enumerate(pieces):
        while window < len(raw):
            window += state.expect("CREDIT", id).body["bytes"]
        window -= len(raw)
        state.send("CHUNK", {}, id=id, raw=raw, sequence=numbers[k] if numbers else k)
    while not (m := state.expect_any(id)).final and m.name != "ERROR":
        pass
    return m


def seal(data):
    """An export whose bytes were changed, sealed again."""
    return data[:-32] + hashlib.blake2b(data[:-32], digest_size=32).digest()


def without_sums(data):
    """The export in format 1, which has no sum behind each record: what is changed in it is found by
    what it says, not by its sum."""
    out, at = bytearray(data[:8] + struct.pack("<I", 1) + data[12:16]), 16
    while at < len(data) - 32:
        n = 16 + struct.unpack_from("<Q", data, at + 8)[0]
        out += data[at : at + n]
        at += n + 8
    return seal(bytes(out) + data[-32:])


def refused(state, session, data, *codes):
    m = import_(state, session, data)
    check(m.name == "ERROR" and m.body["code"] in codes, f"wanted {codes}, got", m.name, m.body)
    state.alive()


@case()
def a_session_travels(s):
    turn, state = s.peer(), s.peer("state")
    turn.open("s")
    for query in ("hi, i'm Anna", "my pet is called Bruno"):
        turn.turn("s", query).remembered()
    data = export(state, "s")
    m = import_(state, "copy", data)
    check(m.name == "DONE" and m.body["session"] == "copy", m.body)
    check(m.body["info"]["version"] == 2 and m.body["info"]["origin"] == "s", m.body)
    a, b = (turn.call("GET", {"session": n}) for n in ("s", "copy"))
    check(a["info"]["stm_hash"] == b["info"]["stm_hash"], "another memory")
    check(a["last_ids"] == b["last_ids"], "another last turn")
    answers = [turn.turn(n, "what is my name?").remembered() for n in ("s", "copy")]
    check(answers[0].ids == answers[1].ids, "it answers otherwise")
    check(answers[0].memory["stm_hash"] == answers[1].memory["stm_hash"], "it remembers otherwise")
    check(import_(state, "copy", data).body["code"] == 204, "the name is taken")
    again = state.send("EXPORT", {"session": "s"})
    check(state.finish(again)[-1].name == "DONE", "EXPORT again")


@case(rows=[IMAGE])
def an_import_that_is_damaged(s):
    turn, state = s.peer(), s.peer("state")
    turn.open("s")
    turn.turn("s", "hi, i'm Anna").remembered()
    data = export(state, "s")
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    refused(state, "x", bytes(flipped), 405)
    refused(state, "x", data[:-40], 405, 406)
    refused(state, "x", os.urandom(5000), 406)
    refused(state, "x", b"", 106)
    newer = seal(data[:8] + struct.pack("<I", 99) + data[12:])
    refused(state, "x", newer, 407)
    turn.refused("GET", {"session": "x"}, 201)
    check([i["session"] for i in turn.call("LIST", {})["sessions"]] == ["s"], "something is there")


def another_model(folder):
    """The bundled one, but for a line end in its configuration: another hash."""
    model = folder / "model"
    model.mkdir()
    for name in ("tokenizer.json", "model.safetensors"):
        (model / name).symlink_to(MODEL / name)
    (model / "config.json").write_text((MODEL / "config.json").read_text() + "\n")
    return model


@case(rows=[IMAGE], own=True)
def an_import_of_another_model(make):
    s = make().start()
    turn, state = s.peer(), s.peer("state")
    turn.open("s")
    turn.turn("s", "hi, i'm Anna").remembered()
    data = export(state, "s")
    s.stop()
    model = another_model(s.folder)
    other = make(model=model).start()
    turn, state = other.peer(), other.peer("state")
    refused(state, "s", data, 208)
    turn.refused("GET", {"session": "s"}, 201)
    check(turn.call("LIST", {})["sessions"] == [], "something is there")
    turn.open("s")  # the name is free
    other.stop()


@case(rows=[IMAGE])
def an_import_of_another_shape(s):
    """Sealed as it should be, of this model, but its row says what no session of it has."""
    turn, state = s.peer(), s.peer("state")
    turn.open("s")
    turn.turn("s", "hi, i'm Anna").remembered()
    data = without_sums(export(state, "s"))
    check(import_(state, "sound", data).name == "DONE", "format 1 is not read")
    row = 16 + 16 + 16  # after header, record and the model's hash: dtype, n_layer, n_slot, ...
    for field in range(6):
        at = row + 4 * field
        refused(state, "x", seal(data[:at] + struct.pack("<I", 77) + data[at + 4 :]), 208)
    turn.refused("GET", {"session": "x"}, 201)


@case(rows=[IMAGE])
def an_import_with_names_that_are_none(s):
    """Where it comes from in bytes that no name has: sealed as it should be, and refused."""
    turn, state = s.peer(), s.peer("state")
    turn.open("s")
    turn.turn("s", "hi, i'm Anna").remembered()
    data = without_sums(export(state, "s"))
    at = 16 + 16 + 16 + 6 * 4 + 5 * 8 + 4 + 128  # behind the name of the model
    for bad in (b"\xff", b"\x1b[2J"):
        changed = seal(data[:at] + bad + bytes(1) * (128 - len(bad)) + data[at + 128 :])
        refused(state, "x", changed, 406)
    check(len(turn.call("LIST", {})["sessions"]) == 1, "one of them is there")


@case(rows=[IMAGE], own=True)
def a_store_of_another_model(make):
    s = make().start()
    peer = s.peer()
    peer.open("s")
    peer.turn("s", "hi, i'm Anna").remembered()
    s.stop()
    model = another_model(s.folder)
    mixed = make(model=model, folder=s.folder).start()
    peer = mixed.peer()
    peer.refused("TURN", {"session": "s", "query": "hi"}, 208)
    mixed.stop()


@case()
def chunks_in_order(s):
    turn, state = s.peer(), s.peer("state")
    turn.open("s")
    turn.turn("s", "hi").remembered()
    data = export(state, "s")
    big = seal(data[:-32] + bytes(3 << 20) + data[-32:])
    for numbers in ([1, 0, 2, 3, 4], [0, 0, 1, 2, 3], [0, 2, 1, 3, 4]):
        m = import_(state, "x", big, numbers=numbers)
        check(m.name == "ERROR" and m.body["code"] == 101, m.body)
        state.send("CANCEL", {"session": "x"}, id=m.id)
        if not m.final:
            check(state.finish(m.id)[-1].name == "CANCELLED", "CANCEL")
        state.alive()
    refused(state, "x", bytes(20 << 20), 406)  # more than is taken ahead: CREDIT comes
    id = os.urandom(16)
    state.send("CHUNK", {}, id=id, raw=b"x")
    state.error(id, 202)
    id = state.send("IMPORT", {"session": "x", "bytes": 10})
    state.expect("ACCEPTED", id)
    state.send("CANCEL", {"session": "x"}, id=id)
    state.expect("CANCELLED", id)
    turn.refused("GET", {"session": "x"}, 201)


@case()
def an_export_goes_under_credit(s):
    turn, state = s.peer(), s.peer("state", hello={"credit": 1}.items())
    turn.open("origin")
    turn.turn("origin", "hi").remembered()
    turn.call("FORK", {"session": "origin", "to": "s"})
    turn.turn("s", "hi").remembered()  # two images: where it began, and now
    whole = export(s.peer("state", hello={"credit": 1 << 24}.items()), "s")
    check(len(whole) > 1 << 20, "this test needs more than a chunk")
    id = state.send("EXPORT", {"session": "s"})
    chunk = state.expect("CHUNK", id)
    state.alive()
    check(len(state.streams[id].came) == 1, "more without credit")
    state.send("CREDIT", {"bytes": len(chunk.raw) + (8 << 20)})
    check(state.finish(id)[-1].name == "DONE", "EXPORT")
    stopped = s.peer("state", hello={"credit": 1}.items())
    id = stopped.send("EXPORT", {"session": "s"})
    stopped.expect("CHUNK", id)
    stopped.send("CANCEL", {"session": "s"}, id=id)
    check(stopped.finish(id)[-1].name in ("CANCELLED", "DONE"), "CANCEL of an EXPORT")


@case()
def diff(s):
    turn, state = s.peer(), s.peer("state")
    turn.open("s")
    for query in ("hi, i'm Anna", "my pet is called Bruno"):
        turn.turn("s", query).remembered()

    def ask(**body):
        d = state.call("DIFF", {"session": "s", **body})
        n = d["n_layer"] * d["n_slot"]
        check(len(d["change"]) == len(d["cosine"]) == 4 * n > 0, d)
        return struct.unpack(f"<{n}f", d["change"]), struct.unpack(f"<{n}f", d["cosine"])

    change, cosine = ask(version=2, to_version=2)
    check(not any(change) and all(abs(c - 1) < 1e-5 for c in cosine), "2 and 2 differ")
    one, two = ask(version=1)[0], ask(version=0, to_version=2)[0]
    check(any(one) and one != two, "nothing changed")
    check(ask(version=1, to_version=2)[0] == one, "to_version = newest")
    check(ask(version=0, to_version=1)[0] != two, "to_version")
    turn.call("FORK", {"session": "s", "to": "f", "version": 1})
    check(not any(ask(version=1, other="f")[0]), "a fork is its origin")
    state.refused("DIFF", {"session": "s", "version": 77}, 203)
    state.refused("DIFF", {"session": "s", "version": 0, "other": "nobody"}, 201)
