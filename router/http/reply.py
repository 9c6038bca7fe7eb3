"""What the beginning of an answer says, whichever client it came to."""

from __future__ import annotations

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
# What is left out of an answer with nothing unusual about it; of one with a body its length is not.
_LEFT_OUT = HOP_BY_HOP | _NOT_RETURNED
_LEFT_OUT_OF_BODIES = _LEFT_OUT - {b"content-length"}
_NO_BODY = frozenset((204, 304))
_USUAL = frozenset((b"close", b"keep-alive"))


def hop_by_hop(headers: Headers) -> frozenset[bytes]:
    """Names of headers that stay behind: of them all, and those that ``Connection`` names."""
    found = HOP_BY_HOP
    for name, value in headers:
        if name == b"connection" and value not in _USUAL:
            found = found.union(part.strip().lower() for part in value.split(b","))
    return found


class ReplyHead:
    """Status and headers, names in lower case, as far as they are for the client.

    Attributes:
        is_stream: whether server-sent events are coming.
    """

    def __init__(self, status: int, headers: Headers) -> None:
        self.status = status
        left_out = _LEFT_OUT if status in _NO_BODY else _LEFT_OUT_OF_BODIES
        hops = hop_by_hop(headers)
        if hops is not HOP_BY_HOP:
            left_out = left_out | (hops - {b"content-length"})
        self.headers: Headers = [pair for pair in headers if pair[0] not in left_out]
        kind = self.header(b"content-type") or b""
        self.is_stream = kind.partition(b";")[0].strip().lower() == b"text/event-stream"
        if self.is_stream:  # it may get an error event more
            self.headers = [pair for pair in self.headers if pair[0] != b"content-length"]

    @property
    def is_compressed(self) -> bool:
        """Whether it is, though nobody has asked for that: nothing of it can be read."""
        return (self.header(b"content-encoding") or b"identity").lower() != b"identity"

    def with_own(self, own: Headers) -> Headers:
        """Its headers with others' in their place: of limits it tells none beside the gateway's."""
        names = {name for name, _ in own}
        kept = [pair for pair in self.headers if pair[0] not in names]
        if b"\n" + LIMITS in b"\n".join((b"", *names)):
            kept = [pair for pair in kept if not pair[0].startswith(LIMITS)]
        return kept + own

    def header(self, name: bytes) -> bytes | None:
        """The first header of that name (lower case)."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def has(self, header: bytes) -> bool:
        """Whether it carries a header of that name."""
        return self.header(header) is not None

    def retry_after(self, seconds: float) -> None:
        """Tell when to come back, unless the worker did."""
        if not self.has(b"retry-after"):
            self.headers.append(retry_after(seconds))
