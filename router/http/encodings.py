"""Bodies that clients have compressed, as they were before: within a limit, however they come.

Many clients compress long prompts (Codex sends zstd); engines take them as they are only.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from router.http.asgi import too_large
from router.http.errors import RequestError

HEADER = b"content-encoding"
ENCODINGS = ("gzip", "zstd")
_GZIP_BITS = 31
# Of zstd's window, which its sender chooses: 32 MiB; its usual levels have 8 at most.
_WINDOW_LOG = 25
# Members or frames; clients send one, and what compresses on many cores one for each 128 KiB or so.
MOST_PARTS = 1024
SLICE = 64 << 10


def encoding_of(value: bytes | None) -> str:
    """How a body is compressed, by its header; empty if it is not.

    Raises:
        RequestError: 415 if it is in a way that nobody knows here.
    """
    name = (value or b"").decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return ""
    name = name.removeprefix("x-")
    if name not in ENCODINGS:
        raise RequestError(
            f"The request's body is compressed by '{name[:40]}' ('content-encoding'); send it as "
            f"it is, or by {' or '.join(ENCODINGS)}.",
            code="unsupported_content_encoding",
            status=415,
        )
    return name


def decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """What was compressed.

    Raises:
        RequestError: 400 if it is broken, 413 if it is more than `limit` bytes.
    """
    begin, broken = _gzip() if encoding == "gzip" else _zstd()
    try:
        found = _joined(body, limit + 1, begin)
    except (broken, EOFError) as error:
        raise RequestError(
            f"The request's body is not {encoding}, as 'content-encoding' says.",
            code="invalid_content_encoding",
        ) from error
    if len(found) > limit:
        raise too_large(limit)
    return found


class _Part(Protocol):
    """What decodes one member of gzip, or one frame of zstd."""

    @property
    def eof(self) -> bool:
        """Whether that has ended."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What came after its end."""
        ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """More of it."""
        ...


def _joined(body: bytes, most: int, begin: Callable[[], _Part]) -> bytes:
    """All parts, which may be several, up to `most` bytes.

    They get slices of the body: what one leaves over is copied, so that many small ones would cost
    the square of their number.
    """
    found, left, parts = list[bytes](), most, 0
    part: _Part | None = None
    for start in range(0, len(body), SLICE):
        data = body[start : start + SLICE]
        while data and left > 0:
            if part is None:
                part, parts = begin(), parts + 1
                if parts > MOST_PARTS:
                    raise RequestError(
                        f"The request's body was compressed in over {MOST_PARTS} parts.",
                        code="invalid_content_encoding",
                    )
            found.append(part.decompress(data, left))
            left -= len(found[-1])
            data, part = (part.unused_data, None) if part.eof else (b"", part)
    if left > 0 and (part is not None or not parts):
        raise EOFError
    return b"".join(found)


def _gzip() -> tuple[Callable[[], _Part], type[Exception]]:
    return lambda: zlib.decompressobj(_GZIP_BITS), zlib.error


def _zstd() -> tuple[Callable[[], _Part], type[Exception]]:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd  # what runs inside vLLM's environment has no need of it
    window = {int(zstd.DecompressionParameter.window_log_max): _WINDOW_LOG}
    return lambda: zstd.ZstdDecompressor(options=window), zstd.ZstdError
