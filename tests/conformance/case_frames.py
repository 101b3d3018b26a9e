"""Frames, headers and bodies that are not as they should be: section 2 and 3 of PROTOCOL.md."""

import os
import socket
import struct

import msgpack

from document import CLIENT_TYPES, ENDPOINTS, keys_of
from rxtp import FINAL, HEADER, NO_ID, STORED, check
from suite import case

FRAMES = "malformed, truncated, oversized or unknown frame"
PARAMETERS = "parameters out of range, NaN temperature, unknown key"
OPEN = {"session": "s"}


def raw(type, body, *, id=None, length=None, magic=b"RXTP", flags=0):
    data = msgpack.packb(body)
    id = os.urandom(16) if id is None else id
    length = len(data) if length is None else length
    return [HEADER.pack(magic, 1, type, flags, id, 0, length), data]


@case(rows=[FRAMES])
def the_number_and_size_of_frames(s):
    peer = s.peer()
    for frames in ([0], [0, 1, b"more"], [0, 1, b"a", b"b"], [0, b""]):
        id = os.urandom(16)
        whole = raw(CLIENT_TYPES["OPEN"], OPEN, id=id)
        peer.send_frames([whole[f] if isinstance(f, int) else f for f in frames])
        peer.error(id, 101)
        peer.alive()
    for length in (0, 9, 1 << 31):
        peer.refused("OPEN", OPEN, 101, length=length)
    for flags in (FINAL, STORED, 4, 0x8000):
        peer.refused("OPEN", OPEN, 101, flags=flags)
    peer.open("s")


