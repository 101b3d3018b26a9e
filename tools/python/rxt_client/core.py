"""The client's side of one connection without any I/O: the state machines of PROTOCOL.md, section 9.

A link (link.py) puts what arrives into `receive`, sends what is in `out`, calls `tick` when the time
that it named has passed, and takes a new socket when `replace` is set. Times are seconds of one
monotonic clock, given by the caller."""

from __future__ import annotations

import collections
import enum
import os
from typing import Callable, Deque, Optional, Union

from .types import Cancelled, ConnectionLost, RxtError, Welcome, make
from .wire import NO_ID, VERSION, Body, BrokenServer, Message, Type, pack, unpack

CREDIT = 1 << 20  # bytes of TOKEN and CHUNK on their way to us
QUIET_S = 1.0  # silence after which a connection with running requests is probed

# Errors that the same request may outlive by itself. The other retryable ones need a decision.
_BUSY, _DRAINING, _TOO_MANY, _NO_MEMORY, _DEVICE = 301, 303, 305, 401, 404
_WAIT_AND_RETRY = {_BUSY, _DRAINING, _TOO_MANY, _NO_MEMORY, _DEVICE}
_BAD_VERSION, _HELLO_NEEDED, _NO_SESSION, _NO_REQUEST, _DETACHED = 109, 110, 201, 202, 212

_RESUMABLE = {Type.TURN, Type.REMEMBER, Type.REWIND, Type.RESET}
_BULK = {Type.EXPORT, Type.IMPORT}
_ONCE = {Type.ACCEPTED, Type.UNDECIDED, Type.DONE}  # what a resumed stream may say again

Event = Union[Message, Exception]


class State(enum.Enum):
    DOWN = 0
    GREETING = 1
    UP = 2
    CLOSED = 3


class _Place:
    """How far one candidate's answer has been read, and where the stream stands."""

    def __init__(self) -> None:
        self.ids = self.chars = 0  # taken
        self.at_id = self.at_char = 0  # of the stream; behind `ids` after a resume
        self.marks = {0: 0}  # ids -> characters, where messages ended

    def take(self, m: Message) -> Optional[Message]:
        """The part of a TOKEN that is new; None if nothing of it is."""
        if m.sequence != self.at_id:
            if m.sequence not in self.marks:
                raise BrokenServer(f"a TOKEN at {m.sequence} where {self.at_id} was next")
            self.at_id, self.at_char = m.sequence, self.marks[m.sequence]
        ids, text = m.body["ids"], m.body["text"]
        new_ids = ids[max(0, self.ids - self.at_id) :]
        new_text = text[max(0, self.chars - self.at_char) :]
        self.at_id += len(ids)
        self.at_char += len(text)
        if not new_ids:
            return None
        self.ids, self.chars = self.at_id, self.at_char
        self.marks[self.ids] = self.chars
        return m._replace(body={**m.body, "ids": new_ids, "text": new_text})


class Request:
    """One request of the application, until its FINAL."""

    def __init__(self, type: Type, body: Body, retry_until: float):
        self.id = os.urandom(16)
        self.type = type
        self.body = body
        self.retry_until = retry_until
        self.events: Deque[Event] = collections.deque()
        self.on_event: Optional[Callable[[], None]] = None
        self.final = False
        self.sent = False
        self.repeated = False  # sent more than once
        self.due = 0.0  # not before, after an ERROR that said so
        self.failures = 0
        self.said: set[Type] = set()
        self.choice: Optional[int] = None
        self.cancelled = False
        self.window = 0  # IMPORT: bytes that may still be sent
        self.chunks = 0  # EXPORT: taken
        self.places: dict[int, _Place] = collections.defaultdict(_Place)

    @property
    def resume_from(self) -> int:
        """The token number from which every candidate can go on."""
        n = min((p.ids for p in self.places.values()), default=0)
        return n if all(n in p.marks for p in self.places.values()) else 0

    def push(self, event: Event, final: bool) -> None:
        self.events.append(event)
        self.final = self.final or final
        if self.on_event:
            self.on_event()


