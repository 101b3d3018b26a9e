"""RXTP/1 from the outside, on pyzmq and msgpack alone. A Peer is one connection; whatever the server
sends it is held against bridge/PROTOCOL.md, byte by byte and in its order, before a case sees it."""

import collections
import itertools
import os
import struct
import time
from typing import NamedTuple, Optional

import msgpack
import zmq

import document

HEADER = struct.Struct("<4sBBH16sII")
NO_ID = bytes(16)
FINAL, STORED = 1, 2
C = document.CLIENT_TYPES
S = document.SERVER_TYPES
NAMES = {**{v: k for k, v in S.items()}, **{v: k for k, v in C.items()}}
WAIT_S = 10  # a server that has said nothing for so long says nothing
CREDIT = 1 << 20
LONG = {"max_tokens": 200, "temperature": 50.0, "seed": 11}  # any token: no end for a while

UINT, STR, BIN, BOOL, LIST, MAP = int, str, bytes, bool, list, dict
PRICE = {"tokens_max": UINT, "bytes": UINT, "us_expected": UINT}
USAGE = {"queue_us": UINT, "first_token_us": UINT, "answer_us": UINT}
INFO = {
    "session": STR, "state": STR, "version": UINT, "n_turn": UINT, "stm_dtype": STR, "seed": UINT,
    "mixed_class": BOOL, "created_us": UINT, "used_us": UINT,
}
INFO_MAY = {"stm_hash": BIN, "held_reason": STR, "origin": STR, "origin_version": UINT}
CANDIDATE = {"finish": STR, "n_answer": UINT}
NAMED = {"session": STR, "info": INFO}
WRITTEN = {"session": STR, "pending_version": UINT}
BODIES = {  # what must be there
    "CREDIT": {"bytes": UINT}, "PING": {}, "PONG": {}, "CHUNK": {},
    "WELCOME": {
        "version": UINT, "server": STR, "endpoint": STR, "tenant": STR, "model": STR,
        "model_hash": BIN, "bit_class": STR, "n_vocab": UINT, "max_seq_len": UINT,
        "answer_min": UINT, "session_bytes": UINT, "stm_bytes": UINT, "max_body_bytes": UINT,
        "chunk_bytes": UINT, "max_candidates": UINT, "max_inflight": UINT, "credit_max": UINT,
        "heartbeat_ms": UINT, "grace_ms": UINT, "window": UINT,
    },
    "TOKEN": {"text": STR, "ids": LIST},
    "MEMORY": {"session": STR, "version": UINT, "stm_hash": BIN, "lag_us": UINT, "memory_us": UINT},
    "MEMORY_FAILED": {"session": STR, "version": UINT, "code": UINT, "name": STR, "detail": STR},
    "CANCELLED": {"session": STR}, "DRAINING": {"deadline_ms": UINT},
    "ERROR": {"code": UINT, "name": STR, "retryable": BOOL, "retry_after_ms": UINT, "detail": STR},
    "UNDECIDED": {"session": STR, "read_version": UINT, "expires_ms": UINT, "candidates": LIST},
    "ACCEPTED IMPORT": {"session": STR, "credit": UINT},
    "ACCEPTED TURN": {"session": STR, "price": PRICE, "position": UINT},
    "DONE TURN": {"session": STR, "n_query": UINT, "read_version": UINT},
    "DONE REMEMBER": WRITTEN, "DONE REWIND": WRITTEN, "DONE RESET": WRITTEN,
    "DONE OPEN": NAMED, "DONE FORK": NAMED, "DONE IMPORT": NAMED,
    "DONE GET": {**NAMED, "last_ids": LIST, "n_query": UINT},
    "DONE LIST": {"sessions": LIST, "more": BOOL}, "DONE ERASE": {"session": STR},
    "DONE EXPORT": {"session": STR, "bytes": UINT, "chunks": UINT},
    "DONE DIFF": {"n_layer": UINT, "n_slot": UINT, "change": BIN, "cosine": BIN},
    "DONE HEALTH": {
        "live": BOOL, "ready": BOOL, "state": STR, "step_age_us": UINT, "memory_age_us": UINT,
    },
    "DONE STATS": {"metrics": STR}, "DONE RELOAD": {}, "DONE DRAIN": {},
}
MAY = {
    "TOKEN": {"candidate": UINT}, "ERROR": {"key": STR},
    "DONE TURN": {
        "finish": STR, "n_answer": UINT, "pending_version": UINT, "candidate": UINT,
        "candidates": LIST, "usage": USAGE,
    },
}
WRITES = {"REMEMBER", "REWIND", "RESET"}
GRAMMAR = {  # what may come for a request, by what came last
    "TURN": {
        "": "ACCEPTED TOKEN* DONE*", "ACCEPTED": "TOKEN UNDECIDED DONE", "TOKEN": "TOKEN UNDECIDED DONE",
        "UNDECIDED": "DONE", "DONE": "MEMORY MEMORY_FAILED",
    },
    "EXPORT": {"": "CHUNK DONE", "CHUNK": "CHUNK DONE"},
    "IMPORT": {"": "ACCEPTED", "ACCEPTED": "CREDIT DONE", "CREDIT": "CREDIT DONE"},
    **{v: {"": "DONE", "DONE": "MEMORY MEMORY_FAILED"} for v in WRITES},
}
ANYTIME = {"ERROR", "CANCELLED"}
OF_NOBODY = {"PING", "DRAINING"}  # come when they like


