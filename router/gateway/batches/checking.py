"""What is asked of a batch's file and of its lines, before any of them is run.

Rules:
- a file that is no lines of text is refused as it comes (`FileCheck`), with the line where it ends
  to be one; nothing of it is kept. Blank lines count for nothing, however many there are, nor does
  a byte order mark at the beginning;
- a line that is no request of the batch's endpoint (`LineCheck`) is one error of the error file,
  under its number, and all the others are run;
- neither holds up the event loop: a file is looked at as it comes, lines some hundred at a time in
  a thread, and of a large one only what is short of it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import orjson

from router.gateway.batches.lines import Result
from router.gateway.batches.results import Problem, failed_line
from router.gateway.batches.tables import USAGE, Line
from router.http.apis import APIS, Api
from router.http.errors import RequestError
from router.http.outline import limit_of
from router.http.schemas import MOST_TOKENS, Prompt, lacks_memory
from solver.routing.prefixes import id_blocks, text_blocks

MOST_LINES = 50_000
MOST_BYTES = 200 << 20
LONGEST_ID = 512
# Of a batch that are told apart in plans; lines of others are planned for its first.
MOST_MODELS = 16
# Of a line that is not blank, from its first character on.
_FILLED = re.compile(rb"\S[^\n]*")
# A line's number in its file, its place there in bytes, and itself.
Raw = tuple[int, int, bytes]
# By endpoint, how its prompts are read; of what is not planned nobody reads them.
ENDPOINTS: Mapping[str, Api | None] = {
    **{api.path: api for api in APIS if api.path != "/v1/messages"},
    "/v1/embeddings": None,
}


class FileCheck:
    """Fed with a file of requests as it comes; no line may have more than `most_line` bytes."""

    def __init__(self, most_line: int) -> None:
        self._most_line, self._decoder = most_line, codecs.getincrementaldecoder("utf-8")()
        self._number = 1  # of the line that has begun
        self._length = 0  # bytes of it so far
        self._filled = False  # it is not blank
        self.size = self.lines = 0

    def feed(self, data: bytes, *, last: bool = False) -> None:
        """More of it has come; `last`: that was all.

        Raises:
            RequestError: if it is no file of requests, naming the line.
        """
        self.size += len(data)
        if self.size > MOST_BYTES:
            _refuse(f"The file is over the limit of {MOST_BYTES >> 20} MiB.", "file_too_large", 413)
        self._look(data, last)
        first, newline, others = data.partition(b"\n")
        self._grow(first)
        if newline:
            self._end()
            whole, newline, rest = others.rpartition(b"\n")
            if newline:
                self._add(whole)
            self._grow(rest)
        if last:
            self._end()
            if not self.lines:
                _refuse("The file has no lines: it must have a request in each.", "empty_file")

    def _look(self, data: bytes, last: bool) -> None:
        try:
            self._decoder.decode(data, last)
        except UnicodeDecodeError as error:
            line = self._number + data.count(b"\n", 0, max(0, error.start))
            _refuse(f"Line {line} is not UTF-8.", "invalid_encoding")
        at = data.find(b"\0")
        if at >= 0:
            line = self._number + data.count(b"\n", 0, at)
            _refuse(f"Line {line} has a NUL in it.", "not_text")

    def _grow(self, part: bytes) -> None:
        self._length += len(part)
        self._filled = self._filled or bool(part.strip())
        if self._length > self._most_line:
            message = f"Line {self._number} is over the limit of {self._most_line} bytes."
            _refuse(message, "line_too_long", 413)

    def _end(self) -> None:
        self._number, self._length = self._number + 1, 0
        self._count(self._filled)
        self._filled = False

    def _add(self, whole: bytes) -> None:
        """Lines that begin and end here, all at once: there may be as many as bytes."""
        if len(whole) > self._most_line:
            for line in whole.split(b"\n"):
                self._grow(line)
                self._end()
            return
        self._number += whole.count(b"\n") + 1
        self._count(len(_FILLED.findall(whole)))

    def _count(self, more: int) -> None:
        self.lines += more
        if self.lines > MOST_LINES:
            _refuse(f"The file has more than {MOST_LINES} lines.", "too_many_lines", 413)


def filled(text: bytes, number: int, offset: int) -> Iterator[Raw]:
    """The lines of a part of a file that are not blank; its first has this number and place."""
    at = 0 if offset or not text.startswith(codecs.BOM_UTF8) else len(codecs.BOM_UTF8)
    for found in _FILLED.finditer(text, at):
        number += text.count(b"\n", at, found.start())
        at = found.start()
        yield number, offset + at, found[0]


def _refuse(message: str, code: str, status: int = 400) -> None:
    raise RequestError(message, param="file", code=code, status=status)


@dataclass(frozen=True, slots=True)
class Checked:
    """A line that has been looked at: as a row of `lines`, and what is wrong with it, if it is."""

    row: dict[str, Any]
    problem: Problem | None


class LineCheck:
    """Of one batch: no two of its lines have the same custom id.

    Attributes:
        models: those of its lines that are good, the first `MOST_MODELS` of them.
    """

    def __init__(self, batch: str, endpoint: str) -> None:
        self._batch, self._endpoint = batch, endpoint
        self._ids: set[str] = set()
        self.models: list[str] = []

    def check(self, number: int, offset: int, length: int, raw: bytes) -> Checked:
        """One line, with its place in the file; of a large one, what is short of it."""
        row: dict[str, Any] = {
            "batch": self._batch,
            "number": number,
            "offset": offset,
            "length": length,
            "prefix": 0,
            "tokens": 0,
            "custom_id": "",
            "model": None,
            "state": Line.WAITING,
            "owner": None,
            "result": None,
            **dict.fromkeys(USAGE, 0),
        }
        data: Any = None
        try:
            data = orjson.loads(raw)
            problem = self._problem(data)
        except orjson.JSONDecodeError as error:
            if lacks_memory(error):
                raise MemoryError from error  # and nothing is said of the line
            problem = Problem("invalid_json_line", f"This line is no JSON: {error}.")
        if isinstance(data, dict) and isinstance(custom_id := data.get("custom_id"), str):
            row["custom_id"] = custom_id.replace("\0", "")[:LONGEST_ID]
            self._ids.add(custom_id)
        if problem is not None:
            told = failed_line(self._batch, number, row["custom_id"] or None, problem)
            return Checked(row | {"state": Line.FAILED, "result": told}, problem)
        row |= self._outline(data["body"], length)
        return Checked(row | {"model": self._other(data["body"]["model"])}, None)

    def _problem(self, data: Any) -> Problem | None:  # noqa: ANN401
        """The first that is wrong with a line."""
        if not isinstance(data, dict):
            return Problem("invalid_json_line", "This line must be a JSON object.")
        custom_id, body = data.get("custom_id"), data.get("body")
        named = _is_text(custom_id) and len(custom_id) <= LONGEST_ID
        body = body if isinstance(body, dict) else None
        model = None if body is None else body.get("model")
        rules = (
            (
                named,
                "invalid_custom_id",
                "custom_id",
                f"must be a string of 1 to {LONGEST_ID} characters, without NUL",
            ),
            (
                custom_id not in self._ids if named else True,
                "duplicate_custom_id",
                "custom_id",
                "is another line's; each needs its own",
            ),
            (data.get("method") == "POST", "invalid_method", "method", "must be 'POST'"),
            (
                data.get("url") == self._endpoint,
                "invalid_url",
                "url",
                f"must be '{self._endpoint}', which is the batch's endpoint",
            ),
            (body is not None, "invalid_body", "body", "must be a JSON object"),
            (_is_text(model), "missing_model", "body.model", "must name a model"),
            (
                not (body or {}).get("stream"),
                "stream_unsupported",
                "body.stream",
                "must not be set: a batch has answers in one piece",
            ),
        )
        for good, code, field, what in rules:
            if not good:
                return Problem(code, f"'{field}' {what}.", field)
        return None

    def _other(self, model: str) -> str | None:
        """What it is planned for, if that is not the batch's own."""
        if model not in self.models and len(self.models) < MOST_MODELS:
            self.models.append(model)
        return model if model in self.models[1:] else None

    def _outline(self, body: dict[str, Any], size: int) -> dict[str, int]:
        """How its prompt begins, and how much it asks for."""
        api = ENDPOINTS[self._endpoint]
        if api is None:
            return {}
        limit = limit_of(body, api)
        return {
            "tokens": 0 if limit is None or limit >= MOST_TOKENS else limit,
            "prefix": _begins(api.prompts(body, size), body["model"]),
        }


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a database can keep it, and there is any: PostgreSQL's text has no NUL."""
    return isinstance(value, str) and bool(value) and "\0" not in value


def _begins(prompts: tuple[Prompt, ...], model: str) -> int:
    """The hash of the first block of one prompt, as a signed number; 0 where it has none."""
    if len(prompts) != 1:
        return 0
    ids = prompts[0].ids
    blocks = id_blocks(ids[:1024], model) if ids else text_blocks(prompts[0].text[:1024], model)
    return blocks[0] - (1 << 63) if blocks else 0


def body_of(raw: bytes) -> bytes:
    """The body of a line's request.

    Raises:
        RequestError: if it is none after all: of a large one not everything has been looked at.
    """
    try:
        return orjson.dumps(orjson.loads(raw)["body"])
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, KeyError, TypeError) as error:
        message = f"This line is no JSON that can be sent: {error}."
        raise RequestError(message, code="invalid_json_line") from error


def refused(batch: str, number: int, custom_id: str, error: RequestError) -> Result:
    """What comes of a line that cannot be sent."""
    problem = Problem(error.code or "invalid_request", str(error), error.param)
    return Result(batch, number, Line.FAILED, failed_line(batch, number, custom_id, problem))
