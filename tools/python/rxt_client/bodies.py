"""The bodies that both clients send."""

from __future__ import annotations

from typing import Optional, Sequence, TypedDict

from .wire import Body


class TurnOptions(TypedDict, total=False):
    """What a TURN may say beside its text: PROTOCOL.md, section 4.1."""

    internal: str
    thinking: str
    temperature: float
    top_k: int
    top_p: float
    seed: int
    max_tokens: int
    n: int
    commit: str
    on_busy: str
    fork_to: str
    on_stale: str
    min_version: int
    if_version: int
    on_cancel: str
    on_disconnect: str
    queue_ms: int
    first_token_ms: int
    total_ms: int
    memory_ms: int


def body(**keys: object) -> Body:
    """The keys that are there: an absent one is left out, nil is not a value."""
    return {k: v for k, v in keys.items() if v is not None}


def turn_body(
    session: str, query: Optional[str], tool_result: Optional[str], options: TurnOptions
) -> Body:
    if (query is None) == (tool_result is None):
        raise ValueError("a turn has either a query or a tool_result")
    return body(session=session, query=query, tool_result=tool_result, **options)


def remember_body(
    session: str,
    query: Optional[str],
    answer: Optional[str],
    ids: Optional[Sequence[int]],
    if_version: Optional[int],
    on_busy: Optional[str],
) -> Body:
    if (ids is None) == (query is None or answer is None):
        raise ValueError("remember takes either query and answer, or ids")
    ids = None if ids is None else list(ids)
    return body(
        session=session, query=query, answer=answer, ids=ids, if_version=if_version, on_busy=on_busy
    )