class Broken(AssertionError):
    """The server did what the protocol forbids."""


def check(condition, *what):
    if not condition:
        raise Broken(" ".join(map(str, what)))


class Message(NamedTuple):
    name: str
    body: dict
    id: bytes
    flags: int
    sequence: int
    raw: Optional[bytes]
    version: int

    @property
    def final(self):
        return bool(self.flags & FINAL)

    @property
    def stored(self):
        return bool(self.flags & STORED)


class Seen:
    """What went over the wire: the suite counts it, so that nothing goes undriven."""

    def __init__(self):
        self.sent = collections.Counter()  # (type, key) and (type, None)
        self.came = collections.Counter()
        self.codes = collections.Counter()
        self.stored = 0

    def add(self, other):
        self.sent += other.sent
        self.came += other.came
        self.codes += other.codes
        self.stored += other.stored


def check_keys(where, body, must, may):
    for key, kind in must.items():
        check(key in body, where, "has no", key, body)
    for key, value in body.items():
        kind = must.get(key, may.get(key))
        if kind is None:
            continue  # a server may say more than this document
        if isinstance(kind, dict):
            check(isinstance(value, dict), where, key, "is no map")
            check_keys(f"{where} {key}", value, kind, INFO_MAY if kind is INFO else {})
        else:
            ok = isinstance(value, kind) and isinstance(value, bool) == (kind is BOOL)
            check(ok and (kind is not UINT or 0 <= value < 1 << 64), where, key, "=", repr(value))
    for key in ("model_hash", "stm_hash"):
        check(len(body.get(key, NO_ID)) == 16, where, key, "has not 16 bytes")


