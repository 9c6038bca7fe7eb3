"""A line of the output or of the error file, in OpenAI's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from router.gateway.batches.lines import Result
from router.gateway.batches.tables import Line

# What some readers take for the end of a line; JSON has it inside of strings alone.
_BREAKS = tuple((chr(code).encode(), b"\\u%04x" % code) for code in (0x85, 0x2028, 0x2029))


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a line has no response; `param` is the field to blame, if one is."""

    code: str
    message: str
    param: str | None = None


NO_JSON = Problem("invalid_answer", "What has been answered is no JSON object.")


def failed_line(batch: str, number: int, custom_id: str | None, problem: Problem) -> bytes:
    """Of the error file: a line that no worker has answered."""
    return _line(batch, number, custom_id, None, problem)


def answered(
    batch: str,
    number: int,
    custom_id: str,
    status: int,
    name: str,
    body: bytes,
    told: dict[str, Any] | None,
) -> Result:
    """What a worker, or the gateway, has answered it with, as it came and as `read`.

    `name` is the request's.
    """
    raw: Any
    if told is None:
        raw = body.decode("utf-8", "replace")
    else:  # as it came: a line break is a space in JSON, as none is inside of a string
        raw = orjson.Fragment(body.replace(b"\n", b" ").replace(b"\r", b" "))
    response = {"status_code": status, "request_id": name, "body": raw}
    good = 200 <= status < 300
    text = _line(batch, number, custom_id, response, NO_JSON if good and told is None else None)
    if not good or told is None:
        return Result(batch, number, Line.FAILED, text)
    return Result(batch, number, Line.DONE, text, *_usage(told))


def read(body: bytes | bytearray) -> dict[str, Any] | None:
    """What an answer says; None: it is none, as all are JSON objects."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return told if isinstance(told, dict) else None


def _line(
    batch: str,
    number: int,
    custom_id: str | None,
    response: dict[str, Any] | None,
    problem: Problem | None,
) -> bytes:
    name = f"batch_req_{batch.removeprefix('batch_')}_{number}"
    error = None if problem is None else {"code": problem.code, "message": problem.message}
    line = {"id": name, "custom_id": custom_id, "response": response, "error": error}
    text = orjson.dumps(line)
    if not text.isascii():
        for told, escaped in _BREAKS:
            text = text.replace(told, escaped)
    return text + b"\n"


def _usage(told: dict[str, Any]) -> tuple[int, int, int, int]:
    """Tokens: of its prompt, of these cached, of its output, of these for reasoning."""
    usage = told.get("usage")
    if not isinstance(usage, dict):
        return 0, 0, 0, 0
    before = usage.get("input_tokens_details") or usage.get("prompt_tokens_details")
    after = usage.get("output_tokens_details") or usage.get("completion_tokens_details")
    return (
        _count(usage, "input_tokens", "prompt_tokens"),
        _count(before, "cached_tokens"),
        _count(usage, "output_tokens", "completion_tokens"),
        _count(after, "reasoning_tokens"),
    )


def _count(data: Any, *names: str) -> int:  # noqa: ANN401
    """The first of these that is a number of tokens."""
    found = (data.get(name) for name in names) if isinstance(data, dict) else iter(())
    return next((n for n in found if type(n) is int and 0 <= n < 1 << 31), 0)
