"""The asyncio client: the calls of client.py, for many sessions in one event loop."""

from __future__ import annotations

import asyncio
from typing import AsyncIterator, BinaryIO, Optional, Self, Union

from . import types as t
from .base import ClientBase
from .bodies import body
from .core import Request
from .link import Link
from .turn import TurnState, chunks_of
from .wire import Body, Message, Type


class _AsyncLink:
    """A Link that the event loop pumps: when its socket has something, and when its time comes."""

    def __init__(self, link: Link):
        self.link = link
        self.core = link.core
        self._loop = asyncio.get_running_loop()
        self._watched: Optional[int] = None
        self._timer: Optional[asyncio.TimerHandle] = None
        self.news = asyncio.Event()  # something came or went
        self.pump()

    def pump(self) -> None:
        """The descriptor of a ZeroMQ socket tells of changes only, so everything that can be read
        is read whenever anything was done with the socket."""
        pause = self.link.pump()
        fd = self.link.socket.fileno()
        if fd != self._watched:
            self._unwatch()
            self._loop.add_reader(fd, self.pump)
            self._watched = fd
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.001, pause), self.pump)
        self.news.set()

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._loop.remove_reader(self._watched)
            self._watched = None

    def close(self) -> None:
        self._unwatch()
        if self._timer:
            self._timer.cancel()
        self.link.close()


class AsyncTurn(TurnState):
    """A request that answers or remembers. Iterating gives its tokens as they come."""

    def __init__(self, client: AsyncClient, link: _AsyncLink, request: Request):
        super().__init__(request)
        self._client = client
        self._link = link

    def __aiter__(self) -> AsyncIterator[t.Token]:
        return self

    async def __anext__(self) -> t.Token:
        while not self.answered:
            token = await self._step()
            if token:
                return token
        raise StopAsyncIteration

    async def _step(self) -> Optional[t.Token]:
        return self.see(await self._client._next(self._link, self.request))

    async def answer(self) -> str:
        """Reads to DONE; the whole text (of the chosen candidate). The turn will be remembered."""
        while not self.done:
            if self.undecided:
                raise ValueError("there are several candidates: choose() one")
            await self._step()
        return self.text

    async def candidates(self) -> list[str]:
        """Reads until every candidate of a turn with n > 1 has ended; their texts."""
        while not self.answered:
            await self._step()
        return self.all_texts()

    async def choose(self, candidate: int) -> t.Done:
        """Makes this candidate the turn."""
        self._link.core.choose(self.request, candidate)
        self._link.pump()
        while not self.done:
            await self._step()
        return self.done

    async def remembered(self) -> Optional[t.Memory]:
        """Waits until the turn is in the memory. None where no MEMORY comes: a dry run, or a turn
        answered from the journal. Raises RxtError where the memory refused it."""
        while not self.request.final or self.request.events:
            await self._step()
        return self.memory

    def cancel(self) -> None:
        """Ends the answer at its next token, as `on_cancel` says; go on reading."""
        self._link.core.cancel(self.request)
        self._link.pump()


