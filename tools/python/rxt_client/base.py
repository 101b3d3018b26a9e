"""What both clients are: connections made when they are needed, and the requests that only start
something. What waits for the server is in client.py and aio.py, once for threads, once awaited."""

from __future__ import annotations

import time
from typing import Generic, Optional, Protocol, Sequence, TypeVar, Unpack

import zmq

from . import types as t
from .bodies import TurnOptions, body, remember_body, turn_body
from .core import CREDIT, Core, Request
from .link import Link
from .wire import Body, Type


class Pumped(Protocol):
    """A connection: a Link, or one that an event loop pumps."""

    @property
    def core(self) -> Core: ...

    def pump(self) -> object: ...

    def close(self) -> None: ...


LinkT = TypeVar("LinkT", bound=Pumped)
TurnT = TypeVar("TurnT")


class ClientBase(Generic[LinkT, TurnT]):
    def __init__(
        self,
        turn: Optional[str] = "tcp://127.0.0.1:7110",
        *,
        state: Optional[str] = None,
        admin: Optional[str] = None,
        curve: Optional[t.Curve] = None,
        timeout: float = 60.0,
        patience: float = 10.0,
        credit: int = CREDIT,
        name: str = "rxt_client",
    ):
        self.timeout = timeout
        self._patience = patience
        self._context = zmq.Context()
        self._endpoints = {"turn": turn, "state": state, "admin": admin}
        self._curve = curve
        self._credit = credit
        self._name = name
        self._links: dict[str, LinkT] = {}

    def close(self) -> None:
        """Leaves; turns that run go on in the server."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._context.term()

    # -- turns -------------------------------------------------------------------------------

    def turn(
        self,
        session: str,
        query: Optional[str] = None,
        *,
        tool_result: Optional[str] = None,
        **options: Unpack[TurnOptions],
    ) -> TurnT:
        """Starts a turn; iterate over what comes back, or ask for its answer()."""
        return self._start(Type.TURN, turn_body(session, query, tool_result, options))

    def remember(
        self,
        session: str,
        query: Optional[str] = None,
        answer: Optional[str] = None,
        *,
        ids: Optional[Sequence[int]] = None,
        if_version: Optional[int] = None,
        on_busy: Optional[str] = None,
    ) -> TurnT:
        """Absorbs a given turn without decoding."""
        keys = remember_body(session, query, answer, ids, if_version, on_busy)
        return self._start(Type.REMEMBER, keys)

    def rewind(self, session: str, version: int) -> TurnT:
        """Commits a new version with the content of an old one; repairs a held session."""
        return self._start(Type.REWIND, body(session=session, version=version))

    def reset(self, session: str) -> TurnT:
        """Commits a new version: the initial memory."""
        return self._start(Type.RESET, body(session=session))

    # -- inside ------------------------------------------------------------------------------

    def _attach(self, link: Link) -> LinkT:
        """How this client pumps a new connection."""
        raise NotImplementedError

    def _turn(self, link: LinkT, request: Request) -> TurnT:
        raise NotImplementedError

    def _link(self, name: str) -> LinkT:
        if name not in self._links:
            endpoint = self._endpoints[name]
            if not endpoint:
                raise ValueError(f"this client was given no {name} endpoint")
            core = Core(credit=self._credit, name=self._name)
            self._links[name] = self._attach(Link(self._context, endpoint, self._curve, core))
        return self._links[name]

    def _submit(self, link: LinkT, type: Type, keys: Body) -> Request:
        request = link.core.submit(type, keys, time.monotonic(), self._patience)
        link.pump()
        return request

    def _start(self, type: Type, keys: Body) -> TurnT:
        link = self._link("turn")
        return self._turn(link, self._submit(link, type, keys))
