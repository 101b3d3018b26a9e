"""What a client is given: the bodies of bridge/PROTOCOL.md, section 4, with names and types."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any, Mapping, Optional, Sequence, Type, TypeVar

T = TypeVar("T")


def make(cls: Type[T], body: Mapping[str, Any]) -> T:
    """A `cls` of the keys that it knows; a server may send more."""
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{k: v for k, v in body.items() if k in names})


class RxtError(Exception):
    """An ERROR of the server (PROTOCOL.md, section 6). Decide by `name` or `retryable`."""

    def __init__(self, body: Mapping[str, Any]):
        self.code: int = body.get("code", 410)
        self.name: str = body.get("name", "internal")
        self.retryable: bool = body.get("retryable", False)
        self.retry_after_ms: int = body.get("retry_after_ms", 0)
        self.detail: str = body.get("detail", "")
        self.key: Optional[str] = body.get("key")
        super().__init__(f"{self.name} ({self.code}): {self.detail}")


class Cancelled(Exception):
    """The request was cancelled; nothing of it remains."""


class ConnectionLost(Exception):
    """The connection went away under an EXPORT or IMPORT, which cannot be resumed: start again."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Keys of a CURVE connection, 40 characters each as `rxt keygen` prints them."""

    server_key: str
    public_key: str
    secret_key: str


@dataclasses.dataclass(frozen=True)
class Welcome:
    version: int
    server: str = ""
    endpoint: str = ""
    tenant: str = ""
    model: str = ""
    model_hash: bytes = b""
    bit_class: str = ""
    n_vocab: int = 0
    max_seq_len: int = 0  # tokens of query and answer
    answer_min: int = 0  # tokens that a query must leave
    session_bytes: int = 0
    stm_bytes: int = 0
    max_body_bytes: int = 262144
    chunk_bytes: int = 1048576
    max_candidates: int = 1
    max_inflight: int = 1
    credit_max: int = 0
    heartbeat_ms: int = 5000
    grace_ms: int = 60000
    window: int = 0  # request ids that a session remembers


@dataclasses.dataclass(frozen=True)
class Price:
    """What a turn can cost at most, known before it starts."""

    tokens_max: int = 0
    bytes: int = 0
    us_expected: int = 0


@dataclasses.dataclass(frozen=True)
class Token:
    """Some tokens of an answer. `text` holds complete code points only and may be empty."""

    text: str
    ids: Sequence[int]
    candidate: int = 0


@dataclasses.dataclass(frozen=True)
class Usage:
    queue_us: int = 0
    first_token_us: int = 0
    answer_us: int = 0
    journal_us: int = 0


@dataclasses.dataclass(frozen=True)
class Candidate:
    finish: str
    n_answer: int


@dataclasses.dataclass(frozen=True)
class Undecided:
    session: str
    read_version: int
    expires_ms: int
    candidates: Sequence[Candidate]


@dataclasses.dataclass(frozen=True)
class Done:
    """The turn is on disk and will be remembered as `pending_version` (None for a dry run)."""

    session: str
    finish: Optional[str] = None  # eos, length, cancel; None for a dry run of several candidates
    n_query: int = 0
    n_answer: int = 0
    read_version: int = 0
    pending_version: Optional[int] = None
    candidate: int = 0
    candidates: Sequence[Candidate] = ()
    usage: Usage = Usage()
    stored: bool = False  # answered from the journal


@dataclasses.dataclass(frozen=True)
class Memory:
    """The turn is in the memory, which is now `version`."""

    session: str
    version: int
    stm_hash: bytes = b""
    lag_us: int = 0
    memory_us: int = 0


@dataclasses.dataclass(frozen=True)
class Info:
    """A session. `state` is cold, resident, answering, remembering or held."""

    session: str
    state: str = ""
    version: int = 0
    n_turn: int = 0
    stm_dtype: str = ""
    seed: int = 0
    mixed_class: bool = False
    created_us: int = 0
    used_us: int = 0
    stm_hash: Optional[bytes] = None
    held_reason: Optional[str] = None
    origin: Optional[str] = None
    origin_version: Optional[int] = None
    last_ids: Sequence[int] = ()  # GET: query and answer of the last turn
    n_query: int = 0  # GET: how many of last_ids are the query


@dataclasses.dataclass(frozen=True)
class Health:
    live: bool
    ready: bool
    state: str = ""
    step_age_us: int = 0
    memory_age_us: int = 0


@dataclasses.dataclass(frozen=True)
class Diff:
    """How far two memories are apart: rms of the difference and cosine, [n_layer][n_slot]."""

    change: Sequence[Sequence[float]]
    cosine: Sequence[Sequence[float]]


def done_of(body: Mapping[str, Any], stored: bool = False) -> Done:
    done = make(Done, body)
    return dataclasses.replace(
        done,
        usage=make(Usage, body.get("usage", {})),
        candidates=[make(Candidate, c) for c in body.get("candidates", ())],
        stored=stored,
    )


def undecided_of(body: Mapping[str, Any]) -> Undecided:
    candidates = [make(Candidate, c) for c in body["candidates"]]
    return dataclasses.replace(make(Undecided, body), candidates=candidates)


def info_of(body: Mapping[str, Any]) -> Info:
    """The info of OPEN, GET, FORK and IMPORT."""
    extra = {k: body[k] for k in ("last_ids", "n_query") if k in body}
    return dataclasses.replace(make(Info, body["info"]), **extra)


def diff_of(body: Mapping[str, Any]) -> Diff:
    n_layer, n_slot = body["n_layer"], body["n_slot"]

    def table(data: bytes) -> list[tuple[float, ...]]:
        return [struct.unpack_from(f"<{n_slot}f", data, 4 * n_slot * l) for l in range(n_layer)]

    return Diff(table(body["change"]), table(body["cosine"]))
