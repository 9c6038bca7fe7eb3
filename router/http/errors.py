"""Outcomes and errors, and the one place that turns them into HTTP.

RouterError
├── RequestError            the request itself is wrong: 400, 404, 405, 413
│   ├── ModelNotFoundError  nobody serves its model: 404
│   ├── UnauthorizedError   it has no key that is known: 401
│   └── ForbiddenError      its key does not allow it: 403
├── OverLimitError          its key has had its minute's requests or tokens: 429 with Retry-After
├── NoCapacityError         nobody can take it now: 503 with Retry-After
│   ├── NoMemoryError       this process has no memory for it: 503
│   ├── OutOfReachError     it certainly misses a target, and is shed: 503
│   └── WorkerFullError     an agent that several gateways fill: it is planned again
├── ExpiredError            its deadline passed before work on it began: 504
├── RecalledError           the gateway took it back from an agent, which says so to it: 503
└── WorkerError             the worker that had it failed: 502
    ├── WorkerUnreachable   before it answered: the request may be tried elsewhere
    │   ├── WorkerUnconnected   no connection came about: nothing of the request has been sent
    │   │   ├── WorkerRefused   nobody listens there
    │   │   └── Cramped         this process itself has no room for one
    │   └── WorkerBusy      it is full, or takes nothing for a while
    ├── WorkerFailed        in the middle of its answer
    └── EngineFailed        at an agent: its engine has broken down, and the request with it

Every request ends in exactly one `Outcome`.
"""

from __future__ import annotations

from enum import StrEnum
from math import ceil, inf
from typing import Any, Self

import orjson

from router.wire import FULL

Headers = list[tuple[bytes, bytes]]

# Of a text that goes into answers, log lines or what is remembered of a request, so much is kept:
# part of it may be what a client or a worker has sent.
LONGEST_TEXT = 500


def shortened(text: str) -> str:
    """At most `LONGEST_TEXT` characters of it, the first and the last."""
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]} … {text[-half:]}"


class Outcome(StrEnum):
    """How a request ended; label of ``requests_total``.

    `RECALLED` is how one ends at an agent that the gateway has taken it back from; it goes on at
    another one.
    """

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    REJECTED_INVALID = "rejected_invalid"
    REJECTED_UNAUTHORIZED = "rejected_unauthorized"
    REJECTED_OVER_SHARE = "rejected_over_share"
    REJECTED_NO_CAPACITY = "rejected_no_capacity"
    EXPIRED = "expired"
    RECALLED = "recalled"
    FAILED = "failed"


_EXACT = {
    401: Outcome.REJECTED_UNAUTHORIZED,
    403: Outcome.REJECTED_UNAUTHORIZED,
    429: Outcome.REJECTED_OVER_SHARE,
    503: Outcome.REJECTED_NO_CAPACITY,
    504: Outcome.EXPIRED,
}


def outcome_of_status(status: int) -> Outcome:
    """The outcome of a request that a worker answered with `status`."""
    if status < 300:
        return Outcome.COMPLETED
    if status < 400:
        return Outcome.FAILED  # a redirect is no answer
    return _EXACT.get(status, Outcome.REJECTED_INVALID if status < 500 else Outcome.FAILED)


class RouterError(Exception):
    """Base of everything that ends a request early; knows its HTTP answer.

    Attributes:
        param: the request field to blame, if one is.
        code: machine-readable detail, as OpenAI's clients expect it.
    """

    status = 500
    type = "server_error"
    outcome = Outcome.FAILED

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(shortened(message))
        self.param, self.code = param, code

    def body(self) -> bytes:
        """OpenAI's error object."""
        return error_body(str(self), self.type, self.param, self.code)

    def headers(self) -> Headers:
        """Headers of the error response."""
        return [(b"content-type", b"application/json")]


class RequestError(RouterError):
    """The request itself is wrong."""

    status = 400
    type = "invalid_request_error"
    outcome = Outcome.REJECTED_INVALID

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status


