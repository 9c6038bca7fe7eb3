"""Streams whose events have names, as ``/v1/responses`` and ``/v1/messages`` have them.

Each event is an object with a ``type``: what the model makes comes in those that end in ``delta``,
a token each as engines send them; one of `ENDS` says that all is there, one of `FAILURES` that it
will not be.
"""

from __future__ import annotations

from typing import Any

import orjson

from router.http.said import is_at_fault
from router.http.usage import (
    MOST_JSON_BYTES,
    TAIL_BYTES,
    ResponseInfo,
    Usage,
    read_usage,
    usage_at_end,
)

ENDS = frozenset(
    ("message_stop", "response.completed", "response.incomplete", "response.cancelled")
)
FAILURES = frozenset(("error", "response.failed"))
_NO_TOKENS = frozenset(("message_delta",))


class Events:
    """What events have told so far.

    Attributes:
        finished: the stream has said that it is complete.
        error: what it has said of its failure; `at_fault`: that it is the request's.
        id, model: what the answer says that it is.
        reason: why the model has stopped.
        sequence: the number of the last event, where they are numbered.
    """

    def __init__(self) -> None:
        self.finished, self.sequence = False, -1
        self.error: str | None = None
        self.at_fault = False
        self.id: str | None = None
        self.model: str | None = None
        self.reason: str | None = None
        self._usage: dict[str, Any] = {}

    @property
    def usage(self) -> Usage | None:
        """What its parts say of tokens together."""
        return read_usage({"usage": self._usage}) if self._usage else None

    def take(self, event: dict[str, Any]) -> int:
        """One more; whether it is a token."""
        kind = event.get("type")
        if not isinstance(kind, str):
            return 0
        number = event.get("sequence_number")
        self.sequence = number if type(number) is int else self.sequence
        if kind.endswith("delta") and kind not in _NO_TOKENS:
            return 1
        told = event.get("response") or event.get("message")
        self._see(told if isinstance(told, dict) else event)
        delta = event.get("delta")
        if isinstance(delta, dict) and isinstance(delta.get("stop_reason"), str):
            self.reason = delta["stop_reason"]
        self.finished |= kind in ENDS
        if kind in FAILURES:
            self.error, self.at_fault = _complaint(event) or kind, is_at_fault(event)
        return 0

    def _see(self, told: dict[str, Any]) -> None:
        if told.get("object") == "response" or told.get("type") == "message":
            self.id = _string(told.get("id")) or self.id
            self.model = _string(told.get("model")) or self.model
        self.reason = _string(told.get("stop_reason")) or _string(told.get("status")) or self.reason
        usage = told.get("usage")
        if isinstance(usage, dict):
            self._usage |= {name: value for name, value in usage.items() if value is not None}


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _complaint(event: dict[str, Any]) -> str | None:
    """In an error's event the message is its own, its error's, or its response's error's."""
    response = event.get("response")
    for holder in (event, response if isinstance(response, dict) else {}):
        error = holder.get("error")
        if isinstance(error, dict):
            return str(error.get("message") or error)
    return _string(event.get("message"))


class EventMeter:
    """Reads a stream of such events from bytes that pass by, however they are cut.

    Of an event that is too large to be read, as the last one of a long answer, its name and its end
    are looked at.
    """

    def __init__(self) -> None:
        self._seen, self.events = Events(), 0
        self._rest, self._name, self._cut = b"", "", False

    def feed(self, chunk: bytes) -> int:
        """Tokens in `chunk`."""
        *lines, rest = (self._rest + chunk).split(b"\n")
        new = sum(map(self._line, lines))
        self._rest = rest
        if len(rest) > MOST_JSON_BYTES:
            self._rest, self._cut = rest[-TAIL_BYTES:], True
        self.events += new
        return new

    def _line(self, line: bytes) -> int:
        cut, self._cut = self._cut, False
        if cut or (line.startswith(b"data:") and len(line) > MOST_JSON_BYTES):
            usage = usage_at_end(line[-TAIL_BYTES:])
            told = {"type": self._name}
            if usage is not None:
                told["usage"] = usage
            return self._seen.take(told)
        if line.startswith(b"event:"):
            self._name = line[6:].strip().decode("latin-1")
        if not line.startswith(b"data:"):
            return 0
        try:
            event = orjson.loads(line[5:])
        except orjson.JSONDecodeError:
            return 0
        return self._seen.take(event) if isinstance(event, dict) else 0

    def usage(self) -> Usage | None:
        """What the stream said of tokens."""
        return self._seen.usage

    def response_info(self) -> ResponseInfo:
        """What the stream said of itself."""
        seen = self._seen
        return ResponseInfo(seen.id, seen.model, () if seen.reason is None else (seen.reason,))

    @property
    def finished(self) -> bool:
        """Whether the stream said that it is complete."""
        return self._seen.finished

    @property
    def sequence(self) -> int:
        """The number of its last event; -1 without."""
        return self._seen.sequence

    @property
    def answer_id(self) -> str | None:
        """What the answer calls itself, once it has."""
        return self._seen.id

    def error(self) -> str | None:
        """What the worker itself said of a failure."""
        return self._seen.error

    @property
    def at_fault(self) -> bool:
        """Whether that failure is the request's."""
        return self._seen.at_fault

    def says_nothing(self, _: Usage | None) -> bool:
        """Whether it has ended without any event that makes something; its end may have all."""
        return not self.events and not self._seen.id

    def tokens(self, usage: Usage | None) -> int:
        """Output tokens: as the engine counted them, else the deltas."""
        return usage.completion_tokens if usage else self.events
