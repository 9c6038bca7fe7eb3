"""What the beginning of an answer says, whichever client it came to."""

from __future__ import annotations

from operator import itemgetter

from router.http.errors import Headers, retry_after

# Meant for one connection only (RFC 9110 section 7.6.1), or set anew for the next one.
HOP_BY_HOP = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect",
    )
)  # fmt: skip
LIMITS = b"x-ratelimit-"
_NOT_RETURNED = frozenset((b"server", b"date"))
_LEFT_OUT = HOP_BY_HOP | _NOT_RETURNED
_LENGTH, _NAME = b"content-length", itemgetter(0)
MOST_BESIDE = 16  # sets of names, of which there are a few
_NO_BODY = frozenset((204, 304))
_USUAL = frozenset((b"close", b"keep-alive"))


def hop_by_hop(headers: Headers) -> frozenset[bytes]:
    """Names of headers that stay behind: of them all, and those that ``Connection`` names."""
    found = HOP_BY_HOP
    for name, value in headers:
        if name == b"connection" and value not in _USUAL:
            found = found.union(part.strip().lower() for part in value.split(b","))
    return found


class HeadKind:
    """What is alike in answers' heads of one status and the same headers, but for a body's length.

    Attributes:
        headers: those that are for the client, names in lower case.
        is_stream: whether server-sent events are coming.
        is_compressed: whether it is, though nobody has asked for that: nothing of it can be read.
        tells_length: whether the client hears of its body's length.
        ends_itself: whether its end shows without a length.
    """

    __slots__ = (
        "_beside", "_told", "ends_itself", "headers", "is_compressed", "is_stream", "status",
        "tells_length",
    )  # fmt: skip

    def __init__(self, status: int, told: Headers) -> None:
        self.status, self._told = status, told
        hops = hop_by_hop(told)
        left_out = _LEFT_OUT if hops is HOP_BY_HOP else _LEFT_OUT | hops
        found = dict(reversed(told))
        kind = found.get(b"content-type", b"")
        self.headers = [pair for pair in told if pair[0] not in left_out]
        self.is_stream = kind.partition(b";")[0].strip().lower() == b"text/event-stream"
        self.is_compressed = found.get(b"content-encoding", b"identity").lower() != b"identity"
        # A stream may get an error event more.
        self.tells_length = status not in _NO_BODY and not self.is_stream
        self.ends_itself = status in _NO_BODY or b"transfer-encoding" in found
        self._beside: dict[tuple[bytes, ...], Headers] = {}

    def is_of(self, status: int, told: Headers) -> bool:
        """Whether a head is of this kind."""
        return status == self.status and told == self._told

    def beside(self, names: tuple[bytes, ...]) -> Headers:
        """Its headers beside others of these names: of limits, none beside the gateway's."""
        kept = self._beside.get(names)
        if kept is None:
            limits = any(name.startswith(LIMITS) for name in names)
            kept = [
                pair
                for pair in self.headers
                if pair[0] not in names and not (limits and pair[0].startswith(LIMITS))
            ]
            if len(self._beside) >= MOST_BESIDE:
                self._beside.clear()
            self._beside[names] = kept
        return kept


class ReplyHead:
    """Status and headers, as far as they are for the client; `length`: the body's, if it tells."""

    def __init__(self, kind: HeadKind, length: bytes | None) -> None:
        self.status, self.is_stream, self._kind = kind.status, kind.is_stream, kind
        told = length is not None and kind.tells_length
        self._more: Headers = [(_LENGTH, length)] if told and length is not None else []

    @property
    def headers(self) -> Headers:
        """Names in lower case."""
        return self._kind.headers + self._more

    @property
    def is_compressed(self) -> bool:
        """Whether it is, though nobody has asked for that: nothing of it can be read."""
        return self._kind.is_compressed

    def with_own(self, own: Headers) -> Headers:
        """Its headers with others' in their place: of limits it tells none beside the gateway's."""
        return self._kind.beside(tuple(map(_NAME, own))) + self._more + own

    def header(self, name: bytes) -> bytes | None:
        """The first header of that name (lower case)."""
        return next((value for key, value in self.headers if key == name), None)

    def has(self, header: bytes) -> bool:
        """Whether it carries a header of that name."""
        return self.header(header) is not None

    def retry_after(self, seconds: float) -> None:
        """Tell when to come back, unless the worker did."""
        if not self.has(b"retry-after"):
            self._more.append(retry_after(seconds))
