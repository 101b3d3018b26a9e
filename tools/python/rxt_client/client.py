"""The synchronous client. Everything happens inside its calls: one thread, no background work."""

from __future__ import annotations

import time
from typing import BinaryIO, Iterator, Optional, Self, Union

from . import types as t
from .base import ClientBase
from .bodies import body
from .core import Request
from .link import Link
from .wire import Body, Message, Type
from .turn import TurnState, chunks_of


class Turn(TurnState):
    """A request that answers or remembers. Iterating gives its tokens as they come."""

    def __init__(self, client: Client, link: Link, request: Request):
        super().__init__(request)
        self._client = client
        self._link = link

    def __iter__(self) -> Iterator[t.Token]:
        return self

    def __next__(self) -> t.Token:
        while not self.answered:
            token = self._step()
            if token:
                return token
        raise StopIteration

    def _step(self) -> Optional[t.Token]:
        return self.see(self._client._next(self._link, self.request))

    def answer(self) -> str:
        """Reads to DONE; the whole text (of the chosen candidate). The turn will be remembered."""
        while not self.done:
            if self.undecided:
                raise ValueError("there are several candidates: choose() one")
            self._step()
        return self.text

    def candidates(self) -> list[str]:
        """Reads until every candidate of a turn with n > 1 has ended; their texts."""
        while not self.answered:
            self._step()
        return self.all_texts()

    def choose(self, candidate: int) -> t.Done:
        """Makes this candidate the turn."""
        self._link.core.choose(self.request, candidate)
        while not self.done:
            self._step()
        return self.done

    def remembered(self) -> Optional[t.Memory]:
        """Waits until the turn is in the memory. None where no MEMORY comes: a dry run, or a turn
        answered from the journal. Raises RxtError where the memory refused it."""
        while not self.request.final or self.request.events:
            self._step()
        return self.memory

    def cancel(self) -> None:
        """Ends the answer at its next token, as `on_cancel` says; go on reading."""
        self._link.core.cancel(self.request)


class Client(ClientBase[Link, Turn]):
    """Sessions of a server. `turn`, `state` and `admin` are endpoints as in its configuration.

    A lost connection, a server that restarts or is busy is waited out: requests are resumed, or
    sent again under the same id, which never makes a second turn. `timeout` (seconds) is how long
    a call waits for the server to say anything about its request before TimeoutError; `patience`
    how long "busy" and the like are tried again before RxtError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- sessions ----------------------------------------------------------------------------

    def open(
        self,
        session: str,
        *,
        seed: Optional[int] = None,
        from_session: Optional[str] = None,
        from_version: Optional[int] = None,
    ) -> t.Info:
        """Makes the session if it is not there."""
        keys = body(session=session, seed=seed, from_version=from_version, **{"from": from_session})
        return t.info_of(self._call(Type.OPEN, keys))

    def get(self, session: str) -> t.Info:
        return t.info_of(self._call(Type.GET, body(session=session)))

    def sessions(
        self, *, prefix: Optional[str] = None, held: Optional[bool] = None
    ) -> Iterator[t.Info]:
        """All of the tenant whose names begin with `prefix`, sorted by the bytes of their names;
        with `held` only those in that state."""
        after, more = "", True
        while more:
            page = self._call(Type.LIST, body(after=after, prefix=prefix, held=held))
            for info in page["sessions"]:
                yield t.make(t.Info, info)
            more = page["more"] and bool(page["sessions"])
            after = page["sessions"][-1]["session"] if more else ""

    def fork(self, session: str, to: str, version: Optional[int] = None) -> t.Info:
        return t.info_of(self._call(Type.FORK, body(session=session, to=to, version=version)))

    def erase(self, session: str) -> None:
        """Returns when the store holds nothing of it."""
        self._call(Type.ERASE, body(session=session))

    # -- the state endpoint ------------------------------------------------------------------

    def export_session(self, session: str, file: BinaryIO) -> int:
        """Writes the sealed session to a file; returns its bytes. ConnectionLost: start again."""
        link = self._link("state")
        request = self._submit(link, Type.EXPORT, body(session=session))
        written = 0
        try:
            while True:
                m = self._next(link, request)
                if m.type is Type.DONE:
                    return written
                written += file.write(m.raw or b"")
        finally:
            link.core.cancel(request)

    def import_session(self, session: str, data: Union[bytes, BinaryIO]) -> t.Info:
        """Makes a session of sealed bytes. ConnectionLost: nothing was imported, start again."""
        link = self._link("state")
        data = data if isinstance(data, bytes) else data.read()
        request = self._submit(link, Type.IMPORT, body(session=session, bytes=len(data)))
        self._next(link, request)  # ACCEPTED; a refusal raises
        assert link.core.welcome
        for number, raw in enumerate(chunks_of(data, link.core.welcome.chunk_bytes)):
            while request.window < len(raw) and not request.final:
                self._next(link, request)
            link.core.chunk(request, number, raw)
        while (m := self._next(link, request)).type is not Type.DONE:
            pass
        return t.info_of(m.body)

    def diff(
        self,
        session: str,
        version: int,
        to_version: Optional[int] = None,
        other: Optional[str] = None,
    ) -> t.Diff:
        keys = body(session=session, version=version, to_version=to_version, other=other)
        return t.diff_of(self._call(Type.DIFF, keys, "state"))

    # -- the admin endpoint ------------------------------------------------------------------

    def health(self) -> t.Health:
        return t.make(t.Health, self._call(Type.HEALTH, {}, "admin"))

    def stats(self) -> str:
        """What the metrics port serves."""
        return str(self._call(Type.STATS, {}, "admin")["metrics"])

    def reload(self) -> None:
        self._call(Type.RELOAD, {}, "admin")

    def drain(self, deadline_ms: Optional[int] = None) -> None:
        self._call(Type.DRAIN, body(deadline_ms=deadline_ms), "admin")

    def welcome(self, endpoint: str = "turn") -> t.Welcome:
        """What the server said of itself on connecting."""
        link = self._link(endpoint)
        deadline = time.monotonic() + self.timeout
        while link.core.welcome is None:
            self._wait(link, deadline, "its WELCOME")
        return link.core.welcome

    # -- inside ------------------------------------------------------------------------------

    def _attach(self, link: Link) -> Link:
        return link

    def _turn(self, link: Link, request: Request) -> Turn:
        return Turn(self, link, request)

    def _call(self, type: Type, keys: Body, endpoint: str = "turn") -> Body:
        link = self._link(endpoint)
        return self._next(link, self._submit(link, type, keys)).body

    def _next(self, link: Link, request: Request) -> Message:
        """The next event of a request; serves the other requests of the connection meanwhile."""
        deadline = time.monotonic() + self.timeout
        while True:
            event = link.core.take(request)
            link.pump()
            if isinstance(event, Message):
                return event
            if event is not None:
                raise event
            if not request.events:
                if request.final:
                    raise ValueError("this request has ended")
                self._wait(link, deadline, f"an answer to {request.type.name}")

    def _wait(self, link: Link, deadline: float, what: str) -> None:
        pause = min(link.pump(), deadline - time.monotonic())
        if pause <= 0:
            raise TimeoutError(f"the server has not given {what} in {self.timeout} s")
        link.socket.poll(max(1, int(pause * 1000)))
        link.pump()
