"""Bodies that clients have compressed, as they were before: within a limit, however they come.

Many clients compress long prompts (Codex sends zstd); engines take them as they are only.
"""

from __future__ import annotations

import sys
import zlib

from router.http.asgi import too_large
from router.http.errors import RequestError

HEADER = b"content-encoding"
ENCODINGS = ("gzip", "zstd")
_GZIP_BITS = 31
# Of zstd's window, which its sender chooses: 32 MiB; its usual levels have 8 at most.
_WINDOW_LOG = 25


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
    try:
        found = (_gunzipped if encoding == "gzip" else _unzstandard)(body, limit + 1)
    except (zlib.error, EOFError) as error:
        raise RequestError(
            f"The request's body is not {encoding}, as 'content-encoding' says.",
            code="invalid_content_encoding",
        ) from error
    if len(found) > limit:
        raise too_large(limit)
    return found


def _gunzipped(body: bytes, most: int) -> bytes:
    """All members, which may be several."""
    parts, left = list[bytes](), most
    while body and left > 0:
        member = zlib.decompressobj(_GZIP_BITS)
        parts.append(member.decompress(body, left))
        left -= len(parts[-1])
        if not member.eof and left > 0:
            raise EOFError
        body = member.unused_data
    if not parts:
        raise EOFError
    return b"".join(parts)


def _unzstandard(body: bytes, most: int) -> bytes:
    """All frames, which may be several."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd  # what runs inside vLLM's environment has no need of it
    window = {int(zstd.DecompressionParameter.window_log_max): _WINDOW_LOG}
    parts, left = list[bytes](), most
    while body and left > 0:
        frame = zstd.ZstdDecompressor(options=window)
        try:
            parts.append(frame.decompress(body, left))
        except zstd.ZstdError as error:
            raise EOFError from error
        left -= len(parts[-1])
        if not frame.eof and left > 0:
            raise EOFError
        body = frame.unused_data if frame.eof else b""
    if not parts:
        raise EOFError
    return b"".join(parts)
