"""A request's place in its trace, its spans, and what takes them: plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import getrandbits
from typing import Protocol

from router.http.errors import Headers

SAMPLED = 0x01


Value = str | bool | int | float | Sequence[str]


class Kind(Enum):
    """Whom a span is between; the values are OpenTelemetry's names."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    CLIENT = "CLIENT"


def new_id(bits: int = 64) -> str:
    """A span's id, or with 128 bits a trace's, in hexadecimal digits; not zero."""
    return f"{getrandbits(bits) or 1:0{bits // 4}x}"


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A request's place in its trace.

    Attributes:
        id: the trace's.
        parent_id: the client's span; None where the trace begins here.
        span_id: this process's span; None where it has none, and headers pass as they came.
        flags: those of ``traceparent``.
    """

    id: str
    parent_id: str | None
    span_id: str | None
    flags: int

    @property
    def recorded(self) -> bool:
        """Whether spans are wanted of this process."""
        return self.span_id is not None and bool(self.flags & SAMPLED)

    def keep(self, headers: Headers) -> Headers:
        """The client's headers, without those that `outgoing` takes the place of."""
        if self.span_id is None:
            return headers
        gone = [b"traceparent"] if self.parent_id else [b"traceparent", b"tracestate"]
        return [pair for pair in headers if pair[0] not in gone]

    def outgoing(self, span_id: str | None = None) -> dict[str, str]:
        """The header for whoever is asked next, whose parent is `span_id` or this process's."""
        if self.span_id is None:
            return {}
        return {"traceparent": f"00-{self.id}-{span_id or self.span_id}-{self.flags:02x}"}


@dataclass(slots=True)
class Span:
    """Some work and when it was done, in seconds since the epoch; with `error`, in vain."""

    name: str
    start_s: float
    end_s: float
    attributes: dict[str, Value] = field(default_factory=dict)
    kind: Kind = Kind.INTERNAL
    error: str | None = None
    id: str = field(default_factory=new_id)
    children: list[Span] = field(default_factory=list)

    def walk(self, parent_id: str | None) -> Iterator[tuple[Span, str | None]]:
        """It and all within, each with its parent's id."""
        yield self, parent_id
        for child in self.children:
            yield from child.walk(self.id)


class Sink(Protocol):
    """Takes spans of requests that have ended; neither waits nor fails."""

    def send(self, trace: TraceContext, root: Span) -> None:
        """Hand over a request's spans."""
        ...

    def close(self, seconds: float) -> None:
        """Deliver what is left, for so long at most."""
        ...
