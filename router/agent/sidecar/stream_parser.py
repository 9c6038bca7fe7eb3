"""Progress of a streamed answer, read from bytes that pass by unchanged.

Engines agree on little beyond OpenAI's events: one may carry several tokens, or none (a role, a
piece of a tool call that is cut elsewhere). What is told counts, in this order: a usage object that
comes with an event, token ids, and else one token for an event of a choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from router.http.event_meter import Events
from router.http.usage import Usage, read_usage

MOST_EVENT_BYTES = 4 << 20  # a longer line is passed on, but not read


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event: a choice's new tokens (0: it has begun), and whether it has ended.

    `usage` is over all choices, or the choice's own: engines differ. An event of usage alone has
    the index -1.
    """

    index: int
    tokens: int
    ended: bool
    usage: Usage | None


class StreamParser:
    """Reads a stream of server-sent events, however its bytes are cut.

    Attributes:
        usage: what was last told of it.
        done: the server has said that nothing more will come.
    """

    def __init__(self) -> None:
        self._rest = b""
        self.usage: Usage | None = None
        self.done = False

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """What `chunk` tells."""
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MOST_EVENT_BYTES:
            self._rest = b""
        events: list[StreamEvent] = []
        for line in lines:
            if line.startswith(b"data:"):
                events += self._event(line[5:])
        return events

    def _event(self, data: bytes) -> list[StreamEvent]:
        if data.strip() == b"[DONE]":
            self.done = True
            return []
        try:
            event: Any = orjson.loads(data)
            choices = list(event.get("choices") or ())
        except (orjson.JSONDecodeError, AttributeError, TypeError):
            return []  # its meaning is between server and client
        usage = read_usage(event)
        if usage is not None:
            self.usage = usage
        found = [_choice(choice, usage) for choice in choices if isinstance(choice, dict)]
        return found or ([StreamEvent(-1, 0, False, usage)] if usage is not None else [])


def _choice(choice: dict[str, Any], usage: Usage | None) -> StreamEvent:
    index = choice.get("index", 0)
    ended = choice.get("finish_reason") is not None
    number = index if isinstance(index, int) and index >= 0 else 0
    return StreamEvent(number, _tokens(choice, ended=ended), ended, usage)


def _tokens(choice: dict[str, Any], *, ended: bool) -> int:
    ids = choice.get("token_ids")
    if isinstance(ids, list):
        return len(ids)
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return 0 if ended and not choice.get("text") else 1
    said = any(value for name, value in delta.items() if name != "role")
    return 1 if said or not (ended or "role" in delta) else 0


class NamedEvents(StreamParser):
    """The same of streams whose events have names (`router.http.event_meter`): of one choice."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = Events()

    def _event(self, data: bytes) -> list[StreamEvent]:
        try:
            event: Any = orjson.loads(data)
        except orjson.JSONDecodeError:
            return []
        tokens = self._seen.take(event) if isinstance(event, dict) else 0
        self.usage, self.done = self._seen.usage, self._seen.finished
        usage = self.usage if self.done else None
        return [StreamEvent(0, tokens, self.done, usage)] if tokens or self.done else []
