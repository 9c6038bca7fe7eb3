"""What a worker's status says: of the worker, and of what becomes of the request.

| status | the worker | the request |
| --- | --- | --- |
| 200 | serves | is answered |
| 400, 404, 413, 422 and other 4xx | serves | is at fault: that is its answer |
| 401, 403 | serves | its client's key is wrong: that is its answer |
| 429 | takes nothing until its Retry-After | goes elsewhere |
| 503 | is full, loads or shuts down | is planned again |
| 504 of a request with a deadline | serves | has expired |
| 3xx but 304 | has failed | goes elsewhere, and its client never to where that leads |
| 304, other 5xx; of what is planned other 2xx, which answer nothing | has failed | goes elsewhere |
"""

from __future__ import annotations

from enum import Enum, auto

# Without a Retry-After: the window of most rate limits is at least as long.
LIMITED_S = 1.0


class Verdict(Enum):
    """See the module."""

    ANSWER = auto()
    LIMITED = auto()
    FULL = auto()
    FAILED = auto()


def verdict(status: int, *, has_deadline: bool = False, planned: bool = False) -> Verdict:
    """What a worker's answer of this status means."""
    if planned and 200 < status < 300:
        return Verdict.FAILED
    if status == 429:
        return Verdict.LIMITED
    if status == 503:
        return Verdict.FULL
    if status == 504 and has_deadline:
        return Verdict.ANSWER
    return Verdict.FAILED if 300 <= status < 400 or status >= 500 else Verdict.ANSWER


def redirects(status: int) -> bool:
    """Whether it sends whoever asks to another place."""
    return 300 <= status < 400 and status != 304


def wait_s(retry_after: bytes | None, kind: Verdict) -> float | None:
    """For how long a worker takes nothing, as it says; None: it does not say.

    Dates are not read: they tell of clocks that may differ.
    """
    text = (retry_after or b"").strip()
    if text.isdigit():
        return float(text[:9])
    return LIMITED_S if kind is Verdict.LIMITED else None
