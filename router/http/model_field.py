"""Fields put into a body, or in the place of another: all else stays byte for byte.

What it costs is linear in the body's size, and of a large one others get their turn meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import orjson
from numpy.typing import NDArray

from router.http.errors import RequestError
from router.http.json_slices import look, slices
from router.http.shorten import SMALL

_MODEL = b'"model"'
# As none of its letters could be written without this, if any is written as an escape.
_ESCAPED = b"\\u006"
_LONGEST = len(rb"\u006d") * len("model")
_COLON = re.compile(rb"\s*:\s*")
_PLAIN = re.compile(rb'"model"\s*:\s*("[^"\\]*")')
_BEGIN = re.compile(rb"\s*\{\s*(\})?")


def require_one_model(body: bytes) -> None:
    """Whether a JSON object names its model once at most: engines differ in which of two counts.

    Raises:
        RequestError: if it does not.
    """
    if body.count(_MODEL) > 1 or _ESCAPED in body:
        _model_at(body)


def with_model(body: bytes, model: str, *, named: bool) -> bytes:
    """The JSON object with this as its model; one that names none gets one; `named`: it does.

    Raises:
        RequestError: if it has one more than once.
    """
    found = (_plainly_at(body) if named else None) or _model_at(body)
    name = orjson.dumps(model)
    if found is None:
        assert not named, "a JSON object that names its model"
        return _put_first(body, b'"model":%b' % name)
    start, end = found
    return body[:start] + name + body[end:]


def with_field(body: bytes, name: str, value: object) -> bytes:
    """The JSON object with this field; one that has it stays as it is, or a large one that may."""
    quoted = orjson.dumps(name)
    if quoted in body and (len(body) > SMALL or any(_fields(body, quoted))):
        return body
    return _put_first(body, quoted + b":" + orjson.dumps(value))


def _fields(body: bytes, quoted: bytes) -> Iterator[bool]:
    """For each of the outermost strings of that name, whether it is that of a field."""
    strings = _outermost_strings(body)
    for start, end in strings[strings[:, 1] - strings[:, 0] == len(quoted)].tolist():
        yield body[start:end] == quoted and _COLON.match(body, end) is not None


def _put_first(body: bytes, field: bytes) -> bytes:
    begin = _BEGIN.match(body)
    assert begin is not None, "a JSON object"
    at = begin.end() if begin[1] is None else begin.end() - 1
    return b"%b%b%b%b" % (body[:at], field, b"" if begin[1] else b",", body[at:])


def _plainly_at(body: bytes) -> tuple[int, int] | None:
    """The same of most bodies, at little cost: there is one such string, so it is that field."""
    if body.count(_MODEL) != 1 or _ESCAPED in body:
        return None
    found = _PLAIN.match(body, body.find(_MODEL))
    return None if found is None else found.span(1)


def _model_at(body: bytes) -> tuple[int, int] | None:
    """From where to where the outermost object's field of that name has its value.

    In a string there is no field, as its quotes would have escapes; within other objects there may
    be.
    """
    if _MODEL not in body and _ESCAPED not in body:
        return None
    strings = _outermost_strings(body)
    sizes = strings[:, 1] - strings[:, 0]
    found = list[tuple[int, int]]()
    for k in np.flatnonzero((sizes >= len(_MODEL)) & (sizes <= _LONGEST + 2)).tolist():
        start, end = strings[k].tolist()
        if not _is_model(body[start:end]):
            continue
        colon = _COLON.match(body, end)
        if colon is None:
            continue  # it is a value
        at = colon.end()
        last = k + 1 < len(strings) and int(strings[k + 1, 0]) == at
        found.append((at, int(strings[k + 1, 1]) if last else at + len(b"null")))
    if len(found) > 1:
        raise RequestError(
            "'model' is there more than once.", param="model", code="ambiguous_model"
        )
    return found[0] if found else None


def _outermost_strings(body: bytes) -> NDArray[np.int64]:
    """Keys and values of the outermost object that are strings: begin and end of each (n, 2)."""
    quotes, at, inside, depth = list[NDArray[np.int64]](), 0, False, 0
    for part in slices(body):
        marks = look(part, inside=inside, depth=depth)
        inside, depth = bool(marks.inside[-1]), int(marks.depth[-1])
        quotes.append(np.flatnonzero(marks.quotes & (marks.depth == 1)) + at)
        at += len(part)
    all_of_them = np.concatenate(quotes)
    pairs = all_of_them[: len(all_of_them) // 2 * 2].reshape(-1, 2)
    pairs[:, 1] += 1
    return pairs


def _is_model(quoted: bytes) -> bool:
    return quoted == _MODEL or (b"\\" in quoted and orjson.loads(quoted) == "model")
