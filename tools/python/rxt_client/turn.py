"""What a turn has said so far: shared by the synchronous and the asyncio client."""

from __future__ import annotations

import collections
from typing import Iterator, Optional

from . import types as t
from .core import Request
from .wire import Message, Type


class TurnState:
    """Fields of a turn; each is None until the server has said it."""

    def __init__(self, request: Request):
        self.request = request
        self.session: str = request.body["session"]  # the fork, after ACCEPTED of on_busy "fork"
        self.price: Optional[t.Price] = None
        self.position: Optional[int] = None
        self.undecided: Optional[t.Undecided] = None
        self.done: Optional[t.Done] = None
        self.memory: Optional[t.Memory] = None
        self.ids: dict[int, list[int]] = collections.defaultdict(list)  # by candidate
        self._texts: dict[int, list[str]] = collections.defaultdict(list)

    @property
    def id(self) -> bytes:
        """The request id: with it the turn can be asked for again after a restart."""
        return self.request.id

    @property
    def text(self) -> str:
        """The answer so far, of the chosen candidate or the first one."""
        return "".join(self._texts[self.done.candidate if self.done else 0])

    def all_texts(self) -> list[str]:
        return ["".join(self._texts[k]) for k in range(max(self._texts, default=-1) + 1)]

    @property
    def answered(self) -> bool:
        """Whether no token will come any more."""
        return self.undecided is not None or self.done is not None

    def see(self, m: Message) -> Optional[t.Token]:
        """Takes the next event in; gives it if it is a TOKEN."""
        if m.type is Type.TOKEN:
            token = t.make(t.Token, m.body)
            self.ids[token.candidate] += token.ids
            self._texts[token.candidate].append(token.text)
            return token
        if m.type is Type.ACCEPTED:
            self.session = m.body["session"]
            self.price = t.make(t.Price, m.body["price"])
            self.position = m.body["position"]
        elif m.type is Type.UNDECIDED:
            self.undecided = t.undecided_of(m.body)
        elif m.type is Type.DONE:
            self.done = t.done_of(m.body, m.stored)
        elif m.type is Type.MEMORY:
            self.memory = t.make(t.Memory, m.body)
        elif m.type is Type.MEMORY_FAILED:
            raise t.RxtError(m.body)
        return None


def chunks_of(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))