class ModelNotFoundError(RequestError):
    """No worker serves the model."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model '{model}' does not exist; GET /v1/models lists those that do.",
            param="model",
            code="model_not_found",
            status=404,
        )


class UnauthorizedError(RequestError):
    """It has no key, or none that is known; `browser`: whoever asks may be asked for one."""

    outcome = Outcome.REJECTED_UNAUTHORIZED

    def __init__(self, *, given: bool, browser: bool = False) -> None:
        what = "This key is not known here" if given else "This gateway wants a key"
        super().__init__(
            f"{what}: send one that its operator has given you, as 'Authorization: Bearer KEY' or "
            "'x-api-key: KEY'.",
            code="invalid_api_key",
            status=401,
        )
        self._challenge = b'Basic realm="Makespan"' if browser else b"Bearer"

    def headers(self) -> Headers:
        """With what to answer by; browsers ask people for a password, which is the key."""
        return [*super().headers(), (b"www-authenticate", self._challenge)]


class ForbiddenError(RequestError):
    """Its key does not allow what it asks for."""

    outcome = Outcome.REJECTED_UNAUTHORIZED

    def __init__(self, message: str, *, param: str | None = None, code: str) -> None:
        super().__init__(message, param=param, code=code, status=403)


class OverLimitError(RouterError):
    """Its key has not enough of its `what`, requests or tokens, left in this minute."""

    status = 429
    outcome = Outcome.REJECTED_OVER_SHARE

    def __init__(
        self, what: str, limit: float, left: float, asked: float, retry_after_s: float
    ) -> None:
        super().__init__(
            f"This key may have {limit:g} {what} a minute; {left:.0f} are left, and this request "
            f"may take {asked:.0f}. Come again in {max(1, ceil(retry_after_s))} s.",
            code="rate_limit_exceeded",
        )
        self.type, self.retry_after_s = what, retry_after_s

    def headers(self) -> Headers:
        """With ``Retry-After`` in whole seconds, at least 1."""
        return [*super().headers(), retry_after(self.retry_after_s)]


class NoCapacityError(RouterError):
    """Nobody can take the request now; `retry_after_s` says when somebody may."""

    status = 503
    type = "server_error"
    outcome = Outcome.REJECTED_NO_CAPACITY

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message, code="server_is_overloaded")
        self.retry_after_s = retry_after_s

    def headers(self) -> Headers:
        """With ``Retry-After`` in whole seconds, at least 1."""
        return [*super().headers(), retry_after(self.retry_after_s)]


class NoMemoryError(NoCapacityError):
    """This process has no memory for it, which says nothing of the request."""

    def __init__(self) -> None:
        super().__init__("There is no memory for this request now.", 1.0)


# When to come back where nothing but another worker would help: new ones take a minute to start.
OUT_OF_REACH_S = 60.0


class OutOfReachError(NoCapacityError):
    """The request certainly misses a target; `retry_after_s` infinite: sent anew it would, too."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message, OUT_OF_REACH_S if retry_after_s == inf else retry_after_s)
        self.code, self._ever = "target_out_of_reach", retry_after_s != inf

    def headers(self) -> Headers:
        """OpenAI's clients try again by themselves unless they are told that it is of no use."""
        return [*super().headers(), *([] if self._ever else [(b"x-should-retry", b"false")])]


class WorkerFullError(NoCapacityError):
    """An agent has all that it can start soon, from several gateways; says so to this one."""

    def __init__(self) -> None:
        super().__init__("This worker's slots are taken, by other gateways, too.", 1.0)

    def headers(self) -> Headers:
        """With the word that it is to be planned again."""
        return [*super().headers(), (FULL, b"1")]


class ExpiredError(RouterError):
    """The deadline passed before work on the request began."""

    status = 504
    type = "server_error"
    outcome = Outcome.EXPIRED

    def __init__(self) -> None:
        super().__init__(
            "The request's deadline passed before work on it began.", code="deadline_exceeded"
        )


class RecalledError(RouterError):
    """A gateway has taken the request back before work on it began."""

    status = 503
    type = "server_error"
    outcome = Outcome.RECALLED

    def __init__(self) -> None:
        super().__init__("The gateway has taken this request back.", code="recalled")


class WorkerError(RouterError):
    """The worker that had the request failed; `reason`: what is wrong with it, if that is known."""

    status = 502
    type = "server_error"
    outcome = Outcome.FAILED

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message, code="worker_failed")
        self.reason = reason or str(self)


class WorkerUnreachable(WorkerError):
    """No answer began: the request may be tried elsewhere; `why` in a word, for metrics.

    `untouched`: the worker has not begun with it: if nobody else takes it, capacity lacks.
    """

    untouched = False

    def __init__(self, message: str, why: str = "unreachable", reason: str = "") -> None:
        super().__init__(message, reason)
        self.why = why

    @classmethod
    def of(cls, worker: str, reason: str) -> Self:
        """That a worker of this name has not answered."""
        return cls(f"The worker {worker} has not answered: {reason}.", reason=reason)


class WorkerUnconnected(WorkerUnreachable):
    """No connection to it came about, or not in time."""

    untouched = True


class WorkerRefused(WorkerUnconnected):
    """Nobody listens at its address."""


class Cramped(WorkerUnconnected):
    """Whoever it would have led to: this process may open no more files, or has no port left."""


class WorkerBusy(WorkerUnreachable):
    """It takes nothing for the moment, which is no failure."""

    untouched = True


class WorkerFailed(WorkerError):
    """The answer broke off in the middle."""


class EngineFailed(WorkerError):
    """The engine has broken down; every request that it had ends so."""

    def __init__(self) -> None:
        super().__init__("The worker's engine has broken down.")


def retry_after(seconds: float) -> tuple[bytes, bytes]:
    """The header, in whole seconds, at least 1."""
    return b"retry-after", str(max(1, ceil(seconds))).encode()


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """OpenAI's error object as JSON."""
    error: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
    return orjson.dumps({"error": error})


def sse_error(error: RouterError) -> bytes:
    """The error as one more event of a stream that has begun, perhaps broken within an event."""
    return b"\n\ndata: " + error.body() + b"\n\n"
