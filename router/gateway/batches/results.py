"""A line of the output or of the error file, in OpenAI's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from router.gateway.batches.lines import Result
from router.gateway.batches.tables import Line


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a line has no response; `param` is the field to blame, if one is."""

    code: str
    message: str
    param: str | None = None


def failed_line(batch: str, number: int, custom_id: str | None, problem: Problem) -> bytes:
    """Of the error file: a line that no worker has answered."""
    error = {"code": problem.code, "message": problem.message}
    return _line(batch, number, custom_id, None, error)


def answered(
    batch: str, number: int, custom_id: str, status: int, name: str, body: bytes
) -> Result:
    """What a worker, or the gateway, has answered it with; `name` is the request's."""
    try:
        told: Any = orjson.loads(body)
        # As it came: a line break is a space in JSON, as none is inside of a string.
        raw: Any = orjson.Fragment(body.replace(b"\n", b" ").replace(b"\r", b" "))
    except orjson.JSONDecodeError:
        told, raw = {}, body.decode("utf-8", "replace")
    response = {"status_code": status, "request_id": name, "body": raw}
    text = _line(batch, number, custom_id, response, None)
    if not 200 <= status < 300:
        return Result(batch, number, Line.FAILED, text)
    return Result(batch, number, Line.DONE, text, *_usage(told))


def _line(
    batch: str,
    number: int,
    custom_id: str | None,
    response: dict[str, Any] | None,
    error: dict[str, Any] | None,
) -> bytes:
    name = f"batch_req_{batch.removeprefix('batch_')}_{number}"
    line = {"id": name, "custom_id": custom_id, "response": response, "error": error}
    return orjson.dumps(line) + b"\n"


def _usage(told: Any) -> tuple[int, int, int, int]:  # noqa: ANN401
    """Tokens: of its prompt, of these cached, of its output, of these for reasoning."""
    usage = told.get("usage") if isinstance(told, dict) else None
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
