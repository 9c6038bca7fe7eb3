"""What a worker's answer says of tokens, read from bytes that pass by unchanged."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from json import JSONDecoder
from typing import Any, NamedTuple

import orjson

from router.http.json_field import JsonField
from router.http.said import is_at_fault, says_something

# The events that end a stream (last token, usage, [DONE]) fit into this; so does a JSON answer's
# usage object, which engines put last.
TAIL_BYTES = 4096
# Beyond that size, or so many objects and arrays, an answer is only searched: one of any shape
# costs milliseconds.
MOST_JSON_BYTES, MOST_PARTS = 128 << 10, 5_000
# An engine that counts more has miscounted, whatever was asked for.
MOST_TOKENS = 1 << 30
# Of messages' prompts, what their input tokens are without.
_BESIDE = ("cache_read_input_tokens", "cache_creation_input_tokens")
_EVENT, _USAGE = b"\ndata:", b'"usage":'
# By its first bytes an answer says what it is.
HEAD_BYTES = 512
_ID = re.compile(rb'"id"\s*:\s*"([\w.:-]{1,200})"')


class Usage(NamedTuple):
    """Tokens as the engine counted them, over all choices; `cached_tokens` are of the prompt's."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Of prompt and answer."""
        return self.prompt_tokens + self.completion_tokens

    def within(self, most: Usage) -> Usage:
        """The same, or as much of it as there can be: an engine that tells more has miscounted."""
        if self[0] <= most[0] and self[1] <= most[1] and self[2] <= self[0]:
            return self
        prompt = min(self.prompt_tokens, most.prompt_tokens)
        output = min(self.completion_tokens, most.completion_tokens)
        return Usage(prompt, output, min(self.cached_tokens, prompt))


MOST = Usage(MOST_TOKENS, MOST_TOKENS, MOST_TOKENS)


@dataclass(frozen=True, slots=True)
class ResponseInfo:
    """What an answer says of itself; `finish_reasons` in the order of its choices."""

    id: str | None
    model: str | None
    finish_reasons: tuple[str, ...]


Reading = Callable[[Any], Usage | None]  # of an answer or an event


class StreamMeter:
    """Counts a stream's events, one a token, and keeps its end; they have no numbers."""

    sequence = -1

    def __init__(self, read: Reading | None = None) -> None:
        self._reading = read or read_usage
        self.events = 0
        self._before = b"\n"  # of the event that may begin there
        self._last: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> int:
        """Events that begin in `chunk`, however the stream is cut."""
        text = self._before + chunk
        new, self._before = text.count(_EVENT), text[1 - len(_EVENT) :]
        self.events += new
        self._last.append(chunk)
        self._size += len(chunk)
        if self._size > 4 * TAIL_BYTES:
            self._last = [self._tail[-TAIL_BYTES:]]
            self._size = len(self._last[0])
        return new

    @property
    def _tail(self) -> bytes:
        """At least the last `TAIL_BYTES`."""
        return b"".join(self._last)

    def usage(self) -> Usage | None:
        """The last usage object of the stream, if there was one."""
        for line in reversed(self._tail.split(b"\n")):
            if line.startswith(b"data:") and b'"usage"' in line:
                found = _usage(line[5:], self._reading)
                if found is not None:
                    return found
        return None

    def response_info(self) -> ResponseInfo:
        """What the stream's last events say."""
        data = (line[5:] for line in self._tail.split(b"\n") if line.startswith(b"data:"))
        return _response_info([event for event in map(_read, data) if event is not None])

    @property
    def _done(self) -> bool:
        return b"[DONE]" in self._tail

    @property
    def finished(self) -> bool:
        """Whether the stream said that it is complete, or all its choices that they have ended."""
        return self._done or self._choices_ended()

    def _choices_ended(self) -> bool:
        """As far as its end tells: a choice that goes on is among its last events."""
        ended: dict[Any, bool] = {}
        for line in self._tail.split(b"\n"):
            event = _read(line[5:]) if line.startswith(b"data:") else None
            choices = event.get("choices") if event else None
            for choice in choices if isinstance(choices, list) else ():
                if isinstance(choice, dict):
                    ended[str(choice.get("index", 0))] = choice.get("finish_reason") is not None
        return bool(ended) and all(ended.values())

    def error(self) -> str | None:
        """What the worker itself said of a failure, in an event at the end of its stream."""
        line = self._last_event()
        return _error(line) if b'"error"' in line else None

    @property
    def at_fault(self) -> bool:
        """Whether that failure is the request's."""
        return is_at_fault(_read(self._last_event()))

    def _last_event(self) -> bytes:
        for line in reversed(self._tail.split(b"\n")):
            if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                return line[5:]
        return b""

    def says_nothing(self, usage: Usage | None) -> bool:
        """Whether no event came, or none with anything in it where the engine counts no token."""
        if self.events <= self._done:
            return True
        if usage is None or self._size > TAIL_BYTES:
            return False
        lines = (line[5:] for line in self._tail.split(b"\n") if line.startswith(b"data:"))
        return not any(map(says_something, map(_read, lines)))

    def tokens(self, usage: Usage | None) -> int:
        """Output tokens: as the engine counted them, else the events but for ``[DONE]``."""
        return usage.completion_tokens if usage else max(0, self.events - self._done)


