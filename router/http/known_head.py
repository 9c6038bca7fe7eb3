"""A head that has come before: who keeps a connection sends the same one with each of its requests.

Rules:
- known is a head that the parser has taken whole from one read, with its body and nothing else;
- one that differs from it in nothing but the digits of its body's length says the same, and is not
  parsed again, if its body has come with it and nothing else;
- all else goes to the parser, which waits for the next request as if none had passed it by;
- whose heads differ each time, as they carry an id, is soon not looked at any more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from router.http.asgi import FIELDS, SAID

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)\r\n", re.IGNORECASE)
_LENGTH_FIELD = b"content-length"
# Of what frames a body otherwise, or wants more than an answer, nothing is known.
_UNUSUAL = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"trailer"))
_MOST_DIGITS = 9
# Heads of one connection, one after the other, that were none of those before.
MOST_NEW = 4


class KnownHead:
    """One of them.

    Attributes:
        endpoint: what answers it.
        scope: what the head says, as endpoints get it but for the body's length; each request's is
            a copy.
    """

    __slots__ = ("_after", "_before", "_digits_at", "endpoint", "scope")

    def __init__(
        self,
        before: bytes,
        after: bytes,
        endpoint: Any,  # noqa: ANN401
        scope: Mapping[str, Any],
    ) -> None:
        self._before, self._after, self._digits_at = before, after, len(before)
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
        """Of what came in one read, to the last byte of its body; None: it is not to be known."""
        head = data[: len(data) - length]
        names = [name for name, _ in scope["headers"]]
        whole = head.startswith(b"POST ") and head.find(b"\r\n\r\n") == len(head) - 4
        if not whole or names.count(_LENGTH_FIELD) != 1 or not _UNUSUAL.isdisjoint(names):
            return None
        lengths = list(_LENGTH.finditer(head))
        if len(lengths) != 1 or int(lengths[0][1]) != length:
            return None
        return cls(head[: lengths[0].start(1)], head[lengths[0].end(1) :], endpoint, scope)

    def body_of(self, data: bytes) -> bytes | None:
        """The body, if `data` is this head again, with all of its body and nothing else."""
        if not data.startswith(self._before):
            return None
        start = self._digits_at
        stop = data.find(b"\r", start, start + _MOST_DIGITS + 1)
        digits = data[start:stop]
        if not (digits.isdigit() and data.startswith(self._after, stop)):
            return None
        body = data[stop + len(self._after) :]
        return body if len(body) == int(digits) else None
