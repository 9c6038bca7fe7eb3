"""Whether what a worker says with a 200 is an answer: who says nothing at once must not look well.

Rules:
- spaces, and the comments of a stream, are no beginning: who sends these alone is silent, and they
  are passed on with what comes after them;
- by its first bytes an answer in one piece is a JSON object, and neither it nor the first event of
  a stream is an error, unless that says that the request is at fault;
- at its end it has a choice with something in it, or the engine has counted tokens, or its limit
  left none to be made; a stream has an event of data beside ``[DONE]``. An end at once is a token;
- what is too large to be read counts as an answer, and so does nonsense: who can tell.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

# OpenAI's form, Anthropic's, and older engines'; a stream's event may have its name before it.
_ERROR = re.compile(
    rb"\s*(?:event:[^\n]*\n)?(?:data:)?\s*"
    rb'(\{\s*"(?:error"\s*:\s*[{"]|(?:type|object)"\s*:\s*"error").*)'
)
_SPACE = b" \t\r\n"
# With what nearly all answers begin: in one piece, and as streams.
_USUAL: dict[bool, bytes | tuple[bytes, ...]] = {False: b"{", True: (b"data:", b"event:")}
MOST_HELD = 4096  # bytes that say nothing; earlier ones are as good as never sent
_AT_FAULT = ("invalid_request", "BadRequest")
_CODES = {str(code) for code in range(400, 500)} - {"408", "429"}
# What the model has made, in one piece or as a stream's delta.
_MADE = ("text", "content", "reasoning_content", "reasoning", "tool_calls", "function_call",
         "refusal", "audio")  # fmt: skip


class Beginning:
    """What has come of an answer before it says anything."""

    __slots__ = ("_held", "_stream")

    def __init__(self, *, stream: bool) -> None:
        self._stream, self._held = stream, b""

    def take(self, chunk: bytes) -> bytes:
        """All that has come, once that says anything; else nothing, and it is kept."""
        if not self._held and chunk.startswith(_USUAL[self._stream]):
            return chunk
        came = self._held + chunk
        text = came.lstrip(_SPACE)
        if self._stream and text.startswith(b":"):
            *lines, last = text.replace(b"\r", b"\n").split(b"\n")
            silent = all(not line.strip() or line.startswith(b":") for line in (*lines, last))
            if silent and len(came) > MOST_HELD:
                came = b":" if last else b""
        else:
            silent = not text
            came = came[-MOST_HELD:] if silent else came
        self._held = came if silent else b""
        return b"" if silent else came


def no_answer(first: bytes, *, stream: bool) -> str | None:
    """What is wrong with an answer that begins so; None: nothing that another worker can mend."""
    if first.startswith(_USUAL[stream]) and b"error" not in first[:64]:
        return None
    text = first.lstrip(_SPACE)
    if not stream and text and not text.startswith(b"{"):
        return "what it answers is no JSON object"
    found = _ERROR.match(first) if b"error" in text[:64] else None
    if found is None or is_at_fault(_read(found[1])):
        return None
    return "it answered a request with an error"


def is_at_fault(told: object) -> bool:
    """Whether an error is the request's and not the worker's: each engine would answer so."""
    if not isinstance(told, dict):
        return False
    error = told.get("error")
    holders = (told, error if isinstance(error, dict) else {})
    codes = {str(holder.get("code")) for holder in holders}
    kinds = (str(holder.get("type")) for holder in holders)
    return bool(codes & _CODES) or any(kind.startswith(_AT_FAULT) for kind in kinds)


def says_something(answer: object) -> bool:
    """Whether an answer, or an event, of no tokens that anybody has counted has anything in it."""
    if not isinstance(answer, dict):
        return False
    choices = answer.get("choices")
    if not isinstance(choices, list):
        return "output" in answer or "content" in answer or is_at_fault(answer)
    return any(isinstance(choice, dict) and _made(choice) for choice in choices)


def _read(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _made(choice: dict[str, Any]) -> bool:
    if choice.get("finish_reason") == "length":
        return True
    holder = choice.get("message") or choice.get("delta") or choice
    return isinstance(holder, dict) and any(holder.get(name) for name in _MADE)