class JsonMeter:
    """Looks into a JSON answer for its usage object: up to a size into all of it, as it is."""

    sequence = -1

    def __init__(self, read: Reading | None = None) -> None:
        self._reading = read or read_usage
        self._parts: list[bytes] = []
        self._size = 0
        self._large: JsonField | None = None  # looks for it where that is too much
        self._head = b""  # of a large one

    @property
    def answer_id(self) -> str | None:
        """What the answer calls itself."""
        found = _ID.search(self._text if self._large is None else self._head, 0, HEAD_BYTES)
        return None if found is None else found[1].decode()

    @property
    def _text(self) -> bytes:
        """All of it, unless that is too much."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def feed(self, chunk: bytes) -> int:
        """More of it; no tokens can be told from it alone."""
        if self._large is not None:
            self._large.feed(chunk)
            return 0
        self._parts.append(chunk)
        self._size += len(chunk)
        if self._size > MOST_JSON_BYTES:
            self._look()
        return 0

    def _look(self) -> JsonField:
        if self._large is None:
            self._large, text = JsonField("usage"), self._text
            self._large.feed(text)
            self._head = text[:HEAD_BYTES]
            self._parts.clear()
        return self._large

    def _whole(self) -> bytes | None:
        """All of it, if it may be read."""
        text = self._text
        small = self._large is None and text.count(b"{") + text.count(b"[") <= MOST_PARTS
        return text if small else None

    def usage(self) -> Usage | None:
        """The answer's usage object, if it has one."""
        end = _from_usage(self._text)
        if end is not None:
            return self._reading(end)
        text = self._whole()
        if text is not None:
            return _usage(text, self._reading)
        usage = self._look().value()
        return None if usage is None else self._reading({"usage": usage})

    def response_info(self) -> ResponseInfo:
        """What the answer says."""
        text = self._whole()
        answer = None if text is None else _read(text)
        return _response_info([] if answer is None else [answer])

    def says_nothing(self, _: Usage | None) -> bool:
        """Whether it has nothing in it, as far as it can be read."""
        text = self._whole()
        return text is not None and not says_something(_read(text))

    def tokens(self, usage: Usage | None) -> int | None:
        """Output tokens, if the engine told them."""
        return usage.completion_tokens if usage else None


def _read(text: bytes) -> dict[str, Any] | None:
    try:
        answer: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return answer if isinstance(answer, dict) else None


def _response_info(events: list[dict[str, Any]]) -> ResponseInfo:
    """The last event that names an id and a model, and every choice's reason to end."""
    names: dict[str, str] = {}
    reasons: dict[int, str] = {}
    for event in events:
        names |= {key: v for key in ("id", "model") if isinstance(v := event.get(key), str)}
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            reason = choice.get("finish_reason") if isinstance(choice, dict) else None
            if isinstance(reason, str) and isinstance(index := choice.get("index", 0), int):
                reasons[index] = reason
    ends = tuple(reason for _, reason in sorted(reasons.items()))
    return ResponseInfo(names.get("id"), names.get("model"), ends)


def said_in(body: bytes) -> str:
    """The message in the body of an error, of whichever form, or the body itself."""
    return _error(body) or body.decode("utf-8", "replace")


def _error(text: bytes) -> str | None:
    try:
        error: Any = orjson.loads(text).get("error")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    if not error:
        return None
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)


def _usage(text: bytes, read: Reading) -> Usage | None:
    try:
        return read(orjson.loads(text))
    except orjson.JSONDecodeError:
        return None


def _from_usage(text: bytes) -> dict[str, Any] | None:
    """What an answer says from its usage object on, if that is near its end: engines put it last.

    What is no end of the answer's own object, but of one within it, has a brace too many.
    """
    at = text.rfind(_USAGE, max(0, len(text) - TAIL_BYTES))
    return None if at < 0 else _read(b"{" + text[at:])


def usage_at_end(text: bytes) -> Any:  # noqa: ANN401
    """The object in the last bytes of an answer; within a string its name would have escapes."""
    _, name, rest = text.rpartition(_USAGE)
    try:
        usage, _ = JSONDecoder().raw_decode(rest.decode("utf-8", "replace").lstrip())
    except (ValueError, RecursionError):
        return None
    return usage if name else None


def read_usage(answer: Any) -> Usage | None:  # noqa: ANN401
    """The usage object of an answer or an event, if it has one that makes sense.

    Completions and chats count prompt and completion tokens, responses and messages input and
    output; messages' input is without what was found in a cache, or put there.
    """
    try:
        usage = answer["usage"]
        if "prompt_tokens" in usage:
            prompt, output = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
            details = usage.get("prompt_tokens_details")
        else:
            prompt, output = int(usage["input_tokens"]), int(usage["output_tokens"])
            prompt += sum(int(usage.get(name) or 0) for name in _BESIDE)
            details = usage.get("input_tokens_details")
        cached = int((details or {}).get("cached_tokens") or usage.get(_BESIDE[0]) or 0)
        found = Usage(prompt, output, cached)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None
    return found if min(found) >= 0 and max(found) < MOST_TOKENS else None


def read_any_usage(answer: Any) -> Usage | None:  # noqa: ANN401
    """The same of answers that make nothing, as embeddings, or tell the sum alone, as ranks."""
    try:
        usage = answer["usage"]
        output = int(usage.get("completion_tokens") or usage.get("output_tokens") or 0)
        prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
        told = int(usage["total_tokens"]) - output if prompt is None else int(prompt)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None
    found = Usage(told, output)
    return read_usage(answer) or (found if all(0 <= n < MOST_TOKENS for n in found) else None)
