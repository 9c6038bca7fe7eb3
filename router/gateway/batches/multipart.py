"""A form as it comes (RFC 7578): each part's bytes pass on, and no body is ever held as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import NoReturn

from router.http.errors import RequestError

MOST_HEAD = 8 << 10  # bytes of a part's head
MOST_PARTS = 32
_BOUNDARY = re.compile(
    r'multipart/form-data\s*;.*?\bboundary=(?:"([^"]{1,70})"|([^;\s]{1,70}))', re.IGNORECASE
)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A field; `filename` None: it is no file."""

    name: str
    filename: str | None


def boundary_of(content_type: str) -> bytes:
    """What parts a form's fields.

    Raises:
        RequestError: 415 if it is no form.
    """
    found = _BOUNDARY.match(content_type.strip())
    if found is None:
        raise RequestError(
            "A file is uploaded as a form: 'content-type: multipart/form-data' with a boundary, as "
            "OpenAI's clients and `curl -F` send it.",
            code="unsupported_media_type",
            status=415,
        )
    return (found[1] or found[2]).encode("latin-1", "replace")


class Form:
    """Fed with what comes; gives back the bytes of its parts, each part at least once."""

    def __init__(self, boundary: bytes) -> None:
        self._mark = b"\r\n--" + boundary
        self._held = bytearray(b"\r\n")  # that the first mark be like all others
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
            if self._part is not None and known:
                yield self._part, bytes(self._held[:known])
            del self._held[:known]
            after = len(self._mark) + 2
            if at < 0 or len(self._held) < after:
                return
            self._begin(bytes(self._held[after - 2 : after]))
            del self._held[:after]

    def _begin(self, after: bytes) -> None:
        """What comes after a mark: one more part, or nothing."""
        if after == b"--":
            self.ended = True
            return
        self._parts += 1
        if after != b"\r\n" or self._parts > MOST_PARTS:
            _refuse("a boundary is followed by something else, or there are too many parts")
        self._in_head = True

    def _head(self) -> Part | None:
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            if len(self._held) > MOST_HEAD:
                _refuse(f"the head of a part is over {MOST_HEAD} bytes")
            return None
        message = Message()
        for line in bytes(self._held[:end]).decode("utf-8", "replace").split("\r\n"):
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-disposition":
                message["content-disposition"] = value.strip()
        del self._held[: end + 4]
        named = message.get_param("name", header="content-disposition")
        if not isinstance(named, str):
            _refuse("a part has no name")
        self._in_head, self._part = False, Part(named, message.get_filename())
        return self._part


def _refuse(why: str) -> NoReturn:
    raise RequestError(f"The form is broken: {why}.", code="invalid_form")