class AsyncClient(ClientBase[_AsyncLink, AsyncTurn]):
    """Client of client.py for asyncio: the same calls, awaited. Any number of tasks may use it;
    one task reads one turn. To be made inside a running event loop."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    # -- sessions ----------------------------------------------------------------------------

    async def open(
        self,
        session: str,
        *,
        seed: Optional[int] = None,
        from_session: Optional[str] = None,
        from_version: Optional[int] = None,
    ) -> t.Info:
        """Makes the session if it is not there."""
        keys = body(session=session, seed=seed, from_version=from_version, **{"from": from_session})
        return t.info_of(await self._call(Type.OPEN, keys))

    async def get(self, session: str) -> t.Info:
        return t.info_of(await self._call(Type.GET, body(session=session)))

    async def sessions(
        self, *, prefix: Optional[str] = None, held: Optional[bool] = None
    ) -> AsyncIterator[t.Info]:
        """All of the tenant whose names begin with `prefix`, sorted by the bytes of their names;
        with `held` only those in that state."""
        after, more = "", True
        while more:
            page = await self._call(Type.LIST, body(after=after, prefix=prefix, held=held))
            for info in page["sessions"]:
                yield t.make(t.Info, info)
            more = page["more"] and bool(page["sessions"])
            after = page["sessions"][-1]["session"] if more else ""

    async def fork(self, session: str, to: str, version: Optional[int] = None) -> t.Info:
        return t.info_of(await self._call(Type.FORK, body(session=session, to=to, version=version)))

    async def erase(self, session: str) -> None:
        """Returns when the store holds nothing of it."""
        await self._call(Type.ERASE, body(session=session))

    # -- the state endpoint ------------------------------------------------------------------

    async def export_session(self, session: str, file: BinaryIO) -> int:
        """Writes the sealed session to a file; returns its bytes. ConnectionLost: start again."""
        link = self._link("state")
        request = self._submit(link, Type.EXPORT, body(session=session))
        written = 0
        try:
            while True:
                m = await self._next(link, request)
                if m.type is Type.DONE:
                    return written
                written += file.write(m.raw or b"")
        finally:
            link.core.cancel(request)

    async def import_session(self, session: str, data: Union[bytes, BinaryIO]) -> t.Info:
        """Makes a session of sealed bytes. ConnectionLost: nothing was imported, start again."""
        link = self._link("state")
        data = data if isinstance(data, bytes) else data.read()
        request = self._submit(link, Type.IMPORT, body(session=session, bytes=len(data)))
        await self._next(link, request)  # ACCEPTED; a refusal raises
        assert link.core.welcome
        for number, raw in enumerate(chunks_of(data, link.core.welcome.chunk_bytes)):
            while request.window < len(raw) and not request.final:
                await self._next(link, request)
            link.core.chunk(request, number, raw)
            link.pump()
        while (m := await self._next(link, request)).type is not Type.DONE:
            pass
        return t.info_of(m.body)

    async def diff(
        self,
        session: str,
        version: int,
        to_version: Optional[int] = None,
        other: Optional[str] = None,
    ) -> t.Diff:
        keys = body(session=session, version=version, to_version=to_version, other=other)
        return t.diff_of(await self._call(Type.DIFF, keys, "state"))

    # -- the admin endpoint ------------------------------------------------------------------

    async def health(self) -> t.Health:
        return t.make(t.Health, await self._call(Type.HEALTH, {}, "admin"))

    async def stats(self) -> str:
        """What the metrics port serves."""
        return str((await self._call(Type.STATS, {}, "admin"))["metrics"])

    async def reload(self) -> None:
        await self._call(Type.RELOAD, {}, "admin")

    async def drain(self, deadline_ms: Optional[int] = None) -> None:
        await self._call(Type.DRAIN, body(deadline_ms=deadline_ms), "admin")

    async def welcome(self, endpoint: str = "turn") -> t.Welcome:
        """What the server said of itself on connecting."""
        link = self._link(endpoint)
        async with asyncio.timeout(self.timeout):
            while link.core.welcome is None:
                link.news.clear()
                await link.news.wait()
        return link.core.welcome

    # -- inside ------------------------------------------------------------------------------

    def _attach(self, link: Link) -> _AsyncLink:
        return _AsyncLink(link)

    def _turn(self, link: _AsyncLink, request: Request) -> AsyncTurn:
        return AsyncTurn(self, link, request)

    async def _call(self, type: Type, keys: Body, endpoint: str = "turn") -> Body:
        link = self._link(endpoint)
        return (await self._next(link, self._submit(link, type, keys))).body

    async def _next(self, link: _AsyncLink, request: Request) -> Message:
        """The next event of a request."""
        if not request.events:
            if request.final:
                raise ValueError("this request has ended")
            came = asyncio.Event()
            request.on_event = came.set
            try:
                await asyncio.wait_for(came.wait(), self.timeout)
            except asyncio.TimeoutError:
                what = f"an answer to {request.type.name} in {self.timeout} s"
                raise TimeoutError(f"the server has not given {what}") from None
            finally:
                request.on_event = None
        event = link.core.take(request)
        if link.core.out:
            link.pump()  # credit for what was just taken
        if isinstance(event, Message):
            return event
        assert event is not None
        raise event