class Stranger:
    """ZMTP 3.0 by hand: it can begin a message and not end it, which libzmq's own sockets do not."""

    def __init__(self, address):
        host, port = address.removeprefix("tcp://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        self.take(64)
        ready = b"\x05READY" + b"".join(
            bytes([len(k)]) + k + struct.pack(">I", len(v)) + v
            for k, v in ((b"Socket-Type", b"DEALER"), (b"Identity", b""))
        )
        self.socket.sendall(bytes([4, len(ready)]) + ready)
        self.take(self.take(2)[1])

    def take(self, n):
        data = b""
        while len(data) < n:
            data += self.socket.recv(n - len(data))
        return data


def memory_of(s):
    """Resident bytes of the server."""
    with open(f"/proc/{s.process.pid}/status") as f:
        (line,) = (line for line in f if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


@case(rows=[FRAMES])
def a_message_of_very_many_frames(s):
    """It is refused like any other of a wrong number, and the others do not wait for it."""
    peer, other = s.peer(), s.peer()
    id = os.urandom(16)
    peer.send_frames(raw(CLIENT_TYPES["OPEN"], OPEN, id=id) + [b""] * 100_000)
    other.open("other")
    check("100002 frames" in peer.error(id, 101).body["detail"], "another number")
    peer.open("s")


@case(rows=[FRAMES])
def a_message_without_end(s):
    """Frames after frames of one message: the connection is closed, the server stays small."""
    other, before, sent = s.peer(), memory_of(s), 0
    stranger = Stranger(s.addresses["turn"])
    try:
        while sent < 1 << 30:
            stranger.socket.sendall(b"\x01\0" * 65536)  # frames of no bytes, more to come
            sent += 131072
        check(False, "it took", sent, "bytes of a message")
    except (BrokenPipeError, ConnectionResetError):
        pass
    check(sent > 4 << 20, "closed after", sent, "bytes")
    check(memory_of(s) - before < 1 << 30, "the server grew to", memory_of(s))
    other.open("s")


@case(rows=[FRAMES])
def a_header_that_is_not_ours_is_not_answered(s):
    good = raw(CLIENT_TYPES["PING"], {}, id=NO_ID)
    for first in (b"", b"RXTP", good[0][:31], good[0] + b"x", b"HTTP" + good[0][4:]):
        peer = s.peer()
        peer.alive()
        peer.send_frames([first, good[1]])
        peer.send_frames(good)  # ignored from now on
        other = s.peer()
        other.alive()
        check(peer.receive(0.1) is None, "a stranger was answered")


@case(rows=[FRAMES])
def a_frame_that_is_too_large(s):
    peer = s.peer()
    most = peer.welcome["max_body_bytes"]
    peer.refused("OPEN", {"session": "s", "?x": b"x" * most}, 107)
    peer.refused("OPEN", {"session": "s", "?x": b"x" * (3 * most)}, 107)
    fits = {"session": "s", "?x": b""}
    fits["?x"] = b"x" * (most - len(msgpack.packb(fits)) - 3)
    check(most - 3 <= len(msgpack.packb(fits)) <= most, "this test")
    peer.call("OPEN", fits)
    state = s.peer("state")
    chunk = state.welcome["chunk_bytes"]
    id = state.send("IMPORT", {"session": "i", "bytes": 10 * chunk})
    state.expect("ACCEPTED", id)
    state.send("CHUNK", {}, id=id, raw=b"x" * (chunk + 1))
    check(not state.error(id, 107).final, "the IMPORT goes on")
    state.alive()


@case(rows=[FRAMES])
def a_body_that_is_not_a_map(s):
    peer = s.peer()
    good = msgpack.packb(OPEN)
    deep = {"session": "s", "?a": [[[1]]]}
    for data in (
        b"\xc0", b"\x01", msgpack.packb([1]), msgpack.packb("x"), good[:-1], good + b"\x00",
        b"\x81\x01\x02", b"\x81\xa7session\xc0", b"\x82\xa7session\xa1s\xa7session\xa1s",
        b"\xdf\xff\xff\xff\xff", b"\xc1", msgpack.packb({"session": "s", "?a": [[[[1]]]]}),
        msgpack.packb({"session": "s", **{f"?{k}": 1 for k in range(64)}}),
        msgpack.packb({"session": "s", "?a": None}),
    ):
        peer.refused("OPEN", OPEN, 102, data=data)
    peer.call("OPEN", deep)
    peer.call("OPEN", {"session": "s", **{f"?{k}": 1 for k in range(63)}})


@case(rows=[FRAMES])
def a_type_that_is_unknown(s):
    peer = s.peer()
    for number in (0, 0x08, 0x0F, 0x24, 0x7F, 0x81, 0x82, 0x8A, 0xFF):
        peer.refused(number, {}, 103)


@case(rows=[PARAMETERS])
def keys_that_are_unknown_or_missing(s):
    turn, state, admin = s.peer(), s.peer("state"), s.peer("admin")
    for name in CLIENT_TYPES:
        peer = {"state": state, "admin": admin}.get(ENDPOINTS[name].split(", ")[0], turn)
        zero = name in ("HELLO", "CREDIT", "PING")
        how = {"id": NO_ID} if zero else {}
        if name == "CHUNK":
            how["raw"] = b"x"
        peer.refused(name, {"colour": 1}, 104, "colour", **how)
        must = [k for k, needed in keys_of(name).items() if needed]
        if must:
            peer.refused(name, {"?colour": 1}, 105, must[0] if len(must) == 1 else None, **how)
    turn.open("s")
    turn.refused("TURN", {"session": "s"}, 105)
    turn.refused("TURN", {"session": "s", "query": "x", "on_busy": "fork"}, 105, "fork_to")
    turn.refused("TURN", {"session": "s", "query": "x", "fork_to": "y"}, 106, "fork_to")
    turn.refused("TURN", {"session": "s", "query": "x", "tool_result": "y"}, 106)
    turn.refused("REMEMBER", {"session": "s"}, 105)
    turn.refused("REMEMBER", {"session": "s", "query": "x"}, 105, "answer")
    turn.refused("REMEMBER", {"session": "s", "ids": [1], "query": "x", "answer": "y"}, 106)
    turn.refused("OPEN", {"session": "t", "from_version": 0}, 105, "from")


@case(rows=[PARAMETERS])
def values_out_of_range(s):
    peer = s.peer()
    peer.open("s")
    most = peer.welcome["max_candidates"]
    nan, infinity = float("nan"), float("inf")
    for key, values in {
        "temperature": (-0.1, nan, infinity, "hot", True),
        "top_p": (0, -1, 1.01, nan, infinity), "top_k": (-1, 1 << 31, 1.5, "x"),
        "max_tokens": (-1, 1 << 31, "x"), "n": (0, most + 1, -1), "seed": (-1, "x"),
        "thinking": ("slow", 1), "commit": ("maybe",), "on_busy": ("push",), "on_stale": ("read",),
        "on_cancel": ("keep",), "on_disconnect": ("discard",), "min_version": (-1, 1 << 31),
        "if_version": (-1, 1 << 31), "queue_ms": (-1, 1 << 32), "first_token_ms": (1 << 32,),
        "total_ms": (1 << 32,), "memory_ms": (1 << 32,), "query": ("", 1, b"x", "a\0b"),
        "session": ("", "x" * 128, "a\nb", "\x7f", 1), "internal": (1,), "tool_result": (1,),
    }.items():
        for value in values:
            body = {"session": "s", "query": "x", key: value}
            if key == "tool_result":
                del body["query"]
            peer.refused("TURN", body, 106, key)
    for name, key, values in (
        ("OPEN", "session", ("", "x" * 128, "a\tb")), ("OPEN", "seed", (-1, "x")),
        ("LIST", "limit", (0, 257)), ("FORK", "to", ("",)),
        ("REMEMBER", "ids", ([], [-1], ["x"], 1)),
    ):
        for value in values:
            body = {k: "s" for k, needed in keys_of(name).items() if needed}
            peer.refused(name, {**body, key: value}, 106, key)
    peer.refused("REMEMBER", {"session": "s", "ids": [peer.welcome["n_vocab"]]}, 106)
    peer.refused("CREDIT", {"bytes": 0}, 106, "bytes", id=NO_ID)
    peer.refused("CREDIT", {"bytes": peer.welcome["credit_max"] + 1}, 106, "bytes", id=NO_ID)
    peer.refused("HELLO", {"versions": []}, 106, "versions", id=NO_ID)
    peer.refused("HELLO", {"versions": [1] * 17}, 106, "versions", id=NO_ID)
    peer.refused("HELLO", {"versions": [1], "client": ""}, 106, "client", id=NO_ID)
    too_much = {"versions": [1], "credit": peer.welcome["credit_max"] + 1}
    peer.refused("HELLO", too_much, 106, "credit", id=NO_ID)
    turn = peer.turn("s", "hi", temperature=0, top_p=1, top_k=0, n=1)
    check(turn.done["read_version"] == 0, "a refused turn left something")


@case(rows=["query empty, not UTF-8, longer than the turn limit"])
def text_that_is_no_text(s):
    peer = s.peer()
    peer.open("s")
    for bad in (b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"):
        data = b"\x82\xa7session\xa1s\xa5query" + bytes([0xA0 + len(bad)]) + bad
        peer.refused("TURN", {"session": "s"}, 108, "query", data=data)
    data = b"\x81\xa7session\xa2\xffs"
    peer.refused("OPEN", OPEN, 108, "session", data=data)
    peer.refused("TURN", {"session": "s", "query": ""}, 106, "query")
    limit = peer.welcome["max_seq_len"]
    m = peer.refused("TURN", {"session": "s", "query": "word " * 2 * limit}, 209)
    check(str(limit) in m.body["detail"], "the limit is not named:", m.body["detail"])
    peer.refused("REMEMBER", {"session": "s", "ids": [5] * (limit + 1)}, 209)
    check(peer.call("GET", {"session": "s"})["info"]["version"] == 0, "something was remembered")


@case(rows=["special-token text inside user text"])
def special_tokens_in_text_are_text(s):
    peer = s.peer()
    peer.open("s")
    plain = peer.call("REMEMBER", {"session": "s", "query": "a", "answer": "b"})
    check(plain["pending_version"] == 1, plain)
    frame = peer.call("GET", {"session": "s"})["last_ids"]
    for special in ("[Q]", "[A]", "[EOS]", "[BOS]"):
        peer.call("REMEMBER", {"session": "s", "query": special, "answer": "b"})
        ids = peer.call("GET", {"session": "s"})["last_ids"]
        check(len(ids) > len(frame), special, "became one token:", ids)
    got = peer.turn("s", "[EOS]").done
    check(got["n_query"] > peer.turn("s", "a").done["n_query"], "[EOS] became one token")


@case(rows=[FRAMES])
def hello_comes_first(s):
    peer = s.peer(hello=None)
    for name in ("OPEN", "TURN", "GET", "RESUME"):
        peer.error(peer.send(name, OPEN), 110)
    peer.send("PING")
    peer.error(NO_ID, 110)
    peer.send("HELLO", {"versions": [2, 99]}, id=NO_ID)
    peer.error(NO_ID, 109)
    peer.send("OPEN", OPEN)
    check(peer.receive().body["code"] == 110, "a HELLO without common version counted")
    peer.hello(versions=[2, 1], client="conformance")
    peer.open("s")
    peer.hello(credit=5)  # again: WELCOME again


@case(rows=[FRAMES])
def the_version_of_a_header(s):
    peer = s.peer()
    for version in (0, 2, 255):
        peer.refused("OPEN", OPEN, 109, version=version)


@case(rows=[FRAMES])
def a_message_at_the_wrong_endpoint(s):
    for endpoint, names in (
        ("turn", ("EXPORT", "IMPORT", "DIFF", "CHUNK", "HEALTH", "STATS", "RELOAD", "DRAIN")),
        ("state", ("TURN", "OPEN", "LIST", "GET", "FORK", "REWIND", "RESET", "ERASE", "REMEMBER",
                   "RESUME", "CHOOSE", "HEALTH", "DRAIN")),
        ("admin", ("TURN", "OPEN", "EXPORT", "CHUNK")),
    ):
        peer = s.peer(endpoint)
        for name in names:
            peer.refused(name, OPEN, 111, raw=b"x" if name == "CHUNK" else None)
    s.peer("admin").refused("CREDIT", {"bytes": 1}, 111, id=NO_ID)


@case(rows=[FRAMES])
def a_request_id_that_may_not_be(s):
    peer = s.peer()
    for name in ("OPEN", "TURN", "CANCEL", "RESUME", "CHOOSE", "GET"):
        peer.refused(name, OPEN, 112, id=NO_ID)
    for name in ("HELLO", "CREDIT", "PING"):
        peer.refused(name, {"versions": [1]} if name == "HELLO" else {}, 112, id=os.urandom(16))


@case(rows=[FRAMES])
def the_first_fault_is_answered(s):
    """The order of section 3: frames, type, endpoint, HELLO, id, body, keys, missing keys."""
    peer = s.peer()
    bad = b"\xc1"
    peer.refused(0x7F, {}, 101, length=3)
    peer.refused(0x7F, {}, 103, data=bad, id=NO_ID)
    peer.refused("EXPORT", {}, 111, data=bad, id=NO_ID)
    peer.refused("OPEN", {}, 112, data=bad, id=NO_ID)
    peer.refused("OPEN", {}, 102, data=bad)
    peer.refused("OPEN", {"colour": 1}, 104, "colour")
    peer.refused("OPEN", {"seed": "x", "colour": 1}, 106, "seed")
    peer.refused("GET", {"session": "nobody", "colour": 1}, 104, "colour")
    early = s.peer(hello=None)
    early.error(early.send("EXPORT", {}), 111)
    early.error(early.send("OPEN", {}, data=bad, id=NO_ID), 110)


@case(rows=[PARAMETERS])
def optional_keys_are_ignored(s):
    peer = s.peer()
    peer.open("s", **{"?colour": "red", "?n": [1, {"a": 2}]})
    turn = peer.turn("s", "hi", **{"?tone": 1})
    turn.remembered()


@case()
def any_width_of_a_number(s):
    """A client may use any form of MessagePack; floats may be integers."""
    peer = s.peer()
    data = b"\x82\xa7session\xd9\x01s\xa4seed\xcf\0\0\0\0\0\0\0\x07"
    check(peer.call("OPEN", OPEN, data=data)["info"]["seed"] == 7, "seed")
    peer.turn("s", "hi", temperature=1, seed=(1 << 64) - 1).remembered()


@case()
def values_that_only_the_engine_can_judge(s):
    """They name their key as others do."""
    peer = s.peer()
    peer.open("s")
    peer.refused("REMEMBER", {"session": "s", "ids": [peer.welcome["n_vocab"]]}, 106, "ids")
    id = peer.send("TURN", {"session": "s", "query": "hi", "n": 2, "max_tokens": 4})
    while peer.expect_any(id).name != "UNDECIDED":
        pass
    peer.send("CHOOSE", {"session": "s", "candidate": 2}, id=id)
    peer.error(id, 106, "candidate")
