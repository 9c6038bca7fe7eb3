"""A head that has come before: on a kept connection, or on another by a client of the same kind.

Rules:
- known is a head that a parser has taken whole from one read, with its body and nothing else;
- one that differs from it in nothing but the digits of its body's length says the same, and is not
  parsed again, if its body has come with it and nothing else, and these digits are how anybody
  writes its length: without zeros before them;
- all else goes to the parser, which waits for the next head as if none had passed it by;
- heads that differ each time, as they carry an id, are soon not looked at any more: of a client's,
  none that follows `MOST_NEW` others; of a worker's answers one in `NEW_EVERY`, as its clock may be
  in them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from router.http.asgi import FIELDS, SAID
from router.http.errors import Headers
from router.http.reply import HeadKind

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)\r\n", re.IGNORECASE)
_LENGTH_FIELD = b"content-length"
# Of what frames a body otherwise, or wants more than an answer, nothing is known.
_UNUSUAL = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"trailer"))
_MOST_DIGITS = 9
# Heads of one connection, one after the other, that were none of those before.
MOST_NEW = 4
NEW_EVERY = 8


class SameHead:
    """What is around the digits of its body's length."""

    __slots__ = ("_after", "_before", "_digits_at", "_ends_at")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before, self._after, self._digits_at = before, after, len(before)
        self._ends_at = len(before) + _MOST_DIGITS + len(after)  # at most

    def body_of(self, data: bytes) -> bytes | None:
        """The body, if `data` is this head again, with all of its body and nothing else."""
        if not data.startswith(self._before):
            return None
        start, after = self._digits_at, self._after
        stop = data.find(after, start, self._ends_at)
        if stop < 0:
            return None
        body = data[stop + len(after) :]
        return body if data[start:stop] == b"%d" % len(body) else None


def _around(data: bytes, length: int, headers: Headers, begin: bytes) -> tuple[bytes, bytes] | None:
    """Of what came in one read, to the last byte of its body; None: it is not to be known."""
    head = data[: len(data) - length]
    lengths = list(_LENGTH.finditer(head))
    whole = head.startswith(begin) and head.find(b"\r\n\r\n") == len(head) - 4
    usual = _UNUSUAL.isdisjoint([name for name, _ in headers])
    if not (whole and usual) or len(lengths) != 1 or int(lengths[0][1]) != length:
        return None
    return head[: lengths[0].start(1)], head[lengths[0].end(1) :]


class KnownHead(SameHead):
    """Of requests.

    Attributes:
        endpoint: what answers it.
        scope: what the head says, as endpoints get it but for the body's length; each request's is
            a copy.
    """

    __slots__ = ("endpoint", "scope")

    def __init__(
        self,
        before: bytes,
        after: bytes,
        endpoint: Any,  # noqa: ANN401
        scope: Mapping[str, Any],
    ) -> None:
        super().__init__(before, after)
        headers = [pair for pair in scope["headers"] if pair[0] != _LENGTH_FIELD]
        fields = dict(reversed(headers))
        self.endpoint = endpoint
        self.scope: dict[str, Any] = {**scope, "headers": headers, FIELDS: fields, SAID: {}}

    @classmethod
    def of(
        cls,
        data: bytes,
        length: int,
        endpoint: Any,  # noqa: ANN401
        scope: Mapping[str, Any],
    ) -> KnownHead | None:
        """Of one that came in one read, with a body of this length; None: it is not to be known."""
        found = _around(data, length, scope["headers"], b"POST ")
        return None if found is None else cls(*found, endpoint, scope)


class KnownAnswer(SameHead):
    """Of a worker's answers, after which its connection may be used again.

    Attributes:
        kind: what it says.
    """

    __slots__ = ("kind",)

    def __init__(self, before: bytes, after: bytes, kind: HeadKind) -> None:
        super().__init__(before, after)
        self.kind = kind


class KnownAnswers:
    """Heads of one worker's answers.

    Attributes:
        kind: of its latest answer: the next one's is mostly that.
    """

    __slots__ = ("_known", "_new", "kind")

    def __init__(self) -> None:
        self.kind: HeadKind | None = None
        self._known: KnownAnswer | None = None
        self._new = 0  # one after the other, that were none of those before

    def find(self, data: bytes) -> tuple[HeadKind, bytes] | None:
        """What a read says, and the body in it, if it is a known head and all of its body."""
        known = self._known
        body = None if known is None else known.body_of(data)
        if known is None or body is None:
            return None
        self._new = 0
        return known.kind, body

    def note(self, data: bytes, length: int, headers: Headers, kind: HeadKind) -> None:
        """That was a whole answer, with a body of this length, in one read."""
        if self._new % NEW_EVERY == 0:
            found = _around(data, length, headers, b"HTTP/1.1 ")
            self._known = None if found is None else KnownAnswer(*found, kind)
        self._new += 1