class Core:
    def __init__(self, *, credit: int = CREDIT, name: str = "rxt_client"):
        self.out: Deque[list[bytes]] = collections.deque()
        self.state = State.DOWN
        self.replace = False
        self.draining = False
        self.welcome: Optional[Welcome] = None
        self.requests: dict[bytes, Request] = {}
        self._credit = credit
        self._name = name
        self._owed = 0  # bytes read and not granted again
        self._heard = 0.0
        self._asked: Optional[float] = None  # when HELLO or PING was sent that nobody answered

    @property
    def _heartbeat_s(self) -> float:
        return (self.welcome.heartbeat_ms if self.welcome else 5000) / 1000

    # -- the connection ----------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """There is a new socket: whatever was on its way is lost."""
        self.replace = False
        self.out.clear()
        self._greet(now)

    def _greet(self, now: float) -> None:
        self.state = State.GREETING
        self._asked = now
        body = {"versions": [VERSION], "credit": self._credit, "client": self._name}
        self._send(Message(Type.HELLO, body))

    def _welcomed(self, m: Message, now: float) -> None:
        self.welcome = make(Welcome, m.body)
        self._owed = 0
        self.draining = False
        if self.state is State.GREETING:
            self.state = State.UP
            for r in list(self.requests.values()):
                self._attach(r, now)

    def tick(self, now: float) -> float:
        """Does what time asks for; returns after how many seconds to call again."""
        if self.state is State.CLOSED:
            return 60.0
        if self._asked is not None:
            self.replace = now - self._asked >= 3 * self._heartbeat_s
        elif self.requests and now - self._heard >= min(QUIET_S, self._heartbeat_s):
            self._asked = now
            self._send(Message(Type.PING, {}))
        times = [self._heartbeat_s, QUIET_S]
        if self.state is State.UP:
            for r in list(self.requests.values()):
                if not r.sent and not self.draining:
                    if r.due <= now:
                        self._attach(r, now)
                    else:
                        times.append(r.due - now)
        return min(times)

    def receive(self, frames: list[bytes], now: float) -> None:
        """Takes one message of the server. What it breaks ends the requests, never the caller."""
        self._heard = now
        self._asked = self._asked if self.state is State.GREETING else None
        try:
            m = unpack(frames)
            if m.id == NO_ID:
                self._connection_said(m, now)
            elif m.id in self.requests:
                self._request_said(self.requests[m.id], m, now)
        except (BrokenServer, KeyError, TypeError) as e:
            self._fail_all(e if isinstance(e, BrokenServer) else BrokenServer(f"a body without {e}"))

    def _connection_said(self, m: Message, now: float) -> None:
        if m.type is Type.WELCOME:
            self._asked = None
            self._welcomed(m, now)
        elif m.type is Type.DRAINING:
            self.draining = True
        elif m.type is Type.ERROR and m.body["code"] == _HELLO_NEEDED:
            if self.state is State.UP:
                self._greet(now)
        elif m.type is Type.ERROR:
            if m.body["code"] == _BAD_VERSION:
                self.state = State.CLOSED
            self._fail_all(RxtError(m.body))

    def _fail_all(self, error: Exception) -> None:
        for r in list(self.requests.values()):
            self._end(r, error)

    # -- requests ----------------------------------------------------------------------------

    def submit(self, type: Type, body: Body, now: float, patience_s: float) -> Request:
        """A new request. Errors that ask to wait and try again are obeyed for `patience_s`."""
        r = Request(type, body, now + patience_s)
        self.requests[r.id] = r
        if not self.requests.keys() - {r.id}:
            self._heard = now
        if self.state is State.UP and not self.draining:
            self._attach(r, now)
        return r

    def choose(self, r: Request, candidate: int) -> None:
        r.choice = candidate
        self._send_of(r, Type.CHOOSE, {"session": r.body["session"], "candidate": candidate})

    def cancel(self, r: Request) -> None:
        r.cancelled = True
        if not r.final:
            self._send_of(r, Type.CANCEL, {"session": r.body.get("session", "")})

    def chunk(self, r: Request, number: int, raw: bytes) -> None:
        """The next bytes of an IMPORT; the caller has seen that r.window allows them."""
        r.window -= len(raw)
        self._send(Message(Type.CHUNK, {}, r.id, sequence=number, raw=raw))

    def take(self, r: Request) -> Optional[Event]:
        """The oldest event that the application has not seen."""
        if not r.events:
            return None
        event = r.events.popleft()
        if isinstance(event, Message) and event.type is Type.CHUNK:
            if event.sequence != r.chunks:
                return BrokenServer(f"chunk {event.sequence} where {r.chunks} was next")
            r.chunks += 1
            self._grant(event.cost)  # a reader that is slow holds the server back
        return event

    def _attach(self, r: Request, now: float) -> None:
        """Sends a request, or what gets the rest of its stream."""
        if r.due > now:
            return
        if r.sent and r.type in _BULK:
            self._end(r, ConnectionLost(f"the connection was lost during {r.type.name}"))
        elif r.sent and r.type in _RESUMABLE:
            self._send_of(
                r, Type.RESUME, {"session": r.body["session"], "from": r.resume_from}
            )
        else:
            r.repeated = r.repeated or r.sent
            r.sent = True
            self._send_of(r, r.type, r.body)
        if r.cancelled:
            self.cancel(r)

    def _request_said(self, r: Request, m: Message, now: float) -> None:
        if m.type is Type.ERROR:
            self._refused(r, m, now)
        elif m.type is Type.TOKEN:
            self._grant(m.cost)
            new = r.places[m.body.get("candidate", 0)].take(m)
            if new:
                r.push(new, False)
        elif m.type is Type.CREDIT:
            r.window += m.body["bytes"]
            r.push(m, False)
        else:
            if m.type in (Type.DONE, Type.UNDECIDED) and r.type is Type.TURN:
                place = r.places[m.body.get("candidate", 0)]
                if m.sequence != place.ids:
                    raise BrokenServer(f"{m.type.name} after {m.sequence} tokens, {place.ids} came")
            if m.type is Type.ACCEPTED and r.type is Type.IMPORT:
                r.window += m.body["credit"]
            if m.final:
                del self.requests[r.id]
            again = m.type in _ONCE and m.type in r.said
            r.said.add(m.type)
            if m.type is Type.CANCELLED:
                r.push(Cancelled(r.body.get("session", "")), True)
            elif not again or m.final:
                r.push(m, m.final)
            elif m.type is Type.UNDECIDED and r.choice is not None:
                self.choose(r, r.choice)

    def _refused(self, r: Request, m: Message, now: float) -> None:
        code = m.body["code"]
        if code == _HELLO_NEEDED:
            if self.state is State.UP:
                self._greet(now)
        elif code == _NO_REQUEST and r.type in _RESUMABLE and r.sent:
            r.sent = False
            r.repeated = True
            self._attach(r, now)
        elif code == _DETACHED:
            self._grant(0, at_once=True)
            self._attach(r, now)
        elif self._may_retry(r, m, now):
            r.failures += 1
            pause = max(m.body.get("retry_after_ms", 0) / 1000, 0.02 * 2 ** min(r.failures, 6))
            r.due = now + pause
            r.sent = False
        elif code == _NO_SESSION and r.type is Type.ERASE and r.repeated:
            self._end(r, Message(Type.DONE, {"session": r.body["session"]}, r.id, 1))
        elif m.final:
            self._end(r, RxtError(m.body))
        else:
            r.push(RxtError(m.body), False)  # only the message it answers is refused

    def _may_retry(self, r: Request, m: Message, now: float) -> bool:
        code = m.body["code"]
        if code not in _WAIT_AND_RETRY or not m.final or r.places or r.type is Type.IMPORT:
            return False
        if code == _BUSY and r.body.get("on_busy") == "reject":
            return False
        return now < r.retry_until

    def _end(self, r: Request, event: Event) -> None:
        self.requests.pop(r.id, None)
        r.push(event, True)

    # -- sending -----------------------------------------------------------------------------

    def _send_of(self, r: Request, type: Type, body: Body) -> None:
        self._send(Message(type, body, r.id))

    def _send(self, m: Message) -> None:
        if self.state in (State.UP, State.GREETING):
            self.out.append(pack(m))

    def _grant(self, cost: int, at_once: bool = False) -> None:
        self._owed += cost
        if self._owed and (at_once or 2 * self._owed >= self._credit):
            self._send(Message(Type.CREDIT, {"bytes": self._owed}))
            self._owed = 0
