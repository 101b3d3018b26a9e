"""Models, stores and disks that fail: design 8. What only a failing system call brings about comes
from disk.c, a library between rxtd and the C library."""

import json
import os
import signal
import sqlite3
import struct

from rxtp import LONG, Turn, check
from server import MODEL
from suite import case

DISK = "disk full, I/O error, busy database"
IMAGE = "image with wrong hash, model, tenant, session, shape, version"
FINITE = "non-finite update"
FROZEN = "disk that hangs"
STOP = "SIGTERM"
CLOCK = "wall clock that jumps"
MODEL_FILE = (
    "model file: missing tensor, wrong shape, overlapping or out-of-file offsets, "
    "unknown config value, huge header"
)
PATIENT = {
    "queue_ms": 600_000, "first_token_ms": 600_000, "total_ms": 600_000, "memory_ms": 600_000,
}
BIAS = "memory_attention.model.attention_layers.3.out_proj.bias"


def copy_model(folder, *, header=None, config=None, poison=None):
    """The bundled model with its header or configuration changed, or an infinity in a tensor."""
    folder.mkdir()
    (folder / "tokenizer.json").symlink_to(MODEL / "tokenizer.json")
    wanted = json.loads((MODEL / "config.json").read_text())
    if config:
        config(wanted)
    (folder / "config.json").write_text(json.dumps(wanted))
    data = (MODEL / "model.safetensors").read_bytes()
    size = struct.unpack_from("<Q", data)[0]
    tensors, values = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
    if poison:
        at = tensors[poison]["data_offsets"][0]
        values[at : at + 2] = b"\x80\x7f"  # infinity in bf16
    if header:
        header(tensors)
    text = json.dumps(tensors).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + values)
    return folder


@case(rows=[FINITE], own=True)
def an_update_that_is_not_finite(make):
    s = make()
    s.model = copy_model(s.folder / "model", poison=BIAS)
    s.start()
    peer = s.peer()
    peer.open("s")
    before = peer.call("GET", {"session": "s"})["info"]
    turn = peer.turn("s", "hi, i'm Anna")
    check(turn.done and turn.last.name == "MEMORY_FAILED", turn.names)
    check(turn.last.body["code"] == 408 and turn.last.body["version"] == 0, turn.last.body)
    for restarted in (False, True):
        peer.refused("TURN", {"session": "s", "query": "hi"}, 206)
        peer.refused("REMEMBER", {"session": "s", "ids": [5]}, 206)
        check(peer.turn("s", "hi", commit="never").ids, "dry runs go on")
        info = peer.call("GET", {"session": "s"})["info"]
        check(info["state"] == "held" and info["held_reason"] and info["version"] == 0, info)
        check(info["stm_hash"] == before["stm_hash"], "the memory changed")
        if not restarted:
            s.stop()
            s.start()
            peer = s.peer()
    peer.finish(peer.send("REWIND", {"session": "s", "version": 0}))
    info = peer.call("GET", {"session": "s"})["info"]
    check(info["state"] != "held" and info["version"] == 1, "REWIND repairs it", info)
    s.stop()


def with_a_damaged_image(s):
    """Damages an image of session s, but none of session sound; its chunk and what it now holds."""
    peer = s.peer()
    for name in ("s", "sound"):
        peer.open(name)
        for query in ("hi, i'm Anna", "tell me a joke"):
            peer.turn(name, query).remembered()
    s.stop()
    db = sqlite3.connect(s.store)
    key, data = db.execute("SELECT key, data FROM chunk ORDER BY key").fetchall()[1]
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 4
    db.execute("UPDATE chunk SET data = ? WHERE key = ?", (bytes(damaged), key))
    db.commit()
    db.close()
    s.start()
    return key, bytes(damaged)


@case(rows=[IMAGE])
def an_image_that_was_damaged(s):
    key, damaged = with_a_damaged_image(s)
    peer = s.peer()
    id = peer.send("TURN", {"session": "s", "query": "hi"})
    m = peer.expect("ERROR", id)
    check(m.body["code"] in (405, 206), m.body)
    peer.refused("GET", {"session": "s"}, 206)
    check(peer.turn("sound", "hi").remembered().memory["version"] == 3, "another session suffers")
    db = sqlite3.connect(s.store)
    now = db.execute("SELECT data FROM chunk WHERE key = ?", (key,)).fetchone()
    check(now and now[0] == damaged, "it was overwritten")
    db.close()
    peer.finish(peer.send("REWIND", {"session": "s", "version": 0}))
    check(peer.call("GET", {"session": "s"})["info"]["state"] != "held", "REWIND repairs it")


