"""Fields put into a body, or in the place of another: all else stays byte for byte."""

from __future__ import annotations

import re

import orjson

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_FIELD = re.compile(rb'"model"\s*:\s*(?=["n])')
_TOKEN = re.compile(_STRING.pattern + rb"|[\[\]{}]", re.DOTALL)
_NULL = b"null"
_BEGIN = re.compile(rb"\s*\{\s*(\})?")


def with_model(body: bytes, model: str, *, named: bool) -> bytes:
    """The JSON object with this as its model; one that names none gets one; `named`: it does.

    In a string there is no field, as its quotes would have escapes; within other objects there may
    be, so that where it is there more than once, its depth is counted.
    """
    found = [match.end() for match in _FIELD.finditer(body)] if named else []
    if len(found) != 1:
        found = _at_top(body)
    name = orjson.dumps(model)
    if not found:
        return _put_first(body, b'"model":%b' % name)
    at = found[-1]  # of several the last counts
    value = _STRING.match(body, at)
    end = at + len(_NULL) if value is None else value.end()
    return body[:at] + name + body[end:]


def with_field(body: bytes, name: str, value: object) -> bytes:
    """The JSON object with this field; one that may have it already stays as it is."""
    quoted = orjson.dumps(name)
    return body if quoted in body else _put_first(body, quoted + b":" + orjson.dumps(value))


def _put_first(body: bytes, field: bytes) -> bytes:
    begin = _BEGIN.match(body)
    assert begin is not None, "a JSON object"
    at = begin.end() if begin[1] is None else begin.end() - 1
    return b"%b%b%b%b" % (body[:at], field, b"" if begin[1] else b",", body[at:])


def _at_top(body: bytes) -> list[int]:
    """Where values of the outermost object's fields of that name begin."""
    found, depth = list[int](), 0
    for token in _TOKEN.finditer(body):
        text = token[0]
        if text in b"{[":
            depth += 1
        elif text in b"}]":
            depth -= 1
        elif depth == 1 and text == b'"model"':
            field = _FIELD.match(body, token.start())
            if field is not None:
                found.append(field.end())
    return found
