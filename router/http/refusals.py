"""What a connection is answered with that sends no request: in the form of all errors."""

from __future__ import annotations

from http import HTTPStatus

from router.http.errors import error_body

HEAD_BYTES = 64 << 10
MOST_FIELDS = 256
_REASONS = {
    403: "The request's host is not this machine; --allowed-hosts lets other names in.",
    400: "The request is not valid HTTP.",
    408: "The request did not come in time.",
    431: f"The request's head is over the limit of {HEAD_BYTES} bytes or {MOST_FIELDS} fields.",
}


def refusal(status: int) -> bytes:
    """All of it."""
    code = HTTPStatus(status).name.lower()
    body = error_body(_REASONS[status], "invalid_request_error", code=code)
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
