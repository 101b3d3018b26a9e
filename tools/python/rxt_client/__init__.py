"""Client of rxtd, the server of conversations with a memory of fixed size (README.md beside this).

`Client` is synchronous, `AsyncClient` is for asyncio; both give the types of types.py."""

from .aio import AsyncClient, AsyncTurn
from .client import Client, Turn
from .types import (
    Cancelled,
    Candidate,
    ConnectionLost,
    Curve,
    Diff,
    Done,
    Health,
    Info,
    Memory,
    Price,
    RxtError,
    Token,
    Undecided,
    Usage,
    Welcome,
)
from .wire import BrokenServer

__all__ = [
    "AsyncClient",
    "AsyncTurn",
    "BrokenServer",
    "Cancelled",
    "Candidate",
    "Client",
    "ConnectionLost",
    "Curve",
    "Diff",
    "Done",
    "Health",
    "Info",
    "Memory",
    "Price",
    "RxtError",
    "Token",
    "Turn",
    "Undecided",
    "Usage",
    "Welcome",
]