@case(rows=[MODEL_FILE], own=True)
def a_model_file_that_is_wrong(make):
    def missing(tensors):
        tensors["nobody.knows.it"] = tensors.pop(BIAS)

    def overlap(tensors):
        tensors[BIAS]["data_offsets"] = [0, 512]

    def outside(tensors):
        a, b = tensors[BIAS]["data_offsets"]
        tensors[BIAS]["data_offsets"] = [a + (1 << 40), b + (1 << 40)]

    def shape(tensors):
        tensors[BIAS]["shape"] = [4, tensors[BIAS]["shape"][0] // 4]

    def value(config):
        config["decoder_config"]["self_att_type"] = "psychic"

    for k, (how, word) in enumerate((
        ({"header": missing}, BIAS), ({"header": overlap}, ""),
        ({"header": outside}, ""), ({"header": shape}, BIAS), ({"config": value}, "self_att_type"),
    )):
        s = make()
        s.model = copy_model(s.folder / f"model{k}", **how)
        code, said = s.refuses_to_start()
        check(code > 0, "it was taken", how, said)
        check(word in said, "what is wrong is not named:", word, said)
        check("model.safetensors" in said or "config" in said, "the file is not named:", said)
    s = make()
    s.model = copy_model(s.folder / "huge")
    with open(s.model / "model.safetensors", "r+b") as f:
        f.write(struct.pack("<Q", 1 << 62))
    code, said = s.refuses_to_start()
    check(code > 0 and "model.safetensors" in said, said)


@case(own=True)
def a_store_that_another_process_took(make):
    s = make().start()
    peer = s.peer()
    peer.open("s")
    peer.turn("s", "hi").remembered()
    db = sqlite3.connect(s.store, timeout=10)
    db.execute("UPDATE lease SET fence = fence + 1, pid = 1")
    db.commit()
    db.close()
    turn = peer.turn("s", "hi")
    check(turn.error and turn.error["code"] == 409, turn.names, turn.error)
    s.kill()


def with_disk(make, **options):
    """A server whose disk does what the file `disk` says."""
    s = make(env={"LD_PRELOAD": os.environ["RXT_DISK"]}, **options)
    s.disk = s.folder / "disk"
    s.env["RXT_DISK_FILE"] = str(s.disk)
    s.start()
    return s


@case(rows=[DISK], own=True)
def a_disk_that_fails(make):
    """The turn fails before DONE, the session is unchanged, reads go on; then it is retried."""
    for word, codes in (("full", {402}), ("broken", {403})):
        s = with_disk(make)
        peer = s.peer()
        peer.open("s")
        before = peer.turn("s", "hi, i'm Anna").remembered()
        s.disk.write_text(word)
        turn = peer.turn("s", "my pet is called Bruno")
        check(turn.error and turn.error["code"] in codes, word, turn.names, turn.error)
        check("DONE" not in turn.names, "DONE, and not on the disk")
        check(turn.error["retryable"], turn.error)
        info = peer.call("GET", {"session": "s"})["info"]
        check(info["version"] == 1 and info["stm_hash"] == before.memory["stm_hash"], info)
        check(peer.turn("s", "hi", commit="never").ids, "reads go on")
        s.disk.unlink()
        again = peer.turn("s", "my pet is called Bruno", id=turn.id)
        check(again.remembered().memory["version"] == 2, again.names)
        s.stop()


def answered_and_not_written(s, peer):
    """A turn in session s whose DONE waits for the disk, which hangs from now on; its id."""
    s.disk.write_text("frozen")
    id = peer.send("TURN", {"session": "s", "query": "tell me a joke", "max_tokens": 12})
    while (m := peer.expect_any(id)).name != "TOKEN" or len(m.body["ids"]) + m.sequence < 12:
        check(m.name in ("ACCEPTED", "TOKEN"), m.name)
    return id


@case(rows=[FROZEN], own=True)
def a_disk_that_hangs(make):
    """DONE waits for it. What needs no disk goes on, and then everything comes."""
    s = with_disk(make)
    peer, other = s.peer(), s.peer()
    for name in ("s", "t"):
        peer.open(name)
        peer.turn(name, "hi, i'm Anna").remembered()
    peer.call("FORK", {"session": "s", "to": "cold"})
    id = answered_and_not_written(s, peer)
    for _ in range(3):
        other.alive()
        check(other.turn("t", "what's my name?", commit="never").ids, "a dry run")
        check(other.call("GET", {"session": "t"})["info"]["version"] == 1, "GET")
        check(other.call("GET", {"session": "cold"})["info"]["version"] == 1, "GET of a cold one")
        check(len(other.call("LIST", {})["sessions"]) == 3, "LIST")
        check(s.peer("admin").call("HEALTH", {})["live"], "HEALTH")
    check(peer.receive(0) is None, "DONE, and not on the disk")
    s.disk.unlink()
    turn = Turn(peer.finish(id))
    check(turn.remembered().memory["version"] == 2, turn.names)
    s.stop()


@case(rows=[FROZEN, STOP], own=True)
def a_disk_that_hangs_keeps_no_process(make):
    """After the deadline of the drain, or a second signal, it ends without the disk, says so, and has
    lost nothing of what it acknowledged: DONE had waited."""
    for twice, drain_ms in ((False, 100), (True, 600_000)):
        s = with_disk(make, drain_ms=drain_ms)
        peer = s.peer()
        peer.open("s")
        before = peer.turn("s", "hi, i'm Anna").remembered()
        id = answered_and_not_written(s, peer)
        s.signal(signal.SIGTERM)
        while peer.receive().name != "DRAINING":
            pass
        if twice:
            s.signal(signal.SIGTERM)
        check(s.wait() == 3, "exit code", s.process.returncode, s.read_log())
        check("ended without" in s.read_log(), "it does not say why:", s.read_log())
        s.disk.unlink()
        s.start()
        peer = s.peer()
        info = peer.call("GET", {"session": "s"})["info"]
        check(info["version"] == 1 and info["stm_hash"] == before.memory["stm_hash"], info)
        again = peer.turn("s", "tell me a joke", id=id, max_tokens=12)
        check(not again.stored and again.remembered().memory["version"] == 2, again.names)
        s.stop()


@case(rows=[CLOCK], own=True)
def a_clock_that_jumps(make):
    """Deadlines, order and memories know nothing of it."""
    s = with_disk(make)
    peer = s.peer()
    peer.open("straight")
    peer.open("s")
    queries = ("hi, i'm Anna", "my pet is called Bruno", "tell me a joke", "what's my name?")
    straight = [peer.turn("straight", q).remembered().memory["stm_hash"] for q in queries]
    created = peer.call("GET", {"session": "s"})["info"]["created_us"]
    kept, used = [], []
    for k, (query, when) in enumerate(zip(queries, ("past", "future", "past", "now"))):
        long = peer.send("TURN", {"session": "s", "query": query, "max_tokens": 12, **PATIENT})
        peer.expect("ACCEPTED", long)
        s.disk.write_text(when)  # while it runs
        turn = Turn(peer.finish(long)).remembered()
        check(turn.memory["version"] == k + 1, turn.memory)
        check(turn.memory["stm_hash"] == straight[k], "another memory after a jump to the", when)
        kept.append(turn)
        used.append(peer.call("GET", {"session": "s"})["info"]["used_us"])
        late = peer.send("TURN", {"session": "s", "query": "hi", **LONG, "total_ms": 1})
        check(peer.finish(late)[-1].body["code"] == 302, "a deadline does not pass")
    check(max(used) - min(used) > 1 << 48, "this test: the clock did not jump", used)
    check(peer.call("GET", {"session": "s"})["info"]["created_us"] == created, "created_us")
    for turn in kept:  # as long as grace_ms says
        peer.send("RESUME", {"session": "s"}, id=turn.id)
        check(Turn(peer.finish(turn.id)).ids == turn.ids, "a stream was forgotten")
    s.stop()
    s.disk.write_text("past")
    s.start()
    peer = s.peer()
    check(peer.call("GET", {"session": "s"})["info"]["stm_hash"] == straight[-1], "after a restart")
    repeat = peer.turn("s", queries[0], id=kept[0].id)
    check(repeat.stored and repeat.ids == kept[0].ids, "the journal of another time")
    s.stop()


@case(rows=[DISK])
def a_database_that_is_busy(s):
    """Somebody else holds the store's lock for a while: the turn waits or fails, never half."""
    peer = s.peer()
    peer.open("s")
    peer.turn("s", "hi, i'm Anna").remembered()
    db = sqlite3.connect(s.store, timeout=10, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    id = peer.send("TURN", {"session": "s", "query": "tell me a joke", "max_tokens": 12})
    while peer.expect_any(id).name != "TOKEN":
        pass
    reader = s.peer()
    reader.alive()
    db.execute("ROLLBACK")
    db.close()
    turn = Turn(peer.finish(id))
    if turn.error:
        check(turn.error["retryable"], turn.error)
        turn = peer.turn("s", "tell me a joke", id=id)
    check(turn.remembered().memory["version"] == 2, turn.names)


@case(own=True)
def no_memory_for_a_request(make):
    """401, and it lives on."""
    s = with_disk(make)
    peer = s.peer()
    peer.open("s")
    s.disk.write_text("nomem")
    turn = peer.turn("s", "hi")
    s.disk.unlink()
    check(turn.error and turn.error["code"] == 401, turn.names, turn.error)
    peer.turn("s", "hi").remembered()
    s.stop()
