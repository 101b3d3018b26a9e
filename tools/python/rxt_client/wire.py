"""RXTP/1 as bytes (bridge/PROTOCOL.md, sections 2 to 4): messages to frames and back."""

from __future__ import annotations

import enum
import struct
from typing import Any, NamedTuple, Optional, Sequence

import msgpack  # type: ignore[import-untyped]

VERSION = 1
NO_ID = bytes(16)
FINAL = 1
STORED = 2

_HEADER = struct.Struct("<4sBBH16sII")
_MAGIC = b"RXTP"

Body = dict[str, Any]


class Type(enum.IntEnum):
    HELLO = 0x01
    TURN = 0x02
    CANCEL = 0x03
    CREDIT = 0x04
    RESUME = 0x05
    CHOOSE = 0x06
    PING = 0x07
    OPEN = 0x10
    LIST = 0x11
    GET = 0x12
    FORK = 0x13
    REWIND = 0x14
    RESET = 0x15
    ERASE = 0x16
    REMEMBER = 0x17
    EXPORT = 0x18
    IMPORT = 0x19
    DIFF = 0x1A
    CHUNK = 0x1B
    HEALTH = 0x20
    STATS = 0x21
    RELOAD = 0x22
    DRAIN = 0x23
    WELCOME = 0x81
    ACCEPTED = 0x82
    TOKEN = 0x83
    DONE = 0x84
    MEMORY = 0x85
    MEMORY_FAILED = 0x86
    CANCELLED = 0x87
    PONG = 0x88
    DRAINING = 0x89
    ERROR = 0x8A
    UNDECIDED = 0x8B


class Message(NamedTuple):
    """One message; `raw` is the third frame of a CHUNK."""

    type: Type
    body: Body
    id: bytes = NO_ID
    flags: int = 0
    sequence: int = 0
    raw: Optional[bytes] = None
    cost: int = 0  # in credit: 32 + the bytes of frames 1 and 2

    @property
    def final(self) -> bool:
        return bool(self.flags & FINAL)

    @property
    def stored(self) -> bool:
        return bool(self.flags & STORED)


class BrokenServer(Exception):
    """The server said something that the protocol does not allow."""


def pack(message: Message) -> list[bytes]:
    body = msgpack.packb(message.body)
    header = _HEADER.pack(
        _MAGIC, VERSION, message.type, message.flags, message.id, message.sequence, len(body)
    )
    return [header, body] if message.raw is None else [header, body, message.raw]


def unpack(frames: Sequence[bytes]) -> Message:
    """Reads what a server sent; BrokenServer if it is no message of this version."""
    if len(frames) not in (2, 3) or len(frames[0]) != _HEADER.size:
        raise BrokenServer(f"a message of {len(frames)} frames: {[len(f) for f in frames[:4]]}")
    magic, version, number, flags, request, sequence, size = _HEADER.unpack(frames[0])
    if magic != _MAGIC or version != VERSION or size != len(frames[1]):
        raise BrokenServer("a header that is not RXTP/1")
    try:
        kind = Type(number)
        body = msgpack.unpackb(frames[1], max_map_len=65536, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as e:
        raise BrokenServer(f"a message of type 0x{number:02x} that cannot be read") from e
    if not isinstance(body, dict):
        raise BrokenServer(f"the body of a {kind.name} is not a map")
    if (kind is Type.CHUNK) != (len(frames) == 3):
        raise BrokenServer(f"a {kind.name} of {len(frames)} frames")
    raw = frames[2] if len(frames) == 3 else None
    cost = 32 + sum(len(f) for f in frames[1:])
    return Message(kind, body, request, flags, sequence, raw, cost)
