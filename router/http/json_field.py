"""One field of a JSON object that passes by in pieces: found wherever it stands, in little memory.

Rules:
- it is the outermost object's; what has the same name within strings or other objects is not meant;
- of several the last counts, as for whoever reads all of it;
- a value of more than `MOST_BYTES` is none, nor is one that comes after `MOST_NAMES` of that name.
"""

from __future__ import annotations

from json import JSONDecoder
from typing import Any

MOST_BYTES, MOST_NAMES = 4096, 64
_STRUCTURE = b'"{}[]'
_TEXT = bytes(byte for byte in range(256) if byte not in _STRUCTURE)


class JsonField:
    """Fed with what comes."""

    def __init__(self, name: str) -> None:
        self._mark = f'"{name}"'.encode()
        self._rest = b""  # may have the beginning of its name, or half an escape
        self._inside, self._depth = False, 0  # a string; of objects and arrays
        self._names = 0
        self._value: Any = None
        self._told: bytearray | None = None  # what comes after its name

    def feed(self, chunk: bytes) -> None:
        """More has come."""
        if self._told is not None:
            self._told += chunk[: MOST_BYTES - len(self._told)]
        if self._names >= MOST_NAMES:
            return
        data = self._rest + chunk
        cut = _between_escapes(data, max(0, len(data) - len(self._mark) + 1))
        plain = data.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        at, found = 0, plain.find(self._mark)
        while 0 <= found < cut and self._names < MOST_NAMES:
            self._pass(plain[at:found])
            at = found
            if not self._inside and self._depth == 1:
                self._begin(data[found + len(self._mark) :][:MOST_BYTES])
            found = plain.find(self._mark, found + 1)
        self._pass(plain[at:cut])
        self._rest = data[cut:]

    def value(self) -> Any:  # noqa: ANN401
        """What it is; None as long as there is none."""
        if self._told is not None:
            value = _decoded(bytes(self._told))
            self._value, self._told = self._value if value is None else value, None
        return self._value

    def _begin(self, told: bytes) -> None:
        self.value()
        self._told = bytearray(told)
        self._names += 1

    def _pass(self, plain: bytes) -> None:
        """Nothing is looked for in this; it has no escapes."""
        pieces = plain.translate(None, _TEXT).split(b'"')
        outside = b"".join(pieces[int(self._inside) :: 2])
        self._depth += outside.count(b"{") + outside.count(b"[")
        self._depth -= outside.count(b"}") + outside.count(b"]")
        self._inside ^= len(pieces) % 2 == 0


def _between_escapes(data: bytes, cut: int) -> int:
    """Where to cut it, there or one byte before: the next byte is not one that is escaped."""
    before = data[:cut]
    return cut - (len(before) - len(before.rstrip(b"\\"))) % 2


def _decoded(told: bytes) -> Any:  # noqa: ANN401
    """The value after a colon; None without one: it was no name."""
    text = told.decode("utf-8", "replace").lstrip()
    if not text.startswith(":"):
        return None
    try:
        return JSONDecoder().raw_decode(text[1:].lstrip())[0]
    except (ValueError, RecursionError):
        return None