class Stream:
    """What has come for one request id, and what may come next."""

    def __init__(self, name, body):
        self.name = name
        self.body = body
        self.begin()

    def begin(self):
        """The stream starts anew: a repeat, a RESUME."""
        self.came = []
        self.next = collections.Counter()
        self.base = 0
        self.last = ""
        self.ended = False

    def take(self, m):
        if self.ended and m.name == "ERROR" and m.body["code"] == 202:
            return  # the answer to a CHUNK, CHOOSE or RESUME that came too late
        check(not self.ended, m.name, "after FINAL of", self.name)
        grammar = GRAMMAR.get(self.name, {"": "DONE"})
        if m.name in ANYTIME:
            check(m.final or m.name == "ERROR", m.name, "without FINAL")
        else:
            allowed = grammar.get(self.last, "").split()
            marked = f"{m.name}*" in allowed
            check(m.name in allowed or marked, m.name, "after", repr(self.last), "of", self.name)
            check(m.stored or not marked, m.name, "without ACCEPTED, not STORED")
            check(m.final == self.is_final(m), m.name, "FINAL:", m.final, m.body)
            self.last = m.name
        if m.stored:
            accepted = any(x.name == "ACCEPTED" for x in self.came)
            check(self.name == "TURN" and m.name in ("TOKEN", "DONE"), "STORED", m.name)
            check(not accepted, "STORED after ACCEPTED")
        self.check_numbers(m)
        self.check_sequence(m)
        self.came.append(m)
        self.ended = m.final

    def is_final(self, m):
        if m.name == "DONE":
            writes = self.name in WRITES or (
                self.name == "TURN" and self.body.get("commit") != "never" and not m.stored
            )
            return not writes
        return m.name in ("MEMORY", "MEMORY_FAILED")

    def check_numbers(self, m):
        """What one message says and another one of the stream must agree with."""
        if m.name == "DONE" and "n_answer" in m.body:
            check(m.body["n_answer"] == m.sequence, "n_answer", m.body, "at", m.sequence)
        elif m.name in ("MEMORY", "MEMORY_FAILED") and self.last == m.name:
            done = next(x.body for x in reversed(self.came) if x.name == "DONE")
            made = done["pending_version"]
            check((m.body["version"] == made) == (m.name == "MEMORY"), m.body, "of version", made)

    def check_sequence(self, m):
        if m.name == "TOKEN":
            k = m.body.get("candidate", 0)
            check(m.sequence == self.next[k] + (self.base if not self.next[k] else 0),
                  "TOKEN at", m.sequence, "after", dict(self.next))
            self.next[k] = m.sequence + len(m.body["ids"])
        elif m.name == "CHUNK":
            check(m.sequence == self.next["chunk"], "CHUNK", m.sequence, "after", self.next["chunk"])
            self.next["chunk"] += 1
        elif self.name == "TURN" and m.name in ("DONE", "UNDECIDED", "MEMORY", "MEMORY_FAILED"):
            chosen = next((d.body.get("candidate", 0) for d in reversed(self.came + [m])
                           if d.name == "DONE"), 0)
            have = self.next[chosen] or self.base
            check(m.sequence == have, m.name, "at", m.sequence, "after", have, "tokens")
        elif m.name not in ("CANCELLED", "ERROR") or self.name != "TURN":
            check(m.sequence == 0, m.name, "with sequence", m.sequence)


