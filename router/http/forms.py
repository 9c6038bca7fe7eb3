"""Forms as they come (RFC 7578): each part's bytes pass on, and no body is ever held as a whole.

Rules:
- what it costs to read one is linear in its size, whatever is in it: heads and the number of parts
  are bounded, and nothing is looked for twice;
- what two readers may take for different things is refused: bytes before the first boundary or
  after the last, a parameter or a header twice, names in pieces or with escapes, a folded line,
  text in another encoding than UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import unquote

from router.http.errors import RequestError

MOST_HEAD = 8 << 10  # bytes of a part's head
MOST_PARTS = 128
FORM = "multipart/form-data"
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(
    rf';[ \t]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s";]*))[ \t]*', re.DOTALL
)
_LINE = re.compile(rf"({_TOKEN}):(.*)", re.DOTALL)
_END = b"--"
_PLAIN, _CHARSETS = frozenset(("", "7bit", "8bit", "binary")), frozenset(("utf-8", "us-ascii"))
_MOST_BOUNDARY = 70  # by RFC 2046
_SLICE = 64 << 10


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A field; `filename` None: it is no file. Its value begins `at` this byte of the form."""

    name: str
    filename: str | None
    at: int = 0


def parameters(value: str) -> tuple[str, dict[str, str]]:
    """What a header says before the first semicolon, in lower case, and its parameters by name.

    Raises:
        ValueError: if two readers may read it in two ways.
    """
    kind, semicolon, rest = value.partition(";")
    rest, at, found = (semicolon + rest).rstrip("; \t"), 0, dict[str, str]()
    while at < len(rest):
        one = _PARAMETER.match(rest, at)
        if one is None:
            raise ValueError("it is no list of parameters")
        name, quoted, plain = one.groups()
        if name.lower() in found:
            raise ValueError(f"'{name[:64]}' is there twice")
        found[name.lower()] = plain if quoted is None else quoted
        at = one.end()
    return kind.strip().lower(), found


def boundary_of(content_type: bytes | None) -> bytes | None:
    """What parts a form's fields; None: it is no form.

    Raises:
        RequestError: if nobody can tell.
    """
    told = (content_type or b"").decode("latin-1")
    if not told.strip().lower().startswith(FORM):
        return None
    try:
        _, found = parameters(told)
    except ValueError as error:
        _refuse(f"its 'content-type' cannot be read: {error}")
    if found.get("charset", "utf-8").lower() not in _CHARSETS:
        _refuse("its text must be UTF-8")
    boundary = found.get("boundary", "")
    if not 0 < len(boundary) <= _MOST_BOUNDARY or "\\" in boundary:
        _refuse(f"its 'content-type' needs a boundary of at most {_MOST_BOUNDARY} characters")
    return boundary.encode("latin-1")


class Form:
    """Fed with what comes; gives back the bytes of its parts, each part at least once.

    Attributes:
        ended: its last boundary has come.
    """

    def __init__(self, boundary: bytes) -> None:
        self._mark = b"\r\n--" + boundary
        self._held = bytearray(b"\r\n")  # that the first mark be like all others
        self._read = -2  # bytes of the form before those
        self._part: Part | None = None
        self._in_head, self._parts, self.ended = False, 0, False

    def feed(self, data: bytes) -> Iterator[tuple[Part, bytes]]:
        """More has come.

        Raises:
            RequestError: if it is no form.
        """
        self._held += data
        while not self.ended:
            if self._in_head:
                part = self._head()
                if part is None:
                    return
                yield part, b""
                continue
            at = self._held.find(self._mark)
            known = at if at >= 0 else max(0, len(self._held) - len(self._mark) + 1)
            if known and self._part is None:
                _refuse("something stands before its first boundary")
            if self._part is not None and known:
                yield self._part, bytes(self._held[:known])
            self._drop(known)
            after = len(self._mark) + 2
            if at < 0 or len(self._held) < after:
                return
            self._begin(bytes(self._held[after - 2 : after]))
            self._drop(after)
        if bytes(self._held[:3]) not in (b"", b"\r", b"\r\n"):
            _refuse("something stands after its last boundary")

    def _drop(self, count: int) -> None:
        del self._held[:count]
        self._read += count

    def _begin(self, after: bytes) -> None:
        """What comes after a mark: one more part, or nothing."""
        if after == _END:
            self.ended = True
            return
        self._parts += 1
        if after != b"\r\n":
            _refuse("a boundary is followed by something else")
        if self._parts > MOST_PARTS:
            _refuse(f"there are over {MOST_PARTS} parts")
        self._in_head = True

    def _head(self) -> Part | None:
        end = self._held.find(b"\r\n\r\n", 0, MOST_HEAD + 4)
        if end < 0:
            if len(self._held) >= MOST_HEAD + 4:
                _refuse(f"the head of a part is over {MOST_HEAD} bytes")
            return None
        told = _disposition(bytes(self._held[:end]).decode("utf-8", "replace"))
        self._drop(end + 4)
        self._in_head, self._part = False, Part(*told, self._read)
        return self._part


def _disposition(head: str) -> tuple[str, str | None]:
    """Name and file name of a part."""
    told = dict[str, str]()
    for line in head.split("\r\n"):
        found = _LINE.fullmatch(line)
        if found is None or "\r" in line or "\n" in line or "\0" in line:
            _refuse("the head of a part has a line that is no header")
        if found[1].lower() in told:
            _refuse(f"the head of a part has '{found[1][:64]}' twice")
        told[found[1].lower()] = found[2].strip()
    if told.get("content-transfer-encoding", "").lower() not in _PLAIN:
        _refuse("a part does not come as it is ('content-transfer-encoding')")
    try:
        _, found_in = parameters(told.get("content-disposition", ""))
    except ValueError as error:
        _refuse(f"the head of a part cannot be read: {error}")
    name = found_in.get("name")
    if name is None or "\\" in name or any(one.startswith("name*") for one in found_in):
        _refuse("a part has no name, or one in pieces, or with a backslash")
    return name, _filename(found_in)


def _filename(found: dict[str, str]) -> str | None:
    extended = found.get("filename*")
    if extended is not None:  # charset'language'text (RFC 8187), of which UTF-8 is the usual one
        return unquote(extended.rpartition("'")[2], errors="replace")
    name = found.get("filename")
    return None if name is None else re.sub(r"\\(.)", r"\1", name)


def field_at(body: bytes, boundary: bytes, name: str) -> tuple[int, int] | None:
    """From where to where in a form the value of a field is; None: it has none of that name.

    Raises:
        RequestError: if it is no form, or has it more than once.
    """
    form, found = Form(boundary), dict[Part, int]()
    for start in range(0, len(body), _SLICE):
        for part, data in form.feed(body[start : start + _SLICE]):
            if part.name == name:
                found[part] = found.get(part, 0) + len(data)
    if not form.ended:
        _refuse("its end is missing")
    if len(found) > 1:
        _refuse(f"'{name}' is there more than once")
    return next(((part.at, part.at + size) for part, size in found.items()), None)


def _refuse(why: str) -> NoReturn:
    raise RequestError(f"The form is broken: {why}.", code="invalid_form")
