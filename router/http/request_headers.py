"""What a request's headers say of its urgency and its owner, to gateways and agents alike."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from router.http.asgi import Scope, header
from router.http.errors import RequestError
from router.wire import DEADLINE_MS, PRIORITY, TENANT
from solver.batching.priority import Priority

LONGEST_TENANT = 128
LONGEST_DEADLINE_MS = 7 * 86_400_000


@dataclass(frozen=True, slots=True)
class Urgency:
    """How urgent a request is; `deadline_s` counts from its arrival."""

    priority: Priority = Priority.DEFAULT
    deadline_s: float = inf


def read_urgency(scope: Scope) -> Urgency:
    """Priority and deadline.

    Raises:
        RequestError: naming the header that is wrong.
    """
    deadline = header(scope, DEADLINE_MS)
    return Urgency(
        _priority(header(scope, PRIORITY)), inf if deadline is None else _seconds(deadline)
    )


def read_tenant(scope: Scope) -> str:
    """Whose request it is; empty if it does not say.

    Raises:
        RequestError: if the name is too long.
    """
    tenant = (header(scope, TENANT) or b"").decode("latin-1")
    if len(tenant) > LONGEST_TENANT:
        name = TENANT.decode()
        message = f"The header '{name}' must have at most {LONGEST_TENANT} characters."
        raise RequestError(message, param=name)
    return tenant


def _priority(value: bytes | None) -> Priority:
    if value is None:
        return Priority.DEFAULT
    try:
        return Priority(value.decode("latin-1").strip())
    except ValueError as error:
        name = PRIORITY.decode()
        message = f"The header '{name}' must be one of {', '.join(Priority)}."
        raise RequestError(message, param=name) from error


def _seconds(value: bytes) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number <= LONGEST_DEADLINE_MS:
        name = DEADLINE_MS.decode()
        message = f"The header '{name}' must be a number of milliseconds above 0, at most a week."
        raise RequestError(message, param=name)
    return number / 1000