class Peer:
    """One connection. `hello` is what HELLO says beside its versions; None: none is sent."""

    ids = itertools.count(1)

    def __init__(self, server, endpoint="turn", hello=(), keys=None):
        self.seen = server.seen
        self.streams = {}
        self.aside = collections.deque()  # came while a case waited for something else
        self.raw_frames = []  # of the server, as they came
        self.socket = server.context.socket(zmq.DEALER)
        self.socket.linger = 0
        if keys:
            self.socket.curve_serverkey = server.public_key
            self.socket.curve_publickey, self.socket.curve_secretkey = keys
        self.socket.connect(server.address(endpoint))
        self.welcome = None
        if hello is not None:
            self.welcome = self.hello(**dict(hello))

    def close(self):
        self.socket.close()

    # -- sending -----------------------------------------------------------------------------

    def hello(self, **body):
        self.send("HELLO", {"versions": [1], "credit": CREDIT, **body}, id=NO_ID)
        m = self.expect("WELCOME", NO_ID)
        check(m.body["version"] == 1 and m.sequence == 0 and not m.flags, "WELCOME", m)
        return m.body

    def send(self, name, body=None, *, id=None, sequence=0, flags=0, version=1, raw=None, length=None,
             data=None):
        """Sends a message as it should be, save for what the caller says otherwise; returns its
        request id. `data`: bytes in place of the body."""
        number = C[name] if isinstance(name, str) else name
        if id is None:
            id = NO_ID if name in ("HELLO", "CREDIT", "PING") else os.urandom(16)
        body = {} if body is None else body
        data = msgpack.packb(body) if data is None else data
        length = len(data) if length is None else length
        self.note(name, body, id)
        header = HEADER.pack(b"RXTP", version, number, flags, id, sequence, length)
        self.send_frames([header, data] + ([raw] if raw is not None else []))
        return id

    def note(self, name, body, id):
        self.seen.sent[name, None] += 1
        for key in body if isinstance(body, dict) else ():
            self.seen.sent[name, key] += 1
        if name == "RESUME" and id in self.streams:
            self.streams[id].begin()
            self.streams[id].base = body.get("from", 0)
        elif id != NO_ID and name not in ("CANCEL", "CHOOSE", "CHUNK", "RESUME"):
            stream = self.streams.get(id)
            if stream and (stream.name == name or not stream.ended):
                stream.begin()
            else:
                self.streams[id] = Stream(name, body)

    def adopt(self, id, name, body, base=0):
        """The stream of a request that another connection made is about to come here."""
        self.streams[id] = Stream(name, body)
        self.streams[id].base = base

    def send_frames(self, frames):
        self.socket.send_multipart(frames)

    # -- receiving ---------------------------------------------------------------------------

    def receive(self, wait_s=None):
        """The next message, checked; None if there is none."""
        if not self.socket.poll(int(1000 * (WAIT_S if wait_s is None else wait_s))):
            return None
        frames = self.socket.recv_multipart()
        self.raw_frames.append(b"".join(frames))
        m = self.read(frames)
        self.seen.came[m.name] += 1
        self.seen.stored += m.stored
        if m.name in ("ERROR", "MEMORY_FAILED"):
            self.seen.codes[m.body["code"]] += 1
        if m.name in ("WELCOME", "PING", "PONG", "DRAINING"):
            check(m.id == NO_ID and not m.flags, m.name, "of a request", m)
        elif m.id in self.streams:
            self.streams[m.id].take(m)
        return m

    def read(self, frames):
        check(len(frames) in (2, 3) and len(frames[0]) == 32, "frames", [len(f) for f in frames])
        magic, version, number, flags, id, sequence, size = HEADER.unpack(frames[0])
        check(magic == b"RXTP" and version == 1, "header", frames[0].hex())
        name = next((k for k, v in S.items() if v == number), None)
        check(name, "type", hex(number))
        check(size == len(frames[1]) <= 262144, "length", size, len(frames[1]))
        check(flags & ~(FINAL | STORED) == 0, "flags", flags)
        check((name == "CHUNK") == (len(frames) == 3), name, "of", len(frames), "frames")
        body = msgpack.unpackb(frames[1])
        check(isinstance(body, dict), name, body)
        m = Message(name, body, id, flags, sequence, frames[2] if len(frames) == 3 else None, version)
        of = self.streams[id].name if id in self.streams else "TURN"
        if name in ("DONE", "ACCEPTED"):
            key = f"{name} {of}"
        else:
            key = name
        check_keys(key, body, BODIES.get(key, {}), MAY.get(key, {}))
        self.seen.came[key] += key != name
        self.check_more(m, of)
        return m

    def check_more(self, m, of):
        """What the types of a body do not say."""
        if m.name == "ERROR" or m.name == "MEMORY_FAILED":
            row = document.ERRORS.get(m.body["code"])
            check(row and row.name == m.body["name"], "error", m.body)
            check(m.body["detail"], "an error without a sentence", m.body)
            if m.name == "ERROR":
                check(row.retryable == m.body["retryable"], "retryable", m.body)
                check(row.retryable or not m.body["retry_after_ms"], "retry_after_ms", m.body)
        elif m.name == "TOKEN":
            check(m.body["ids"] and all(isinstance(i, int) and i >= 0 for i in m.body["ids"]), m)
        elif m.name == "CHUNK":
            check(1 <= len(m.raw) <= 1048576, "CHUNK of", len(m.raw))
        elif m.name == "UNDECIDED":
            for c in m.body["candidates"]:
                check_keys("candidate", c, CANDIDATE, {})
        elif m.name == "DONE" and of == "LIST":
            for info in m.body["sessions"]:
                check_keys("LIST", info, INFO, INFO_MAY)
        elif m.name == "DONE" and of == "TURN" and not m.stored:
            check("usage" in m.body, "no usage", m.body)
            check(m.final or "journal_us" in m.body["usage"], "no journal_us", m.body)
            check(("pending_version" in m.body) == (not m.final), "pending_version", m.body)
        elif m.name == "DONE" and of == "TURN":
            check("usage" not in m.body, "usage of a stored answer", m.body)

    def expect(self, name, id):
        """The next message of this request id, which must be a `name`. Others wait aside."""
        m = self.next_of(id)
        check(m, f"no {name} of {self.what(id)} came")
        check(m.name == name, f"{m.name} came for {self.what(id)}, not {name}:", m.body)
        return m

    def what(self, id):
        return self.streams[id].name if id in self.streams else id.hex()

    def next_of(self, id):
        """The next message of a request; None if none comes."""
        for k, m in enumerate(self.aside):
            if m.id == id and m.name not in OF_NOBODY:
                del self.aside[k]
                return m
        deadline = time.monotonic() + WAIT_S
        while m := self.receive(max(0, deadline - time.monotonic())):
            if m.id == id and m.name not in OF_NOBODY:
                return m
            self.aside.append(m)
        return None

    # -- whole requests ----------------------------------------------------------------------

    def call(self, name, body=None, **how):
        """A request to its end; its DONE."""
        id = self.send(name, body, **how)
        while not (m := self.expect_any(id)).final:
            pass
        check(m.name not in ("ERROR", "CANCELLED", "MEMORY_FAILED"), name, "gave", m.name, m.body)
        return next(x for x in self.streams[id].came if x.name == "DONE").body

    def expect_any(self, id):
        m = self.next_of(id)
        check(m, f"nothing came for {self.what(id)}")
        return m

    def finish(self, id):
        """Reads a request to its last message; all of them."""
        while not self.streams[id].ended or any(m.id == id for m in self.aside):
            self.expect_any(id)
        return self.streams[id].came

    def refused(self, name, body, code, key=None, **how):
        """A request that gets this ERROR, FINAL if it has an id. Afterwards the connection lives."""
        id = self.send(name, body, **how)
        m = self.error(id, code, key)
        check(m.final == (id != NO_ID), "FINAL:", m.final, m.body)
        self.alive()
        return m

    def error(self, id, code, key=None):
        m = self.expect("ERROR", id)
        check(m.body["code"] == code, f"wanted error {code} ({key}), got", m.body)
        check(key is None or m.body.get("key") == key, f"wanted key {key}, got", m.body)
        return m

    def alive(self):
        """PING and PONG; what the server had to say before has come."""
        sequence = next(self.ids)
        self.send("PING", sequence=sequence)
        m = self.expect("PONG", NO_ID)
        check(m.sequence == sequence, "PONG", m.sequence, "of PING", sequence)

    def open(self, session, **body):
        return self.call("OPEN", {"session": session, "seed": 7, **body})["info"]

    def keep_busy(self, session, n=8):
        """Turns that keep a session answering for a while; let_go() ends them."""
        body = {"session": session, "query": "tell me a story", **LONG}
        ids = [self.send("TURN", body) for _ in range(n)]
        self.expect("ACCEPTED", ids[0])
        return ids

    def let_go(self, session, ids):
        for id in reversed(ids):
            self.send("CANCEL", {"session": session}, id=id)
        return [Turn(self.finish(id)) for id in ids]

    def until_forgotten(self, session, id):
        """Waits until the server has forgotten the stream of a request: only the journal has it."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            body = self.streams[id].body
            self.send("RESUME", {"session": session}, id=id)
            if (last := self.finish(id)[-1]).name == "ERROR":
                check(last.body["code"] == 202, last.body)
                self.streams[id] = Stream("TURN", body)
                return
        check(False, "a stream was kept beyond grace_ms")

    def turn(self, session, query, *, id=None, **body):
        """A turn to its end."""
        body = {"session": session, "query": query, "max_tokens": 12, **body}
        id = self.send("TURN", body, id=id)
        return Turn(self.finish(id))


class Turn:
    """What one stream of a TURN said."""

    def __init__(self, messages):
        first = max((k for k, m in enumerate(messages) if m.name == "ACCEPTED"), default=0)
        self.messages = messages[first:]
        tokens = [m for m in self.messages if m.name == "TOKEN"]
        self.id = messages[0].id
        self.last = messages[-1]
        self.names = [m.name for m in self.messages]
        self.ids = [i for m in tokens if not m.body.get("candidate") for i in m.body["ids"]]
        self.text = "".join(m.body["text"] for m in tokens if not m.body.get("candidate"))
        self.stored = any(m.stored for m in tokens)
        self.accepted = self.of("ACCEPTED")
        self.done = self.of("DONE")
        self.memory = self.of("MEMORY")
        self.error = self.of("ERROR")

    def of(self, name):
        return next((m.body for m in self.messages if m.name == name), None)

    def remembered(self):
        check(self.memory, "the turn ended with", self.last.name, self.last.body)
        return self
